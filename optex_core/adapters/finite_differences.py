"""Gradients by differences: where to evaluate, and how the values become a gradient."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

METHODS = ("2-point", "3-point", "cs")

#: The complex step: its square vanishes beside 1 in float64 and float32 alike, and it is still a
#: normal number of float32.
COMPLEX_STEP = 1e-20


@dataclass(frozen=True, slots=True)
class Stencil:
    """The shifted points around one point.

    Attributes
    ----------
    method : str
        "2-point", "3-point" or "cs".
    x : ndarray, shape (d,)
        The centre, on the host.
    perturbations : list of (int, number)
        Point number i is the centre with coordinate ``perturbations[i][0]`` set to
        ``perturbations[i][1]``; up to two in a row for one coordinate.
    """

    method: str
    x: np.ndarray
    perturbations: list[tuple[int, complex]]

    def gradient(self, value: float, shifted: Sequence[complex]) -> np.ndarray:
        """The gradient, float64, shape (d,), from the value at the centre and the values at the
        shifted points, in the order of `perturbations`.

        2-point: (f1 - f0) / h.  3-point: (f+ - f-) / 2h, or beside a bound the derivative of the
        parabola through x, x + h, x + 2h. cs: Im f(x + ih) / h. A coordinate that its bounds hold
        fixed has no move and derivative 0.
        """
        gradient = np.zeros(len(self.x))
        i = 0
        while i < len(self.perturbations):
            k, to = self.perturbations[i]
            if self.method == "cs":
                gradient[k] = complex(shifted[i]).imag / to.imag
                i += 1
                continue
            centre = float(self.x[k])
            a, fa = to.real - centre, float(shifted[i].real) - value
            i += 1
            if self.method == "2-point":
                gradient[k] = fa / a
                continue
            b, fb = self.perturbations[i][1].real - centre, float(shifted[i].real) - value
            # The parabola through three points at 0, a, b; for a = -b this is the central
            # difference.
            gradient[k] = (fa * (b / a) - fb * (a / b)) / (b - a)
            i += 1
        return gradient


def stencil(
    x: np.ndarray, method: str, low: np.ndarray | None = None, high: np.ndarray | None = None
) -> Stencil:
    """Choose the shifted points around `x`, shape (d,), none of them outside ``[low, high]``.

    Steps are relative per coordinate, h_k = s max(1, |x_k|), with s = eps^(1/2) for "2-point" and
    eps^(1/3) for "3-point": the balance of rounding against truncation, eps being that of x's
    dtype. The 2-point step points away from zero, so that x + h loses no digits.
    """
    size = np.maximum(1, np.abs(x.astype(np.float64)))
    if method == "cs":
        return Stencil(
            method,
            x,
            [(k, complex(float(x[k]), COMPLEX_STEP * float(size[k]))) for k in range(len(x))],
        )
    eps = float(np.finfo(x.dtype).eps)
    step = size * (eps ** (1 / 2) if method == "2-point" else eps ** (1 / 3))
    lower = (
        np.full(x.shape, -np.inf, x.dtype)
        if low is None
        else np.broadcast_to(np.asarray(low, x.dtype), x.shape)
    )
    upper = (
        np.full(x.shape, np.inf, x.dtype)
        if high is None
        else np.broadcast_to(np.asarray(high, x.dtype), x.shape)
    )
    with np.errstate(invalid="ignore"):  # inf - inf where a run diverges
        up, down = np.maximum(upper - x, 0), np.maximum(x - lower, 0)
    roomy = np.where(up >= down, 1.0, -1.0)  # the side with more room
    room = np.maximum(up, down)
    if method == "2-point":
        sign = np.where(x >= 0, 1.0, -1.0)
        fits, flipped = np.where(sign > 0, up, down) >= step, np.where(sign > 0, down, up) >= step
        offsets = [
            np.where(
                fits, sign * step, np.where(flipped, -sign * step, roomy * np.minimum(step, room))
            )
        ]
    else:
        central = np.minimum(up, down) >= step
        half = roomy * np.minimum(step, room / 2)
        offsets = [np.where(central, -step, half), np.where(central, step, 2 * half)]
    # Rounded to x's dtype: the step that is divided by is then the step that was taken.
    to = [np.minimum(np.maximum((x + offset).astype(x.dtype), lower), upper) for offset in offsets]
    perturbations: list[tuple[int, complex]] = []
    for k in range(len(x)):
        targets = {float(t[k]) for t in to} | {float(x[k])}
        if len(targets) == len(to) + 1 or not np.isfinite(x[k]):  # else the bounds leave no room
            perturbations.extend((k, complex(float(t[k]))) for t in to)
    return Stencil(method, x, perturbations)
