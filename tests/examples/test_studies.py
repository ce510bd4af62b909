"""The studies: their comparison on functions made by hand, their page, and a run that is killed."""

from __future__ import annotations

import importlib.util
import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from _comparison import (
    ALONE,
    FASTER,
    IDEAL,
    METHODS,
    RATED,
    TUNING_SEED,
    Objective,
    Run,
    Task,
    compare,
    minimized,
)
from _page import page, results
from _report import losers, median, rounds_table, spread

import optex_core
from optex_core.bench import studies
from optex_core.bench._result_store import Store
from optex_core.bench.studies import study_names
from optex_core.cli import main as command
from optex_core.optimizers.sgd import SGD

ROOT = Path(__file__).parents[2]
STUDIES = ROOT / "examples" / "studies"
NAMES = study_names(STUDIES)
#: The optional library of those that need one.
NEEDS = {"networks": "sklearn", "shampoo": "sklearn"}


class Made:
    """A task whose runs are known: the value falls by `speed` times the rate a round."""

    SPEED = {ALONE: 1.0, FASTER: 1.0, "data_parallel": 1.0, "auto": 3.0, IDEAL: 4.0}

    def __init__(self) -> None:
        self.asked: list[tuple[str, float | None, int, Any]] = []

    def __call__(self, method: str, rate: float | None, seed: int, workers: Any) -> Run:
        self.asked.append((method, rate, seed, workers))
        speed = self.SPEED.get(method, 0.5) * (0.1 if rate is None else rate)
        values = [100.0 - speed * k for k in range(11)]
        if rate is not None and rate > 2.0:
            values = [math.inf] * 11
        return Run(values, [4 * k for k in range(11)], [0.5 * k for k in range(11)])


def made(**settings: Any) -> tuple[Made, Task]:
    runs = Made()
    return runs, Task("made", "Made", runs, (0.5, 1.0, 2.0, 4.0), 10, 4, seeds=2, **settings)


def test_every_rated_method_has_the_same_trials_on_a_seed_of_their_own(tmp_path):
    runs, one = made()
    (found,) = compare([one], Store(tmp_path / "cells.jsonl", resume=False))
    trials = {
        m: [r for n, r, seed, _ in runs.asked if n == m and seed == TUNING_SEED] for m in RATED
    }
    assert all(tried == [0.5, 1.0, 2.0, 4.0] for tried in trials.values())
    # the highest rate diverges, and the next falls fastest
    assert {found["rates"][m] for m in RATED} == {2.0}
    assert found["rates"][FASTER] == 4 * 2.0
    reported = [seed for *_, seed, _ in runs.asked if seed != TUNING_SEED]
    assert sorted(set(reported)) == [0, 1]
    assert set(found["methods"]) == set(METHODS)


def test_the_goal_is_what_the_optimizer_alone_reaches(tmp_path):
    _, one = made(clock=(ALONE, "auto"))
    (found,) = compare([one], Store(tmp_path / "cells.jsonl", resume=False))
    assert found["goals"] == [82.0, 82.0]  # the mean of 84, 82 and 80
    own = found["methods"]
    assert own[ALONE]["rounds"] == [9, 9]
    assert own["auto"]["rounds"] == [3, 3]  # 6 a round
    assert own["auto"]["gradients"] == [12, 12]
    assert own["auto"]["seconds"] == [1.5, 1.5]
    assert own["paper"]["rounds"] == [None, None]
    assert own[FASTER]["rounds"] == [None, None]
    assert "seconds" not in own["paper"]
    rows = {row[0]: row[1] for row in rounds_table([found], clock=True).rows}
    assert rows["auto"] == "1.5 s; 3; 12 @ 2"
    assert rows["paper"] == "never @ 2"


def test_losses_name_the_winner_and_leave_out_the_ideal(tmp_path):
    _, one = made()
    rows = {
        method: (lost, worst, instead)
        for method, lost, worst, instead in losers(
            compare([one], Store(tmp_path / "cells.jsonl", resume=False)), "rounds"
        )
    }
    assert rows["auto"] == ("0 of 1", "-", "-")
    assert rows[ALONE] == ("1 of 1", "Made: 9 against 3", "exact: `auto`")
    assert rows["paper"] == ("1 of 1", "Made: never against 3", "exact: `auto`")
    assert IDEAL not in rows


def test_a_noisy_goal_must_be_met_on_the_mean_of_three(tmp_path):
    def run(method: str, rate: float | None, seed: int, workers: Any) -> Run:
        dip = [10.0, 10, 1, 10, 10, 10, 10, 4, 4, 4, 4]
        values = dip if method == "auto" else [10.0 - 0.5 * k for k in range(11)]
        return Run(values, list(range(11)), [0.0] * 11)

    for noisy, expected in ((False, 2), (True, 9)):
        one = Task("dip", "Dip", run, (1.0,), 10, 4, noisy=noisy, methods=(ALONE, "auto"), seeds=1)
        (found,) = compare([one], Store(tmp_path / f"{noisy}.jsonl", resume=False))
        assert found["methods"]["auto"]["rounds"] == [expected]


