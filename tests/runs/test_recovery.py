"""Damaged files of a run: the last good save and the journals are used, the rest is named."""

from __future__ import annotations

import logging
import shutil

import numpy as np
import pytest
from saved_runs import X0, Counted, exact

import optex_core as ox
from optex_core.errors import CheckpointError

RUN = dict(
    optimizer=ox.SGD(2e-3, momentum=0.5), parallelism=3, strategy="verified", rng=5, maxiter=12
)


def cut_off(path, at=9, **options):
    """What a driver leaves that is killed after so many iterations: its files as they are at that
    instant.
    """
    there = path.parent / "there"
    there.mkdir()

    def copies(result):
        if result.nit == at:
            for file in there.iterdir():
                shutil.copyfile(file, path.parent / file.name)

    ox.minimize(exact, X0, checkpoint=there / path.name, callback=copies, **RUN | options)
    shutil.rmtree(there)


@pytest.mark.parametrize("how", ["truncated", "emptied", "foreign", "flipped"])
def test_a_damaged_save_is_named_and_the_one_before_it_used(tmp_path, caplog, how):
    path, f = tmp_path / "run.npz", Counted()
    cut_off(path, checkpoint_every=4)
    good = path.read_bytes()
    bad = {
        "truncated": good[: len(good) // 2],
        "emptied": b"",
        "foreign": b"my notes",
        "flipped": good[:-1000] + b"?" * 10 + good[-990:],
    }[how]
    path.write_bytes(bad)
    with caplog.at_level(logging.WARNING, "optex_core"):
        result = ox.minimize(f, X0, checkpoint=path, resume=True, **RUN)
    assert "the run goes on from the last good save (4 iterations)" in caplog.text
    assert str(path) in caplog.text
    assert (tmp_path / "run.npz.damaged").read_bytes() == bad
    np.testing.assert_array_equal(result.x, ox.minimize(exact, X0, **RUN).x)
    assert min(f.seen) >= 9 * 3  # what had been told since that save came from the journals
    assert ox.OptEx.load(path).state.nit == 12


def test_a_damaged_first_save_falls_back_on_the_journal(tmp_path):
    path, f = tmp_path / "run.npz", Counted()
    cut_off(path, at=5, checkpoint_every=4)
    path.write_bytes(b"")
    result = ox.minimize(f, X0, checkpoint=path, resume=True, **RUN)
    np.testing.assert_array_equal(result.x, ox.minimize(exact, X0, **RUN).x)
    assert min(f.seen) >= 5 * 3


def test_a_damaged_journal_is_used_as_far_as_it_is_whole(tmp_path, caplog):
    path, f = tmp_path / "run.npz", Counted()
    cut_off(path, checkpoint_every=6)
    end = tmp_path / "run.npz.journal"
    data = bytearray(end.read_bytes().rstrip(b"\0"))
    data[-300] ^= 1
    end.write_bytes(data)
    with caplog.at_level(logging.WARNING, "optex_core"):
        result = ox.minimize(f, X0, checkpoint=path, resume=True, **RUN)
    assert "run.npz.journal is damaged after" in caplog.text
    np.testing.assert_array_equal(result.x, ox.minimize(exact, X0, **RUN).x)
    assert 6 * 3 <= min(f.seen) < 10 * 3


def test_without_a_good_save_the_reason_is_told_and_nothing_is_touched(tmp_path):
    path = tmp_path / "run.npz"
    path.write_bytes(b"my notes")
    with pytest.raises(CheckpointError, match="not a saved run"):
        ox.minimize(exact, X0, checkpoint=path, resume=True, **RUN)
    assert [p.name for p in tmp_path.iterdir()] == ["run.npz"]
    (tmp_path / "other.npz.journal").write_bytes(b"my notes\n")
    with pytest.raises(CheckpointError, match="was not written by optex_core"):
        ox.minimize(exact, X0, checkpoint=tmp_path / "other.npz", resume=True, **RUN)


def test_a_run_that_was_killed_before_its_first_save_is_not_overwritten(tmp_path):
    path, f = tmp_path / "run.npz", Counted()
    cut_off(path, at=3, checkpoint_every=100)
    assert not path.exists()
    with pytest.raises(CheckpointError, match="exists already; pass resume=True"):
        ox.minimize(exact, X0, checkpoint=path, **RUN)
    with pytest.raises(
        CheckpointError, match="belongs to another run: its parallelism is 3, here it is 2"
    ):
        ox.minimize(exact, X0, checkpoint=path, resume=True, **RUN | {"parallelism": 2})
    result = ox.minimize(f, X0, checkpoint=path, resume=True, **RUN)
    np.testing.assert_array_equal(result.x, ox.minimize(exact, X0, **RUN).x)
    assert min(f.seen) >= 3 * 3


def test_gradients_of_another_point_are_not_taken(tmp_path, monkeypatch, caplog):
    path, f = tmp_path / "run.npz", Counted()
    cut_off(path, at=6, checkpoint_every=100)
    with monkeypatch.context() as patch:  # another version of a library gives other bits
        patch.setattr("optex_core.runs.journal.point_checksum", lambda engine, c: 1)
        result = ox.minimize(f, X0, checkpoint=path, resume=True, **RUN)
    assert "evaluated at another point" in caplog.text
    np.testing.assert_array_equal(result.x, ox.minimize(exact, X0, **RUN).x)


@pytest.mark.parametrize(
    ("member", "shape", "other"),
    [
        ("x", b"(600,)", b"(400,)"),
        ("best_x", b"(600,)", b"(400,)"),
        ("optimizer/1", b"(600,)", b"(200,)"),
        ("history/X", b", 600)", b", 400)"),
    ],
)
def test_a_shape_that_was_damaged_is_found_and_the_save_before_used(tmp_path, member, shape, other):
    """NumPy stops reading where the shape says, before the checksum of the member is compared."""

    def quadratic(x):
        return float(0.5 * x @ x), x

    there, path = tmp_path / "there", tmp_path / "run.npz"
    there.mkdir()
    run = dict(optimizer=ox.Adam(0.02), parallelism=2, rng=0, checkpoint_every=2, maxiter=9)

    def copies(result):
        if result.nit == 7:
            for file in there.iterdir():
                shutil.copyfile(file, tmp_path / file.name)

    whole = ox.minimize(
        quadratic, np.ones(600), checkpoint=there / "run.npz", callback=copies, **run
    )
    data = path.read_bytes()
    at = data.index(shape, data.index(b"\x93NUMPY", data.index(f"{member}.npy".encode())))
    path.write_bytes(data[:at] + other + data[at + len(shape) :])
    with pytest.raises(CheckpointError, match="is damaged"):
        ox.OptEx.load(path)
    result = ox.minimize(quadratic, np.ones(600), checkpoint=path, resume=True, **run)
    np.testing.assert_array_equal(result.x, whole.x)
    assert result.best_x.shape == (600,)
    assert (tmp_path / "run.npz.damaged").exists()


@pytest.mark.parametrize("saved", [True, False])
def test_a_flipped_bit_of_a_journal_is_named_and_costs_evaluations_alone(tmp_path, caplog, saved):
    """Also one of its beginning, which says to which save it belongs."""
    path, whole = tmp_path / "run.npz", ox.minimize(exact, X0, **RUN)
    cut_off(path, checkpoint_every=6 if saved else 100)
    journal, rng = tmp_path / "run.npz.journal", np.random.default_rng(0)
    files = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    data = files[journal.name].rstrip(b"\0")
    places = [0, 25, 40, 60, 120, *rng.integers(len(data), size=6)]
    for place in places:
        for file in list(tmp_path.iterdir()):
            file.unlink()
        for name, content in files.items():
            (tmp_path / name).write_bytes(content)
        damaged = bytearray(data)
        damaged[place] ^= 1 << rng.integers(8)
        journal.write_bytes(damaged)
        caplog.clear()
        with caplog.at_level(logging.WARNING, "optex_core"):
            try:
                result = ox.minimize(exact, X0, checkpoint=path, resume=True, **RUN)
            except CheckpointError as error:
                said, kept = str(error), journal.read_bytes() == damaged
            else:
                said, kept = caplog.text, True
                np.testing.assert_array_equal(result.x, whole.x)
        assert "run.npz.journal" in said
        assert kept


def test_a_journal_that_is_damaged_at_its_beginning_is_kept_beside_a_good_save(tmp_path, caplog):
    path = tmp_path / "run.npz"
    cut_off(path, checkpoint_every=6)
    journal = tmp_path / "run.npz.journal"
    damaged = journal.read_bytes().replace(b'"seed"', b'"sead"', 1)
    journal.write_bytes(damaged)
    with caplog.at_level(logging.WARNING, "optex_core"):
        result = ox.minimize(exact, X0, checkpoint=path, resume=True, **RUN)
    assert "is damaged in its first frame; it is kept as" in caplog.text
    assert (tmp_path / "run.npz.journal.damaged").read_bytes() == damaged
    np.testing.assert_array_equal(result.x, ox.minimize(exact, X0, **RUN).x)
