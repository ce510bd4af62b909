"""Samples without replacement: every sample once an epoch, whatever dies, stops or is resumed."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from optex_core.async_sgd import (
    BurstContext,
    BurstStatus,
    LostBurst,
    Master,
    Push,
    PushTrace,
    SparseSamples,
    Worker,
    minimize,
    replay,
    run,
)
from optex_core.async_sgd.sample_order import burst_samples, permutations
from optex_core.async_sgd.state import MAX_PART_DEATHS
from optex_core.errors import ArgumentError, CheckpointError

N, B, EPOCHS = 105, 10, 4  # bursts that straddle the ends of epochs
UPDATES = N * EPOCHS // B


@pytest.fixture(scope="module")
def counting() -> SparseSamples:
    """Samples whose step adds one at their own place: v counts how often each was applied."""
    import numba

    @numba.njit
    def sample(x, i, index, entry, data):
        index[0], entry[0] = i, -1.0
        return 1, 0.0

    return SparseSamples(sample, N, 1)


def context(part: int, run_seed: int = 0) -> BurstContext:
    return BurstContext(part, 0, 7 + part, 0, part=part, run_seed=run_seed)


def counts_by_epoch(master: Master) -> np.ndarray:
    """How often the applied pushes hold each sample, shape (EPOCHS, N)."""
    found = np.zeros((EPOCHS, N), int)
    seed = master.settings.seed
    for part in master.push_trace.part:
        order = burst_samples("shuffle", N, B, context(int(part), seed))
        epochs = (int(part) * B + np.arange(B)) // N
        np.add.at(found, (epochs, order), 1)
    return found


class TestOrder:
    def test_every_epoch_has_every_sample_once_in_an_order_of_its_own(self) -> None:
        order = np.concatenate(
            [burst_samples("shuffle", N, B, context(part)) for part in range(UPDATES)]
        )
        epochs = order.reshape(EPOCHS, N)
        assert (np.sort(epochs, axis=1) == np.arange(N)).all()
        assert len({tuple(epoch) for epoch in epochs}) == EPOCHS
        assert np.array_equal(order, permutations(N, 0, 0)[: len(order)])
        other = burst_samples("shuffle", N, B, context(0, run_seed=1))
        assert not np.array_equal(other, order[:B])

    def test_a_burst_may_hold_several_epochs(self) -> None:
        order = burst_samples("shuffle", 7, 30, context(1))
        assert np.bincount(order[5:26], minlength=7).tolist() == [3] * 7

    def test_replacement_draws_by_the_seed_of_the_burst(self) -> None:
        first, again = (burst_samples("replacement", N, 500, context(3)) for _ in range(2))
        assert np.array_equal(first, again)
        assert np.bincount(first, minlength=N).max() > 1
        assert not np.array_equal(first, burst_samples("replacement", N, 500, context(4)))

    def test_other_orders_are_refused(self, counting: SparseSamples) -> None:
        with pytest.raises(ArgumentError, match="order must be one of 'shuffle', 'replacement'"):
            SparseSamples(counting.sample, 3, 1, order="sequential")


class DyingWorker:
    """Bursts whose process is killed after half of the steps, for the ids of `deaths`."""

    def __init__(self, samples: SparseSamples, deaths: tuple[int, ...]) -> None:
        self.worker, self.half = (Worker(samples, rate=1.0, inner_steps=b) for b in (B, B // 2))
        self.deaths = deaths

    def __call__(self, v: np.ndarray, ctx: BurstContext) -> Push:
        if ctx.id in self.deaths:
            self.half(v, ctx)
            os.kill(os.getpid(), signal.SIGKILL)
        return self.worker(v, ctx)


class TestNothingIsLost:
    @pytest.mark.parametrize("parallelism", [1, 3])
    def test_serial_workers_share_one_permutation(
        self, counting: SparseSamples, parallelism: int
    ) -> None:
        res = minimize(
            counting, np.zeros(N), rate=1.0, inner_steps=B, parallelism=parallelism,
            max_evals=N * EPOCHS, rng=3,
        )  # fmt: skip
        assert res.x.tolist() == [EPOCHS] * N
        assert res.push_trace.part.tolist() == list(range(UPDATES))

    def test_a_worker_killed_in_a_burst_costs_no_sample(self, counting: SparseSamples) -> None:
        burst = DyingWorker(counting, deaths=(4, 5, 17))
        master = Master(np.zeros(N), rng=3)
        run(master, burst, parallelism=2, workers=2, maxiter=UPDATES)
        lost = {entry.id for entry in master.lost}
        assert lost == {4, 5, 17}
        assert {entry.status for entry in master.lost} == {BurstStatus.WORKER}
        assert master.x.tolist() == [EPOCHS] * N
        assert (counts_by_epoch(master) == 1).all()
        assert sorted(master.push_trace.part) == list(range(UPDATES))

    def test_a_late_push_is_taken_again(self, counting: SparseSamples) -> None:
        master = Master(np.zeros(N), max_delay=1, rng=3)
        worker = Worker(counting, rate=1.0, inner_steps=B)
        run(master, worker, parallelism=4, maxiter=UPDATES)
        assert master.counts["late"] > 0
        assert (counts_by_epoch(master) == 1).all()

    def test_a_part_that_kills_every_worker_is_left_out(self, caplog: Any) -> None:
        master = Master(np.ones(1), rng=0)
        for _ in range(MAX_PART_DEATHS):
            pull = master.pull()
            assert pull is not None
            assert pull.context.part == 0
            assert not caplog.records
            master.fail(pull.id, "worker")
        pull = master.pull()
        assert pull is not None
        assert pull.context.part == 1
        assert "workers died or hung over part 0 of the work, which is left out" in caplog.text

    def test_an_error_is_not_tried_again(self) -> None:
        master = Master(np.ones(1), rng=0)
        parts = []
        for _ in range(2):
            pull = master.pull()
            assert pull is not None
            parts.append(pull.context.part)
            master.fail(pull.id)
        assert parts == [0, 1]
        with pytest.raises(ArgumentError, match="did you mean 'timeout'"):
            master.fail(0, "timeuot")


def without(record: dict[str, Any], name: str = "part") -> dict[str, Any]:
    return {key: value for key, value in record.items() if key != name}


class TestFiles:
    @pytest.mark.parametrize("kind", ["log", "checkpoint"])
    def test_a_stopped_run_goes_on_where_it_was(
        self, counting: SparseSamples, tmp_path: Path, kind: str
    ) -> None:
        options: dict[str, Any] = {"rate": 1.0, "inner_steps": B, "parallelism": 3, "rng": 3}
        files = {kind: tmp_path / "run"}
        minimize(counting, np.zeros(N), maxiter=13, **options, **files)
        res = minimize(counting, np.zeros(N), max_evals=N * EPOCHS, resume=True, **options, **files)
        assert res.x.tolist() == [EPOCHS] * N

    def test_a_killed_driver_hands_out_again_what_was_out(
        self, counting: SparseSamples, tmp_path: Path
    ) -> None:
        log = tmp_path / "run.log"
        worker, master = Worker(counting, rate=1.0, inner_steps=B), Master(
            np.zeros(N), rng=3, log=log
        )  # fmt: skip
        pulls = [master.pull(w) for w in range(6)]
        for pull in (pulls[1], pulls[4]):
            assert pull is not None
            master.push(pull.id, worker(pull.v, pull.context))
        del master  # no close: as after a kill
        with Master.resume(log) as master:
            assert master.state.returned == [0, 2, 3]
            run(master, worker, parallelism=2, maxiter=UPDATES)
            assert (counts_by_epoch(master) == 1).all()
            assert master.x.tolist() == [EPOCHS] * N
            again = replay(log, worker)
            assert again.x.tobytes() == master.x.tobytes()

    def test_one_worker_resumed_has_the_bits_of_one_that_was_not(self, tmp_path: Path) -> None:
        from optex_core.bench.async_sgd.problems import sparse_logistic

        fun = sparse_logistic(500, 60, 5)
        options: dict[str, Any] = {"rate": 0.3, "inner_steps": 40, "parallelism": 1, "rng": 1}
        whole = minimize(fun, np.zeros(60), maxiter=30, **options)
        files = {"log": tmp_path / "run.log"}
        minimize(fun, np.zeros(60), maxiter=11, **options, **files)
        rest = minimize(fun, np.zeros(60), maxiter=30, resume=True, **options, **files)
        assert rest.x.tobytes() == whole.x.tobytes()
        again = replay(tmp_path / "run.log", Worker(fun, rate=0.3, inner_steps=40))
        assert again.x.tobytes() == whole.x.tobytes()

    @pytest.mark.parametrize("kind", ["log", "checkpoint"])
    def test_files_of_earlier_versions_have_no_parts(
        self, counting: SparseSamples, tmp_path: Path, kind: str, monkeypatch: Any
    ) -> None:
        # The part of a burst was its number then, and samples were drawn with replacement.
        options: dict[str, Any] = {"rate": 1.0, "inner_steps": B, kind: tmp_path / "old"}
        old = SparseSamples(counting.sample, N, 1, order="replacement")
        with monkeypatch.context() as patch:
            for record in (BurstContext, LostBurst):
                whole = record.to_record
                patch.setattr(record, "to_record", lambda self, whole=whole: without(whole(self)))
            patch.setattr(Worker, "metadata", {})
            patch.setattr(
                PushTrace, "to_arrays", lambda self, w=PushTrace.to_arrays: without(w(self))
            )
            first = minimize(old, np.zeros(N), maxiter=5, parallelism=3, rng=3, **options)
        with pytest.raises(CheckpointError, match="order='replacement', here it is 'shuffle'"):
            minimize(counting, np.zeros(N), maxiter=9, resume=True, **options)
        res = minimize(old, np.zeros(N), maxiter=9, parallelism=3, resume=True, **options)
        assert res.x.sum() == 9 * B
        assert res.push_trace.part[:5].tolist() == first.push_trace.job.tolist()
        assert len(set(res.push_trace.part)) == 9

    @pytest.mark.parametrize(
        ("other", "message"),
        [
            ({"inner_steps": 20}, "inner_steps=10, here it is 20"),
            ({"order": "replacement"}, "order='shuffle', here it is 'replacement'"),
        ],
    )
    def test_other_places_in_the_data_are_refused(
        self, counting: SparseSamples, tmp_path: Path, other: dict[str, Any], message: str
    ) -> None:
        options: dict[str, Any] = {"rate": 1.0, "inner_steps": B, "log": tmp_path / "a.log"}
        minimize(counting, np.zeros(N), maxiter=3, **options)
        order = other.pop("order", "shuffle")
        samples = SparseSamples(counting.sample, N, 1, order=order)
        with pytest.raises(CheckpointError, match=message):
            minimize(samples, np.zeros(N), maxiter=9, resume=True, **options | other)
