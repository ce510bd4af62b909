"""Checks of single steps: pure, of the dtype and the shape of x, the same from an old state."""

from __future__ import annotations

import numpy as np

from optex_core._validation import short_repr
from optex_core.optimizers._on_backend import bind_optimizer
from optex_core.testing import hypothesis_strategies as st
from optex_core.testing.assertions import (
    EPS,
    array_leaves,
    assert_same_bits,
    assert_within,
    noncontiguous_copy,
    readonly,
)
from optex_core.testing.check_suite import CheckFailed, require
from optex_core.testing.properties import for_all
from optex_core.testing.suites._optimizer_subject import (
    STEPS,
    SUITE,
    OptimizerSubject,
    sample_gradients,
    sample_start,
    step_path,
)


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
    x = sample_start(s.length, np.float32)
    new, state = step_path(s.optimizer, x, sample_gradients(s.length, 1))[1]
    require(new.dtype == np.float32, f"float32 parameters and a float64 gradient gave {new.dtype}")
    vectors = [a for a in array_leaves(state) if a.shape == x.shape]
    wrong = [a.dtype for a in vectors if a.dtype != np.float32]
    require(not (s.elementwise and wrong), f"state vectors became {wrong[:1]} with float32 x")


@SUITE.check()
def does_not_modify_inputs(s: OptimizerSubject) -> None:
    """x, g and the arrays of the state may be read-only: nothing is written into them, and nothing
    that is returned aliases x or g.
    """
    optimizer, (first, g) = s.optimizer, sample_gradients(s.length, 2)
    x, state = optimizer.step(
        sample_start(s.length), first, optimizer.init(readonly(sample_start(s.length)))
    )
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
    optimizer, gradients = s.optimizer, sample_gradients(s.length, 5)
    path = step_path(optimizer, sample_start(s.length), gradients)
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
    first, second = sample_gradients(s.length, 5, 1), sample_gradients(s.length, 5, 2)
    alone = step_path(s.make(), sample_start(s.length), first)
    bound = bind_optimizer(s.optimizer)
    a = b = sample_start(s.length)
    mine, other = bound.init(a), bound.init(b)
    for t in range(5):
        a, mine = bound.step(a, first[t], mine)
        b, other = bound.step(b, second[t], other)
        text = f"step {t + 1} depends on another run that uses the same object"
        assert_same_bits(a, alone[t + 1][0], text)


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
    """Permuted coordinates give permuted steps, bit for bit: each is updated by the same formula
    from its own numbers alone.
    """

    def body(x: np.ndarray, shift: int) -> None:
        order, gradients = np.roll(np.arange(len(x)), shift), sample_gradients(len(x), 4)
        straight = step_path(s.optimizer, x, gradients)
        permuted = step_path(s.optimizer, x[order], [g[order] for g in gradients])
        for (a, _), (b, _) in zip(straight, permuted, strict=True):
            assert_same_bits(b, a[order], "the order of the coordinates matters")
        alone = step_path(s.optimizer, x[:1], [g[:1] for g in gradients])
        text = "a coordinate depends on others"
        assert_same_bits(alone[-1][0], straight[-1][0][:1], text)

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
