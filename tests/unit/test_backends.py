"""One set of checks for every backend, against plain NumPy formulas in float64."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import warnings
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from optex_core.backends import fusion, get_backend
from optex_core.backends.base import Backend, axpy_rule, clip_rule
from optex_core.errors import BackendError
from optex_core.optimizers import OPTIMIZERS

#: Around the borders of NumPy's blocks (16,384 entries, 1,024 columns), Numba's (2,048) and CuPy's (8,192).
SIZES = (1, 2, 3, 1_023, 1_024, 1_025, 2_047, 2_048, 2_049, 8_193, 16_383, 16_384, 16_385, 40_000)

sizes = st.sampled_from(SIZES)
rows = st.integers(1, 7)
dtypes = st.sampled_from((np.float32, np.float64))
seeds = st.integers(0, 2**32 - 1)


def data(d, n, dtype, seed):
    """Rows X and G, a point x with gradient g, weights, and a scale with several orders of magnitude."""
    rng = np.random.default_rng(seed)
    return SimpleNamespace(
        X=rng.normal(size=(n, d)).astype(dtype),
        G=rng.normal(size=(n, d)).astype(dtype),
        x=rng.normal(size=d).astype(dtype),
        g=rng.normal(size=d).astype(dtype),
        w=rng.normal(size=n),
        scale=np.exp(rng.normal(size=d)).astype(dtype),
    )


def on(backend: Backend, *arrays):
    """The arrays on the backend's device."""
    return [None if a is None else backend.copy_in(a, a.dtype) for a in arrays]


def wide(*arrays):
    return [None if a is None else a.astype(np.float64) for a in arrays]


def check_sums(got, terms):
    """Sums over the last axis: the classical bound d eps sum |terms| for any order of summation, four times for the rounding of each term."""
    assert isinstance(got, (float, np.ndarray))
    terms = np.asarray(terms)
    bound = (terms.shape[-1] + 4) * np.finfo(np.float64).eps * np.abs(terms).sum(axis=-1)
    assert np.all(np.abs(got - terms.sum(axis=-1)) <= bound)


def check_combination(backend, got, expected, magnitude, dtype):
    """One rounding to the dtype, plus float64 sums of terms of this magnitude (64 eps: up to 8 terms, several operations each)."""
    assert got.dtype == dtype
    bound = np.finfo(dtype).eps * np.abs(expected) + 64 * np.finfo(np.float64).eps * magnitude
    assert np.all(np.abs(backend.to_host(got).astype(np.float64) - expected) <= bound)


# -- reductions ---------------------------------------------------------------------------------------------------------------------------


@given(sizes, dtypes, seeds)
def test_dot_and_distance_of_two_vectors(backend, d, dtype, seed):
    p = data(d, 1, dtype, seed)
    x, g, scale = on(backend, p.x, p.g, p.scale)
    wx, wg, ws = wide(p.x, p.g, p.scale)
    check_sums(backend.dot(x, g), wx * wg)
    check_sums(backend.squared_distance(x, g), (wx - wg) ** 2)
    check_sums(backend.squared_distance(x, g, scale), ((wx - wg) / ws) ** 2)
    assert backend.squared_distance(x, x) == 0.0
    assert isinstance(backend.dot(x, g), float)
    assert isinstance(backend.squared_distance(x, g), float)


@given(sizes, dtypes, seeds)
def test_max_abs_is_exact(backend, d, dtype, seed):
    p = data(d, 1, dtype, seed)
    assert backend.max_abs(*on(backend, p.x)) == np.abs(p.x).max()
    assert backend.max_abs(*on(backend, np.zeros(d, dtype))) == 0.0
    assert backend.all_finite(*on(backend, p.x)) is True


@given(sizes, dtypes, st.sampled_from((np.nan, -np.nan, np.inf, -np.inf)), seeds)
def test_nan_and_inf_are_seen_wherever_they_are(backend, d, dtype, bad, seed):
    p = data(d, 1, dtype, seed)
    p.x[np.random.default_rng(seed).integers(d)] = bad
    (x,) = on(backend, p.x)
    assert backend.all_finite(x) is False
    assert np.isnan(backend.max_abs(x)) if np.isnan(bad) else backend.max_abs(x) == np.inf


def test_nan_outweighs_inf(backend):
    (x,) = on(backend, np.array([np.inf, np.nan, 1.0]))
    assert np.isnan(backend.max_abs(x))


