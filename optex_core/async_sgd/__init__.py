"""Two-level asynchronous SGD: many workers push to one master, the cores of each share a copy of
its parameters without locks.

The words, each for one thing:

gradient
    One evaluation of the gradient, of a sample or a mini-batch (``res.njev``, ``max_evals``).
step
    One move of a worker, u <- u - gamma g, with one gradient (``inner_steps``, ``res.nsteps``).
burst
    What a worker does between a pull and a push: B steps from the parameters it pulled.
push
    The result of a burst, sent to the master, which accepts or refuses it (`BurstStatus`).
update
    One change of the master's parameters v, from ``batch`` pushes (``master.version``,
    ``res.nit``, ``maxiter``). The *staleness* (delay) of a push is the updates since its pull.

The **master** (a parameter server) applies pushes as they come; staleness is measured, bounded by a
stated policy, and logged. `minimize` has the style of `optex_core.minimize`:

>>> import numpy as np
>>> import optex_core as ox
>>> def fun(x):
...     return x @ x, 2 * x
>>> res = ox.async_sgd.minimize(fun, np.ones(3), rate=0.01, inner_steps=5, maxiter=100)
>>> bool(res.fun < 1e-3), int(res.delays.max())
(True, 3)

A burst of your own is any callable ``burst(v, ctx) -> Push``: `v` is read-only, ``ctx.seed`` never
repeats, ``ctx.version`` is that of `v`, ``ctx.worker`` is 0 to parallelism - 1, and ``ctx.part``
says which part of the work to do: 0, 1, ..., each applied once, whatever dies. It returns a sum of
steps, or an affine map where parameters must stay in a convex set. With a method ``spawn(worker,
seed)`` every worker gets a burst of its own, which may carry a state (an environment, a random
stream):

>>> from optex_core.async_sgd import Master, Push, run
>>> def steps(v, ctx):
...     return Push.steps(0.1 * v, gradients=1, value=float(v @ v))  # v <- v - s
>>> def affine(v, ctx):
...     return Push.affine(0.9, 0.1 * np.ones_like(v))  # v <- a v + b, a number or an array
>>> master = Master(np.full(4, 3.0), step=1.0, max_delay=8, rng=0)
>>> report = run(master, steps, parallelism=4, maxiter=100)  # in this thread, bit for bit
>>> report.pushes, report.max_delay
(100, 3)
"""

from __future__ import annotations

from optex_core.async_sgd import convergence
from optex_core.async_sgd._minimize import minimize
from optex_core.async_sgd.hogwild import DenseSamples, SparseSamples
from optex_core.async_sgd.master import Master
from optex_core.async_sgd.push_log import PushLog
from optex_core.async_sgd.records import (
    Burst,
    BurstContext,
    BurstStatus,
    LostBurst,
    Pull,
    Push,
    PushTrace,
    Receipt,
)
from optex_core.async_sgd.resume import replay
from optex_core.async_sgd.step_rules import ConstantStep, DecayingStep, DelayAdaptiveStep
from optex_core.async_sgd.worker import Worker
from optex_core.async_sgd.worker_loop import LoopReport, run

__all__ = [
    "Burst", "BurstContext", "BurstStatus", "ConstantStep", "DecayingStep", "DelayAdaptiveStep",
    "DenseSamples", "LoopReport", "LostBurst", "Master", "Pull", "Push", "PushLog", "PushTrace",
    "Receipt", "SparseSamples", "Worker", "convergence", "minimize", "replay", "run",
]  # fmt: skip
