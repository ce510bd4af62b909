"""Powell's function whose Hessian is singular at the minimum."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from optex_core._validation import integer
from optex_core.errors import ArgumentError
from optex_core.problems.base import PROBLEMS, ClosedForm


@PROBLEMS.register
@dataclass(frozen=True, slots=True)
class PowellSingular(ClosedForm):
    """Quartic in two of four directions, so that every method slows down at the end.

    Each block (a, b, c, e) of four parameters gives (a + 10 b)^2 + 5 (c - e)^2 + (b - 2 c)^4 + 10
    (a - e)^4. Minimum 0 at 0, with a singular Hessian. The start is the standard one, (3, -1, 0, 1)
    in every block. (Problems 13 and 22 of More, Garbow, Hillstrom, ACM TOMS 7, 1981.)

    Parameters
    ----------
    d : int, default 12
        Number of parameters, a multiple of 4.
    """

    name = "powell_singular"
    rate = 0.2
    d: int = 12

    def __post_init__(self) -> None:
        if integer("d", self.d, low=4) % 4:
            raise ArgumentError(f"d must be a multiple of 4, got {self.d}")

    def start(self, rng: int | np.random.Generator = 0) -> np.ndarray:
        return np.tile((3.0, -1.0, 0.0, 1.0), self.d // 4)

    def rows(self, X: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        a, b, c, e = (X[:, i::4] for i in range(4))
        p, q, r, s = a + 10 * b, c - e, b - 2 * c, a - e
        G = np.empty_like(X)
        G[:, 0::4] = 2 * p + 40 * s**3
        G[:, 1::4] = 20 * p + 4 * r**3
        G[:, 2::4] = 10 * q - 8 * r**3
        G[:, 3::4] = -10 * q - 40 * s**3
        return (p**2 + 5 * q**2 + r**4 + 10 * s**4).sum(1), G
