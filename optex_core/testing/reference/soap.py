"""Reference implementation of SOAP: the recursion as it is written, tensor by tensor and step by
step, in 50 decimal digits.

No tiles, no stacks, no packed triangles, no jobs: H, Q and x are what the formulas call them, the
first bases come from Jacobi's rotations, later ones from Gram and Schmidt, and a basis begun at
trusted step s is looked up at s + delay. For tensors of some tens of entries; a step takes
milliseconds.
"""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal

import numpy as np

from optex_core.optimizers._kronecker.eigenbases import SHIFT
from optex_core.optimizers._kronecker.matrix_roots import EIGENVALUE_FLOOR_IN_EPS
from optex_core.optimizers.schedules import initial_state, rate_at
from optex_core.optimizers.soap import SOAP
from optex_core.testing.reference.digits import exact, in_digits, rounded
from optex_core.testing.reference.shampoo import (
    Gradient,
    Statistics,
    contracted,
    jacobi,
    require_plain,
)


def orthonormal(A: np.ndarray) -> np.ndarray:
    """The orthogonal factor of A = Q R, by Gram and Schmidt, each column twice."""
    Q = A.copy()
    for j in range(A.shape[1]):
        for _ in range(2):
            for i in range(j):
                Q[:, j] -= Q[:, i] * Q[:, i].dot(Q[:, j])
        Q[:, j] /= Q[:, j].dot(Q[:, j]).sqrt()
    return Q


@in_digits
def soap_path(
    optimizer: SOAP,
    x0: np.ndarray,
    gradient: Gradient,
    steps: int,
    trusted: Callable[[int], bool] = lambda _: True,
) -> np.ndarray:
    """The points after 1, 2, ... steps, float64, shape (steps, d).

    With t = 1, 2, ... counting steps, s trusted steps, and for each tensor:

    - trusted steps: H_i <- b H_i + (1 - b) Gram_i(g); when roots of Shampoo would be made, but of
      two gradients at least, bases: eigenvectors of H_i while there is none and with ``basis=
      "eigh"``, else qr(H_i Q_i), made orthogonal in the order of falling diag(Q_i^T H_i Q_i); at s
      + delay they become the Q_i, and in the first case v <- v x_i (R * R), R = new Q_i^T old Q_i;
    - every step: m <- b1 m + (1 - b1) g; g' and m' are g and m contracted with all Q_i^T; v <- b2 v
      + (1 - b2) g'^2; u' = m' / (1 - b1^t) / (sqrt(v / (1 - b2^t)) + eps), contracted with all Q_i;
    - x <- (1 - rate decay) x - rate u.

    The arguments are those of `shampoo_path`, and so are the settings that it refuses, but for
    those that SOAP does not have.

    References
    ----------
    Vyas et al., arXiv 2409.11321, algorithms 3 and 4.
    """
    require_plain(optimizer)
    s, x = optimizer, exact(x0)
    b1, b2, eps = (Decimal(v) for v in (s.b1, s.b2, s.eps))
    statistics = Statistics(s, Decimal(s.statistics_decay))
    Q = [[exact(np.eye(len(A))) for A in of] for of in statistics.H]
    first = [[True] * len(of) for of in Q]

    def basis(k: int, i: int, A: np.ndarray, _: Decimal) -> np.ndarray:
        return _basis(s, A, Q[k][i], first[k][i])

    def turned(z: np.ndarray, *, back: bool) -> np.ndarray:
        z = z.copy()
        for (part, shape, axes), bases in zip(statistics.tensors, Q, strict=True):
            matrices = [B if back else B.T for B in bases]
            z[part] = contracted(z[part].reshape(shape), axes, matrices).ravel()
        return z

    m = v = exact(np.zeros(len(x)))
    points = []
    for t in range(1, steps + 1):
        rate = Decimal(rate_at(s.learning_rate, t - 1, initial_state(s.learning_rate))[0])
        g = exact(gradient(rounded(x), t - 1))
        if trusted(t - 1):
            for k, i, new in statistics.take(g, basis, least=2):
                part, shape, axes = statistics.tensors[k]
                if first[k][i] or s.basis == "eigh":
                    R = new.T.dot(Q[k][i])
                    v = v.copy()
                    v[part] = contracted(v[part].reshape(shape), [axes[i]], [R * R]).ravel()
                Q[k][i], first[k][i] = new, False
        m = b1 * m + (1 - b1) * g
        v = b2 * v + (1 - b2) * turned(g, back=False) ** 2
        u = turned(m, back=False) / (1 - b1**t) / (np.sqrt(v / (1 - b2**t)) + eps)
        x = (1 - rate * Decimal(s.decay)) * x - rate * turned(u, back=True)
        points.append(rounded(x))
    return np.array(points)


def _basis(s: SOAP, A: np.ndarray, Q: np.ndarray, first: bool) -> np.ndarray:
    """The basis after Q; where A has rounding alone, coordinates or the columns of Q."""
    n, floor = len(A), Decimal(EIGENVALUE_FLOOR_IN_EPS * np.finfo(np.float64).eps)
    if first or s.basis == "eigh":
        values, V = jacobi(A)
        V = V[:, np.argsort(-rounded(values), kind="stable")]
        rank = sum(value > floor * n * max(values) for value in values)
        columns, left = list(V.T[:rank]), V[:, rank:].dot(V[:, rank:].T)
        while len(columns) < n:
            longest = left[:, np.argmax((left * left).sum(0))]
            columns.append(longest / longest.dot(longest).sqrt())
            left = left - np.outer(columns[-1], columns[-1].dot(left))
        return np.array(columns).T
    AQ = A.dot(Q)
    values = (Q * AQ).sum(0)
    AQ = AQ + Decimal(SHIFT) * max(values) * Q
    order = np.argsort(-rounded(values), kind="stable")
    return orthonormal(AQ[:, order])[:, np.argsort(order)]
