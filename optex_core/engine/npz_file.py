"""Arrays plus one JSON header in a .npz file: the format of every saved run. No pickle.

A file is written to a temporary name, synced and renamed. It counts as good only when every member
has been read to its end, where its checksum is compared, and has the dtype and shape that the
header promises. No more memory is taken than the file has bytes.
"""

from __future__ import annotations

import contextlib
import io
import json
import math
import os
import stat
import tempfile
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, BinaryIO, Literal, TypeAlias

import numpy as np

from optex_core._validation import short_repr, working_directory
from optex_core.errors import (
    ArgumentTypeError,
    CheckpointError,
    DamagedFileError,
    LaterVersionError,
)
from optex_core.types import Array

#: Bytes that compressed members may have in all: 4 MB of zeros can claim 4 GB.
MAX_COMPRESSED_BYTES = 1 << 28

#: The JSON of a file.
Header: TypeAlias = dict[str, Any]


def check_filename(what: str, path: object, longest: str = "") -> None:
    """Refuse a name under which no file can be, before anything is evaluated for it.

    `what` is the argument for the message, `longest` the longest ending of the files beside it.
    """
    if not isinstance(path, (str, os.PathLike)):
        raise ArgumentTypeError(f"{what} must be the path of a file, got {short_repr(path)}")
    try:
        os.lstat(f"{os.fspath(path)}{longest}")
    except FileNotFoundError:
        return
    except (OSError, ValueError) as error:  # ValueError: a zero byte
        beside = f" (files beside it have names up to {len(longest)} characters longer)"
        raise CheckpointError(
            f"{what}={short_repr(os.fspath(path))} cannot be the name of a file: "
            f"{getattr(error, 'strerror', None) or error}{beside if longest else ''}; use another"
        ) from error


def check_writable(what: str, path: str | os.PathLike[str], longest: str = "") -> None:
    """As `check_filename`; refuse a folder too, and a file in a folder that there is not."""
    check_filename(what, path, longest)
    if not os.fspath(path):
        raise CheckpointError(
            f"{what} must be the name of a file, got {short_repr(path)}; add one, such as run.npz"
        )
    if os.path.isdir(path):
        raise CheckpointError(
            f"cannot save to {short_repr(os.fspath(path))}: it is a folder; give the name of a file"
            " in it"
        )
    folder = Path(working_directory(), path).parent
    if not folder.is_dir():
        raise CheckpointError(
            f"cannot save to {path}: the folder {folder} does not exist; create it first"
        )


def open_regular_file(path: str | os.PathLike[str], what: str) -> BinaryIO:
    """Open a file to read; pipes and devices, which may have no end, are refused."""
    try:
        file = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
    except (TypeError, ValueError) as error:  # no path, or one with a zero byte
        raise CheckpointError(
            f"{what} must be named by the path of a file, got {short_repr(path)}"
        ) from error
    except OSError as error:
        raise CheckpointError(f"cannot read {what} {path}: {error.strerror or error}") from error
    if not stat.S_ISREG(os.fstat(file).st_mode):
        os.close(file)
        raise CheckpointError(f"cannot read {what} {path}: it is a folder, a pipe or a device")
    return os.fdopen(file, "rb")


def parse_json(text: bytes) -> object:
    """The value of a JSON text; ValueError for what is none, nested too deeply included."""
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError("JSON nested too deeply") from error


