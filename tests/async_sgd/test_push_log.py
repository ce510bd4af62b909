"""The push log and the saved master: what is acknowledged is never lost, what is replayed has the
same bits.
"""

from __future__ import annotations

import os
import struct

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from optex_core.async_sgd import (
    DecayingStep,
    DelayAdaptiveStep,
    Master,
    Push,
    PushLog,
    minimize,
    replay,
    run,
)
from optex_core.errors import CheckpointError


def noisy(v, ctx):
    seed = ctx.seed
    rng = np.random.default_rng(seed)
    if seed % 3 == 0:
        return Push.affine(0.9, 0.1 * rng.random(v.shape), gradients=2, value=float("nan"))
    if seed % 3 == 1:
        return Push.affine(
            rng.random(v.shape), 0.1 * rng.random(v.shape), report={"reward": float("inf")}
        )
    return Push.steps(0.05 * (v + rng.standard_normal(v.shape)), value=1.25, report={"x": 1 / 3})


def state(master):
    s = master.state
    return (
        s.v.tobytes(),
        s.version,
        s.issued,
        dict(s.bursts),
        dict(s.counts),
        master.push_trace.to_arrays()["eta"].tobytes(),
        len(master.lost),
    )


@pytest.mark.parametrize(
    ("options", "dtype"),
    [
        ({}, np.float32),
        ({"batch": 3}, np.float64),
        ({"max_delay": 2}, np.float64),
        ({"max_delay": 2, "on_late": "wait"}, np.float32),
        ({"max_delay": 1, "on_late": "damp"}, np.float64),
    ],
)
def test_a_log_replays_to_the_bit(tmp_path, options: dict, dtype: type) -> None:
    path = tmp_path / "run.log"
    master = Master(
        np.ones(7, dtype),
        step=DelayAdaptiveStep(2.0, rule=DecayingStep(0.8, 10.0, 0.6)),
        rng=5,
        log=path,
        **options,
    )
    run(master, noisy, parallelism=4, maxiter=61)
    master.close()
    again = replay(path)
    assert again.x.tobytes() == master.x.tobytes()
    assert again.x.dtype == dtype
    assert np.array_equal(again.push_trace.delay, master.push_trace.delay)
    assert again.counts["applied"] == 61 * options.get("batch", 1)
    # The bursts run again, from their versions and with their seeds, give the same.
    assert replay(path, noisy).x.tobytes() == master.x.tobytes()
    assert replay(path, until=5).version == 5


def test_a_resumed_run_has_the_bits_of_an_uninterrupted_one(tmp_path) -> None:
    whole = Master(np.ones(5), rng=1, step=DecayingStep())
    run(whole, noisy, parallelism=1, maxiter=40)
    part = Master(np.ones(5), rng=1, step=DecayingStep(), log=tmp_path / "a.log")
    run(part, noisy, parallelism=1, maxiter=17)
    part.pull()  # a burst that never comes back
    del part  # no close: as after a kill
    rest = Master.resume(tmp_path / "a.log")
    run(rest, noisy, parallelism=1, maxiter=40)
    assert rest.x.tobytes() == whole.x.tobytes()
    rest.close()
    assert replay(tmp_path / "a.log").x.tobytes() == whole.x.tobytes()


def test_a_saved_master_goes_on_with_the_same_bits(tmp_path) -> None:
    whole = Master(np.ones(5), rng=1, batch=4)
    run(whole, noisy, parallelism=1, maxiter=10, callback=None)
    master = Master(np.ones(5), rng=1, batch=4)
    for _ in range(6):
        job = master.pull()
        master.push(job.id, noisy(job.v, job.context))
    assert len(master.state.received) == 2
    master.fail(master.pull().id, "worker")
    master.save(tmp_path / "m.npz")
    again = Master.load(tmp_path / "m.npz")
    assert state(again) == state(master)
    for one in (master, again):
        for _ in range(10):
            job = one.pull()
            one.push(job.id, noisy(job.v, job.context))
    assert state(again) == state(master)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=25)
