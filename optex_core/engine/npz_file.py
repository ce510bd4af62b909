"""Saved runs as files: arrays plus one JSON header in a .npz, versioned, written to a temporary
file, synced and renamed. No pickle anywhere.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import tempfile
import zipfile
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from optex_core._validation import short_repr
from optex_core.errors import ArgumentTypeError, CheckpointError, LaterVersionError


def check_filename(what: str, path: Any, longest: str = "") -> None:
    """Refuse a name under which no file can be, before anything is evaluated for it.

    Parameters
    ----------
    what : str
        The argument, for the message.
    path : path-like
    longest : str
        The longest ending of the files beside it.

    Raises
    ------
    ArgumentTypeError, CheckpointError
        It is no path; or the system cannot have a file of that name.
    """
    if not isinstance(path, (str, os.PathLike)):
        raise ArgumentTypeError(f"{what} must be the path of a file, got {short_repr(path)}")
    try:
        os.lstat(f"{os.fspath(path)}{longest}")
    except FileNotFoundError:
        return
    except (OSError, ValueError) as error:  # ValueError: a zero byte
        beside = (
            f" (files beside it have names up to {len(longest)} characters longer)"
            if longest
            else ""
        )
        error_reason = getattr(error, "strerror", None) or error
        raise CheckpointError(
            f"{what}={short_repr(os.fspath(path))} cannot be the name of a file: "
            f"{error_reason}{beside}; use another"
        ) from error


def check_writable(path: str | os.PathLike[str]) -> None:
    """Refuse a file whose folder takes no files, before anything is evaluated for it.

    Raises
    ------
    CheckpointError
        It does not.
    """
    folder = Path(path).absolute().parent
    try:
        with tempfile.TemporaryFile(dir=folder):
            return
    except OSError as error:
        raise CheckpointError(
            f"cannot save to {os.fspath(path)}: no file can be made in {folder} "
            f"({error.strerror or error})"
        ) from error


def write_npz(
    path: str | os.PathLike[str], header: dict[str, Any], arrays: dict[str, np.ndarray]
) -> None:
    """Write header and arrays to `path` atomically: the file that was there stays until the new one
    is complete on disk.

    Parameters
    ----------
    path : path-like
    header : dict
        Of JSON, with a "format" and an integer "version".
    arrays : dict of str to array
        None of objects.
    """
    check_filename("path", path)
    path = Path(path)
    if path.is_dir():
        raise CheckpointError(
            f"cannot save to {path}: it is a folder; give the name of a file in it"
        )
    text = json.dumps({**header, "arrays": sorted(arrays)}, sort_keys=True)
    if not path.parent.is_dir():
        raise CheckpointError(
            f"cannot save to {path}: the folder {path.parent} does not exist; create it first"
        )
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
    if hasattr(os, "O_DIRECTORY"):  # the rename itself must survive a power cut too
        folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def read_npz(
    path: str | os.PathLike[str], *, format: str, version: int, parts: Iterable[str] = ()
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Header and arrays of a file that `write_npz` wrote.

    Parameters
    ----------
    path : path-like
    format : str
        What the header must say.
    version : int
        The latest that can be read.
    parts : iterable of str
        What the header must hold besides.

    Raises
    ------
    CheckpointError
        For a file that is missing, truncated, damaged, of another program or of a later version.
    """
    try:
        data = Path(path).read_bytes()
    except (TypeError, ValueError) as error:  # no path, or one with a zero byte
        raise CheckpointError(
            f"the file of a saved run must be named by a path, got {short_repr(path)}"
        ) from error
    except OSError as error:
        raise CheckpointError(
            f"cannot read the saved run {path}: {error.strerror or error}"
        ) from error
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        header = json.loads(arrays.pop("header").tobytes())
    # TypeError: a .npy file, which NumPy opens as a bare array; RuntimeError: a flipped flag that
    # says "encrypted".
    except (
        zipfile.BadZipFile,
        zlib.error,
        ValueError,
        KeyError,
        TypeError,
        EOFError,
        OSError,
        NotImplementedError,
        RuntimeError,
    ) as error:
        raise CheckpointError(
            f"{path} is not a saved run, or it is damaged ({error_reason(error)}); use "
            f"another file or start anew"
        ) from error
    if (
        not isinstance(header, dict)
        or header.get("format") != format
        or not isinstance(header.get("version"), int)
    ):
        raise CheckpointError(
            f"{path} was not written by optex_core as {format!r}; use another file or start anew"
        )
    if header["version"] > version:
        raise LaterVersionError(
            f"{path} has version {header['version']}, this optex_core reads up to "
            f"{version}; update optex_core"
        )
    if header.get("arrays") != sorted(arrays) or not set(parts) <= set(header):
        raise CheckpointError(
            f"{path} is damaged: parts of it are missing; use another file or start anew"
        )
    return header, arrays


def error_reason(error: BaseException) -> str:
    """What kept NumPy from reading a file. Of any file that is none of its own it says that it may
    be a pickle, and how to load one all the same.
    """
    return "it begins like no .npy or .npz file" if "allow_pickle" in str(error) else str(error)
