"""Advantage actor-critic on cart-poles: settings, one update (play, look back, step), the score of
a policy.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from optex_core._validation import (
    integer,
    positive,
    reject_unknown_fields,
    short_repr,
    unit_interval,
)
from optex_core.async_sgd.models.cartpole import LIMIT, Poles
from optex_core.async_sgd.models.policy_network import PolicyNetwork
from optex_core.errors import ArgumentError, ArgumentTypeError


@reject_unknown_fields
@dataclass(frozen=True, slots=True)
class ActorCritic:
    """Settings of the n-step advantage actor-critic with RMSProp (Mnih et al. 2016, algorithm S3,
    several environments for each core).

    An update plays `steps` steps in `envs` environments, and takes the gradient of
    `PolicyNetwork.loss` over all of them::

        R_t = r_t + gamma R_{t+1},  R_t = r_t + gamma V(s_{t+1}) at the end and at step 500,  R_t = r_t where the pole falls;   A_t = R_t - V(s_t)
        g <- g min(1, clip/|g|),  m <- decay m + (1 - decay) g^2,  theta <- theta - rate_t g / (sqrt(m) + epsilon)

    The flat vector of a run is (theta, m): the mean squares m are shared by all workers, as Mnih et
    al. found best.

    Parameters
    ----------
    network : PolicyNetwork, default PolicyNetwork()
    envs : int, default 8
        Poles played at once by each core.
    steps : int, default 8
        n, steps between updates.
    rate : float, default 0.002
        Of the first update; it falls linearly to nothing at the last.
    updates : int, default 6000
        The last. Every update counts, whoever makes it.
    discount : float, default 0.99
        gamma.
    decay : float, default 0.99
    epsilon : float, default 1e-05
    clip : float, default 0.5
        Longest gradient.

    Raises
    ------
    ArgumentError, ArgumentTypeError
        If a setting cannot work.
    """

    network: PolicyNetwork = field(default_factory=PolicyNetwork)
    envs: int = 8
    steps: int = 8
    rate: float = 2e-3
    updates: int = 6000
    discount: float = 0.99
    decay: float = 0.99
    epsilon: float = 1e-5
    clip: float = 0.5

    def __post_init__(self) -> None:
        if not isinstance(self.network, PolicyNetwork):
            raise ArgumentTypeError(
                f"network must be a PolicyNetwork, got {short_repr(self.network)}"
            )
        if (self.network.inputs, self.network.actions) != (4, 2):
            raise ArgumentError(
                f"a cart-pole has 4 numbers and 2 actions, the network "
                f"{self.network.inputs} and {self.network.actions}"
            )
        for name in ("envs", "steps", "updates"):
            integer(name, getattr(self, name), low=1)
        for name in ("rate", "epsilon", "clip"):
            positive(name, getattr(self, name))
        unit_interval("discount", self.discount)
        unit_interval("decay", self.decay)

    @property
    def d(self) -> int:
        """Length of the run's vector: parameters and their mean squares."""
        return 2 * self.network.d

    def start(self, rng: int | np.random.Generator = 0) -> np.ndarray:
        """(theta, 0), shape (d,), float64."""
        theta = self.network.start(rng)
        return np.concatenate([theta, np.zeros_like(theta)])

    def rate_at(self, t: int) -> float:
        """The rate of update number t = 0, 1, ...; zero from the last on."""
        return self.rate * max(0.0, 1.0 - t / self.updates)

    def gradient(
        self, theta: np.ndarray, poles: Poles, random: np.random.Generator
    ) -> tuple[np.ndarray, Poles, list[int]]:
        """Play on with the policy `theta` and look back.

        Returns
        -------
        gradient : array, shape (network.d,)
            Clipped.
        poles : Poles
            Where the games stand now.
        lengths : list of int
            Of the episodes that ended.
        """
        n, T = len(poles.ages), self.steps
        layers = self.network.unpack(theta)
        states, after = np.empty((T, n, 4)), np.empty((T, n, 4))
        actions, fell, ended = (
            np.empty((T, n), np.int64),
            np.empty((T, n), bool),
            np.empty((T, n), bool),
        )
        lengths: list[int] = []
        for t in range(T):
            states[t] = poles.states
            logits, _ = self.network.forward(layers, poles.states)
            # The largest of logits + Gumbel noise is a draw from their softmax.
            actions[t] = np.argmax(
                logits - np.log(random.standard_exponential(logits.shape)), axis=1
            )
            poles, outcome = poles.step(actions[t], random)
            after[t], fell[t], ended[t] = outcome.states, outcome.failed, outcome.ended
            if ended[t].any():
                lengths += outcome.lengths[ended[t]].tolist()
        _, values = self.network.forward(
            layers, np.concatenate([states.reshape(-1, 4), after.reshape(-1, 4)])
        )
        now, then = values.reshape(2, T, n)
        returns = np.empty((T, n))
        following = then[-1]
        for t in reversed(range(T)):
            following = np.where(fell[t], 0.0, np.where(ended[t], then[t], following))
            following = returns[t] = 1.0 + self.discount * following
        flat = returns.ravel()
        _, g = self.network.loss(
            theta, states.reshape(-1, 4), actions.ravel(), flat, flat - now.ravel()
        )
        norm = np.sqrt(g @ g)
        if norm > self.clip:
            g *= self.clip / norm
        return g, poles, lengths

    def score(
        self, v: np.ndarray, episodes: int = 100, rng: int = 0, *, greedy: bool = True
    ) -> np.ndarray:
        """Lengths of `episodes` fresh episodes (at most 500), played with the most probable action,
        or with drawn ones; shape (episodes,), int64.
        """
        random = np.random.default_rng(rng)
        layers = self.network.unpack(np.asarray(v, float)[: self.network.d])
        poles = Poles.fresh(integer("episodes", episodes, low=1), random)
        lengths = np.zeros(episodes, np.int64)
        for _ in range(LIMIT):
            logits, _ = self.network.forward(layers, poles.states)
            noise = 0.0 if greedy else -np.log(random.standard_exponential(logits.shape))
            poles, outcome = poles.step(np.argmax(logits + noise, axis=1), random)
            first = outcome.ended & (lengths == 0)
            lengths[first] = outcome.lengths[first]
            if lengths.all():
                break
        return lengths
