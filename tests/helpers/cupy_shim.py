"""A CuPy made of NumPy that counts what crosses to the host: runs the host side of the CuPy backend
where there is no GPU.

Kernels are called by the names in their CUDA source, so that a wrong order, type or number of
arguments fails here as it would on a device; what they compute is done by NumPy, and elementwise
kernels run their own lines as Python.
"""

from __future__ import annotations

import re
import threading
from types import SimpleNamespace
from typing import Any

import numpy as np

from optex_core.backends._tracing import C_FUNCTIONS


class ndarray(np.ndarray):  # noqa: N801  (CuPy's name)
    """A device array: turning it into a host object is counted."""

    moved = SimpleNamespace(to_host=0, to_device=0, largest=0)

    @property
    def device(self) -> Any:
        return type(
            "Device", (), {"id": 0, "__enter__": lambda _: None, "__exit__": lambda *_: None}
        )()

    def __float__(self) -> float:
        ndarray.count(1)
        return float(np.asarray(self).reshape(()))

    def __bool__(self) -> bool:
        ndarray.count(1)
        return bool(np.asarray(self).reshape(()))

    def set(self, host: np.ndarray) -> None:
        assert not isinstance(host, ndarray)
        ndarray.moved.to_device += host.size
        np.asarray(self)[...] = host

    @staticmethod
    def count(size: int) -> None:
        ndarray.moved.to_host += size
        ndarray.moved.largest = max(ndarray.moved.largest, size)


def device(x: Any) -> ndarray:
    return np.asarray(x).view(ndarray)


def asnumpy(x: Any) -> np.ndarray:
    assert isinstance(x, ndarray)
    ndarray.count(x.size)
    return np.array(x)


class RawKernel:
    def __init__(self, source: str, name: str) -> None:
        self.name, self.source = name, source
        (signature,) = re.findall(rf"__global__ void {name}\((.*?)\)\s*\{{", source, re.S)
        self.parameters = [
            tuple(part.split()[-2:])
            for part in signature.replace("const ", "").replace("long long", "longlong").split(",")
        ]
        self.type = np.float32 if "typedef float T" in source else np.float64

    def __call__(
        self, grid: tuple[int, ...], block: tuple[int, ...], arguments: tuple[Any, ...]
    ) -> None:
        assert len(arguments) == len(self.parameters), (self.name, len(arguments), self.parameters)
        assert 0 < grid[0] < 2**31
        assert block == (256,)
        kinds = {
            "T*": self.type,
            "double*": np.float64,
            "longlong*": np.int64,
            "longlong": np.int64,
            "double": np.float64,
        }
        for (kind, name), value in zip(self.parameters, arguments, strict=True):
            assert value.dtype == kinds[kind], (self.name, name, kind, value.dtype)
            assert isinstance(value, ndarray) == kind.endswith("*"), (self.name, name, kind)
            assert not kind.endswith("*") or value.flags.c_contiguous
        a = SimpleNamespace(
            **{name: np.asarray(v) for (_, name), v in zip(self.parameters, arguments, strict=True)}
        )
        getattr(self, "_" + self.name)(a, getattr(a, "scale", np.ones(1)).astype(np.float64))

    def _dot(self, a: Any, scale: Any) -> None:
        self._sums(a.partial, (a.a.astype(float) * a.b)[None])

    def _squared_distances(self, a: Any, scale: Any) -> None:
        self._sums(a.partial, ((a.rows.astype(float) - a.x) / scale) ** 2)

    def _sums(self, partial: np.ndarray, terms: np.ndarray) -> None:
        """Terms (n, d) into partial (chunks, n)."""
        chunks = np.array_split(terms, [8_192 * i for i in range(1, len(partial))], axis=-1)
        for at, part in zip(partial, chunks, strict=True):
            at[...] = part.sum(axis=-1)

    def _pair_products(self, a: Any, scale: Any) -> None:
        for j, at in enumerate(a.partial):
            s = slice(8_192 * j, 8_192 * (j + 1))
            part = scale[s] if scale.size > 1 else scale
            X, G = a.X[:, s].astype(float), a.G[:, s].astype(float)
            for i, r in enumerate(a.rows):
                dx, dg = X - X[r], G - G[r]
                at[0, i], at[1, i], at[2, i] = (
                    ((dx / part) ** 2).sum(1),
                    ((dg * part) ** 2).sum(1),
                    (dx * dg).sum(1),
                )

    def _weighted_sum(self, a: Any, scale: Any) -> None:
        base = 0.0 if a.anchor < 0 else a.rows[a.anchor].astype(float)
        a.out[...] = base + a.w @ (a.rows - base)

    def _predict(self, a: Any, scale: Any) -> None:
        base_x, base_g = (
            (0.0, 0.0)
            if a.anchor < 0
            else (a.X[a.anchor].astype(float), a.G[a.anchor].astype(float))
        )
        lever = (a.x - base_x - a.w @ (a.X - base_x)) / scale / scale
        a.out[...] = base_g + a.w @ (a.G - base_g) + a.curvature * lever


