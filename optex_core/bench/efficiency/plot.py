"""The picture of `efficiency`: speed-ups as heat maps, and where runs end under noise. Matplotlib
is imported on call.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from optex_core.bench.efficiency.cells import PLAIN
from optex_core.bench.efficiency.suite import Case
from optex_core.bench.efficiency.summary import (
    Cells,
    at_once,
    averaged,
    chosen,
    excess,
    numbers,
    strategies,
)
from optex_core.engine.plots import new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes

#: Colours end at a factor of sixteen, and at one whole drop above or below.
FACTOR, DROP = 16.0, 1.0


def draw_efficiency(cells: Cells, cases: Mapping[str, Case], path: Path) -> None:
    """Draw all parts that were measured."""
    panels: list[Callable[[Axes], None]] = []
    sizes = []
    for part, words in (("given", "at the given rates"), ("best", "each at its best rate")):
        for N in numbers(chosen(cells, part=part)):
            here = at_once(chosen(cells, part=part), N)
            title = f"times fewer rounds to the optimizer's last goal, N = {N}, {words}"
            panels.append(lambda axes, here=here, title=title: _speeds(axes, here, cases, title))  # type: ignore[misc]
            sizes.append(len({cell["case"] for cell in here}))
    noise = chosen(cells, part="noise")
    for N in numbers(noise):
        here = at_once(noise, N)
        panels.append(lambda axes, here=here, N=N: _noise(axes, here, cases, N))  # type: ignore[misc]
        sizes.append(len({(cell["case"], cell["level"]) for cell in here}))
    across = min(2, len(panels)) or 1
    down = math.ceil(len(panels) / across)
    figure = new_figure(10.0 * across, down * (2.2 + 0.36 * max(sizes, default=1)))
    for i, panel in enumerate(panels):
        panel(figure.add_subplot(down, across, i + 1))
    figure.savefig(path, dpi=110)


def _speeds(axes: Axes, cells: Cells, cases: Mapping[str, Case], title: str) -> None:
    names, shown = list(dict.fromkeys(cell["case"] for cell in cells)), strategies(cells)
    colours, texts = np.full((len(names), len(shown)), np.nan), [[""] * len(shown) for _ in names]
    for cell in cells:
        i, j = names.index(cell["case"]), shown.index(cell["strategy"])
        speed = cell["speed_ups"][-1]
        colours[i, j] = -1.0 if speed is None else np.log(speed) / np.log(FACTOR)
        texts[i][j] = "never" if speed is None else f"{speed:.1f}"
    _map(axes, colours, texts, [cases[name].title for name in names], shown, title)


def _noise(axes: Axes, cells: Cells, cases: Mapping[str, Case], N: int) -> None:
    rows, shown = (
        list(dict.fromkeys((cell["case"], cell["level"]) for cell in cells)),
        [s for s in strategies(cells) if s != PLAIN],
    )
    colours, texts = np.full((len(rows), len(shown)), np.nan), [[""] * len(shown) for _ in rows]
    for i, (case, level) in enumerate(rows):
        here = chosen(cells, case=case, level=level)
        plain = chosen(here, strategy=PLAIN)
        for j, strategy in enumerate(shown):
            own = chosen(here, strategy=strategy)
            if own and plain:
                below = -excess(averaged(own), averaged(plain))
                colours[i, j] = np.clip(below / DROP, -1.0, 1.0)
                texts[i][j] = f"{below:+.0%}" if abs(below) < 100 else f"{below:+.0e}"
    title = (
        f"under noise, N = {N}: how far below the optimizer alone a run ends, in units of its drop"
    )
    _map(
        axes,
        colours,
        texts,
        [f"{cases[case].title}, {level:g}" for case, level in rows],
        shown,
        title,
    )


def _map(
    axes: Axes,
    colours: np.ndarray,
    texts: list[list[str]],
    rows: list[str],
    shown: list[str],
    title: str,
) -> None:
    """Blue is better, red is worse; every field says its figure too, so nothing hangs on the
    colours.
    """
    axes.imshow(colours, cmap="RdBu", vmin=-1.0, vmax=1.0, aspect="auto")
    axes.set_xticks(range(len(shown)), shown, rotation=30, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(len(rows)), rows)
    axes.set_title(title, fontsize="medium")
    for i, line in enumerate(texts):
        for j, text in enumerate(line):
            dark = math.isfinite(colours[i, j]) and abs(colours[i, j]) > 0.65
            axes.text(
                j,
                i,
                text,
                ha="center",
                va="center",
                fontsize="small",
                color="white" if dark else "black",
            )
    axes.spines[:].set_visible(False)
