"""Checks of optimizers: pure steps, descent, schedules, formulas, and runs in the engine."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, DTypeLike

from optex_core._validation import short_repr
from optex_core.engine.optex import OptEx
from optex_core.errors import ArgumentError, ArgumentTypeError
from optex_core.optimizers._on_backend import bind_optimizer
from optex_core.optimizers._pytree import tree_leaves, tree_unflatten
from optex_core.optimizers.base import OPTIMIZERS, ElementwiseOptimizer, Optimizer
from optex_core.optimizers.lbfgs import LBFGS
from optex_core.optimizers.schedules import LearningRate
from optex_core.testing import hypothesis_strategies as st
from optex_core.testing.assertions import (
    EPS,
    array_leaves,
    assert_same_bits,
    assert_within,
    noncontiguous_copy,
    readonly,
    same_bits,
)
from optex_core.testing.check_suite import CheckFailed, CheckSuite, require, require_equal
from optex_core.testing.properties import for_all
from optex_core.testing.reference import steps as reference_steps
from optex_core.testing.sample_objectives import SmoothObjective
from optex_core.testing.suites._shared import drive, plain_path, reloaded
from optex_core.types import Array, FirstOrderOptimizer

#: A rate for classes that have no default.
RATE = 0.05
#: Steps of a path: the first alone would hide what the state does; beyond five RAdam takes its
#: second moment in.
STEPS = 8

#: x0 and gradients -> the points that follow.
Reference = Callable[[Array, np.ndarray], ArrayLike]


@dataclass(frozen=True)
class OptimizerSubject:
    """An optimizer and what it declares."""

    make: Callable[[], FirstOrderOptimizer]
    reference: Reference | None
    d: int | None

    @property
    def optimizer(self) -> Any:
        return self.make()

    @property
    def length(self) -> int:
        return self.d or 5

    @property
    def sizes(self) -> st.Strategy[int]:
        return st.just(self.d) if self.d else st.integers(1, 5)

    @property
    def elementwise(self) -> bool:
        made = self.optimizer
        return isinstance(made, ElementwiseOptimizer) or bool(getattr(made, "elementwise", False))

    @property
    def decays(self) -> bool:
        part = self.optimizer
        while part is not None and not getattr(part, "decay", 0.0):
            part = getattr(part, "optimizer", None)  # of a wrapper
        return part is not None

    def formula(self, optimizer: FirstOrderOptimizer) -> Reference | None:
        """The reference implementation of `optimizer`, where one is known."""
        if self.reference or getattr(optimizer, "name", None) not in reference_steps.RULES:
            return self.reference
        return lambda x0, gradients: reference_steps.optimizer_path(optimizer, x0, gradients)


def prepare_optimizer(
    factory: str | Callable[..., Any] | FirstOrderOptimizer,
    *,
    reference: Reference | None = None,
    d: int | None = None,
) -> tuple[str, OptimizerSubject]:
    """Check an optimizer, built in or one's own.

    Parameters
    ----------
    factory : str, class, object or callable
        A registered name, an optimizer class, an optimizer, or a function that makes one. Anything
        with ``init(x)`` and ``step(x, g, state)``.
    reference : callable, optional
        ``reference(x0, gradients) -> points``, shapes (d,), (steps, d), (steps, d): the formula
        written plainly, to follow. Built-in optimizers have theirs in
        `optex_core.testing.reference.steps`.
    d : int, optional
        The number of parameters, for optimizers that work with one only; by default 1 to 5.

    Examples
    --------
    >>> from optex_core.testing import check_optimizer
    >>> class Descent:
    ...     def init(self, x):
    ...         return None
    ...     def step(self, x, g, state):
    ...         return x - 0.1 * g, state
    >>> check_optimizer(Descent()).ok
    True
    """
    kind: Any = OPTIMIZERS[factory] if isinstance(factory, str) else factory

    def make() -> Any:
        if isinstance(kind, FirstOrderOptimizer) and not isinstance(kind, type):
            return kind
        try:
            return kind()
        except TypeError:
            if not isinstance(kind, type):
                raise
            return kind(RATE)

    if not (isinstance(kind, FirstOrderOptimizer) or callable(kind)):
        raise ArgumentTypeError(
            f"check_optimizer takes an optimizer, its class, its name or a function "
            f"that makes one, got {short_repr(factory)}"
        )
    made = make()
    if not isinstance(made, FirstOrderOptimizer):
        raise ArgumentTypeError(
            f"an optimizer has init(x) and step(x, g, state), got {short_repr(made)}"
        )
    label = repr(made) if isinstance(made, Optimizer) else type(made).__name__
    return factory if isinstance(factory, str) else label, OptimizerSubject(make, reference, d)


SUITE = CheckSuite("optimizer", prepare_optimizer, lambda: list(OPTIMIZERS))


def sample_gradients(d: int, steps: int = STEPS, seed: int = 0) -> list[np.ndarray]:
    """Gradients of shape (d,), the same for the same seed."""
    return list(np.random.default_rng(seed).normal(size=(steps, d)))


def sample_start(d: int, dtype: DTypeLike = np.float64) -> Array:
    """Parameters of both signs."""
    return np.linspace(-1.0, 2.0, d).astype(dtype) if d > 1 else np.array([1.5], dtype)


def step_path(
    optimizer: FirstOrderOptimizer, x: Array, gradients: Iterable[np.ndarray]
) -> list[tuple[Array, object]]:
    """Points and states after 0, 1, ... steps."""
    bound = bind_optimizer(optimizer)
    path = [(x, bound.init(x))]
    for g in gradients:
        x, state = path[-1]
        path.append(bound.step(x, g, state))
    return path


# -- single steps ----------------------------------------------------------------------------------


@SUITE.check()
def step_returns_parameters_and_state(s: OptimizerSubject) -> None:
    """``step(x, g, state)`` returns (x, state), x with the shape and dtype that it came with."""
    for dtype in (np.float64, np.float32):
        x, optimizer = sample_start(s.length, dtype), s.optimizer
        state = optimizer.init(x.copy())
        for g in sample_gradients(s.length, 3):
            # without the guards that the engine puts around a user's object
            out = optimizer.step(x.copy(), g.astype(dtype), state)
            pair = isinstance(out, tuple) and len(out) == 2
            require(pair, f"step must return (x, state), got {short_repr(out)}")
            x, state = out
            form = getattr(x, "shape", None), getattr(x, "dtype", None)
            require_equal(form, ((s.length,), np.dtype(dtype)), "shape and dtype after a step")


@SUITE.check()
def preserves_dtype(s: OptimizerSubject) -> None:
    """float32 parameters stay float32, and so does the state of an elementwise optimizer."""
    x = sample_start(s.length, np.float32)
    new, state = step_path(s.optimizer, x, sample_gradients(s.length, 1))[1]
    require_equal(new.dtype, np.dtype(np.float32), "dtype with a float64 gradient")
    vectors = [a for a in array_leaves(state) if a.shape == x.shape]
    wrong = [a.dtype for a in vectors if a.dtype != np.float32]
    require(not (s.elementwise and wrong), f"state vectors became {wrong[:1]} with float32 x")


@SUITE.check()
def does_not_modify_inputs(s: OptimizerSubject) -> None:
    """Nothing is written into x, g or the state, and nothing returned aliases x or g."""
    optimizer, (first, g) = s.optimizer, sample_gradients(s.length, 2)
    start = readonly(sample_start(s.length))
    x, state = optimizer.step(start.copy(), first, optimizer.init(start))
    x = np.array(x)
    given = [x, g, *array_leaves(state)]
    before = [readonly(a).copy() for a in given]
    try:
        new, after = optimizer.step(x, g, state)
    except ValueError as error:
        if "read-only" not in str(error):
            raise
        raise CheckFailed(f"step writes into what it was given: {error}") from error
    assert_same_bits(given, before, "step changed x, g or an array of the state")
    for what, arrays in (("parameters share", [new]), ("state shares", array_leaves(after))):
        shared = any(np.shares_memory(a, b) for a in arrays for b in (x, g))
        require(not shared, f"the new {what} memory with x or g; return a copy")


@SUITE.check()
def old_states_remain_valid(s: OptimizerSubject) -> None:
    """A step from an earlier (x, state), as after a prediction, is bitwise identical."""
    optimizer, gradients = s.optimizer, sample_gradients(s.length, 5)
    path = step_path(optimizer, sample_start(s.length), gradients)
    bound = bind_optimizer(optimizer)
    for (x, state), g, after in zip(path, gradients, path[1:], strict=False):
        assert_same_bits(bound.step(x, g, state), after, "a state was changed by later steps")


@SUITE.check()
def runs_share_no_state(s: OptimizerSubject) -> None:
    """One object may serve several runs at once: nothing of a run is kept on it."""
    first, second = sample_gradients(s.length, 5, 1), sample_gradients(s.length, 5, 2)
    alone = step_path(s.make(), sample_start(s.length), first)
    bound = bind_optimizer(s.optimizer)
    a = b = sample_start(s.length)
    mine, other = bound.init(a), bound.init(b)
    for t in range(5):
        a, mine = bound.step(a, first[t], mine)
        b, other = bound.step(b, second[t], other)
        assert_same_bits(a, alone[t + 1][0], "a step depends on another run of the same object")


@SUITE.check()
def accepts_noncontiguous_arrays(s: OptimizerSubject) -> None:
    """Arrays that are not contiguous give the same answer."""
    x, (g,), optimizer = sample_start(s.length), sample_gradients(s.length, 1), s.optimizer
    expected = optimizer.step(x, g, optimizer.init(x))[0]
    wide = noncontiguous_copy(x)
    found = optimizer.step(wide, noncontiguous_copy(g), optimizer.init(wide))[0]
    bound = 8 * EPS * (1 + np.abs(expected))
    assert_within(found, expected, bound, "strided x and g gave another step")


@SUITE.check(when=lambda s: not s.decays, why="it decays x")
def zero_gradient_is_fixed_point(s: OptimizerSubject) -> None:
    """From a fresh state, zero gradients leave x bitwise identical."""
    start = sample_start(s.length)
    for x, _ in step_path(s.optimizer, start, [np.zeros(s.length)] * STEPS):
        assert_same_bits(x, start, "a zero gradient moved x")


@SUITE.check(when=lambda s: s.decays, why="it has no decay")
def decay_shrinks_parameters(s: OptimizerSubject) -> None:
    """With zero gradients x shrinks, and keeps its signs."""
    start = sample_start(s.length)
    x = step_path(s.optimizer, start, [np.zeros(s.length)] * STEPS)[-1][0]
    shrunk = (np.abs(x) < np.abs(start))[start != 0].all()
    require((np.sign(x) == np.sign(start)).all() and shrunk, f"decay took {start} to {x}")


@SUITE.check(when=lambda s: s.elementwise, why="it is not declared elementwise")
def coordinates_are_independent(s: OptimizerSubject) -> None:
    """Permuted coordinates give permuted steps, bit for bit."""

    def body(x: np.ndarray, shift: int) -> None:
        order, gradients = np.roll(np.arange(len(x)), shift), sample_gradients(len(x), 4)
        straight = step_path(s.optimizer, x, gradients)
        permuted = step_path(s.optimizer, x[order], [g[order] for g in gradients])
        for (a, _), (b, _) in zip(straight, permuted, strict=True):
            assert_same_bits(b, a[order], "the order of the coordinates matters")
        alone = step_path(s.optimizer, x[:1], [g[:1] for g in gradients])
        assert_same_bits(alone[-1][0], straight[-1][0][:1], "a coordinate depends on others")

    vectors = st.vectors(s.d or st.integers(2, 5))
    for_all(body, x=vectors, shift=st.integers(1, 4), examples=25)


@SUITE.check()
def extreme_gradients_stay_finite(s: OptimizerSubject) -> None:
    """Gradients of 1e-100 to 1e100, and zeros, give finite parameters."""

    def body(g: np.ndarray, power: int) -> None:
        for x, _ in step_path(s.optimizer, sample_start(len(g)), [g * 10.0**power] * 3):
            largest = np.abs(g * 10.0**power).max()
            require(np.isfinite(x).all(), f"finite gradients of {largest:.1e} gave {x}")

    powers = st.sampled_from((0, -100, 100, -30, 30))
    for_all(body, g=st.vectors(s.sizes, magnitude=10.0), power=powers, examples=25)


# -- paths and runs --------------------------------------------------------------------------------


def _bowl(x: Array) -> tuple[float, np.ndarray]:
    h = 1.0 / (1.0 + np.arange(len(x)))
    return float(h @ (x * x)) / 2, h * x


@SUITE.check()
def decreases_quadratics(s: OptimizerSubject) -> None:
    """On positive definite quadratics 60 steps from afar end lower than they began."""

    def body(problem: SmoothObjective) -> None:
        x: Array = problem.centre + 2.0 + np.arange(problem.d)
        first, last = problem(x)[0], problem(plain_path(s.optimizer, x, problem, 60)[-1])[0]
        require(last < first, f"the value went from {first:.6g} to {last:.6g} in 60 steps")

    for_all(body, problem=st.quadratics(s.sizes, condition=20.0), examples=15)


@SUITE.check(
    when=lambda s: "learning_rate" in getattr(s.optimizer, "__dataclass_fields__", {}),
    why="it has no setting `learning_rate`",
)
def schedule_receives_step_count(s: OptimizerSubject) -> None:
    """A callable rate gets t = 0, 1, 2, ...; a constant one has the bits of its number."""
    asked: set[int] = set()

    def constant(t: int) -> float:
        asked.add(t)
        return RATE

    def with_rate(rate: LearningRate) -> list[tuple[Array, object]]:
        optimizer = dataclasses.replace(s.optimizer, learning_rate=rate)
        return step_path(optimizer, sample_start(s.length), sample_gradients(s.length, 4))

    found, expected = with_rate(constant), with_rate(RATE)
    require_equal(asked, {0, 1, 2, 3}, "t that four steps asked the schedule for")
    assert_same_bits(found[-1][0], expected[-1][0], "a constant schedule and its number differ")
    half = with_rate(lambda t: RATE if t < 2 else RATE / 2)
    acts = same_bits(half[2][0], expected[2][0]) and not same_bits(half[3][0], expected[3][0])
    require(acts, "a rate that changes at t = 2 does not act there")


@SUITE.check(
    when=lambda s: bool(getattr(s.optimizer, "affine", False)), why="it does not declare `affine`"
)
def affine_steps_are_affine(s: OptimizerSubject) -> None:
    """step(a p + (1 - a) q) = a step(p) + (1 - a) step(q) for x, g and the state together."""
    rng, optimizer = np.random.default_rng(0), s.optimizer
    template = step_path(optimizer, sample_start(s.length), sample_gradients(s.length, 3))[-1][1]
    leaves = tree_leaves(template)
    vectors = [i for i, leaf in enumerate(leaves) if np.shape(leaf) == (s.length,)]

    def stepped(rows: np.ndarray) -> np.ndarray:
        filled = list(leaves)
        for i, row in zip(vectors, rows[2:], strict=True):
            filled[i] = row
        x, state = optimizer.step(rows[0], rows[1], tree_unflatten(template, filled))
        after = tree_leaves(state)
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
    """Eight steps are those of the formula in 50 digits, to rounding."""
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
        assert_within(found, expected, bound, "(step, coordinate) against the formula")

    # Not zero: 0 / 0 with eps = 0, and the sign of a rounding, are nobody's fault.
    sizes = st.floats(0.125, 8.0)
    entries = st.one_of(sizes, sizes.map(lambda v: -v))
    rows = s.sizes.flatmap(lambda d: st.arrays(np.float64, (STEPS, d), elements=entries))
    for kind, examples in zip(kinds, (4, 16), strict=False):
        for_all(body, optimizer=kind, gradients=rows, examples=examples)


@SUITE.check()
def parallelism_one_is_plain_optimizer(s: OptimizerSubject) -> None:
    """With parallelism=1 the iterates are bitwise those of a plain loop."""
    x0 = sample_start(s.length)
    # With `LBFGS`, "auto" is a strategy with a line search.
    strategies = ("paper",) if isinstance(s.optimizer, LBFGS) else ("auto", "paper")
    for strategy in strategies:
        engine = OptEx(x0, optimizer=s.optimizer, strategy=strategy, parallelism=1, gtol=0.0, rng=0)
        found, own = drive(engine, _bowl, iterations=6), plain_path(s.make(), x0, _bowl, 6)
        for t, (a, b) in enumerate(zip(found, own, strict=True)):
            assert_same_bits(
                a, b, f"iterate {t} of strategy {strategy!r} is not the optimizer's own"
            )


@SUITE.check()
def saved_run_continues_identically(s: OptimizerSubject) -> None:
    """A run saved after three iterations and loaded continues bitwise identically."""

    def new() -> OptEx:
        x0, rule = sample_start(s.length), s.make()
        return OptEx(x0, optimizer=rule, strategy="corrected", parallelism=2, gtol=0.0, rng=0)

    expected, engine = drive(new(), _bowl, iterations=7)[-1], new()
    drive(engine, _bowl, iterations=3)
    try:
        loaded = reloaded(engine, optimizer=s.make())
    except (ArgumentError, ArgumentTypeError) as error:
        raise CheckFailed(f"the state cannot be saved: {error}") from error
    found = drive(loaded, _bowl, iterations=4)[-1]
    assert_same_bits(found, expected, "the loaded run ends elsewhere")


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
    """``trusted=False``, as in predictions, gives a finite step that repeats."""
    bound, x = bind_optimizer(s.optimizer), sample_start(s.length)
    state = bound.init(x)
    for g in sample_gradients(s.length, 4):
        first, second = (bound.step(x, g, state, trusted=False) for _ in range(2))
        assert_same_bits(first[0], second[0], "the same predicted step twice gave two results")
        x, state = first
        fine = x.shape == (s.length,) and np.isfinite(x).all()
        require(fine, f"a predicted step gave {short_repr(x)}")
