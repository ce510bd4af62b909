"""What the cells say together: means, worst cases and exceptions, from finished cells alone."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from optex_core.bench._runner import Row
from optex_core.bench.efficiency.cells import ALONE, PLAIN
from optex_core.bench.efficiency.curves import SHARES, TOLERANCE, geometric_mean

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
    """The row of one strategy.

    Parameters
    ----------
    cells : sequence of cells
        Of one strategy in one setting, over the cases.
    target : mapping of str to cell
        Those of the strategy `target` in the same setting, by case; may be empty.

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
    every = [cell["speed_ups"][i] for cell in cells for i in shares]
    ratios = [
        bounded(cell, i) / bounded(target[cell["case"]], i)
        for cell in cells
        if cell["case"] in target
        for i in shares
    ]
    work = [cell["work_ms"] for cell in cells if cell["work_ms"] is not None]
    each = [(geometric_mean([bounded(cell, i) for i in shares]), cell["case"]) for cell in cells]
    return {
        "cases": len(cells),
        "means": [geometric_mean([bounded(cell, i) for cell in cells]) for i in shares],
        "mean": geometric_mean([bounded(cell, i) for cell in cells for i in shares]),
        "over_target": geometric_mean(ratios) if ratios else None,
        "median": float(np.median([mean for mean, _ in each])),
        "worst_case": min(each),
        "worst": None if None in every else min(every),
        "never": sum(cell["speed_ups"][-1] is None for cell in cells),
        "diverged": sum(cell["diverged"] for cell in cells),
        "slower": [cell["case"] for cell in cells if not all(cell["not_slower"])],
        "gradients": geometric_mean(
            [max(cell["gradients"], 1) / max(cell["plain"][-1], 1) for cell in cells]
        ),
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
    return {
        **cells[0],
        "final": None if None in finals else float(np.mean(finals)),
        "seeds": len(cells),
    }


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
        row: Row = {
            "runs": 0,
            "above": 0,
            "settings": 0,
            "settings_above": [],
            "worst": -np.inf,
        }
        mine = chosen(cells, strategy=strategy)
        for case, level, N in dict.fromkeys(
            (cell["case"], cell["level"], cell["parallelism"]) for cell in mine
        ):
            own = chosen(mine, case=case, level=level, parallelism=N)
            other = {cell["seed"]: cell for cell in _peers(cells, reference, case, level, N)}
            pairs = [(cell, other[cell["seed"]]) for cell in own if cell["seed"] in other]
            if not pairs:
                continue
            row["runs"] += len(pairs)
            row["above"] += sum(excess(a, b) > TOLERANCE for a, b in pairs)
            row["settings"] += 1
            mean = excess(averaged([a for a, _ in pairs]), averaged([b for _, b in pairs]))
            row["worst"] = max(row["worst"], mean)
            if mean > TOLERANCE:
                row["settings_above"].append([case, level, N])
        if row["runs"]:
            row["worst"] = row["worst"] if np.isfinite(row["worst"]) else None
            found[strategy] = row
    return found


def _peers(cells: Cells, strategy: str, case: str, level: float, N: int) -> list[Row]:
    """The runs of another strategy in the same setting; the optimizer alone has only N = 1."""
    return chosen(
        cells, strategy=strategy, case=case, level=level, parallelism=1 if strategy == PLAIN else N
    )


def summarize(cells: Cells) -> Row:
    """All summaries, by part and setting: what the JSON file holds."""
    summary: Row = {}
    for part in ("given", "best", "every"):
        for every in dict.fromkeys(cell["every"] for cell in chosen(cells, part=part)):
            some = chosen(cells, part=part, every=every)
            for N in numbers(some):
                name = f"N={N}" if every is None else f"N={N}, every={every}"
                summary.setdefault(part, {})[name] = summarize_strategies(at_once(some, N))
    noise = chosen(cells, part="noise")
    if noise:
        summary["noise"] = {r: summarize_noise(noise, r) for r in REFERENCES}
    return summary


def summarize_strategies(cells: Cells) -> dict[str, Row]:
    """`summarize_speed` of every strategy; `cells` are of one setting."""
    target = {cell["case"]: cell for cell in chosen(cells, strategy="target")}
    return {
        strategy: summarize_speed(chosen(cells, strategy=strategy), target)
        for strategy in strategies(cells)
    }
