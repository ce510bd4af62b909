"""Figures of runs.

Matplotlib is imported on call, and only its `Figure`: no backend is chosen, no window opened, no
global state touched.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from optex_core._validation import short_repr
from optex_core.errors import ArgumentError, ArgumentTypeError, MissingExtraError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from optex_core.engine.trace import Trace

#: Okabe and Ito, Color universal design (2008): told apart with every common form of colour
#: blindness. Their yellow is too light for lines.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
#: Baselines differ in their dashes too, for prints without colour.
Dash: TypeAlias = str | tuple[int, tuple[int, ...]]
DASHES: tuple[Dash, ...] = ("--", "-.", ":", (0, (5, 1)), (0, (3, 1, 1, 1)), (0, (1, 1)))
#: From this many rows on, single iterations are drawn as lines without markers.
MAX_MARKERS = 60


def new_figure(width: float, height: float) -> Figure:
    """An empty figure of `width` x `height` inches that arranges its panels itself;
    MissingExtraError without matplotlib.
    """
    try:
        from matplotlib.figure import Figure
    except ModuleNotFoundError as error:
        raise MissingExtraError.of("matplotlib", "cli", "a plot") from error
    return Figure(figsize=(width, height), layout="constrained")


def plot_trace(
    trace: Trace,
    *,
    label: str = "this run",
    baselines: Mapping[str, Trace] | None = None,
    title: str | None = None,
    path: str | os.PathLike[str] | None = None,
) -> Figure:
    """Plot a run as `Trace.plot` says: progress over iterations and gradients, steps, prediction
    error and time; `baselines` dashed beside it in the four upper panels. ArgumentError if the
    trace has no rows.
    """
    given: object = path
    if not (given is None or isinstance(given, (str, os.PathLike)) or hasattr(given, "write")):
        raise ArgumentTypeError(
            f"path must be the name of a file or an open one, got {short_repr(path)}"
        )
    if not len(trace):
        raise ArgumentError(
            "the trace has no rows, so there is nothing to plot; run at least one round"
        )
    runs: list[tuple[str, Trace, str, Dash]] = [(label, trace, COLOURS[0], "-")]
    for i, (name, other) in enumerate((baselines or {}).items()):
        runs.append((name, other, COLOURS[1 + i % (len(COLOURS) - 1)], DASHES[i % len(DASHES)]))
    figure = new_figure(11.0, 10.0)
    if title:
        figure.suptitle(title)
    grid = figure.add_gridspec(3, 6)
    lowest = _lowest([trace for _, trace, _, _ in runs])
    values = "value" if lowest == 0.0 else f"value above the lowest, {lowest:.6g}"
    rows = (("value", values, lowest), ("gradient_norm", "largest |gradient| entry", 0.0))
    for row, (column, ylabel, below) in enumerate(rows):
        for side in (0, 1):
            axes = figure.add_subplot(grid[row, 3 * side : 3 * side + 3])
            _plot_convergence(axes, runs, column, below, over_gradients=side == 1)
            axes.set_ylabel(ylabel)
    _plot_accepted_steps(figure.add_subplot(grid[2, 0:2]), trace)
    _plot_prediction_error(figure.add_subplot(grid[2, 2:4]), trace)
    _plot_time(figure.add_subplot(grid[2, 4:6]), trace)
    for axes in figure.axes:
        axes.grid(visible=True, alpha=0.25, linewidth=0.6)
        axes.spines[["top", "right"]].set_visible(False)
    if path is not None:
        figure.savefig(path, dpi=120)
    return figure


def _lowest(traces: list[Trace]) -> float:
    """What values are drawn above: the lowest of all runs, so that the last digits show; 0.0 where
    that leaves nothing to see, or values fall to nearly nothing.
    """
    values = np.concatenate([trace.value for trace in traces])
    values = values[np.isfinite(values)]
    lowest = float(values.min(initial=np.inf))
    useful = len(np.unique(values)) > 2 and not 0 <= lowest <= 1e-3 * values.max()
    return lowest if useful else 0.0


def _plot_convergence(
    axes: Axes,
    runs: list[tuple[str, Trace, str, Dash]],
    column: str,
    below: float,
    *,
    over_gradients: bool,
) -> None:
    drawn = []
    for label, trace, colour, dashes in runs:
        x = trace.gradients if over_gradients else np.arange(len(trace))
        y = getattr(trace, column) - below
        keep = np.isfinite(y) & ((y > 0) | (below == 0.0))
        marker = "o" if len(y) < MAX_MARKERS else ""
        axes.plot(
            x[keep], y[keep], color=colour, linestyle=dashes, label=label, linewidth=1.8,
            marker=marker, markersize=2.5,
        )  # fmt: skip
        drawn.append(y[keep])
    sequential = "iterations (gradients one after another)"
    axes.set_xlabel("gradients (all that were evaluated)" if over_gradients else sequential)
    _use_log_axis(axes, np.concatenate(drawn))
    axes.legend(frameon=False, fontsize="small")


def _plot_accepted_steps(axes: Axes, trace: Trace) -> None:
    columns = (trace.iteration, trace.accepted, trace.window)
    # The last row takes no step.
    iterations, accepted, window = (a[trace.accepted > 0] for a in columns)
    axes.step(iterations, window, where="mid", color=COLOURS[5], label="predicted (window)")
    axes.step(iterations, accepted, where="mid", color=COLOURS[0], label="accepted")
    largest = max(1, int(window.max(initial=0)), int(accepted.max(initial=0)))
    axes.set_ylim(0, 1.25 * largest)  # room for the legend
    axes.set(xlabel="iteration", ylabel="optimizer steps in one iteration")
    axes.legend(frameon=False, fontsize="small", loc="upper left", ncols=2)


def _plot_prediction_error(axes: Axes, trace: Trace) -> None:
    keep = np.isfinite(trace.prediction_error)
    axes.set(xlabel="iteration", ylabel="relative error of predicted gradients")
    if not keep.any():
        _show_empty(axes, "no error was measured")
        return
    error = trace.prediction_error[keep]
    line = "-" if len(error) >= MAX_MARKERS else ""
    axes.plot(
        trace.iteration[keep], error, color=COLOURS[0], marker="o", markersize=3, linestyle=line,
        linewidth=1.0,
    )  # fmt: skip
    _use_log_axis(axes, error)


def _plot_time(axes: Axes, trace: Trace) -> None:
    axes.set(xlabel="iteration", ylabel="seconds since the start")
    columns = (trace.slowest, trace.overhead, trace.seconds)
    slowest, overhead, seconds = (np.nan_to_num(a) for a in columns)
    if not (slowest.any() or overhead.any()):
        _show_empty(axes, "no clock was running")
        return
    # Iterations take longer than the slowest gradient when gradients queue for workers.
    waiting = np.maximum(seconds - slowest - overhead, 0.0)
    parts = (
        ("slowest gradient of each iteration", slowest, COLOURS[0]),
        ("overhead of the engine", overhead, COLOURS[1]),
        ("waiting for workers", waiting, "#BBBBBB"),
    )
    low = np.zeros(len(trace))
    for label, part, colour in parts:  # stackplot's edges take colours from the global cycle
        high = low + np.cumsum(part)
        axes.fill_between(
            trace.iteration, low, high, color=colour, label=label, linewidth=0, alpha=0.85
        )
        low = high
    axes.set_ylim(bottom=0)
    axes.legend(frameon=False, fontsize="small", loc="upper left")


def _use_log_axis(axes: Axes, values: np.ndarray) -> None:
    # Less than a factor of three is easier to read on a linear axis.
    if len(values) and (values > 0).all() and values.max() > 3 * values.min():
        axes.set_yscale("log")


def _show_empty(axes: Axes, text: str) -> None:
    axes.text(0.5, 0.5, text, ha="center", va="center", transform=axes.transAxes, color="0.4")
    axes.set(xticks=[], yticks=[])