def test_huge_entries_are_finite(backend):
    # Their square is not.
    (x,) = on(backend, np.full(10, 1e300))
    assert backend.all_finite(x) is True
    assert backend.max_abs(x) == 1e300


@given(sizes, rows, dtypes, st.booleans(), seeds)
def test_rows_against_a_pair(backend, d, n, dtype, scaled, seed):
    p = data(d, n, dtype, seed)
    scale = p.scale if scaled else None
    X, G, x, g, s = on(backend, p.X, p.G, p.x, p.g, scale)
    wX, wG, wx, wg = wide(p.X, p.G, p.x, p.g)
    ws = 1.0 if scale is None else scale.astype(np.float64)
    distances = ((wX - wx) / ws) ** 2
    mixed = (wG - wg) * (wX - wx)
    check_sums(backend.squared_distances(X, x, s), distances)
    check_sums(backend.inner_differences(G, g, X, x), mixed)
    D, E, M = backend.pair_rows(X, G, x, g, s)
    check_sums(D, distances)
    check_sums(E, ((wG - wg) * ws) ** 2)
    check_sums(M, mixed)
    for result in (D, E, M, backend.squared_distances(X, x, s)):
        assert isinstance(result, np.ndarray)
        assert (result.shape, result.dtype) == ((n,), np.float64)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_close_points_keep_their_digits(backend, dtype):
    # |a|^2 + |b|^2 - 2ab loses every digit here; the entries themselves are exact, so the differences must be too.
    rng = np.random.default_rng(1)
    x = (1e3 + rng.normal(size=20_000)).astype(dtype)
    X = (x + 1e-4 * rng.normal(size=(3, x.size))).astype(dtype)
    expected = (X.astype(np.float64) - x.astype(np.float64)) ** 2
    check_sums(backend.squared_distances(*on(backend, X, x)), expected)
    check_sums(backend.pair_rows(*on(backend, X, X, x, x))[2], expected)


# -- combinations -------------------------------------------------------------------------------------------------------------------------


@given(sizes, rows, dtypes, st.integers(-1, 6), seeds)
def test_combine(backend, d, n, dtype, anchor, seed):
    p = data(d, n, dtype, seed)
    anchor = None if anchor < 0 else min(anchor, n - 1)
    (X,) = on(backend, p.X)
    (wX,) = wide(p.X)
    base = 0.0 if anchor is None else wX[anchor]
    expected = base + p.w @ (wX - base)
    check_combination(backend, backend.combine(X, p.w, anchor), expected, np.abs(base) + np.abs(p.w) @ np.abs(wX - base), dtype)


@given(sizes, rows, dtypes, st.integers(-1, 6), st.sampled_from((0.0, 0.3, -40.0)), st.booleans(), seeds)
def test_predict(backend, d, n, dtype, anchor, curvature, scaled, seed):
    p = data(d, n, dtype, seed)
    anchor = None if anchor < 0 else min(anchor, n - 1)
    scale = p.scale if scaled else None
    X, G, x, s = on(backend, p.X, p.G, p.x, scale)
    wX, wG, wx = wide(p.X, p.G, p.x)
    factor = curvature / (1.0 if scale is None else scale.astype(np.float64)) ** 2
    base_x, base_g = (0.0, 0.0) if anchor is None else (wX[anchor], wG[anchor])
    expected = base_g + p.w @ (wG - base_g) + factor * (wx - base_x - p.w @ (wX - base_x))
    weights = np.abs(p.w)
    magnitude = np.abs(base_g) + weights @ np.abs(wG - base_g) + np.abs(factor) * (np.abs(wx) + np.abs(base_x) + weights @ np.abs(wX - base_x))
    check_combination(backend, backend.predict(X, G, p.w, anchor, x, curvature, s), expected, magnitude, dtype)


def test_predict_without_curvature_does_not_read_the_points(backend):
    p = data(50, 4, np.float64, 0)
    X, G, x = on(backend, np.full_like(p.X, np.nan), p.G, np.full_like(p.x, np.nan))
    got = backend.to_host(backend.predict(X, G, p.w, 2, x, 0.0))
    np.testing.assert_array_equal(got, backend.to_host(backend.combine(G, p.w, 2)))
    assert np.isfinite(got).all()


