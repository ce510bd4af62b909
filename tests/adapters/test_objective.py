"""The user's callable in all its forms: calls, seeds, copies, counts, differences, and what is
refused.
"""

from __future__ import annotations

import functools
import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from optex_core.adapters.finite_differences import stencil
from optex_core.adapters.objective import make_objective
from optex_core.errors import EvaluationError, ObjectiveError
from optex_core.types import CallCounts, Context, ObjectiveProtocol

CONTEXT = Context(id=7, seed=1234, iteration=1, slot=3)
X = np.array([1.0, -2.0, 0.5])


def cubes(x):
    return float(np.sum(x**3)), 3 * x**2


def value(x):
    return np.sum(x**3)


def gradient(x):
    return 3 * x**2


class Spy:
    """A callable that remembers how it was called."""

    def __init__(self, function):
        self.function = function
        self.calls = []

    def __call__(self, x, *args):
        self.calls.append((x.copy(), args))
        return self.function(x)


@pytest.mark.parametrize("jac", [True, gradient, "2-point", "3-point", "cs"])
def test_every_form_of_jac_gives_the_same_answer(jac):
    objective = make_objective(cubes if jac is True else value, jac=jac, x0=X)
    evaluation = objective.evaluate(X, CONTEXT)
    assert evaluation.value == cubes(X)[0]
    # 2-point: truncation h f''/2 with h = 1.5e-8 max(1, |x|) and f'' = 6x, at most 2e-7; the others
    # are far below.
    np.testing.assert_allclose(
        evaluation.gradient, gradient(X), atol={"2-point": 5e-7, "3-point": 1e-9}.get(jac, 1e-14)
    )
    assert isinstance(objective, ObjectiveProtocol)


@pytest.mark.parametrize(
    ("jac", "nfev"), [(True, 1), (gradient, 1), ("2-point", 4), ("3-point", 7), ("cs", 4)]
)
def test_counts_are_the_calls_that_were_made(jac, nfev):
    spy = Spy(cubes if jac is True else value)
    evaluation = make_objective(spy, jac=jac, x0=X).evaluate(X, CONTEXT)
    assert (evaluation.nfev, evaluation.njev) == (len(spy.calls), 1) == (nfev, 1)


def test_gradient_only_has_no_value():
    evaluation = make_objective(None, jac=gradient, x0=X).evaluate(X, CONTEXT)
    assert evaluation.value is None
    assert (evaluation.nfev, evaluation.njev) == (0, 1)
    np.testing.assert_array_equal(evaluation.gradient, gradient(X))


@pytest.mark.parametrize(
    ("jac", "calls"), [(True, (1, 1)), (gradient, (1, 0)), ("2-point", (1, 1))]
)
def test_calls_before_an_exception_are_counted(jac, calls):
    def broken(x):
        raise EvaluationError("the mesh is tangled")

    counts = CallCounts()
    with pytest.raises(EvaluationError, match="tangled"):
        make_objective(broken, jac=jac, x0=X).evaluate(X, CONTEXT, counts)
    assert (counts.nfev, counts.njev) == calls


def test_a_difference_that_fails_half_way_reports_the_calls_so_far():
    calls = []

    def fails_third(x):
        calls.append(x)
        if len(calls) == 3:
            raise EvaluationError("no")
        return value(x)

    counts = CallCounts()
    with pytest.raises(EvaluationError):
        make_objective(fails_third, jac="2-point", x0=X).evaluate(X, CONTEXT, counts)
    assert (counts.nfev, counts.njev) == (3, 1)


# -- seeds, contexts, arguments --------------------------------------------------------------------


def test_a_keyword_only_seed_is_given_and_shared_by_all_points_of_a_difference():
    seeds = []

    def noisy(x, *, seed):
        seeds.append(seed)
        return float(x @ x) + np.random.default_rng(seed).normal()

    evaluation = make_objective(noisy, jac="3-point", x0=X).evaluate(X, CONTEXT)
    assert seeds == [1234] * 7
    # the noise cancels: rounding / h = 1e-16 / 6e-6
    np.testing.assert_allclose(evaluation.gradient, 2 * X, atol=1e-9)


def test_ctx_is_given_to_fun_and_to_jac():
    seen = []

    def fun(x, ctx):
        seen.append(ctx)
        return value(x)

    def jac(x, *, ctx=None):
        seen.append(ctx)
        return gradient(x)

    make_objective(fun, jac=jac, x0=X).evaluate(X, CONTEXT)
    assert seen == [CONTEXT, CONTEXT]


