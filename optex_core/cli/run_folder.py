"""Folder of a run of ``minimize``: one ``run.npz`` with the traces, the parameters and a JSON
header, and the picture beside it.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from optex_core.engine.npz_file import read_npz, write_npz
from optex_core.engine.trace import Trace
from optex_core.errors import ArgumentError, CheckpointError

FORMAT = "optex_core run"
VERSION = 1
FILE = "run.npz"
PICTURE = "run.png"


@dataclass(frozen=True, slots=True)
class Run:
    """A finished run as it stands in a file."""

    x: np.ndarray  # shape (d,): the last iterate
    trace: Trace  # its history
    summary: dict[str, object]  # settings and results, all of it JSON
    #: Runs to compare with, by their label.
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
    why_not = "is a file"
    if there.is_dir():
        try:
            with tempfile.TemporaryFile(dir=there):  # os.access says yes to root wherever it asks
                return
        except OSError as error:
            why_not = f"cannot be written ({error.strerror})"
    raise ArgumentError(
        f"--output {output}: {there} {why_not}; name a folder, which is made if need be"
    )


def save_run(run: Run, folder: Path) -> Path:
    """Write `run` to ``folder/run.npz``, whole or not at all, and return the path."""
    folder.mkdir(parents=True, exist_ok=True)
    header = {"format": FORMAT, "version": VERSION, "summary": run.summary}
    arrays = {"x": run.x}
    for i, trace in enumerate((run.trace, *run.baselines.values())):
        arrays |= {f"trace{i}.{name}": column for name, column in trace.to_arrays().items()}
    path = folder / FILE
    write_npz(path, {**header, "baselines": list(run.baselines)}, arrays)
    return path


def described(run: Run) -> str:
    """How the run was made, for a legend."""
    return f"{run.summary['strategy']}, {run.summary['parallelism']} gradients at once"


def draw_run(run: Run, path: Path, others: Mapping[str, Trace] | None = None) -> Path:
    """Draw the run beside its baselines and `others`; `path` again."""
    from optex_core.engine.plots import plot_trace

    title = f"{run.summary['name']}, d = {run.summary['d']}"
    beside = {**run.baselines, **(others or {})}
    plot_trace(run.trace, label=described(run), baselines=beside, title=title, path=path)
    return path


def load_run(path: str | os.PathLike[str]) -> Run:
    """Read what `save_run` wrote; `path` is the file or its folder.

    ArgumentError if there is no such file, CheckpointError if it is damaged or something else.
    """
    file = Path(path)
    file = file / FILE if file.is_dir() else file
    if not file.exists():
        raise ArgumentError(
            f"there is no saved run {str(file)!r}; `optex-core minimize` prints where it puts them"
        )
    header, arrays = read_npz(file, format=FORMAT, version=VERSION)
    if "identity" in header:
        raise CheckpointError(
            f"{file} is a checkpoint, to go on from; plots are made of the folders that"
            " `optex-core minimize` leaves"
        )

    def trace(i: int) -> Trace:
        prefix = f"trace{i}."
        return Trace.from_arrays(
            {n.removeprefix(prefix): a for n, a in arrays.items() if n.startswith(prefix)}
        )

    try:
        baselines = {label: trace(i + 1) for i, label in enumerate(header["baselines"])}
        return Run(arrays["x"], trace(0), dict(header["summary"]), baselines)
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{file} is damaged ({error!r}); run it again") from error
