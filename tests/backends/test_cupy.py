"""The CuPy backend without a GPU: its host side on a NumPy in CuPy's place that counts what
crosses, its kernels through NVRTC where CuPy is.

What these cannot show is the arithmetic of the kernels on a device: `check_backend` does, where
there is one.
"""

from __future__ import annotations

import importlib
import sys
import threading

import numpy as np
import pytest

import optex_core as ox
from optex_core import backends
from optex_core.backends import _tracing
from optex_core.errors import BackendError
from optex_core.optimizers import OPTIMIZERS


@pytest.fixture
def shim(monkeypatch):
    """The stand-in, loaded in CuPy's place."""
    import cupy_shim

    monkeypatch.setitem(sys.modules, "cupy", cupy_shim)
    monkeypatch.delitem(sys.modules, "optex_core.backends.cupy_", raising=False)
    backends._load.cache_clear()
    cupy_shim.ndarray.moved.__init__(to_host=0, to_device=0, largest=0)
    monkeypatch.setattr(cupy_shim, "FREE", [1 << 40])
    yield cupy_shim
    backends._load.cache_clear()
    sys.modules.pop("optex_core.backends.cupy_", None)


def spent(engine, rounds, gradient):
    for _ in range(rounds):
        for c in engine.ask():
            engine.tell(c.id, gradient=gradient(c.x), value=1.0)
    return engine


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(
    ("strategy", "optimizer"),
    [
        ("paper", "adam"),
        ("verified", "adam"),
        ("auto", "adam"),
        ("corrected", "rmsprop"),
        ("paper", ox.SGD(0.1, momentum=0.9, nesterov=True)),
    ],
)
def test_a_run_on_the_device_is_the_run_on_the_host_and_only_small_numbers_cross(
    shim, strategy, optimizer, dtype
):
    d, T0, N, rounds = 20_000, 12, 4, 6
    slope = np.linspace(0.1, 1.0, d).astype(dtype)
    keywords = dict(
        optimizer=optimizer,
        strategy=strategy,
        parallelism=N,
        estimator=ox.GradientEstimator(history=T0),
        maxiter=100,
        gtol=0.0,
        rng=0,
    )
    device_slope = shim.device(slope)
    engine = ox.OptEx(shim.device(np.ones(d, dtype)), **keywords)
    assert engine.backend.name == "cupy"
    spent(engine, 2, lambda x: device_slope * x)
    before = shim.ndarray.moved.to_host
    spent(engine, rounds - 2, lambda x: device_slope * x)
    moved = shim.ndarray.moved
    # Each of at most 2 S steps brings T0 distances; each of N rows 3 T0 pair products; a few single
    # numbers beside them.
    S = int(engine.trace.window.max())
    assert moved.largest <= 3 * N * T0
    assert (moved.to_host - before) / (rounds - 2) <= 2 * S * (T0 + 4) + N * (3 * T0 + 8) + 20
    host = spent(
        ox.OptEx(np.ones(d, dtype), backend="numpy", **keywords), rounds, lambda x: slope * x
    )
    found = np.asarray(engine.state.x)
    assert found.dtype == dtype
    # The order of sums differs, and weights that nearly interpolate multiply its rounding: 3e-12
    # and 2e-5 were seen.
    np.testing.assert_allclose(
        found, host.state.x, rtol=0, atol={"float32": 2e-4, "float64": 1e-9}[dtype]
    )


def test_gradients_in_threads_run_on_streams_of_their_own(shim):
    d, N = 300, 3
    slope, meeting, used = (
        shim.device(np.linspace(0.1, 1.0, d)),
        threading.Barrier(N, timeout=60),
        {},
    )

    def fun(x, *, ctx):
        used.setdefault(ctx.iteration, {})[ctx.slot] = shim.current_stream()
        shim.QUEUE.append(("compute", shim.current_stream()))
        if ctx.iteration == 1:
            meeting.wait()  # all of a round are inside at once
        return 0.5 * (slope * x) @ x, slope * x

    shim.QUEUE.clear()
    options = dict(optimizer=ox.SGD(0.5), strategy="paper", parallelism=N, rng=0, maxiter=4)
    res = ox.minimize(ox.adapters.cupy(fun), shim.device(np.ones(d)), workers="threads", **options)
    streams = set(used[1].values())
    assert len(streams) == N
    assert all(stream.non_blocking for stream in streams)
    assert shim.current_stream() is shim.Stream.null
    for stream in set().union(*(set(of.values()) for of in used.values())):
        # Each evaluation: wait for what the default stream holds, compute, be complete.
        done = [(what, *more) for what, of, *more in shim.QUEUE if of is stream]
        assert done == [("wait", shim.Stream.null), ("compute",), ("synchronize",)] * (
            len(done) // 3
        )
    assert sum(what == "compute" for what, *_ in shim.QUEUE) == res.njev
    alone = ox.minimize(
        lambda x: (0.5 * (slope * x) @ x, slope * x), shim.device(np.ones(d)), **options
    )
    assert np.array_equal(np.asarray(res.x), np.asarray(alone.x))


