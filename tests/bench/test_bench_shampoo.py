"""The benchmark of Shampoo: it runs, its files say what its table says, and its problems have the
gradients they claim.
"""

from __future__ import annotations

import importlib.util
import json
import sys

import numpy as np
import pytest
from threadpoolctl import threadpool_limits

from optex_core.bench import shampoo
from optex_core.bench._result_store import Store
from optex_core.bench.shampoo import losses, tuning
from optex_core.bench.shampoo.tasks import TASKS
from optex_core.bench.shampoo.tuning import compared, seconds, steps_to, trained
from optex_core.errors import ArgumentError, MissingExtraError

needs_data = pytest.mark.skipif(
    importlib.util.find_spec("sklearn") is None, reason="scikit-learn is not installed"
)


def test_steps_are_compared_and_saved(tmp_path, capsys):
    options = ["--quick", "--tasks", "ill_conditioned", "--parts", "steps"]
    assert shampoo.main([*options, "--output", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    found = json.loads((tmp_path / "shampoo.json").read_text())["tasks"]["ill_conditioned"]
    assert len(found["goals"][0]) == 1
    # goals are Adam's own
    assert all(
        0 < steps <= mark
        for steps, mark in zip(found["Adam"]["reached"], (65, 135, 200), strict=True)
    )
    trials = [
        json.loads(line)["key"] for line in (tmp_path / "trials.jsonl").read_text().splitlines()
    ]
    assert len(set(trials)) == 2 * found["trials"] == 24
    assert all(
        s < a for s, a in zip(found["Shampoo"]["reached"], found["Adam"]["reached"], strict=True)
    )
    assert found["title"] in printed
    assert (tmp_path / "shampoo.txt").read_text() in printed


def test_finished_trials_are_not_run_again(tmp_path, monkeypatch):
    rates, store = [1.0], Store(tmp_path / "trials.jsonl", resume=True)
    with threadpool_limits(limits=1, user_api="blas"):
        whole = compared("ill_conditioned", 1, rates, store)
    lines = (tmp_path / "trials.jsonl").read_text().splitlines()
    (tmp_path / "trials.jsonl").write_text("\n".join(lines[:-3]))  # stopped before the end
    run = []
    monkeypatch.setattr(tuning, "trained", lambda *a: run.append(a) or trained(*a))
    again = Store(tmp_path / "trials.jsonl", resume=True)
    with threadpool_limits(limits=1, user_api="blas"):
        assert compared("ill_conditioned", 1, rates, again) == whole
    assert len(run) == 3


def test_a_goal_that_is_not_reached_is_said_so():
    curves = np.array([[4.0, 2.0, 1.0], [4.0, 3.0, 3.0]])
    assert steps_to(curves, np.array([2.0, 2.0])) == [5.0, np.inf]


@needs_data
def test_losses_are_compared_and_saved(tmp_path, monkeypatch):
    monkeypatch.setattr(losses, "STEPS", 12)
    monkeypatch.setattr(losses, "BATCHES", {"batches of 64": 64})
    store = Store(tmp_path / "trials.jsonl", resume=False)
    found = losses.least_losses(2, [0.01, 0.1, 1e308], store)
    assert len(store.cells) == len(losses.ROWS) * 3 * 2 * 2
    assert store.cells["losses/batches of 64/Adam, b2 0.9/1e+308/0.9/0"]["loss"] is None
    for row in losses.ROWS:
        one = found[f"{row[0]}, b2 {row[1]:g}, batches of 64"]
        every = [
            [
                store.cells[f"losses/batches of 64/{one['row']}/{r}/{m}/{seed}"]["loss"]
                for seed in (0, 1)
            ]
            for r in ("0.01", "0.1")
            for m in ("0.8", "0.9")
        ]
        assert one["losses"] == min(every, key=lambda ends: ends[0] * ends[1])
        assert one["mean"] == pytest.approx(np.sqrt(np.prod(one["losses"])))
    assert losses.least_losses(2, [0.01, 0.1, 1e308], store) == found
    assert f"{found['SOAP, b2 0.9, batches of 64']['mean']:.2e}" in losses.losses_table(found)


def test_a_peer_that_is_not_installed_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(MissingExtraError, match="pip install torch pytorch_optimizer"):
        losses.optimizer_of_row(losses.PEER_ROWS[0], 0.1, 0.9, {"w": (2, 3)})


def test_the_peer_moves_every_tensor():
    pytest.importorskip("pytorch_optimizer", reason="pytorch_optimizer is not installed")
    target = np.arange(8.0)
    peer = losses.optimizer_of_row((losses.PEER, 0.9), 0.1, 0.9, {"w": (2, 3), "b": (2,)})
    x = np.zeros(8)
    state = peer.init(x)
    for _ in range(200):
        x, state = peer.step(x, x - target, state)
    assert np.abs(x - target).max() < 0.1


def test_seconds_are_measured():
    times = seconds(["ill_conditioned"], 1, ("Adam", "SOAP"))["ill_conditioned"]
    assert min(times.values()) > 0
    assert set(times) == {"gradient", "Adam", "SOAP"}


def test_step_times_are_measured_and_saved(tmp_path, capsys):
    sizes = ["--tiles", "2", "--size", "16", "--interval", "2"]
    options = ["--quick", "--parts", "times", *sizes, "--output", str(tmp_path)]
    assert shampoo.main(options) == 0
    document = json.loads((tmp_path / "shampoo.json").read_text())
    ways, small = document["times"]["ways"], document["small"]
    assert set(small) == {"Adam", "Shampoo, no roots", "SOAP, no bases"}
    assert 0 < small["Adam"] < small["Shampoo, no roots"]
    assert {"products alone", "no roots", "spread", "one process, delay = interval"} <= set(ways)
    assert ways["products alone"]["over_products"] == 1.0
    assert all(one["worst"] >= one["median"] > 0 for one in ways.values())
    out = capsys.readouterr().out
    assert "p95 / median" in out
    assert "A step on small tensors (64 x 64, 64, 64 x 10, 10)" in out


@needs_data
@pytest.mark.parametrize("name", list(TASKS))
def test_the_gradients_are_those_of_the_values(name):
    task = TASKS[name][2](0)
    x, rng = task.start, np.random.default_rng(1)
    direction = rng.standard_normal(len(x))
    direction /= np.linalg.norm(direction)
    h = 1e-5
    slope = (task.gradient(x + h * direction, 3)[0] - task.gradient(x - h * direction, 3)[0]) / (
        2 * h
    )
    assert task.gradient(x, 3)[1] @ direction == pytest.approx(slope, rel=1e-5, abs=1e-8)
    assert np.isfinite(task.value(x))


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--tasks", "netwrk"], "did you mean 'network'"),
        (["--parts", "time"], "did you mean 'times'"),
    ],
)
def test_a_wrong_name_is_refused(options, sentence):
    with pytest.raises(ArgumentError, match=sentence):
        shampoo.main(options)
