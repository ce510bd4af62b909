"""Checks of optimizers: pure steps, the dtype of x, states that can be saved and stepped from
again, descent, and the formula.
"""

from __future__ import annotations

import dataclasses
import math
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, DTypeLike

from optex_core._validation import short_repr
from optex_core.engine.optex import OptEx
from optex_core.errors import ArgumentError, ArgumentTypeError
from optex_core.optimizers._bound import bind_optimizer
from optex_core.optimizers._pytree import tree_flatten, tree_unflatten
from optex_core.optimizers.base import OPTIMIZERS, ElementwiseOptimizer, Optimizer
from optex_core.optimizers.lbfgs import LBFGS
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
from optex_core.testing.check_suite import CheckFailed, CheckSuite, require
from optex_core.testing.properties import for_all
from optex_core.testing.reference import steps as reference_steps
from optex_core.testing.sample_objectives import SmoothObjective
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
        declared = bool(getattr(self.optimizer, "elementwise", False))
        return isinstance(self.optimizer, ElementwiseOptimizer) or declared

    @property
    def decays(self) -> bool:
        return any(bool(getattr(part, "decay", 0.0)) for part in _nested(self.optimizer))

    @property
    def scheduled(self) -> bool:
        fields = getattr(self.optimizer, "__dataclass_fields__", {})
        return "learning_rate" in fields

    def formula(self, optimizer: FirstOrderOptimizer) -> Reference | None:
        """The reference implementation of `optimizer`, where one is known."""
        if self.reference or getattr(optimizer, "name", None) not in reference_steps.RULES:
            return self.reference
        return lambda x0, gradients: reference_steps.optimizer_path(optimizer, x0, gradients)


def _nested(optimizer: object) -> list[object]:
    inner = getattr(optimizer, "optimizer", None)
    return [optimizer, *([] if inner is None else _nested(inner))]


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
    kind = OPTIMIZERS[factory] if isinstance(factory, str) else factory
    make: Callable[[], Any]
    if isinstance(kind, type):
        make = lambda: _with_rate(kind)  # noqa: E731
    elif isinstance(kind, FirstOrderOptimizer):
        make = lambda: kind  # noqa: E731
    elif callable(kind):
        make = kind
    else:
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


def _with_rate(kind: Callable[..., Any]) -> Any:
    try:
        return kind()
    except TypeError:
        return kind(RATE)


SUITE = CheckSuite("optimizer", prepare_optimizer, lambda: list(OPTIMIZERS))


def _gradients(d: int, steps: int = STEPS, seed: int = 0) -> list[np.ndarray]:
    return list(np.random.default_rng(seed).normal(size=(steps, d)))


def _start(d: int, dtype: DTypeLike = np.float64) -> Array:
    return np.linspace(-1.0, 2.0, d).astype(dtype) if d > 1 else np.array([1.5], dtype)


def _path(
    optimizer: FirstOrderOptimizer, x: Array, gradients: Iterable[np.ndarray]
) -> list[tuple[Array, Any]]:
    """Points and states after 0, 1, ... steps."""
    bound = bind_optimizer(optimizer)
    path = [(x, bound.init(x))]
    for g in gradients:
        x, state = path[-1]
        path.append(bound.step(x, g, state))
    return path


def _bowl(x: Array) -> tuple[float, np.ndarray]:
    h = 1.0 / (1.0 + np.arange(len(x)))
    return float(h @ (x * x)) / 2, h * x


@SUITE.check()
def step_returns_parameters_and_state(s: OptimizerSubject) -> None:
    """``step(x, g, state)`` returns (x, state), x with the shape and dtype that it came with."""
    for dtype in (np.float64, np.float32):
        x, optimizer = _start(s.length, dtype), s.optimizer
        state = optimizer.init(x.copy())
        for g in _gradients(s.length, 3):
            # without the guards that the engine puts around a user's object
            out = optimizer.step(x.copy(), g.astype(dtype), state)
            pair = isinstance(out, tuple) and len(out) == 2
            require(pair, f"step must return (x, state), got {short_repr(out)}")
            new, state = out
            fits = getattr(new, "shape", None) == x.shape
            text = f"step must return parameters of shape {x.shape}, got {short_repr(new)}"
            require(fits, text)
            text = f"parameters of dtype {np.dtype(dtype)} came back as {new.dtype}"
            require(new.dtype == dtype, text)
            x = new


