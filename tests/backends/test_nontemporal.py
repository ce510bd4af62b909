"""Results stored past the caches have the bits of the usual loop, wherever vectors begin and end,
on every processor.
"""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest

pytest.importorskip("numba", reason="numba is not installed")

from optex_core.backends import get_backend, numba_
from optex_core.backends.base import axpy_rule  # noqa: E402
from optex_core.backends.numba import nontemporal as _streaming
from optex_core.backends.numba.elementwise import compile_rule  # noqa: E402
from optex_core.backends.numba.kernels import COLUMNS  # noqa: E402
from optex_core.optimizers.adam import adam_rule  # noqa: E402

SCALARS = (0.9, 0.1, 0.999, 0.001, 1e-3, 0.5, 1e-8)


def untranslatable_rule(xp):
    """`where` with a table: nothing that can be written down line by line."""
    return lambda x, y: (xp.arctan2(x, y), x - y)


def starting(offset: int, size: int, dtype: str) -> np.ndarray:
    """A vector that begins `offset` bytes after a cache line, with a line of guards on either side."""
    item = np.dtype(dtype).itemsize
    memory = np.full(size * item + 4 * _streaming.LINE, 0xA5, np.uint8)
    begin = -memory.ctypes.data % _streaming.LINE + _streaming.LINE + offset
    return memory[begin : begin + size * item].view(dtype)


