"""Table with one row of numbers per applied push."""

from __future__ import annotations

from array import array
from collections.abc import Mapping
from typing import Any

import numpy as np

from optex_core.async_sgd.records import BurstContext, Push

#: Column -> type code of `array.array`.
COLUMNS = {
    **dict.fromkeys(("job", "worker", "start", "version", "gradients", "part"), "q"),
    "eta": "d",
    "value": "d",
}
_DTYPES = {"q": np.dtype(np.int64), "d": np.dtype(np.float64)}


class PushTrace:
    """Applied pushes in their order; columns are attributes, arrays of shape (pushes,)."""

    job: np.ndarray  # id of the burst, int64
    worker: np.ndarray
    start: np.ndarray  # version it was pulled at
    version: np.ndarray  # version it was applied to
    gradients: np.ndarray
    part: np.ndarray  # of the work, see `BurstContext`
    eta: np.ndarray  # outer step, float64
    value: np.ndarray  # mean of the values along the burst

    def __init__(self) -> None:
        self._columns = {name: array(code) for name, code in COLUMNS.items()}

    def append(self, context: BurstContext, version: int, eta: float, push: Push) -> None:
        """Add the row of a push that is applied to `version` with the step `eta`."""
        c, p = context, push
        row: tuple[Any, ...] = (
            c.id,
            c.worker,
            c.version,
            version,
            p.gradients,
            c.part,
            eta,
            p.value,
        )
        for column, entry in zip(self._columns.values(), row, strict=True):
            column.append(entry)

    def __len__(self) -> int:
        return len(self._columns["job"])

    def __getattr__(self, name: str) -> np.ndarray:
        if name in COLUMNS:
            column = self._columns[name]
            return np.array(column, dtype=_DTYPES[column.typecode])
        raise AttributeError(
            f"a PushTrace has no attribute {name!r}; its columns are delay, {', '.join(COLUMNS)}"
        )

    @property
    def delay(self) -> np.ndarray:
        """Staleness: updates between pull and application, shape (pushes,), int64."""
        return self.version - self.start

    def histogram(self) -> np.ndarray:
        """Number of pushes with delay 0, 1, ...; int64."""
        return np.bincount(self.delay) if len(self) else np.zeros(0, np.int64)

    def to_arrays(self) -> dict[str, np.ndarray]:
        """Copies of all columns by name."""
        return {name: getattr(self, name) for name in COLUMNS}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray]) -> PushTrace:
        """The table that `to_arrays` has written."""
        trace = cls()
        arrays = {"part": arrays["job"], **arrays}  # files of earlier versions have no parts
        for name, code in COLUMNS.items():
            column = np.asarray(arrays[name], _DTYPES[code])
            trace._columns[name] = array(code, column.tobytes())
        return trace
