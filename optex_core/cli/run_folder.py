"""What ``minimize`` leaves in its folder: one ``run.npz`` with the traces, the parameters and a
JSON header, and the picture beside it.
"""

from __future__ import annotations

import json
import os
import tempfile
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from optex_core.engine.npz_file import error_reason
from optex_core.engine.trace import Trace
from optex_core.errors import ArgumentError, CheckpointError

FORMAT = "optex_core run"
VERSION = 1
FILE = "run.npz"
PICTURE = "run.png"


@dataclass(frozen=True, slots=True)
class Run:
    """A finished run as it stands in a file.

    Attributes
    ----------
    x : array, shape (d,)
        The last iterate.
    trace : Trace
        Its history.
    summary : dict
        Settings and results, all of it JSON.
    baselines : dict of str to Trace
        Runs to compare with, by their label.
    """

    x: np.ndarray
    trace: Trace
    summary: dict[str, Any]
    baselines: Mapping[str, Trace] = field(default_factory=dict)


def new_folder(name: str) -> Path:
    """A folder ``optex-runs/name`` that does not exist yet; a number is added to the name when it
    does.
    """
    base = Path("optex-runs", "".join(c if c.isalnum() or c in "-_." else "_" for c in name))
    folder, k = base, 1
    while True:
        try:
            folder.mkdir(parents=True)
            return folder
        except FileExistsError:
            k += 1
            folder = base.with_name(f"{base.name}-{k}")


def folder_for(output: str | None) -> None:
    """Refuse an ``--output`` that can be no folder, before a run rather than after it."""
    if output is None:
        return
    there = Path(output).absolute()
    while not there.exists():
        there = there.parent
    if not there.is_dir() or not os.access(there, os.W_OK):
        why_not = "cannot be written" if there.is_dir() else "is a file"
        raise ArgumentError(
            f"--output {output}: {there} {why_not}; name a folder, which is made if need be"
        )


def save_run(run: Run, folder: Path) -> Path:
    """Write `run` to ``folder/run.npz``, whole or not at all, and return the path."""
    folder.mkdir(parents=True, exist_ok=True)
    header = {
        "format": FORMAT,
        "version": VERSION,
        "summary": run.summary,
        "baselines": list(run.baselines),
    }
    arrays = {"header": np.array(json.dumps(header, sort_keys=True)), "x": run.x}
    for i, trace in enumerate((run.trace, *run.baselines.values())):
        arrays.update({f"trace{i}.{name}": column for name, column in trace.to_arrays().items()})
    handle, temporary = tempfile.mkstemp(dir=folder, suffix=".tmp")
    path = folder / FILE
    try:
        with os.fdopen(handle, "wb") as file:
            np.savez_compressed(file, **arrays)  # type: ignore[arg-type]
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    return path


def load_run(path: str | os.PathLike[str]) -> Run:
    """Read what `save_run` wrote; `path` is the file or its folder.

    Raises
    ------
    ArgumentError
        If there is no such file.
    CheckpointError
        If it is damaged or something else.
    """
    file = Path(path)
    file = file / FILE if file.is_dir() else file
    if not file.exists():
        raise ArgumentError(
            f"there is no saved run {str(file)!r}; `optex-core minimize` prints where it puts them"
        )
    try:
        # Opened here: numpy.load leaves the file of a damaged archive open.
        with file.open("rb") as stream, np.load(stream, allow_pickle=False) as arrays:
            header = json.loads(str(arrays["header"][()]))
            columns = {name: arrays[name] for name in arrays.files}
    except (ValueError, KeyError, EOFError, OSError, zipfile.BadZipFile) as error:
        raise CheckpointError(
            f"{file} is not a saved run, or damaged: {error_reason(error)}"
        ) from error
    if not isinstance(header, dict) or header.get("format") != FORMAT:
        raise CheckpointError(f"{file} is not a saved run of optex-core minimize")
    if header["version"] > VERSION:
        raise CheckpointError(
            f"{file} was written by a newer optex_core (format {header['version']}, "
            f"this one reads {VERSION})"
        )

    def trace(i: int) -> Trace:
        prefix = f"trace{i}."
        return Trace.from_arrays(
            {
                name.removeprefix(prefix): column
                for name, column in columns.items()
                if name.startswith(prefix)
            }
        )

    return Run(
        columns["x"],
        trace(0),
        header["summary"],
        {label: trace(i + 1) for i, label in enumerate(header["baselines"])},
    )
