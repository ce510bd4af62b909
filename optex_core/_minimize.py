"""The public functions `minimize` and `scipy_method`."""

from __future__ import annotations

import contextlib
import inspect
import logging
import os
import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike

from optex_core._validation import boolean, callable_, integer, reject_unknown_keywords, short_repr
from optex_core.adapters.call_signature import takes_seed
from optex_core.adapters.objective import make_objective
from optex_core.backends import is_cupy
from optex_core.backends.base import Backend
from optex_core.engine.optex import OptEx
from optex_core.engine.settings import as_x0, value_consumers
from optex_core.engine.state import FailedEvaluation
from optex_core.errors import ArgumentError, CapabilityError, did_you_mean
from optex_core.execution.factory import make_evaluator
from optex_core.model.estimator import GradientEstimator
from optex_core.runs.checkpoint_manager import CheckpointManager
from optex_core.runs.evaluation_loop import EvaluationLoop
from optex_core.runs.failure_policy import FailurePolicy
from optex_core.runs.progress import Progress
from optex_core.strategies.auto import Auto
from optex_core.strategies.base import Strategy
from optex_core.types import Array, FirstOrderOptimizer

if TYPE_CHECKING:
    from optex_core.engine.result import Result

logger = logging.getLogger("optex_core")

#: Arguments of `minimize` that SciPy passes itself, so that they cannot stand in ``options``.
_GIVEN = {"fun", "x0", "args", "jac", "bounds", "callback"}

#: How gradients are computed.
Jac: TypeAlias = bool | str | Callable[..., object] | None


