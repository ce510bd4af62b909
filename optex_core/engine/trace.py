"""The report of a run: one record for each iteration, and their columns as arrays."""

from __future__ import annotations

import dataclasses
import math
import operator
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from optex_core._validation import integer, short_repr
from optex_core.errors import ArgumentError, ArgumentTypeError

if TYPE_CHECKING:
    import os

    from matplotlib.figure import Figure


@dataclasses.dataclass(slots=True)
class IterationRecord:
    """The report of one iteration, a row of the trace; nan where a number does not exist."""

    iteration: int = 0  # k
    #: At theta_k: the value, and max |g| (under bounds: of the projected gradient).
    value: float = math.nan
    gradient_norm: float = math.nan
    evaluations: int = 0  # gradients evaluated in the iteration
    accepted: int = 0  # optimizer steps taken from theta_k to theta_{k+1}
    window: int = 0  # optimizer steps predicted
    #: Mean of |mu(z_j) - g_j| / |g_j| over the predicted points, mu from before g_j was known.
    prediction_error: float = math.nan
    #: The estimator's settings: length in units of x / x_scale, noise / amplitude, gamma.
    length_scale: float = math.nan
    noise: float = math.nan
    curvature: float = math.nan
    step_norm: float = math.nan  # |theta_{k+1} - theta_k|, in units of x / x_scale
    #: Seconds: of the slowest gradient, of the whole iteration, of overhead in it.
    slowest: float = math.nan
    seconds: float = math.nan
    overhead: float = math.nan
    note: str = ""  # what is out of the ordinary: a fallback, a shortened window


#: Name -> default of every column.
COLUMNS: dict[str, object] = {f.name: f.default for f in dataclasses.fields(IterationRecord)}


_NUMBERS = [name for name in COLUMNS if name != "note"]
_DTYPE = np.dtype([(name, type(COLUMNS[name])) for name in _NUMBERS])
_numbers_of = operator.attrgetter(*_NUMBERS)


class _Column:
    """A field of the records as a read-only array with one entry per row."""

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    def __get__(self, trace: Trace, owner: type) -> np.ndarray:
        column: np.ndarray = trace._rows[self.name][: len(trace)]
        column.flags.writeable = False
        return column


class Trace:
    """Rows of a run: row k describes theta_k and the iteration that started there.

    The last row of a finished run is its final evaluation. Every field of `IterationRecord` is an
    attribute, an array of shape (rows,); `note` is a tuple of texts. ``trace[k]`` is one record.

    Examples
    --------
    >>> from optex_core.engine.trace import IterationRecord, Trace
    >>> history = Trace()
    >>> history.append(IterationRecord(0, value=4.0, evaluations=1, accepted=1, window=1))
    >>> history.append(IterationRecord(1, value=1.0, evaluations=3, accepted=5, window=6))
    >>> history.value.tolist(), history.gradients.tolist()
    ([4.0, 1.0], [0, 1])
    """

    iteration = _Column()
    value = _Column()
    gradient_norm = _Column()
    evaluations = _Column()
    accepted = _Column()
    window = _Column()
    prediction_error = _Column()
    length_scale = _Column()
    noise = _Column()
    curvature = _Column()
    step_norm = _Column()
    slowest = _Column()
    seconds = _Column()
    overhead = _Column()

    def __init__(self) -> None:
        self._rows, self._notes = np.empty(16, _DTYPE), list[str]()
        self._length, self._shared = 0, False

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

    def append(self, row: IterationRecord) -> None:
        """Add a copy of `row`."""
        if not isinstance(row, IterationRecord):
            raise ArgumentTypeError(
                f"a trace takes records of type IterationRecord, got {short_repr(row)}"
            )
        if self._shared or self._length == len(self._rows):
            self._move()
        self._rows[self._length] = _numbers_of(row)
        self._notes.append(row.note)
        self._length += 1

    def _move(self) -> None:
        """Go to memory of its own with room for more rows. A snapshot has that of its trace, which
        writes behind the snapshot's end.
        """
        n, self._shared = self._length, False
        rows = np.empty(max(16, 2 * n), _DTYPE)
        rows[:n] = self._rows[:n]
        self._rows, self._notes = rows, self._notes[:n]

    def set_last_timing(self, seconds: float, overhead: float) -> None:
        """Set a driver's clock in the last row; snapshots that hold the row see it too."""
        if self._length:
            if self._shared:
                self._move()
            last = self._rows[self._length - 1]
            last["seconds"], last["overhead"] = seconds, overhead

    def snapshot(self) -> Trace:
        """The trace as it is now: rows added later to one of the two do not show in the other."""
        copy = Trace()
        copy._rows, copy._notes = self._rows, self._notes
        copy._length, copy._shared = self._length, True
        return copy

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, k: int) -> IterationRecord:
        k = range(self._length)[integer("the row of a trace", k)]
        return IterationRecord(*(*self._rows[k].item(), self._notes[k]))

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(
            f"a Trace has no attribute {name!r}; its columns are {', '.join(COLUMNS)}"
        )

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
            f"Trace({len(self)} rows, value {self.value[0]:.6g} -> {self.value[-1]:.6g},"
            f" {int(self.evaluations.sum())} gradients)"
        )

    def __reduce__(self) -> tuple[object, ...]:
        return Trace.from_arrays, (self.to_arrays(),)

    def to_arrays(self) -> dict[str, np.ndarray]:
        """All columns by name; notes are text, so that no file needs pickle."""
        columns = {name: getattr(self, name).copy() for name in _NUMBERS}
        return {**columns, "note": np.array(self.note, np.str_)}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, Any]) -> Trace:
        """Make the trace of columns, shape (rows,) each, that `to_arrays` has written.

        One that is missing holds the record's default, so that files written before it existed stay
        readable. ArgumentError for a column that no trace has, or columns of different lengths.
        """
        if unknown := sorted(set(arrays) - set(COLUMNS)):
            raise ArgumentError(
                f"a trace has no column {unknown[0]!r}; its columns are {', '.join(COLUMNS)}"
            )
        shapes = {name: np.shape(column) for name, column in arrays.items()}
        if any(len(shape) != 1 for shape in shapes.values()) or len(set(shapes.values())) > 1:
            raise ArgumentError(
                "the columns of a trace must be one-dimensional and equally long, got shapes"
                f" {shapes}"
            )
        trace = cls()
        n = trace._length = next(iter(shapes.values()), (0,))[0]
        trace._rows = np.empty(n, _DTYPE)
        for name in _NUMBERS:
            trace._rows[name] = arrays.get(name, COLUMNS[name])
        trace._notes = [str(text) for text in arrays.get("note", [""] * n)]
        return trace

    def plot(
        self,
        path: str | os.PathLike[str] | None = None,
        baseline: Trace | Mapping[str, Trace] | None = None,
    ) -> Figure:
        """Plot the run, and `baseline` runs by label beside it, to `path`, whose suffix decides the
        format (.png, .pdf, .svg). No window is opened and no global state touched;
        MissingExtraError without matplotlib.
        """
        from optex_core.engine.plots import plot_trace

        others = {"baseline": baseline} if isinstance(baseline, Trace) else baseline
        return plot_trace(self, baselines=others, path=path)
