"""Worker of two-level SGD: B inner steps on a local copy by p cores, pushed as the sum of the
steps.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from typing import Any

import numpy as np

from optex_core._validation import callable_, integer, positive, reject_unknown_fields, short_repr
from optex_core.adapters.objective import Objective, make_objective
from optex_core.async_sgd.hogwild import (
    DenseSamples,
    SparseSamples,
    full_value_and_gradient,
    hogwild_burst,
    run_on_cores,
)
from optex_core.async_sgd.records import BurstContext, Push
from optex_core.async_sgd.sample_order import burst_samples, mix_seed
from optex_core.errors import ArgumentError, ArgumentTypeError, CapabilityError
from optex_core.types import Array, CallCounts, Context

Rate = float | Callable[[int], float]


@reject_unknown_fields
class Worker:
    """A burst of SGD: u = v, then B times u <- u - gamma g(u) by p cores, then push s, the sum of
    the steps gamma g.

    Each core sums its own steps; those sums are pushed, and not the change of u, in which racing
    writes are missing. Compiled samples (`SparseSamples`, `DenseSamples`) run without locks, in
    threads without the GIL. Python callables run in threads with a lock around reading and updating
    u, never around the gradient (3 us at d = 10^4, 60 us at 10^5); their cores only help where
    gradients release the GIL, sleep, or wait for programs.

    Parameters
    ----------
    fun, args, jac, rate
        As for `async_sgd.minimize`: the gradient, and gamma or a schedule ``version -> gamma`` such
        as those of `optex_core.optimizers.schedules`.
    inner_steps, cores : int, default 10 and 1
        B, over all cores of the worker, and p, at most B.

    Examples
    --------
    >>> import numpy as np
    >>> from optex_core.async_sgd import Master, Worker, run
    >>> worker = Worker(lambda x: (x @ x, 2 * x), rate=0.1, inner_steps=5)
    >>> master = Master(np.ones(3), rng=0)
    >>> report = run(master, worker, parallelism=2, maxiter=12)
    >>> report.gradients, bool(abs(master.x).max() < 0.1)
    (60, True)
    """

    def __init__(
        self,
        fun: object,
        args: tuple[object, ...] = (),
        *,
        jac: Any = True,
        rate: Rate = 0.01,
        inner_steps: int = 10,
        cores: int = 1,
    ) -> None:
        self.inner_steps = integer("inner_steps", inner_steps, low=1)
        self.cores = integer("cores", cores, low=1)
        if self.cores > self.inner_steps:
            raise ArgumentError(
                f"cores must be at most inner_steps={self.inner_steps}, got {self.cores}: a core "
                "without a step has nothing to do"
            )
        self.rate = check_inner_rate(rate)
        self.objective: Objective | SparseSamples | DenseSamples
        if isinstance(fun, (SparseSamples, DenseSamples)):
            if args or jac is not True:
                raise ArgumentError(
                    "compiled samples hold their data and their gradient: leave out args and jac"
                )
            self.objective = fun
            self.__qualname__ = getattr(fun.sample, "__qualname__", "sample")
        else:
            self.objective = make_objective(fun, args=args, jac=jac, x0=np.zeros(1))
            self.__qualname__ = self.objective.name

    @property
    def has_value(self) -> bool:
        """True if gradients come with values."""
        return not isinstance(self.objective, Objective) or self.objective.has_value

    @property
    def metadata(self) -> dict[str, object]:
        """Settings that a continued run must share, as JSON: they place the steps in the data."""
        if isinstance(self.objective, Objective):
            return {}
        order, n = self.objective.order, self.objective.n
        places = {"n": n, "inner_steps": self.inner_steps} if order == "shuffle" else {}
        return {"order": order, **places}

    def gamma(self, version: int) -> float:
        """The inner step of a burst that starts from `version`."""
        if not callable(self.rate):
            return self.rate
        return positive(f"rate({version})", self.rate(version))

    def __call__(self, v: Array, ctx: BurstContext) -> Push:
        """The burst from `v`, shape (d,)."""
        gamma, samples = self.gamma(ctx.version), self.objective
        if isinstance(samples, Objective):
            return self._locked_burst(samples, v, gamma, ctx)
        order = burst_samples(samples.order, samples.n, self.inner_steps, ctx)
        s, value, lost = hogwild_burst(samples, v, order, gamma, self.cores)
        report = {"lost": lost} if self.cores > 1 else None
        return Push.steps(s, gradients=self.inner_steps, value=value, report=report)

    def _locked_burst(
        self, objective: Objective, v: Array, gamma: float, ctx: BurstContext
    ) -> Push:
        """A burst of Python gradients: a lock around reading and updating u."""
        u, rate, lock = np.array(v), v.dtype.type(gamma), threading.Lock()
        numbers, failed = iter(range(self.inner_steps)), False
        sums: list[Array | None] = [None] * self.cores
        totals, values = CallCounts(), []

        def work(core: int) -> None:
            nonlocal failed
            while not failed:
                with lock:
                    k, x = next(numbers, None), u.copy()
                if k is None:
                    return
                counts = CallCounts()
                context = Context(ctx.id, mix_seed(ctx.seed, k), ctx.version, k)
                try:
                    found = objective.evaluate(x, context, counts)
                except BaseException:
                    failed = True  # the other cores need not finish
                    raise
                step = rate * found.gradient
                with lock:
                    np.subtract(u, step, out=u)
                    totals.nfev += counts.nfev
                    totals.njev += counts.njev
                    if found.value is not None:
                        values.append(found.value)
                mine = sums[core]
                sums[core] = step if mine is None else mine + step

        run_on_cores(work, self.cores)
        first, *rest = [part for part in sums if part is not None]
        s = sum(rest, start=first)
        finite = values and all(map(math.isfinite, values))
        value = _overflow_safe_mean(values) if finite else math.nan
        report = {"nfev": float(totals.nfev)}
        return Push.steps(s, gradients=totals.njev, value=value, report=report)

    def evaluate(self, v: Array, ctx: BurstContext) -> Push:
        """Value and gradient at `v` as the sum of one step; over all samples where they are
        compiled, else one sample with ``ctx.seed``.
        """
        if isinstance(self.objective, Objective):
            counts, context = CallCounts(), Context(ctx.id, ctx.seed, ctx.version, 0)
            found = self.objective.evaluate(v, context, counts)
            value = math.nan if found.value is None else float(found.value)
            report = {"nfev": float(counts.nfev)}
            assert found.gradient is not None  # what fails raises
            return Push.steps(found.gradient, gradients=counts.njev, value=value, report=report)
        n = self.objective.n
        value, gradient = full_value_and_gradient(self.objective, v)
        return Push.steps(gradient, gradients=n, value=value, report={"nfev": float(n)})


def _overflow_safe_mean(values: list[float]) -> float:
    try:
        return math.fsum(values) / len(values)
    except OverflowError:  # of the sum: a run that diverges ends by what its gradients are
        return math.fsum(value / len(values) for value in values)


def check_inner_rate(rate: Any) -> Any:
    """A positive number, or a callable of the version."""
    if isinstance(rate, type):
        name = rate.__name__
        raise ArgumentTypeError(
            f"rate must be a number or a schedule, got the class {name}; write {name}(...)"
        )
    if callable(rate):
        return callable_("rate", rate, "the version")
    if hasattr(rate, "observe"):
        raise CapabilityError(
            f"rate={short_repr(rate)} reads values, which no worker has all of; pass a number or a "
            "schedule of the version"
        )
    return positive("rate", rate)
