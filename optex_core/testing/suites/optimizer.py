"""Checks of optimizers: those of single steps, and here descent, schedules, the formula, and runs
in the engine.
"""

from __future__ import annotations

import dataclasses
import math
import tempfile
from pathlib import Path

import numpy as np

from optex_core._validation import short_repr
from optex_core.engine.optex import OptEx
from optex_core.errors import ArgumentError, ArgumentTypeError
from optex_core.optimizers._on_backend import bind_optimizer
from optex_core.optimizers._pytree import tree_flatten, tree_unflatten
from optex_core.optimizers.base import OPTIMIZERS
from optex_core.optimizers.lbfgs import LBFGS
from optex_core.optimizers.schedules import LearningRate
from optex_core.testing import hypothesis_strategies as st
from optex_core.testing.assertions import (
    EPS,
    assert_same_bits,
    assert_within,
    same_bits,
)
from optex_core.testing.check_suite import CheckFailed, require
from optex_core.testing.properties import for_all
from optex_core.testing.sample_objectives import SmoothObjective
from optex_core.testing.suites import _optimizer_steps
from optex_core.testing.suites._optimizer_subject import (
    RATE,
    STEPS,
    SUITE,
    OptimizerSubject,
    sample_gradients,
    sample_start,
    step_path,
)
from optex_core.types import Array, FirstOrderOptimizer

#: Checks enter the suite where they are defined: here and in this module.
PARTS = (_optimizer_steps,)


def _bowl(x: Array) -> tuple[float, np.ndarray]:
    h = 1.0 / (1.0 + np.arange(len(x)))
    return float(h @ (x * x)) / 2, h * x


@SUITE.check()
def decreases_quadratics(s: OptimizerSubject) -> None:
    """On positive definite quadratics with curvatures up to 1, from afar, 60 steps end lower than
    they began.
    """

    def body(problem: SmoothObjective) -> None:
        bound = bind_optimizer(s.optimizer)
        x: Array = problem.centre + 2.0 + np.arange(problem.d)
        first, state = problem(x)[0], bound.init(x)
        for _ in range(60):
            value, g = problem(x)
            x, state = bound.step(x, g, state, value=value)
        last = problem(x)[0]
        require(last < first, f"the value went from {first:.6g} to {last:.6g} in 60 steps")

    for_all(body, problem=st.quadratics(s.sizes, condition=20.0), examples=15)


@SUITE.check(when=lambda s: s.scheduled, why="it has no setting `learning_rate`")
def schedule_receives_step_count(s: OptimizerSubject) -> None:
    """A learning rate that is a function of t is called with t = 0, 1, 2, ..., and a constant one
    is bitwise identical to its number.
    """
    asked: set[int] = set()

    def constant(t: int) -> float:
        asked.add(t)
        return RATE

    def with_rate(rate: LearningRate) -> list[tuple[Array, object]]:
        optimizer = dataclasses.replace(s.optimizer, learning_rate=rate)
        return step_path(optimizer, sample_start(s.length), sample_gradients(s.length, 4))

    found, expected = with_rate(constant), with_rate(RATE)
    require(asked == {0, 1, 2, 3}, f"four steps asked the schedule for t = {sorted(asked)}")
    assert_same_bits(found[-1][0], expected[-1][0], "a constant schedule and its number differ")
    half = with_rate(lambda t: RATE if t < 2 else RATE / 2)
    acts = same_bits(half[2][0], expected[2][0]) and not same_bits(half[3][0], expected[3][0])
    require(acts, "a rate that changes at t = 2 does not act there")


@SUITE.check(
    when=lambda s: bool(getattr(s.optimizer, "affine", False)), why="it does not declare `affine`"
)
def affine_steps_are_affine(s: OptimizerSubject) -> None:
    """step(a p + (1 - a) q) = a step(p) + (1 - a) step(q) for x, g and the state vectors together:
    the engine takes steps on coefficients.
    """
    rng, optimizer = np.random.default_rng(0), s.optimizer
    template = step_path(optimizer, sample_start(s.length), sample_gradients(s.length, 3))[-1][1]
    leaves = tree_flatten(template)[0]
    vectors = [i for i, leaf in enumerate(leaves) if np.shape(leaf) == (s.length,)]

    def stepped(rows: np.ndarray) -> np.ndarray:
        filled = list(leaves)
        for i, row in zip(vectors, rows[2:], strict=True):
            filled[i] = row
        x, state = optimizer.step(rows[0], rows[1], tree_unflatten(template, filled))
        after = tree_flatten(state)[0]
        return np.stack([x, *(after[i] for i in vectors)])

    p, q = rng.uniform(0.5, 2.0, size=(2, 2 + len(vectors), s.length))
    q[1] *= -50.0
    found, expected = stepped(0.3 * p + 0.7 * q), 0.3 * stepped(p) + 0.7 * stepped(q)
    bound = 1e-13 * (1 + np.abs(expected))
    assert_within(found, expected, bound, "the step is declared affine and is not")


