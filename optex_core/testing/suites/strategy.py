"""What every strategy definitions: N = 1 is the optimizer, orders of completion do not matter,
failures cost their point alone, saves are exact.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from optex_core._validation import short_repr
from optex_core.engine.optex import OptEx
from optex_core.errors import ArgumentTypeError, CapabilityError
from optex_core.optimizers._bound import bind_optimizer
from optex_core.optimizers.adam import Adam
from optex_core.optimizers.sgd import SGD
from optex_core.strategies.base import STRATEGIES, Strategy, get_strategy
from optex_core.testing.assertions import assert_same_bits, assert_within
from optex_core.testing.check_suite import CheckReport, CheckSuite, require
from optex_core.testing.properties import for_all

#: Curvatures of the function that all checks minimise: sum h x^2 / 2 + sum (1 - cos x) / 4.
H = np.array([1.0, 0.5, 0.25, 0.1])
X0 = np.array([3.0, -4.0, 1.0, 2.0])


def fun(x: np.ndarray) -> tuple[float, np.ndarray]:
    """Value and gradient; the gradient is 1.25-Lipschitz."""
    x = np.asarray(x, dtype=np.float64)
    return float(H @ (x * x)) / 2 + float((1 - np.cos(x)).sum()) / 4, H * x + np.sin(x) / 4


@dataclass(frozen=True)
class Subject:
    """A strategy."""

    label: str
    strategy: Strategy

    def engine(self, x0: np.ndarray = X0, **options: Any) -> OptEx:
        """An engine with this strategy, SGD, three gradients and 12 iterations unless `options`
        says otherwise.
        """
        given: dict[str, Any] = {
            "optimizer": SGD(0.3, momentum=0.5),
            "parallelism": 3,
            "rng": 0,
            "maxiter": 12,
            "gtol": 0.0,
            **options,
        }
        return OptEx(x0, strategy=self.strategy, **given)


def prepare(strategy: Any) -> Subject:
    """A registered name, a class that needs no settings, or an object."""
    made = strategy() if isinstance(strategy, type) and issubclass(strategy, Strategy) else strategy
    if not isinstance(made, (str, Strategy)):
        raise ArgumentTypeError(
            f"check_strategy takes a strategy, its class or its name, got {short_repr(strategy)}"
        )
    return Subject(strategy if isinstance(strategy, str) else repr(made), get_strategy(made))


def _registered_subjects() -> Iterable[str]:
    return list(STRATEGIES)


SUITE = CheckSuite("strategy", prepare, _registered_subjects)


def check_strategy(
    strategy: Any, *, expected_failures: Mapping[str, str] | None = None
) -> CheckReport:
    """Check a strategy, built in or one's own, in the engine.

    Parameters
    ----------
    strategy : str, class or Strategy
    expected_failures : mapping of str to str, optional
        Check -> reason. Strict: one that passes is a failure.

    Returns
    -------
    CheckReport
        A list of `CheckResult`, true where all is well.

    Examples
    --------
    >>> from optex_core.testing import check_strategy
    >>> check_strategy("paper")["parallelism_one_is_plain_optimizer"].ok
    True
    """
    return SUITE.run(strategy, expected_failures)


Choose = Callable[[list[Any]], Iterable[Any]]


def _as_asked(candidates: list[Any]) -> list[Any]:
    return candidates


def drive(
    engine: OptEx,
    order: Choose = _as_asked,
    lose: Callable[[Any], bool] | None = None,
    rounds: int | None = None,
) -> list[np.ndarray]:
    """Run `engine` on `fun`, telling in the order that `order` gives and as failures what `lose`
    picks; the iterates of its rounds.
    """
    path = [np.array(engine.state.x)]
    asks = 0
    while not engine.stop() and (rounds is None or asks < rounds):
        for c in order(engine.ask()):
            if lose is not None and lose(c):
                engine.tell(c.id, error=RuntimeError("lost"))
            else:
                value, gradient = fun(c.x)
                engine.tell(c.id, gradient=gradient, value=value)
        path.append(np.array(engine.state.x))
        asks += 1
    return path


@SUITE.check()
def parallelism_one_is_plain_optimizer(s: Subject) -> None:
    """With parallelism=1 the run is the optimizer alone, bit for bit."""
    for optimizer in (SGD(0.3, momentum=0.5), Adam(0.1)):
        found = drive(s.engine(optimizer=optimizer, parallelism=1), rounds=12)
        x, stepper = X0, bind_optimizer(optimizer)
        state = stepper.init(x)
        for t, point in enumerate(found):
            assert_same_bits(
                point, x, f"iterate {t} is not that of {type(optimizer).__name__} alone"
            )
            value, g = fun(x)
            x, state = stepper.step(x, g, state, value=value)


@SUITE.check()
def proposes_iterate_first_and_at_most_n_points(s: Subject) -> None:
    """Every ask gives 1 to N read-only, finite points; slot 0 of a round is the iterate itself."""
    engine = s.engine()

    def looked(candidates: list[Any]) -> list[Any]:
        require(
            1 <= len(candidates) <= 3, f"{len(candidates)} points were asked for with parallelism=3"
        )
        for c in candidates:
            require(np.isfinite(c.x).all(), f"slot {c.slot} is {c.x}")
            require(not c.x.flags.writeable, f"slot {c.slot} can be written")
        if candidates[0].slot == 0:
            assert_same_bits(
                np.array(candidates[0].x), np.array(engine.result().x), "slot 0 is not the iterate"
            )
        return candidates

    drive(engine, looked)


@SUITE.check()
def is_invariant_to_completion_order(s: Subject) -> None:
    """Gradients n_observed in any order give the same bits."""
    from optex_core.testing import hypothesis_strategies as st

    expected = drive(s.engine())

    def body(order: tuple[int, ...]) -> None:
        def shuffled(candidates: list[Any]) -> list[Any]:
            return [candidates[i] for i in order if i < len(candidates)]

        found = drive(s.engine(), shuffled)
        require(len(found) == len(expected), f"{len(found)} rounds in place of {len(expected)}")
        for t, (a, b) in enumerate(zip(found, expected, strict=True)):
            assert_same_bits(
                a, b, f"iterate {t} depends on the order in which gradients are n_observed"
            )

    for_all(body, order=st.orders(3), examples=6)


@SUITE.check()
def saved_run_continues_identically(s: Subject) -> None:
    """Saved after any round, or in the middle of one, and loaded, the run goes on as if nothing had
    happened.
    """
    from optex_core.testing import hypothesis_strategies as st

    expected = drive(s.engine())

    def body(rounds: int, n_observed: int) -> None:
        engine = s.engine()
        drive(engine, rounds=rounds)
        for c in engine.ask()[:n_observed]:
            value, gradient = fun(c.x)
            engine.tell(c.id, gradient=gradient, value=value)
        with tempfile.TemporaryDirectory() as folder:
            engine.save(Path(folder) / "run")
            try:
                loaded = OptEx.load(Path(folder) / "run")
            except Exception:  # a strategy that is not registered is passed again
                loaded = OptEx.load(Path(folder) / "run", strategy=s.strategy)
        assert_same_bits(
            drive(loaded)[-1],
            expected[-1],
            f"saved after {rounds} rounds and {n_observed} gradients, it ends elsewhere",
        )

    for_all(body, rounds=st.st.integers(0, 8), n_observed=st.st.integers(0, 2), examples=8)


@SUITE.check()
def is_reproducible(s: Subject) -> None:
    """Nothing of a run is kept on the strategy, and nothing depends on the clock."""
    first, second = s.engine(), s.engine()
    a, b = [], []
    while not first.stop():  # side by side
        a.append(drive(first, rounds=1)[-1])
        b.append(drive(second, rounds=1)[-1])
    assert_same_bits(a, b, "two runs side by side differ")
    require(first.result().deterministic, "the result says that it is not deterministic")


@SUITE.check()
def tolerates_failed_evaluations(s: Subject) -> None:
    """Any proxies may fail: the run goes on to its end, finite, and lists what failed."""
    from optex_core.testing import hypothesis_strategies as st

    def body(lost: set[tuple[int, int]]) -> None:
        engine = s.engine()
        theta: set[int] = set()

        def lose(c: Any) -> bool:
            gone = (
                (c.iteration, c.slot) in lost
                and c.slot > 0
                and not np.array_equal(c.x, engine.state.x)
            )
            theta.update([c.id] if gone else [])
            return gone

        path = drive(engine, lose=lose)
        result = engine.result()
        require(
            engine.stop() and "failed" not in engine.stop(), f"the run ended with {engine.stop()}"
        )
        require(all(np.isfinite(x).all() for x in path), "an iterate is not finite")
        require(
            len(result.failures) == len(theta),
            f"{len(theta)} points were lost, {len(result.failures)} are listed",
        )
        require(
            result.fun < fun(X0)[0], f"the value went from {fun(X0)[0]:.4g} to {result.fun:.4g}"
        )

    cells = st.st.tuples(st.st.integers(0, 11), st.st.integers(1, 2))
    for_all(body, lost=st.st.sets(cells, max_size=12), examples=20)


@SUITE.check()
def decreases_quadratics(s: Subject) -> None:
    """On convex quadratics at 0.3 of the inverse curvature, 25 rounds end lower than they began,
    and no worse than 1.5 times the plain optimizer.
    """
    from optex_core.testing import hypothesis_strategies as st

    def body(problem: Any, N: int) -> None:
        start = problem.centre + 2.0
        engine = OptEx(
            start, strategy=s.strategy, optimizer=SGD(0.3), parallelism=N, rng=0, maxiter=25
        )
        while not engine.stop():
            for c in engine.ask():
                value, gradient = problem(np.asarray(c.x))
                engine.tell(c.id, gradient=gradient, value=value)
        x = start
        for _ in range(25):
            x = x - 0.3 * problem(x)[1]
        found, plain, first = engine.result().fun, problem(x)[0], problem(start)[0]
        require(
            found <= 1.5 * plain + 1e-9 * first,
            f"25 rounds ended at {found:.6g}, the optimizer alone at {plain:.6g}, from {first:.6g}",
        )

    for_all(body, problem=st.quadratics(condition=30.0), N=st.st.integers(2, 4), examples=15)


@SUITE.check()
def preserves_dtype(s: Subject) -> None:
    """float32 parameters are asked, and returned, in float32."""
    engine = s.engine(X0.astype(np.float32))

    def looked(candidates: list[Any]) -> list[Any]:
        require(
            all(c.x.dtype == np.float32 for c in candidates),
            "a float64 point was asked in a float32 run",
        )
        return candidates

    drive(engine, looked)
    require(
        engine.result().x.dtype == np.float32, f"the result has dtype {engine.result().x.dtype}"
    )


@SUITE.check()
def respects_bounds(s: Subject) -> None:
    """Every point asked for and every iterate lies within the bounds."""
    low, high = np.array([-1.0, -9.0, 0.5, -9.0]), np.array([4.0, 9.0, 2.0, 9.0])
    engine = s.engine(bounds=list(zip(low, high, strict=True)))

    def looked(candidates: list[Any]) -> list[Any]:
        for c in candidates:
            require(
                ((low <= c.x) & (c.x <= high)).all(), f"slot {c.slot} at {c.x} leaves the bounds"
            )
        return candidates

    for x in drive(engine, looked):
        require(((low <= x) & (x <= high)).all(), f"the iterate {x} leaves the bounds")


@SUITE.check()
def declares_needs_values(s: Subject) -> None:
    """A gradient-only oracle works unless `needs_values` is declared, and is refused with a
    sentence where it is.
    """
    engine = s.engine()
    first = engine.ask()[0]
    try:
        engine.tell(first.id, gradient=fun(first.x)[1])
        refused = False
    except CapabilityError:
        refused = True
    require(
        refused == s.strategy.needs_values,
        f"needs_values is {s.strategy.needs_values}, and a gradient alone was "
        f"{'refused' if refused else 'taken'}",
    )
    while not refused and not engine.stop():
        for c in engine.ask():
            engine.tell(c.id, gradient=fun(c.x)[1])
    require(np.isfinite(engine.result().x).all(), "without values the iterate is not finite")


@SUITE.check()
def counters_are_exact(s: Subject) -> None:
    """njev is the number of gradients n_observed, nit of iterations, nsteps at least that; the last point
    is known with its own gradient.
    """
    engine = s.engine()
    count = 0

    def counted(candidates: list[Any]) -> list[Any]:
        nonlocal count
        count += len(candidates)
        return candidates

    drive(engine, counted)
    result = engine.result()
    require(result.njev == count, f"{count} gradients were n_observed, njev is {result.njev}")
    require(result.nit == 12, f"12 iterations were asked for, nit is {result.nit}")
    require(result.nsteps >= result.nit, f"{result.nsteps} steps in {result.nit} iterations")
    assert_within(
        result.jac,
        fun(result.x)[1],
        1e-15 * (1 + np.abs(result.jac)),
        "result.jac is not the gradient at result.x",
    )
    assert_within(
        result.fun,
        fun(result.x)[0],
        1e-15 * (1 + abs(result.fun)),
        "result.fun is not the value at result.x",
    )


@SUITE.check()
def nan_does_not_propagate(s: Subject) -> None:
    """A proxy's gradient of nan leaves the run finite and descending."""
    _wild(s, np.nan)


@SUITE.check(when=lambda s: s.strategy.rejects_outliers, why="it believes every finite gradient")
def outlier_gradients_are_rejected(s: Subject) -> None:
    """A proxy's gradient 10^30 times longer than that of the iterate leaves the run descending."""
    _wild(s, 1e30)


def _wild(s: Subject, bad: float) -> None:
    engine = s.engine()
    while not engine.stop():
        for c in engine.ask():
            value, gradient = fun(c.x)
            proxy = c.slot == 2 and c.iteration % 3 == 1 and not np.array_equal(c.x, engine.state.x)
            engine.tell(c.id, gradient=np.full(4, bad) if proxy else gradient, value=value)
    x = engine.result().x
    require(np.isfinite(x).all(), f"a proxy's gradient of {bad} reached the iterate {x}")
    require(
        fun(x)[0] < fun(X0)[0],
        f"with proxies' gradients of {bad} the value went from {fun(X0)[0]:.4g} to {fun(x)[0]:.4g}",
    )
