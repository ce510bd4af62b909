"""Framed logs: whole frames come back, what a kill has cut is none, damage is named."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from optex_core.engine.framed_log import HEAD_BYTES, FramedLog, FramedLogReader
from optex_core.errors import CheckpointError, LaterVersionError

KIND: dict[str, Any] = {"format": "a log", "version": 2}
VECTORS = [np.arange(3.0), np.arange(4, dtype=np.float32), np.arange(3.0)[:0:-1]]


def written(path: Path) -> list[int]:
    """A log of three records, and where each of its frames ends."""
    log = FramedLog.create(path, {"run": 7}, np.ones(2), **KIND)
    ends = [path.stat().st_size]
    for i, vector in enumerate(VECTORS):
        log.append({"i": i}, vector)
        ends.append(path.stat().st_size)
    log.close()
    return ends


def contents(path: Path) -> tuple[list[int], FramedLogReader]:
    with contextlib.closing(FramedLogReader(path, **KIND)) as reader:
        return [record["i"] for record, _ in reader], reader


def test_records_and_payloads_come_back(tmp_path: Path) -> None:
    path = tmp_path / "log"
    ends = written(path)
    with contextlib.closing(FramedLogReader(path, **KIND)) as reader:
        assert reader.header["run"] == 7
        assert reader.payload == np.ones(2).tobytes()
        found = list(reader)
    assert [record for record, _ in found] == [{"i": 0}, {"i": 1}, {"i": 2}]
    for (_, payload), vector in zip(found, VECTORS, strict=True):
        assert payload == np.ascontiguousarray(vector).tobytes()
    assert (reader.end, reader.records, reader.damage) == (ends[-1], 3, "")
    assert [p.name for p in tmp_path.iterdir()] == ["log"]


@pytest.mark.parametrize("reserved", [0, 100])
def test_a_frame_that_a_kill_has_cut_counts_as_never_written(tmp_path: Path, reserved: int) -> None:
    path = tmp_path / "log"
    ends = written(path)
    data = path.read_bytes()
    for cut in range(ends[2] + 1, ends[3]):
        path.write_bytes(data[:cut] + bytes(reserved))
        found, reader = contents(path)
        assert found == [0, 1], cut
        assert reader.end == ends[2]
        assert reader.torn or not reader.damage
    log = FramedLog.append_to(path, reader.end)
    log.append({"i": 9})
    log.close()
    found, reader = contents(path)
    assert (found, reader.damage) == ([0, 1, 9], "")


def test_a_flipped_bit_ends_reading_and_is_named(tmp_path: Path) -> None:
    path = tmp_path / "log"
    ends = written(path)
    data = path.read_bytes()
    for byte in range(ends[0], ends[2]):
        damaged = bytearray(data)
        damaged[byte] ^= 1 << byte % 8
        path.write_bytes(damaged)
        found, reader = contents(path)
        assert found == [0][: 0 if byte < ends[1] else 1]
        assert "is damaged after" in reader.damage
        assert not reader.torn


def test_a_log_that_is_damaged_at_its_beginning_or_foreign_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "log"
    ends = written(path)
    data = path.read_bytes()
    for byte in range(ends[0]):
        damaged = bytearray(data)
        damaged[byte] ^= 1 << byte % 8
        path.write_bytes(damaged)
        with pytest.raises(CheckpointError, match="damaged in its first frame|was not written by"):
            contents(path)
    for foreign in (b"", b"my notes\n", data[:5], data[: ends[0] - 1]):
        path.write_bytes(foreign)
        with pytest.raises(CheckpointError):
            contents(path)
    path.write_bytes(data)
    with pytest.raises(CheckpointError, match="not written by optex_core as 'another log'"):
        FramedLogReader(path, format="another log", version=2)
    with pytest.raises(LaterVersionError, match="has version 2, this optex_core reads up to 1"):
        FramedLogReader(path, format="a log", version=1)
    with pytest.raises(CheckpointError, match="cannot read the log .*No such file"):
        FramedLogReader(tmp_path / "none", **KIND)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(CheckpointError, match="a folder, a pipe or a device"):
        FramedLogReader(tmp_path / "pipe", **KIND)


@pytest.mark.parametrize("text", [b"[1]", b"no json", b"\xff", b"[" * 100_000])
def test_a_frame_of_right_checksum_and_wrong_contents_is_damage(
    tmp_path: Path, text: bytes
) -> None:
    path = tmp_path / "log"
    written(path)
    sizes = struct.pack("<IQI", len(text), 0, zlib.crc32(text))
    with path.open("ab") as file:
        file.write(sizes + struct.pack("<I", zlib.crc32(sizes)) + text)
    found, reader = contents(path)
    assert found == [0, 1, 2]
    assert "is damaged after 3 records" in reader.damage
    assert not reader.torn


def test_claimed_sizes_take_no_memory(tmp_path: Path) -> None:
    path = tmp_path / "log"
    written(path)
    sizes = struct.pack("<IQI", 2, 1 << 60, 0)
    with path.open("ab") as file:
        file.write(sizes + struct.pack("<I", zlib.crc32(sizes)) + b"{}")
    found, reader = contents(path)
    assert found == [0, 1, 2]
    assert "is cut off" in reader.damage


def test_records_may_wait_for_the_next(tmp_path: Path) -> None:
    path = tmp_path / "log"
    log = FramedLog.create(path, {}, **KIND)
    start = path.stat().st_size
    log.append({"i": 0}, flush=False)
    assert path.stat().st_size == start
    log.append({"i": 1})
    log.append({"i": 2}, flush=False)
    assert contents(path)[0] == [0, 1]
    log.flush()
    assert contents(path)[0] == [0, 1, 2]
    log.append({"i": 3}, flush=False)
    log.close()
    assert contents(path)[0] == [0, 1, 2, 3]
    with pytest.raises(CheckpointError, match="is closed"):
        log.append({"i": 4})


def test_what_cannot_be_written_leaves_the_log_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "log"
    log = FramedLog.create(path, {}, **KIND)
    log.append({"i": 0}, flush=False)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + 500, limits[1]))
    try:
        with pytest.raises(OSError, match=r"File too large.*log"):
            log.append({"i": 1}, np.ones(1000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    log.append({"i": 2})
    log.close()
    assert contents(path)[0] == [0, 2]


def test_reserved_space_reads_as_nothing_and_is_given_back(tmp_path: Path) -> None:
    path = tmp_path / "log"
    log = FramedLog.create(path, {}, **KIND)
    log.reserve(100_000)
    assert path.stat().st_size >= 100_000
    log.append({"i": 0}, np.ones(5))
    found, reader = contents(path)
    assert (found, reader.damage) == ([0], "")
    log.close()
    assert path.stat().st_size == reader.end


def test_creating_replaces_whole_and_writes_through_no_link(tmp_path: Path) -> None:
    target, path = tmp_path / "notes", tmp_path / "log"
    target.write_text("mine")
    path.symlink_to(target)
    (tmp_path / ".log.log.tmp").symlink_to(target)
    written(path)
    assert target.read_text() == "mine"
    assert not path.is_symlink()
    with pytest.raises(TypeError):
        FramedLog.create(path, {"no": object()}, **KIND)
    assert contents(path)[0] == [0, 1, 2]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["log", "notes"]


def test_a_frame_is_its_head_its_json_and_its_payload(tmp_path: Path) -> None:
    path = tmp_path / "log"
    log = FramedLog.create(path, {}, **KIND)
    start = path.stat().st_size
    log.append({"i": 0}, np.ones(3), np.ones(2, np.float32))
    log.close()
    text = json.dumps({"i": 0}).encode()
    assert path.stat().st_size - start == HEAD_BYTES + len(text) + 3 * 8 + 2 * 4