@SUITE.check(
    when=lambda s: s.formula(s.optimizer) is not None, why="no reference is known: pass reference="
)
def matches_reference_formula(s: OptimizerSubject) -> None:
    """Eight steps are those of the formula, written plainly and in 50 digits, to the rounding of
    some ten operations a step.
    """
    optimizer = s.optimizer
    kinds = [st.just(optimizer)]
    if s.reference is None and type(optimizer) is OPTIMIZERS.get(getattr(optimizer, "name", "")):
        kinds.append(st.optimizer_settings(type(optimizer)))

    def body(optimizer: FirstOrderOptimizer, gradients: np.ndarray) -> None:
        formula = s.formula(optimizer)
        assert formula is not None
        x0 = sample_start(gradients.shape[1])
        expected = np.asarray(formula(x0, gradients), dtype=np.float64)
        found = np.array([x for x, _ in step_path(optimizer, x0, gradients)[1:]])
        first = int(np.isnan(found).any(axis=1).argmax()) + 1
        require(not np.isnan(found).any() or np.isnan(expected).any(), f"nan after {first} steps")
        travel = np.abs(np.diff(np.vstack([x0, expected]), axis=0)).cumsum(axis=0)
        # A centered variance is a difference of like numbers, and under a root: what cancels there
        # is no fault of the step.
        loose = 1e-6 if getattr(optimizer, "centered", False) else 2e-13
        bound = 64 * EPS * (1 + np.abs(expected)) + loose * travel
        text = "(step, coordinate) of the path is not that of the formula"
        assert_within(found, expected, bound, text)

    # Not zero: 0 / 0 with eps = 0, and the sign of a rounding, are nobody's fault.
    sizes = st.floats(0.125, 8.0)
    entries = st.one_of(sizes, sizes.map(lambda v: -v))
    rows = s.sizes.flatmap(lambda d: st.arrays(np.float64, (STEPS, d), elements=entries))
    for kind, examples in zip(kinds, (4, 16), strict=False):
        for_all(body, optimizer=kind, gradients=rows, examples=examples)


@SUITE.check()
def parallelism_one_is_plain_optimizer(s: OptimizerSubject) -> None:
    """In the engine with parallelism=1 the iterates are bitwise those of a plain loop, whatever the
    strategy.
    """
    x0 = sample_start(s.length)
    # With `LBFGS`, "auto" is a strategy with a line search.
    strategies = ("paper",) if isinstance(s.optimizer, LBFGS) else ("auto", "paper")
    for strategy in strategies:
        engine = OptEx(
            x0,
            optimizer=s.optimizer,
            strategy=strategy,
            parallelism=1,
            maxiter=6,
            gtol=0.0,
            rng=0,
        )
        bound = bind_optimizer(s.make())
        x, state, t = x0, bound.init(x0), 0
        while not engine.stop():
            value, g = _bowl(x)
            for c in engine.ask():
                text = f"iterate {t} of strategy {strategy!r} is not the optimizer's own"
                assert_same_bits(np.array(c.x), x, text)
                engine.tell(c.id, gradient=g, value=value)
            x, state = bound.step(x, g, state, value=value)
            t += 1


@SUITE.check()
def saved_run_continues_identically(s: OptimizerSubject) -> None:
    """A run saved after three iterations and loaded again continues bitwise identically: the state
    is made of arrays and numbers, all of it.
    """

    def advance(engine: OptEx, iterations: int) -> OptEx:
        for _ in range(iterations):
            for c in engine.ask():
                value, g = _bowl(c.x)
                engine.tell(c.id, gradient=g, value=value)
        return engine

    def new() -> OptEx:
        x0, rule = sample_start(s.length), s.make()
        return OptEx(x0, optimizer=rule, strategy="corrected", parallelism=2, gtol=0.0, rng=0)

    expected = advance(new(), 7)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "run"
        try:
            advance(new(), 3).save(file)
        except (ArgumentError, ArgumentTypeError) as error:
            raise CheckFailed(f"the state cannot be saved: {error}") from error
        try:
            loaded = OptEx.load(file)
        except Exception:  # settings of an object that JSON cannot hold are passed again
            loaded = OptEx.load(file, optimizer=s.make())
    found = advance(loaded, 4).result().x
    assert_same_bits(found, expected.result().x, "the loaded run ends elsewhere")


@SUITE.check()
def accepts_missing_values(s: OptimizerSubject) -> None:
    """Gradient-only oracles give no value: the step works with value=nan."""
    bound, x = bind_optimizer(s.optimizer), sample_start(s.length)
    state = bound.init(x)
    for g in sample_gradients(s.length, 3):
        x, state = bound.step(x, g, state, value=math.nan)
        require(np.isfinite(x).all(), "a missing value gave parameters that are not finite")


@SUITE.check()
def accepts_untrusted_gradients(s: OptimizerSubject) -> None:
    """``trusted=False``, as in predictions and replays, gives a step of the same form that is
    finite and repeats.
    """
    bound, x = bind_optimizer(s.optimizer), sample_start(s.length)
    state = bound.init(x)
    for g in sample_gradients(s.length, 4):
        first, second = (bound.step(x, g, state, trusted=False) for _ in range(2))
        assert_same_bits(first[0], second[0], "the same predicted step twice gave two results")
        x, state = first
        fine = x.shape == (s.length,) and np.isfinite(x).all()
        require(fine, f"a predicted step gave {short_repr(x)}")
