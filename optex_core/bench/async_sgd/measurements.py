"""The measurements of `async_sgd`, one function each; rows of plain numbers out."""

from __future__ import annotations

import math
import statistics
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from functools import cache, partial
from typing import Any

import numpy as np

from optex_core.async_sgd._minimize import minimize
from optex_core.async_sgd.burst_executors import BurstExecutor, BurstRunner, make_burst_executor
from optex_core.async_sgd.convergence import (
    estimate_smoothness,
    gradient_bound,
    step_condition,
    suggested_rate,
)
from optex_core.async_sgd.hogwild import full_value_and_gradient, hogwild_burst
from optex_core.async_sgd.master import Master
from optex_core.async_sgd.records import Push
from optex_core.async_sgd.sample_order import draw_samples
from optex_core.async_sgd.worker import Worker
from optex_core.async_sgd.worker_loop import run
from optex_core.bench._runner import Row
from optex_core.bench.async_sgd.problems import dense_logistic, sparse_logistic, wells

# -- throughput ------------------------------------------------------------------------------------


def late_sphere(x: np.ndarray, seconds: float) -> tuple[float, np.ndarray]:
    """0.5 |x|^2 and its gradient after a while, as of a solver on another machine."""
    time.sleep(seconds)
    return float(0.5 * x @ x), x


def sleeping(
    numbers: Sequence[int],
    engines: Sequence[str] = ("threads", "processes"),
    seconds: float = 0.1,
    d: int = 1000,
    pushes: int = 30,
) -> list[Row]:
    """Gradients per second of N workers over N / seconds, one gradient to a push: all that engine
    and master cost is in it.
    """
    rows = []
    for engine in engines:
        for N in numbers:
            times: list[float] = []
            master = Master(np.ones(d), rng=0)
            worker = Worker(partial(late_sphere, seconds=seconds), rate=0.01, inner_steps=1)
            run(
                master,
                worker,
                parallelism=N,
                workers=engine,
                maxiter=pushes * N,
                callback=lambda *_: times.append(time.perf_counter()),  # noqa: B023
            )
            first = 2 * N  # workers that start are not what is measured
            rate = (len(times) - first) / (times[-1] - times[first - 1])
            delays = master.push_trace.delay
            rows.append(
                {
                    "engine": engine,
                    "N": N,
                    "efficiency": rate * seconds / N,
                    "mean delay": float(delays.mean()),
                    "max delay": int(delays.max()),
                    "histogram": np.bincount(master.push_trace.delay).tolist(),
                }
            )
    return rows


def computing(rounds: int = 25, size: int = 20_000) -> list[Row]:
    """Two cores against one: a worker with two cores, two workers in threads, two in processes;
    each interleaved with the same work on one.

    The shortest time of many short turns counts: a shared machine is quiet now and then. Beside it
    stands what the machine gave two threads that share nothing, by the same measure, and the ratio
    of CPU seconds for the same gradients, which other programs hardly touch: two cores that need no
    more CPU seconds than one are twice as fast where both are free.
    """
    rows = []
    for kind, fun, d in (
        ("sparse", sparse_logistic(20_000, 20_000, 20), 20_000),
        ("dense", dense_logistic(2_000, 200), 200),
    ):
        v = np.zeros(d)
        burst = partial(_burst, fun, v)
        burst(1000, 2)  # compiles
        ways: dict[str, Callable[[int], tuple[float, float]]] = {
            "2 cores of a worker, lock-free": lambda n: _together([partial(burst, n * size, n)]),  # noqa: B023
            "2 workers in threads": lambda n: _together([partial(burst, size, 1)] * n),  # noqa: B023
        }
        rows += [_speed_up(f"{kind}: {what}", turn, rounds) for what, turn in ways.items()]
        runner = BurstRunner(Worker(fun, rate=0.01, inner_steps=size))
        with closing(make_burst_executor(runner, 2, 2, None)) as executor:
            turn = partial(_pushes, executor, Master(v, rng=0))
            turn(2)  # starts and compiles
            row = _speed_up(f"{kind}: 2 worker processes", turn, rounds)
        # those of other processes are not known here
        rows.append({**row, "by CPU seconds": math.nan})
    return rows


def _burst(fun: Any, v: np.ndarray, steps: int, cores: int) -> None:
    hogwild_burst(fun, v, draw_samples(fun.n, steps, 1), 0.01, cores)


def _pushes(executor: BurstExecutor, master: Master, number: int) -> tuple[float, float]:
    """Seconds of a burst on each of so many worker processes, and those that they were busy."""
    start, busy = time.perf_counter(), 0.0
    for w in range(number):
        job = master.pull(w)
        if job is not None:
            executor.submit(job)
    while executor.pending:
        for done in executor.next():
            if done.push is None:
                raise RuntimeError(f"a burst failed: {done.traceback}")
            master.push(done.id, done.push)
            busy += done.seconds
    return time.perf_counter() - start, busy


def _speed_up(what: str, turn: Callable[[int], tuple[float, float]], rounds: int) -> Row:
    """Of `turn`, seconds and CPU seconds of one piece of work or of two, beside the machine's."""
    count = _counting()
    one, two, alone, both = zip(
        *((turn(1), turn(2), *(_together([count] * n)[0] for n in (1, 2))) for _ in range(rounds)),
        strict=True,
    )
    return {
        "what": what,
        "speed-up": 2 * min(t for t, _ in one) / min(t for t, _ in two),
        "median": statistics.median(2 * a[0] / b[0] for a, b in zip(one, two, strict=True)),
        "machine": 2 * min(alone) / min(both),
        "machine, median": statistics.median(2 * a / b for a, b in zip(alone, both, strict=True)),
        "by CPU seconds": 4 * min(cpu for _, cpu in one) / min(cpu for _, cpu in two),
    }


