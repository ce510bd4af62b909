"""Reference implementation of Shampoo: the recursion as it is written, tensor by tensor and step by
step, in 50 decimal digits.

No tiles, no stacks, no packed triangles, no jobs: H, P and x are what the formulas call them, roots
come from Jacobi's rotations, and a root begun at trusted step s is looked up at s + delay. For
tensors of some tens of entries; a step takes milliseconds.
"""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal, localcontext

import numpy as np
from numpy.typing import ArrayLike

from optex_core.errors import ArgumentError
from optex_core.optimizers.schedules import initial_state, rate_at
from optex_core.optimizers.shampoo import Shampoo
from optex_core.testing.reference.digits import DIGITS, exact, rounded

#: ``gradient(x, t)``, shape (d,), at step t.
Gradient = Callable[[np.ndarray, int], ArrayLike]

#: Squared off-diagonal entries over squared diagonal ones, below which Jacobi's rotations have done
#: their work.
DIAGONAL = Decimal(10) ** -90


def inverse_root(A: np.ndarray, p: int, ridge: Decimal) -> np.ndarray:
    """(A + ridge lambda_max I)^(-1/p) of a symmetric matrix of `Decimal`, by its eigenvectors
    (Jacobi 1846).
    """
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
    values = A.diagonal()
    lifted = values + ridge * max(values)
    root: np.ndarray = (V * np.array([value ** (Decimal(-1) / p) for value in lifted])).dot(V.T)
    return root


def shampoo_path(
    optimizer: Shampoo,
    x0: ArrayLike,
    gradient: Gradient,
    steps: int,
    trusted: Callable[[int], bool] | None = None,
) -> np.ndarray:
    """The points after 1, 2, ... steps, float64, shape (steps, d).

    With t = 1, 2, ... counting steps, s trusted steps, u updates of the statistics, and for each
    tensor of k preconditioned axes:

    - trusted steps: H_i <- b2 H_i + (1 - b2) Gram_i(g), b2 = 1: the sum; every `interval`-th s, and
      when needed for `start`, roots (H_i / (1 - b2^u) + ridge lambda_max I)^(-1/p), p = 2k, are
      made; from s + delay on they are the P_i;
    - every step: h = g, or m <- momentum m + (1 - momentum) g with its bias corrected; w = graft(h)
      by the rule of that name; once P is there and s >= start, D = h x_1 P_1 ... x_k P_k and w <- D
      |w| / |D| (graft none: D);
    - x <- (1 - rate decay) x - rate w, or with momentum after: v <- momentum v + w, x <- (1 - rate
      decay) x - rate v.

    Parameters
    ----------
    optimizer : Shampoo
        Its settings are read, its code is not run. It must neither cut nor merge nor spread:
        ``block_size`` at least every axis, ``merge="none"``, ``spread=False``, no `overrides`,
        ``scope="tensor"``, shapes given.
    x0 : array, shape (d,)
    gradient : callable
        ``gradient(x, t)`` with t = 0, 1, ...; x is its own float64 point.
    steps : int
    trusted : callable, optional
        ``trusted(t)``; None: always.

    Raises
    ------
    ArgumentError
        For settings that it does not have.

    References
    ----------
    Anil, Gupta, Koren, Regan, Singer, arXiv 2002.09018, algorithm 1 and section 3; `Shampoo` names
    the sources of the rest.
    """
    s = optimizer
    for name, wanted in (
        ("merge", "none"),
        ("spread", False),
        ("overrides", None),
        ("scope", "tensor"),
        ("packed_dtype", None),
    ):
        if getattr(s, name) != wanted:
            raise ArgumentError(
                f"the reference implementation needs {name}={wanted!r}, got {getattr(s, name)!r}"
            )
    if (
        s.shapes is None
        or max((n for _, shape in s.shapes for n in shape), default=1) > s.block_size
    ):
        raise ArgumentError(
            "the reference implementation needs shapes, and a block_size that cuts no axis"
        )
    with localcontext(prec=DIGITS):
        return np.array(_walk(s, exact(x0), gradient, steps, trusted or (lambda _t: True)))


