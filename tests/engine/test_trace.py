"""The history of a run, its form on disk, and its picture."""

from __future__ import annotations

import copy
import dataclasses
import math
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from optex_core.engine.plots import plot_trace
from optex_core.engine.trace import COLUMNS, IterationRecord, Trace
from optex_core.errors import ArgumentError, ArgumentTypeError, MissingExtraError

FIELDS = {f.name: f for f in dataclasses.fields(IterationRecord)}
VALUES = {
    int: st.integers(0, 2**40),
    float: st.floats(),
    str: st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=5),
}
ROUNDS = st.builds(
    IterationRecord, **{name: VALUES[type(default)] for name, default in COLUMNS.items()}
)


def same(a: object, b: object) -> bool:
    return a == b or (
        isinstance(a, float) and isinstance(b, float) and math.isnan(a) and math.isnan(b)
    )


def filled(rows: int = 20, **more: object) -> Trace:
    trace = Trace()
    for k in range(rows):
        last = k == rows - 1
        trace.append(
            IterationRecord(
                k,
                value=2.0**-k,
                gradient_norm=3.0**-k,
                evaluations=1 if last else 4,
                accepted=0 if last else 3,
                window=0 if last else 5,
                prediction_error=0.1 if k else math.nan,
                slowest=0.2,
                seconds=0.5,
                overhead=0.1,
                **more,  # type: ignore[arg-type]
            )
        )
    return trace


def test_columns_are_the_fields_of_the_record() -> None:
    assert list(COLUMNS) == list(FIELDS)
    assert set(FIELDS) <= set(dir(Trace()))


@given(st.lists(ROUNDS, max_size=40))
def test_rows_come_back_as_they_were(rows: list[IterationRecord]) -> None:
    trace = Trace()
    for row in rows:
        trace.append(row)
    assert len(trace) == len(rows)
    for name in FIELDS:
        column = getattr(trace, name)
        assert all(
            same(got if isinstance(got, str) else got.item(), getattr(row, name))
            for got, row in zip(column, rows, strict=True)
        )
    assert Trace.from_arrays(trace.to_arrays()) == trace
    assert pickle.loads(pickle.dumps(trace)) == trace


@given(st.lists(st.sampled_from(["append", "snapshot", "append to snapshot"]), max_size=60))
def test_snapshots_are_lists_of_their_own(actions: list[str]) -> None:
    # Against the plain model: a snapshot is a copied list.
    pairs: list[tuple[Trace, list[int]]] = [(Trace(), [])]
    for k, action in enumerate(actions):
        if action == "snapshot":
            trace, model = pairs[0]
            pairs.append((trace.snapshot(), list(model)))
        else:
            trace, model = pairs[0 if action == "append" else -1]
            trace.append(IterationRecord(k, note=str(k)))
            model.append(k)
    for trace, model in pairs:
        assert trace.iteration.tolist() == model
        assert trace.note == tuple(map(str, model))


def test_columns_are_read_only_and_rows_are_copied() -> None:
    trace, row = Trace(), IterationRecord(0, value=1.0)
    trace.append(row)
    row.value = 2.0
    assert trace.value.tolist() == [1.0]
    with pytest.raises(ValueError, match="read-only"):
        trace.value[0] = 3.0
    with pytest.raises(AttributeError, match="no attribute 'valu'"):
        trace.valu  # noqa: B018
    with pytest.raises(ArgumentTypeError, match=r"records of type IterationRecord"):
        trace.append({"value": 1.0})  # type: ignore[arg-type]


def test_what_a_row_has_cost() -> None:
    trace = filled(4)
    # theta_0 has cost nothing; what a round spends is counted from the next row on.
    assert trace.gradients.tolist() == [0, 4, 8, 12]
    # 0.2 s for the slowest gradient and 0.1 s of our own in each round; the tolerance is the
    # rounding of three additions.
    np.testing.assert_allclose(
        trace.ideal_seconds, [0.0, 0.3, 0.6, 0.9], rtol=4 * np.finfo(float).eps
    )


def test_a_driver_times_the_last_row() -> None:
    trace = Trace()
    trace.set_last_timing(1.0, 0.1)
    assert len(trace) == 0
    trace.append(IterationRecord(0))
    trace.append(IterationRecord(1))
    trace.set_last_timing(1.0, 0.25)
    assert math.isnan(trace.seconds[0])
    assert (trace.seconds[1], trace.overhead[1]) == (1.0, 0.25)


