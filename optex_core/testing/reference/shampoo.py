"""Reference implementation of Shampoo: the recursion as it is written, tensor by tensor and step by
step, in 50 decimal digits.

No tiles, no stacks, no packed triangles, no jobs: H, P and x are what the formulas call them, roots
come from Jacobi's rotations, and a root begun at trusted step s is looked up at s + delay. For
tensors of some tens of entries; a step takes milliseconds.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from decimal import Decimal

import numpy as np
from numpy.typing import ArrayLike

from optex_core.errors import ArgumentError
from optex_core.optimizers._kronecker.base import KroneckerOptimizer
from optex_core.optimizers._kronecker.refresh import GROWN
from optex_core.optimizers.schedules import initial_state, rate_at
from optex_core.optimizers.shampoo import Shampoo
from optex_core.testing.reference.digits import exact, in_digits, rounded

#: ``gradient(x, t)``, shape (d,), at step t.
Gradient = Callable[[np.ndarray, int], ArrayLike]

Tensor = tuple[slice, tuple[int, ...], tuple[int, ...]]

#: Squared off-diagonal entries over squared diagonal ones, below which Jacobi's rotations have done
#: their work.
DIAGONAL = Decimal(10) ** -90


def jacobi(A: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Eigenvalues and eigenvectors of a symmetric matrix of `Decimal` (Jacobi 1846)."""
    A, n = A.copy(), len(A)
    V = exact(np.eye(n))
    while sum(A[i, j] ** 2 for i in range(n) for j in range(i)) > DIAGONAL * sum(
        A[i, i] ** 2 for i in range(n)
    ):
        for i in range(n):
            for j in range(i + 1, n):
                if A[i, j] == 0:
                    continue
                theta = (A[j, j] - A[i, i]) / (2 * A[i, j])
                t = (1 if theta >= 0 else -1) / (abs(theta) + (theta * theta + 1).sqrt())
                c = 1 / (t * t + 1).sqrt()
                s = t * c
                for M, along in ((A, 0), (A, 1), (V, 1)):  # A <- J'A J, V <- V J
                    rows = M.T if along else M
                    rows[i], rows[j] = c * rows[i] - s * rows[j], s * rows[i] + c * rows[j]
    return A.diagonal(), V


def inverse_root(A: np.ndarray, p: Decimal, ridge: Decimal) -> np.ndarray:
    """(A + ridge lambda_max I)^(-1/p) of a symmetric matrix of `Decimal`, by its eigenvectors."""
    values, V = jacobi(A)
    lifted = values + ridge * max(values)
    root: np.ndarray = (V * np.array([value ** (Decimal(-1) / p) for value in lifted])).dot(V.T)
    return root


class Statistics:
    """H_i for every tensor and axis, and the matrices made of them, taken `delay` steps later."""

    def __init__(self, s: KroneckerOptimizer, b: Decimal) -> None:
        self.s, self.b, self.tensors = s, b, tensors_of(s)
        self.H = [[exact(np.zeros((shape[i],) * 2)) for i in of] for _, shape, of in self.tensors]
        self.traces = [[Decimal(0)] * len(of) for of in self.H]
        self.born = [[0] * len(of) for of in self.H]
        self.made: list[list[tuple[int, int, np.ndarray]]] = [[]]
        self.updates = 0

    @property
    def seen(self) -> int:
        """Trusted steps."""
        return len(self.made) - 1

    def take(
        self,
        g: np.ndarray,
        make: Callable[[int, int, np.ndarray, Decimal], np.ndarray],
        least: int = 1,
    ) -> list[tuple[int, int, np.ndarray]]:
        """One trusted step with the gradient g: (tensor, axis, matrix) for every matrix that is
        taken now.

        ``make(k, i, H, weight)`` makes those that are due, of `least` gradients that are not zero
        or more; H / weight is their mean.
        """
        s, b = self.s, self.b
        self.made.append([])
        if (self.seen - 1) % s.statistics_interval == 0:
            self.updates += 1
            for k, (part, shape, axes) in enumerate(self.tensors):
                for place, i in enumerate(axes):
                    M = np.moveaxis(g[part].reshape(shape), i, 0).reshape(shape[i], -1)
                    new = (1 if b == 1 else 1 - b) * M.dot(M.T)
                    self.H[k][place] = b * self.H[k][place] + new
        for k, i in [(k, i) for k, of in enumerate(self.H) for i in range(len(of))]:
            A = self.H[k][i]
            if A.trace() == 0:
                continue
            self.born[k][i] = self.born[k][i] or self.updates
            age = self.updates - self.born[k][i] + 1
            weight = Decimal(age) if b == 1 else 1 - b**age
            trace = A.trace() / weight
            if age >= least and self._is_due(trace, self.traces[k][i]):
                self.traces[k][i] = trace
                self.made[-1].append((k, i, make(k, i, A, weight)))
        return self.made[self.seen - s.delay] if self.seen > s.delay else []

    def _is_due(self, trace: Decimal, last: Decimal) -> bool:
        first = max(1, self.s.start - self.s.delay)
        turn = self.seen == first or (self.seen > first and self.seen % self.s.interval == 0)
        return turn or (self.seen > first and trace > Decimal(GROWN) * last)


