"""Steps of Shampoo and SOAP for what tuned Adam reaches, on matrices.

Run: python examples/studies/shampoo.py [--quick|--full]
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from _study import Findings, Study, Table, run_study

from optex_core.bench._result_store import Store
from optex_core.bench._tables import short
from optex_core.bench.shampoo.tasks import TASKS
from optex_core.bench.shampoo.tuning import EVERY, SETTINGS, compared, seconds
from optex_core.engine.plots import COLOURS

TEXT = """Steps to the value that tuned Adam has after a third, two thirds and all of its steps,
and the processor time of a step beside it, on one thread: three tasks of `optex-core bench
shampoo`. Every optimizer is tuned on the same number of settings: at each of six rates four of what
matters most to it beside the rate. Counted is the mean over the seeds, of the one setting that
reaches the goals of all of them soonest."""
KINDS = tuple(SETTINGS)
#: mode -> (tasks, rates, seeds, repeats of the timing)
EXTENTS: dict[str, tuple[Sequence[str], Sequence[float], int, int]] = {
    "quick": (("ill_conditioned",), (0.1, 1.0), 1, 1),
    "default": (
        ("halves", "ill_conditioned", "completion"),
        np.logspace(-2.5, 1.0, 6).tolist(),
        5,
        5,
    ),
    "full": (tuple(TASKS), np.logspace(-3, 1, 9).tolist(), 10, 9),
}


def measure(mode: str, store: Store) -> Findings:
    names, rates, seeds, repeats = EXTENTS[mode]
    tasks = {name: compared(name, seeds, rates, store, KINDS) for name in names}
    times = store.compute("seconds", lambda: seconds(names, repeats, KINDS))
    return Findings(
        [table(tasks, times)], losses=losses(tasks, times), figures={"tasks": tasks, "ms": times}
    )


def table(tasks: Mapping[str, Any], times: Mapping[str, Any]) -> Table:
    """Steps to the three goals, and milliseconds of a step."""
    rows = []
    for name, one in tasks.items():
        cells = [one["title"], f"{one['d']:,}"]
        for kind in KINDS:
            steps = ", ".join("never" if s is None else f"{s:.0f}" for s in one[kind]["reached"])
            met = one[kind]["reached"][-1] is not None
            edge = " !" if met and one[kind]["edge"][-1] else ""
            cells += [f"{steps}{edge}", short(1e3 * times[name][kind])]
        rows.append([*cells, short(1e3 * times[name]["gradient"])])
    seeds = next(iter(tasks.values()))["seeds"]
    head = ["", "d"]
    for kind in KINDS:
        head += [f"{kind}, steps", f"{kind}, ms a step"]
    caption = (
        f"Steps to three goals, mean of {seeds} seeds ({next(iter(tasks.values()))['trials']} "
        f"settings each), and processor ms of a step with its gradient. !: at an end of the grid "
        f"of rates."
    )
    return Table(caption, [*head, "gradient, ms"], rows)


def losses(tasks: Mapping[str, Any], times: Mapping[str, Any]) -> list[tuple[str, str, str, str]]:
    """Where an optimizer needs more steps, or processor seconds, than the best to the last goal."""
    rows = []
    for unit in ("steps", "seconds"):
        for kind in KINDS:
            lost = []
            for name, one in tasks.items():
                cost = {}
                for other in KINDS:
                    steps, each = one[other]["reached"][-1], times[name][other]
                    cost[other] = (
                        np.inf if steps is None else steps * (1.0 if unit == "steps" else each)
                    )
                best = min(cost, key=lambda k: cost[k])
                if cost[kind] > 1.1 * cost[best]:
                    own = "never" if np.isinf(cost[kind]) else short(cost[kind])
                    said = f"{one['title']}: {own} against {short(cost[best])}"
                    lost.append((cost[kind] / cost[best], said, best))
            if lost:
                _, said, best = max(lost)
                what = unit.replace("seconds", "processor seconds")
                rows.append((f"{kind}, by {what}", f"{len(lost)} of {len(tasks)}", said, best))
    return rows


def draw(findings: Findings, figure: Any) -> None:
    tasks = findings.figures["tasks"]
    figure.set_size_inches(3.6 * len(tasks), 3.4)
    for i, one in enumerate(tasks.values()):
        axes = figure.add_subplot(1, len(tasks), i + 1)
        for kind, colour in zip(KINDS, COLOURS, strict=False):
            if one[kind]["reached"][-1] is None:
                continue  # of settings that never reach the last goal none is the best
            for curve in one[kind]["curves"]:
                values = [np.nan if v is None else v for v in curve]
                axes.plot(EVERY * np.arange(len(values)), values, color=colour, linewidth=1.2,
                          label=kind if curve is one[kind]["curves"][0] else None)  # fmt: skip
        axes.set_yscale("log")
        axes.set_title(one["title"], fontsize="x-small")
        axes.set_xlabel("steps")
        axes.grid(visible=True, alpha=0.25)
        if not i:
            axes.legend(fontsize="x-small")


STUDY = Study("shampoo", "Shampoo and SOAP", TEXT, Path(__file__), measure, draw)

if __name__ == "__main__":
    raise SystemExit(run_study(STUDY))
