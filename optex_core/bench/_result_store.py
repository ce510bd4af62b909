"""Finished cells in a file, one line of JSON each: a long benchmark can be stopped and goes on."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import optex_core
from optex_core.bench._runner import Row, as_json, say
from optex_core.errors import CheckpointError

#: What cannot change a figure.
_NO_PART = ("cli", "testing")


def digest(others: Iterable[Path] = ()) -> str:
    """A fingerprint of the package's source and of `others`: cells of other code are not
    continued, since they would be compared with each other.
    """
    root = Path(optex_core.__file__).parent
    total = hashlib.sha256()
    for path in sorted(root.rglob("*.py")):
        if path.relative_to(root).parts[0] not in _NO_PART:
            total.update(path.relative_to(root).as_posix().encode())
            total.update(path.read_bytes())
    for path in others:
        total.update(path.read_bytes())
    return total.hexdigest()[:16]


class Store:
    """Cells by key in a file, whose folder is made; every new one is written at once.

    With `resume` the cells stay that the same source has left there, else the file begins anew;
    `others` are files outside the package whose code the cells depend on. `cells` maps keys to
    settings and numbers, `source` is the fingerprint. CheckpointError if a line other than the
    last, which a kill may have cut, is not a cell.
    """

    def __init__(self, path: Path, *, resume: bool, others: Iterable[Path] = ()) -> None:
        self.path, self.source = path, digest(others)
        self.cells: dict[str, Row] = {}
        path.parent.mkdir(parents=True, exist_ok=True)
        if resume and path.exists():
            self._read()
        # Rewritten, so that neither cells of other code nor a cut line stay; renamed, so that a
        # kill now loses nothing.
        temporary = path.with_suffix(".tmp")
        lines = (self._line(key, cell) for key, cell in self.cells.items())
        temporary.write_text("".join(lines), encoding="utf-8")
        os.replace(temporary, path)

    def add(self, key: str, cell: Row) -> Row:
        """Keep a finished cell, as JSON has it."""
        self.cells[key] = as_json(cell)
        with self.path.open("a", encoding="utf-8") as file:
            file.write(self._line(key, self.cells[key]))
        return self.cells[key]

    def compute(self, key: str, run: Callable[[], Row]) -> Row:
        """The cell of `key`: `run` makes it where there is none yet."""
        if key not in self.cells:
            begin = time.perf_counter()
            self.add(key, run())
            say(f"{key}: {time.perf_counter() - begin:.1f} s")
        return self.cells[key]

    def _line(self, key: str, cell: Row) -> str:
        return json.dumps({"key": key, "source": self.source, **cell}, allow_nan=False) + "\n"

    def _read(self) -> None:
        lines = self.path.read_text(encoding="utf-8").splitlines()
        for number, line in enumerate(lines, 1):
            try:
                cell = json.loads(line)
                key, source = cell.pop("key"), cell.pop("source")
            except (ValueError, KeyError, AttributeError, TypeError) as error:
                if number == len(lines):
                    return
                raise CheckpointError(
                    f"{self.path}:{number} is not a finished cell ({error}); give "
                    f"another folder, or remove the file"
                ) from error
            if source == self.source:
                self.cells[key] = cell
