"""Roots in the background: real processes and threads, the same bits as in place, and workers that
die.
"""

from __future__ import annotations

import gc
import logging
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor

import numpy as np
import pytest

import optex_core as ox
from optex_core.errors import ArgumentError, ArgumentTypeError, ProtocolError
from optex_core.testing.assertions import same_bits

SHAPES = {"w": (40, 24), "v": (24, 16), "b": (24,)}
D = 40 * 24 + 24 * 16 + 24
SETTINGS = {"shapes": SHAPES, "block_size": 16, "interval": 3, "delay": 2}


def gradient(x, t):
    rng = np.random.default_rng(t)
    return np.sin(1.3 * x) + 0.2 * rng.standard_normal(len(x))


def walked(optimizer, steps=14, state=None, x=None, first=0):
    x = np.linspace(-1, 1, D) if x is None else x
    state = optimizer.init(x) if state is None else state
    for t in range(first, first + steps):
        x, state = optimizer.step(x, gradient(x, t), state)
    return x, state


def root_pids(pool):
    return [member.worker.pid for member in pool._workers.pool._members.values()]


@pytest.fixture(scope="module")
def expected():
    return walked(ox.Shampoo(0.05, **SETTINGS))


@pytest.mark.parametrize("workers", [1, 2, "threads", "executor"])
def test_one_worker_many_and_none_have_the_same_bits(workers, expected):
    own = ThreadPoolExecutor(3) if workers == "executor" else None
    with ox.RootPool(own or workers) as pool:
        found = walked(ox.Shampoo(0.05, **SETTINGS, roots=pool))
        assert pool.begun > 10
        assert pool.inline == 0
    assert same_bits(found, expected)
    if own is not None:
        assert own.submit(int).result() == 0  # a user's pool is never shut down
        own.shutdown()


def test_standard_process_pools_serve_too(expected):
    import multiprocessing

    with (
        ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as own,
        ox.RootPool(own, shares=2) as pool,
    ):
        assert same_bits(walked(ox.Shampoo(0.05, **SETTINGS, roots=pool)), expected)
        assert pool.inline == 0


def test_a_run_may_change_its_workers_in_the_middle(expected):
    with ox.RootPool("threads") as pool:
        x, state = walked(ox.Shampoo(0.05, **SETTINGS, roots=pool), 7)
        assert any(job is not None for job in state.pending)
    x, state = walked(ox.Shampoo(0.05, **SETTINGS), 3, state, x, 7)
    with ox.RootPool("threads") as pool:
        assert same_bits(
            walked(ox.Shampoo(0.05, **SETTINGS, roots=pool), 4, state, x, 10), expected
        )


def test_killed_workers_lose_nothing(expected, caplog):
    with ox.RootPool(2) as pool, caplog.at_level(logging.WARNING, logger="optex_core"):
        optimizer = ox.Shampoo(0.05, **SETTINGS, roots=pool)
        x, state = walked(optimizer, 6)
        for pid in list(root_pids(pool)):
            os.kill(pid, signal.SIGKILL)
        x, state = walked(optimizer, 4, state, x, 6)
        found = walked(optimizer, 4, state, x, 10)
    assert same_bits(found, expected)
    # the loss may show at the next sending, which renews the pool
    assert "computed in place" in caplog.text or pool.inline == 0


def test_workers_that_die_while_they_compute_lose_nothing(caplog):
    shapes = {"w": (400, 400)}
    settings = {"shapes": shapes, "block_size": 400, "interval": 1, "delay": 1, "start": 1}
    x = np.linspace(-1, 1, 160_000)

    def run(pool, kill):
        optimizer = ox.Shampoo(0.05, **settings, roots=pool)
        y, state = x, optimizer.init(x)
        for t in range(4):
            if kill and t == 1:
                stop_before_it_begins(pool)
            y, state = optimizer.step(y, gradient(y, t), state)
            if kill and t == 1:
                assert stopped
                for pid in stopped:
                    os.kill(pid, signal.SIGKILL)
        return y

    stopped = []

    def stop_before_it_begins(pool):
        """Stop the workers once the job before is done, before the next is sent: that one cannot be
        done before they are killed.
        """
        begin = pool.submit

        def begun(*args):
            if not stopped:
                for one in list(pool._jobs.values()):
                    for _, future in one:
                        future.result(60)
                stopped.extend(root_pids(pool))
                for pid in stopped:
                    os.kill(pid, signal.SIGSTOP)
            return begin(*args)

        pool.submit = begun

    with ox.RootPool(1) as pool, caplog.at_level(logging.WARNING, logger="optex_core"):
        np.testing.assert_array_equal(run(pool, True), run(None, False))
        assert pool.inline > 0
    assert "with the same bits" in caplog.text


def test_what_was_out_when_the_loss_of_another_part_ended_the_pool_is_computed_in_place(
    expected, caplog
):
    from loky.process_executor import ShutdownExecutorError

    class Ended(Executor):
        def submit(self, function, /, *args, **kwargs):
            future = Future()
            future.set_exception(
                ShutdownExecutorError(
                    "The Executor was shutdown with `kill_workers=True` before this "
                    "job could complete."
                )
            )
            return future

    with (
        ox.RootPool(Ended(), shares=2) as pool,
        caplog.at_level(logging.WARNING, logger="optex_core"),
    ):
        assert same_bits(walked(ox.Shampoo(0.05, **SETTINGS, roots=pool)), expected)
        assert pool.inline > 10
    assert "with the same bits" in caplog.text