def test_a_seed_that_the_user_has_bound_or_takes_by_position_stays_his():
    def fun(x, *, seed):
        return float(seed), x

    def positional(x, seed=5):
        return float(seed), x

    assert make_objective(functools.partial(fun, seed=3), x0=X).evaluate(X, CONTEXT).value == 3.0
    assert make_objective(positional, x0=X).evaluate(X, CONTEXT).value == 5.0
    assert make_objective(positional, args=(9,), x0=X).evaluate(X, CONTEXT).value == 9.0


def test_args_go_to_fun_and_jac_and_one_argument_needs_no_tuple():
    fun, jac = Spy(value), Spy(gradient)
    make_objective(fun, args="a", jac=jac, x0=X).evaluate(X, CONTEXT)
    assert [fun.calls[0][1], jac.calls[0][1]] == [("a",), ("a",)]


def test_callables_without_a_signature_are_called_with_x():
    class NoSignature:
        __signature__ = "none"

        def __call__(self, x):
            return cubes(x)

    assert make_objective(NoSignature(), x0=X).evaluate(X, CONTEXT).value == cubes(X)[0]


def test_the_objective_pickles():
    again = pickle.loads(pickle.dumps(make_objective(cubes, x0=X)))
    assert again.evaluate(X, CONTEXT).value == cubes(X)[0]


# -- arrays ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("jac", [True, gradient, "2-point"])
def test_user_code_may_write_into_x_and_keep_it(jac):
    kept = []

    def rude(x):
        result = cubes(x) if jac is True else value(x)
        kept.append(x)
        x[:] = np.nan
        return result

    x = X.copy()
    x.flags.writeable = False
    objective = make_objective(rude, jac=jac, x0=X)
    evaluation = objective.evaluate(x, CONTEXT)
    np.testing.assert_array_equal(x, X)
    np.testing.assert_allclose(evaluation.gradient, gradient(X), atol=5e-7)
    assert not any(np.shares_memory(k, x) for k in kept)


def test_a_reused_buffer_does_not_change_earlier_gradients():
    buffer = np.empty(3)

    def reusing(x):
        buffer[:] = gradient(x)
        return value(x), buffer

    objective = make_objective(reusing, x0=X)
    first = objective.evaluate(X, CONTEXT)
    objective.evaluate(X + 1, CONTEXT)
    np.testing.assert_array_equal(first.gradient, gradient(X))
    assert first.gradient.flags.writeable


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(
    "kind", [list, np.float16, np.float32, np.float64, np.longdouble, np.int64]
)
def test_real_gradients_of_any_dtype_take_the_dtype_of_x(dtype, kind):
    g = [1, 2, 3] if kind is list else np.array([1, 2, 3], kind)
    evaluation = make_objective(lambda x: (0, g), x0=X.astype(dtype)).evaluate(
        X.astype(dtype), CONTEXT
    )
    assert evaluation.gradient.dtype == dtype
    np.testing.assert_array_equal(evaluation.gradient, [1, 2, 3])


@pytest.mark.parametrize(
    "raw", [2, 2.0, np.float32(2), np.array(2), np.array([2.0]), np.array([[2]]), [2.0], np.int8(2)]
)
def test_values_may_be_any_real_scalar(raw):
    v = make_objective(lambda x: (raw, x), x0=X).evaluate(X, CONTEXT).value
    assert v == 2.0
    assert type(v) is float


def test_numbers_that_are_not_finite_pass_for_the_engine_to_judge():
    evaluation = make_objective(lambda x: (np.inf, [np.nan, 1e300, 0]), x0=X).evaluate(
        X.astype(np.float32), CONTEXT
    )
    np.testing.assert_array_equal(evaluation.gradient, [np.nan, np.inf, 0])
    assert evaluation.value == np.inf


def test_one_parameter_accepts_any_array_with_one_entry():
    x = np.array([3.0])
    for g in (6.0, [6.0], np.array([[6.0]])):
        np.testing.assert_array_equal(
            make_objective(lambda x, g=g: (9.0, g), x0=x).evaluate(x, CONTEXT).gradient, [6.0]
        )