@given(cut=st.integers(0, 4000))
def test_a_log_cut_anywhere_holds_every_push_before_the_cut(tmp_path, cut: int) -> None:
    path = tmp_path / "cut.log"
    path.unlink(missing_ok=True)
    master = Master(np.ones(3), rng=2, log=path)
    ends, states = [], []
    for _ in range(12):
        job = master.pull()
        master.push(job.id, noisy(job.v, job.context))
        ends.append(path.stat().st_size)
        states.append(master.x.tobytes())
    master.close()
    data = path.read_bytes()
    cut = min(cut, len(data))
    path.write_bytes(data[:cut])
    acknowledged = sum(end <= cut for end in ends)
    if not acknowledged and cut < 300:
        return  # the beginning itself is cut: refused, see below
    resumed = Master.resume(path)
    assert resumed.counts["applied"] == acknowledged
    assert resumed.x.tobytes() == (
        states[acknowledged - 1] if acknowledged else np.ones(3).tobytes()
    )
    job = resumed.pull()
    assert resumed.push(job.id, Push.steps(np.ones(3))).accepted
    resumed.close()
    assert replay(path).x.tobytes() == resumed.x.tobytes()


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=25)
@given(where=st.integers(0, 2000), bit=st.integers(0, 7))
def test_a_flipped_bit_is_never_taken_for_an_end(tmp_path, where: int, bit: int) -> None:
    path = tmp_path / "bit.log"
    path.unlink(missing_ok=True)
    master = Master(np.ones(3), rng=2, log=path)
    run(master, noisy, parallelism=1, maxiter=8)
    master.close()
    data = bytearray(path.read_bytes())
    where = where % (len(data) - 400)  # before the last frames: the last one may be a cut
    data[where] ^= 1 << bit
    path.write_bytes(data)
    with pytest.raises(CheckpointError):
        replay(path)


def frames(data):
    """The magic and the frames of a log: bytes of JSON and payload stand first in each."""
    at = data.index(b"\n") + 1
    found = [data[:at]]
    while at < len(data):
        text, payload = struct.unpack_from("<IQ", data, at)
        found.append(data[at : at + 20 + text + payload])
        at += len(found[-1])
    return found


@pytest.mark.parametrize(
    "order",
    [(2, 2, 3), (2, 3, 3), (2, 3, 2), (3, 2), (3,), (4, 3, 2)],
    ids=["a push twice", "an update twice", "a push again", "swapped", "no push", "backwards"],
)
def test_frames_that_do_not_follow_from_each_other_are_refused(tmp_path, order) -> None:
    path = tmp_path / "frames.log"
    with Master(np.ones(3), rng=2, log=path) as master:
        run(master, noisy, parallelism=1, maxiter=4)
    found = frames(path.read_bytes())
    assert b'"accepted"' in found[2]
    assert b'"applied"' in found[3]
    path.write_bytes(b"".join([*found[:2], *(found[i] for i in order), *found[4:]]))
    for read in (replay, Master.resume):
        with pytest.raises(CheckpointError, match=r"its record \d does not follow from those"):
            read(path)


def test_a_full_disk_refuses_the_push_and_changes_nothing(tmp_path, monkeypatch) -> None:
    path = tmp_path / "full.log"
    master = Master(np.ones(3), rng=0, log=path)
    master.push(master.pull().id, Push.steps(np.ones(3)))
    job, size, before = master.pull(), path.stat().st_size, state(master)
    real = os.write

    def half(file, data):
        real(file, bytes(data)[:20])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "write", half)
    with pytest.raises(CheckpointError, match="No space left"):
        master.push(job.id, Push.steps(np.ones(3)))
    monkeypatch.setattr(os, "write", real)
    assert state(master) == before
    assert path.stat().st_size == size
    assert master.push(job.id, Push.steps(np.ones(3))).accepted
    master.close()
    assert replay(path).x.tolist() == [-1.0] * 3


def test_a_disk_that_is_full_when_the_log_is_closed_is_told_with_its_name(
    tmp_path, monkeypatch
) -> None:
    master = Master(np.ones(3), rng=0, log=tmp_path / "full.log")
    master.push(master.pull().id, Push.steps(np.ones(3)))  # its update waits

    def full(file, data):
        raise OSError(28, "No space left on device")

    real = os.write
    monkeypatch.setattr(os, "write", full)
    with pytest.raises(CheckpointError, match=r"full\.log: No space left .* when it is resumed"):
        master.close()
    monkeypatch.setattr(os, "write", real)
    with Master.resume(tmp_path / "full.log") as resumed:
        assert resumed.x.tolist() == [0.0] * 3


