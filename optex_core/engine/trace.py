"""What a run leaves behind, round by round: one array for each field of `IterationRecord`."""

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
COLUMNS: dict[str, Any] = {
    f.name: 0 if f.default is dataclasses.MISSING else f.default
    for f in dataclasses.fields(IterationRecord)
}
_DTYPES = {int: np.int64, float: np.float64}
#: The fields of a record that are columns of numbers, in order.
_numeric_values = operator.attrgetter(
    *(name for name, default in COLUMNS.items() if type(default) in _DTYPES)
)


class Trace:
    """The history of a run: row k describes theta_k and the round that started there; the last row
    of a finished run is its closing point.

    Every field of `IterationRecord` is an attribute, a read-only array with one entry per row, nan
    where a number does not exist. Rows are only ever added. Appending is amortised O(1), and
    `snapshot` is O(1), so a callback may be handed the whole history in each round.

    Attributes
    ----------
    iteration : array, shape (rows,), int64
        k.
    value, gradient_norm : array, shape (rows,), float64
        At theta_k: the value, and max |g| (under bounds: of the projected gradient).
    evaluations : array, shape (rows,), int64
        Gradients told in the round.
    accepted, window : array, shape (rows,), int64
        Optimizer steps taken from theta_k to theta_{k+1}, and steps predicted.
    prediction_error : array, shape (rows,), float64
        Mean of |mu(z_j) - g_j| / |g_j| over the predicted points.
    length_scale, noise, curvature : array, shape (rows,), float64
        The estimator's settings.
    step_norm : array, shape (rows,), float64
        |theta_{k+1} - theta_k|, in units of x / x_scale.
    slowest, seconds, overhead : array, shape (rows,), float64
        Seconds: of the slowest gradient, of the whole round, of the engine's own work.
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
        self._length = 0
        self._owned = True
        self._notes: list[str] = []
        self._columns = {
            name: np.empty(16, _DTYPES[type(default)])
            for name, default in COLUMNS.items()
            if type(default) in _DTYPES
        }

    def append(self, row: IterationRecord) -> None:
        """Add a copy of `row`: later changes of the record do not reach the trace."""
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
        """Add a driver's clock to the last row, which the engine, having none, left nan; snapshots
        that hold the row see it too.
        """
        if not self._length:
            return
        if not self._owned:
            self._grow()
        self._columns["seconds"][self._length - 1] = seconds
        self._columns["overhead"][self._length - 1] = overhead

    def _grow(self) -> None:
        """Move to larger buffers of its own: a snapshot shares those of the trace it came from,
        which goes on writing behind the snapshot's end.
        """
        n = self._length
        self._columns = {
            name: np.concatenate([column[:n], np.empty(max(16, n), column.dtype)])
            for name, column in self._columns.items()
        }
        self._notes = self._notes[:n]
        self._owned = True

    def snapshot(self) -> Trace:
        """The trace as it is now, O(1): rows added to either of the two later do not show in the
        other.
        """
        copy = Trace.__new__(Trace)
        copy._columns, copy._notes, copy._length, copy._owned = (
            self._columns,
            self._notes,
            self._length,
            False,
        )
        return copy

    def __getattr__(self, name: str) -> np.ndarray:
        if name in COLUMNS and name != "note":
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
        """What was out of the ordinary in each round, "" if nothing."""
        return tuple(self._notes[: self._length])

    @property
    def gradients(self) -> np.ndarray:
        """Gradients spent before theta_k was reached, shape (rows,), int64: what value and
        gradient_norm of row k have cost.
        """
        return np.cumsum(self.evaluations) - self.evaluations

    @property
    def ideal_seconds(self) -> np.ndarray:
        """Seconds until theta_k was reached if all gradients of a round ran at once, shape (rows,),
        float64.

        The sum over earlier rounds of the slowest gradient and the engine's own work; what no clock
        has measured counts as zero.
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
            f"Trace({self._length} rows, value {self.value[0]:.6g} -> "
            f"{self.value[-1]:.6g}, {int(self.evaluations.sum())} gradients)"
        )

    def __getstate__(self) -> dict[str, np.ndarray]:
        return self.to_arrays()

    def __setstate__(self, state: dict[str, np.ndarray]) -> None:
        read = Trace.from_arrays(state)
        self._columns, self._notes, self._length, self._owned = (
            read._columns,
            read._notes,
            read._length,
            True,
        )

    def to_arrays(self) -> dict[str, np.ndarray]:
        """Copies of all columns by name, ready for ``numpy.savez``; notes are text, so no file
        needs pickle.
        """
        arrays = {name: getattr(self, name).copy() for name in self._columns}
        arrays["note"] = np.array(self.note, dtype=np.str_)
        return arrays

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, Any]) -> Trace:
        """The trace that `to_arrays` has written.

        Parameters
        ----------
        arrays : mapping of str to array, each of shape (rows,)
            Columns by name. One that is missing holds the record's default, so that files written
            before it existed stay readable.

        Raises
        ------
        ArgumentError
            For a column that no trace has, or columns of different lengths.
        """
        unknown = sorted(set(arrays) - set(COLUMNS))
        if unknown:
            raise ArgumentError(
                f"a trace has no column {unknown[0]!r}; its columns are {', '.join(COLUMNS)}"
            )
        lengths = {name: np.shape(arrays[name]) for name in arrays}
        if any(len(shape) != 1 for shape in lengths.values()) or len(set(lengths.values())) > 1:
            raise ArgumentError(
                f"the columns of a trace must be one-dimensional and equally long, got "
                f"shapes {lengths}"
            )
        n = next(iter(lengths.values()), (0,))[0]
        trace = cls()
        trace._length = n
        for name, column in trace._columns.items():
            trace._columns[name] = np.array(
                arrays.get(name, np.full(n, COLUMNS[name])), column.dtype
            )
        trace._notes = [str(text) for text in arrays.get("note", [""] * n)]
        return trace

    def plot(
        self,
        path: str | os.PathLike[str] | None = None,
        baseline: Trace | Mapping[str, Trace] | None = None,
    ) -> Figure:
        """Draw the run, and other runs beside it; see `plots.plot_trace`.

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

        return plot_trace(
            self,
            baselines={"baseline": baseline} if isinstance(baseline, Trace) else baseline,
            path=path,
        )
