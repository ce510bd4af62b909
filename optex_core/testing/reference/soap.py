"""Reference implementation of SOAP: the recursion as it is written, tensor by tensor and step by
step, in 50 decimal digits.

No tiles, no stacks, no packed triangles, no jobs: H, Q and x are what the formulas call them, the
first bases come from Jacobi's rotations, later ones from Gram and Schmidt, and a basis begun at
trusted step s is looked up at s + delay. For tensors of some tens of entries; a step takes
milliseconds.
"""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal, localcontext

import numpy as np

from optex_core.optimizers._kronecker.eigenbases import SHIFT
from optex_core.optimizers._kronecker.matrix_roots import EIGENVALUE_FLOOR_IN_EPS
from optex_core.optimizers.schedules import initial_state, rate_at
from optex_core.optimizers.soap import SOAP
from optex_core.testing.reference.digits import DIGITS, exact, rounded
from optex_core.testing.reference.shampoo import (
    Gradient,
    Tensor,
    add_gradient,
    is_due,
    jacobi,
    require_plain,
    tensors_of,
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


def soap_path(
    optimizer: SOAP,
    x0: np.ndarray,
    gradient: Gradient,
    steps: int,
    trusted: Callable[[int], bool] | None = None,
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
    s = optimizer
    require_plain(s)
    with localcontext(prec=DIGITS):
        return np.array(_walk(s, exact(x0), gradient, steps, trusted or (lambda _t: True)))


def _walk(
    s: SOAP, x: np.ndarray, gradient: Gradient, steps: int, trusted: Callable[[int], bool]
) -> list[np.ndarray]:
    b1, b2, eps, b = (Decimal(v) for v in (s.b1, s.b2, s.eps, s.statistics_decay))
    tensors = tensors_of(s)
    eyes = [[exact(np.eye(shape[i])) for i in axes] for _, shape, axes in tensors]
    H = [[0 * eye for eye in of] for of in eyes]
    Q = [list(of) for of in eyes]
    first = [[True] * len(of) for of in eyes]
    born = [[0] * len(of) for of in eyes]
    traces = [[Decimal(0)] * len(of) for of in eyes]
    made: dict[int, list[tuple[int, int, np.ndarray]]] = {}
    seen = updates = 0
    m = v = exact(np.zeros(len(x)))
    points = []
    for t in range(1, steps + 1):
        rate = Decimal(rate_at(s.learning_rate, t - 1, initial_state(s.learning_rate))[0])
        g = exact(gradient(rounded(x), t - 1))
        if trusted(t - 1):
            seen += 1
            made[seen] = []
            if (seen - 1) % s.statistics_interval == 0:
                updates += 1
                add_gradient(H, tensors, g, b)
            for k, place in [(k, i) for k, of in enumerate(H) for i in range(len(of))]:
                A = H[k][place]
                if A.trace() == 0:
                    continue
                born[k][place] = born[k][place] or updates
                age = updates - born[k][place] + 1
                trace = A.trace() / (Decimal(age) if b == 1 else 1 - b**age)
                if age > 1 and is_due(s, seen, trace, traces[k][place]):
                    traces[k][place] = trace
                    made[seen].append((k, place, _basis(s, A, Q[k][place], first[k][place])))
            for k, place, new in made.get(seen - s.delay, []):
                part, shape, axes = tensors[k]
                if first[k][place] or s.basis == "eigh":
                    R = new.T.dot(Q[k][place])
                    v = v.copy()
                    v[part] = _contracted(v[part].reshape(shape), [axes[place]], [R * R]).ravel()
                Q[k][place], first[k][place] = new, False
        m = b1 * m + (1 - b1) * g
        turned = [_turned(z, tensors, Q, back=False) for z in (g, m)]
        v = b2 * v + (1 - b2) * turned[0] ** 2
        u = turned[1] / (1 - b1**t) / (np.sqrt(v / (1 - b2**t)) + eps)
        x = (1 - rate * Decimal(s.decay)) * x - rate * _turned(u, tensors, Q, back=True)
        points.append(rounded(x))
    return points


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


def _turned(
    z: np.ndarray,
    tensors: list[Tensor],
    Q: list[list[np.ndarray]],
    *,
    back: bool,
) -> np.ndarray:
    z = z.copy()
    for (part, shape, axes), bases in zip(tensors, Q, strict=True):
        matrices = [B if back else B.T for B in bases]
        z[part] = _contracted(z[part].reshape(shape), axes, matrices).ravel()
    return z


def _contracted(
    T: np.ndarray, axes: list[int] | tuple[int, ...], matrices: list[np.ndarray]
) -> np.ndarray:
    for i, M in zip(axes, matrices, strict=True):
        T = np.moveaxis(np.tensordot(M, T, (1, i)), 0, i)
    return T
