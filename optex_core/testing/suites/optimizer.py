"""What every optimizer definitions: pure steps, the dtype of x, states that can be saved and stepped
from again, descent, and its formula.
"""

from __future__ import annotations

import dataclasses
import math
import tempfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from optex_core._validation import short_repr
from optex_core.engine.optex import OptEx
from optex_core.errors import ArgumentError, ArgumentTypeError
from optex_core.optimizers._bound import bind_optimizer
from optex_core.optimizers._pytree import tree_flatten, tree_unflatten
from optex_core.optimizers.base import OPTIMIZERS, ElementwiseOptimizer, Optimizer
from optex_core.testing.assertions import (
    EPS,
    array_leaves,
    assert_same_bits,
    assert_within,
    noncontiguous_copy,
    readonly,
    same_bits,
)
from optex_core.testing.check_suite import CheckFailed, CheckReport, CheckSuite, require
from optex_core.testing.properties import for_all
from optex_core.testing.reference import steps as reference_steps
from optex_core.types import FirstOrderOptimizer

#: A rate for classes that have no default.
RATE = 0.05
#: Steps of a walk: the first alone would hide what the state does; beyond five RAdam takes its
#: second moment in.
STEPS = 8


@dataclass(frozen=True)
class Subject:
    """An optimizer and what it declares."""

    label: str
    make: Callable[[], FirstOrderOptimizer]
    reference: Callable[..., Any] | None
    d: int | None

    @property
    def optimizer(self) -> Any:
        return self.make()

    @property
    def length(self) -> int:
        return self.d or 5

    @property
    def sizes(self) -> Any:
        from hypothesis import strategies as st

        return st.just(self.d) if self.d else st.integers(1, 5)

    @property
    def elementwise(self) -> bool:
        return isinstance(self.optimizer, ElementwiseOptimizer) or bool(
            getattr(self.optimizer, "elementwise", False)
        )

    @property
    def decays(self) -> bool:
        return any(bool(getattr(part, "decay", 0.0)) for part in _nested(self.optimizer))

    @property
    def scheduled(self) -> bool:
        return dataclasses.is_dataclass(self.optimizer) and any(
            f.name == "learning_rate" for f in dataclasses.fields(self.optimizer)
        )

    @property
    def twin(self) -> Callable[..., Any] | None:
        return self.reference or (
            _twin(self.optimizer)
            if getattr(self.optimizer, "name", None) in reference_steps.RULES
            else None
        )


def _nested(optimizer: Any) -> list[Any]:
    inner = getattr(optimizer, "optimizer", None)
    return [optimizer, *([] if inner is None else _nested(inner))]


def _twin(optimizer: Any) -> Callable[..., Any] | None:
    return (
        (lambda x0, gradients: reference_steps.path(optimizer, x0, gradients))
        if type(optimizer).__module__ != "builtins"
        else None
    )


def prepare(
    factory: Any, *, reference: Callable[..., Any] | None = None, d: int | None = None
) -> Subject:
    """From what the caller has: a registered name, a class, an object, or a function that makes
    one.
    """
    make: Callable[[], Any]
    if isinstance(factory, str):
        make = _with_rate(OPTIMIZERS[factory])
    elif isinstance(factory, type):
        make = _with_rate(factory)
    elif isinstance(factory, FirstOrderOptimizer):
        make = lambda: factory  # noqa: E731
    elif callable(factory):
        make = factory
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
    label = (
        factory
        if isinstance(factory, str)
        else repr(made)
        if isinstance(made, Optimizer)
        else type(made).__name__
    )
    return Subject(label, make, reference, d)


def _with_rate(kind: Any) -> Callable[[], Any]:
    def make() -> Any:
        try:
            return kind()
        except TypeError:
            return kind(RATE)

    return make


def _registered_subjects() -> Iterable[str]:
    return list(OPTIMIZERS)


SUITE = CheckSuite("optimizer", prepare, _registered_subjects)


def check_optimizer(
    factory: Any,
    *,
    reference: Callable[..., Any] | None = None,
    d: int | None = None,
    expected_failures: Mapping[str, str] | None = None,
) -> CheckReport:
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
    expected_failures : mapping of str to str, optional
        Check -> reason. Strict: one that passes is a failure.

    Returns
    -------
    CheckReport
        A list of `CheckResult`, true where all is well; ``print`` it.

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
    return SUITE.run(factory, expected_failures, reference=reference, d=d)