def test_anchored_weights_of_size_200_keep_their_digits(backend):
    # Rows 1e-4 apart at 1e3 and weights that sum to one: unanchored, in float32, 200 x 1e3 x eps would be 2e-2, a hundred times the step.
    rng = np.random.default_rng(3)
    X = (1e3 + 1e-4 * rng.normal(size=(4, 5_000))).astype(np.float32)
    w = np.array([100.0, -100.0, 50.0, -49.0])
    (wX,) = wide(X)
    expected = wX[3] + w @ (wX - wX[3])
    got = backend.to_host(backend.combine(*on(backend, X), w, 3)).astype(np.float64)
    assert np.abs(got - expected).max() <= np.finfo(np.float32).eps * 1.1e3


@pytest.mark.parametrize("anchor", [-5, 4])
def test_an_anchor_outside_the_rows_is_an_error(backend, anchor):
    p = data(5, 4, np.float64, 0)
    with pytest.raises(IndexError):
        backend.combine(*on(backend, p.X), p.w, anchor)


# -- elementwise --------------------------------------------------------------------------------------------------------------------------


@given(sizes, dtypes, st.floats(-1e3, 1e3), seeds)
def test_axpy_clip_mean(backend, d, dtype, a, seed):
    p = data(d, 3, dtype, seed)
    x, y, low = on(backend, p.x, p.g, p.g)
    wx, wy, eps = p.x.astype(np.float64), p.g.astype(np.float64), np.finfo(dtype).eps
    got = backend.axpy(a, x, y)
    assert got.dtype == dtype
    # Three roundings: of a, of the product, of the sum.
    assert np.all(np.abs(backend.to_host(got) - (a * wx + wy)) <= 3 * eps * (np.abs(a * wx) + np.abs(wy)) + np.finfo(dtype).tiny)
    np.testing.assert_array_equal(backend.to_host(backend.clip(x, -0.5, 0.25)), np.clip(p.x, -0.5, 0.25))
    np.testing.assert_array_equal(backend.to_host(backend.clip(x, low, np.inf)), np.maximum(p.x, p.g))
    vectors = on(backend, *p.X)
    check_combination(backend, backend.mean(vectors), p.X.astype(np.float64).mean(axis=0), np.abs(p.X).max(axis=0).astype(np.float64), dtype)


def test_clip_lets_nan_through(backend):
    (x,) = on(backend, np.array([np.nan, -3.0, 3.0, np.inf]))
    np.testing.assert_array_equal(backend.to_host(backend.clip(x, -1.0, 2.0)), [np.nan, -1.0, 2.0, 2.0])


def test_division_by_zero_and_overflow_are_silent(backend):
    # Warnings are errors in this suite: a diverging run must not print one per operation, nor raise as compiled scalars do by default.
    x, zero = on(backend, np.array([1.0, -1.0, 0.0]), np.zeros(3))
    got = backend.to_host(backend.apply(_quotient_rule, (x, zero), ())[0])
    np.testing.assert_array_equal(got, [np.inf, -np.inf, np.nan])
    (huge,) = on(backend, np.full((2, 3), 1e300))
    assert backend.squared_distances(huge, -huge[0])[0] == np.inf


def _quotient_rule(xp):
    return lambda x, y: (x / y,)


def optimizer_cases():
    """Each registered elementwise rule with plausible arguments; names only here, so that collecting compiles nothing."""
    return sorted(OPTIMIZERS)


def made(name):
    kind = OPTIMIZERS[name]
    try:
        return kind()
    except TypeError:
        return kind(1e-2)


def trajectory(backend, optimizer, x0, gradients):
    """Three steps: the first alone would hide what the state does."""
    x = backend.copy_in(x0, x0.dtype)
    state = optimizer.init(x, backend=backend)
    for g in gradients:
        x, state = optimizer.step(x, backend.copy_in(g, g.dtype), state, backend=backend)
    return [backend.to_host(a) for a in (x, *getattr(state, "slots", ()))]


@pytest.mark.parametrize("name", optimizer_cases())
def test_rules_give_the_same_answer_on_every_backend(backend, name):
    # float32 on all backends: it is where promotion and approximate division show; float64 is held by the properties of the optimizers.
    optimizer = made(name)
    rng = np.random.default_rng(7)
    x0 = rng.normal(size=300).astype(np.float32)
    gradients = [rng.normal(size=x0.size).astype(np.float32) for _ in range(3)]
    expected = trajectory(get_backend("numpy"), optimizer, x0, gradients)
    got = trajectory(backend, optimizer, x0, gradients)
    assert len(got) == len(expected)
    for a, b in zip(got, expected, strict=True):
        assert a.dtype == b.dtype
        # About ten operations in each of three steps, each with its own rounding or fused away, in units of the largest entry.
        assert np.abs(a - b).max() <= 32 * np.finfo(np.float32).eps * max(1.0, np.abs(b).max())


