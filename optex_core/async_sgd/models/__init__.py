"""What two-level asynchronous SGD was made for: topic models (stochastic variational inference) and actor-critic, each as pure bursts."""