@SUITE.check()
def preserves_dtype(s: OptimizerSubject) -> None:
    """A float64 gradient leaves float32 parameters float32; state vectors of the length of x keep
    its dtype where the optimizer is elementwise.
    """
    x = _start(s.length, np.float32)
    new, state = _path(s.optimizer, x, _gradients(s.length, 1))[1]
    require(new.dtype == np.float32, f"float32 parameters and a float64 gradient gave {new.dtype}")
    vectors = [a for a in array_leaves(state) if a.shape == x.shape]
    wrong = [a.dtype for a in vectors if a.dtype != np.float32]
    require(not (s.elementwise and wrong), f"state vectors became {wrong[:1]} with float32 x")


@SUITE.check()
def does_not_modify_inputs(s: OptimizerSubject) -> None:
    """x, g and the arrays of the state may be read-only: nothing is written into them, and nothing
    that is returned aliases x or g.
    """
    optimizer, (first, g) = s.optimizer, _gradients(s.length, 2)
    x, state = optimizer.step(_start(s.length), first, optimizer.init(readonly(_start(s.length))))
    x = np.array(x)
    given = {
        "x": x,
        "g": g,
        **{f"array {i} of the state": a for i, a in enumerate(array_leaves(state))},
    }
    before = {name: readonly(a).copy() for name, a in given.items()}
    try:
        new, after = optimizer.step(x, g, state)
    except ValueError as error:
        if "read-only" not in str(error):
            raise
        raise CheckFailed(f"step writes into what it was given: {error}") from error
    for name, array in given.items():
        require(np.array_equal(before[name], array), f"step changed {name}")
    shares = [np.shares_memory(new, a) for a in (x, g)]
    require(not any(shares), "the new parameters share memory with x or g; return a new array")
    shares = [np.shares_memory(leaf, a) for leaf in array_leaves(after) for a in (x, g)]
    require(not any(shares), "the new state keeps x or g itself; keep a copy")


@SUITE.check()
def old_states_remain_valid(s: OptimizerSubject) -> None:
    """The engine predicts many steps and goes back: stepping from an earlier (x, state) is bitwise
    identical to the first time.
    """
    optimizer, gradients = s.optimizer, _gradients(s.length, 5)
    path = _path(optimizer, _start(s.length), gradients)
    bound = bind_optimizer(optimizer)
    for t, g in enumerate(gradients):
        x, state = path[t]
        text = (
            f"step {t + 1} from its old state gave another result after later steps: "
            f"the state was changed in place"
        )
        assert_same_bits(bound.step(x, g, state), path[t + 1], text)


@SUITE.check()
def runs_share_no_state(s: OptimizerSubject) -> None:
    """One object may serve several runs at once: nothing of a run is kept on it."""
    first, second = _gradients(s.length, 5, 1), _gradients(s.length, 5, 2)
    alone = _path(s.make(), _start(s.length), first)
    bound = bind_optimizer(s.optimizer)
    a = b = _start(s.length)
    mine, other = bound.init(a), bound.init(b)
    for t in range(5):
        a, mine = bound.step(a, first[t], mine)
        b, other = bound.step(b, second[t], other)
        text = f"step {t + 1} depends on another run that uses the same object"
        assert_same_bits(a, alone[t + 1][0], text)


@SUITE.check()
def accepts_noncontiguous_arrays(s: OptimizerSubject) -> None:
    """Arrays that are not contiguous give the same answer."""
    x, (g,), optimizer = _start(s.length), _gradients(s.length, 1), s.optimizer
    expected = optimizer.step(x, g, optimizer.init(x))[0]
    wide = noncontiguous_copy(x)
    found = optimizer.step(wide, noncontiguous_copy(g), optimizer.init(wide))[0]
    bound = 8 * EPS * (1 + np.abs(expected))
    assert_within(found, expected, bound, "strided x and g gave another step")


@SUITE.check(when=lambda s: not s.decays, why="it decays x")
def zero_gradient_is_fixed_point(s: OptimizerSubject) -> None:
    """From a fresh state, zero gradients leave x bitwise identical."""
    start = _start(s.length)
    for x, _ in _path(s.optimizer, start, [np.zeros(s.length)] * STEPS):
        assert_same_bits(x, start, "a zero gradient moved x")