def test_float64_rule(backend):
    p = data(40_000, 1, np.float64, 5)
    optimizer = made("adam")
    expected = trajectory(get_backend("numpy"), optimizer, p.x, [p.g, p.x])
    for a, b in zip(trajectory(backend, optimizer, p.x, [p.g, p.x]), expected, strict=True):
        assert np.abs(a - b).max() <= 32 * np.finfo(np.float64).eps * max(1.0, np.abs(b).max())


# -- manners ------------------------------------------------------------------------------------------------------------------------------


def _every_operation(b, p):
    """What each operation returns, by name."""
    X, G, x, g, s, w = p.X, p.G, p.x, p.g, p.scale, p.w
    return {
        "dot": b.dot(x, g),
        "squared_distance": b.squared_distance(x, g, s),
        "max_abs": b.max_abs(x),
        "all_finite": b.all_finite(x),
        "squared_distances": b.squared_distances(X, x, s),
        "inner_differences": b.inner_differences(G, g, X, x),
        "pair_rows": b.pair_rows(X, G, x, g, s),
        "combine": b.combine(X, w, 1),
        "predict": b.predict(X, G, w, 1, x, 0.5, s),
        "apply": b.apply(_hands_a_slot_through, (x, g), (0.5,)),
        "axpy": b.axpy(1.0, x, g),
        "clip": b.clip(x, -10.0, 10.0),
        "clip arrays": b.clip(x, g - 1, g + 1),
        "mean": b.mean((x,)),
        "copy_in": b.copy_in(x, x.dtype),
    }


def _hands_a_slot_through(xp):
    return lambda x, g, rate: (x - rate * g, g)


def _flat(value):
    return list(value) if isinstance(value, tuple) else [value]


@pytest.mark.parametrize("d", [7, 20_000])
def test_inputs_stay_and_outputs_never_alias(backend, d):
    host = data(d, 3, np.float64, 11)
    p = SimpleNamespace(**{k: v if k == "w" else backend.copy_in(v, v.dtype) for k, v in vars(host).items()})
    results = _every_operation(backend, p)
    for key, value in vars(host).items():
        np.testing.assert_array_equal(value if key == "w" else backend.to_host(getattr(p, key)), value)
    shares = backend.xp.shares_memory if hasattr(backend.xp, "shares_memory") else np.shares_memory
    for name, value in results.items():
        for array in _flat(value):
            if isinstance(array, backend.xp.ndarray):
                assert not any(shares(array, v) for k, v in vars(p).items() if k != "w"), name


@pytest.mark.parametrize("kind", ["read-only", "strided", "reversed"])
def test_any_layout_gives_the_same_answer(backend, kind):
    host = data(5_000, 3, np.float64, 13)
    p = SimpleNamespace(**{k: v if k == "w" else backend.copy_in(v, v.dtype) for k, v in vars(host).items()})

    def laid_out(a):
        if kind == "read-only":
            return backend.read_only(a)
        if kind == "reversed":
            return a[..., ::-1].copy()[..., ::-1]
        padded = backend.zeros((*a.shape, 2), a.dtype)
        padded[..., 0] = a
        return padded[..., 0]

    q = SimpleNamespace(**{k: v if k == "w" else laid_out(v) for k, v in vars(p).items()})
    got, expected = _every_operation(backend, q), _every_operation(backend, p)
    for name, value in expected.items():
        for a, b in zip(_flat(got[name]), _flat(value), strict=True):
            a, b = (np.asarray(backend.to_host(v) if isinstance(v, backend.xp.ndarray) else v, dtype=np.float64) for v in (a, b))
            # The layout may change the order of a sum in NumPy; terms are of order 10 at most, 5,000 of them.
            np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-12, err_msg=name)


def test_read_only_cannot_be_written_through(backend):
    (x,) = on(backend, np.arange(3.0))
    view = backend.read_only(x)
    np.testing.assert_array_equal(backend.to_host(view), np.arange(3.0))
    if backend.name == "cupy":
        view[0] = 7.0  # a copy: CuPy has no read-only views
    else:
        with pytest.raises(ValueError, match="read-only"):
            view[0] = 7.0
    np.testing.assert_array_equal(backend.to_host(x), np.arange(3.0))


def test_copy_in_casts_and_copies(backend):
    host = np.arange(4)
    x = backend.copy_in(host, np.float32)
    host[0] = 9
    assert x.dtype == np.float32
    np.testing.assert_array_equal(backend.to_host(x), [0, 1, 2, 3])
    np.testing.assert_array_equal(backend.to_host(backend.zeros((2, 3), np.float64)), np.zeros((2, 3)))
    assert backend.empty(5, np.float32).shape == (5,)