def test_a_function_for_the_device_refuses_a_point_on_the_host(shim):
    with pytest.raises(ox.ArgumentTypeError, match="pass x0 as cupy.asarray"):
        ox.minimize(ox.adapters.cupy(lambda x: (x @ x, 2 * x)), np.ones(3), maxiter=1)


def test_too_little_memory_names_the_history_that_fits(shim):
    d = 1_000
    shim.FREE[0] = 50_000
    with pytest.raises(BackendError, match=r"GiB free.*history=\d+ fits.*float32"):
        ox.OptEx(
            shim.device(np.ones(d)),
            parallelism=4,
            estimator=ox.GradientEstimator(history=20),
            rng=0,
        )


def test_arrays_are_never_moved(shim):
    with pytest.raises(BackendError, match="cupy.asnumpy"):
        ox.OptEx(shim.device(np.ones(3)), backend="numpy")
    engine = ox.OptEx(shim.device(np.ones(3)), rng=0)
    (c, *_) = engine.ask()
    with pytest.raises(ox.ArgumentTypeError, match="NumPy array"):
        engine.tell(c.id, gradient=np.ones(3), value=1.0)


def compiler():
    """NVRTC, which needs no GPU, as ``compile(source)``; skipped where there is none."""
    pytest.importorskip("cupy", reason="CuPy is not installed")
    try:
        from cupy_backends.cuda.libs import nvrtc

        nvrtc.getVersion()
    except Exception as error:
        pytest.skip(f"NVRTC cannot be used: {error}")

    def compiled(source):
        program = nvrtc.createProgram(source, "kernel.cu", (), ())
        try:
            nvrtc.compileProgram(program, ("--gpu-architecture=compute_80", "--std=c++17"))
        except nvrtc.NVRTCError as error:
            raise AssertionError(f"{nvrtc.getProgramLog(program)}\n{source}") from error
        return nvrtc.getPTX(program)

    return compiled


@pytest.mark.parametrize("scaled", [False, True])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(
    "name", ["dot", "squared_distances", "pair_products", "weighted_sum", "predict"]
)
def test_every_kernel_compiles(name, dtype, scaled):
    compile_source = compiler()
    source = importlib.import_module("optex_core.backends.cupy_").source
    assert compile_source(source(name, np.dtype(dtype), scaled))


@pytest.mark.parametrize("name", sorted(OPTIMIZERS))
def test_every_rule_compiles(name):
    compile_source = compiler()
    calls = []

    class Recorder(type(backends.get_backend("numpy"))):
        def apply(self, rule, arrays, scalars):
            calls.append((rule, len(arrays), len(scalars)))
            return super().apply(rule, arrays, scalars)

    try:
        optimizer = OPTIMIZERS[name]()
    except TypeError:
        optimizer = OPTIMIZERS[name](0.1)
    x = np.ones(3)
    optimizer.step(x, x, optimizer.init(x), backend=Recorder())
    for rule, arrays, scalars in calls:
        lines, results = _tracing.trace_rule(rule, arrays, scalars)
        inputs = [
            *(f"const T a{i}" for i in range(arrays)),
            *(f"const T s{i}" for i in range(scalars)),
            "T* out",
        ]
        stores = [f"out[{i}] = {result};" for i, result in enumerate(results)]
        for kind in ("float", "double"):
            body = "\n".join([*lines, *stores])
            assert compile_source(
                f'typedef {kind} T;\n{_tracing.CUDA_PREAMBLE}\nextern "C" __global__ '
                f"void rule({', '.join(inputs)})\n{{\n{body}\n}}\n"
            )
