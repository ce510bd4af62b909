"""Actor-critic: learn to play with two-level asynchronous SGD, on `ox.async_sgd`.

Run it in the folder above::

    python -m actor_critic --quick              200 steps by two worker processes; seconds
    python -m actor_critic                      6,000 steps: poles stand for 500 of 500 moves
    python -m actor_critic --env Acrobot-v1     any environment of gymnasium with discrete actions
    python -m actor_critic --workers 1 --cores 1 --inner-steps 1    the serial algorithm

From Python; ``workers=4`` would take four processes:

>>> from actor_critic import ActorCritic, train_policy
>>> trained = train_policy(ActorCritic(steps=40), parallelism=2, rng=1)
>>> trained.master.counts["gradients"], 1 <= trained.score(episodes=5) <= 500
(40, True)

An environment of your own is a class with gymnasium's `reset` and `step`; gymnasium itself is not
needed:

>>> import numpy as np
>>> class Coin:
...     class action_space: n = 2
...     class observation_space: shape = (1,)
...     def reset(self, seed=None):
...         self.random = np.random.default_rng(seed) if seed is not None else self.random
...         self.side = int(self.random.integers(2))
...         return np.array([2.0 * self.side - 1.0]), {}
...     def step(self, action):
...         return np.zeros(1), float(action == self.side), True, False, {}
>>> train_policy(ActorCritic(env=Coin, steps=100), parallelism=1).score()
1.0

How it uses `ox.async_sgd`:

* ``training.py``: `ActorBurst` has ``spawn(worker, seed)``, so every worker gets games of its own,
  which continue from burst to burst. Its push is affine in (theta, m). `train_policy` hands it to
  `async_sgd.run`.
* ``environments.py``: any environment with gymnasium's interface. ``cartpole.py``: the pole, many
  in one array operation. ``network.py``: the policy and its gradient.
"""

from actor_critic.cartpole import NumpyCartPoles
from actor_critic.environments import EnvironmentList, make_environments
from actor_critic.training import ActorBurst, ActorCritic, train_policy

__all__ = [
    "ActorBurst", "ActorCritic", "EnvironmentList", "NumpyCartPoles", "make_environments",
    "train_policy",
]  # fmt: skip