@reject_unknown_keywords
def minimize(
    fun: Callable[..., object] | object,
    x0: ArrayLike,
    args: tuple[object, ...] = (),
    *,
    jac: bool | str | Callable[..., object] = True,
    optimizer: str | FirstOrderOptimizer | None = None,
    parallelism: int = 4,
    strategy: str | Strategy = "auto",
    estimator: GradientEstimator | None = None,
    workers: object = None,
    vectorized: bool = False,
    bounds: object = None,
    backend: str | Backend = "auto",
    x_scale: ArrayLike | None = None,
    maxiter: int | None = None,
    gtol: float | None = None,
    ftol: float | None = None,
    xtol: float | None = None,
    target: float | None = None,
    max_time: float | None = None,
    max_evals: int | None = None,
    callback: Callable[..., object] | None = None,
    progress: Any = False,
    rng: object = None,
    checkpoint: str | os.PathLike[str] | None = None,
    checkpoint_every: float | None = None,
    resume: bool = False,
    tag: str | None = None,
    on_error: str | Callable[[FailedEvaluation], str] = "raise",
    max_retries: int = 3,
    max_failures: int | None = None,
    timeout: float | None = None,
    quorum: int | None = None,
    grace: float | None = None,
    rel_step: object = None,
) -> Result:
    """Minimize a function of several variables, evaluating several gradients at once.

    Parameters
    ----------
    fun : callable, object or None
        ``fun(x, *args) -> (value, gradient)`` with ``jac=True``, else ``-> value``; None for a
        gradient alone. A keyword-only parameter ``seed``, or a parameter ``ctx``, is given. Also an
        object with ``value_and_grad(x, ...)``, and what `adapters` makes.
    x0 : array_like, shape (d,)
        The start.
    args : tuple, default ()
        Further arguments of `fun` and `jac`.
    jac : True, callable or {"2-point", "3-point", "cs"}, default True
        Where the gradient comes from.
    optimizer : str, object or None, default None
        None: `LBFGS`, without a learning rate; where evaluations do not repeat or no values are
        given, gradients are averaged and a parameter-free rule takes the steps. Else the
        first-order rule: a name, or an object such as ``SGD(0.1, momentum=0.9)``.
    parallelism : int, default 4
        N: how many gradients are evaluated at once.
    strategy : str or Strategy, default "auto"
        With an optimizer "auto" takes a function with ``seed`` for a noisy one (`strategies.Auto`,
        `stochastic`).
        "auto", "lookahead" (L-BFGS), "verified", "corrected", "paper"; baselines "sequential",
        "target", "data_parallel", "repeat_last", "line_search".
    estimator : GradientEstimator or None, default None
        The settings of the gradient estimate. Not read by `lookahead`, the default without an
        optimizer.
    workers : None, int, str, executor or map-like, default None
        What runs the evaluations: this thread, so many processes, "threads", any
        ``concurrent.futures.Executor``, ``map``, a cluster through `executors`. The shifted calls
        of differences run there one by one.
    vectorized : bool, default False
        True: `fun` takes (n, d) and returns (n,) and (n, d).
    bounds : scipy.optimize.Bounds or pairs, optional
        Steps are projected onto them.
    backend : str, default "auto"
        "numpy", "numba", "cupy", or "auto".
    x_scale : float or array_like, shape (d,), optional
        Units of the parameters.
    maxiter, gtol, ftol, xtol, target, max_time, max_evals : optional
        Stopping criteria; none given: maxiter = 1000 and gtol = 1e-6. See
        `optex_core.engine.stopping.Criteria`. `max_time` (seconds) starts nothing new when it is
        over, but evaluations that run are waited for, so that the counters are honest; Ctrl-C ends
        that wait.
    callback : callable, optional
        ``callback(intermediate_result)`` after each iteration, with the result at theta_k, k = 1,
        2, ...; StopIteration (or returning True) stops.
    progress : bool or callable, default False
        True: a progress line on standard error (tqdm where installed, on a terminal). A callable
        gets each intermediate result.
    rng : int, Generator or None, default None
        The run's seed.
    checkpoint : path-like, optional
        Saves the run there, every so often and at the end. Beside it stand a journal of every
        gradient and the save before: killed at any instant, the run continues with the same bits
        and evaluates no gradient again that had arrived. A second run of the same file is refused
        while the first goes on.
    checkpoint_every : int or float, optional
        An int: iterations between two saves, by default 1; a float: seconds. A save holds the
        history, 2 * T0 * d numbers (T0 the rows of ``estimator.history``); the journal loses
        nothing in between.
    resume : bool, default False
        Continue from `checkpoint` if it exists, from the iterate that it holds; of `x0` only shape
        and dtype count. A run of other settings is refused: optimizer, strategy and estimator are
        compared field by field, functions (a schedule, a user's kernel) by name, lambdas not at
        all, and `fun` with its `args` is not compared: name them in `tag`, and change it with them.
    tag : str, optional
        Names the problem; a checkpoint with another tag is refused.
    on_error : {"raise", "drop", "retry"} or callable, default "raise"
        What to do when an evaluation fails; a callable gets the Failure and returns one of the
        three. Not asked about a return of the wrong shape or type: that is a bug in `fun`, no
        failed evaluation, and ends the run under each of them.
    max_retries : int, default 3
        How often one point is tried again; not counted are evaluations lost with a killed worker,
        which are always asked again.
    max_failures : int, optional
        More failures in all end the run.
    timeout : float, optional
        Seconds of running, without waiting and the start of a worker, after which an evaluation
        counts as failed. Worker processes of ours (``workers=4``) are then killed, with what they
        have started, and replaced; a thread is left behind, and in a pool of the caller the
        evaluation keeps its worker. Like `quorum`, it needs `workers` that evaluate in the
        background.
    quorum : int, optional
        Close a round when so many gradients are in, the iterate's own among them; late ones still
        enter the history.
    grace : float, optional
        Seconds to wait for the rest after the quorum is reached, default 0.
    rel_step : float or array_like, shape (d,), optional
        Relative step of differences, h = rel_step max(1, |x|), as SciPy's `finite_diff_rel_step`.
        For values with noise take the square root ("2-point") or the cube root ("3-point") of their
        relative accuracy.

    Returns
    -------
    Result
        A `scipy.optimize.OptimizeResult` with typed attributes.

    Raises
    ------
    ArgumentError, ArgumentTypeError
        For an argument that cannot work.
    CapabilityError
        For arguments that do not fit together, such as `timeout` without workers.
    ObjectiveError
        When `fun` returns something of the wrong shape or type, at theta_t or at a proxy, whatever
        `on_error` says. ``.partial_result`` holds the result so far.
    EvaluationError
        When the evaluation at the iterate itself fails; under ``on_error="raise"`` the user's own
        exception. ``.partial_result`` holds the result so far.

    References
    ----------
    Shu, Fang, He, Yu, OptEx, NeurIPS 2024, arXiv 2402.11427.

    Examples
    --------
    >>> import optex_core as ox
    >>> res = ox.minimize(lambda x: (x @ x, 2 * x), [3.0, -4.0], optimizer=ox.SGD(0.1), gtol=1e-6)
    >>> res.success
    True
    """
    x = as_x0(x0)
    boolean("vectorized", vectorized)
    boolean("resume", resume)
    if fun is None and not callable(jac):
        raise ArgumentError("fun=None needs jac=callable, the gradient; got jac=" + short_repr(jac))
    policy = FailurePolicy(on_error, max_retries, max_failures, timeout, quorum, grace)
    if callback is not None:
        callable_("callback", callback, "the result so far")
    if policy.quorum is not None and policy.quorum > integer("parallelism", parallelism, low=1):
        raise ArgumentError(
            f"quorum must be at most parallelism={parallelism}, got {short_repr(quorum)}"
        )
    if checkpoint is None and (resume or checkpoint_every is not None):
        name = "resume=True" if resume else "checkpoint_every"
        raise ArgumentError(f"{name} needs checkpoint=, the file of the run")
    with contextlib.ExitStack() as stack:
        manager = None
        if checkpoint is not None:
            manager = stack.enter_context(
                CheckpointManager(checkpoint, checkpoint_every, resume=resume)
            )
        if manager is not None and manager.recovered is not None:
            rng = manager.recovered.seed if rng is None else rng
            # The run's own: from which size on "auto" takes which has changed between versions.
            own = manager.recovered.backend
            backend = own if backend == "auto" and not is_cupy(x) and own != "cupy" else backend
        if strategy == "auto" and (takes_seed(fun) or (callable(jac) and takes_seed(jac))):
            strategy = Auto(stochastic=True)
        engine = OptEx(
            x, optimizer=optimizer, parallelism=parallelism, strategy=strategy,
            estimator=estimator, backend=backend, bounds=bounds, x_scale=x_scale, maxiter=maxiter,
            gtol=gtol, ftol=ftol, xtol=xtol, target=target, max_time=max_time,
            max_evals=max_evals, rng=rng, tag=tag,
        )  # fmt: skip
        if fun is None and (needs := value_consumers(engine.settings)):
            raise CapabilityError(
                f"{' and '.join(needs)} needs values, but fun=None gives gradients only; pass fun,"
                " or leave it out"
            )
        if manager is not None:
            manager.restore(engine)
        low, high = engine.settings.low, engine.settings.high
        inside = None if low is None else (low, high)
        objective = make_objective(
            fun, args=args, jac=jac, x0=engine.state.x, vectorized=vectorized, bounds=inside,
            rel_step=rel_step,
        )  # fmt: skip
        if parallelism > 1 and workers is None and not vectorized:
            logger.info(
                "parallelism=%d without workers: the %d gradients of a round run one after another"
                " in this thread",
                parallelism, parallelism,
            )  # fmt: skip
        with make_evaluator(
            objective, workers, vectorized=vectorized, parallelism=parallelism
        ) as evaluator:
            policy.check_evaluator(evaluator, workers, vectorized)
            if manager is not None:
                manager.start(engine)
            return EvaluationLoop(
                engine, evaluator, policy, callback, Progress(progress), manager, fun is not None
            ).run()


def scipy_method(
    fun: Callable[..., object],
    x0: Array,
    args: tuple[object, ...] = (),
    *,
    jac: Jac = None,
    hess: object = None,
    hessp: object = None,
    bounds: object = None,
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
    >>> options = {"parallelism": 4}
    >>> res = minimize(rosen, [0.5, 0.5], jac=rosen_der, method=scipy_method, options=options)
    >>> bool(res.success)
    True
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


def _without_memo(fun: Callable[..., object], jac: Jac) -> tuple[Callable[..., object], Jac]:
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


def _adapted(callback: Callable[..., object] | None) -> Callable[..., None] | None:
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
