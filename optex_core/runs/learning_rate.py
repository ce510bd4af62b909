"""A learning rate from a few rounds of gradients at the start."""

from __future__ import annotations

import dataclasses
import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from optex_core._validation import integer, reject_unknown_keywords, short_repr
from optex_core.adapters.objective import make_objective
from optex_core.backends import for_array
from optex_core.engine.settings import as_x0
from optex_core.errors import ArgumentError, ArgumentTypeError, CapabilityError, ObjectiveError
from optex_core.execution.base import Evaluator
from optex_core.execution.factory import make_evaluator
from optex_core.optimizers._on_backend import OptimizerOnBackend, bind_optimizer
from optex_core.optimizers.base import OPTIMIZERS, get_optimizer
from optex_core.optimizers.prodigy import Prodigy
from optex_core.types import Array, Candidate, FirstOrderOptimizer

logger = logging.getLogger("optex_core")

#: Lengths of the first step that are tried, in units of max(|x0|, sqrt(d)).
MIN_STEP, MAX_STEP = 1e-5, 10.0
#: Rates that are compared, in units of the one that minimizes along the first step.
LOWEST, HIGHEST = 1.0 / 16.0, 8.0
#: Steps that each of them takes. 2: 12 in place of 14 of 28 within a factor of 2 of the best.
STEPS = 3


@dataclass(slots=True)
class _Trial:
    """The optimizer at one rate, after some steps; the value is inf where it left the numbers."""

    optimizer: OptimizerOnBackend
    x: Array
    state: object
    value: float
    gradient: Array


@reject_unknown_keywords
def suggest_learning_rate(
    fun: Callable[..., object] | object,
    x0: ArrayLike,
    optimizer: str | FirstOrderOptimizer,
    args: tuple[object, ...] = (),
    *,
    jac: bool | str | Callable[..., object] = True,
    parallelism: int = 8,
    workers: object = None,
) -> float:
    """Suggest a constant learning rate for `optimizer` on `fun` from x0, by five rounds of trials.

    The gradient at x0; N lengths along the first step, whose slopes give the rate that minimizes
    `fun` on that line; then N rates from 1/16 to 8 times that one take three steps each, side by
    side. The rate whose value is lowest then is the suggestion.

    Parameters
    ----------
    fun : callable or object
        As in `minimize`; it must give values. Points of one round get the same ``seed``.
    x0 : array_like, shape (d,)
        Where the run will start.
    optimizer : str or object
        A registered name, or an optimizer with a setting `learning_rate`, whose value is not used
        (a name stands for its other defaults). Wrappers around one are taken too.
    args : tuple, default ()
        Further arguments of `fun` and `jac`.
    jac : True, callable or {"2-point", "3-point", "cs"}, default True
        Where the gradient comes from.
    parallelism : int, default 8
        N, at least 4: rates tried side by side.
    workers : None, int, str, executor or map-like, default None
        What runs the evaluations, as in `minimize`.

    Returns
    -------
    float
        The rate; 1 + 4 N gradients are spent. ArgumentError if the optimizer has no learning rate,
        or the gradient at x0 is zero or not finite.

    Notes
    -----
    What three steps show is not what a run of hundreds needs: it is a start for one's own grid. On
    28 smooth problems at N = 8 it is within a factor of 2 of a rate that ends within 1 % of the
    best's drop on 26. Where the first steps are steeper than what follows (raw covariates, softmax)
    it is 5 to 11 times too low; with noise it is the rate for one sample.

    Examples
    --------
    >>> import optex_core as ox
    >>> rate = ox.suggest_learning_rate(lambda x: (2 * x @ x, 4 * x), [3.0, -4.0], "sgd")
    >>> 0.05 < rate < 0.5
    True
    """
    integer("parallelism", parallelism, low=4)
    x = as_x0(x0)
    backend = for_array(x)
    x = backend.copy_in(x, x.dtype)
    if fun is None:
        raise CapabilityError("suggest_learning_rate compares values; pass fun, not jac alone")
    objective = make_objective(fun, args=args, jac=jac, x0=x)
    with make_evaluator(objective, workers, parallelism=parallelism) as evaluator:
        ((value, gradient),) = _evaluate(evaluator, [x], 0, required=True)
        unit = bind_optimizer(_at_rate(optimizer, 1.0), backend)
        ahead, _ = unit.step(x, gradient, unit.init(x), value=value)
        direction = backend.axpy(-1.0, x, ahead)
        length, slope = _norm(backend.dot(direction, direction)), backend.dot(gradient, direction)
        if not (math.isfinite(value) and 0.0 < length < math.inf and slope < 0.0):
            raise ArgumentError(
                f"the first step at x0 leads nowhere (value {value:.6g}, step {length:.3g}, slope "
                f"{slope:.3g}); start from another point"
            )
        reach = max(_norm(backend.dot(x, x)), math.sqrt(len(x)))
        lengths = np.geomspace(MIN_STEP, MAX_STEP, parallelism) * reach / length
        points = [backend.axpy(float(r), direction, x) for r in lengths]
        found = _evaluate(evaluator, points, 1)
        slopes = [backend.dot(g, direction) for _, g in found]
        line = minimize_line(lengths, [v for v, _ in found], slopes, value, slope)
        trials = []
        for rate in line * np.geomspace(LOWEST, HIGHEST, parallelism):
            stepper = bind_optimizer(_at_rate(optimizer, float(rate)), backend)
            trials.append(_Trial(stepper, x, stepper.init(x), value, gradient))
        for step in range(STEPS):
            running = [t for t in trials if math.isfinite(t.value)]
            for t in running:
                t.x, t.state = t.optimizer.step(t.x, t.gradient, t.state, value=t.value)
            pairs = _evaluate(evaluator, [t.x for t in running], 2 + step)
            for t, (v, g) in zip(running, pairs, strict=True):
                t.value, t.gradient = v, g
    best = int(np.argmin([t.value for t in trials]))
    rate = float(line * np.geomspace(LOWEST, HIGHEST, parallelism)[best])
    if not trials[best].value < value:
        logger.warning(
            "suggest_learning_rate: at no rate did the value fall below %.6g in %d steps; the "
            "suggestion %.3g is the least bad", value, STEPS, rate,
        )  # fmt: skip
    return rate


