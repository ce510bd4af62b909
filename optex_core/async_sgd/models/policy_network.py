"""A network with two heads, action probabilities and value, and its gradient written by hand;
parameters are one flat vector.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from optex_core._validation import integer, nonnegative, reject_unknown_fields, short_repr
from optex_core.errors import ArgumentError


@reject_unknown_fields
@dataclass(frozen=True, slots=True)
class PolicyNetwork:
    """``h1 = tanh(s W1 + b1), h2 = tanh(h1 W2 + b2), logits = h2 Wp + bp, value = h2 Wv + bv``.

    Parameters
    ----------
    inputs : int, default 4
        Numbers in a state.
    actions : int, default 2
    hidden : int, default 64
        Units in each of the two layers.
    entropy : float, default 0.005
        Weight of the policy's entropy in the loss.
    critic : float, default 0.5
        Weight of the squared error of the value.
    """

    inputs: int = 4
    actions: int = 2
    hidden: int = 64
    entropy: float = 0.005
    critic: float = 0.5

    def __post_init__(self) -> None:
        integer("inputs", self.inputs, low=1)
        integer("actions", self.actions, low=2)
        integer("hidden", self.hidden, low=1)
        nonnegative("entropy", self.entropy)
        nonnegative("critic", self.critic)

    @property
    def shapes(self) -> tuple[tuple[int, ...], ...]:
        """Of W1, b1, W2, b2, W, b; the heads share W, whose last column is the value's."""
        heads = self.actions + 1
        return (
            (self.inputs, self.hidden),
            (self.hidden,),
            (self.hidden, self.hidden),
            (self.hidden,),
            (self.hidden, heads),
            (heads,),
        )

    @property
    def d(self) -> int:
        """The number of parameters."""
        return sum(int(np.prod(shape)) for shape in self.shapes)

    def start(self, rng: int | np.random.Generator = 0) -> np.ndarray:
        """Weights N(0, 1/inputs of the layer), biases zero; those of the policy a hundredth, so
        that it begins undecided. Shape (d,), float64.
        """
        random = np.random.default_rng(rng)
        parts = [
            random.standard_normal(s) / np.sqrt(s[0]) if len(s) == 2 else np.zeros(s)
            for s in self.shapes
        ]
        parts[4][:, :-1] *= 0.01
        return np.concatenate([part.ravel() for part in parts])

    def unpack(self, theta: np.ndarray) -> list[np.ndarray]:
        """Views of the flat vector in `shapes`."""
        if theta.shape != (self.d,):
            raise ArgumentError(f"this network has {self.d} parameters, got {short_repr(theta)}")
        found, low = [], 0
        for shape in self.shapes:
            size = int(np.prod(shape))
            found.append(theta[low : low + size].reshape(shape))
            low += size
        return found

    def forward(
        self, layers: list[np.ndarray], states: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """(logits (n, actions), values (n,)) of unpacked parameters."""
        W1, b1, W2, b2, W, b = layers
        out = np.tanh(np.tanh(states @ W1 + b1) @ W2 + b2) @ W + b
        return out[:, :-1], out[:, -1]

    def loss(
        self,
        theta: np.ndarray,
        states: np.ndarray,
        actions: np.ndarray,
        returns: np.ndarray,
        advantages: np.ndarray,
    ) -> tuple[float, np.ndarray]:
        """Value and gradient of the actor-critic loss over n states.

        With pi the softmax of the logits and H its entropy (Mnih et al. 2016, section 4 and
        algorithm S3; A held constant)::

            L = mean( -A log pi(a|s) - entropy H(pi(s)) + critic/2 (R - V(s))^2 )

        Parameters
        ----------
        theta : array, shape (d,), float64
        states : array, shape (n, inputs)
        actions : array, shape (n,), int
        returns, advantages : array, shape (n,)
            R and A.

        Returns
        -------
        value : float
        gradient : array, shape (d,), float64
        """
        W1, b1, W2, b2, W, b = self.unpack(theta)
        n = len(states)
        h1 = np.tanh(states @ W1 + b1)
        h2 = np.tanh(h1 @ W2 + b2)
        out = h2 @ W + b
        logits, error = out[:, :-1], out[:, -1] - returns
        log_pi = logits - logits.max(axis=1, keepdims=True)
        log_pi -= np.log(np.exp(log_pi).sum(axis=1, keepdims=True))
        pi = np.exp(log_pi)
        H = -(pi * log_pi).sum(axis=1)
        rows = np.arange(n)
        value = (
            -advantages @ log_pi[rows, actions]
            - self.entropy * H.sum()
            + 0.5 * self.critic * (error @ error)
        ) / n
        # d(-A log pi_a)/dlogit_j = A (pi_j - [j = a]);  d(-H)/dlogit_j = pi_j (log pi_j + H)
        back = np.empty_like(out)
        back[:, :-1] = advantages[:, None] * pi + self.entropy * pi * (log_pi + H[:, None])
        back[rows, actions] -= advantages
        back[:, -1] = self.critic * error
        back /= n
        back2 = (back @ W.T) * (1.0 - h2 * h2)
        back1 = (back2 @ W2.T) * (1.0 - h1 * h1)
        parts = (
            states.T @ back1,
            back1.sum(0),
            h1.T @ back2,
            back2.sum(0),
            h2.T @ back,
            back.sum(0),
        )
        return float(value), np.concatenate([part.ravel() for part in parts])
