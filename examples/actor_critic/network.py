"""A network with two heads, action probabilities and value; its parameters are one flat vector."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True, slots=True)
class PolicyNetwork:
    """``h1 = tanh(s W1 + b1), h2 = tanh(h1 W2 + b2), logits = h2 Wp + bp, value = h2 Wv + bv``.

    Parameters
    ----------
    hidden : int, default 64
        Units in each of the two layers.
    inputs, actions : int, default 4 and 2
    entropy, critic : float, default 0.005 and 0.5
        Weights in the loss of the policy's entropy and of the squared error of the value.
    """

    hidden: int = 64
    inputs: int = 4
    actions: int = 2
    entropy: float = 0.005
    critic: float = 0.5

    @property
    def shapes(self) -> tuple[tuple[int, ...], ...]:
        """Of W1, b1, W2, b2, W, b; the heads share W, whose last column is the value's."""
        h, heads = self.hidden, self.actions + 1
        return (self.inputs, h), (h,), (h, h), (h,), (h, heads), (heads,)

    @property
    def d(self) -> int:
        """The number of parameters."""
        return sum(int(np.prod(shape)) for shape in self.shapes)

    def start(self, rng: int = 0) -> np.ndarray:
        """Weights N(0, 1/inputs of the layer), biases zero, the policy undecided; shape (d,)."""
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
            raise ValueError(f"this network has {self.d} parameters, got shape {theta.shape}")
        parts = np.split(theta, np.cumsum([int(np.prod(s)) for s in self.shapes])[:-1])
        return [part.reshape(shape) for part, shape in zip(parts, self.shapes, strict=True)]

    def forward(self, layers: Any, states: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(logits (n, actions), values (n,)) of unpacked parameters."""
        W1, b1, W2, b2, W, b = layers
        out = np.tanh(np.tanh(states @ W1 + b1) @ W2 + b2) @ W + b
        return out[:, :-1], out[:, -1]

    def loss(
        self,
        theta: np.ndarray,
        states: Any,
        actions: Any,
        returns: Any,
        advantages: Any,
        entropy: float | None = None,
    ) -> tuple[float, np.ndarray]:
        """Value and gradient of the loss over n states (Mnih et al. 2016, algorithm S3)::

            L = mean( -A log pi(a|s) - entropy H(pi(s)) + critic/2 (R - V(s))^2 )

        with pi the softmax of the logits, H its entropy, R the returns, the advantages A constant.
        `entropy` takes the place of the network's.
        """
        bonus = self.entropy if entropy is None else entropy
        W1, b1, W2, b2, W, b = self.unpack(theta)
        n, rows = len(states), np.arange(len(states))
        h1 = np.tanh(states @ W1 + b1)
        h2 = np.tanh(h1 @ W2 + b2)
        out = h2 @ W + b
        logits, error = out[:, :-1], out[:, -1] - returns
        log_pi = logits - logits.max(axis=1, keepdims=True)
        log_pi -= np.log(np.exp(log_pi).sum(axis=1, keepdims=True))
        pi = np.exp(log_pi)
        H = -(pi * log_pi).sum(axis=1)
        value = -advantages @ log_pi[rows, actions] - bonus * H.sum()
        value += 0.5 * self.critic * (error @ error)
        # d(-A log pi_a)/dlogit_j = A (pi_j - [j = a]);  d(-H)/dlogit_j = pi_j (log pi_j + H)
        back = np.empty_like(out)
        back[:, :-1] = advantages[:, None] * pi + bonus * pi * (log_pi + H[:, None])
        back[rows, actions] -= advantages
        back[:, -1] = self.critic * error
        back /= n
        back2 = (back @ W.T) * (1.0 - h2 * h2)
        back1 = (back2 @ W2.T) * (1.0 - h1 * h1)
        parts = states.T @ back1, back1.sum(0), h1.T @ back2, back2.sum(0), h2.T @ back, back.sum(0)
        return float(value / n), np.concatenate([part.ravel() for part in parts])