def test_a_pool_that_was_shut_down_by_its_owner_is_said_and_replaced_by_this_thread(
    expected, caplog
):
    own = ThreadPoolExecutor(1)
    own.shutdown()
    with ox.RootPool(own) as pool, caplog.at_level(logging.WARNING, logger="optex_core"):
        assert same_bits(walked(ox.Shampoo(0.05, **SETTINGS, roots=pool)), expected)
        assert pool.inline > 10
    assert "roots are computed in place" in caplog.text


def test_a_closed_pool_is_refused_and_what_was_in_flight_is_kept(expected):
    pool = ox.RootPool("threads")
    optimizer = ox.Shampoo(0.05, **SETTINGS, roots=pool)
    x, state = walked(optimizer, 7)
    pool.close()
    pool.close()
    with pytest.raises(ProtocolError, match="this RootPool is closed"):
        walked(optimizer, 3, state, x, 7)
    assert same_bits(walked(ox.Shampoo(0.05, **SETTINGS), 7, state, x, 7), expected)


def test_jobs_are_forgotten_with_the_states_that_held_them():
    with ox.RootPool("threads") as pool:
        optimizer = ox.Shampoo(0.05, **SETTINGS, roots=pool)
        x, state = walked(optimizer, 30)
        assert len(pool._jobs) <= 2
        del x, state
        gc.collect()
        assert not pool._jobs


def test_in_a_run_with_a_checkpoint_the_bits_are_those_without_a_pool(tmp_path):
    def fun(x):
        g = np.sin(1.3 * x) + 0.5 * x
        return float((0.25 * x * x - np.cos(1.3 * x) / 1.3).sum()), g

    x0 = np.linspace(-1, 1, D)
    plain = ox.minimize(
        fun, x0, optimizer=ox.Shampoo(0.05, **SETTINGS), parallelism=3, maxiter=16, rng=0
    )
    path = tmp_path / "run.npz"
    with ox.RootPool(1) as pool:
        optimizer = ox.Shampoo(0.05, **SETTINGS, roots=pool)
        ox.minimize(fun, x0, optimizer=optimizer, parallelism=3, maxiter=9, rng=0, checkpoint=path)
        # Another number of workers, or none, is no other run.
        with ox.RootPool("threads") as other:
            changed = ox.Shampoo(0.05, **SETTINGS, roots=other)
            found = ox.minimize(
                fun, x0, optimizer=changed, parallelism=3, maxiter=16, checkpoint=path, resume=True
            )
    np.testing.assert_array_equal(found.x, plain.x)
    assert found.nfev == plain.nfev


DRIVER = """
import time
import numpy as np
import optex_core as ox

if __name__ == "__main__":
    pool = ox.RootPool(2)
    optimizer = ox.Shampoo(0.05, shapes=[(8, 8)] * 4, interval=1, delay=2, roots=pool)
    x = np.ones(256)
    state = optimizer.init(x)
    for _ in range(6):
        x, state = optimizer.step(x, x, state)
    print(*(member.worker.pid for member in pool._workers.pool._members.values()), flush=True)
    time.sleep(600)
"""


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs SIGKILL")
def test_workers_end_with_a_driver_that_is_killed(tmp_path):
    script = tmp_path / "driver.py"
    script.write_text(DRIVER)
    with subprocess.Popen([sys.executable, script], stdout=subprocess.PIPE, text=True) as driver:
        workers = [int(pid) for pid in driver.stdout.readline().split()]
        assert len(workers) == 2
        assert all(map(alive, workers))
        driver.kill()
    deadline = time.monotonic() + 120
    while any(map(alive, workers)) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not any(map(alive, workers))


def alive(pid):
    try:
        os.kill(pid, 0)
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rsplit(")", 1)[1].split()[0] != "Z"
    except ProcessLookupError:
        return False
    except FileNotFoundError:
        return not os.path.exists("/proc/self")  # without /proc: alive as far as the signal tells


@pytest.mark.parametrize(
    ("build", "sentence"),
    [
        (lambda: ox.RootPool(0), "workers must be an integer >= 1"),
        (
            lambda: ox.RootPool("process"),
            "workers must be a number of processes, 'threads' or an executor, got 'process'",
        ),
        (lambda: ox.RootPool(True), "workers must be a number of processes"),
        (lambda: ox.RootPool(1.5), "workers must be a number of processes"),
        (lambda: ox.RootPool(ThreadPoolExecutor), "workers must be a number of processes"),
        (lambda: ox.RootPool(1, shares=0), "shares must be an integer >= 1"),
        (lambda: ox.RootPool(1, share=2), "unknown option 'share'; did you mean 'shares'"),
    ],
)
def test_bad_input_is_named(build, sentence):
    with pytest.raises((ArgumentError, ArgumentTypeError), match=sentence):
        build()
