"""The picture of `efficiency`: speed-ups as heat maps, and where runs end under noise."""

from __future__ import annotations

import math
from collections.abc import Mapping
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

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: Colours end at a factor of sixteen, and at one whole drop above or below.
FACTOR, DROP = 16.0, 1.0


class _Map:
    """A heat map of rows against strategies: colours from -1 (red, worse) to 1 (blue, better), and
    the figure in every field, so that nothing hangs on the colours.
    """

    def __init__(self, title: str, rows: list[str], shown: list[str]) -> None:
        self.title, self.rows, self.shown = title, rows, shown
        self.colours = np.full((len(rows), len(shown)), np.nan)
        self.texts: dict[tuple[int, int], str] = {}


def draw_efficiency(cells: Cells, cases: Mapping[str, Case], figure: Figure) -> None:
    """Draw all parts that were measured."""
    maps = []
    for part, words in (("given", "at the given rates"), ("best", "each at its best rate")):
        some = chosen(cells, part=part)
        maps += [_speeds(at_once(some, N), cases, N, words) for N in numbers(some)]
    noise = chosen(cells, part="noise")
    maps += [_noise(at_once(noise, N), cases, N) for N in numbers(noise)]
    across = min(2, len(maps)) or 1
    down = math.ceil(len(maps) / across)
    tallest = max((len(one.rows) for one in maps), default=1)
    figure.set_size_inches(10.0 * across, max(down, 1) * (2.2 + 0.36 * tallest))
    for k, one in enumerate(maps):
        axes = figure.add_subplot(down, across, k + 1)
        axes.imshow(one.colours, cmap="RdBu", vmin=-1.0, vmax=1.0, aspect="auto")
        ticks = range(len(one.shown))
        axes.set_xticks(ticks, one.shown, rotation=30, ha="right", rotation_mode="anchor")
        axes.set_yticks(range(len(one.rows)), one.rows)
        axes.set_title(one.title, fontsize="medium")
        for (i, j), text in one.texts.items():
            colour = "white" if abs(one.colours[i, j]) > 0.65 else "black"
            axes.text(j, i, text, ha="center", va="center", fontsize="small", color=colour)
        axes.spines[:].set_visible(False)


def _speeds(cells: Cells, cases: Mapping[str, Case], N: int, words: str) -> _Map:
    names, shown = list(dict.fromkeys(cell["case"] for cell in cells)), strategies(cells)
    title = f"times fewer rounds to the optimizer's last goal, N = {N}, {words}"
    found = _Map(title, [cases[name].title for name in names], shown)
    for cell in cells:
        at = names.index(cell["case"]), shown.index(cell["strategy"])
        speed = cell["speed_ups"][-1]
        found.colours[at] = -1.0 if speed is None else np.log(speed) / np.log(FACTOR)
        found.texts[at] = "never" if speed is None else f"{speed:.1f}"
    return found


def _noise(cells: Cells, cases: Mapping[str, Case], N: int) -> _Map:
    rows = list(dict.fromkeys((cell["case"], cell["level"]) for cell in cells))
    shown = [s for s in strategies(cells) if s != PLAIN]
    title = (
        f"under noise, N = {N}: how far below the optimizer alone a run ends, in units of its drop"
    )
    found = _Map(title, [f"{cases[case].title}, {level:g}" for case, level in rows], shown)
    for i, (case, level) in enumerate(rows):
        plain = chosen(cells, case=case, level=level, strategy=PLAIN)
        for j, strategy in enumerate(shown):
            own = chosen(cells, case=case, level=level, strategy=strategy)
            if own and plain:
                below = -excess(averaged(own), averaged(plain))
                found.colours[i, j] = np.clip(below / DROP, -1.0, 1.0)
                found.texts[i, j] = f"{below:+.0%}" if abs(below) < 100 else f"{below:+.0e}"
    return found