def sync_folder(folder: Path) -> None:
    """Wait until a rename in `folder` is on disk: it must survive a power cut, too."""
    if hasattr(os, "O_DIRECTORY"):
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def write_npz(
    path: str | os.PathLike[str], header: dict[str, object], arrays: Mapping[str, Array]
) -> None:
    """Write header and arrays to `path`; the file that was there stays until the new one is whole.

    `header` is JSON with a "format" and an integer "version"; names, dtypes and shapes of the
    arrays, none of objects, are added to it. OSError if the system cannot write.
    """
    check_writable("path", path)
    path = Path(path)
    members = {name: [a.dtype.str, list(a.shape)] for name, a in arrays.items()}
    text = json.dumps({**header, "arrays": sorted(arrays), "members": members}, sort_keys=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    try:
        with os.fdopen(handle, "wb") as file:
            np.savez(file, header=np.frombuffer(text.encode(), np.uint8), **arrays)  # type: ignore[arg-type]
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        raise
    sync_folder(path.parent)


def read_npz(
    path: str | os.PathLike[str],
    *,
    format: str,  # noqa: A002
    version: int,
    parts: Iterable[str] = (),
) -> tuple[Header, dict[str, np.ndarray]]:
    """Header and arrays of a file that `write_npz` wrote; the header must say `format`, a version
    up to `version`, and hold `parts`.

    CheckpointError for a file that is missing or of a later version; `DamagedFileError` for one
    that is truncated, damaged or of another program.
    """
    with open_regular_file(path, "the saved run") as file:
        try:
            arrays = _read_members(file)
            text = arrays.pop("header")
            # Runs of the command line of earlier versions: a header of text, without names.
            from_text = text.dtype.kind == "U"
            header = parse_json(str(text[()]).encode() if from_text else text.tobytes())
        except Exception as error:  # what zipfile and NumPy raise for damaged bytes is any
            raise DamagedFileError(
                f"{path} is not a saved run, or it is damaged ({error_reason(error)}); use another"
                " file or start anew"
            ) from error
    number = header.get("version") if isinstance(header, dict) else None
    if not isinstance(header, dict) or header.get("format") != format or type(number) is not int:
        raise DamagedFileError(
            f"{path} was not written by optex_core as {format!r}; use another file or start anew"
        )
    if number > version:
        raise LaterVersionError(
            f"{path} has version {number}, this optex_core reads up to {version}; update optex_core"
        )
    found = {name: [a.dtype.str, list(a.shape)] for name, a in arrays.items()}
    promised = header.get("members", found)  # files of earlier versions promise names alone
    named = from_text or header.get("arrays") == sorted(arrays)
    if number < 1 or not named or promised != found:
        raise DamagedFileError(
            f"{path} is damaged: its arrays are not those that its header names; use another file"
            " or start anew"
        )
    if missing := sorted(set(parts) - set(header)):
        raise DamagedFileError(
            f"{path} is damaged: {missing[0]!r} is missing; use another file or start anew"
        )
    return header, arrays


def _read_members(file: BinaryIO) -> dict[str, np.ndarray]:
    """All arrays of an archive, each read to its end, sizes checked before memory is taken."""
    size = os.fstat(file.fileno()).st_size
    with zipfile.ZipFile(file) as archive:
        members = archive.infolist()
        expanded = [m.file_size for m in members if m.file_size != m.compress_size]
        if sum(m.compress_size for m in members) > size or sum(expanded) > MAX_COMPRESSED_BYTES:
            raise ValueError("its members are larger than the file")
        if len({m.filename for m in members}) < len(members):
            raise ValueError("it holds a member twice")
        return {m.filename.removesuffix(".npy"): _parse_npy(archive.read(m)) for m in members}


def _parse_npy(data: bytes) -> np.ndarray:
    """The array of a .npy file: of numbers or text, exactly as long as its shape says."""
    stream = io.BytesIO(data)
    read_header = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }[np.lib.format.read_magic(stream)]
    shape, fortran, dtype = read_header(stream)
    size = math.prod(shape) * dtype.itemsize
    if dtype.hasobject or min(shape, default=0) < 0 or not dtype.itemsize:
        raise ValueError(f"an array of shape {shape} and dtype {dtype} is none of numbers")
    if size != len(data) - stream.tell():
        raise ValueError(f"an array has not the {size} bytes of its shape {shape}")
    order: Literal["F", "C"] = "F" if fortran else "C"
    return np.ndarray(shape, dtype, data, stream.tell(), order=order).copy("K")


def error_reason(error: BaseException) -> str:
    """Why NumPy could not read a file. Of any file that is none of its own it says that it may be
    a pickle, and how to load one all the same.
    """
    text = str(error) or type(error).__name__
    return "it begins like no .npy or .npz file" if "allow_pickle" in text else text
