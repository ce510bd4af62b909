"""`optex-core bench lbfgs`: rounds are counted as SciPy's evaluations are."""

from __future__ import annotations

import json

import numpy as np

from optex_core.bench import lbfgs


def test_it_measures_prints_and_saves(tmp_path, monkeypatch, capsys) -> None:
    few = (("beale", {}, False), ("rosenbrock", {"d": 4}, True))
    monkeypatch.setattr(lbfgs, "PROBLEMS", few)
    assert lbfgs.main(["-N", "1,4", "--output", str(tmp_path)]) == 0
    text = capsys.readouterr().out
    document = json.loads((tmp_path / "lbfgs.json").read_text())
    assert [row["title"] for row in document["rows"]] == ["beale()", "rosenbrock(d=4)"]
    assert "held out" in text
    for row in document["rows"]:
        assert row["lbfgsb"] == sorted(row["lbfgsb"])
        for kind in ("rounds", "gradients", "own_ms"):
            assert set(row[kind]) == {"1", "4"}
        # N = 1: one gradient a round and that of the start; N = 4: the start alone, then up to 4.
        assert row["gradients"]["1"] == [k + 1 for k in row["rounds"]["1"]]
        for rounds, gradients in zip(row["rounds"]["4"], row["gradients"]["4"], strict=True):
            assert rounds + 1 <= gradients <= 4 * rounds + 1
        assert row["own_ms"]["4"] > 0
    assert "L-BFGS-B" in text.split("own work")[1]


def test_a_missed_goal_counts_a_fifth() -> None:
    row = {"lbfgsb": [1, 4, 9], "rounds": {"4": [0, 4, None]}}
    assert np.allclose(lbfgs.ratios(row, 4), [2.0, 1.0, 0.2])


def test_thirty_problems_half_of_them_held_out() -> None:
    held = [flag for _, _, flag in lbfgs.PROBLEMS]
    assert (len(held), sum(held)) == (30, 15)
    assert len({(name, *sorted(settings.items())) for name, settings, _ in lbfgs.PROBLEMS}) == 30