@pytest.mark.parametrize(
    ("returned", "says"),
    [
        (3.0, r"must return \(value, gradient\) because jac=True"),
        (None, "because jac=True"),
        ((1.0, X, X), "tuple of length 3"),
        (X, "because jac=True"),
        ((None, X), "None as its value"),
        ((1.0, None), "None as its gradient"),
        ((1.0, X[:2]), r"shape \(3,\), got shape \(2,\)"),
        ((1.0, X[:, None]), r"shape \(3,\), got shape \(3, 1\)"),
        ((1.0, 4.0), r"got shape \(\)"),
        ((X, X), "one number as its value"),
        ((1j, X), "complex value"),
        ((1.0, X + 0j), "complex gradient"),
        ((1.0, [[1.0], [1.0, 2.0], 3.0]), "no array of numbers"),
        ((1.0, np.array([1, "a", None], object)), "dtype object"),
        (("one", X), "dtype <U3"),
        ((True, X), "dtype bool"),
    ],
)
def test_what_no_evaluation_can_be_ends_with_a_sentence(returned, says):
    with pytest.raises(ObjectiveError, match=says):
        make_objective(lambda x: returned, x0=X).evaluate(X, CONTEXT)


def test_a_pair_without_jac_true_is_explained():
    with pytest.raises(ObjectiveError, match=r"no array of numbers|pass jac=True"):
        make_objective(lambda x: (1.0, x), jac=gradient, x0=X).evaluate(X, CONTEXT)
    with pytest.raises(ObjectiveError, match="pass jac=True"):
        make_objective(lambda x: (1.0, 2.0), jac="2-point", x0=X).evaluate(X, CONTEXT)


def test_an_objective_error_is_a_type_error_that_pickles():
    error = pickle.loads(pickle.dumps(ObjectiveError("wrong")))
    assert isinstance(error, TypeError)
    assert str(error) == "wrong"


# -- differences -----------------------------------------------------------------------------------

_numbers = st.floats(-1e3, 1e3, width=32)


@given(hnp.arrays(np.float64, 4, elements=_numbers), hnp.arrays(np.float64, 4, elements=_numbers))
def test_three_point_differences_are_exact_for_parabolas(x, a):
    fun = lambda z: float(a @ z + z @ z)  # noqa: E731
    g = make_objective(fun, jac="3-point", x0=x).evaluate(x, CONTEXT).gradient
    # No truncation, so rounding alone: eps |f| / h with h >= 6e-6 and |f| up to the sum of the
    # magnitudes, with a factor 20 for the sums.
    scale = np.abs(a) @ np.abs(x) + x @ x + 1
    np.testing.assert_allclose(g, a + 2 * x, atol=20 * 2.3e-16 * scale / 6e-6)


@given(
    hnp.arrays(np.float64, 3, elements=_numbers),
    hnp.arrays(np.float64, 3, elements=st.sampled_from([0.0, 1e-12, 1e-7, 1e-3, 10.0, np.inf])),
    hnp.arrays(np.float64, 3, elements=st.sampled_from([0.0, 1e-12, 1e-7, 1e-3, 10.0, np.inf])),
    st.sampled_from(["2-point", "3-point"]),
    st.sampled_from([np.float32, np.float64]),
)
def test_shifted_points_stay_inside_the_bounds(x, below, above, method, dtype):
    x = x.astype(dtype)
    low, high = (x - below).astype(dtype), (x + above).astype(dtype)
    points = stencil(x, method, low, high)
    for k, to in points.perturbations:
        assert low[k] <= to.real <= high[k]
        assert dtype(to.real) == to.real  # the step that divides is the step that was taken
        assert to.real != x[k]
    per = 1 if method == "2-point" else 2
    counts = np.bincount([k for k, _ in points.perturbations], minlength=3)
    assert set(counts) <= {0, per}
    # where there is room, every coordinate is looked at
    assert all(counts[(below > 1e-2) & (np.abs(x) <= 1e3)] == per)


def test_a_coordinate_fixed_by_its_bounds_costs_no_call():
    spy = Spy(value)
    low, high = np.array([0, -2, 0.0]), np.array([2, -2, 1.0])
    evaluation = make_objective(spy, jac="2-point", x0=X, bounds=(low, high)).evaluate(X, CONTEXT)
    assert evaluation.nfev == len(spy.calls) == 3
    assert evaluation.gradient[1] == 0.0


def test_complex_steps_are_exact_to_rounding_and_refuse_a_function_that_drops_them():
    fun = lambda x: np.sin(x).prod() * np.exp(x[0])  # noqa: E731
    g = make_objective(fun, jac="cs", x0=X).evaluate(X, CONTEXT).gradient
    s, c = np.sin(X), np.cos(X)
    exact = np.exp(X[0]) * s.prod() * (c / s + np.array([1, 0, 0]))
    np.testing.assert_allclose(g, exact, rtol=1e-14)  # a few roundings
    with pytest.raises(ObjectiveError, match="use jac='3-point'"):
        make_objective(lambda x: float(np.abs(x).sum()), jac="cs", x0=X).evaluate(X, CONTEXT)