@in_digits
def shampoo_path(
    optimizer: Shampoo,
    x0: ArrayLike,
    gradient: Gradient,
    steps: int,
    trusted: Callable[[int], bool] = lambda _: True,
) -> np.ndarray:
    """The points after 1, 2, ... steps, float64, shape (steps, d).

    With t = 1, 2, ... counting steps, s trusted steps, u updates of the statistics, and for each
    tensor of k preconditioned axes:

    - trusted steps: H_i <- b2 H_i + (1 - b2) Gram_i(g), b2 = 1: the sum, with u counted from the
      first that is not zero; at s = max(1, start - delay) and later multiples of `interval`, roots
      (H_i / (1 - b2^u) + ridge lambda_max I)^(-1/p), p = 2k, are made of all H_i that are not zero,
      and at any other such s of those that have none yet or whose mean trace is more than
      GROWN times that of their last root; from s + delay on they are the P_i;
    - every step: h = g, or m <- momentum m + (1 - momentum) g with its bias corrected; w = graft(h)
      by the rule of that name; once all P_i are there and s >= start, D = h x_1 P_1 ... x_k P_k and
      w <- D |w| / |D| (graft none: D);
    - x <- (1 - rate decay) x - rate w, or with momentum after: v <- momentum v + w, x <- (1 - rate
      decay) x - rate v.

    The optimizer's settings are read, its code is not run. It must neither cut nor merge nor
    spread: ``block_size`` at least every axis, ``merge="none"``, ``spread=False``, no `overrides`,
    ``scope="tensor"``, shapes given; ArgumentError for others. ``gradient(x, t)`` and
    ``trusted(t)`` get t = 0, 1, ...

    References
    ----------
    Anil, Gupta, Koren, Regan, Singer, arXiv 2002.09018, algorithm 1 and section 3; `Shampoo` names
    the sources of the rest.
    """
    require_plain(optimizer, scope="tensor", packed_dtype=None)
    s, x = optimizer, exact(x0)
    b2, momentum, ridge, graft_b2 = (Decimal(v) for v in (s.b2, s.momentum, s.ridge, s.graft_b2))
    usual = {"adam": 1e-8, "rmsprop": 1e-8, "adagrad": 1e-10}.get(s.graft, 0.0)
    eps = Decimal(usual if s.graft_eps is None else s.graft_eps)
    after = s.placement == "after"
    statistics = Statistics(s, b2)
    P: list[list[np.ndarray | None]] = [[None] * len(of) for of in statistics.H]

    def root(k: int, _: int, A: np.ndarray, weight: Decimal) -> np.ndarray:
        mean = A / (weight if s.bias_correction and b2 < 1 else Decimal(1))
        return inverse_root(mean, Decimal(s.exponent or 2 * len(P[k])), ridge)

    mean = velocity = squares = exact(np.zeros(len(x)))
    points = []
    for t in range(1, steps + 1):
        rate = Decimal(rate_at(s.learning_rate, t - 1, initial_state(s.learning_rate))[0])
        g = exact(gradient(rounded(x), t - 1))
        if trusted(t - 1):
            for k, i, matrix in statistics.take(g, root):
                P[k][i] = matrix
        h, scale = g, Decimal(1) if after and momentum else rate
        if momentum and not after:
            mean = momentum * mean + (1 - momentum) * g
            h = mean / (1 - momentum**t)
        if s.graft in ("none", "sgd"):
            w = h
        elif s.graft == "adagrad":
            squares = squares + g * g
            w = h / (np.sqrt(squares) + eps)
        else:
            squares = graft_b2 * squares + (1 - graft_b2) * g * g
            w = h / (np.sqrt(squares / (1 - graft_b2**t) if s.graft == "adam" else squares) + eps)
        ramped = statistics.seen - s.start + 1
        if ramped > 0:
            share = min(Decimal(1), Decimal(ramped) / s.ramp) if s.ramp else Decimal(1)
            w = w.copy()
            for (part, shape, axes), roots in zip(statistics.tensors, P, strict=True):
                there = [root for root in roots if root is not None]
                if not axes or len(there) < len(axes):
                    continue
                D = contracted(h[part].reshape(shape), axes, there).ravel()
                if s.graft != "none":
                    D = D * (_norm(w[part]) / _norm(D))
                w[part] = (1 - share) * w[part] + share * D
        keep = 1 - rate * Decimal(s.decay)
        if momentum and after:
            velocity = momentum * velocity + w
            x = keep * x - rate * (w + momentum * velocity if s.nesterov else velocity)
        else:
            x = keep * x - scale * w
        points.append(rounded(x))
    return np.array(points)


