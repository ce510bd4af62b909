"""What is particular to each backend, and the optimizers on all of them; what every backend
promises is tests/conformance.
"""

from __future__ import annotations

import os
import sys
import threading
import warnings

import numpy as np
import pytest
from fresh_python import run_python

from optex_core.backends import _tracing, get_backend
from optex_core.backends.base import axpy_rule, clip_rule
from optex_core.errors import BackendError
from optex_core.optimizers import OPTIMIZERS
from optex_core.testing.suites._backend_data import sample_data


def optimizer_cases():
    """Each registered elementwise rule with plausible arguments; names only here, so that
    collecting compiles nothing.
    """
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
    # float32 on all backends: it is where promotion and approximate division show; float64 is held
    # by the properties of the optimizers.
    optimizer = made(name)
    rng = np.random.default_rng(7)
    x0 = rng.normal(size=300).astype(np.float32)
    gradients = [rng.normal(size=x0.size).astype(np.float32) for _ in range(3)]
    expected = trajectory(get_backend("numpy"), optimizer, x0, gradients)
    got = trajectory(backend, optimizer, x0, gradients)
    assert len(got) == len(expected)
    for a, b in zip(got, expected, strict=True):
        assert a.dtype == b.dtype
        # About ten operations in each of three steps, each with its own rounding or fused away, in
        # units of the largest entry.
        assert np.abs(a - b).max() <= 32 * np.finfo(np.float32).eps * max(1.0, np.abs(b).max())


# -- NumPy's own -----------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_numpy_takes_differences_of_consecutive_rows_with_the_same_bits(dtype):
    b, d, n = get_backend("numpy"), 2_500, 7
    rows = np.random.default_rng(0).standard_normal((n, d)).astype(dtype)
    for newest in range(n):
        order = (np.arange(n) + newest + 1) % n
        ring = np.concatenate(
            [
                [[newest, -1]],
                np.stack([order[1:], order[:-1]], axis=1),
                [[0, 3], [1, 4], [2, -1], [5, 2]],
            ]
        )
        found = b.difference_products(rows, ring, rows, ring)
        vectors = list(rows)  # which are taken one by one
        assert found.tobytes() == b.difference_products(vectors, ring, vectors, ring).tobytes()
        apart = np.array([rows[i].astype(float) - (rows[j] if j >= 0 else 0.0) for i, j in ring])
        np.testing.assert_allclose(found, apart @ apart.T, rtol=1e-12, atol=1e-10)
    with pytest.raises(IndexError):
        b.difference_products(rows, np.array([[n - 1, 0], [n, 1]]), rows, ring)


# -- Numba's own -----------------------------------------------------------------------------------


def test_numba_bits_do_not_depend_on_threads(numba_backend, monkeypatch):
    from optex_core.backends.numba import kernel_threads

    # else these arrays would be worth one thread only
    monkeypatch.setattr(kernel_threads, "ENTRIES_PER_THREAD", 1)
    p = sample_data(100_001, 5, np.float32, 17)
    seen = []
    for threads in (1, 2, 3, 5):
        monkeypatch.setattr(kernel_threads, "num_threads", lambda threads=threads: threads)
        b = numba_backend
        results = [
            *b.pair_products(p.X, p.G, [0, 3, 4], p.scale),
            b.squared_distances(p.X, p.x),
            b.dot(p.x, p.g),
            b.difference_products(
                p.X, np.array([[0, 1], [2, -1], [4, 3]]), p.G, np.array([[0, 1], [4, -1]])
            ),
            *b.weighted_sums(p.X, p.w[None], p.G, p.w[None], 2, [p.x, p.g], np.ones((1, 2))),
        ]
        results += [
            b.weighted_sum(p.X, p.w, 0),
            b.predict(p.X, p.G, p.w, 1, p.x, 0.5),
            b.max_abs(p.x),
            b.axpy(0.5, p.x, p.g),
        ]
        seen.append([np.asarray(r).tobytes() for r in results])
    assert all(s == seen[0] for s in seen)


def test_numba_threads_are_those_that_numba_allows(numba_backend):
    import numba

    from optex_core.backends.numba import kernel_threads

    allowed = numba.get_num_threads()  # from here on Numba has threads of its own, and is asked
    try:
        numba.set_num_threads(1)
        assert kernel_threads.num_threads() == 1
    finally:
        numba.set_num_threads(allowed)
    assert kernel_threads.num_threads() == allowed


