"""An ill-conditioned quadratic, axis-parallel or rotated."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from optex_core._validation import boolean, integer, real
from optex_core.errors import ArgumentError
from optex_core.problems.base import PROBLEMS, ClosedForm, set_derived


@PROBLEMS.register
@dataclass(frozen=True, slots=True)
class Quadratic(ClosedForm):
    """A convex quadratic with eigenvalues spaced evenly on a logarithmic scale from 1 down to 1 /
    condition.

    f(x) = 1/2 x' Q diag(h) Q' x;  grad f = Q diag(h) Q' x;  h = logspace(0, -log10(condition), d).
    Q is the identity, or with rotated=True orthogonal, uniformly distributed, drawn from `seed`.
    Minimum 0 at 0; the gradient is 1-Lipschitz. The start is standard normal.

    Parameters
    ----------
    condition : float, default 100
        Ratio of the largest to the smallest eigenvalue, at least 1.
    rotated : bool, default False
        Whether the axes of the ellipsoids are turned against the coordinates; elementwise
        optimizers such as Adam feel it. Holds a dense d x d matrix.
    seed : int, default 0
        Draws the rotation.
    """

    name = "quadratic"
    optimizer = "sgd"
    rate = 1.0
    condition: float = 100.0
    rotated: bool = False
    seed: int = 0
    eigenvalues: np.ndarray = field(init=False, repr=False, compare=False)
    rotation: np.ndarray | None = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        ClosedForm.__post_init__(self)
        condition = real("condition", self.condition, low=1.0)
        if np.isinf(condition):
            raise ArgumentError("condition must be finite, got inf")
        seed = integer("seed", self.seed, low=0)
        eigenvalues = np.logspace(0, -np.log10(condition), self.d)
        rotation = _orthogonal(self.d, seed) if boolean("rotated", self.rotated) else None
        set_derived(self, eigenvalues=eigenvalues, rotation=rotation)

    def rows(self, X: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        if self.rotation is None:
            return np.vecdot(0.5 * (self.eigenvalues * X), X), self.eigenvalues * X
        Z = X @ self.rotation
        return np.vecdot(0.5 * (self.eigenvalues * Z), Z), (self.eigenvalues * Z) @ self.rotation.T

    @property
    def lipschitz(self) -> float:
        return 1.0


def _orthogonal(d: int, seed: int) -> np.ndarray:
    """A uniformly distributed orthogonal matrix: QR of a normal one, with the signs of R's diagonal
    moved into Q (else Q is not uniform).
    """
    Q, R = np.linalg.qr(np.random.default_rng(seed).standard_normal((d, d)))
    return Q * np.where(np.diag(R) < 0, -1.0, 1.0)
