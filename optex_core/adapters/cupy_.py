"""Function of CuPy arrays as an objective: N evaluations in threads run on N streams."""

from __future__ import annotations

import threading
from collections.abc import Callable
from types import ModuleType
from typing import Any

from optex_core._validation import callable_
from optex_core.adapters.call_signature import callable_name, make_user_callable
from optex_core.backends import is_cupy
from optex_core.errors import ArgumentTypeError, MissingExtraError
from optex_core.types import OUTSIDE_A_RUN, Array, Context


class CupyFunction:
    """``fun(x) -> (value, gradient)`` on a stream for each thread that calls it; made by `cupy`.

    These streams do not wait for the device's default one, which the engine uses (CUDA C++
    Programming Guide, "Streams"). Events keep the order: the function starts after what was queued
    there before (its x is written there), and its results are complete when it returns. Memory that
    a stream gets back is safe for the same reason.
    """

    def __init__(self, function: Callable[..., object], args: tuple[object, ...]) -> None:
        self._callable = make_user_callable(function, args)
        self.wants_seed = self._callable.wants_seed
        self._local = threading.local()

    def value_and_grad(self, x: Any, ctx: Context = OUTSIDE_A_RUN) -> tuple[Any, Array]:
        """Value and gradient at x, shape (d,), computed on this thread's stream."""
        import cupy as library

        if not is_cupy(x):
            raise ArgumentTypeError(
                "a function made by ox.adapters.cupy runs on the GPU, but x is a NumPy array; pass "
                "x0 as cupy.asarray(x0)"
            )
        with x.device:  # a new thread begins on device 0
            stream = self._stream(library, x.device.id)
            stream.wait_event(library.cuda.Stream.null.record())
            with stream:
                value, gradient = self._callable(x, ctx)
                value = float(value)
            stream.synchronize()
        return value, gradient

    __call__ = value_and_grad

    def __repr__(self) -> str:
        return f"CupyFunction({callable_name(self._callable.function)})"

    def _stream(self, library: ModuleType, device: int) -> Any:
        streams = self._local.__dict__.setdefault("streams", {})
        if device not in streams:
            streams[device] = library.cuda.Stream(non_blocking=True)
        return streams[device]


def cupy(function: Callable[..., Any], *args: Any) -> CupyFunction:
    """Make ``fun`` of a function of CuPy arrays: with ``workers="threads"`` the N gradients of an
    iteration run on N streams.

    Kernels that leave the device partly idle are filled up with those of other evaluations. For
    functions that take a whole batch, ``minimize(..., vectorized=True)`` needs no adapter.

    Parameters
    ----------
    function : callable
        ``function(x, *args) -> (value, gradient)`` on CuPy arrays; with a keyword-only ``seed`` or
        a parameter ``ctx`` if it wants them. It must leave the current stream alone.
    *args
        Passed on.

    Returns
    -------
    CupyFunction
        A callable ``fun(x)``, also for ``minimize(..., workers="threads")`` with `x0` on the GPU.

    Notes
    -----
    Not run on a device so far: tests hold the order of streams and events to this description with
    a stand-in for CuPy.

    Examples
    --------
    ::

        fun = ox.adapters.cupy(lambda x: (0.5 * x @ x, x.copy()))
        res = ox.minimize(fun, cupy.ones(10**6), parallelism=4, workers="threads")
    """
    callable_("function", function)
    try:
        import cupy as library  # noqa: F401
    except ImportError as error:
        raise MissingExtraError.of("cupy", "cuda12", "ox.adapters.cupy") from error
    return CupyFunction(function, args)
