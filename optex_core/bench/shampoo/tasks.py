"""Problems whose parameters are matrices, for `shampoo`: most on real images (scikit-learn's
digits), and one without structure.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache, partial

import numpy as np

from optex_core.bench._runner import Row
from optex_core.errors import MissingExtraError
from optex_core.optimizers.parameter_blocks import flatten
from optex_core.problems import get_problem

#: (value, gradient) at x in step t
Gradient = Callable[[np.ndarray, int], tuple[float, np.ndarray]]


@dataclass(frozen=True, slots=True)
class Task:
    """One problem with one seed."""

    start: np.ndarray  # shape (d,)
    shapes: object  # the tensors in x by name; None: a vector
    gradient: Gradient  # on the batch of step t
    value: Callable[[np.ndarray], float]  # on all data
    #: Of `Shampoo`, where the shapes of this problem ask for others than its own.
    settings: Row = field(default_factory=dict)


@cache
def digits() -> tuple[np.ndarray, np.ndarray]:
    """1,797 images of 8 x 8 as rows, between 0 and 1, and their classes one-hot."""
    try:
        from sklearn.datasets import load_digits
    except ModuleNotFoundError as error:
        raise MissingExtraError.of("scikit-learn", "test", "this problem's real data") from error
    data = load_digits()
    return data.data / 16.0, np.eye(10)[data.target]


def network(seed: int, batch: int | None, hidden: tuple[int, ...], *, relu: bool = False) -> Task:
    """Cross-entropy of a tanh or ReLU network on the digits; weights begin with a variance of 1
    over the inputs, 2 with ReLU.
    """
    X, Y = digits()
    rng = np.random.default_rng(seed)
    sizes, gain = (64, *hidden, 10), 2.0 if relu else 1.0
    start, unflatten = flatten(
        {
            f"layer{i}": {"w": rng.standard_normal((n, m)) / np.sqrt(n / gain), "b": np.zeros(m)}
            for i, (n, m) in enumerate(zip(sizes, sizes[1:], strict=False))
        }
    )

    def on(x: np.ndarray, rows: np.ndarray | slice) -> tuple[float, np.ndarray]:
        layers, H = list(unflatten(x).values()), [X[rows]]
        for i, layer in enumerate(layers):
            Z = H[-1] @ layer["w"] + layer["b"]
            H.append(Z if i + 1 == len(layers) else np.maximum(Z, 0.0) if relu else np.tanh(Z))
        P = H[-1] - H[-1].max(1, keepdims=True)
        P -= np.log(np.exp(P).sum(1, keepdims=True))
        value = -float((P * Y[rows]).sum()) / len(P)
        back, parts = (np.exp(P) - Y[rows]) / len(P), []
        for i in range(len(layers) - 1, -1, -1):
            parts += [back.sum(0), (H[i].T @ back).ravel()]
            if i:
                back = (back @ layers[i]["w"].T) * ((H[i] > 0) if relu else 1 - H[i] ** 2)
        return value, np.concatenate(parts[::-1])

    def gradient(x: np.ndarray, t: int) -> tuple[float, np.ndarray]:
        rows = (
            slice(None)
            if batch is None
            else np.random.default_rng((seed, t)).choice(len(X), batch, replace=False)
        )
        return on(x, rows)

    return Task(np.asarray(start), unflatten.shapes, gradient, lambda x: on(x, slice(None))[0])


def factorisation(seed: int, rank: int = 12) -> Task:
    """The images as a product of two matrices, U (1797 x rank) and V (64 x rank): mean squared
    error above that of the best such product.

    The axis of the images is left alone, as of an embedding: each row of U has pixels of its own.
    """
    X, _ = digits()
    # Eckart and Young 1936; there are no other minima
    least = float((np.linalg.svd(X, compute_uv=False)[rank:] ** 2).sum())
    return _product(X, np.ones(X.shape), least, rank, np.random.default_rng(seed))


def completion(seed: int, rank: int = 12) -> Task:
    """The same with seven of ten pixels seen: mean squared error on those. Every seed has a few
    minima, 2 % apart.
    """
    X, _ = digits()
    rng = np.random.default_rng(seed)
    return _product(X, rng.random(X.shape) < 0.7, 0.0, rank, rng)


def _product(
    X: np.ndarray, seen: np.ndarray, least: float, rank: int, rng: np.random.Generator
) -> Task:
    start, unflatten = flatten(
        {
            "U": 0.1 * rng.standard_normal((len(X), rank)),
            "V": 0.1 * rng.standard_normal((X.shape[1], rank)),
        }
    )
    scale = 1e3 / seen.sum()

    def gradient(x: np.ndarray, _t: int = 0) -> tuple[float, np.ndarray]:
        parts = unflatten(x)
        R = (parts["U"] @ parts["V"].T - X) * seen
        back = 2 * scale * R
        return scale * (float(np.vdot(R, R)) - least), np.concatenate(
            [(back @ parts["V"]).ravel(), (back.T @ parts["U"]).ravel()]
        )

    return Task(
        np.asarray(start), unflatten.shapes, gradient, lambda x: gradient(x)[0], {"max_axis": 1000}
    )


def halves(seed: int) -> Task:
    """The lower half of every image from its upper half and 64 fixed random features of it, linear:
    96 inputs, 32 outputs, condition about 1e6.
    """
    X, _ = digits()
    rng = np.random.default_rng(seed)
    upper = X[:, :32]
    A = np.concatenate([upper, np.tanh(upper @ rng.standard_normal((32, 64)) / 3)], axis=1)
    return _regression(A, X[:, 32:], rng)


def ill_conditioned(seed: int) -> Task:
    """Made regression of 80 inputs and 40 outputs, correlated on both sides: singular values of the
    data over three decades, noise 0.01.
    """
    rng = np.random.default_rng(seed)
    turn = np.linalg.qr(rng.standard_normal((80, 80)))[0]
    A = rng.standard_normal((400, 80)) * np.logspace(0, -3, 80) @ turn
    mix = rng.standard_normal((40, 40)) * np.logspace(0, -2, 40)
    B = A @ (turn.T * np.logspace(0, 2, 80)) @ rng.standard_normal((80, 40)) @ mix
    return _regression(A, B + 0.01 * rng.standard_normal(B.shape), rng)


def _regression(A: np.ndarray, B: np.ndarray, rng: np.random.Generator) -> Task:
    start, unflatten = flatten({"w": 0.01 * rng.standard_normal((A.shape[1], B.shape[1]))})

    def gradient(x: np.ndarray, _t: int = 0) -> tuple[float, np.ndarray]:
        R = A @ unflatten(x)["w"] - B
        return 0.5 * float(np.vdot(R, R)) / len(A), (A.T @ R).ravel() / len(A)

    return Task(np.asarray(start), unflatten.shapes, gradient, lambda x: gradient(x)[0])


def rosenbrock(seed: int) -> Task:
    """Chained Rosenbrock, 512 parameters: a vector, whose blocks of neighbours are all the
    structure there is.
    """
    problem = get_problem("rosenbrock", d=512)
    start = problem.start() + 0.1 * np.random.default_rng(seed).standard_normal(512)
    return Task(start, None, lambda x, _t: problem(x), problem.value)


#: name -> (title, steps, maker); those that are expected to gain first
TASKS: dict[str, tuple[str, int, Callable[[int], Task]]] = {
    "network": ("network 64-128-64-10 on digits, batches of 256", 200,
                partial(network, batch=256, hidden=(128, 64))),
    "network_full": ("network 64-64-10 on digits, all data", 150,
                     partial(network, batch=None, hidden=(64,))),
    "factorisation": ("digits as a product of rank 12", 200, factorisation),
    "halves": ("lower half of digits from the upper, linear", 200, halves),
    "ill_conditioned": ("made regression 80 x 40, both sides correlated", 200, ill_conditioned),
    "completion": ("digits as a product of rank 12, from 70 % of the pixels", 200, completion),
    "small_batches": ("network 64-128-64-10 on digits, batches of 8", 200,
                      partial(network, batch=8, hidden=(128, 64))),
    "rosenbrock": ("Rosenbrock, 512 parameters, no matrices", 200, rosenbrock),
}  # fmt: skip
