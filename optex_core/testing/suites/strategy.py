"""Checks of strategies in the engine: N = 1, order of completion, failures, saves."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from optex_core.engine.optex import OptEx
from optex_core.errors import CapabilityError
from optex_core.optimizers.adam import Adam
from optex_core.optimizers.sgd import SGD
from optex_core.strategies.base import STRATEGIES, Strategy, get_strategy
from optex_core.testing import hypothesis_strategies as st
from optex_core.testing.assertions import assert_same_bits, assert_within
from optex_core.testing.check_suite import CheckSuite, require, require_equal
from optex_core.testing.properties import for_all
from optex_core.testing.sample_objectives import SmoothObjective
from optex_core.testing.suites._shared import drive, labelled, plain_path, reloaded
from optex_core.types import Array, Candidate

#: Curvatures of the function that all checks minimize: sum h x^2 / 2 + sum (1 - cos x) / 4.
H = np.array([1.0, 0.5, 0.25, 0.1])
X0 = np.array([3.0, -4.0, 1.0, 2.0])


def fun(x: Array) -> tuple[float, np.ndarray]:
    """Value and gradient; the gradient is 1.25-Lipschitz."""
    x = np.asarray(x, dtype=np.float64)
    return float(H @ (x * x)) / 2 + float((1 - np.cos(x)).sum()) / 4, H * x + np.sin(x) / 4


def prepare_strategy(strategy: str | type | Strategy) -> tuple[str, Strategy]:
    """Check a strategy, built in or one's own, in the engine.

    Parameters
    ----------
    strategy : str, class or Strategy

    Examples
    --------
    >>> from optex_core.testing import check_strategy
    >>> check_strategy("paper")["parallelism_one_is_plain_optimizer"].ok
    True
    """
    return labelled("strategy", strategy, Strategy, get_strategy)


def _registered() -> list[str]:
    """Strategies that take the optimizers of the checks."""
    return [name for name, kind in STRATEGIES.items() if kind.any_optimizer]


SUITE = CheckSuite("strategy", prepare_strategy, _registered)


def _engine(strategy: Strategy, x0: np.ndarray = X0, **options: Any) -> OptEx:
    """Three gradients an iteration, SGD and 12 iterations, unless `options` says otherwise."""
    given: dict[str, Any] = {"parallelism": 3, "rng": 0, "maxiter": 12, "gtol": 0.0, **options}
    given.setdefault("optimizer", SGD(0.3, momentum=0.5))
    return OptEx(x0, strategy=strategy, **given)


def _watch(engine: OptEx, look_at: Callable[[Candidate], None]) -> list[np.ndarray]:
    """Run `engine`, looking at every candidate."""

    def look(candidates: list[Candidate]) -> list[Candidate]:
        for c in candidates:
            look_at(c)
        return candidates

    return drive(engine, fun, look)


def _is_iterate(engine: OptEx, c: Candidate) -> bool:
    return c.slot == 0 or np.array_equal(c.x, engine.state.x)


@SUITE.check()
def parallelism_one_is_plain_optimizer(strategy: Strategy) -> None:
    """With parallelism=1 the run is bitwise identical to the optimizer alone."""
    for optimizer in (SGD(0.3, momentum=0.5), Adam(0.1)):
        engine = _engine(strategy, optimizer=optimizer, parallelism=1)
        found, own = drive(engine, fun, iterations=12), plain_path(optimizer, X0, fun, 12)
        for t, (a, b) in enumerate(zip(found, own, strict=True)):
            assert_same_bits(a, b, f"iterate {t} is not that of {type(optimizer).__name__} alone")


@SUITE.check()
def proposes_iterate_first_and_at_most_n_points(strategy: Strategy) -> None:
    """Every ask gives 1 to N read-only, finite points; slot 0 is the iterate itself."""
    engine = _engine(strategy)

    def look(candidates: list[Candidate]) -> list[Candidate]:
        n = len(candidates)
        require(1 <= n <= 3, f"{n} points were asked for with parallelism=3")
        for c in candidates:
            require(np.isfinite(c.x).all(), f"slot {c.slot} is {c.x}")
            require(not c.x.flags.writeable, f"slot {c.slot} can be written")
            if c.slot == 0:
                assert_same_bits(np.array(c.x), engine.result().x, "slot 0 is not the iterate")
        return candidates

    drive(engine, fun, look)


@SUITE.check()
def is_invariant_to_completion_order(strategy: Strategy) -> None:
    """Gradients told in any order give bitwise identical iterates."""
    expected = drive(_engine(strategy), fun)

    def body(order: tuple[int, ...]) -> None:
        look = lambda asked: [asked[i] for i in order if i < len(asked)]  # noqa: E731
        found = drive(_engine(strategy), fun, look)
        require_equal(len(found), len(expected), "number of iterates")
        for t, (a, b) in enumerate(zip(found, expected, strict=True)):
            assert_same_bits(a, b, f"iterate {t} depends on the order in which gradients are told")

    for_all(body, order=st.orders(3), examples=6)


@SUITE.check()
def saved_run_continues_identically(strategy: Strategy) -> None:
    """Saved after or within any iteration and loaded, the run continues bitwise identically."""
    expected = drive(_engine(strategy), fun)

    def body(iterations: int, observed: int) -> None:
        engine = _engine(strategy)
        drive(engine, fun, iterations=iterations)
        for c in engine.ask()[:observed]:
            value, gradient = fun(c.x)
            engine.tell(c.id, gradient=gradient, value=value)
        loaded = reloaded(engine, strategy=strategy)
        assert_same_bits(drive(loaded, fun)[-1], expected[-1], "the loaded run ends elsewhere")

    for_all(body, iterations=st.integers(0, 8), observed=st.integers(0, 2), examples=8)


@SUITE.check()
def is_reproducible(strategy: Strategy) -> None:
    """Two runs side by side are bitwise identical: nothing of a run is kept on the strategy."""
    first, second = _engine(strategy), _engine(strategy)
    a, b = [], []
    while not first.stop():
        a.append(drive(first, fun, iterations=1)[-1])
        b.append(drive(second, fun, iterations=1)[-1])
    assert_same_bits(a, b, "two runs side by side differ")
    require(first.result().deterministic, "the result says that it is not deterministic")


@SUITE.check()
def tolerates_failed_evaluations(strategy: Strategy) -> None:
    """Any proxies may fail: the run goes on to its end, finite, and lists what failed."""

    def body(lost: set[tuple[int, int]]) -> None:
        engine, gone = _engine(strategy), set()

        def lose(c: Candidate) -> bool:
            if (c.iteration, c.slot) in lost and not _is_iterate(engine, c):
                gone.add(c.id)
            return c.id in gone

        path = drive(engine, fun, lose=lose)
        result, stop = engine.result(), engine.stop()
        require(stop and "failed" not in stop, f"the run ended with {stop}")
        require(all(np.isfinite(x).all() for x in path), "an iterate is not finite")
        require_equal(len(result.failures), len(gone), "number of failures listed")
        first = fun(X0)[0]
        require(result.fun < first, f"the value went from {first:.4g} to {result.fun:.4g}")

    cells = st.tuples(st.integers(0, 11), st.integers(1, 2))
    for_all(body, lost=st.sets(cells, max_size=12), examples=20)


@SUITE.check()
def decreases_quadratics(strategy: Strategy) -> None:
    """25 iterations descend, at worst to 1.5 times the value of the plain optimizer."""

    def body(problem: SmoothObjective, N: int) -> None:
        start = problem.centre + 2.0
        engine = _engine(strategy, start, optimizer=SGD(0.3), parallelism=N, maxiter=25)
        drive(engine, problem)
        x = plain_path(SGD(0.3), start, problem, 25)[-1]
        found, plain, first = engine.result().fun, problem(x)[0], problem(start)[0]
        text = f"25 iterations from {first:.6g} end at {found:.6g}, the optimizer at {plain:.6g}"
        require(found <= 1.5 * plain + 1e-9 * first, text)

    for_all(body, problem=st.quadratics(condition=30.0), N=st.integers(2, 4), examples=15)


@SUITE.check()
def preserves_dtype(strategy: Strategy) -> None:
    """float32 parameters are asked, and returned, in float32."""
    engine = _engine(strategy, X0.astype(np.float32))
    _watch(engine, lambda c: require(c.x.dtype == np.float32, f"a point is {c.x.dtype}"))
    require_equal(engine.result().x.dtype, np.dtype(np.float32), "dtype of the result")


@SUITE.check()
def respects_bounds(strategy: Strategy) -> None:
    """Every point asked for and every iterate lies within the bounds."""
    low, high = np.array([-1.0, -9.0, 0.5, -9.0]), np.array([4.0, 9.0, 2.0, 9.0])

    def inside(x: Array, what: str) -> None:
        require(((low <= x) & (x <= high)).all(), f"{what} at {x} leaves the bounds")

    engine = _engine(strategy, bounds=list(zip(low, high, strict=True)))
    for x in _watch(engine, lambda c: inside(c.x, f"slot {c.slot}")):
        inside(x, "the iterate")


@SUITE.check()
def declares_needs_values(strategy: Strategy) -> None:
    """A gradient alone is refused with a sentence where, and only where, values are needed."""
    engine = _engine(strategy)
    first, refused = engine.ask()[0], False
    try:
        engine.tell(first.id, gradient=fun(first.x)[1])
    except CapabilityError:
        refused = True
    require_equal(strategy.needs_values, refused, "needs_values, where a gradient alone is tried")
    while not refused and not engine.stop():
        for c in engine.ask():
            engine.tell(c.id, gradient=fun(c.x)[1])
    require(np.isfinite(engine.result().x).all(), "without values the iterate is not finite")


@SUITE.check()
def counters_are_exact(strategy: Strategy) -> None:
    """njev, nit and nsteps count, and the last point is known with its own gradient."""
    engine, asked = _engine(strategy), list[Candidate]()
    _watch(engine, asked.append)
    result = engine.result()
    require_equal(result.njev, len(asked), "njev")
    require_equal(result.nit, 12, "nit")
    require(result.nsteps >= result.nit, f"{result.nsteps} steps in {result.nit} iterations")
    value, gradient = fun(result.x)
    for name, expected in (("fun", np.asarray(value)), ("jac", gradient)):
        bound, text = 1e-15 * (1 + np.abs(expected)), f"result.{name} does not belong to result.x"
        assert_within(result[name], expected, bound, text)


@SUITE.check()
def nan_does_not_propagate(strategy: Strategy) -> None:
    """A proxy's gradient of nan leaves the run finite and descending."""
    _assert_descends_despite(strategy, np.nan)


@SUITE.check(when=lambda s: s.rejects_outliers, why="it takes every finite gradient")
def outlier_gradients_are_rejected(strategy: Strategy) -> None:
    """A proxy's gradient 10^30 times longer than that of the iterate leaves the run descending."""
    _assert_descends_despite(strategy, 1e30)


def _assert_descends_despite(strategy: Strategy, bad: float) -> None:
    engine = _engine(strategy)
    while not engine.stop():
        for c in engine.ask():
            value, gradient = fun(c.x)
            if c.slot == 2 and c.iteration % 3 == 1 and not _is_iterate(engine, c):
                gradient[:] = bad
            engine.tell(c.id, gradient=gradient, value=value)
    x, first = engine.result().x, fun(X0)[0]
    require(np.isfinite(x).all(), f"a proxy's gradient of {bad} reached the iterate {x}")
    text = f"with proxies' gradients of {bad} the value went from {first:.4g} to {fun(x)[0]:.4g}"
    require(fun(x)[0] < first, text)
