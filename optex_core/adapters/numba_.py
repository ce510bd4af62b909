"""Numba function as an objective: N iterates in threads without the GIL, or as one batch."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import numpy as np

from optex_core._validation import callable_, short_repr
from optex_core.adapters.call_signature import callable_name
from optex_core.errors import ArgumentTypeError, CapabilityError

#: Numba's threading layer "workqueue" ends the process when two threads enter parallel code at
#: once: batches take turns.
_parallel_lock = threading.Lock()


class NumbaFunction:
    """``fun(x) -> (value, gradient)`` compiled without the GIL; made by `numba`.

    It takes one vector (d,), or a batch (n, d). Picklable: worker processes compile it anew.
    """

    def __init__(self, function: Callable[..., object], args: tuple[object, ...]) -> None:
        import numba as library

        self._function, self._args = getattr(function, "py_func", function), args
        single = library.njit(nogil=True)(self._function)

        def batch(X: Any, values: Any, gradients: Any, *args: Any) -> None:
            for i in library.prange(len(X)):
                value, gradient = single(X[i], *args)
                values[i] = value
                gradients[i] = gradient

        # Each is compiled when it is first called: the second takes seconds.
        self._single, self._batch = single, library.njit(parallel=True, nogil=True)(batch)

    def value_and_grad(self, x: np.ndarray) -> tuple[object, np.ndarray]:
        """Value and gradient at x, shape (d,); values (n,) and gradients (n, d) at the rows of x,
        shape (n, d).
        """
        if x.ndim == 2:
            values, gradients = np.empty(len(x)), np.empty_like(x)
            with _parallel_lock:
                self._batch(np.ascontiguousarray(x), values, gradients, *self._args)
            return values, gradients
        value, gradient = self._single(x, *self._args)
        return float(value), gradient

    __call__ = value_and_grad

    def __repr__(self) -> str:
        return f"NumbaFunction({callable_name(self._function)})"

    def __reduce__(self) -> tuple[object, ...]:
        # From what was given: compiled code does not travel.
        return type(self), (self._function, self._args)


def numba(function: Callable[..., object], *args: object) -> NumbaFunction:
    """Make ``fun`` of a Numba function: its N gradients of an iteration run in threads without the
    GIL, or as one parallel batch.

    Parameters
    ----------
    function : callable
        ``function(x, *args) -> (value, gradient)``, a function of ``numba.njit`` or one that it can
        compile; compiled here once more, without the GIL. The gradient must be a new array. Not
        with ``parallel=True``: the N gradients are what runs in parallel.
    *args
        Arrays and numbers, passed on.

    Returns
    -------
    NumbaFunction
        A callable ``fun(x)``, also for ``minimize(..., workers="threads")``, or ``minimize(...,
        vectorized=True)`` for one call of all N.

    Notes
    -----
    On two quiet cores two gradients of 52 ms take 99 ms in turn, 53 in two threads, 52 as a batch.
    A batch compiles once more (a second or two), and its threads are Numba's.

    Examples
    --------
    >>> import numpy as np
    >>> import optex_core as ox
    >>> fun = numba(lambda x, h: (0.5 * np.sum(h * x * x), h * x), np.array([1.0, 0.1]))
    >>> value, gradient = fun(np.ones(2))
    >>> value, gradient.tolist()
    (0.55, [1.0, 0.1])
    """
    callable_("function", function)
    options = getattr(function, "targetoptions", {})
    if options.get("parallel"):
        raise CapabilityError(
            "the function is compiled with parallel=True, and its N evaluations would run in "
            "parallel too, which Numba's threads do not survive; leave parallel=True out"
        )
    if isinstance(function, type):
        raise ArgumentTypeError(f"function must be a function, got {short_repr(function)}")
    return NumbaFunction(function, args)
