"""Methods compared on one task, each at its own best rate of one grid."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from optex_core._minimize import minimize
from optex_core.bench._lbfgsb import NAME as LBFGSB
from optex_core.bench._lbfgsb import run_lbfgsb
from optex_core.bench._result_store import Store
from optex_core.bench._runner import Row, as_json
from optex_core.bench._tables import first_hit
from optex_core.engine.stopping import Status
from optex_core.engine.trace import Trace
from optex_core.errors import EvaluationError

#: The optimizer alone; every goal is what it reaches.
ALONE = "sequential"
#: The optimizer alone at N times its rate: what longer steps give without a model.
FASTER = "sequential, N x rate"
#: `minimize` without an optimizer.
RATELESS = "without a rate"
#: Not achievable: N steps after one another, counted as one round.
IDEAL = "target"
#: Strategies that are given the optimizer; each gets the same grid of rates.
RATED = (ALONE, "data_parallel", "repeat_last", "line_search", "paper", "auto", IDEAL)
METHODS = (ALONE, FASTER, *RATED[1:-1], RATELESS, LBFGSB, IDEAL)
#: Of the run on which rates are chosen; results are of other seeds.
TUNING_SEED = 1000
#: Points of a curve in the figures.
POINTS = 21


@dataclass(slots=True)
class Run:
    """One run of one method."""

    values: list[float]  # without noise, after 0, 1, ... rounds; inf from where it is not finite
    gradients: list[int]  # spent until then
    seconds: list[float]

    @property
    def final(self) -> float:
        """The mean over the last tenth of the rounds, three at least."""
        return float(np.mean(self.values[-max(3, len(self.values) // 10) :]))


@dataclass(frozen=True, slots=True)
class Task:
    """One problem of a study."""

    name: str
    title: str
    #: ``run(method, rate, seed, workers) -> Run`` with `rounds` + 1 values; the rate is None for
    #: methods without one, `workers` as `minimize` takes it.
    run: Callable[[str, float | None, int, object], Run]
    rates: Sequence[float]  # the grid, ascending
    rounds: int
    parallelism: int
    noisy: bool = False  # goals must be met on the mean of three iterates
    methods: Sequence[str] = METHODS
    seeds: int = 5
    rates_of: str = ""  # another task whose rates are taken; "": its own
    clock: Sequence[str] = ()  # methods that also run on real workers
    workers: int = 2  # real ones


@dataclass(frozen=True, slots=True)
class Objective:
    """What `minimize` gets, and what is judged."""

    fun: Callable[..., Any]  # x -> (value, gradient), with a keyword ``seed`` where it is noisy
    x0: np.ndarray  # shape (d,)
    value: Callable[[np.ndarray], float] | None = None  # without noise; None: `fun` has none


def minimized(
    make: Callable[[int], Objective],
    optimizer: Callable[[float], object],
    rounds: int,
    parallelism: int,
    method: str,
    rate: float | None,
    seed: int,
    workers: object = None,
    **options: object,
) -> Run:
    """Run one method of METHODS on the objective of a seed; `options` are those of `minimize`."""
    objective = make(seed)
    # A run that diverges overflows on its way.
    with np.errstate(all="ignore"):
        if method == LBFGSB:
            trace, _ = run_lbfgsb(objective.fun, objective.x0, max_evals=rounds)
            # An evaluation within a line search is no iterate: the best so far.
            return _padded(np.fmin.accumulate(trace.value), trace, rounds)
        points = [objective.x0]
        given: Row = {} if rate is None else {"optimizer": optimizer(rate)}
        if method != RATELESS:
            given["strategy"] = ALONE if method == FASTER else method
        given |= options
        try:
            result = minimize(
                objective.fun, objective.x0, parallelism=parallelism, workers=workers, rng=seed,
                maxiter=rounds, gtol=0.0, **given,
                callback=lambda intermediate_result: points.append(intermediate_result.x),
            )  # fmt: skip
        except EvaluationError as error:  # a simulator refuses points far outside its range
            result = error.partial_result
        values = result.history.value
        if objective.value is not None:
            values = np.array([objective.value(x) for x in points])
    ended = result.status in (Status.DIVERGED, Status.FAILED)
    return _padded(values, result.history, rounds, math.inf if ended else None)


def _padded(values: np.ndarray, trace: Trace, rounds: int, fill: float | None = None) -> Run:
    """A run of exactly `rounds` rounds; one that ended before stays where it was (`fill` None)."""
    spent = np.nan_to_num(trace.seconds)
    # Starting the worker processes is no part of a run.
    spent[0] = min(spent[0], np.nan_to_num(trace.slowest[0] + trace.overhead[0]))
    clock = np.concatenate([[0.0], np.cumsum(spent)[:-1]])
    count = min(len(values), len(trace), rounds + 1)
    shown = [float(v) if math.isfinite(v) else math.inf for v in values[:count]]
    missing = rounds + 1 - count
    return Run(
        shown + [shown[-1] if fill is None else fill] * missing,
        np.pad(trace.gradients[:count], (0, missing), "edge").tolist(),
        np.pad(clock[:count], (0, missing), "edge").tolist(),
    )


def task(
    name: str,
    title: str,
    make: Callable[[int], Objective],
    optimizer: Callable[[float], object],
    rates: Sequence[float],
    rounds: int,
    parallelism: int,
    **settings: Any,
) -> Task:
    """A `Task` whose runs are those of `minimize` and of SciPy."""
    if settings.get("noisy"):
        settings.setdefault("methods", tuple(m for m in METHODS if m != LBFGSB))
    run = partial(minimized, make, optimizer, rounds, parallelism)
    return Task(name, title, run, rates, rounds, parallelism, **settings)


def compare(tasks: Sequence[Task], store: Store) -> list[Row]:
    """Tune and run every method on every task.

    The goal of a seed is what `sequential` has reached there, as the mean over the last tenth of
    its rounds. A rate is the one of the grid that reaches the goal of TUNING_SEED in the fewest
    rounds; between equals, and for `sequential` itself, the one with the lowest final value.

    Returns
    -------
    list of dict
        JSON: settings, goals and for every method its rate, whether that is an end of the grid
        (``edge``), and for every seed ``rounds``, ``gradients``, ``final`` and ``seconds`` on real
        workers (None: goal never reached); a median ``curve`` of (round, value).
    """
    found: dict[str, Row] = {}
    for one in tasks:
        rates = found[one.rates_of]["rates"] if one.rates_of else _tune(one, store)
        goals: list[float] = []
        methods = {}
        for method in (ALONE, *(m for m in one.methods if m != ALONE)):
            rate = rates.get(method)
            runs = [_kept(one, method, rate, seed, store) for seed in range(one.seeds)]
            goals = goals or [run.final for run in runs]
            methods[method] = _summary(one, method, rate, runs, goals, store)
        found[one.name] = {
            "task": one.name,
            "title": one.title,
            "N": one.parallelism,
            "rounds": one.rounds,
            "grid": list(one.rates),
            "seeds": one.seeds,
            "workers": one.workers if one.clock else None,
            "rates": rates,
            "goals": goals,
            "methods": {m: methods[m] for m in one.methods},
        }
    return list(found.values())


def _tune(one: Task, store: Store) -> dict[str, float]:
    """Method -> rate."""
    found: dict[str, float] = {}
    goal = math.inf
    for method in (m for m in RATED if m in one.methods):
        tried = []
        for rate in one.rates:
            run = _kept(one, method, rate, TUNING_SEED, store)
            hit = None if method == ALONE else _first(one, run, goal)
            tried.append((math.inf if hit is None else hit, run.final, rate))
        _, final, found[method] = min(tried)
        goal = final if method == ALONE else goal
    if FASTER in one.methods:
        found[FASTER] = one.parallelism * found[ALONE]
    return found


def _kept(
    one: Task, method: str, rate: float | None, seed: int, store: Store, workers: object = None
) -> Run:
    """The run, from the store where it is there."""
    key = f"{one.name}/{method}/{'-' if rate is None else f'{rate:.6g}'}/{seed}"
    cell = store.compute(
        key if workers is None else f"{key}/{workers} workers",
        lambda: as_json(one.run(method, rate, seed, workers)),
    )
    return Run(**{**cell, "values": [math.inf if v is None else v for v in cell["values"]]})


def _first(one: Task, run: Run, goal: float) -> int | None:
    """The first round at the goal."""
    curve = np.array(run.values)
    if one.noisy and len(curve) > 2:  # the mean of three, counted at the last of them
        curve[2:] = (curve[:-2] + curve[1:-1] + curve[2:]) / 3
    return first_hit(curve, goal)


def _summary(
    one: Task, method: str, rate: float | None, runs: Sequence[Run], goals: Sequence[float],
    store: Store,
) -> Row:  # fmt: skip
    def spent(runs: Sequence[Run], what: str) -> list[Any]:
        """Of each run until its goal: "gradients", "seconds"."""
        hits = [_first(one, run, goal) for run, goal in zip(runs, goals, strict=True)]
        pairs = zip(hits, runs, strict=True)
        return [None if hit is None else getattr(run, what)[hit] for hit, run in pairs]

    at = np.linspace(0, one.rounds, min(POINTS, one.rounds + 1)).astype(int)
    summary: Row = {
        "rate": rate,
        "edge": method in RATED and rate in (one.rates[0], one.rates[-1]),
        "rounds": [_first(one, run, goal) for run, goal in zip(runs, goals, strict=True)],
        "gradients": spent(runs, "gradients"),
        "final": [run.final for run in runs],
        "curve": [[int(k), float(np.median([run.values[k] for run in runs]))] for k in at],
    }
    if method in one.clock:
        workers = 1 if method == LBFGSB else one.workers
        clocked = [_kept(one, method, rate, seed, store, workers) for seed in range(one.seeds)]
        summary["seconds"] = spent(clocked, "seconds")
    return summary
