"""The picture of `async_sgd`. Matplotlib is imported on call."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from optex_core.bench._runner import Row
from optex_core.engine.plots import new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def draw_async(figures: Mapping[str, list[Row]], path: Path) -> None:
    """Draw what was measured, a panel for each part that has curves.

    Raises
    ------
    MissingExtraError
        If matplotlib is not installed.
    """
    panels: list[tuple[str, Callable[..., None]]] = [
        ("sleeping", _throughput),
        ("sleeping", _delays),
        ("loss", _losses),
        ("rate", _rates),
    ]
    panels = [(part, draw) for part, draw in panels if figures.get(part)]
    if not panels:
        return
    across = min(3, len(panels))
    down = -(-len(panels) // across)
    figure = new_figure(6.0 * across, 4.2 * down)
    for i, (part, draw) in enumerate(panels):
        draw(figure.add_subplot(down, across, i + 1), figures[part])
    figure.savefig(path, dpi=120)


def _throughput(axes: Axes, rows: list[Row]) -> None:
    most = max(row["N"] for row in rows)
    axes.plot([1, most], [1, most], color="0.7", lw=1, label="N times one")
    for engine in dict.fromkeys(row["engine"] for row in rows):
        mine = [row for row in rows if row["engine"] == engine]
        axes.plot(
            [r["N"] for r in mine], [r["N"] * r["efficiency"] for r in mine], "o-", label=engine
        )
    axes.set(
        title="throughput, sleeping gradients of 0.1 s",
        xlabel="workers N",
        ylabel="times one worker",
    )
    axes.legend()


def _delays(axes: Axes, rows: list[Row]) -> None:
    most = max(row["N"] for row in rows)
    for row in rows:
        if row["N"] == most:
            counts = np.asarray(row["histogram"])
            axes.step(
                np.arange(len(counts)),
                counts / counts.sum(),
                where="mid",
                label=f"{row['engine']}, mean {row['mean delay']:.1f}",
            )
    axes.set(title=f"delays, N = {most}", xlabel="delay (updates)", ylabel="share of pushes")
    axes.legend()


def _losses(axes: Axes, rows: list[Row]) -> None:
    rate = rows[0]["rate"]
    for order, cores in dict.fromkeys((row["order"], row["cores"]) for row in rows):
        mine = [r for r in rows if (r["order"], r["cores"]) == (order, cores) and r["rate"] == rate]
        axes.plot(
            [r["N"] for r in mine],
            [100 * r["against serial"] for r in mine],
            "o-",
            label=f"{order}, {cores} core{'s' * (cores > 1)}",
        )
    axes.axhspan(-2, 2, color="0.9")
    axes.set(title="loss after the same gradients, against serial", xlabel="workers N", ylabel="%")
    axes.legend()


def _rates(axes: Axes, rows: list[Row]) -> None:
    for i, (B, D) in enumerate(dict.fromkeys((row["B"], row["D"]) for row in rows)):
        mine = [r for r in rows if (r["B"], r["D"]) == (B, D)]
        x = [B * r["T"] for r in mine]
        axes.loglog(
            x, [r["measured"] for r in mine], "o-", color=f"C{i}", label=f"B = {B}, D = {D}"
        )
        axes.loglog(x, [r["bound"] for r in mine], "--", color=f"C{i}", lw=1)
    axes.set(title="mean |grad f|^2 (dashed: the bound)", xlabel="gradients B T")
    axes.legend(fontsize=8)