def _gradients(d: int, steps: int = STEPS, seed: int = 0) -> list[np.ndarray]:
    return list(np.random.default_rng(seed).normal(size=(steps, d)))


def _start(d: int, dtype: Any = np.float64) -> np.ndarray:
    return np.linspace(-1.0, 2.0, d).astype(dtype) if d > 1 else np.array([1.5], dtype)


def _walk(
    optimizer: Any, x: np.ndarray, gradients: Iterable[np.ndarray]
) -> list[tuple[np.ndarray, Any]]:
    stepper = bind_optimizer(optimizer)
    path = [(x, stepper.init(x))]
    for g in gradients:
        path.append(stepper.step(*_order(path[-1], g)))
    return path


def _order(at: tuple[np.ndarray, Any], g: np.ndarray) -> tuple[np.ndarray, np.ndarray, Any]:
    return at[0], g, at[1]


def _raw(optimizer: Any, x: np.ndarray, g: np.ndarray, state: Any) -> Any:
    """A step without the guards that the engine puts around a user's object."""
    return optimizer.step(x, g, state)


@SUITE.check()
def step_returns_parameters_and_state(s: Subject) -> None:
    """``step(x, g, state)`` returns (x, state), x with the shape and dtype that it came with."""
    for dtype in (np.float64, np.float32):
        x = _start(s.length, dtype)
        optimizer = s.optimizer
        state = optimizer.init(x.copy())
        for g in _gradients(s.length, 3):
            out = _raw(optimizer, x.copy(), g.astype(dtype), state)
            require(
                isinstance(out, tuple) and len(out) == 2,
                f"step must return (x, state), got {short_repr(out)}",
            )
            new, state = out
            require(
                getattr(new, "shape", None) == x.shape,
                f"step must return parameters of shape {x.shape}, got {short_repr(new)}",
            )
            require(
                new.dtype == dtype,
                f"parameters of dtype {np.dtype(dtype)} came back as {new.dtype}",
            )
            x = new


@SUITE.check()
def preserves_dtype(s: Subject) -> None:
    """A float64 gradient leaves float32 parameters float32; state vectors of the length of x keep
    its dtype where the optimizer is elementwise.
    """
    x = _start(s.length, np.float32)
    stepper = bind_optimizer(s.optimizer)
    new, state = stepper.step(x, _gradients(s.length, 1)[0], stepper.init(x))
    require(new.dtype == np.float32, f"float32 parameters and a float64 gradient gave {new.dtype}")
    if s.elementwise:
        wrong = [
            a.dtype for a in array_leaves(state) if a.shape == x.shape and a.dtype != np.float32
        ]
        require(not wrong, f"state vectors became {wrong[:1]} with float32 parameters")


@SUITE.check()
def does_not_modify_inputs(s: Subject) -> None:
    """x, g and the arrays of the state may be read-only: nothing is written into them, and nothing
    that is returned aliases x or g.
    """
    optimizer = s.optimizer
    x = _start(s.length)
    first, second = _gradients(s.length, 2)
    state = optimizer.init(readonly(x.copy()))
    x, state = _raw(optimizer, x, first, state)
    x, g = np.array(x), np.array(second)
    given = [x, g, *array_leaves(state)]
    before = [a.copy() for a in given]
    for array in given:
        array.flags.writeable = False
    try:
        new, after = _raw(optimizer, x, g, state)
    except ValueError as error:
        if "read-only" not in str(error):
            raise
        raise CheckFailed(f"step writes into what it was given: {error}") from error
    for name, old, now in zip(["x", "g", *["the state"] * len(given)], before, given, strict=False):
        require(np.array_equal(old, now), f"step changed {name}")
    require(
        not any(np.shares_memory(new, a) for a in (x, g)),
        "the new parameters share memory with x or g; return a new array",
    )
    require(
        not any(np.shares_memory(leaf, a) for leaf in array_leaves(after) for a in (x, g)),
        "the new state keeps x or g itself; keep a copy",
    )


