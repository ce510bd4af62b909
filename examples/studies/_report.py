"""What comparisons say: tables, curves, and where each method loses."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from _comparison import ALONE, IDEAL, LBFGSB, METHODS, RATELESS

from optex_core.bench._runner import Row
from optex_core.bench._tables import short
from optex_core.engine.plots import COLOURS, DASHES

#: A method loses if it needs this factor more than the best.
MARGIN = 1.1
#: Figures end at this share of the value at the start.
FLOOR = 1e-12


@dataclass(frozen=True, slots=True)
class Table:
    """A table of text."""

    caption: str
    head: Sequence[str]  # the first column is to the left
    rows: Sequence[Sequence[str]]


def median(figures: Sequence[float | None]) -> float:
    """The median, where None counts as infinite."""
    return float(np.median([math.inf if f is None else f for f in figures]))


def spread(figures: Sequence[float | None]) -> str:
    """ "median (least to most)"; "never" for None."""
    known = [math.inf if f is None else float(f) for f in figures]

    def said(figure: float) -> str:
        return short(figure) if math.isfinite(figure) else "never"

    middle, low, high = said(median(figures)), said(min(known)), said(max(known))
    return middle if low == high else f"{middle} ({low} to {high})"


def rounds_table(found: Sequence[Row], *, clock: bool = False) -> Table:
    """Rounds and gradients (`clock`: seconds first) to the goal, methods down, tasks across."""
    rows = []
    for method in METHODS:
        cells = []
        for one in found:
            own = one["methods"].get(method)
            if own is None:
                cells.append("-")
                continue
            text = spread(own["rounds"])
            if math.isfinite(median(own["gradients"])):
                text += f"; {short(median(own['gradients']))}"
            if clock and math.isfinite(median(own.get("seconds", [None]))):
                text = f"{spread(own['seconds'])} s; {text}"
            if own["rate"] is not None:
                text += f" @ {own['rate']:.2g}{' !' if own['edge'] else ''}"
            cells.append(text)
        if any(cell != "-" for cell in cells):
            rows.append([f"{method} *" if method == IDEAL else method, *cells])
    what = "seconds on real workers; rounds; gradients" if clock else "rounds; gradients"
    caption = (
        f"To the value that `sequential` has at the end: {what}; @ rate. Median (least to most) "
        f"over {_seeds(found)} seeds. * not achievable. !: at an end of the grid of rates."
    )
    return Table(caption, ["", *(one["title"] for one in found)], rows)


def finals_table(found: Sequence[Row]) -> Table:
    """Final values: mean and standard deviation over the seeds."""
    rows = []
    for method in METHODS:
        cells = []
        for one in found:
            own = one["methods"].get(method)
            final = np.array([math.inf if f is None else f for f in own["final"]]) if own else None
            if final is None:
                cells.append("-")
            elif not np.isfinite(final).all():
                cells.append(f"diverged {np.isinf(final).sum()} of {len(final)}")
            else:
                deviation = f" +- {final.std(ddof=1):.2g}" if len(final) > 1 else ""
                cells.append(f"{final.mean():.3g}{deviation}")
        if any(cell != "-" for cell in cells):
            rows.append([method, *cells])
    return Table(
        "Value at the end, over the last tenth of the rounds: mean +- standard deviation.",
        ["", *(f"{one['title']}, {one['rounds']} rounds" for one in found)],
        rows,
    )


def _seeds(found: Sequence[Row]) -> str:
    return " and ".join(str(n) for n in sorted({one["seeds"] for one in found}))


def draw_curves(found: Sequence[Row], figure: Any) -> None:
    """Median value over rounds, one panel for each task."""
    across = min(3, len(found))
    down = math.ceil(len(found) / across)
    figure.set_size_inches(4.2 * across, 3.4 * down)
    for i, one in enumerate(found):
        axes = figure.add_subplot(down, across, i + 1)
        for j, (method, own) in enumerate(one["methods"].items()):
            points = np.array(
                [[k, np.nan if v is None or not math.isfinite(v) else v] for k, v in own["curve"]]
            )
            strong = method in ("auto", RATELESS)
            axes.plot(
                *points.T,
                label=method,
                color=COLOURS[j % len(COLOURS)],
                linestyle="-" if strong else DASHES[j % len(DASHES)],
                linewidth=2.0 if strong else 1.1,
            )
        axes.set_yscale("log")
        start = one["methods"][ALONE]["curve"][0][1]
        axes.set_ylim(bottom=max(axes.get_ylim()[0], FLOOR * start))
        axes.set_title(f"{one['title']}, N = {one['N']}", fontsize="medium")
        axes.set_xlabel("rounds")
        axes.grid(visible=True, alpha=0.25)
        if not i:
            axes.legend(fontsize="x-small")


def losers(found: Sequence[Row], figure: str) -> list[tuple[str, str, str, str]]:
    """Where each method loses by `figure`, "rounds", "gradients" or "seconds": (method, of how many
    tasks, the worst case, what wins most often there, without noise and with it).

    Without IDEAL; a task counts as lost beyond MARGIN times the best median.
    """
    rows = []
    for method in (m for m in METHODS if m != IDEAL):
        lost: list[tuple[float, str, str, str]] = []
        met = 0
        for one in found:
            figures = {
                m: median(own[figure])
                for m, own in one["methods"].items()
                if m != IDEAL and figure in own
            }
            if method not in figures:
                continue
            met += 1
            best = min(figures, key=lambda m: figures[m])
            own = figures[method]
            if own > MARGIN * figures[best]:
                said = short(own) if math.isfinite(own) else "never"
                worst = f"{one['title']}: {said} against {short(figures[best])}"
                kind = "exact" if LBFGSB in one["methods"] else "noise"
                lost.append((own / max(figures[best], 1e-9), worst, best, kind))
        if met:
            _, worst, *_ = max(lost, default=(0.0, "", "", ""))
            use = []
            for kind in ("exact", "noise"):
                winners = [best for *_, best, found_kind in lost if found_kind == kind]
                if winners:
                    use.append(f"{kind}: `{max(winners, key=winners.count)}`")
            rows.append((method, f"{len(lost)} of {met}", worst or "-", "; ".join(use) or "-"))
    return rows
