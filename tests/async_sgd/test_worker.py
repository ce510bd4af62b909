"""The worker: reductions to SGD, cores with locks, evaluations."""

from __future__ import annotations

import threading

import numpy as np
import pytest

import optex_core as ox
from optex_core.async_sgd import Master, Worker, minimize, run


def square(x):
    return 0.5 * x @ x, x


class TestReductions:
    def test_one_worker_with_one_step_is_sgd_bit_for_bit(self) -> None:
        x0 = np.random.default_rng(0).standard_normal(30)
        plain = ox.minimize(
            square, x0, optimizer=ox.SGD(0.1), parallelism=1, strategy="sequential", maxiter=25
        )
        res = minimize(square, x0, rate=0.1, inner_steps=1, parallelism=1, maxiter=25)
        assert res.x.tobytes() == plain.x.tobytes()
        assert res.fun == plain.fun
        assert res.delays.max() == 0

    def test_a_burst_is_that_many_steps(self) -> None:
        v = np.random.default_rng(1).standard_normal(8)
        master = Master(v, rng=0)
        run(master, Worker(square, rate=0.1, inner_steps=7), parallelism=1, maxiter=1)
        assert master.x == pytest.approx(v * 0.9**7, rel=1e-14)

    def test_steps_keep_the_dtype(self) -> None:
        res = minimize(square, np.ones(4, np.float32), rate=0.1, maxiter=5, parallelism=2)
        assert res.x.dtype == np.float32

    def test_two_cores_do_the_same_number_of_steps(self) -> None:
        # With a lock nothing is lost: the pushed sum is the change of u, whatever the order.
        calls = []
        barrier = threading.Barrier(2, timeout=30)

        def fun(x):
            calls.append(threading.get_ident())
            if len(calls) <= 2:
                barrier.wait()  # both cores are in the gradient at once, or this breaks
            return 0.0, np.ones_like(x)

        master = Master(np.zeros(3), rng=0)
        run(master, Worker(fun, rate=0.5, inner_steps=11, cores=2), parallelism=1, maxiter=1)
        assert master.x.tolist() == [-5.5] * 3
        assert len(calls) == 11
        assert len(set(calls)) == 2

    def test_an_error_on_a_core_is_the_error_of_the_burst(self) -> None:
        def fun(x):
            raise ZeroDivisionError("here")

        with pytest.raises(ZeroDivisionError, match="here"):
            minimize(fun, np.ones(2), cores=3, maxiter=2)
