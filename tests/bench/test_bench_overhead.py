"""`bench overhead`: the floor counted by hand, one small cell measured for real, its table."""

from __future__ import annotations

import json

import pytest

from optex_core.bench.overhead import main, plan, report, run
from optex_core.bench.overhead.cell import PHASES, Cell, floor_bytes
from optex_core.errors import ArgumentError

D, T0, N = 1000, 20, 5
ROWS = T0 * D * 4  # bytes of one history in float32


def test_the_floor_of_the_paper_with_adam() -> None:
    moved = floor_bytes(Cell("numba", D, T0, N), predicted=5, replayed=1, slots=2, affine=False)
    # Four proxies read both histories and take a step each (reads x, g, m, v, writes x, m, v); one
    # pass for the new rows; five gradients copied.
    assert moved == {
        "predict": 4 * (2 * ROWS + 28 * D),
        "tune": 0.0,
        "intake": 40 * D,
        "record": ROWS,
        "advance": 28 * D,
    }
    assert tuple(moved) == PHASES


def test_parameter_rows_cost_nothing_with_kernel_dims() -> None:
    moved = floor_bytes(
        Cell("numba", D, T0, N, kernel_dims=10), predicted=5, replayed=1, slots=2, affine=False
    )
    assert (moved["predict"], moved["record"]) == (4 * (ROWS + 28 * D), 0.0)


def test_the_floor_of_a_replay() -> None:
    moved = floor_bytes(
        Cell("numba", D, T0, N, strategy="verified", window=10),
        predicted=10,
        replayed=7,
        slots=2,
        affine=False,
    )
    assert moved["predict"] == 9 * (3 * ROWS + 28 * D)
    assert moved["advance"] == 28 * D + 6 * (3 * ROWS + 28 * D)


def test_an_affine_optimizer_reads_the_histories_once_for_all_points() -> None:
    moved = floor_bytes(
        Cell("numba", D, T0, N, optimizer="nesterov"), predicted=5, replayed=1, slots=1, affine=True
    )
    assert (moved["predict"], moved["record"], moved["advance"]) == (
        2 * ROWS + 16 * D,
        2 * ROWS,
        20 * D,
    )


def test_extents() -> None:
    assert {c.d for c in plan("default", None, ["numpy", "numba"])} == {10**3, 10**4, 10**5, 10**6}
    full = plan("full", None, ["numba"])
    assert {(c.history, c.parallelism, c.dtype) for c in full} == {
        (t, n, f) for t in (20, 50) for n in (5, 20) for f in ("float32", "float64")
    }
    assert max(2 * c.history * c.d * 4 for c in full) <= 6e9
    with pytest.raises(ArgumentError, match="unknown part"):
        main(["--parts", "memory"])


def test_a_cell_in_a_process_of_its_own() -> None:
    good = run(Cell("numpy", 300, 6, 3, seconds=0.05))
    assert good["rounds"] >= 5
    assert good["window"] == 3
    assert 0 < good["fastest"] <= good["seconds"]
    assert good["ratio"] == pytest.approx(good["fastest"] / good["floor"])
    assert good["floor"] == pytest.approx(sum(good["moved"].values()) / good["copy"])
    bad = run(Cell("numpy", 300, 6, 3, dtype="float16", seconds=0.05))
    assert "error" in bad
    text = report({"rounds": [good, bad], "lookahead": [], "compile": []})
    assert "numpy float32 d=3e2 T0=6 N=3 paper adam" in text
    assert text.count(bad["error"]) == 1
    json.dumps(good, allow_nan=False)


def test_the_default_method_is_measured_and_failures_are_named(tmp_path, capsys) -> None:
    assert main(["--parts", "lookahead", "-d", "50", "--output", str(tmp_path)]) == 0
    (row,) = json.loads((tmp_path / "overhead.json").read_text())["lookahead"]
    assert row["d"] == 50
    assert row["dtype"] == "float64"
    assert 0 < row["fastest"] <= row["own"]
    assert row["processor"] > 0
    assert "Own work of a round of the default method, N = 8" in capsys.readouterr().out
    text = report({"rounds": [], "lookahead": [row, {"d": 7, "error": "no memory"}], "compile": []})
    assert "7: no memory" in text
