"""The network of the deep Q-learning study; a module of its own, so that workers can import it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

HIDDEN = 32


@dataclass(frozen=True, slots=True)
class QNetwork:
    """Q(s, .) = tanh(tanh(s A + a) B + b) C + c; the parameters are one flat vector.

    Parameters
    ----------
    inputs, actions : int
    """

    inputs: int
    actions: int

    @property
    def shapes(self) -> list[tuple[int, ...]]:
        """Of A, a, B, b, C, c."""
        h = HIDDEN
        return [(self.inputs, h), (h,), (h, h), (h,), (h, self.actions), (self.actions,)]

    def start(self, seed: int) -> np.ndarray:
        """Weights N(0, 1 / inputs of the layer), biases 0."""
        rng = np.random.default_rng(seed)
        parts = [
            rng.standard_normal(s) / np.sqrt(s[0]) if len(s) == 2 else np.zeros(s)
            for s in self.shapes
        ]
        return np.concatenate([part.ravel() for part in parts])

    def unpack(self, theta: np.ndarray) -> list[np.ndarray]:
        """Views in `shapes`."""
        ends = np.cumsum([int(np.prod(s)) for s in self.shapes])[:-1]
        return [p.reshape(s) for p, s in zip(np.split(theta, ends), self.shapes, strict=True)]

    def values(self, theta: np.ndarray, seen: np.ndarray) -> np.ndarray:
        """Q, shape (n, actions)."""
        A, a, B, b, C, c = self.unpack(theta)
        return np.tanh(np.tanh(seen @ A + a) @ B + b) @ C + c

    def loss(
        self, theta: np.ndarray, seen: np.ndarray, actions: np.ndarray, goals: np.ndarray
    ) -> tuple[float, np.ndarray]:
        """mean (Q(s, a) - y)^2 / 2 and its gradient."""
        A, a, B, b, C, c = self.unpack(theta)
        first = np.tanh(seen @ A + a)
        second = np.tanh(first @ B + b)
        rows = np.arange(len(seen))
        error = (second @ C + c)[rows, actions] - goals
        back = np.zeros((len(seen), self.actions))
        back[rows, actions] = error / len(seen)
        back2 = back @ C.T * (1 - second**2)
        back1 = back2 @ B.T * (1 - first**2)
        parts = (
            seen.T @ back1, back1.sum(0), first.T @ back2, back2.sum(0), second.T @ back,
            back.sum(0),
        )  # fmt: skip
        return 0.5 * float(error @ error) / len(error), np.concatenate([p.ravel() for p in parts])


def evaluate(
    network: QNetwork, theta: np.ndarray, batch: tuple[np.ndarray, ...]
) -> tuple[float, np.ndarray]:
    """The loss on a batch."""
    return network.loss(theta, *batch)