class ElementwiseKernel:
    def __init__(
        self, inputs: str, outputs: str, operation: str, name: str, preamble: str = ""
    ) -> None:
        self.inputs = [part.split()[-1] for part in inputs.split(",")]
        self.outputs = [part.split()[-1] for part in outputs.split(",")]
        self.lines = operation.splitlines()

    def __call__(self, *arguments: Any) -> None:
        assert len(arguments) == len(self.inputs) + len(self.outputs)
        functions = {c: getattr(np, name) for name, c in C_FUNCTIONS.items()}
        scope: dict[str, Any] = {**functions, "T": arguments[0].dtype.type}
        scope.update(
            zip(
                self.inputs,
                (np.asarray(a) if isinstance(a, ndarray) else a for a in arguments),
                strict=False,
            )
        )
        with np.errstate(all="ignore"):
            for line in self.lines:
                if not line.startswith("typedef"):
                    exec(
                        line.removeprefix("const T ").removeprefix("const bool ").removesuffix(";"),
                        scope,
                    )
        for name, out in zip(self.outputs, arguments[len(self.inputs) :], strict=True):
            np.asarray(out)[...] = scope[name]


class OutOfMemoryError(MemoryError):
    pass


FREE = [1 << 40]


def empty(shape: Any, dtype: Any = np.float64) -> ndarray:
    if np.prod(shape, dtype=float) * np.dtype(dtype).itemsize > FREE[0]:
        raise OutOfMemoryError("out of memory")
    return np.empty(shape, dtype).view(ndarray)


def asarray(x: Any, dtype: Any = None) -> ndarray:
    if not isinstance(x, ndarray):
        ndarray.moved.to_device += np.size(x)
    return device(np.asarray(x, dtype))


def __getattr__(name: str) -> Any:
    function = getattr(np, name)
    if name in ("float32", "float64", "int64", "newaxis", "pi") or isinstance(function, type):
        return function
    return lambda *args, **keywords: device(function(*args, **keywords))


QUEUE: list[tuple[Any, ...]] = []  # what streams were asked to do, in order
LOCAL = threading.local()


class Stream:
    """A stream that notes what it is asked for."""

    def __init__(self, non_blocking: bool = False) -> None:
        self.non_blocking = non_blocking

    def record(self) -> tuple[str, Stream]:
        QUEUE.append(("record", self, threading.get_ident()))
        return ("event", self)

    def wait_event(self, event: tuple[str, Stream]) -> None:
        QUEUE.append(("wait", self, event[1]))

    def synchronize(self) -> None:
        QUEUE.append(("synchronize", self))

    def __enter__(self) -> Stream:
        LOCAL.before = current_stream()
        LOCAL.stream = self
        return self

    def __exit__(self, *error: Any) -> None:
        LOCAL.stream = LOCAL.before


Stream.null = Stream()  # type: ignore[attr-defined]


def current_stream() -> Stream:
    return getattr(LOCAL, "stream", Stream.null)  # type: ignore[attr-defined]


cuda = SimpleNamespace(
    Stream=Stream,
    is_available=lambda: True,
    memory=SimpleNamespace(OutOfMemoryError=OutOfMemoryError),
    runtime=SimpleNamespace(memGetInfo=lambda: (FREE[0], FREE[0])),
)


def get_default_memory_pool() -> Any:
    return SimpleNamespace(free_bytes=lambda: 0)