def test_differences_of_float32_take_steps_that_float32_resolves():
    x = X.astype(np.float32)
    # eps^(1/2) = 3.5e-4 and eps^(2/3) = 2.4e-5, times |f'''| and |f''| up to 12
    for method, tolerance in (("2-point", 1e-2), ("3-point", 1e-3)):
        g = (
            make_objective(lambda z: float(np.sum(z.astype(float) ** 3)), jac=method, x0=x)
            .evaluate(x, CONTEXT)
            .gradient
        )
        assert g.dtype == np.float32
        np.testing.assert_allclose(g, gradient(X), atol=tolerance)


# -- vectorized ------------------------------------------------------------------------------------


@pytest.mark.parametrize("jac", [True, gradient, "2-point", "3-point", "cs"])
def test_a_batch_gives_the_rows(jac):
    rows = lambda A: (A**3).sum(axis=1)  # noqa: E731
    fun = (lambda A: (rows(A), 3 * A**2)) if jac is True else rows
    xs = [X, X + 1, X - 3]
    contexts = [Context(i, 10 + i, 0, i) for i in range(3)]
    batch = make_objective(fun, jac=jac, x0=X, vectorized=True).evaluate_batch(xs, contexts)
    single = make_objective(cubes if jac is True else value, jac=jac, x0=X)
    for x, evaluation in zip(xs, batch, strict=True):
        alone = single.evaluate(x, CONTEXT)
        # Sums along another axis may round differently: eps |f| / h = 2e-16 * 100 / 1.5e-8.
        np.testing.assert_allclose(
            evaluation.gradient, alone.gradient, atol=2e-6 if jac == "2-point" else 1e-8
        )
        assert evaluation.value == pytest.approx(alone.value, rel=1e-14)
        assert (evaluation.nfev, evaluation.njev) == (alone.nfev, 1)
        assert evaluation.gradient.base is None  # no row keeps the batch alive


def test_a_batch_gets_one_seed_per_row_and_rows_count_as_calls():
    seen = []

    def fun(A, *, seed):
        seen.append(seed)
        A[:] = 0
        return np.arange(len(A)), np.ones_like(A)

    counts = CallCounts()
    xs = [X, X]
    out = make_objective(fun, x0=X, vectorized=True).evaluate_batch(
        xs, [Context(0, 5, 0, 0), Context(1, 6, 0, 1)], counts
    )
    assert seen == [(5, 6)]
    assert [e.value for e in out] == [0.0, 1.0]
    assert (counts.nfev, counts.njev) == (2, 2)
    assert X[0] == 1.0


def test_differences_of_a_batch_are_few_calls_and_respect_the_size_limit(monkeypatch):
    calls = []

    def fun(A, *, seed):
        calls.append((A.shape, set(seed)))
        return (A**3).sum(axis=1)

    objective = make_objective(fun, jac="3-point", x0=X, vectorized=True)
    objective.evaluate_batch([X, X], [Context(0, 5, 0, 0), Context(1, 6, 0, 1)])
    assert calls == [((2, 3), {5, 6}), ((6, 3), {5}), ((6, 3), {6})]
    calls.clear()
    monkeypatch.setattr("optex_core.adapters.objective.MAX_BATCH_NUMBERS", 12)
    objective.evaluate(X, CONTEXT)
    assert [shape for shape, _ in calls] == [(1, 3), (4, 3), (2, 3)]


@pytest.mark.parametrize(
    ("returned", "says"),
    [
        ((np.zeros(3), np.zeros((2, 3))), r"one value per row, shape \(2,\)"),
        ((0.0, np.zeros((2, 3))), r"one value per row, shape \(2,\)"),
        ((np.zeros(2), np.zeros((3, 2))), r"shape \(2, 3\), got shape \(3, 2\)"),
        ((np.zeros(2), np.zeros(3)), r"shape \(2, 3\), got shape \(3,\)"),
    ],
)
def test_batches_of_a_wrong_shape_are_refused(returned, says):
    with pytest.raises(ObjectiveError, match=says):
        make_objective(lambda A: returned, x0=X, vectorized=True).evaluate_batch(
            [X, X], [CONTEXT, CONTEXT]
        )