def test_damaged_columns_are_refused() -> None:
    arrays = filled(3).to_arrays()
    with pytest.raises(ArgumentError, match="no column 'valeu'"):
        Trace.from_arrays({**arrays, "valeu": arrays["value"]})
    with pytest.raises(ArgumentError, match="equally long"):
        Trace.from_arrays({**arrays, "value": arrays["value"][:-1]})
    # Files from before a column existed stay readable.
    del arrays["note"], arrays["curvature"]
    old = Trace.from_arrays(arrays)
    assert np.isnan(old.curvature).all()
    assert old.note == ("", "", "")


def test_files_need_no_pickle(tmp_path: Path) -> None:
    trace = filled(3, note="fell back to the plain step")
    np.savez(tmp_path / "t.npz", **trace.to_arrays())  # type: ignore[arg-type]
    with np.load(tmp_path / "t.npz", allow_pickle=False) as arrays:
        assert Trace.from_arrays(dict(arrays)) == trace


def test_picture_shows_every_run(tmp_path: Path) -> None:
    figure = filled().plot(tmp_path / "run.png", baseline={"adam alone": filled(50)})
    assert (tmp_path / "run.png").stat().st_size > 10_000
    assert len(figure.axes) == 7
    for axes in figure.axes[:4]:
        assert [line.get_label() for line in axes.get_lines()] == ["this run", "adam alone"]
        assert axes.get_yscale() == "log"
    assert all(axes.get_xlabel() for axes in figure.axes)
    assert all(axes.get_ylabel() for axes in figure.axes)
    # A wrapped single trace is a baseline too.
    assert filled().plot(baseline=filled(5)).axes[0].get_lines()[1].get_label() == "baseline"


def test_values_that_level_off_are_drawn_above_the_lowest() -> None:
    trace = Trace()
    for k in range(5):
        trace.append(IterationRecord(k, value=7.0 + 10.0**-k))
    # Down to 2^-19 of a start of 8: as good as zero.
    assert filled(20).plot(baseline=trace).axes[0].get_ylabel() == "value"
    axes = trace.plot().axes[0]
    assert axes.get_ylabel() == "value above the lowest, 7.0001"
    assert axes.get_yscale() == "log"
    assert len(axes.get_lines()[0].get_ydata()) == 4


def test_picture_of_little(tmp_path: Path) -> None:
    only = Trace()
    only.append(IterationRecord(0, value=-1.0, evaluations=1))
    figure = plot_trace(only, title="one row", path=tmp_path / "one.svg")
    assert figure.axes[0].get_yscale() == "linear"
    texts = [text.get_text() for axes in figure.axes for text in axes.texts]
    assert texts == ["no error was measured", "no clock was running"]
    with pytest.raises(ArgumentError, match="no rows"):
        plot_trace(Trace())


def test_picture_touches_no_global_state() -> None:
    code = (
        "import sys\n"
        "from optex_core.engine.trace import IterationRecord\n"
        "from optex_core.engine.trace import Trace\n"
        "t = Trace(); t.append(IterationRecord(0, value=1.0)); t.plot()\n"
        "sys.exit('matplotlib.pyplot' in sys.modules)"
    )
    assert (
        subprocess.run(
            [sys.executable, "-W", "error", "-c", code], check=False, timeout=600
        ).returncode
        == 0
    )


def test_missing_matplotlib_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(MissingExtraError, match=r"optex_core\[cli\]"):
        filled(2).plot()


def test_a_row_is_taken_by_its_number_and_a_column_by_its_name() -> None:
    trace = filled(3)
    assert repr(trace[-1]) == repr(trace[2]) != repr(trace[1])
    with pytest.raises(IndexError):
        trace[3]
    with pytest.raises(ArgumentTypeError, match="the row of a trace must be an integer"):
        trace[1:]  # type: ignore[index]
    with pytest.raises(AttributeError, match="no attribute 'loss'; its columns are iteration, val"):
        _ = trace.loss


def test_snapshots_share_memory_and_no_rows_that_come_later() -> None:
    trace = filled(3)
    before = trace.snapshot()
    trace.append(IterationRecord(3, value=7.0, note="later"))
    before.append(IterationRecord(3, value=8.0))
    before.set_last_timing(1.0, 0.5)
    assert (trace.value[-1], before.value[-1]) == (7.0, 8.0)
    assert (trace.note[-1], before.note[-1]) == ("later", "")
    assert np.isnan(trace.seconds[-1])
    assert copy.copy(trace) == trace == pickle.loads(pickle.dumps(trace))