def minimize_line(
    lengths: np.ndarray,
    values: Sequence[float],
    slopes: Sequence[float],
    value: float,
    slope: float,
) -> float:
    """The step length that minimizes along a line, from `values` and `slopes` at increasing
    `lengths`, and a value and a negative slope at 0.

    It is where the secant of the slopes at 0 and at the last length whose value is lower is zero,
    between a thirtieth of that length and the first at which the value or the slope has risen.
    """
    below, turn, end = lengths[0], lengths[-1], slopes[0]
    for r, v, s in zip(lengths, values, slopes, strict=True):
        if v < value:
            below, end = r, s
        if not v < value or s > 0.0:  # nan too
            turn = r
            break
    fall = slope - end
    line = below * slope / fall if fall < 0.0 else turn
    return float(np.clip(line, below / 30.0, turn))


def _at_rate(optimizer: str | FirstOrderOptimizer, rate: float) -> FirstOrderOptimizer:
    """The optimizer with this learning rate."""
    if isinstance(optimizer, str):
        made: object = OPTIMIZERS[optimizer](learning_rate=rate)  # type: ignore[call-arg]
    else:
        made = get_optimizer(optimizer)
    if isinstance(made, Prodigy):
        raise ArgumentError("Prodigy estimates its step length; it needs no learning rate")
    settings = [f.name for f in dataclasses.fields(made)] if dataclasses.is_dataclass(made) else []
    change: Callable[..., FirstOrderOptimizer] = dataclasses.replace
    if "learning_rate" in settings:
        return change(made, learning_rate=rate)
    wrapped = getattr(made, "optimizer", None)
    if wrapped is not None and "optimizer" in settings:
        return change(made, optimizer=_at_rate(wrapped, rate))
    raise ArgumentTypeError(
        f"optimizer must have a setting learning_rate, got {short_repr(optimizer)}"
    )


def _evaluate(
    evaluator: Evaluator, points: Sequence[Array], iteration: int, *, required: bool = False
) -> list[tuple[float, Array]]:
    """(value, gradient) of every point; the value is inf where the evaluation fails or gives
    something that is not finite, and that is no error (`required`).
    """
    if not points:
        return []
    backend = for_array(points[0])
    candidates = [
        Candidate(i, backend.read_only(x), iteration, iteration, i) for i, x in enumerate(points)
    ]
    evaluator.submit(candidates)
    found: list[tuple[float, Array]] = [(math.inf, x) for x in points]
    while evaluator.pending:
        for outcome in evaluator.next():
            error, value = outcome.error, outcome.value
            if error is not None and (required or isinstance(error, ObjectiveError)):
                raise error
            if value is None or outcome.gradient is None:
                continue
            gradient = backend.copy_in(outcome.gradient, points[0].dtype)
            if math.isfinite(value) and backend.all_finite(gradient):
                found[outcome.candidate.slot] = (float(value), gradient)
    return found


def _norm(square: float) -> float:
    return math.sqrt(square) if square >= 0.0 else math.nan