@SUITE.check()
def old_states_remain_valid(s: Subject) -> None:
    """The engine predicts many steps and goes back: stepping from an earlier (x, state) gives the
    same bits as the first time.
    """
    optimizer, gradients = s.optimizer, _gradients(s.length, 5)
    path = _walk(optimizer, _start(s.length), gradients)
    stepper = bind_optimizer(optimizer)
    for t, g in enumerate(gradients):
        again = stepper.step(path[t][0], g, path[t][1])
        assert_same_bits(
            again,
            path[t + 1],
            f"step {t + 1} from its old state gave another result after later steps: "
            f"the state was changed in place",
        )


@SUITE.check()
def runs_share_no_state(s: Subject) -> None:
    """One object may serve several runs at once: nothing of a run is kept on it."""
    optimizer = s.optimizer
    first, second = _gradients(s.length, 5, 1), _gradients(s.length, 5, 2)
    alone = _walk(s.make(), _start(s.length), first)
    stepper = bind_optimizer(optimizer)
    a = b = _start(s.length)
    mine, other = stepper.init(a), stepper.init(b)
    for t in range(5):
        a, mine = stepper.step(a, first[t], mine)
        b, other = stepper.step(b, second[t], other)
        assert_same_bits(
            a, alone[t + 1][0], f"step {t + 1} depends on another run that uses the same object"
        )


@SUITE.check()
def accepts_noncontiguous_arrays(s: Subject) -> None:
    """Arrays that are not contiguous give the same answer."""
    x, (g,) = _start(s.length), _gradients(s.length, 1)
    optimizer = s.optimizer
    expected = _raw(optimizer, x, g, optimizer.init(x))[0]
    found = _raw(
        optimizer,
        noncontiguous_copy(x),
        noncontiguous_copy(g),
        optimizer.init(noncontiguous_copy(x)),
    )[0]
    assert_within(
        found, expected, 8 * EPS * (1 + np.abs(expected)), "strided x and g gave another step"
    )


@SUITE.check(when=lambda s: not s.decays, why="it decays x")
def zero_gradient_is_fixed_point(s: Subject) -> None:
    """From a fresh state, zero gradients leave x as it is, bit for bit."""
    start = _start(s.length)
    for x, _ in _walk(s.optimizer, start, [np.zeros(s.length)] * STEPS):
        assert_same_bits(x, start, "a zero gradient moved x")


@SUITE.check(when=lambda s: s.decays, why="it has no decay")
def decay_shrinks_parameters(s: Subject) -> None:
    """With zero gradients x shrinks, and keeps its signs."""
    start = _start(s.length)
    x = _walk(s.optimizer, start, [np.zeros(s.length)] * STEPS)[-1][0]
    away = start != 0
    require(
        (np.sign(x) == np.sign(start)).all() and (np.abs(x) < np.abs(start))[away].all(),
        f"decay took {start} to {x}",
    )


@SUITE.check(when=lambda s: s.elementwise, why="it is not declared elementwise")
def coordinates_are_independent(s: Subject) -> None:
    """Permuted coordinates give permuted steps, bit for bit: each is updated by the same formula
    from its own numbers alone.
    """
    from optex_core.testing import hypothesis_strategies as st

    def body(x: np.ndarray, shift: int) -> None:
        order = np.roll(np.arange(len(x)), shift)
        gradients = _gradients(len(x), 4)
        straight = _walk(s.optimizer, x, gradients)
        turned = _walk(s.optimizer, x[order], [g[order] for g in gradients])
        for (a, _), (b, _) in zip(straight, turned, strict=True):
            assert_same_bits(b, a[order], "the order of the coordinates matters")
        alone = _walk(s.optimizer, x[:1], [g[:1] for g in gradients])
        assert_same_bits(alone[-1][0], straight[-1][0][:1], "a coordinate depends on others")

    for_all(body, x=st.vectors(s.d or st.st.integers(2, 5)), shift=st.st.integers(1, 4))


@SUITE.check()
def extreme_gradients_stay_finite(s: Subject) -> None:
    """Gradients of 1e-100 to 1e100, and zeros, give finite parameters."""
    from optex_core.testing import hypothesis_strategies as st

    def body(g: np.ndarray, power: int) -> None:
        for x, _ in _walk(s.optimizer, _start(len(g)), [g * 10.0**power] * 3):
            require(
                np.isfinite(x).all(),
                f"finite gradients of {np.abs(g * 10.0**power).max():.1e} gave {x}",
            )

    for_all(
        body,
        g=st.vectors(s.sizes, magnitude=10.0),
        power=st.st.sampled_from((0, -100, 100, -30, 30)),
    )


