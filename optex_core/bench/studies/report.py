"""What comparisons say: tables, curves, where each method loses, and the page of the studies, made
from their JSON files and nothing else.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from optex_core.bench._runner import Row
from optex_core.bench._tables import short
from optex_core.bench.studies.comparison import ALONE, IDEAL, LBFGSB, METHODS, RATELESS
from optex_core.bench.studies.study import Table
from optex_core.engine.plots import COLOURS, DASHES

#: A method loses if it needs this factor more than the best.
MARGIN = 1.1
#: Figures end at this share of the value at the start.
FLOOR = 1e-12


HEAD = """# Studies

The experiments of the papers behind this package, small enough to run here, with every control that
a practitioner would use. Each is one script: `python examples/studies/NAME.py [--quick|--full]`
continues where it was killed; `optex-core bench studies` runs all of them; `optex-core bench
studies --page` makes this page from `results/*.json`.

`sequential` is the optimizer alone. Every method that takes a rate has the same trials on a seed
that is not reported. `sequential, N x rate` is the optimizer at N times its own best rate;
`data_parallel` averages N gradients (a batch N times as large); `target`, N steps counted as one
round, cannot be achieved and is left out where methods are compared. The seconds below are
those of one machine with two cores, which other programs used too where the load is above one or
two: compare them within one task.
"""


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


def results(folder: Path) -> dict[str, Row]:
    """Name to document of the JSON files in a folder, sorted by name."""
    return {
        path.stem: json.loads(path.read_text(encoding="utf-8"))
        for path in sorted(folder.glob("*.json"))
    }


def page(documents: Mapping[str, Row]) -> str:
    """The page in Markdown: where methods lose, then a section for each study."""
    parts = [HEAD, "## Where each method loses, and what to use instead\n", losses(documents)]
    for name, one in documents.items():
        table = one["tables"][0]
        parts += [
            f"## {one['title']}\n",
            f"`python examples/studies/{name}.py`, {_machine(one)}. {one['text']}\n",
            f"{table['caption']}\n",
            _markdown(table["head"], table["rows"]),
            *(f"Not measured: {reason}.\n" for reason in one["skipped"]),
            f"![{one['title']}](results/{name}.png)\n",
        ]
        if one["tables"][1:]:
            parts.append(f"More in [results/{name}.txt](results/{name}.txt).\n")
    return "\n".join(parts)


def losses(documents: Mapping[str, Row]) -> str:
    """By rounds and by seconds over all tasks, then what single studies say of themselves."""
    rows = []
    for figure in ("rounds", "gradients", "seconds"):
        found = [task for one in documents.values() for task in one["comparisons"]]
        rows += [
            (f"`{method}`, by {figure}", lost, worst, instead)
            for method, lost, worst, instead in losers(found, figure)
        ]
    rows += [tuple(row) for one in documents.values() for row in one["losses"]]
    text = (
        "Lost: needs more than 1.1 times what the best method needs to the same value: in rounds,\n"
        "in gradients, or in seconds on real workers (two cores). Exact: without noise.\n"
    )
    return f"{text}\n{_markdown(('method', 'loses on', 'worst case', 'use instead'), rows)}"


def _machine(one: Row) -> str:
    seconds = "" if one["resumed"] else f", {one['seconds']} s"
    load = one["machine"].get("load")  # of all programs; above the cores they wait for each other
    return f"{one['machine']['cores']} cores{'' if load is None else f', load {load}'}{seconds}"


def _markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [[cell.replace("|", "\\|") for cell in line] for line in (head, *rows)]
    lines.insert(1, ["---"] * len(head))
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"
