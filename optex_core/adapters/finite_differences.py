"""Gradients by finite differences: where to evaluate, and how the values become a gradient.

Notes
-----
Two rounds of calls are made only where the first shows that its step was too short:

- All differences vanish. The function computes in single precision, prints few digits, or is flat.
- All values are whole multiples of one quantum, a power of two or of ten, and the differences are
  few quanta.

Then central differences follow, whose step is the cube root of the digits that were seen. The
decision depends on the values of one point alone, so that a repeated, retried or resumed evaluation
has the same bits; a level estimated once per run would have to be saved with it. Noise that leaves
no such trace, as that of an iterative solver, is what `rel_step` is for.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal

import numpy as np

from optex_core._validation import reals, short_repr
from optex_core.backends import for_array
from optex_core.errors import ArgumentError, ArgumentTypeError
from optex_core.types import Array

METHODS = ("2-point", "3-point", "cs")
#: The complex step: its square vanishes beside 1 in float64 and float32 alike, and it is still a
#: normal number of float32.
COMPLEX_STEP = 1e-20
#: Resolutions that are tried in turn where all differences vanish: those of float32 and float16.
COARSER = (2.0**-23, 2.0**-10)
#: A grid of numbers counts as one if the largest value has so many of its quanta, and if no
#: difference has more than so many: float64 values at float64's steps have 2^52 and 2^26.
GRID_QUANTA, DIFFERENCE_QUANTA = (2.0**5, 2.0**42), 2.0**16


@dataclass(frozen=True, slots=True)
class Stencil:
    """The shifted points around one point, a `DifferenceScheme`; made by `stencil`."""

    method: str  # "2-point", "3-point" or "cs"
    x: np.ndarray  # shape (d,): the centre, on the host
    center: Array  # the same where its gradient is wanted
    #: Point number i is the centre with coordinate ``perturbations[i][0]`` set to
    #: ``perturbations[i][1]``; up to two in a row for one coordinate.
    perturbations: list[tuple[int, complex]]
    #: shape (d,): bounds that no point leaves.
    low: np.ndarray
    high: np.ndarray
    #: Relative spacing of the values that the step is meant for; None where the caller chose it.
    resolution: float | None

    def assemble(self, values: Sequence[complex]) -> tuple[float, Array]:
        """Value and gradient, shape (d,), from the value at the centre and the values at the
        shifted points, in the order of `perturbations`.

        2-point: (f1 - f0) / h.  3-point: (f+ - f-) / 2h, or beside a bound the derivative of the
        parabola through x, x + h, x + 2h.  cs: Im f(x + ih) / h. A coordinate that its bounds hold
        fixed has derivative 0. Warns where all differences vanish.
        """
        value, f = float(values[0].real), np.array(values[1:], complex)
        x = self.x.astype(np.float64)
        at = np.array([k for k, _ in self.perturbations], int)
        to = np.array([to for _, to in self.perturbations], complex)
        gradient = np.zeros(len(x))
        with np.errstate(all="ignore"):  # of a run that diverges
            h, change = to.real - x[at], f.real - value
            if self.method == "cs":
                gradient[at] = f.imag / to.imag
            elif self.method == "2-point":
                gradient[at] = change / h
            else:  # the parabola through three points at 0, a, b: for a = -b the central difference
                a, b, fa, fb = h[::2], h[1::2], change[::2], change[1::2]
                gradient[at[::2]] = (fa * (b / a) - fb * (a / b)) / (b - a)
        if self.method != "cs" and len(f) and (f.real == value).all():
            step = float(np.abs(h).max())
            warnings.warn(
                f"all differences over steps of up to {step:.1e} vanish, so the gradient is taken "
                f"for zero: either the function does not depend on x here, or its values have too "
                f"few digits; pass a longer rel_step",
                RuntimeWarning,
                stacklevel=2,
            )
        return value, for_array(self.center).copy_in(gradient, self.center.dtype)

    def refined(self, values: Sequence[complex]) -> Stencil | None:
        """Central differences over longer steps where these values have too few digits, or None."""
        now, parts = self.resolution, np.array([complex(one).real for one in values])
        if now is None or not self.perturbations or not np.isfinite(parts).all():
            return None
        if (parts == parts[0]).all():
            found = next((one for one in COARSER if one > 4 * now), None)
        else:
            found = _resolution(parts)
        if found is None or found <= 4 * now:
            return None
        return stencil(self.center, "3-point", self.low, self.high, resolution=found)


def _resolution(values: np.ndarray) -> float | None:
    """Quantum of the grid that all values lie on over the largest value; None without a grid, and
    where the differences have enough quanta. The quantum is the largest power of ten that divides
    the shortest decimal forms of all values, or the largest power of two that divides them.
    """
    size, spread = float(np.abs(values).max()), float(np.abs(values - values[0]).max())
    nonzero = values[values != 0].tolist()
    powers = (int(Decimal(repr(v)).normalize().as_tuple().exponent) for v in nonzero)
    ratios = (v.as_integer_ratio() for v in nonzero)
    binary = min((float(top & -top) / bottom for top, bottom in ratios), default=math.inf)
    for quantum in (10.0 ** min(powers, default=math.inf), binary):
        low, high = GRID_QUANTA
        if low * quantum <= size <= high * quantum and spread <= DIFFERENCE_QUANTA * quantum:
            return min(quantum / size, COARSER[-1])
    return None


def as_rel_step(rel_step: object, d: int) -> np.ndarray | None:
    """`rel_step` as positive float64 of shape () or (d,), or an error with a sentence."""
    if rel_step is None:
        return None
    try:
        steps = reals(rel_step)
    except (TypeError, ValueError) as error:
        raise ArgumentTypeError(
            f"rel_step must be a positive number or {d} of them, got {short_repr(rel_step)}"
        ) from error
    if steps.shape not in ((), (d,)) or not np.all((steps > 0) & np.isfinite(steps)):
        raise ArgumentError(
            f"rel_step must be a positive number or {d} of them, got {short_repr(rel_step)}"
        )
    return steps


def stencil(
    center: Array,
    method: str,
    low: np.ndarray | None = None,
    high: np.ndarray | None = None,
    *,
    rel_step: np.ndarray | None = None,
    resolution: float | None = None,
) -> Stencil:
    """Choose the shifted points around x, shape (d,), none of them outside ``[low, high]``.

    Steps are h_k = s max(1, |x_k|) with s = `rel_step`, or eps^(1/2) for "2-point" and eps^(1/3)
    for "3-point": the balance of rounding against truncation, eps being `resolution` or that of x's
    dtype. The 2-point step points away from zero, so that x + h loses no digits.
    """
    x = for_array(center).to_host(center)
    size = np.maximum(1, np.abs(x.astype(np.float64)))
    lower, upper = (
        np.broadcast_to(np.asarray(default if bound is None else bound, x.dtype), x.shape)
        for bound, default in ((low, -np.inf), (high, np.inf))
    )
    if method == "cs":
        step = size * (COMPLEX_STEP if rel_step is None else rel_step)
        perturbations = [(k, complex(float(x[k]), float(step[k]))) for k in range(len(x))]
        return Stencil(method, x, center, perturbations, lower, upper, None)
    eps = max(float(np.finfo(x.dtype).eps), resolution or 0.0)
    power = 1 / 2 if method == "2-point" else 1 / 3
    step = size * (eps**power if rel_step is None else rel_step)
    with np.errstate(invalid="ignore"):  # inf - inf where a run diverges
        up, down = np.maximum(upper - x, 0), np.maximum(x - lower, 0)
    roomy = np.where(up >= down, 1.0, -1.0)  # the side with more room
    room = np.maximum(up, down)
    if method == "2-point":
        sign = np.where(x >= 0, 1.0, -1.0)
        fits, flipped = np.where(sign > 0, up, down) >= step, np.where(sign > 0, down, up) >= step
        beside = np.where(flipped, -sign * step, roomy * np.minimum(step, room))
        offsets = [np.where(fits, sign * step, beside)]
    else:
        central = np.minimum(up, down) >= step
        half = roomy * np.minimum(step, room / 2)
        offsets = [np.where(central, -step, half), np.where(central, step, 2 * half)]
    # Rounded to x's dtype: the step that is divided by is then the step that was taken.
    to = [np.minimum(np.maximum((x + offset).astype(x.dtype), lower), upper) for offset in offsets]
    perturbations = []
    for k in range(len(x)):
        targets = {float(t[k]) for t in to} | {float(x[k])}
        if len(targets) == len(to) + 1 or not np.isfinite(x[k]):  # else the bounds leave no room
            perturbations.extend((k, complex(float(t[k]))) for t in to)
    kept = None if rel_step is not None else eps
    return Stencil(method, x, center, perturbations, lower, upper, kept)