@SUITE.check()
def decreases_quadratics(s: Subject) -> None:
    """On positive definite quadratics with curvatures up to 1, from afar, 60 steps end lower than
    they began.
    """
    from optex_core.testing import hypothesis_strategies as st

    def body(problem: Any) -> None:
        stepper = bind_optimizer(s.optimizer)
        x = problem.centre + 2.0 + np.arange(problem.d)
        first, state = problem(x)[0], stepper.init(x)
        for _ in range(60):
            value, g = problem(x)
            x, state = stepper.step(x, g, state, value=value)
        last = problem(x)[0]
        require(last < first, f"the value went from {first:.6g} to {last:.6g} in 60 steps")

    for_all(body, problem=st.quadratics(s.sizes, condition=20.0), examples=15)


@SUITE.check(when=lambda s: s.scheduled, why="it has no setting `learning_rate`")
def schedule_receives_step_count(s: Subject) -> None:
    """A learning rate that is a function of t is asked for t = 0, 1, 2, ..., and a constant one
    gives the bits of its number.
    """
    asked: list[int] = []

    def rate(t: int) -> float:
        asked.append(t)
        return RATE

    gradients = _gradients(s.length, 4)
    found = _walk(dataclasses.replace(s.optimizer, learning_rate=rate), _start(s.length), gradients)
    require(
        sorted(set(asked)) == [0, 1, 2, 3],
        f"four steps asked the schedule for t = {sorted(set(asked))}",
    )
    expected = _walk(
        dataclasses.replace(s.optimizer, learning_rate=RATE), _start(s.length), gradients
    )
    assert_same_bits(found[-1][0], expected[-1][0], "a constant schedule and its number differ")
    half = _walk(
        dataclasses.replace(s.optimizer, learning_rate=lambda t: RATE if t < 2 else RATE / 2),
        _start(s.length),
        gradients,
    )
    require(
        same_bits(half[2][0], expected[2][0]) and not same_bits(half[3][0], expected[3][0]),
        "a rate that changes at t = 2 does not act there",
    )


@SUITE.check(
    when=lambda s: bool(getattr(s.optimizer, "affine", False)), why="it does not declare `affine`"
)
def affine_steps_are_affine(s: Subject) -> None:
    """step(a p + (1 - a) q) = a step(p) + (1 - a) step(q) for x, g and the state vectors together:
    the engine takes steps on coefficients.
    """
    rng, optimizer = np.random.default_rng(0), s.optimizer
    template = _walk(optimizer, _start(s.length), _gradients(s.length, 3))[-1][1]
    leaves = tree_flatten(template)[0]
    vectors = [
        i
        for i, leaf in enumerate(leaves)
        if isinstance(leaf, np.ndarray) and leaf.shape == (s.length,)
    ]

    def stepped(rows: np.ndarray) -> np.ndarray:
        filled = list(leaves)
        for i, row in zip(vectors, rows[2:], strict=True):
            filled[i] = row
        x, state = optimizer.step(rows[0], rows[1], tree_unflatten(template, filled))
        after = tree_flatten(state)[0]
        return np.stack([x, *(after[i] for i in vectors)])

    p, q = rng.uniform(0.5, 2.0, size=(2, 2 + len(vectors), s.length))
    q[1] *= -50.0
    expected = 0.3 * stepped(p) + 0.7 * stepped(q)
    assert_within(
        stepped(0.3 * p + 0.7 * q),
        expected,
        1e-13 * (1 + np.abs(expected)),
        "the step is declared affine and is not",
    )


