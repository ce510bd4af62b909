"""The tables of `efficiency`, as text, from finished cells alone."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from optex_core.bench._runner import Row
from optex_core.bench._tables import columns, short
from optex_core.bench.efficiency.cells import LBFGSB, SHARES, TOLERANCE
from optex_core.bench.efficiency.rates import rates_report, summarize_rates
from optex_core.bench.efficiency.suite import Case
from optex_core.bench.efficiency.summary import (
    REFERENCES,
    Cells,
    at_once,
    averaged,
    chosen,
    numbers,
    strategies,
    summarize_noise,
    summarize_strategies,
)

NEVER = "never"
_TITLES = {
    "given": "At the given rates, {} gradients at once",
    "best": "Each at its best rate (x 0.5 to x 8), {} gradients at once; the optimizer alone too "
    "is taken at its best for each goal",
}
LEGEND = f"""Speed-up = rounds of the optimizer alone / rounds to the same value, three goals: its
best values within {", ".join(f"{s:.0%}" for s in SHARES)} of its steps. "{NEVER}": not within as
many rounds as the optimizer alone has steps; in means it counts as the round after them, and "<"
marks the mean. Median and worst case: of the means over the goals. `target` is N true steps
counted as one round, which nothing can do. {LBFGSB} takes one gradient a round. Slower: more than
max(1 round, {TOLERANCE:.0%}) more rounds to any goal. Gradients: spent to the last goal, in units
of what the optimizer alone spends. Work: the engine's own, per round."""


def report(cells: Cells, cases: Mapping[str, Case]) -> str:
    """Everything that was measured, part by part."""
    texts = [LEGEND]
    for part, title in _TITLES.items():
        some = chosen(cells, part=part)
        for N in numbers(some):
            here = at_once(some, N)
            rows = speed_summary(summarize_strategies(here))
            texts.append(f"{title.format(N)}\n\n{speed_table(here, cases)}\n\n{rows}")
    noise = chosen(cells, part="noise")
    for N in numbers(noise):
        here = at_once(noise, N)
        texts.append(
            f"Under gradient noise, {N} gradients at once: value without noise at the "
            f"end, mean of all seeds\n\n{noise_table(here, cases)}"
        )
        texts.append(noise_summary({r: summarize_noise(here, r) for r in REFERENCES}))
    if rates := chosen(cells, part="rates"):
        texts.append(rates_report(summarize_rates(rates)))
    return "\n\n\n".join(texts) + "\n"


def summary_report(summary: Row) -> str:
    """The tables over all cases, from what the JSON file holds."""
    texts = []
    for part, title in _TITLES.items():
        for setting, rows in summary.get(part, {}).items():
            texts.append(f"{title.format(setting.removeprefix('N='))}\n\n{speed_summary(rows)}")
    if "noise" in summary:
        texts.append(f"Under gradient noise\n\n{noise_summary(summary['noise'])}")
    if "rates" in summary:
        texts.append(rates_report(summary["rates"]))
    return "\n\n\n".join(texts) + "\n"


def speeds(cell: Row) -> str:
    """The three speed-ups of a cell."""
    return " ".join(NEVER if s is None else f"{s:.1f}" for s in cell["speed_ups"])


def speed_table(cells: Cells, cases: Mapping[str, Case]) -> str:
    """Cases against strategies, the three speed-ups in every entry."""
    shown, rows = strategies(cells), []
    for name in dict.fromkeys(cell["case"] for cell in cells):
        mine = {cell["strategy"]: speeds(cell) for cell in chosen(cells, case=name)}
        rows.append([cases[name].title, *(mine.get(s, "") for s in shown)])
    return columns(["", *shown], rows)


def speed_summary(found: Mapping[str, Row]) -> str:
    """One line for each strategy."""
    means = (*(f"{share:.0%}" for share in SHARES), "all", "/ target")
    counts = ("never", "diverged", "gradients", "work ms", "slower", "where")
    head = ("geometric mean", *means, "median", "worst case", *counts)
    rows = []
    for strategy, row in found.items():
        mark = "<" if row["worst"] is None else ""
        worst, where = row["worst_case"]
        rows.append([
            strategy,
            *(mark + short(mean) for mean in (*row["means"], row["mean"])),
            "-" if row["over_target"] is None else mark + short(row["over_target"]),
            short(row["median"]),
            f"{short(worst)} {where}",
            f"{row['never']} of {row['cases']}",
            str(row["diverged"]),
            short(row["gradients"]),
            short(row["work_ms"]),
            str(len(row["slower"])),
            _names(row["slower"]),
        ])  # fmt: skip
    return columns(head, rows, left=(0, len(head) - 1))


def noise_table(cells: Cells, cases: Mapping[str, Case]) -> str:
    """Cases and levels against strategies: the values in the end."""
    shown, rows = strategies(cells), []
    for case, level in dict.fromkeys((cell["case"], cell["level"]) for cell in cells):
        here = chosen(cells, case=case, level=level)
        start, clean = short(here[0]["start"]), short(here[0]["clean"])
        finals = []
        for strategy in shown:
            mine = chosen(here, strategy=strategy)
            final = averaged(mine)["final"] if mine else None
            finals.append(short(math.inf if final is None else final) if mine else "")
        rows.append([f"{cases[case].title}, noise {level:g}", start, clean, *finals])
    return columns(("", "start", "no noise", *shown), rows)


def noise_summary(found: Mapping[str, Mapping[str, Row]]) -> str:
    """How often a strategy ends above the optimizer alone, and above the mean of N gradients;
    `found`: reference to what `summarize_noise` says.
    """
    head = (f"above by more than {TOLERANCE:.0%} of the drop", "runs", "settings", "worst", "where")
    texts = []
    for reference, others in found.items():
        rows = [
            [
                f"{strategy} above {reference}",
                f"{row['above']} of {row['runs']}",
                f"{len(row['settings_above'])} of {row['settings']}",
                _percent(row["worst"]),
                _names([f"{case} {level:g}" for case, level, _ in row["settings_above"]]),
            ]
            for strategy, row in others.items()
            if strategy != reference
        ]
        if rows:
            texts.append(columns(head, rows, left=(0, 4)))
    return "\n\n".join(texts)


def _percent(excess: float | None) -> str:
    if excess is None:
        return "infinite"
    return f"{excess:+.1%}" if excess < 100 else f"{100 * excess:+.0e}%"


def _names(names: Sequence[str], most: int = 4) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
