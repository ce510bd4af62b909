"""A small neural network that classifies drawn data."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from optex_core._validation import integer
from optex_core.problems.base import PROBLEMS, RowsProblem, set_derived

CLASSES = 3


@PROBLEMS.register
@dataclass(frozen=True, slots=True)
class Network(RowsProblem):
    """Cross-entropy of a network with one hidden tanh layer and three classes; not convex.

    f(x) = -mean_i log softmax(tanh(X W1 + b1) W2 + b2)_{i, class of i}, x = (W1, b1, W2, b2)
    flattened row by row. The inputs X, (n, inputs), are standard normal; the classes are those of a
    drawn network with three hidden tanh units. The start is normal with standard deviation 0.2.

    Parameters
    ----------
    inputs, hidden, n : int, default 20, 8, 128
        Inputs, hidden units and data, each at least 1; d = inputs hidden + hidden + 3 hidden + 3.
    seed : int, default 0
        Draws the data.
    """

    name = "network"
    rate = 0.02
    start_scale = 0.2
    inputs: int = 20
    hidden: int = 8
    n: int = 128
    seed: int = 0
    data: np.ndarray = field(init=False, repr=False, compare=False)
    classes: np.ndarray = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        inputs, n = integer("inputs", self.inputs, low=1), integer("n", self.n, low=1)
        integer("hidden", self.hidden, low=1)
        rng = np.random.default_rng(integer("seed", self.seed, low=0))
        data, teacher = rng.standard_normal((n, inputs)), rng.standard_normal((inputs, CLASSES))
        scores = np.tanh(data @ teacher) @ rng.standard_normal((CLASSES, CLASSES))
        set_derived(self, data=data, classes=np.eye(CLASSES)[np.argmax(scores, axis=1)])

    @property
    def d(self) -> int:
        return self.inputs * self.hidden + self.hidden + CLASSES * self.hidden + CLASSES

    def rows(self, X: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        rows, hidden = len(X), self.hidden
        cuts = np.cumsum((self.inputs * hidden, hidden, CLASSES * hidden))
        w1, b1, w2, b2 = np.split(X, cuts, axis=1)
        w1, w2 = w1.reshape(rows, self.inputs, hidden), w2.reshape(rows, hidden, CLASSES)
        H = np.tanh(self.data @ w1 + b1[:, None])  # (rows, n, hidden)
        scores = H @ w2 + b2[:, None]  # (rows, n, classes)
        P = np.exp(scores - scores.max(2, keepdims=True))
        P /= P.sum(2, keepdims=True)
        # 1e-300 keeps log finite where a probability has underflowed.
        values = -(self.classes * np.log(P + 1e-300)).sum((1, 2)) / self.n
        to_scores = (P - self.classes) / self.n
        to_hidden = to_scores @ w2.mT * (1 - H * H)
        to_w1, to_w2 = self.data.T @ to_hidden, H.mT @ to_scores
        to_w1, to_w2 = to_w1.reshape(rows, cuts[0]), to_w2.reshape(rows, CLASSES * hidden)
        return values, np.concatenate([to_w1, to_hidden.sum(1), to_w2, to_scores.sum(1)], axis=1)
