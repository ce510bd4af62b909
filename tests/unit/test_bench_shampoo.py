"""The benchmark of Shampoo: it runs, its files say what its table says, and its problems have the gradients they claim."""

from __future__ import annotations

import importlib.util
import json

import numpy as np
import pytest

from optex_core.bench import BENCHES
from optex_core.bench._matrices import TASKS
from optex_core.errors import ArgumentError

needs_data = pytest.mark.skipif(importlib.util.find_spec("sklearn") is None, reason="scikit-learn is not installed")


def test_steps_are_compared_and_saved(tmp_path, capsys):
    assert BENCHES["shampoo"](["--quick", "--tasks", "ill_conditioned", "--parts", "steps", "--output", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    found = json.loads((tmp_path / "shampoo.json").read_text())["tasks"]["ill_conditioned"]
    assert found["Adam"]["reached"] == [65.0, 135.0, 200.0]  # goals are Adam's own, at a third, two thirds and all of 200 steps
    assert all(s < a for s, a in zip(found["Shampoo"]["reached"], found["Adam"]["reached"], strict=True))
    assert found["title"] in printed
    assert (tmp_path / "shampoo.txt").read_text() in printed
    if importlib.util.find_spec("matplotlib") is not None:
        assert (tmp_path / "shampoo.png").stat().st_size > 5_000


def test_step_times_are_measured_and_saved(tmp_path, capsys):
    options = ["--quick", "--parts", "times", "--tiles", "2", "--size", "16", "--interval", "2", "--output", str(tmp_path)]
    assert BENCHES["shampoo"](options) == 0
    ways = json.loads((tmp_path / "shampoo.json").read_text())["times"]["ways"]
    assert {"products alone", "no roots", "spread", "one process, delay = interval"} <= set(ways)
    assert ways["products alone"]["over_products"] == 1.0
    assert all(one["worst"] >= one["median"] > 0 for one in ways.values())
    assert "p95 / median" in capsys.readouterr().out


@needs_data
@pytest.mark.parametrize("name", list(TASKS))
def test_the_gradients_are_those_of_the_values(name):
    task = TASKS[name][2](0)
    x, rng = task.start, np.random.default_rng(1)
    direction = rng.standard_normal(len(x))
    direction /= np.linalg.norm(direction)
    h = 1e-5
    slope = (task.gradient(x + h * direction, 3)[0] - task.gradient(x - h * direction, 3)[0]) / (2 * h)
    assert task.gradient(x, 3)[1] @ direction == pytest.approx(slope, rel=1e-5, abs=1e-8)
    assert np.isfinite(task.value(x))


@pytest.mark.parametrize(("options", "sentence"), [(["--tasks", "netwrk"], "did you mean 'network'"), (["--parts", "time"], "did you mean 'times'")])
def test_a_wrong_name_is_refused(options, sentence):
    with pytest.raises(ArgumentError, match=sentence):
        BENCHES["shampoo"](options)
