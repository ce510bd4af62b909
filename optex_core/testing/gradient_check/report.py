"""What `check_gradient` found, in words and as a picture."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from optex_core.engine.plots import new_figure
from optex_core.testing.gradient_check.directional import STEPS, DirectionCheck

if TYPE_CHECKING:
    import os

    from matplotlib.figure import Figure


@dataclass(frozen=True, slots=True)
class GradientReport:
    """What `check_gradient` found; ``print(report)`` shows it, ``report.plot()`` draws it.

    Attributes
    ----------
    name : str
        The function.
    d : int
        Number of parameters.
    value, gradient_norm : float
        At x0; the norm is the largest entry.
    directions : tuple of DirectionCheck
        The sweeps and integrals.
    coordinates : tuple of (int, float, float)
        Index, gradient entry and central difference, those that disagree most first.
    tolerance : float
        Largest accepted relative disagreement of differences at the best step.
    accuracy : float
        Relative accuracy asked of the gradient along lines.
    deterministic : bool
        Two evaluations at x0 gave the same bits.
    pure : bool
        The function left its argument as it was.
    smooth : bool
        No kink and no jump was met at x0.
    noise, gradient_noise : float
        Standard deviation of the noise of the value, and of the gradient along the first direction:
        rounding included.
    evaluations : int
        Points at which value and gradient were evaluated.
    problems : tuple of str
        Sentences, empty if all is well.
    notes : tuple of str
        What is worth knowing and no fault.
    """

    name: str
    d: int
    value: float
    gradient_norm: float
    directions: tuple[DirectionCheck, ...]
    coordinates: tuple[tuple[int, float, float], ...]
    tolerance: float
    accuracy: float
    deterministic: bool
    pure: bool
    smooth: bool = True
    noise: float = 0.0
    gradient_noise: float = 0.0
    evaluations: int = 0
    problems: tuple[str, ...] = field(default=())
    notes: tuple[str, ...] = field(default=())

    @property
    def ok(self) -> bool:
        """True if nothing was found."""
        return not self.problems

    def __bool__(self) -> bool:
        return self.ok

    def __str__(self) -> str:
        lines = [f"gradient of {self.name}, d = {self.d}: {'ok' if self.ok else 'NOT OK'}"]
        lines += [f"  * {problem}" for problem in self.problems]
        lines += [f"  - {note}" for note in self.notes]
        lines.append(
            f"  value {self.value:.8g}, largest |gradient| entry "
            f"{self.gradient_norm:.4g}, noise of the value {self.noise:.1e}"
        )
        lines.append(
            f"  relative disagreement with central differences along "
            f"{len(self.directions)} random directions (accepted: {self.tolerance:.1e})"
        )
        lines.append(
            "     step  "
            + "".join(f"{f'direction {i + 1}':>14}" for i in range(len(self.directions)))
        )
        for k, step in enumerate(STEPS):
            marks = (
                f"{check.errors[k]:.1e}{'*' if k == check.best else ' '}"
                for check in self.directions
            )
            lines.append(f"    {step:.0e}  " + "".join(f"{mark:>14}" for mark in marks))
        lines.append("    slope  " + "".join(f"{check.slope:>13.4g} " for check in self.directions))
        lines.append(
            "    Taylor "
            + "".join(f"{check.rate:>13.2f} " for check in self.directions)
            + " (2: right, 1: wrong, nan: hidden by rounding)"
        )
        integrals = (
            f"{'none' if c.integral is None else f'{c.integral.relative:.1e}'}"
            for c in self.directions
        )
        lines.append(
            "    line   "
            + "".join(f"{text:>13} " for text in integrals)
            + f" (gradient integrated along it; accepted: {self.accuracy:.1e})"
        )
        lines.append(f"  coordinates that disagree most, of {len(self.coordinates)} looked at:")
        lines.append(f"    {'index':>8} {'gradient':>16} {'difference':>16}")
        lines += [
            f"    {i:>8} {given:>16.8g} {difference:>16.8g}"
            for i, given, difference in self.coordinates[:5]
        ]
        observed = (
            f"  same bits when called twice: {'yes' if self.deterministic else 'no'}; "
            f"leaves x alone: {'yes' if self.pure else 'no'}"
        )
        lines.append(f"{observed}; evaluated at {self.evaluations} points")
        return "\n".join(lines)

    def plot(self, path: str | os.PathLike[str] | None = None) -> Figure:
        """Draw the sweeps: disagreement and Taylor remainder against the step, one line a
        direction.

        Parameters
        ----------
        path : path-like, optional
            Where to save the picture; its suffix decides the format.

        Raises
        ------
        MissingExtraError
            If matplotlib is not installed.
        """
        figure = new_figure(9, 4)
        left, right = figure.subplots(1, 2)
        for i, check in enumerate(self.directions):
            left.loglog(STEPS, _positive(check.errors), marker="o", label=f"direction {i + 1}")
            right.loglog(
                STEPS, _positive(check.remainders), marker="o", label=f"rate {check.rate:.2f}"
            )
        left.axhline(self.tolerance, color="0.5", linestyle="--", label="accepted")
        left.set(xlabel="step", ylabel="relative disagreement", title="central differences")
        right.set(
            xlabel="step",
            ylabel="|f(x + hv) - f(x) - h g.v|",
            title="Taylor remainder (2: right, 1: wrong)",
        )
        for axes in (left, right):
            axes.invert_xaxis()
            axes.legend()
        figure.suptitle(f"gradient of {self.name}: {'ok' if self.ok else 'NOT OK'}")
        if path is not None:
            figure.savefig(path)
        return figure


def _positive(values: np.ndarray) -> Any:
    """What a logarithmic axis can show."""
    return np.where(values > 0, values, np.nan)
