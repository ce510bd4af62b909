"""The networks of the study: values and gradients on minibatches of real data.

A module of its own, so that worker processes can import it.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

import optex_core as ox
from optex_core.bench.shampoo.tasks import digits

CONTEXT = 8


@dataclass(frozen=True, slots=True)
class Digits:
    """Cross-entropy of H = tanh(X A + a), two blocks H <- H + tanh(H B + b), and H C + c.

    Parameters
    ----------
    hidden : int
    batch : int
        Images of one evaluation, drawn from its seed.
    """

    hidden: int = 32
    batch: int = 64

    def start(self, seed: int) -> tuple[np.ndarray, Any]:
        """Parameters, and the function that unpacks them."""
        rng, h = np.random.default_rng(seed), self.hidden
        sizes = {"in": (64, h), "block1": (h, h), "block2": (h, h), "out": (h, 10)}
        return ox.flatten(
            {
                name: {"w": rng.standard_normal(s) / np.sqrt(s[0]), "b": np.zeros(s[1])}
                for name, s in sizes.items()
            }
        )

    def rows(self, seed: int | None) -> np.ndarray:
        """The images of a batch, or all."""
        n = len(digits()[0])
        if seed is None:
            return np.arange(n)
        return np.random.default_rng(seed).choice(n, self.batch, replace=False)

    def loss(self, layers: Any, rows: np.ndarray) -> tuple[float, dict[str, Any]]:
        """Value, and the gradient as `layers`."""
        X, Y = digits()
        X, Y = X[rows], Y[rows]
        first = np.tanh(X @ layers["in"]["w"] + layers["in"]["b"])
        inputs, bends = [first], []
        for block in ("block1", "block2"):
            bends.append(np.tanh(inputs[-1] @ layers[block]["w"] + layers[block]["b"]))
            inputs.append(inputs[-1] + bends[-1])
        value, back = cross_entropy(inputs[-1] @ layers["out"]["w"] + layers["out"]["b"], Y)
        found = {"out": affine(inputs[-1], back)}
        back = back @ layers["out"]["w"].T
        for i, block in ((1, "block2"), (0, "block1")):
            inner = back * (1 - bends[i] ** 2)
            found[block] = affine(inputs[i], inner)
            back = back + inner @ layers[block]["w"].T
        found["in"] = affine(X, back * (1 - first**2))
        return value, {name: found[name] for name in layers}


@dataclass(frozen=True, slots=True)
class Characters:
    """Cross-entropy of the next character: embeddings of the eight before it, a tanh layer, linear.

    Parameters
    ----------
    width, hidden, batch : int
        Of the embedding, of the layer; places of one evaluation, drawn from its seed.
    """

    width: int = 8
    hidden: int = 64
    batch: int = 128

    def start(self, seed: int) -> tuple[np.ndarray, Any]:
        """Parameters, and the function that unpacks them."""
        rng, n = np.random.default_rng(seed), len(text()[1])
        inputs = CONTEXT * self.width
        return ox.flatten(
            {
                "embedding": rng.standard_normal((n, self.width)),
                "in": {
                    "w": rng.standard_normal((inputs, self.hidden)) / np.sqrt(inputs),
                    "b": np.zeros(self.hidden),
                },
                "out": {
                    "w": rng.standard_normal((self.hidden, n)) / np.sqrt(self.hidden),
                    "b": np.zeros(n),
                },
            }
        )

    def rows(self, seed: int | None) -> np.ndarray:
        """Places in the text: of a batch, or the 2,000 of the value."""
        size = len(text()[0]) - CONTEXT
        if seed is None:
            return np.random.default_rng(0).choice(size, 2000, replace=False)
        return np.random.default_rng(seed).choice(size, self.batch, replace=False)

    def loss(self, layers: Any, rows: np.ndarray) -> tuple[float, dict[str, Any]]:
        """Value, and the gradient as `layers`."""
        codes, alphabet = text()
        window = codes[rows[:, None] + np.arange(CONTEXT)]
        E = layers["embedding"]
        X = E[window].reshape(len(rows), -1)
        H = np.tanh(X @ layers["in"]["w"] + layers["in"]["b"])
        Y = np.eye(len(alphabet))[codes[rows + CONTEXT]]
        value, back = cross_entropy(H @ layers["out"]["w"] + layers["out"]["b"], Y)
        inner = back @ layers["out"]["w"].T * (1 - H * H)
        embedding = np.zeros_like(E)
        np.add.at(embedding, window, (inner @ layers["in"]["w"].T).reshape(*window.shape, -1))
        return value, {
            "embedding": embedding, "in": affine(X, inner), "out": affine(H, back)
        }  # fmt: skip


def cross_entropy(scores: np.ndarray, Y: np.ndarray) -> tuple[float, np.ndarray]:
    """Mean of -log softmax at the classes Y (one-hot), and its derivative by the scores."""
    log_p = scores - scores.max(1, keepdims=True)
    log_p -= np.log(np.exp(log_p).sum(1, keepdims=True))
    return -float((log_p * Y).sum()) / len(Y), (np.exp(log_p) - Y) / len(Y)


def affine(inputs: np.ndarray, back: np.ndarray) -> dict[str, np.ndarray]:
    """The gradient of a layer."""
    return {"w": inputs.T @ back, "b": back.sum(0)}


@cache
def text() -> tuple[np.ndarray, list[str]]:
    """The documentation that Python ships, as codes, and its alphabet in lower case: the 63 most
    frequent characters, and one for all others.
    """
    from pydoc_data.topics import topics

    joined = "\n".join(topics[name] for name in sorted(topics)).lower()
    letters, counts = np.unique(np.array(list(joined)), return_counts=True)
    alphabet = [str(c) for c in letters[np.argsort(-counts, kind="stable")][:63]]
    code = {c: i for i, c in enumerate(alphabet)}
    return np.array([code.get(c, len(alphabet)) for c in joined]), [*alphabet, "other"]


@dataclass(frozen=True, slots=True)
class Minibatches:
    """``fun(x, seed=)`` of a model: (value, gradient) on the batch of the seed."""

    model: Digits | Characters
    unflatten: Any

    def __post_init__(self) -> None:
        self.model.rows(None)  # reads the data: a worker does it when it starts

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.model, self.unflatten)

    def __call__(self, x: np.ndarray, *, seed: int | None) -> tuple[float, np.ndarray]:
        value, parts = self.model.loss(self.unflatten(x), self.model.rows(seed))
        return value, ox.flatten(parts)[0]

    def value(self, x: np.ndarray) -> float:
        """Without noise."""
        return self(x, seed=None)[0]
