"""The door for users of SciPy: ``scipy.optimize.minimize(..., method=optex_core.scipy_method)``."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np

from optex_core._minimize import minimize
from optex_core._validation import boolean, callable_
from optex_core.errors import ArgumentError, did_you_mean
from optex_core.types import Array

#: Arguments of `minimize` that SciPy passes itself, so that they cannot stand in ``options``.
_GIVEN = {"fun", "x0", "args", "jac", "bounds", "callback"}


def scipy_method(
    fun: Callable[..., Any],
    x0: Array,
    args: tuple[Any, ...] = (),
    *,
    jac: Any = None,
    hess: Any = None,
    hessp: Any = None,
    bounds: Any = None,
    constraints: Any = (),
    callback: Callable[..., Any] | None = None,
    tol: float | None = None,
    disp: bool = False,
    **options: Any,
) -> Any:
    """Run `optex_core.minimize` as a method of ``scipy.optimize.minimize``.

    Parameters
    ----------
    fun, x0 : as in SciPy
        Passed on.
    args : tuple, default ()
        Passed on.
    jac : True, callable or None, default None
        None: two-point differences. (SciPy turns the names "3-point" and "cs" into None for methods
        that are not its own.)
    hess, hessp : object, default None
        Ignored with a warning: the method takes gradients only.
    bounds : as in SciPy, optional
        Passed on.
    constraints : object, default ()
        Anything but none is an error.
    callback : callable, optional
        ``callback(xk)`` or, chosen by the parameter's name as in SciPy,
        ``callback(intermediate_result)``; StopIteration stops.
    tol : float, optional
        Taken as ``gtol``, unless that is among the options.
    disp : bool, default False
        Taken as ``progress``.
    **options
        The entries of ``options``: keywords of `optex_core.minimize`.

    Returns
    -------
    scipy.optimize.OptimizeResult
        The result of `optex_core.minimize`.

    Raises
    ------
    ArgumentError
        Constraints, or an option that does not exist.

    Examples
    --------
    >>> from scipy.optimize import minimize, rosen, rosen_der
    >>> res = minimize(rosen, [0.5, 0.5], jac=rosen_der, method=scipy_method, options={"parallelism": 4, "maxiter": 10})
    >>> int(res.nit)
    10
    """
    if constraints is not None and np.size(constraints):
        raise ArgumentError(
            "scipy_method takes bounds but no constraints; use bounds=, or one of "
            "SciPy's own methods such as 'SLSQP'"
        )
    for name, given in (("hess", hess), ("hessp", hessp)):
        if given is not None:
            warnings.warn(
                f"scipy_method uses gradients only and ignores {name}", RuntimeWarning, stacklevel=3
            )
    known = set(inspect.signature(minimize).parameters) - _GIVEN
    for name in options:
        if name not in known:
            raise ArgumentError(f"scipy_method has no option {name!r}{did_you_mean(name, known)}")
    if tol is not None:
        options.setdefault("gtol", tol)
    if boolean("disp", disp):
        options.setdefault("progress", True)
    fun, jac = _without_memo(fun, jac)
    return minimize(
        fun,
        x0,
        args,
        jac="2-point" if jac is None else jac,
        bounds=bounds,
        callback=_adapted(callback),
        **options,
    )


def _without_memo(fun: Callable[..., Any], jac: Any) -> tuple[Callable[..., Any], Any]:
    """Undo what SciPy makes of ``jac=True``.

    It wraps `fun` into an object that remembers the last point and passes a method of it as `jac`.
    With several points at once the two overwrite each other's memory: every evaluation would run
    twice, and a value could be paired with the gradient of another point.
    """
    if (
        getattr(jac, "__self__", None) is fun
        and getattr(jac, "__name__", "") == "derivative"
        and type(fun).__name__ == "MemoizeJac"
    ):
        return fun.fun, True
    return fun, jac


def _adapted(callback: Callable[..., Any] | None) -> Callable[..., None] | None:
    """A callback in SciPy's two forms as one that takes ``intermediate_result``; its return value
    means nothing to SciPy and is dropped.
    """
    if callback is None:
        return None
    callable_("callback", callback)
    try:
        by_name = set(inspect.signature(callback).parameters) == {"intermediate_result"}
    except (TypeError, ValueError):  # a compiled callable without a signature takes xk
        by_name = False
    if not by_name:
        callable_("callback", callback, "xk")

    def adapted(intermediate_result: Any) -> None:
        if by_name:
            callback(intermediate_result=intermediate_result)
        else:
            callback(intermediate_result.x.copy())

    return adapted
