"""`optex-core bench lbfgs`: rounds are counted as SciPy's evaluations are."""

from __future__ import annotations

import json

import numpy as np

from optex_core.bench import BENCHES, lbfgs


def test_it_measures_prints_and_saves(tmp_path, monkeypatch, capsys) -> None:
    few = (("beale", {}, False), ("rosenbrock", {"d": 4}, True))
    monkeypatch.setattr(lbfgs, "PROBLEMS", few)
    assert BENCHES["lbfgs"](["-N", "1,4", "--output", str(tmp_path)]) == 0
    text = capsys.readouterr().out
    document = json.loads((tmp_path / "lbfgs.json").read_text())
    assert [row["title"] for row in document["rows"]] == ["beale()", "rosenbrock(d=4)"]
    assert "held out" in text
    for row in document["rows"]:
        assert row["lbfgsb"] == sorted(row["lbfgsb"])
        assert set(row["rounds"]) == {"1", "4"}


def test_a_missed_goal_counts_a_fifth() -> None:
    row = {"lbfgsb": [1, 4, 9], "rounds": {"4": [0, 4, None]}}
    assert np.allclose(lbfgs.ratios(row, 4), [2.0, 1.0, 0.2])