def test_numba_several_python_threads_at_once(numba_backend, monkeypatch):
    from optex_core.backends.numba import kernel_threads

    monkeypatch.setattr(kernel_threads, "ENTRIES_PER_THREAD", 1)
    monkeypatch.setattr(kernel_threads, "num_threads", lambda: 3)
    p = sample_data(30_000, 2, np.float64, 19)
    expected = numba_backend.dot(p.x, p.g)
    got = []
    threads = [
        threading.Thread(target=lambda: got.extend(numba_backend.dot(p.x, p.g) for _ in range(50)))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert got == [expected] * 200


def test_numba_in_a_forked_child(numba_backend, monkeypatch):
    from optex_core.backends.numba import kernel_threads

    if not hasattr(os, "fork"):  # nothing to guard against on this platform
        assert os.name == "nt"
        return
    monkeypatch.setattr(kernel_threads, "ENTRIES_PER_THREAD", 1)
    monkeypatch.setattr(kernel_threads, "num_threads", lambda: 3)
    x = np.ones(50_000)
    assert numba_backend.dot(x, x) == 50_000.0  # the parent has helpers now, the child none of them
    reader, writer = os.pipe()
    with warnings.catch_warnings():
        # Python 3.12 warns of forks beside threads, which is the point here
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if child == 0:
        try:
            said = str(numba_backend.dot(x, x))
        except BaseException as error:
            said = repr(error)
        os.write(writer, said.encode())
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as pipe:
        said = pipe.read()
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert said == "50000.0"


# -- CuPy's translation of rules, which needs no GPU -----------------------------------------------


def _run_translation(rule, arrays, scalars):
    """The CUDA lines of a rule, run as Python: apart from the types, the two read the same."""
    lines, results = _tracing.trace_rule(rule, len(arrays), len(scalars))
    functions = {
        **{c: getattr(np, name) for name, c in _tracing.C_FUNCTIONS.items()},
        "fabs": np.abs,
        "T": arrays[0].dtype.type,
    }
    scope = {
        **functions,
        **{f"a{i}": a for i, a in enumerate(arrays)},
        **{f"s{i}": arrays[0].dtype.type(s) for i, s in enumerate(scalars)},
    }
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
        # The same operations in the same order: only abs, maximum and their like could differ, and
        # must not.
        for a, b in zip(_run_translation(rule, arrays, scalars), expected, strict=True):
            np.testing.assert_array_equal(a, b)


def _everything_rule(xp):
    def step(x, y, s):
        low = xp.minimum(x, y) - 2 * abs(-x) / (1 + xp.square(y))
        return (
            xp.where(x > y, low, s - y**2),
            xp.sign(x) * xp.maximum(x, s),
            3 - x,
            1 / (2 + xp.abs(y)),
        )

    return step


def test_translation_of_operators_and_functions():
    p = sample_data(40, 1, np.float64, 29)
    for a, b in zip(
        _run_translation(_everything_rule, (p.x, p.g), (0.25,)),
        _everything_rule(np)(p.x, p.g, 0.25),
        strict=True,
    ):
        np.testing.assert_allclose(a, b, rtol=4 * np.finfo(np.float64).eps)  # y**2 becomes y * y


@pytest.mark.parametrize(
    "rule",
    [
        lambda xp: lambda x: (xp.logaddexp(x, x),),
        lambda xp: lambda x: (x if x > 0 else -x,),
        lambda xp: lambda x: (x % 2,),
        lambda xp: lambda x: (x * float("nan"),),
        lambda xp: lambda x: (x.clip(0),),
    ],
    ids=["unknown function", "branch", "operator", "nan", "method"],
)
def test_what_has_no_translation_says_so(rule):
    with pytest.raises(_tracing.TracingError):
        _tracing.trace_rule(rule, 1, 0)


def test_shared_rules_translate():
    assert _tracing.trace_rule(axpy_rule, 2, 1) == (
        ["const T t0 = s0 * a0;", "const T t1 = t0 + a1;"],
        ["t1"],
    )
    assert _tracing.trace_rule(clip_rule, 1, 2)[1] == ["t1"]


# -- choosing a backend ----------------------------------------------------------------------------


def test_small_problems_never_load_numba():
    code = (
        "import sys, numpy as np\n"
        "from optex_core.backends import get_backend\n"
        "assert get_backend('auto', np.ones(9)).name == 'numpy'\n"
        "assert 'numba' not in sys.modules\n"
    )
    run_python(code)


def test_auto_takes_numba_for_large_problems():
    from optex_core import backends

    assert (
        get_backend("auto", np.broadcast_to(np.float32(1), backends.NUMBA_MIN_SIZE)).name == "numba"
    )
    assert (
        get_backend("auto", np.broadcast_to(np.float32(1), backends.NUMBA_MIN_SIZE - 1)).name
        == "numpy"
    )


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
    run_python(code)


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
