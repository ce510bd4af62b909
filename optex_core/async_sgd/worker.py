"""The worker of two-level SGD: B inner updates of a local copy on p cores, pushed as the sum of
their steps.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from typing import Any

import numpy as np

from optex_core._validation import callable_, integer, positive, reject_unknown_fields, short_repr
from optex_core.adapters.objective import Objective, make_objective
from optex_core.async_sgd.hogwild import DenseSamples, SparseSamples, hogwild_burst, mix_seed
from optex_core.async_sgd.records import BurstContext, Push
from optex_core.errors import ArgumentError, ArgumentTypeError, CapabilityError
from optex_core.types import Array, CallCounts
from optex_core.types import Context as EvaluationContext


@reject_unknown_fields
class Worker:
    """A burst of SGD: u = v, then B times u <- u - gamma g(u) by p cores, then push s, the sum of
    the steps gamma g.

    Pushed are the sums that the cores keep for themselves, and not the change of u, from which
    racing writes are missing. How the cores share u depends on what a gradient is. Compiled samples
    (`SparseSamples`, `DenseSamples`) run without locks in threads without the GIL. Python callables
    run in threads with a lock around reading and updating u, never around the gradient: beside a
    gradient of 10 ms an update (3 us at d = 10^4, 60 us at 10^5) costs nothing, and nothing is
    lost. Their cores only help where gradients release the GIL, sleep, or wait for programs.

    Parameters
    ----------
    fun : callable, SparseSamples, DenseSamples or None
        The gradient, as for `async_sgd.minimize`.
    args : tuple, default ()
        Further arguments of `fun`.
    jac : True, callable or {"2-point", "3-point", "cs"}, default True
        As for `minimize`.
    rate : float or callable, default 0.01
        gamma, or a schedule ``version -> gamma`` such as those of
        `optex_core.optimizers.schedules`.
    inner_steps : int, default 10
        B, over all cores of the worker.
    cores : int, default 1
        p, at most B.

    References
    ----------
    Mohamad, Alamri, Bouchachia, Machine Learning 2022, arXiv 2210.02882. Only its abstract and
    introduction were available; that private sums are pushed (which makes the number of cores
    vanish from the bound, see `async_sgd.convergence`) and that expensive gradients use a lock is
    ours.

    Examples
    --------
    >>> import numpy as np
    >>> from optex_core.async_sgd import Master, Worker, run
    >>> worker = Worker(lambda x: (x @ x, 2 * x), rate=0.1, inner_steps=5)
    >>> master = Master(np.ones(3), rng=0)
    >>> report = run(master, worker, parallelism=2, pushes=12)
    >>> report.gradients, bool(abs(master.x).max() < 0.1)
    (60, True)
    """

    def __init__(
        self,
        fun: Any,
        args: tuple[Any, ...] = (),
        *,
        jac: Any = True,
        rate: float | Callable[[int], float] = 0.01,
        inner_steps: int = 10,
        cores: int = 1,
    ) -> None:
        self.inner_steps = integer("inner_steps", inner_steps, low=1)
        self.cores = integer("cores", cores, low=1)
        if self.cores > self.inner_steps:
            raise ArgumentError(
                f"cores must be at most inner_steps={self.inner_steps}, got "
                f"{self.cores}: a core without a step has nothing to do"
            )
        self.rate = check_rate(rate)
        self.objective: Objective | SparseSamples | DenseSamples = _objective(fun, args, jac)
        self.__qualname__ = getattr(self.objective, "name", None) or getattr(
            fun.sample, "__qualname__", "sample"
        )

    def gamma(self, version: int) -> float:
        """The inner step of a burst that starts from `version`."""
        if not callable(self.rate):
            return self.rate
        return positive(f"rate({version})", self.rate(version))

    def __call__(self, v: Array, version: int, seed: int, ctx: BurstContext) -> Push:
        """The burst from `v`, shape (d,)."""
        gamma = self.gamma(version)
        if not isinstance(self.objective, Objective):
            s, value, lost = hogwild_burst(
                self.objective, v, self.inner_steps, gamma, seed, self.cores
            )
            return Push.steps(
                s,
                gradients=self.inner_steps,
                value=value,
                report={"lost": lost} if self.cores > 1 else None,
            )
        return _Burst(self.objective, v, gamma, seed, ctx).run(self.inner_steps, self.cores)


def _overflow_safe_mean(values: list[float]) -> float:
    try:
        return math.fsum(values) / len(values)
    except OverflowError:
        # of the sum: a run that diverges gets there, and ends by what its gradients are
        return math.fsum(value / len(values) for value in values)


class _Burst:
    """One burst of Python gradients."""

    def __init__(
        self, objective: Objective, v: Array, gamma: float, seed: int, ctx: BurstContext
    ) -> None:
        self.objective, self.seed, self.ctx = objective, seed, ctx
        self.gamma = v.dtype.type(gamma)
        self.u = np.array(v)
        self.lock = threading.Lock()
        self.errors: list[BaseException] = []
        self.counts = CallCounts()
        self.values: list[float] = []

    def run(self, steps: int, cores: int) -> Push:
        steps_left = iter(range(steps))
        sums: list[Array | None] = [None] * cores
        if cores == 1:
            self._core(0, steps_left, sums)
        else:
            others = [
                threading.Thread(target=self._guarded, args=(which, steps_left, sums), daemon=True)
                for which in range(1, cores)
            ]
            for thread in others:
                thread.start()
            self._guarded(0, steps_left, sums)
            for thread in others:
                thread.join()
        if self.errors:
            raise self.errors[0]
        s = None
        for part in sums:
            if part is not None:
                s = part if s is None else s + part
        value = (
            _overflow_safe_mean(self.values)
            if self.values and all(map(math.isfinite, self.values))
            else math.nan
        )
        return Push.steps(
            s, gradients=self.counts.njev, value=value, report={"nfev": float(self.counts.nfev)}
        )

    def _guarded(self, which: int, steps_left: Any, sums: list[Array | None]) -> None:
        try:
            self._core(which, steps_left, sums)
        except BaseException as error:  # told by the thread that waits
            self.errors.append(error)

    def _core(self, which: int, steps_left: Any, sums: list[Array | None]) -> None:
        while not self.errors:
            with self.lock:
                k = next(steps_left, None)
                x = None if k is None else self.u.copy()
            if k is None or x is None:
                return
            seed, counts = mix_seed(self.seed, k), CallCounts()
            context = EvaluationContext(self.ctx.id, seed, self.ctx.version, k)
            evaluation = self.objective.evaluate(x, context, counts)
            step = self.gamma * evaluation.gradient
            with self.lock:
                self.u -= step
                self.counts.nfev += counts.nfev
                self.counts.njev += counts.njev
                if evaluation.value is not None:
                    self.values.append(evaluation.value)
            mine = sums[which]
            sums[which] = step if mine is None else mine + step


def check_rate(rate: Any) -> Any:
    """A positive number, or a callable of the version."""
    if isinstance(rate, type):
        raise ArgumentTypeError(
            f"rate must be a number or a schedule, got the class {rate.__name__}; "
            f"write {rate.__name__}(...)"
        )
    if callable(rate):
        return callable_("rate", rate, "the version")
    if hasattr(rate, "observe"):
        raise CapabilityError(
            f"rate={short_repr(rate)} reads values, which no worker has all of; pass a "
            f"number or a schedule of the version"
        )
    return positive("rate", rate)


def _objective(
    fun: Any, args: tuple[Any, ...], jac: Any
) -> Objective | SparseSamples | DenseSamples:
    if isinstance(fun, (SparseSamples, DenseSamples)):
        if args or jac is not True:
            raise ArgumentError(
                "compiled samples hold their data and their gradient: leave out args and jac"
            )
        return fun
    return make_objective(fun, args=args, jac=jac, x0=np.zeros(1))
