"""Files of saved runs: what is not whole, or not what it promises, is refused in one sentence."""

from __future__ import annotations

import contextlib
import json
import os
import struct
import zipfile

import numpy as np
import pytest
from saved_runs import X0, exact

import optex_core as ox
from optex_core.engine import checkpoint_file
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
    header, arrays = checkpoint_file.read_checkpoint(path)

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


# -- crafted files ---------------------------------------------------------------------------------


def members(path):
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def build(path, parts, compression=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, data in parts.items():
            archive.writestr(name, data)


def npy(shape, descr="<f8", body=b""):
    """A .npy file that claims anything."""
    head = repr({"descr": descr, "fortran_order": False, "shape": shape}).encode()
    head += b" " * (117 - len(head)) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(head)) + head + body


def json_member(text):
    return npy((len(text),), "|u1", text)


ARRAYS = {
    "huge": npy((10**11,)),
    "larger than any address": npy((10**18,)),
    "overflowing": npy((2**33, 2**33)),
    "negative": npy((-4,), body=bytes(32)),
    "twice negative": npy((-2, -2), body=bytes(32)),
    "objects": npy((4,), "|O", b"\x80\x04N."),
    "records": npy((4,), [("a", "<f8")], bytes(32)),
    "complex": npy((4,), "<c16", bytes(64)),
    "text": npy((4,), "<U2", bytes(32)),
    "integers": npy((4,), "<i8", bytes(32)),
    "nan": npy((4,), "<f8", np.full(4, np.nan).tobytes()),
    "scalar": npy((), body=bytes(8)),
    "matrix": npy((2, 2), body=bytes(32)),
    "no bytes": npy((10**12,), "|V0"),
    "no characters": npy((10**12,), "<U0"),
    "cut": npy((4,), body=bytes(24)),
    "longer": npy((4,), body=bytes(40)),
    "no header": b"\x93NUMPY\x01\x00\xff\xff{",
    "nothing": b"",
}


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    """The members of a good save, and its header."""
    path = tmp_path_factory.mktemp("good") / "run.npz"
    options = dict(optimizer=ox.SGD(0.1, momentum=0.5), parallelism=2, rng=0, maxiter=3)
    ox.minimize(lambda x: (float(x @ x), 2 * x), np.ones(4), checkpoint=path, **options)
    parts = members(path)
    text = parts["header.npy"]
    return parts, json.loads(text[text.index(b"\n") + 1 :])


