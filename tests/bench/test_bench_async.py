"""`optex-core bench async_sgd`: small, but the real measurements, tables and JSON."""

from __future__ import annotations

import importlib.util
import json

import pytest

from optex_core.bench import async_sgd
from optex_core.errors import ArgumentError

TINY = {
    "sleeping": {"numbers": (2,), "engines": ("threads",), "pushes": 5, "seconds": 0.01},
    "loss": {"numbers": (1, 2), "cores": (2,), "gradients": 20_000},
    "rate": {"lengths": (100, 400), "settings": ((1, 0),), "seeds": 1},
    "peer": {
        "steps": (1.0,),
        "seeds": (1,),
        "repeats": 1,
        "n": 2_000,
        "d": 500,
        "inner_steps": 100,
    },
}  # fmt: skip


@pytest.mark.skipif(not importlib.util.find_spec("sklearn"), reason="scikit-learn is not installed")
def test_it_measures_prints_and_saves(tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.setitem(async_sgd.EXTENTS, "quick", TINY)
    options = ["--quick", "--parts", ",".join(TINY), "--output", str(tmp_path)]
    assert async_sgd.main(options) == 0
    text = capsys.readouterr().out
    document = json.loads((tmp_path / "async_sgd.json").read_text())
    assert (tmp_path / "async_sgd.txt").read_text() in text
    figures = document["figures"]
    assert list(figures) == list(TINY)
    # of 50 ms: a pause at the push where it begins makes any number above one, too
    assert figures["sleeping"][0]["efficiency"] > 0
    assert sum(figures["sleeping"][0]["histogram"]) == 10
    serial, two, *_ = figures["loss"]
    assert serial["against serial"] == 0.0
    assert two["mean delay"] > 0.9
    assert abs(two["against serial"]) < 0.02
    assert two["a L"] < two["cap"]
    above = figures["loss"][-1]
    assert above["a L"] > 0.5
    assert figures["rate"][0]["measured"] < figures["rate"][0]["bound"]
    theirs, _, drawn, one, two = figures["peer"]
    assert one["loss"] == pytest.approx(theirs["loss"], rel=0.01)  # the same algorithm
    assert two["loss"] == pytest.approx(one["loss"], rel=0.05)
    assert drawn["loss"] > one["loss"]
    assert -0.7 < document["slopes"]["B=1, D=0"] < -0.3


def test_without_scikit_learn_its_part_is_left_out(tmp_path, monkeypatch, capsys) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "sklearn" else found(name)
    )
    few = {part: async_sgd.PARTS[part] for part in ("rate", "peer")}
    monkeypatch.setattr(async_sgd, "PARTS", few)
    monkeypatch.setitem(async_sgd.EXTENTS, "quick", TINY)
    assert async_sgd.main(["--quick", "--output", str(tmp_path)]) == 0
    assert list(json.loads((tmp_path / "async_sgd.json").read_text())["figures"]) == ["rate"]
    assert "peer is left out: scikit-learn is not installed" in capsys.readouterr().err


def test_an_unknown_part_is_named() -> None:
    with pytest.raises(ArgumentError, match="did you mean 'rate'"):
        async_sgd.main(["--parts", "rates"])