@SUITE.check(when=lambda s: s.twin is not None, why="no reference is known: pass reference=")
def matches_reference_formula(s: Subject) -> None:
    """Eight steps are those of the formula, written plainly and in 50 digits, to the rounding of
    some ten operations a step.
    """
    from optex_core.testing import hypothesis_strategies as st

    optimizer = s.optimizer
    kinds = [st.st.just(optimizer)]
    if s.reference is None and type(optimizer) is OPTIMIZERS.get(getattr(optimizer, "name", "")):
        kinds.append(st.optimizer_settings(type(optimizer)))

    def body(optimizer: Any, gradients: np.ndarray) -> None:
        twin = s.reference or _twin(optimizer)
        assert twin is not None
        x0 = _start(gradients.shape[1])
        expected = np.asarray(twin(x0, gradients), dtype=np.float64)
        found = np.array([x for x, _ in _walk(optimizer, x0, gradients)[1:]])
        # A centered variance is a difference of like numbers, and under a root: what cancels there
        # is no fault of the step.
        require(
            not np.isnan(found).any() or np.isnan(expected).any(),
            f"nan after {int(np.isnan(found).any(axis=1).argmax()) + 1} steps",
        )
        travel = np.abs(np.diff(np.vstack([x0, expected]), axis=0)).cumsum(axis=0)
        loose = 1e-6 if getattr(optimizer, "centered", False) else 2e-13
        assert_within(
            found,
            expected,
            64 * EPS * (1 + np.abs(expected)) + loose * travel,
            "(step, coordinate) of the path is not that of the formula",
        )

    def rows(d: int) -> Any:
        # Not zero: 0 / 0 with eps = 0, and the sign of a rounding, are nobody's fault.
        sizes = st.st.floats(0.125, 8.0)
        entries = st.st.one_of(sizes, sizes.map(lambda v: -v))
        return st.arrays(np.float64, (STEPS, d), elements=entries)

    for kind, examples in zip(kinds, (4, 16), strict=False):
        for_all(body, optimizer=kind, gradients=s.sizes.flatmap(rows), examples=examples)


@SUITE.check()
def parallelism_one_is_plain_optimizer(s: Subject) -> None:
    """In the engine with parallelism=1 the iterates are those of a plain loop, bit for bit,
    whatever the strategy.
    """
    x0, weights = _start(s.length), 1.0 / (1.0 + np.arange(s.length))
    for strategy in ("auto", "paper"):
        engine = OptEx(
            x0, optimizer=s.optimizer, parallelism=1, strategy=strategy, rng=0, maxiter=6
        )
        stepper = bind_optimizer(s.make())
        x, state, t = x0, stepper.init(x0), 0
        while not engine.stop():
            for c in engine.ask():
                assert_same_bits(
                    np.array(c.x),
                    x,
                    f"iterate {t} of strategy {strategy!r} is not the optimizer's own",
                )
                engine.tell(c.id, gradient=weights * c.x, value=float(weights @ (c.x * c.x)) / 2)
            x, state = stepper.step(x, weights * x, state, value=float(weights @ (x * x)) / 2)
            t += 1


@SUITE.check()
def saved_run_continues_identically(s: Subject) -> None:
    """A run saved after three rounds and loaded again goes on as if nothing had happened: the state
    is made of arrays and numbers, all of it.
    """
    weights = 1.0 / (1.0 + np.arange(s.length))

    def advance(engine: OptEx, rounds: int) -> OptEx:
        for _ in range(rounds):
            for c in engine.ask():
                engine.tell(c.id, gradient=weights * c.x, value=float(weights @ (c.x * c.x)) / 2)
        return engine

    def new() -> OptEx:
        return OptEx(
            _start(s.length),
            optimizer=s.make(),
            parallelism=2,
            strategy="corrected",
            rng=0,
            maxiter=50,
        )

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
    assert_same_bits(
        advance(loaded, 4).result().x, expected.result().x, "the loaded run ends elsewhere"
    )


@SUITE.check()
def accepts_missing_values(s: Subject) -> None:
    """Gradient-only oracles tell no value: the step works with value=nan."""
    stepper = bind_optimizer(s.optimizer)
    x = _start(s.length)
    state = stepper.init(x)
    for g in _gradients(s.length, 3):
        x, state = stepper.step(x, g, state, value=math.nan)
        require(np.isfinite(x).all(), "a missing value gave parameters that are not finite")


@SUITE.check()
def accepts_untrusted_gradients(s: Subject) -> None:
    """``trusted=False``, as in predictions and replays, gives a step of the same form that is
    finite and repeats.
    """
    stepper = bind_optimizer(s.optimizer)
    x = _start(s.length)
    state = stepper.init(x)
    for g in _gradients(s.length, 4):
        first, second = (stepper.step(x, g, state, trusted=False) for _ in range(2))
        assert_same_bits(first[0], second[0], "the same predicted step twice gave two results")
        x, state = first
        require(
            x.shape == (s.length,) and np.isfinite(x).all(),
            f"a predicted step gave {short_repr(x)}",
        )