def assert_refused(path):
    with pytest.raises(DamagedFileError) as caught:
        ox.OptEx.load(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("promised", [False, True])
@pytest.mark.parametrize("what", ARRAYS)
def test_an_array_that_is_none_of_the_run_is_refused_before_memory_is_taken(
    tmp_path, good, what, promised
):
    parts, header = good
    if promised:  # as a program would write it, and not as damage leaves it
        header = {name: part for name, part in header.items() if name != "members"}
    head = json_member(json.dumps(header).encode())
    for member in ("x", "best_x", "history/X"):
        path = tmp_path / "run.npz"
        build(path, parts | {"header.npy": head, f"{member}.npy": ARRAYS[what]})
        assert_refused(path)


def changed(header, path, value):
    """A copy of a header with another value at ``a.b.c``."""
    new = json.loads(json.dumps(header))
    *within, last = path.split(".")
    part = new
    for name in within:
        part = part[name]
    part[last] = value
    return new


PARTS = [
    ("version", -1), ("version", True), ("state", {}), ("state", []), ("state", None),
    ("identity", []), ("identity", None), ("identity.d", 4.0), ("identity.d", True),
    ("identity.dtype", "int64"), ("identity.parallelism", 0), ("identity.estimator", None),
    ("seed", "x"), ("seed", -1), ("state.nit", 10**30), ("state.nit", -5), ("state.nit", "a"),
    ("state.best", "a"), ("state.finished", 1), ("state.more", 1), ("rows", [{"a": 1}]),
    ("round", {"done": [True] * 1000}), ("hyper", []), ("hyper.length", "a"), ("late", 5),
    ("late", [[1, 2]]), ("failed", [1]), ("arrivals", 10**12), ("arrivals", -1), ("saves", "a"),
    ("criteria", [1]), ("reasons", [1]), ("reasons", {"boredom": 1}), ("overhead", "a"),
    ("note", 1), ("began", "a"), ("optimizer", [{"array": 7}]), ("state.slot", -1),
    ("identity.strategy.fields", 3), ("identity.strategy.name", []), ("identity.tag", 5),
    ("identity.backend", None), ("identity.optimizer.fields.momentum", {"family": 1}),
    ("summaries", [1]), ("criteria", ""), ("criteria", []), ("hyper.length", 1e308),
    ("hyper.length", {"float": "nan"}), ("hyper.noise", -1.0), ("hyper.curvature", float("nan")),
    ("hyper.more", 1), ("identity.bounds", True), ("identity.bounds", {}), ("identity.x_scale", 3),
]  # fmt: skip


@pytest.mark.parametrize("value", [None, "x", 1e308, -1, 10**30, [], {"float": "nan"}], ids=str)
@pytest.mark.parametrize("part", ["optimizer", "memory"])
def test_a_leaf_of_another_type_than_its_optimizer_or_strategy_has_is_refused(
    tmp_path, good, part, value
):
    parts, header = good
    leaf = next(i for i, one in enumerate(header[part]) if type(one) is int)
    header = header | {part: [*header[part][:leaf], value, *header[part][leaf + 1 :]]}
    build(tmp_path / "run.npz", parts | {"header.npy": json_member(json.dumps(header).encode())})
    with pytest.raises(CheckpointError, match=r"run\.npz is damaged"):
        ox.OptEx.load(tmp_path / "run.npz")


@pytest.mark.parametrize(("path", "value"), PARTS, ids=str)
def test_a_header_that_no_run_saves_is_refused(tmp_path, good, path, value):
    parts, header = good
    text = json.dumps(changed(header, path, value)).encode()
    build(tmp_path / "run.npz", parts | {"header.npy": json_member(text)})
    assert_refused(tmp_path / "run.npz")


@pytest.mark.parametrize(
    ("path", "value"),
    [("optimizer", []), ("memory", [0] * 1000), ("identity.optimizer", {"family": "none"}),
     ("criteria.gtol", "a"), ("identity.estimator.history", 10**15)],
    ids=str,
)  # fmt: skip
def test_a_header_that_fits_no_engine_is_refused(tmp_path, good, path, value):
    parts, header = good
    text = json.dumps(changed(header, path, value)).encode()
    build(tmp_path / "run.npz", parts | {"header.npy": json_member(text)})
    with pytest.raises(ox.errors.OptexError):
        ox.OptEx.load(tmp_path / "run.npz")


@pytest.mark.parametrize(
    "text",
    [b"[" * 200_000 + b"]" * 200_000, b'{"a":' * 100_000, b"\xff\xfe{}", b"9" * 10_000, b"", b"{"],
    ids=["lists", "dicts", "encoding", "digits", "empty", "cut"],
)
def test_a_header_that_is_no_json_is_refused(tmp_path, good, text):
    build(tmp_path / "run.npz", good[0] | {"header.npy": json_member(text)})
    assert_refused(tmp_path / "run.npz")


def test_archives_that_are_none_of_ours_are_refused(tmp_path, good):
    parts, path = good[0], tmp_path / "run.npz"
    build(path, parts | {"../../evil.npy": npy((1,), body=bytes(8))})
    assert_refused(path)
    bomb = {"x.npy": npy((2**23,)) + bytes(2**26)}
    build(path, parts | bomb, zipfile.ZIP_DEFLATED)
    assert path.stat().st_size < 2**20
    assert_refused(path)
    build(path, parts)
    with zipfile.ZipFile(path, "a") as archive, pytest.warns(UserWarning, match="Duplicate"):
        archive.writestr("x.npy", npy((4,), body=bytes(32)))
    assert_refused(path)


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


def test_an_observation_without_its_value_is_refused(tmp_path):
    engine = ox.OptEx(np.ones(3), optimizer=ox.SGD(0.1), parallelism=3, strategy="data_parallel")
    first = engine.ask()[0]
    engine.tell(first.id, gradient=first.x, value=1.0)
    engine.save(tmp_path / "good.npz")
    header, _ = checkpoint_file.read_checkpoint(tmp_path / "good.npz")
    text = json.dumps(changed(header, "round.values", [None, None, None])).encode()
    build(tmp_path / "run.npz", members(tmp_path / "good.npz") | {"header.npy": json_member(text)})
    assert_refused(tmp_path / "run.npz")
