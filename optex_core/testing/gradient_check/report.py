"""Report of `check_gradient`, in words and as a picture."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from optex_core.engine.plots import new_figure
from optex_core.testing.gradient_check.directional import STEPS, DirectionCheck


@dataclass(frozen=True, slots=True)
class GradientReport:
    """What `check_gradient` found; ``print(report)`` shows it, ``report.plot()`` draws it."""

    name: str  # of the function
    d: int  # number of parameters
    value: float  # at x0
    gradient_norm: float  # the largest entry at x0
    #: What values and gradients in `directions` and `coordinates` are multiples of: 1, but for
    #: values beyond 1e100 or below 1e-100, which are checked in a power of two of their size.
    unit: float
    directions: tuple[DirectionCheck, ...]  # sweeps and integrals
    #: Index, gradient entry and central difference, those that disagree most first.
    coordinates: tuple[tuple[int, float, float], ...]
    tolerance: float  # accepted relative disagreement of differences at the best step
    accuracy: float  # relative accuracy asked of the gradient along lines
    deterministic: bool  # evaluations at x0 gave the same bits
    pure: bool  # the function left its argument as it was
    smooth: bool  # no kink and no jump was met at x0
    noise: float  # standard deviation of the noise of the value, rounding included
    gradient_noise: float  # that of the gradient along the first direction
    evaluations: int  # points at which value and gradient were evaluated
    problems: tuple[str, ...] = ()  # sentences, empty if all is well
    notes: tuple[str, ...] = ()  # what is worth knowing and no fault

    @property
    def ok(self) -> bool:
        """True if nothing was found."""
        return not self.problems

    def __bool__(self) -> bool:
        return self.ok

    def __str__(self) -> str:
        checks, yes = self.directions, ("no", "yes")

        def row(head: str, cells: Iterable[str], after: str = "") -> str:
            return f"    {head:<7}{''.join(f'{cell:>14}' for cell in cells)}{after}"

        return "\n".join(
            [
                f"gradient of {self.name}, d = {self.d}: {'ok' if self.ok else 'NOT OK'}",
                *(f"  * {problem}" for problem in self.problems),
                *(f"  - {note}" for note in self.notes),
                f"  value {self.value:.8g}, largest |gradient| entry {self.gradient_norm:.4g}, "
                f"noise of the value {self.noise:.1e}",
                f"  relative disagreement with central differences along {len(checks)} random "
                f"directions (accepted: {self.tolerance:.1e})",
                row("   step", (f"direction {i + 1}" for i in range(len(checks)))),
                *(
                    row(f"{step:.0e}", (f"{c.errors[k]:.1e}{' *'[k == c.best]}" for c in checks))
                    for k, step in enumerate(STEPS)
                ),
                row("slope", (f"{self.unit * c.slope:.4g} " for c in checks)),
                row(
                    "Taylor",
                    (f"{c.rate:.2f} " for c in checks),
                    " (2: right, 1: wrong, nan: hidden by rounding)",
                ),
                row(
                    "line",
                    (f"{c.integral.relative:.1e} " if c.integral else "none " for c in checks),
                    f" (gradient integrated along it; accepted: {self.accuracy:.1e})",
                ),
                f"  coordinates that disagree most, of {len(self.coordinates)} looked at:",
                f"    {'index':>8} {'gradient':>16} {'difference':>16}",
                *(
                    f"    {i:>8} {self.unit * a:>16.8g} {self.unit * b:>16.8g}"
                    for i, a, b in self.coordinates[:5]
                ),
                f"  same bits when called twice: {yes[self.deterministic]}; leaves x alone: "
                f"{yes[self.pure]}; evaluated at {self.evaluations} points",
            ]
        )

    def plot(self, path: str | os.PathLike[str] | None = None) -> Any:
        """Draw the sweeps, one line a direction, into a figure; save it at `path`."""
        figure = new_figure(9, 4)
        left, right = figure.subplots(1, 2)
        for i, check in enumerate(self.directions):
            for axes, values, label in (
                (left, check.errors, f"direction {i + 1}"),
                (right, self.unit * check.remainders, f"rate {check.rate:.2f}"),
            ):
                # a logarithmic axis shows what is positive
                axes.loglog(STEPS, np.where(values > 0, values, np.nan), marker="o", label=label)
        left.axhline(self.tolerance, color="0.5", linestyle="--", label="accepted")
        left.set(xlabel="step", ylabel="relative disagreement", title="central differences")
        title = "Taylor remainder (2: right, 1: wrong)"
        right.set(xlabel="step", ylabel="|f(x + hv) - f(x) - h g.v|", title=title)
        for axes in (left, right):
            axes.invert_xaxis()
            axes.legend()
        figure.suptitle(f"gradient of {self.name}: {'ok' if self.ok else 'NOT OK'}")
        if path is not None:
            figure.savefig(path)
        return figure