@cache
def _counting() -> Callable[[], float]:
    """Work of a few milliseconds that touches no memory."""
    import numba

    @numba.njit(nogil=True)
    def count() -> float:
        s = 1.0
        for _ in range(5_000_000):
            s = s * 1.0000001 + 1e-9
        return s

    count()
    compiled: Callable[[], float] = count
    return compiled


def _together(calls: Sequence[Callable[[], object]]) -> tuple[float, float]:
    threads = [threading.Thread(target=call) for call in calls]
    start, cpu = time.perf_counter(), time.process_time()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return time.perf_counter() - start, time.process_time() - cpu


# -- loss ------------------------------------------------------------------------------------------


def losses(
    numbers: Sequence[int],
    cores: Sequence[int],
    gradients: int = 400_000,
    inner_steps: int = 100,
    rate: float = 0.5,
) -> list[Row]:
    """Sparse logistic regression: the loss over all data after the same number of gradients,
    against serial SGD (`numbers` begin with 1), and step against cap.
    """
    fun = sparse_logistic(20_000, 2_000, 20)
    x0 = np.zeros(2_000)
    L = estimate_smoothness(lambda x: full_value_and_gradient(fun, x)[1], x0, iterations=20)
    rows: list[Row] = []
    plans: list[tuple[int, int, object, float]] = [(N, 1, None, rate) for N in numbers]
    plans += [(N, p, "threads", rate) for p in cores for N in numbers]
    plans += [(N, 1, None, 16.0 * rate) for N in (1, max(numbers))]  # above the cap
    for N, p, workers, gamma in plans:
        start = time.perf_counter()
        res = minimize(
            fun, x0, rate=gamma, inner_steps=inner_steps, parallelism=N, cores=p, workers=workers,
            max_evals=gradients, smoothness=L, rng=1,
        )  # fmt: skip
        seconds = time.perf_counter() - start
        serial = next((r for r in rows if r["rate"] == gamma), {"loss": res.fun})
        rows.append(
            {
                "N": N,
                "cores": p,
                "order": "in turn" if workers is None else workers,
                "rate": gamma,
                "loss": res.fun,
                "against serial": res.fun / serial["loss"] - 1.0,
                "mean delay": float(res.delays.mean()),
                "max delay": int(res.delays.max()),
                "a L": res.step,
                "cap": res.stable_step,
                "gradients/s": gradients / seconds,
                "stable": res.stable,
                "message": res.message,
            }
        )
    return rows


def noisy_burst(v: np.ndarray, ctx: Any, *, rate: float, inner_steps: int) -> Push:
    """`inner_steps` noisy steps on `wells`: gradient noise of total variance 1."""
    noise = np.random.default_rng(ctx.seed).standard_normal((inner_steps, len(v)))
    u, s = v.copy(), np.zeros_like(v)
    for e in noise / np.sqrt(len(v)):
        step = rate * (wells(u)[1] + e)
        u -= step
        s += step
    return Push.steps(s, gradients=inner_steps)


def rates(
    lengths: Sequence[int], settings: Sequence[tuple[int, int]], seeds: int = 2, d: int = 20
) -> list[Row]:
    """Mean squared gradient norm on a non-convex function at the step that the bound suggests; the
    bound beside it.
    """
    rows = []
    x0 = np.ones(d)
    gap = wells(x0)[0]
    for B, D in settings:
        for T in lengths:
            gamma = suggested_rate(T, smoothness=1.0, variance=1.0, gap=gap, inner_steps=B)
            measured = float(np.mean([_squared(T, B, D, gamma, x0, seed) for seed in range(seeds)]))
            bound = gradient_bound(
                T, smoothness=1.0, variance=1.0, gap=gap, rate=gamma, inner_steps=B, delay=D
            )
            rows.append(
                {
                    "B": B,
                    "D": D,
                    "T": T,
                    "condition": step_condition(1.0, gamma, B, D),
                    "measured": measured,
                    "bound": bound,
                    "measured sqrt(BT)": measured * np.sqrt(B * T),
                }
            )
    return rows


def _squared(T: int, B: int, D: int, gamma: float, x0: np.ndarray, seed: int) -> float:
    """The mean over t of |grad f(v_t)|^2; D + 1 workers in turn give every push the delay D."""
    master = Master(x0, rng=seed)
    g = wells(x0)[1]
    total = [float(g @ g)]

    def note(_: object) -> None:
        g = wells(np.asarray(master.x))[1]
        total.append(float(g @ g))

    run(
        master,
        partial(noisy_burst, rate=gamma, inner_steps=B),
        parallelism=D + 1,
        maxiter=T,
        callback=note,
    )
    return float(np.mean(total[:T]))


def slopes(rows: Sequence[Row], limit: float = 1.0) -> dict[str, float]:
    """The exponent of T for every (B, D), over the lengths where the bound's condition is at most
    `limit`.
    """
    found = {}
    for B, D in dict.fromkeys((row["B"], row["D"]) for row in rows):
        mine = [row for row in rows if (row["B"], row["D"]) == (B, D) and row["condition"] <= limit]
        if len(mine) >= 2:
            T, measured = ([row[key] for row in mine] for key in ("T", "measured"))
            found[f"B={B}, D={D}"] = float(np.polyfit(np.log(T), np.log(measured), 1)[0])
    return found