def unspoilt(vector: np.ndarray) -> bool:
    """Whether nothing around the vector was written."""
    memory = vector.base if vector.base.dtype == np.uint8 else vector.base.base
    begin = vector.ctypes.data - memory.ctypes.data
    return bool((memory[:begin] == 0xA5).all() and (memory[begin + vector.nbytes :] == 0xA5).all())


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(
    ("rule", "arrays", "scalars"), [(adam_rule, 4, SCALARS), (untranslatable_rule, 2, ())]
)
def test_the_bits_of_the_usual_loop(rule, arrays, scalars, dtype):
    numbers = tuple(map(np.dtype(dtype).type, scalars))
    usual, streaming = (
        compile_rule(rule, dtype, arrays, len(scalars), streaming=past) for past in (False, True)
    )
    results = usual.results
    assert streaming.results == results
    rng = np.random.default_rng(3)
    for size in (
        1,
        15,
        16,
        17,
        63,
        127,
        128,
        129,
        COLUMNS - 1,
        COLUMNS,
        COLUMNS + 1,
        3 * COLUMNS + 77,
    ):
        item = np.dtype(dtype).itemsize
        # inputs may begin anywhere
        given = [starting(item * i, size, dtype) for i in range(arrays)]
        for vector in given:
            vector[:] = rng.random(size)
        blocks = -(-size // COLUMNS)
        expected = [np.empty(size, dtype) for _ in range(results)]
        usual.run(*given, *numbers, *expected, 0, blocks)
        for cut in range(blocks):  # shared out between threads
            got = [starting(0, size, dtype) for _ in range(results)]
            streaming.run(*given, *numbers, *got, 0, cut)
            streaming.run(*given, *numbers, *got, cut, blocks)
            assert [a.tobytes() for a in got] == [a.tobytes() for a in expected], (size, cut)
            assert all(map(unspoilt, got)), (size, cut)


def test_large_results_are_streamed_and_only_those(monkeypatch):
    b, asked = get_backend("numba"), []

    def loop(*arguments, streaming=False):
        asked.append(streaming)
        return compile_rule(*arguments, streaming=streaming)

    monkeypatch.setattr(numba_, "compile_rule", loop)
    d = _streaming.FROM // (3 * 4)
    x, y = np.linspace(0, 1, d + 16, dtype=np.float32), np.ones(d + 16, np.float32)
    small = b.axpy(0.5, x[: d - 16], y[: d - 16])
    assert True not in asked
    large = b.axpy(0.5, x, y)
    assert asked[-1] is True
    np.testing.assert_array_equal(large[: d - 16], small)
    np.testing.assert_array_equal(large, np.float32(0.5) * x + y)
    assert large.ctypes.data % _streaming.LINE == 0


def test_results_that_begin_within_a_line_are_stored_as_usual(monkeypatch):
    # A streaming store to such an address would end the process.
    class Shifted:
        def empty(self, d, dtype):
            return starting(16, d, dtype)

    monkeypatch.setattr(numba_, "BUFFER_POOL", Shifted())
    monkeypatch.setattr(_streaming, "FROM", 0)
    x = np.linspace(0, 1, 1_000)
    (y,) = get_backend("numba").apply(axpy_rule, (x, x), (2.0,))
    assert y.ctypes.data % _streaming.LINE == 16
    np.testing.assert_array_equal(y, 2.0 * x + x)
    assert unspoilt(y)


def test_every_result_begins_with_a_line_from_the_size_on_that_is_kept():
    from optex_core.backends import _buffer_pool as _recycled

    b = get_backend("numba")
    held = [b.empty(_recycled.MIN_BYTES // 4 + i, np.float32) for i in range(5)]
    assert [v.ctypes.data % _streaming.LINE for v in held] == [0] * 5
    # so that no large result of a rule with up to eight vectors misses it
    assert _streaming.FROM // 8 > _recycled.MIN_BYTES


#: The same sums without the vector units of this machine; prints which stores the compiler took.
BARE = """
import numpy as np
from optex_core.backends.numba import nontemporal as _streaming
from optex_core.backends import get_backend, numba_
from optex_core.backends.numba.elementwise import compile_rule
from optex_core import Adam
_streaming.FROM = 0
b, rng = get_backend("numba"), np.random.default_rng(0)
x, g = rng.random(300_001), rng.random(300_001)
(y, s), (z, r) = ((Adam(0.1)).step(x, g, Adam(0.1).init(x), backend=one) for one in (b, get_backend("numpy")))
for got, expected in zip((y, *s.slots), (z, *r.slots)):
    np.testing.assert_allclose(got, expected, rtol=0, atol=4 * np.finfo(float).eps)  # entries are below 1
loop = compile_rule(Adam(0.1).rule, "float64", 4, 7, streaming=True)
(assembly,) = loop.run.inspect_asm().values()
print("ymm" in assembly, "movntp" in assembly, "sfence" in assembly)
"""


@pytest.mark.skipif(
    os.uname().machine not in ("x86_64", "amd64") if hasattr(os, "uname") else True,
    reason="stores of x86",
)
def test_processors_without_wide_vectors(tmp_path):
    bare = {"NUMBA_CPU_NAME": "x86-64", "NUMBA_CPU_FEATURES": ""}
    environment = {
        **os.environ,
        **bare,
        "NUMBA_CACHE_DIR": str(tmp_path),
        "PYTHONPATH": os.pathsep.join(sys.path),
    }
    done = subprocess.run(
        [sys.executable, "-c", BARE], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["False", "True", "True"]


@pytest.mark.parametrize(
    ("triple", "features", "store"),
    [
        ("aarch64-linux-gnu", "", "stnp"),
        ("x86_64-linux-gnu", "+avx", "vmovntps"),
        ("x86_64-linux-gnu", "", "movntps"),
        ("powerpc64le-linux-gnu", "", ""),
    ],
)
def test_what_other_processors_get(triple, features, store):
    import llvmlite.binding as llvm
    from llvmlite import ir

    llvm.initialize_all_targets()
    llvm.initialize_all_asmprinters()
    try:
        machine = llvm.Target.from_triple(triple).create_target_machine(opt=3, features=features)
    except RuntimeError:
        pytest.skip(f"this llvmlite does not compile for {triple}")
    kind, long, module = ir.FloatType(), ir.IntType(64), ir.Module()
    function = ir.Function(
        module, ir.FunctionType(ir.VoidType(), [kind.as_pointer(), kind.as_pointer(), long]), "f"
    )
    builder = ir.IRBuilder(function.append_basic_block())
    _streaming.write(builder, kind, 16, *function.args)
    builder.ret_void()
    compiled = llvm.parse_assembly(str(module))
    compiled.triple = triple
    assert store in machine.emit_assembly(compiled)


def test_streaming_begins_with_the_size_of_the_last_cache(tmp_path):
    assert _streaming.last_cache(tmp_path) == 32 << 20
    for i, text in enumerate(["32K\n", "1024K\n", "48M\n", "unknown\n"]):
        (tmp_path / f"index{i}").mkdir()
        (tmp_path / f"index{i}" / "size").write_text(text, encoding="ascii")
    (tmp_path / "index4").mkdir()  # no size at all
    assert _streaming.last_cache(tmp_path) == 48 << 20