@SUITE.check(when=lambda s: s.decays, why="it has no decay")
def decay_shrinks_parameters(s: OptimizerSubject) -> None:
    """With zero gradients x shrinks, and keeps its signs."""
    start = _start(s.length)
    x = _path(s.optimizer, start, [np.zeros(s.length)] * STEPS)[-1][0]
    shrunk = (np.abs(x) < np.abs(start))[start != 0].all()
    require((np.sign(x) == np.sign(start)).all() and shrunk, f"decay took {start} to {x}")


@SUITE.check(when=lambda s: s.elementwise, why="it is not declared elementwise")
def coordinates_are_independent(s: OptimizerSubject) -> None:
    """Permuted coordinates give permuted steps, bit for bit: each is updated by the same formula
    from its own numbers alone.
    """

    def body(x: np.ndarray, shift: int) -> None:
        order, gradients = np.roll(np.arange(len(x)), shift), _gradients(len(x), 4)
        straight = _path(s.optimizer, x, gradients)
        permuted = _path(s.optimizer, x[order], [g[order] for g in gradients])
        for (a, _), (b, _) in zip(straight, permuted, strict=True):
            assert_same_bits(b, a[order], "the order of the coordinates matters")
        alone = _path(s.optimizer, x[:1], [g[:1] for g in gradients])
        text = "a coordinate depends on others"
        assert_same_bits(alone[-1][0], straight[-1][0][:1], text)

    vectors = st.vectors(s.d or st.integers(2, 5))
    for_all(body, x=vectors, shift=st.integers(1, 4), examples=25)


@SUITE.check()
def extreme_gradients_stay_finite(s: OptimizerSubject) -> None:
    """Gradients of 1e-100 to 1e100, and zeros, give finite parameters."""

    def body(g: np.ndarray, power: int) -> None:
        for x, _ in _path(s.optimizer, _start(len(g)), [g * 10.0**power] * 3):
            largest = np.abs(g * 10.0**power).max()
            require(np.isfinite(x).all(), f"finite gradients of {largest:.1e} gave {x}")

    powers = st.sampled_from((0, -100, 100, -30, 30))
    for_all(body, g=st.vectors(s.sizes, magnitude=10.0), power=powers, examples=25)


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

    def with_rate(rate: Any) -> list[tuple[Array, Any]]:
        optimizer = dataclasses.replace(s.optimizer, learning_rate=rate)
        return _path(optimizer, _start(s.length), _gradients(s.length, 4))

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
    template = _path(optimizer, _start(s.length), _gradients(s.length, 3))[-1][1]
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
        x0 = _start(gradients.shape[1])
        expected = np.asarray(formula(x0, gradients), dtype=np.float64)
        found = np.array([x for x, _ in _path(optimizer, x0, gradients)[1:]])
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
    x0 = _start(s.length)
    # With `LBFGS`, "auto" is a strategy with a line search.
    strategies = ("paper",) if isinstance(s.optimizer, LBFGS) else ("auto", "paper")
    for strategy in strategies:
        options: dict[str, Any] = {"parallelism": 1, "strategy": strategy, "rng": 0, "maxiter": 6}
        engine = OptEx(x0, optimizer=s.optimizer, gtol=0.0, **options)
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
        options: dict[str, Any] = {"parallelism": 2, "strategy": "corrected", "rng": 0}
        return OptEx(_start(s.length), optimizer=s.make(), maxiter=50, gtol=0.0, **options)

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
    bound, x = bind_optimizer(s.optimizer), _start(s.length)
    state = bound.init(x)
    for g in _gradients(s.length, 3):
        x, state = bound.step(x, g, state, value=math.nan)
        require(np.isfinite(x).all(), "a missing value gave parameters that are not finite")


@SUITE.check()
def accepts_untrusted_gradients(s: OptimizerSubject) -> None:
    """``trusted=False``, as in predictions and replays, gives a step of the same form that is
    finite and repeats.
    """
    bound, x = bind_optimizer(s.optimizer), _start(s.length)
    state = bound.init(x)
    for g in _gradients(s.length, 4):
        first, second = (bound.step(x, g, state, trusted=False) for _ in range(2))
        assert_same_bits(first[0], second[0], "the same predicted step twice gave two results")
        x, state = first
        fine = x.shape == (s.length,) and np.isfinite(x).all()
        require(fine, f"a predicted step gave {short_repr(x)}")