def _walk(
    s: Shampoo, x: np.ndarray, gradient: Gradient, steps: int, trusted: Callable[[int], bool]
) -> list[np.ndarray]:
    b2, momentum, ridge, graft_b2 = (Decimal(v) for v in (s.b2, s.momentum, s.ridge, s.graft_b2))
    eps = Decimal(
        s.graft_eps
        if s.graft_eps is not None
        else {"adam": 1e-8, "rmsprop": 1e-8, "adagrad": 1e-10}.get(s.graft, 0.0)
    )
    after = s.placement == "after"
    tensors, begin = [], 0
    for _, shape in s.shapes:
        size = int(np.prod(shape))
        axes = _axes(s, [n for n in shape if n > 1])
        tensors.append((slice(begin, begin + size), tuple(n for n in shape if n > 1), axes))
        begin += size
    H = [[exact(np.zeros((shape[i], shape[i]))) for i in axes] for _, shape, axes in tensors]
    P: list[list[np.ndarray] | None] = [None] * len(tensors)
    made: dict[int, list[list[np.ndarray] | None]] = {}
    seen = updates = 0
    mean = velocity = squares = exact(np.zeros(len(x)))
    points = []
    for t in range(1, steps + 1):
        rate = Decimal(rate_at(s.learning_rate, t - 1, initial_state(s.learning_rate))[0])
        g = exact(gradient(rounded(x), t - 1))
        if trusted(t - 1):
            seen += 1
            if (seen - 1) % s.statistics_interval == 0:
                updates += 1
                for k, (part, shape, axes) in enumerate(tensors):
                    for place, i in enumerate(axes):
                        M = np.moveaxis(g[part].reshape(shape), i, 0).reshape(shape[i], -1)
                        H[k][place] = b2 * H[k][place] + (1 if b2 == 1 else 1 - b2) * M.dot(M.T)
            if _begins(seen, s.start, s.interval, s.delay):
                weight = 1 - b2**updates if s.bias_correction and b2 < 1 else Decimal(1)
                made[seen] = [
                    [inverse_root(h / weight, s.exponent or 2 * len(axes), ridge) for h in H[k]]
                    for k, (*_, axes) in enumerate(tensors)
                ]
            P = made.get(seen - s.delay, P)
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
        if seen >= s.start:
            share = min(Decimal(1), Decimal(seen - s.start + 1) / s.ramp) if s.ramp else Decimal(1)
            w = w.copy()
            for (part, shape, axes), roots in zip(tensors, P, strict=True):
                if not axes or roots is None:
                    continue
                D = h[part].reshape(shape)
                for i, root in zip(axes, roots, strict=True):
                    D = np.moveaxis(np.tensordot(root, D, (1, i)), 0, i)
                D = D.ravel()
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
    return points


def _axes(s: Shampoo, shape: list[int]) -> tuple[int, ...]:
    if s.sides == "none" or not shape or (len(shape) == 1 and not s.vectors):
        return ()
    last = len(shape) - 1
    chosen = {"both": range(last + 1), "left": range(max(last, 1)), "right": range(last, last + 1)}[
        s.sides
    ]
    return tuple(i for i in chosen if shape[i] <= s.max_axis)


def _begins(seen: int, start: int, interval: int, delay: int) -> bool:
    """Every `interval`-th trusted step of the last interval before the first use and of all later
    ones; and at that step, if none was before.
    """
    last = max(1, start - delay)
    turns = [step for step in range(max(1, last - interval + 1), last) if step % interval == 0]
    return (
        seen == last
        and not turns
        or seen != last
        and seen > last - interval
        and seen % interval == 0
    )


def _norm(v: np.ndarray) -> Decimal:
    square: Decimal = v.dot(v)
    return square.sqrt()
