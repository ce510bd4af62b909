"""Summary of finished cells: means, worst cases and exceptions."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from statistics import geometric_mean

import numpy as np

from optex_core.bench._runner import Row
from optex_core.bench.efficiency.cells import ALONE, PLAIN, SHARES, TOLERANCE
from optex_core.bench.efficiency.rates import summarize_rates

Cells = Sequence[Row]
#: What ends under noise are compared with.
REFERENCES = (PLAIN, "data_parallel")


def chosen(cells: Iterable[Row], **settings: object) -> list[Row]:
    """The cells with these settings."""
    return [cell for cell in cells if all(cell[name] == value for name, value in settings.items())]


def at_once(cells: Iterable[Row], N: int) -> list[Row]:
    """The cells with N gradients at once, and those of what always has one."""
    return [cell for cell in cells if cell["parallelism"] == N or cell["strategy"] in ALONE]


def numbers(cells: Iterable[Row]) -> list[int]:
    """The N that occur, sorted."""
    return sorted({cell["parallelism"] for cell in cells if cell["strategy"] not in ALONE})


def strategies(cells: Iterable[Row]) -> list[str]:
    """The strategies that occur, in their order."""
    return list(dict.fromkeys(cell["strategy"] for cell in cells))


def bounded(cell: Row, i: int) -> float:
    """The speed-up at the i-th share; where the goal was never reached, the most it can have been:
    a hit in the round after the last allowed one.
    """
    speed: float | None = cell["speed_ups"][i]
    return max(cell["plain"][i], 1) / (cell["limit"] + 1) if speed is None else speed


def summarize_speed(cells: Cells, target: Mapping[str, Row]) -> Row:
    """The row of one strategy in one setting, over the cases; `target`: the cells of the strategy
    `target` in the same setting by case, maybe none.

    Returns
    -------
    dict
        ``means`` for each share and ``mean`` over all: geometric means of speed-ups, where never
        counts as `bounded`; ``over_target``, the same of the ratio to the target's speed-up, None
        without target; ``median`` over the cases of their means over the shares, and
        ``worst_case``, the least of these with its case; ``worst``, the least speed-up, None if a
        goal was never reached; ``never`` and ``diverged``, how many cases; ``slower``, the cases
        slower than the optimizer alone at any share; ``gradients``, the geometric mean of gradients
        spent, in units of those that the optimizer alone spends; ``work_ms``, the median over
        cases.
    """
    shares = range(len(SHARES))
    known = {cell["case"]: [bounded(cell, i) for i in shares] for cell in cells}
    each = [(geometric_mean(one), case) for case, one in known.items()]
    every = [speed for cell in cells for speed in cell["speed_ups"]]
    ratios = [
        known[case][i] / bounded(other, i)
        for case, other in target.items()
        if case in known
        for i in shares
    ]
    work = [cell["work_ms"] for cell in cells if cell["work_ms"] is not None]
    spent = [max(cell["gradients"], 1) / max(cell["plain"][-1], 1) for cell in cells]
    return {
        "cases": len(cells),
        "means": [geometric_mean(one[i] for one in known.values()) for i in shares],
        "mean": geometric_mean(speed for one in known.values() for speed in one),
        "over_target": geometric_mean(ratios) if ratios else None,
        "median": float(np.median([mean for mean, _ in each])),
        "worst_case": min(each),
        "worst": None if None in every else min(every),
        "never": sum(cell["speed_ups"][-1] is None for cell in cells),
        "diverged": sum(cell["diverged"] for cell in cells),
        "slower": [cell["case"] for cell in cells if not all(cell["not_slower"])],
        "gradients": geometric_mean(spent),
        "work_ms": float(np.median(work)) if work else None,
    }


def excess(cell: Row, other: Row) -> float:
    """How far `cell` ends above `other`, in units of the drop that `other` made; where it made
    none, of that without noise.

    Positive is worse. A value that is not finite is infinitely far above.
    """
    if cell["final"] is None or other["final"] is None:
        return float("inf") if cell["final"] is None and other["final"] is not None else 0.0
    drop = other["start"] - other["final"]
    if drop <= 0.0:
        drop = other["start"] - other["clean"]
    return float((cell["final"] - other["final"]) / drop)


def averaged(cells: Cells) -> Row:
    """One cell for several seeds: the mean of the final values."""
    finals = [cell["final"] for cell in cells]
    return {**cells[0], "final": None if None in finals else float(np.mean(finals))}


def summarize_noise(cells: Cells, reference: str = PLAIN) -> dict[str, Row]:
    """By strategy: in how many runs (case, level, seed) it ends above `reference` by more than 5 %
    of the drop, how often on the mean over seeds, and the largest such excess.

    Returns
    -------
    dict of str to dict
        ``runs``, ``above``, ``settings``, ``settings_above``, ``worst`` (of the means over seeds,
        None if infinite).
    """
    found: dict[str, Row] = {}
    for strategy in strategies(cells):
        runs, above, means = 0, 0, {}
        mine = chosen(cells, strategy=strategy)
        settings = ((cell["case"], cell["level"], cell["parallelism"]) for cell in mine)
        for case, level, N in dict.fromkeys(settings):
            own = chosen(mine, case=case, level=level, parallelism=N)
            # the optimizer alone has only N = 1
            N_other = 1 if reference == PLAIN else N
            peers = chosen(cells, strategy=reference, case=case, level=level, parallelism=N_other)
            other = {cell["seed"]: cell for cell in peers}
            pairs = [(cell, other[cell["seed"]]) for cell in own if cell["seed"] in other]
            if pairs:
                runs += len(pairs)
                above += sum(excess(a, b) > TOLERANCE for a, b in pairs)
                ours, theirs = (averaged(side) for side in zip(*pairs, strict=True))
                means[case, level, N] = excess(ours, theirs)
        if runs:
            worst = max(means.values())
            found[strategy] = {
                "runs": runs,
                "above": above,
                "settings": len(means),
                "settings_above": [list(at) for at, mean in means.items() if mean > TOLERANCE],
                "worst": worst if np.isfinite(worst) else None,
            }
    return found


def summarize(cells: Cells) -> Row:
    """All summaries, by part and setting: what the JSON file holds."""
    summary: Row = {}
    for part in ("given", "best"):
        if some := chosen(cells, part=part):
            summary[part] = {
                f"N={N}": summarize_strategies(at_once(some, N)) for N in numbers(some)
            }
    if noise := chosen(cells, part="noise"):
        summary["noise"] = {r: summarize_noise(noise, r) for r in REFERENCES}
    if rates := chosen(cells, part="rates"):
        summary["rates"] = summarize_rates(rates)
    return summary


def summarize_strategies(cells: Cells) -> dict[str, Row]:
    """`summarize_speed` of every strategy; `cells` are of one setting."""
    target = {cell["case"]: cell for cell in chosen(cells, strategy="target")}
    return {
        strategy: summarize_speed(chosen(cells, strategy=strategy), target)
        for strategy in strategies(cells)
    }
