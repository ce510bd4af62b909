"""Final values under noise at a grid of rates: networks on minibatches of the digits, and problems
with additive noise.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from optex_core._minimize import minimize
from optex_core.bench._runner import Row
from optex_core.bench._tables import columns, short
from optex_core.bench.shampoo.tasks import network
from optex_core.optimizers.adam import Adam
from optex_core.optimizers.sgd import SGD
from optex_core.problems.base import get_problem
from optex_core.problems.noisy import Noisy

ROUNDS = 100
#: In the order of the tables.
STRATEGIES = ("auto", "sequential", "data_parallel")
#: A run may end above the better of the others by this factor; it gains from `GAIN` on.
LEVEL, GAIN = 1.05, 1.3
#: By seed: ``fun(x, seed=)``, x0, and the value without noise.
Make = Callable[[int], tuple[Callable[..., Any], np.ndarray, Callable[[np.ndarray], float]]]


@dataclass(frozen=True, slots=True)
class RatesCase:
    """A noisy problem with an optimizer and its rates."""

    title: str
    make: Make
    optimizer: Callable[[float], Any]
    rates: tuple[float, ...]


def rates_suite() -> dict[str, RatesCase]:
    """All cases by name, in the order of the tables."""
    momentum = partial(SGD, momentum=0.9)
    relu, deep = partial(_digits, (64,), 64, relu=True), partial(_digits, (48, 48), 64)
    small, tanh = partial(_digits, (64,), 16, relu=True), partial(_digits, (32,), 32)
    softmax, additive = partial(_digits, (), 32), partial(_additive, "quadratic", 30)
    networks: tuple[tuple[str, str, Make, tuple[float, ...], tuple[float, ...]], ...] = (
        ("relu", "ReLU 64-64-10, batch 64", relu, (0.001, 0.003, 0.01, 0.03, 0.06, 0.1),
         (0.03, 0.1, 0.3, 1.0)),
        ("relu16", "ReLU 64-64-10, batch 16", small, (0.01, 0.03, 0.1), (0.1, 0.3, 1.0)),
        ("tanh", "tanh 64-32-10, batch 32", tanh, (0.01, 0.03, 0.06, 0.1), (0.1, 0.3, 1.0)),
        ("deep", "tanh 64-48-48-10, batch 64", deep, (0.003, 0.01, 0.03, 0.06), (0.1, 0.3, 1.0)),
        ("softmax", "softmax, batch 32", softmax, (0.03, 0.1, 0.3, 1.0), (0.3, 1.0, 3.0, 10.0)),
    )  # fmt: skip
    found = {}
    for name, title, make, adam, fast in networks:
        found[f"{name}_adam"] = RatesCase(f"{title}, Adam", make, Adam, adam)
        found[f"{name}_momentum"] = RatesCase(f"{title}, momentum", make, momentum, fast)
    found["relu_sgd"] = RatesCase("ReLU 64-64-10, batch 64, SGD", relu, SGD, (0.1, 0.3, 1.0, 3.0))
    for level in (0.1, 1.0, 5.0):
        title = f"quadratic 30, noise {level:g}, Adam"
        found[f"quadratic_{level:g}"] = RatesCase(
            title, partial(additive, level), Adam, (0.03, 0.1, 0.3)
        )
    for name, d, rates in (
        ("rosenbrock", 10, (0.01, 0.03, 0.1)),
        ("logistic", 20, (0.03, 0.1, 0.3)),
    ):
        found[f"{name}_1"] = RatesCase(
            f"{name} {d}, noise 1, Adam", partial(_additive, name, d, 1.0), Adam, rates
        )
    return found


def run_rates(case: RatesCase, cell: Any) -> Row:
    """The value without noise after ROUNDS rounds; None if it is not finite."""
    fun, x0, value = case.make(cell.seed)
    found = minimize(
        fun, x0, optimizer=case.optimizer(cell.rate), parallelism=cell.parallelism,
        strategy=cell.strategy, workers=None, rng=cell.seed, maxiter=ROUNDS,
        gtol=0.0,  # the gradient of one batch may vanish
    )  # fmt: skip
    final = value(np.asarray(found.x))
    return {"final": final if math.isfinite(final) else None}


def summarize_rates(cells: Sequence[Row]) -> Row:
    """By N, a row for each case and rate, with the final values of each strategy."""
    titles = {name: case.title for name, case in rates_suite().items()}
    found: Row = {}
    for N in sorted({cell["parallelism"] for cell in cells} - {1}):
        rows: dict[tuple[str, float], Row] = {}
        for cell in cells:
            if cell["parallelism"] in (1, N):
                new = {"case": titles[cell["case"]], "rate": cell["rate"], "ends": {}}
                row = rows.setdefault((cell["case"], cell["rate"]), new)
                row["ends"].setdefault(cell["strategy"], []).append(cell["final"])
        found[f"N={N}"] = list(rows.values())
    return found


def rates_report(summary: Mapping[str, Sequence[Row]]) -> str:
    """The tables of what `summarize_rates` says, worst first."""
    texts = []
    for setting, rows in summary.items():
        pairs, best = [], []
        for row in rows:
            ends = {s: _known(row["ends"][s]) for s in STRATEGIES}
            title = f"{row['case']} {row['rate']:g}"
            pairs.append((title, {s: (_spread(e), _median(e)) for s, e in ends.items()}))
        for title in dict.fromkeys(row["case"] for row in rows):
            own = [row for row in rows if row["case"] == title]
            found = {}
            for s in STRATEGIES:
                end, rate = min((_median(_known(row["ends"][s])), row["rate"]) for row in own)
                edge = " !" if rate in (own[0]["rate"], own[-1]["rate"]) else ""
                found[s] = f"{short(end)} @ {rate:g}{edge}", end
            best.append((title, found))
        seeds = len(rows[0]["ends"][STRATEGIES[0]])
        texts += [
            f"Noisy gradients, {setting.replace('=', ' = ')}: value without noise after {ROUNDS} "
            f"rounds, median [lowest, highest] of {seeds} seeds; ratio of auto to the better of "
            f"the two\n\n{_table('case, rate', pairs)}",
            f"Each at its own best rate (!: an end of the grid)\n\n{_table('case', best)}",
        ]
    return "\n\n\n".join(texts)


def _table(head: str, rows: Sequence[tuple[str, Mapping[str, tuple[str, float]]]]) -> str:
    """Rows of texts and medians by strategy, by their ratio; how many are above, how many gain."""
    found = []
    for title, entries in rows:
        own, *others = (entries[s][1] for s in STRATEGIES)
        found.append((own / min(others), [title, *(entries[s][0] for s in STRATEGIES)]))
    found.sort(key=lambda row: -row[0])
    lines = [[*texts, short(ratio)] for ratio, texts in found]
    above, gain = sum(r > LEVEL for r, _ in found), sum(r * GAIN <= 1.0 for r, _ in found)
    return (
        f"{columns((head, *STRATEGIES, 'ratio'), lines)}\n\nof {len(found)}: above {LEVEL} on "
        f"{above}, lower by {GAIN} x and more on {gain}"
    )


def _known(ends: Sequence[float | None]) -> list[float]:
    return sorted(math.inf if end is None else end for end in ends)


def _median(ends: Sequence[float]) -> float:
    return float(np.median(ends))


def _spread(ends: Sequence[float]) -> str:
    return f"{short(_median(ends))} [{short(ends[0])}, {short(ends[-1])}]"


def _digits(
    hidden: tuple[int, ...], batch: int, seed: int, *, relu: bool = False
) -> tuple[Callable[..., Any], np.ndarray, Callable[[np.ndarray], float]]:
    task = network(seed, batch, hidden, relu=relu)
    return lambda x, *, seed: task.gradient(x, seed), task.start, task.value


def _additive(
    name: str, d: int, level: float, seed: int
) -> tuple[Callable[..., Any], np.ndarray, Callable[[np.ndarray], float]]:
    problem = get_problem(name, d=d)
    noisy, spread = Noisy(problem, level), 0.1 * level * abs(problem.value(problem.start(0)))

    def fun(x: np.ndarray, *, seed: int) -> tuple[float, np.ndarray]:
        value, gradient = noisy(x, seed=seed)
        return value + spread * float(np.random.default_rng((seed, 1)).standard_normal()), gradient

    return fun, problem.start(seed + 1), problem.value