# -- Numba's own ------------------------------------------------------------------------------------------------------------------------


def test_numba_bits_do_not_depend_on_threads(numba_backend, monkeypatch):
    import numba

    from optex_core.backends import numba_

    monkeypatch.setattr(numba_, "ENTRIES_PER_THREAD", 1)  # else these arrays would be worth one thread only
    p = data(100_001, 5, np.float32, 17)
    allowed = numba.get_num_threads()
    seen = []
    try:
        for threads in sorted({1, min(2, numba.config.NUMBA_NUM_THREADS)}):
            numba.set_num_threads(threads)
            b = numba_backend
            results = [
                *b.pair_rows(p.X, p.G, p.x, p.g, p.scale),
                b.squared_distances(p.X, p.x),
                b.inner_differences(p.X, p.x, p.G, p.g),
                b.dot(p.x, p.g),
            ]
            results += [b.combine(p.X, p.w, 0), b.predict(p.X, p.G, p.w, 1, p.x, 0.5), b.max_abs(p.x), b.axpy(0.5, p.x, p.g)]
            seen.append([np.asarray(r).tobytes() for r in results])
    finally:
        numba.set_num_threads(allowed)
    assert all(s == seen[0] for s in seen)
    assert numba.get_num_threads() == allowed


def test_numba_survives_two_python_threads_under_workqueue():
    # In a process of its own: the threading layer is chosen once, and without the lock this one aborts.
    code = (
        "import threading, numpy as np\n"
        "from optex_core.backends import get_backend, numba_\n"
        "numba_.ENTRIES_PER_THREAD = 1\n"
        "b, x = get_backend('numba'), np.ones(50_000)\n"
        "b.dot(x, x)\n"
        "sums = []\n"
        "def work():\n"
        "    sums.extend(b.dot(x, x) for _ in range(200))\n"
        "threads = [threading.Thread(target=work) for _ in range(4)]\n"
        "[t.start() for t in threads]; [t.join() for t in threads]\n"
        "import numba; assert numba.threading_layer() == 'workqueue'\n"
        "assert sums == [50_000.0] * 800\n"
    )
    environment = {**os.environ, "NUMBA_THREADING_LAYER": "workqueue", "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr


def test_numba_two_python_threads_at_once(numba_backend):
    p = data(30_000, 2, np.float64, 19)
    expected = numba_backend.dot(p.x, p.g)
    got = []
    threads = [threading.Thread(target=lambda: got.extend(numba_backend.dot(p.x, p.g) for _ in range(50))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert got == [expected] * 100


@pytest.mark.parametrize("layer", ["omp", "workqueue"])
def test_numba_in_a_forked_child(numba_backend, monkeypatch, layer):
    # The layer is a claim here, so that both answers are tested whichever the machine has; the child of a real omp parent would die.
    import numba

    if layer == "workqueue" and (numba_backend.dot(np.ones(2), np.ones(2)), numba.threading_layer())[1] == "omp":
        layer = "omp"
    monkeypatch.setattr(numba, "threading_layer", lambda: layer)
    numba_backend.dot(np.ones(2), np.ones(2))
    if not hasattr(os, "fork"):  # nothing to guard against on this platform
        assert os.name == "nt"
        return
    reader, writer = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12 warns of forks beside threads, which is the point here
        child = os.fork()
    if child == 0:
        try:
            said = str(numba_backend.dot(np.ones(2), np.ones(2)))
        except BackendError as error:
            said = str(error)
        os.write(writer, said.encode())
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as pipe:
        said = pipe.read()
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert "spawn" in said if layer == "omp" else said == "2.0"


def test_numba_names_a_rule_that_it_cannot_compile(numba_backend):
    with pytest.raises(BackendError, match="_formatted_rule.*backend='numpy'"):
        numba_backend.apply(_formatted_rule, (np.ones(3),), ())


def _formatted_rule(xp):
    def step(x):
        return (x + len(globals()),)

    return step


# -- CuPy's translation of rules, which needs no GPU --------------------------------------------------------------------------------------


def _run_translation(rule, arrays, scalars):
    """The CUDA lines of a rule, run as Python: apart from the types, the two read the same."""
    lines, results = fusion.translate(rule, len(arrays), len(scalars))
    functions = {
        **{c: getattr(np, name) for name, c in fusion.FUNCTIONS.items()},
        "fabs": np.abs,
        "T": arrays[0].dtype.type,
    }
    scope = {**functions, **{f"a{i}": a for i, a in enumerate(arrays)}, **{f"s{i}": arrays[0].dtype.type(s) for i, s in enumerate(scalars)}}
    for line in lines:
        exec(line.removeprefix("const T ").removeprefix("const bool ").removesuffix(";"), scope)
    return [scope[name] for name in results]


@pytest.mark.parametrize("name", optimizer_cases())
def test_every_rule_has_a_translation(name):
    calls = []

    class Recorder(type(get_backend("numpy"))):
        def apply(self, rule, arrays, scalars):
            calls.append((rule, tuple(arrays), tuple(scalars)))
            return super().apply(rule, arrays, scalars)

    rng = np.random.default_rng(23)
    trajectory(Recorder(), made(name), rng.normal(size=9), [rng.normal(size=9) for _ in range(3)])
    for rule, arrays, scalars in calls:
        expected = get_backend("numpy").apply(rule, arrays, scalars)
        # The same operations in the same order: only abs, maximum and their like could differ, and must not.
        for a, b in zip(_run_translation(rule, arrays, scalars), expected, strict=True):
            np.testing.assert_array_equal(a, b)


def _everything_rule(xp):
    def step(x, y, s):
        low = xp.minimum(x, y) - 2 * abs(-x) / (1 + xp.square(y))
        return xp.where(x > y, low, s - y**2), xp.sign(x) * xp.maximum(x, s), 3 - x, 1 / (2 + xp.abs(y))

    return step


def test_translation_of_operators_and_functions():
    p = data(40, 1, np.float64, 29)
    for a, b in zip(_run_translation(_everything_rule, (p.x, p.g), (0.25,)), _everything_rule(np)(p.x, p.g, 0.25), strict=True):
        np.testing.assert_allclose(a, b, rtol=4 * np.finfo(np.float64).eps)  # y**2 becomes y * y


@pytest.mark.parametrize(
    "rule",
    [
        lambda xp: lambda x: (xp.cumsum(x),),
        lambda xp: lambda x: (x if x > 0 else -x,),
        lambda xp: lambda x: (x @ x,),
        lambda xp: lambda x: (x * float("nan"),),
        lambda xp: lambda x: (x.sum(),),
    ],
    ids=["unknown function", "branch", "matrix product", "nan", "method"],
)
def test_what_has_no_translation_says_so(rule):
    with pytest.raises(fusion.CannotTranslate):
        fusion.translate(rule, 1, 0)


def test_shared_rules_translate():
    assert fusion.translate(axpy_rule, 2, 1) == (["const T t0 = s0 * a0;", "const T t1 = t0 + a1;"], ["t1"])
    assert fusion.translate(clip_rule, 1, 2)[1] == ["t1"]


# -- choosing a backend -------------------------------------------------------------------------------------------------------------------


def test_small_problems_never_load_numba():
    code = (
        "import sys, numpy as np\n"
        "from optex_core.backends import get_backend\n"
        "assert get_backend('auto', np.ones(9)).name == 'numpy'\n"
        "assert 'numba' not in sys.modules\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr


def test_auto_takes_numba_for_large_problems():
    from optex_core import backends

    assert get_backend("auto", np.broadcast_to(np.float32(1), backends.NUMBA_FROM)).name == "numba"
    assert get_backend("auto", np.broadcast_to(np.float32(1), backends.NUMBA_FROM - 1)).name == "numpy"


def test_a_missing_numba_is_a_sentence():
    code = (
        "import sys\n"
        "sys.modules['numba'] = None\n"
        "from optex_core.backends import get_backend\n"
        "from optex_core.errors import BackendError\n"
        "try:\n"
        "    get_backend('numba')\n"
        "except BackendError as error:\n"
        "    assert 'pip install' in str(error) and \"backend='numpy'\" in str(error), error\n"
        "else:\n"
        "    raise SystemExit('no error')\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr


def test_a_missing_cupy_names_both_extras(monkeypatch):
    monkeypatch.setitem(sys.modules, "cupy", None)
    monkeypatch.delitem(sys.modules, "optex_core.backends.cupy_", raising=False)
    from optex_core import backends

    backends._load.cache_clear()
    try:
        with pytest.raises(BackendError, match=r"optex_core\[cuda12\].*optex_core\[cuda13\]"):
            backends._load("cupy")
    finally:
        backends._load.cache_clear()