@pytest.mark.parametrize("method", METHODS)
def test_runs_have_one_value_a_round(method):
    def fun(x: np.ndarray) -> tuple[float, np.ndarray]:
        return 0.5 * float(x @ x), x.copy()

    x0 = np.arange(1.0, 5.0)
    run = minimized(
        lambda seed: Objective(fun, x0), SGD, 6, 3, method, None if "rate" in method else 0.3, 0
    )
    assert len(run.values) == len(run.gradients) == len(run.seconds) == 7
    assert run.values[0] == 15.0
    assert run.gradients[0] == 0
    assert run.values[-1] < 0.5
    assert run.gradients == sorted(run.gradients)
    if method == ALONE:
        np.testing.assert_allclose(run.values, 15.0 * 0.7 ** (2 * np.arange(7)), rtol=1e-12)
        assert run.gradients == list(range(7))
    if method == IDEAL:
        np.testing.assert_allclose(run.values, 15.0 * 0.7 ** (6 * np.arange(7)), rtol=1e-12)


def test_a_run_that_diverges_is_infinite_and_no_error():
    run = minimized(
        lambda seed: Objective(lambda x: (float(x @ x), 2 * x), np.ones(3)), SGD, 2000, 2, ALONE,
        50.0, 0,
    )  # fmt: skip
    assert len(run.values) == 2001
    assert run.final == math.inf


def test_spread():
    assert spread([3, 3, 3]) == "3"
    assert spread([5, 3, 4]) == "4 (3 to 5)"
    assert spread([5, None, 4]) == "5 (4 to never)"
    assert spread([None, None, 4]) == "never (4 to never)"
    assert median([None, 1, 2]) == 2.0


def test_the_committed_page_is_the_generated_one():
    assert (STUDIES / "README.md").read_text(encoding="utf-8") == page(results(STUDIES / "results"))


@pytest.mark.parametrize("name", NAMES)
def test_the_figures_of_a_default_run_are_committed(name):
    document = results(STUDIES / "results")[name]
    assert document["mode"] == "default"
    assert document["tables"][0]["rows"]
    assert (STUDIES / "results" / f"{name}.png").stat().st_size > 5_000
    text = (STUDIES / "results" / f"{name}.txt").read_text(encoding="utf-8")
    assert all(table["caption"] in text for table in document["tables"])


def test_there_are_no_figures_without_a_study():
    assert set(results(STUDIES / "results")) == set(NAMES)


def test_without_a_checkout_the_sentence_says_so(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(optex_core, "__file__", str(tmp_path / "optex_core" / "__init__.py"))
    assert command(["bench", "studies", "--quick"]) != 0
    said = capsys.readouterr().err
    assert "scripts of the repository" in said
    assert "clone" in said


def test_an_unknown_study_is_named(capsys):
    assert command(["bench", "studies", "--studies", "synthetics"]) != 0
    assert "did you mean 'synthetic'" in capsys.readouterr().err


def started(name: str, folder: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-W", "error", str(STUDIES / f"{name}.py"), "--quick", "--output",
         str(folder)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip


@pytest.mark.slow
def test_a_killed_study_continues(tmp_path):
    with started("estimation_error", tmp_path) as first:
        assert first.stderr is not None
        finished = [first.stderr.readline().split(":")[0] for _ in range(4)]
        first.kill()
    assert first.returncode != 0
    with started("estimation_error", tmp_path) as second:
        _, said = second.communicate(timeout=300)
    assert second.returncode == 0, said
    again = [line.split(":")[0] for line in said.splitlines()]
    assert not set(finished) & set(again)
    document = json.loads((tmp_path / "estimation_error.json").read_text(encoding="utf-8"))
    assert document["resumed"] >= 4
    assert document["mode"] == "quick"
    with started("estimation_error", tmp_path) as third:  # a finished one measures nothing again
        _, said = third.communicate(timeout=300)
    assert (third.returncode, said) == (0, "")


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_a_quick_study_runs(name, tmp_path):
    if name in NEEDS and importlib.util.find_spec(NEEDS[name]) is None:
        pytest.skip(f"{NEEDS[name]} is not installed")
    with started(name, tmp_path) as run:
        out, said = run.communicate(timeout=300)
    assert run.returncode == 0, said
    document = json.loads((tmp_path / f"{name}.json").read_text(encoding="utf-8"))
    assert document["tables"][0]["caption"] in out
    assert f"## {document['title']}" in page({name: document})


def test_the_command_runs_the_scripts(monkeypatch):
    called = []

    def run(arguments: list[str], **_: Any) -> Any:
        called.append(arguments)
        return subprocess.CompletedProcess(arguments, 3 if "synthetic" in arguments[1] else 0)

    monkeypatch.setattr(subprocess, "run", run)
    assert studies.main(["--studies", "synthetic,estimation_error", "--quick"]) == 3
    assert [Path(arguments[1]).name for arguments in called] == [
        "synthetic.py",
        "estimation_error.py",
    ]
    assert all("--quick" in arguments for arguments in called)
