"""History of a run: one array for each field of `IterationRecord`."""

from __future__ import annotations

import dataclasses
import operator
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from optex_core._validation import short_repr
from optex_core.engine.records import IterationRecord
from optex_core.errors import ArgumentError, ArgumentTypeError

if TYPE_CHECKING:
    import os

    from matplotlib.figure import Figure

#: Name -> default of every column, in the order of the record; the default's type decides the
#: dtype: int64, float64 or text.
COLUMNS: dict[str, object] = {
    f.name: 0 if f.default is dataclasses.MISSING else f.default
    for f in dataclasses.fields(IterationRecord)
}
_DTYPES = {
    name: {int: np.int64, float: np.float64}[type(default)]
    for name, default in COLUMNS.items()
    if name != "note"
}
_numeric_values = operator.attrgetter(*_DTYPES)


class Trace:
    """Rows of a run: row k describes theta_k and the iteration that started there.

    The last row of a finished run is its final evaluation. Every field of `IterationRecord` is an
    attribute, a read-only array with one entry per row, nan where a number does not exist. Rows are
    only ever added: `append` is amortised O(1) and `snapshot` is O(1).

    Attributes
    ----------
    iteration : array, shape (rows,), int64
        k.
    value, gradient_norm : array, shape (rows,), float64
        At theta_k: the value, and max |g| (under bounds: of the projected gradient).
    evaluations : array, shape (rows,), int64
        Gradients evaluated in the iteration.
    accepted, window : array, shape (rows,), int64
        Optimizer steps taken from theta_k to theta_{k+1}, and steps predicted.
    prediction_error : array, shape (rows,), float64
        Mean of |mu(z_j) - g_j| / |g_j| over the predicted points.
    length_scale, noise, curvature : array, shape (rows,), float64
        The estimator's settings.
    step_norm : array, shape (rows,), float64
        |theta_{k+1} - theta_k|, in units of x / x_scale.
    slowest, seconds, overhead : array, shape (rows,), float64
        Seconds: of the slowest gradient, of the whole iteration, of overhead in it.
    note : tuple of str
        What was out of the ordinary.

    Examples
    --------
    >>> from optex_core.engine.records import IterationRecord
    >>> from optex_core.engine.trace import Trace
    >>> history = Trace()
    >>> history.append(IterationRecord(0, value=4.0, evaluations=1, accepted=1, window=1))
    >>> history.append(IterationRecord(1, value=1.0, evaluations=3, accepted=5, window=6))
    >>> history.value.tolist(), history.gradients.tolist()
    ([4.0, 1.0], [0, 1])
    """

    __slots__ = ("_columns", "_length", "_notes", "_owned")

    # Served by __getattr__; named here for the type checker.
    iteration: np.ndarray
    value: np.ndarray
    gradient_norm: np.ndarray
    evaluations: np.ndarray
    accepted: np.ndarray
    window: np.ndarray
    prediction_error: np.ndarray
    length_scale: np.ndarray
    noise: np.ndarray
    curvature: np.ndarray
    step_norm: np.ndarray
    slowest: np.ndarray
    seconds: np.ndarray
    overhead: np.ndarray

    def __init__(self) -> None:
        self._length, self._owned = 0, True
        self._notes: list[str] = []
        self._columns = {name: np.empty(16, dtype) for name, dtype in _DTYPES.items()}

    def append(self, row: IterationRecord) -> None:
        """Add a copy of `row`."""
        if not isinstance(row, IterationRecord):
            raise ArgumentTypeError(
                f"a trace takes records of type IterationRecord, got {short_repr(row)}"
            )
        n = self._length
        if not self._owned or n == len(self._columns["iteration"]):
            self._grow()
        for column, number in zip(self._columns.values(), _numeric_values(row), strict=True):
            column[n] = number
        self._notes.append(row.note)
        self._length = n + 1

    def set_last_timing(self, seconds: float, overhead: float) -> None:
        """Set a driver's clock in the last row; snapshots that hold the row see it too."""
        if self._length:
            if not self._owned:
                self._grow()
            self._columns["seconds"][self._length - 1] = seconds
            self._columns["overhead"][self._length - 1] = overhead

    def _grow(self) -> None:
        """Move to larger buffers of its own: a snapshot shares those of its trace, which goes on
        writing behind the snapshot's end.
        """
        n = self._length
        self._columns = {
            name: np.concatenate([column[:n], np.empty(max(16, n), column.dtype)])
            for name, column in self._columns.items()
        }
        self._notes, self._owned = self._notes[:n], True

    def snapshot(self) -> Trace:
        """The trace as it is now: rows added later to one of the two do not show in the other."""
        copy = Trace.__new__(Trace)
        copy._columns, copy._notes = self._columns, self._notes
        copy._length, copy._owned = self._length, False
        return copy

    def __getattr__(self, name: str) -> np.ndarray:
        if name in _DTYPES:
            view = self._columns[name][: self._length]
            view.flags.writeable = False
            return view
        raise AttributeError(
            f"a Trace has no attribute {name!r}; its columns are {', '.join(COLUMNS)}"
        )

    def __dir__(self) -> list[str]:
        return sorted({*super().__dir__(), *COLUMNS})

    @property
    def note(self) -> tuple[str, ...]:
        """What was out of the ordinary in each iteration, "" if nothing."""
        return tuple(self._notes[: self._length])

    @property
    def gradients(self) -> np.ndarray:
        """Gradients evaluated before theta_k was reached, shape (rows,), int64."""
        return np.cumsum(self.evaluations) - self.evaluations

    @property
    def ideal_seconds(self) -> np.ndarray:
        """Seconds until theta_k was reached if all gradients of an iteration ran at once.

        The sum of the slowest gradients and of overhead over earlier iterations, shape (rows,),
        float64; what no clock has measured counts as zero.
        """
        spent = np.nan_to_num(self.slowest) + np.nan_to_num(self.overhead)
        return np.cumsum(spent) - spent

    def __len__(self) -> int:
        return self._length

    def __eq__(self, other: object) -> bool:
        """Equal rows, nan equal to nan."""
        if not isinstance(other, Trace):
            return NotImplemented
        mine, theirs = self.to_arrays(), other.to_arrays()
        return all(
            np.array_equal(mine[name], theirs[name], equal_nan=mine[name].dtype == np.float64)
            for name in COLUMNS
        )

    __hash__ = None  # type: ignore[assignment]  # it grows

    def __repr__(self) -> str:
        if not self._length:
            return "Trace(0 rows)"
        return (
            f"Trace({self._length} rows, value {self.value[0]:.6g} -> {self.value[-1]:.6g},"
            f" {int(self.evaluations.sum())} gradients)"
        )

    def __getstate__(self) -> dict[str, np.ndarray]:
        return self.to_arrays()

    def __setstate__(self, state: dict[str, np.ndarray]) -> None:
        found = Trace.from_arrays(state)
        self._columns, self._notes = found._columns, found._notes
        self._length, self._owned = found._length, True

    def to_arrays(self) -> dict[str, np.ndarray]:
        """Copies of all columns by name; notes are text, so that no file needs pickle."""
        arrays = {name: getattr(self, name).copy() for name in self._columns}
        return {**arrays, "note": np.array(self.note, dtype=np.str_)}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, Any]) -> Trace:
        """Make the trace of columns, shape (rows,) each, that `to_arrays` has written.

        One that is missing holds the record's default, so that files written before it existed stay
        readable. ArgumentError for a column that no trace has, or columns of different lengths.
        """
        unknown = sorted(set(arrays) - set(COLUMNS))
        if unknown:
            raise ArgumentError(
                f"a trace has no column {unknown[0]!r}; its columns are {', '.join(COLUMNS)}"
            )
        shapes = {name: np.shape(arrays[name]) for name in arrays}
        if any(len(shape) != 1 for shape in shapes.values()) or len(set(shapes.values())) > 1:
            raise ArgumentError(
                "the columns of a trace must be one-dimensional and equally long, got shapes"
                f" {shapes}"
            )
        trace = cls()
        n = trace._length = next(iter(shapes.values()), (0,))[0]
        for name, dtype in _DTYPES.items():
            trace._columns[name] = np.array(arrays.get(name, np.full(n, COLUMNS[name])), dtype)
        trace._notes = [str(text) for text in arrays.get("note", [""] * n)]
        return trace

    def plot(
        self,
        path: str | os.PathLike[str] | None = None,
        baseline: Trace | Mapping[str, Trace] | None = None,
    ) -> Figure:
        """Plot the run, and other runs beside it; see `plots.plot_trace`.

        Parameters
        ----------
        path : path-like, optional
            Where to save the picture; its suffix decides the format (.png, .pdf, .svg).
        baseline : Trace or mapping of label to Trace, optional
            Runs to compare with.

        Returns
        -------
        matplotlib.figure.Figure
            No window is opened and no global state of matplotlib is touched.

        Raises
        ------
        MissingExtraError
            If matplotlib is not installed.
        """
        from optex_core.engine.plots import plot_trace

        others = {"baseline": baseline} if isinstance(baseline, Trace) else baseline
        return plot_trace(self, baselines=others, path=path)