def require_plain(s: KroneckerOptimizer, **more: object) -> None:
    """Refuse settings that the references do not have: cuts, merges, spread jobs and `more`."""
    for name, wanted in {"merge": "none", "spread": False, "overrides": None, **more}.items():
        if getattr(s, name) != wanted:
            raise ArgumentError(
                f"the reference implementation needs {name}={wanted!r}, got {getattr(s, name)!r}"
            )
    if s.shapes is None or max((n for _, of in s.shapes for n in of), default=1) > s.block_size:
        raise ArgumentError(
            "the reference implementation needs shapes, and a block_size that cuts no axis"
        )


def tensors_of(s: KroneckerOptimizer) -> list[Tensor]:
    """Where each tensor lies, its shape without axes of length 1, and its preconditioned axes."""
    tensors, begin = [], 0
    for _, whole in s.shapes:
        size, shape = int(np.prod(whole)), [n for n in whole if n > 1]
        tensors.append((slice(begin, begin + size), tuple(shape), preconditioned_axes(s, shape)))
        begin += size
    return tensors


def preconditioned_axes(s: KroneckerOptimizer, shape: list[int]) -> tuple[int, ...]:
    """The axes of a tensor, those of length 1 left out, that have a matrix."""
    if s.sides == "none" or not shape or (len(shape) == 1 and not s.vectors):
        return ()
    last = len(shape) - 1
    chosen = {"both": range(last + 1), "left": range(max(last, 1)), "right": range(last, last + 1)}[
        s.sides
    ]
    return tuple(i for i in chosen if shape[i] <= s.max_axis)


def contracted(T: np.ndarray, axes: Sequence[int], matrices: Sequence[np.ndarray]) -> np.ndarray:
    """T times one matrix along each of the axes."""
    for i, M in zip(axes, matrices, strict=True):
        T = np.moveaxis(np.tensordot(M, T, (1, i)), 0, i)
    return T


def _norm(v: np.ndarray) -> Decimal:
    square: Decimal = v.dot(v)
    return square.sqrt()
