"""Files of saved runs: what is not whole, or not what it promises, is refused in one sentence."""

from __future__ import annotations

import contextlib
import json
import os

import numpy as np
import pytest
from saved_runs import X0, exact

import optex_core as ox
from optex_core.engine import checkpoint
from optex_core.errors import CheckpointError, DamagedFileError


def test_damaged_files_are_refused_and_left_as_they_are(saved_run):
    path = saved_run["checkpoint"]
    good = path.read_bytes()
    rng = np.random.default_rng(0)
    damaged = [b"", b"text", good[:100], good[:-1], good[: len(good) // 2], good + good[:7]]
    for _ in range(150):
        data = bytearray(good)
        data[rng.integers(len(data))] ^= 1 << rng.integers(8)
        damaged.append(bytes(data))
    opened = 0
    for data in damaged:
        path.write_bytes(data)
        with contextlib.suppress(CheckpointError):
            # Where it opens, the bit was one of a date or of padding: all that counts was read as
            # it was written.
            assert ox.OptEx.load(path).state.nit == 3
            opened += 1
        assert path.read_bytes() == data
    assert opened < len(damaged) / 4


@pytest.mark.parametrize(
    ("write", "says"),
    [
        (lambda p: np.save(p.open("wb"), np.ones(3)), "not a saved run"),
        (lambda p: np.savez(p.open("wb"), x=np.ones(3)), "not a saved run"),
        (
            lambda p: np.savez(p.open("wb"), header=np.frombuffer(b"[1]", np.uint8)),
            "not written by optex_core",
        ),
        (
            lambda p: np.savez(p.open("wb"), header=np.frombuffer(b'{"format": "else"}', np.uint8)),
            "not written by optex_core",
        ),
        (lambda p: np.savez(p.open("wb"), header=np.array([None])), "not a saved run"),
        (lambda p: p.mkdir(), "cannot read"),
    ],
    ids=["npy", "npz", "list", "format", "pickle", "folder"],
)
@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")
def test_foreign_files_are_refused(tmp_path, write, says):
    path = tmp_path / "run"
    write(path)
    with pytest.raises(CheckpointError, match=says):
        ox.OptEx.load(path)
    with pytest.raises(CheckpointError, match=f"{says}|it is a folder"):
        ox.minimize(exact, X0, maxiter=3, checkpoint=path, resume=True)


def test_a_file_from_a_later_version_or_with_missing_parts_is_refused(saved_run):
    path = saved_run["checkpoint"]
    header, arrays = checkpoint.read_checkpoint(path)

    def rewrite(header, arrays):
        with path.open("wb") as file:
            np.savez(file, header=np.frombuffer(json.dumps(header).encode(), np.uint8), **arrays)

    rewrite(header | {"version": 99}, arrays)
    with pytest.raises(CheckpointError, match="version 99"):
        ox.OptEx.load(path)
    for missing in arrays:
        rewrite(header, {name: a for name, a in arrays.items() if name != missing})
        with pytest.raises(CheckpointError):
            ox.OptEx.load(path)
    # files of earlier versions, or saved by hand, do not have the later ones
    kept = {"round", "identity", "format", "version", "began", "saves", "members", "summaries"}
    for missing in set(header) - kept:
        rewrite({name: part for name, part in header.items() if name != missing}, arrays)
        with pytest.raises(CheckpointError):
            ox.OptEx.load(path)


@pytest.mark.parametrize(
    "text",
    [b"[" * 200_000 + b"]" * 200_000, b"\xff\xfe{}", b"", b"{"],
    ids=["lists", "encoding", "empty", "cut"],
)
def test_a_header_that_is_no_json_is_refused(saved_run, text):
    path = saved_run["checkpoint"]
    _, arrays = checkpoint.read_checkpoint(path)
    with path.open("wb") as file:
        np.savez(file, header=np.frombuffer(text, np.uint8), **arrays)
    with pytest.raises(DamagedFileError) as caught:
        ox.OptEx.load(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", ["pipe", "device", "folder", "loop", "nothing"])
def test_what_is_no_file_is_refused_and_not_waited_for(tmp_path, kind):
    path = tmp_path / "run.npz"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    elif kind != "nothing":
        path.symlink_to("/dev/zero" if kind == "device" else path)
    with pytest.raises(CheckpointError, match="cannot read the saved run"):
        ox.OptEx.load(path)
    if kind != "nothing":
        with pytest.raises(CheckpointError, match="cannot read the saved run|it is a folder"):
            ox.minimize(exact, X0, checkpoint=path, resume=True)
