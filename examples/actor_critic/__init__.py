"""Actor-critic: balance a pole with two-level asynchronous SGD, on `ox.async_sgd`.

Run it in the folder above::

    python -m actor_critic --quick      200 updates by two worker processes; seconds
    python -m actor_critic              6,000 updates: the poles stand for 500 of 500 steps
    python -m actor_critic --workers 1 --cores 1 --inner-steps 1    the serial algorithm

From Python; ``workers=4`` would take four processes:

>>> from actor_critic import ActorCritic, train_policy
>>> trained = train_policy(ActorCritic(updates=40), parallelism=2, rng=1)
>>> trained.master.counts["gradients"], 1 <= trained.score(episodes=5) <= 500
(40, True)

How it uses `ox.async_sgd`:

* ``training.py``: `ActorBurst` has ``spawn(worker, seed)``, so every worker gets games of its own,
  which continue from burst to burst. Its push is affine in (theta, m). `train_policy` hands it to
  `async_sgd.run`.
* ``cartpole.py``: gymnasium's CartPole-v1 where gymnasium is installed, else the same in NumPy.
  ``network.py``: the policy and its gradient.

Notes
-----
Measured on two cores, five seeds, 6,000 updates: 500 of 500 steps over 100 episodes (solved: 475)
in all fifteen runs, serial, eight asynchronous processes, and four with two cores each. With
actions drawn as in training: 465 to 500.
"""

from actor_critic.training import ActorBurst, ActorCritic, train_policy

__all__ = ["ActorBurst", "ActorCritic", "train_policy"]
