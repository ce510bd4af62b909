"""Limited-memory BFGS steps without a line search."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from optex_core._validation import integer, positive
from optex_core.backends import for_array
from optex_core.backends.base import Backend
from optex_core.optimizers.base import OPTIMIZERS, Optimizer
from optex_core.types import Array

#: A pair is kept if s'y exceeds this share of |s||y|, and if s'y and y'y have not underflowed, as
#: beside a minimum at 0.
CURVED, LEAST = 1e-8, np.finfo(np.float64).tiny


@dataclass(frozen=True, slots=True)
class LBFGSState:
    """Pairs and the last step."""

    #: shape (k, d), k <= memory, or None: steps s and changes y of the gradient, oldest first; None
    #: before the first pair.
    S: Array | None = None
    Y: Array | None = None
    products: np.ndarray | None = None  # shape (2, k, k), or None: S Y' and Y Y'
    #: shape (d,), or None: the last point and its gradient; None before the first step.
    x: Array | None = None
    g: Array | None = None
    length: float = 0.0  # of the last step; 0 before the first


@OPTIMIZERS.register
@dataclass(frozen=True, slots=True)
class LBFGS(Optimizer):
    """x <- x - H g with the L-BFGS matrix H of the last pairs (s, y); no learning rate.

    A unit step, shortened to 3 x the length of the last one; the first is g, shortened to
    `first_step`. Pairs without positive curvature, s'y <= 1e-8 |s||y|, are left out. H is applied
    as two triangular solves with R_ij = s_i'y_j, i <= j, in two passes over the pairs.

    There is no line search, so that a step needs one gradient. ``LBFGS()`` with the strategy "auto"
    is the default of `minimize`: the strategy `lookahead`, which takes such steps with 50 pairs and
    keeps values from rising. Other settings, and other strategies, take the steps of this class.

    Parameters
    ----------
    memory : int, default 20
        Pairs kept: 2 memory d numbers.
    first_step : float or None, default None
        Longest first step; None: 1.

    References
    ----------
    Nocedal, Updating quasi-Newton matrices with limited storage, Math. Comp. 35, 1980; Byrd,
    Nocedal, Schnabel, Representations of quasi-Newton matrices, Math. Prog. 63, 1994, theorem 2.2.

    Examples
    --------
    >>> import numpy as np
    >>> import optex_core as ox
    >>> h = np.array([1.0, 10.0])
    >>> res = ox.minimize(lambda x: (h @ x**2 / 2, h * x), [3.0, -4.0], optimizer=ox.LBFGS())
    >>> bool(res.success)
    True
    """

    name = "lbfgs"
    memory: int = 20
    first_step: float | None = None

    def __post_init__(self) -> None:
        integer("memory", self.memory, low=1)
        if self.first_step is not None:
            positive("first_step", self.first_step)

    def init(self, x: Array, *, backend: Backend | None = None) -> LBFGSState:
        return LBFGSState()

    def step(
        self,
        x: Array,
        g: Array,
        state: LBFGSState,
        *,
        value: float = math.nan,
        trusted: bool = True,
        backend: Backend | None = None,
    ) -> tuple[Array, LBFGSState]:
        backend = backend or for_array(x)
        x, g = backend.copy_in(x, x.dtype), backend.copy_in(g, x.dtype)
        pairs = self._pairs(x, g, state, backend)
        direction = g if pairs is None else _direction(g, *pairs, backend)
        length = math.sqrt(backend.dot(direction, direction))
        cap = 3.0 * state.length if state.length else self.first_step or 1.0
        if length > cap:
            direction, length = direction * x.dtype.type(cap / length), cap
        S, Y, products = pairs or (None, None, None)
        return x - direction, LBFGSState(S, Y, products, x, g, length)

    def _pairs(
        self, x: Array, g: Array, state: LBFGSState, backend: Backend
    ) -> tuple[Array, Array, np.ndarray] | None:
        """S, Y and their products with the pair of the last step; None without any."""
        known = None
        if state.S is not None and state.Y is not None and state.products is not None:
            known = state.S, state.Y, state.products
        if state.x is None or state.g is None:
            return known
        s, y = x - state.x, g - state.g
        sy, ss, yy = backend.dot(s, y), backend.dot(s, s), backend.dot(y, y)
        if not (sy > CURVED * math.sqrt(ss) * math.sqrt(yy) and min(sy, yy) > LEAST):
            return known
        if known is None:
            return s[None], y[None], np.array([[[sy]], [[yy]]])
        old_S, old_Y, products = known
        S = backend.xp.concatenate([old_S, s[None]])[-self.memory :]
        Y = backend.xp.concatenate([old_Y, y[None]])[-self.memory :]
        k, left = len(S), len(old_S) + 1 - len(S)
        grown = np.zeros((2, k, k))
        grown[:, : k - 1, : k - 1] = products[:, left:, left:]
        for i in range(k):
            grown[0, i, -1], grown[0, -1, i] = backend.dot(S[i], y), backend.dot(s, Y[i])
            grown[1, i, -1] = grown[1, -1, i] = backend.dot(Y[i], y)
        return S, Y, grown


def _direction(g: Array, S: Array, Y: Array, products: np.ndarray, backend: Backend) -> Array:
    """H g."""
    from scipy.linalg import solve_triangular

    R, YY = np.triu(products[0]), products[1]
    gamma = R[-1, -1] / YY[-1, -1]
    Sg, Yg = (np.array([backend.dot(row, g) for row in rows]) for rows in (S, Y))
    a = solve_triangular(R, Sg)
    b = solve_triangular(R, np.diag(R) * a - gamma * (Yg - YY @ a), trans=1)
    kind = g.dtype.type
    found = kind(gamma) * g
    for i in range(len(S)):
        found = found + kind(b[i]) * S[i] - kind(gamma * a[i]) * Y[i]
    return found
