"""Objective: the user's callables, in all their forms, as one picklable object."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np

from optex_core._validation import callable_, one_of, short_repr
from optex_core.adapters.call_signature import UserCallable, callable_name, make_user_callable
from optex_core.adapters.finite_differences import METHODS, as_rel_step, stencil
from optex_core.adapters.return_validation import (
    returned_gradient,
    returned_pair,
    returned_value,
    returned_values,
)
from optex_core.backends import for_array
from optex_core.errors import ArgumentError, ArgumentTypeError
from optex_core.types import (
    UNPERTURBED,
    Array,
    CallCounts,
    Context,
    DifferenceScheme,
    EvaluationResult,
    Perturbation,
)

#: Numbers in one batch of shifted points (32 MB in float64): a batch for d = 10,000 would be 800 MB
#: in one piece.
MAX_BATCH_NUMBERS = 1 << 22


@dataclass(frozen=True, slots=True)
class Objective:
    """The user's callables with their arguments; made by `make_objective`."""

    name: str  # name of the callable, for messages
    #: Gives the value, or (value, gradient) where `jac` and `method` are None.
    fun: UserCallable | None
    jac: UserCallable | None  # gives the gradient
    method: str | None  # "2-point", "3-point" or "cs" where the gradient comes from differences
    vectorized: bool  # callables take (n, d) and return n rows
    #: shape (d,): bounds that differences must not leave.
    low: np.ndarray | None = None
    high: np.ndarray | None = None
    #: shape () or (d,): relative step of differences; None: chosen by the digits of the values.
    rel_step: np.ndarray | None = None

    @property
    def has_value(self) -> bool:
        """False for a gradient without a value."""
        return self.fun is not None

    def evaluate(
        self, x: Array, context: Context, counts: CallCounts | None = None
    ) -> EvaluationResult:
        """Evaluate one point, shape (d,). User code gets copies of it, so that it may write into
        them or keep them; the gradient is a copy too, in the dtype of `x`.

        Exceptions of user code propagate, and `counts`, updated while it runs, then has the calls
        made. `ObjectiveError`: what came back has a wrong shape or type.
        """
        counts = CallCounts() if counts is None else counts
        if self.vectorized:
            return self.evaluate_batch([x], [context], counts)[0]
        start, nfev, njev = time.perf_counter(), counts.nfev, counts.njev
        value, gradient = self._call_all(x, context, counts)
        if gradient is None:

            def calls(shifts: Sequence[Perturbation]) -> list[complex]:
                return [self._call(x, context, shift, counts) for shift in shifts]

            gradient = self._difference(x, value, calls)
        nfev, njev = counts.nfev - nfev, counts.njev - njev
        return EvaluationResult(value, gradient, nfev, njev, time.perf_counter() - start)

    def evaluate_batch(
        self, xs: Sequence[Array], contexts: Sequence[Context], counts: CallCounts | None = None
    ) -> list[EvaluationResult]:
        """Evaluate n points in one call of a vectorized callable. Each row counts as one call and
        takes an equal share of the time.

        Callables with ``seed`` or ``ctx`` get a tuple of n of them.
        """
        counts = CallCounts() if counts is None else counts
        n, every = len(xs), tuple(contexts)
        start, calls = time.perf_counter(), [int(self.has_value)] * n
        values, gradients = self._call_all(for_array(xs[0]).xp.stack(list(xs)), every, counts)
        values = [None] * n if values is None else values
        if gradients is None:
            gradients = []
            for i, x in enumerate(xs):
                before = counts.nfev
                gradients.append(self._difference_row(x, values[i], contexts[i], counts))
                calls[i] += counts.nfev - before
        seconds = (time.perf_counter() - start) / n
        # A row is copied out: whoever keeps one gradient must not keep the batch alive.
        return [
            EvaluationResult(v, g.copy(), c, 1, seconds)
            for v, g, c in zip(values, gradients, calls, strict=True)
        ]

    def reserve_batch(self, n: int) -> None:
        """Tell callables that compile for one size of batch the largest that will come."""
        for called in (self.fun, self.jac):
            owner = getattr(called and called.function, "__self__", None)
            if self.vectorized and callable(reserve := getattr(owner, "reserve_batch", None)):
                reserve(n)

    @property
    def is_composite(self) -> bool:
        """True for differences, whose calls may run concurrently: `difference_scheme`."""
        return self.method is not None and not self.vectorized

    def difference_scheme(self, x: Array) -> DifferenceScheme:
        """Return the calls of a finite difference at `x`."""
        assert self.method is not None
        return stencil(x, self.method, self.low, self.high, rel_step=self.rel_step)

    def evaluate_perturbed(
        self, x: Array, context: Context, shift: Perturbation, counts: CallCounts
    ) -> EvaluationResult:
        """Make one call of a finite difference. Its value, complex for a complex step, is returned
        as two numbers in place of a gradient.
        """
        start, center = time.perf_counter(), shift == UNPERTURBED
        counts.njev += center
        number = complex(self._call(x, context, shift, counts))
        parts = np.array([number.real, number.imag])
        return EvaluationResult(number.real, parts, 1, center, time.perf_counter() - start)

    def _call_all(
        self, X: Array, context: Context | tuple[Context, ...], counts: CallCounts
    ) -> tuple[Any, Any]:
        """Value and gradient at a point, or at the rows of a batch; None for a value without a
        callable, and for a gradient that is left to differences.
        """
        n = len(context) if isinstance(context, tuple) else 1
        value: Any = None
        if self.fun is not None:
            counts.nfev += n
            counts.njev += n if self.jac is None else 0
            raw, gradient = self.fun(X.copy(), context), None
            is_pair = self.jac is None and self.method is None
            if is_pair:
                raw, gradient = returned_pair(raw, self.name)
            if isinstance(context, tuple):
                value = returned_values(raw, n, self.name)
            else:
                value = returned_value(raw, self.name).real
            if is_pair:
                return value, returned_gradient(gradient, X, self.name)
            if not isinstance(context, tuple):
                counts.value = value
        if self.jac is None:
            return value, None
        counts.njev += n
        gradient = self.jac(X.copy(), context)
        return value, returned_gradient(gradient, X, callable_name(self.jac.function))

    def _call(self, x: Array, context: Context, shift: Perturbation, counts: CallCounts) -> complex:
        """The value at x, or at a shifted point."""
        assert self.fun is not None
        complex_step = self.method == "cs" and shift != UNPERTURBED
        point = x.copy() if shift == UNPERTURBED else self._perturbable(x)
        if shift != UNPERTURBED:
            k, to = shift
            point[k] = to if complex_step else to.real
        counts.nfev += 1
        return returned_value(self.fun(point, context), self.name, complex_step=complex_step)

    def _difference_row(
        self, x: Array, value: complex, context: Context, counts: CallCounts
    ) -> Array:
        """The gradient at one row of a batch; its shifted points are batches too."""
        size, complex_step = max(1, MAX_BATCH_NUMBERS // len(x)), self.method == "cs"
        center, xp = self._perturbable(x), for_array(x).xp

        def calls(shifts: Sequence[Perturbation]) -> list[complex]:
            assert self.fun is not None
            values: list[complex] = []
            for begin in range(0, len(shifts), size):
                some = shifts[begin : begin + size]
                n, targets = len(some), np.array([to for _, to in some])
                rows = xp.repeat(center[None, :], n, axis=0)
                targets = targets if complex_step else targets.real
                rows[xp.arange(n), xp.asarray([k for k, _ in some])] = xp.asarray(targets)
                counts.nfev += n
                raw = self.fun(rows, (context,) * n)
                values += returned_values(raw, n, self.name, complex_step=complex_step)
            return values

        return self._difference(x, value, calls)

    def _difference(
        self, x: Array, value: complex, calls: Callable[[Sequence[Perturbation]], list[complex]]
    ) -> Array:
        """The gradient from the calls at the shifted points, again over longer steps if need be."""
        scheme: DifferenceScheme | None = self.difference_scheme(x)
        while scheme is not None:
            last, values = scheme, [value, *calls(scheme.perturbations)]
            scheme = last.refined(values)
        return last.assemble(values)[1]

    def _perturbable(self, x: Array) -> Array:
        """A copy of `x` that can hold a shifted coordinate."""
        if self.method == "cs":
            return cast(Array, x.astype(np.result_type(x.dtype, np.complex64)))
        return cast(Array, x.copy())


def make_objective(
    fun: Any,
    *,
    args: object = (),
    jac: bool | str | Callable[..., object] = True,
    x0: Array,
    vectorized: bool = False,
    bounds: tuple[Any, Any] | None = None,
    rel_step: object = None,
) -> Objective:
    """Make one `Objective` of the arguments of `minimize`, which mean the same here.

    An object with ``value_and_grad(x, ...)`` is a `fun`, too; `bounds` are two arrays, shape (d,),
    that differences do not leave; gradients have the shape of `x0`. ArgumentError or
    ArgumentTypeError where the arguments do not fit together.

    Examples
    --------
    >>> import numpy as np
    >>> objective = make_objective(lambda x: (x @ x, 2 * x), x0=np.ones(3))
    >>> objective.evaluate(np.ones(3), Context(id=0, seed=0, iteration=0, slot=0)).value
    3.0
    """
    args = args if isinstance(args, tuple) else (args,)
    if jac is True and callable(getattr(fun, "value_and_grad", None)):
        fun = fun.value_and_grad  # an object that declares it is asked in this way, callable or not
    if fun is None and not callable(jac):
        raise ArgumentError(
            f"fun=None needs a callable jac that returns the gradient, got jac={short_repr(jac)}"
        )
    if fun is not None:
        callable_("fun", fun)
    method: str | None = None
    if isinstance(jac, str):
        method = one_of("jac", jac, METHODS)
    elif not callable(jac) and jac is not True:
        raise ArgumentTypeError(
            "jac must be True (fun returns value and gradient), a callable, '2-point', '3-point' "
            f"or 'cs', got {short_repr(jac)}: the method lives on gradients, so one is needed"
        )
    if np.dtype(getattr(x0, "dtype", None) or np.asarray(x0).dtype).kind not in "iuf":
        raise ArgumentTypeError(f"x0 must hold real numbers, got {short_repr(x0)}")
    if rel_step is not None and method is None:
        raise ArgumentError(
            f"rel_step={short_repr(rel_step)} is the step of differences, but jac="
            f"{short_repr(jac)} takes none; pass jac='2-point', '3-point' or 'cs', or leave it out"
        )
    # On the host: the steps of differences are chosen there.
    host = [np.array(for_array(b).to_host(b)) for b in bounds or ()]
    low, high = host if method and host else (None, None)
    return Objective(
        name=callable_name(jac if fun is None else fun),
        fun=None if fun is None else make_user_callable(fun, args),
        jac=make_user_callable(jac, args) if callable(jac) else None,
        method=method,
        vectorized=bool(vectorized),
        low=low,
        high=high,
        rel_step=as_rel_step(rel_step, int(np.size(x0))),
    )