class TestRefused:
    def test_an_existing_log(self, tmp_path) -> None:
        Master([1.0], log=tmp_path / "a.log").close()
        with pytest.raises(CheckpointError, match="exists already; resume it"):
            Master([1.0], log=tmp_path / "a.log")

    def test_a_missing_folder(self, tmp_path) -> None:
        with pytest.raises(CheckpointError, match="does not exist"):
            Master([1.0], log=tmp_path / "no" / "a.log")

    @pytest.mark.parametrize(
        "data", [b"", b"optex_core push log\n", b"something else entirely, and longer"]
    )
    def test_foreign_files(self, tmp_path, data: bytes) -> None:
        (tmp_path / "a.log").write_bytes(data)
        with pytest.raises(CheckpointError, match="move it away"):
            Master.resume(tmp_path / "a.log")

    def test_other_settings(self, tmp_path) -> None:
        Master([1.0], tag="one", log=tmp_path / "a.log").close()
        with pytest.raises(CheckpointError, match="tag"):
            Master.resume(tmp_path / "a.log", tag="two")
        with pytest.raises(CheckpointError, match="batch"):
            Master.resume(tmp_path / "a.log", batch=2)

    def test_a_rule_that_no_file_can_hold_is_asked_for(self, tmp_path) -> None:
        def rule(version, delay):
            return 0.5

        master = Master([1.0], step=rule, log=tmp_path / "a.log")
        master.push(master.pull().id, Push.steps(np.ones(1)))
        master.save(tmp_path / "m.npz")
        master.close()
        with pytest.raises(CheckpointError, match="pass step= again"):
            Master.resume(tmp_path / "a.log")
        assert Master.resume(tmp_path / "a.log", step=rule).x.tolist() == [0.5]
        assert Master.load(tmp_path / "m.npz", step=rule).x.tolist() == [0.5]
        assert replay(tmp_path / "a.log").x.tolist() == [0.5]

    def test_a_run_of_the_other_engine(self, tmp_path) -> None:
        import optex_core as ox

        engine = ox.OptEx(np.ones(2), optimizer=ox.SGD(0.1))
        engine.save(tmp_path / "e.npz")
        with pytest.raises(CheckpointError, match="asynchronous run"):
            Master.load(tmp_path / "e.npz")

    def test_a_closed_log(self, tmp_path) -> None:
        log = PushLog(tmp_path / "a.log", sync=True)
        master = Master([1.0], log=log)
        log.close()
        job = master.pull()
        with pytest.raises(CheckpointError, match="closed"):
            master.push(job.id, Push.steps(np.ones(1)))


class TestTwoDrivers:
    def test_a_second_driver_is_refused_and_harms_nobody(self, tmp_path) -> None:
        path = tmp_path / "a.log"
        first = Master(np.ones(3), rng=0, log=path)
        run(first, noisy, parallelism=1, maxiter=5)
        for second in (lambda: Master.resume(path), lambda: Master(np.ones(3), log=path)):
            with pytest.raises(CheckpointError, match="another process is running with this push"):
                second()
        assert replay(path).version == 5  # readers share
        run(first, noisy, parallelism=1, maxiter=9)
        first.close()
        again = Master.resume(path)
        assert again.x.tobytes() == first.x.tobytes()
        again.close()

    @pytest.mark.parametrize("kind", ["log", "checkpoint"])
    def test_a_run_is_refused_while_another_one_goes_on(self, tmp_path, kind: str) -> None:
        def fun(x):
            return 0.5 * x @ x, x

        options = {"maxiter": 9, "rng": 0, "parallelism": 1, kind: tmp_path / "a"}

        def second(_):
            with pytest.raises(CheckpointError, match="another process is running with this"):
                minimize(fun, np.ones(3), **options, resume=True)
            return True

        assert minimize(fun, np.ones(3), **options, callback=second).nit == 1
        assert minimize(fun, np.ones(3), **options, resume=True).nit == 9
        assert [path.name for path in tmp_path.iterdir()] == ["a"]

    @pytest.mark.parametrize("resume", [True, False])
    def test_an_empty_log_starts_the_run(self, tmp_path, resume: bool) -> None:
        # A kill between creating the file and its first write: nothing was acknowledged.
        path = tmp_path / "a.log"
        path.touch()
        res = minimize(lambda x: (x @ x, 2 * x), np.ones(2), maxiter=3, log=path, resume=resume)
        assert res.nit == 3
        assert replay(path).x.tobytes() == res.x.tobytes()

    def test_a_refused_run_leaves_no_lock(self, tmp_path) -> None:
        with pytest.raises(CheckpointError, match="No such file"):
            Master.resume(tmp_path / "a.log")
        assert not list(tmp_path.iterdir())
