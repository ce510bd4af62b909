"""The benchmarks of topic models and of actor-critic: one small run each with real processes, and
what their figures mean.
"""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from optex_core.async_sgd.models.actor_critic import ActorCritic
from optex_core.async_sgd.models.lda import LDA
from optex_core.async_sgd.models.synthetic import synthetic_corpus
from optex_core.bench import BENCHES, actor_critic, topics
from optex_core.bench._studies import Method, chosen_rows, mean_and_error, with_error
from optex_core.errors import ArgumentError


def tiny() -> dict[str, Any]:
    corpus, truth = synthetic_corpus(500, words=150, topics=4, rng=2)
    return {
        "known topics": lambda: topics.Study(
            "known topics", corpus, LDA(topics=4, batch=16, tau0=8.0), 40, truth
        )
    }


class TestFigures:
    def test_mean_and_error(self) -> None:
        assert mean_and_error([1.0, 3.0]) == (2.0, 1.0)
        assert with_error([1.0, 3.0]) == "2.0 +- 1.0"
        assert with_error([7.25], 2) == "7.25"

    def test_arguments_of_a_method(self) -> None:
        assert Method("a").arguments == {
            "workers": None,
            "parallelism": 1,
            "cores": 1,
            "inner_steps": 1,
        }
        assert Method("b", 4, 2, 4).arguments == {
            "workers": 4, "parallelism": 4, "cores": 2, "inner_steps": 4, "max_delay": 8, "on_late": "wait",
        }  # fmt: skip
        assert "max_delay" not in Method("c", 4, bounded=False).arguments

    def test_chosen_rows(self) -> None:
        assert chosen_rows(None, ["a", "b", "c"]) == ["a", "b", "c"]
        assert chosen_rows("c", ["a", "b", "c"]) == ["a", "c"]

    def test_solved_at_by_hand(self) -> None:
        # Pushes with (update, episodes, mean length); the last four episodes.
        curve = np.array(
            [
                [1, 2, 100.0],
                [2, 2, 480.0],
                [3, 1, 500.0],
                [4, 1, 460.0],
                [5, 4, 470.0],
                [6, 4, 475.0],
            ]
        )
        assert actor_critic.solved_at(curve, 4) == 4  # (2 x 480 + 500 + 460) / 4 = 480
        assert actor_critic.solved_at(curve[:3], 4) is None
        assert actor_critic.solved_at(curve[:0], 4) is None
        assert actor_critic.solved_at(curve[5:], 4) == 6
        assert actor_critic.solved_at(curve[5:], 5) is None


class TestTopics:
    def test_a_run_leaves_its_files(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setattr(topics, "studies", tiny)
        options = [
            "--full",
            "--methods",
            "synchronous,asynchronous,scikit-learn online",
            "--seeds",
            "1",
            "--workers",
            "2",
            "--output",
            str(tmp_path),
        ]
        assert topics.main(options) == 0
        out = capsys.readouterr().out
        document = json.loads((tmp_path / "topics.json").read_text(encoding="utf-8"))
        cells = {cell["method"]: cell for cell in document["cells"]}
        sklearn = {topics.SKLEARN} if importlib.util.find_spec("sklearn") else set()
        assert set(cells) == {"serial", "synchronous", "asynchronous"} | sklearn
        for method in topics.methods(2)[:3]:
            cell = cells[method.name]
            assert method.name in out
            assert cell["least"] > 0
            assert cell["lost"] == 0
            assert cell["max_delay"] <= 2 * method.parallelism
            assert cell["track"][-1] == [40 * 16, cell["perplexity"]]
        assert cells["synchronous"]["max_delay"] == 0
        assert cells["serial"]["recovered"] == cells["asynchronous"]["recovered"] == 4
        assert (tmp_path / "topics.txt").read_text(encoding="utf-8") in out
        if importlib.util.find_spec("matplotlib"):
            assert (tmp_path / "topics.png").stat().st_size > 5_000
        before = (tmp_path / "cells.jsonl").read_text(encoding="utf-8")
        topics.main(options)  # goes on where it was stopped: nothing is left to do
        assert (tmp_path / "cells.jsonl").read_text(encoding="utf-8") == before

    def test_topics_are_shown_whatever_was_run(self) -> None:
        cell = {
            "corpus": "docstrings", "method": "serial", "seed": 0, "perplexity": 5.0, "seconds": 1.0, "least": 0.1, "mean_delay": 0.0, "max_delay": 0,
            "topics": [["one", "two"], ["three", "four"]],
        }  # fmt: skip
        about = {
            "documents": 3,
            "words": 4,
            "tokens": 5,
            "held_out": 1,
            "steps": 2,
            "words alone": 7.0,
        }
        text = topics.report([cell], {"docstrings": about}, [Method("serial")])
        assert "topics of the first run that is serial\n\n  one two\n  three four" in text
        assert "+0.0%" in text

    def test_it_is_listed(self) -> None:
        assert {"topics", "actor_critic"} <= set(BENCHES)

    def test_bad_input(self, tmp_path: Path) -> None:
        for main in (topics.main, actor_critic.main):
            with pytest.raises(ArgumentError, match="--workers must be an integer >= 2, got 1"):
                main(["--workers", "1", "--output", str(tmp_path)])
            with pytest.raises(
                ArgumentError, match="unknown method 'serail'; did you mean 'serial'"
            ):
                main(["--methods", "serail", "--output", str(tmp_path)])
            with pytest.raises(ArgumentError, match="--seeds must be an integer >= 1, got 0"):
                main(["--seeds", "0", "--output", str(tmp_path)])


class TestActorCritic:
    def test_a_run_leaves_its_files(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert (
            actor_critic.main(["--updates", "60", "--workers", "2", "--output", str(tmp_path)]) == 0
        )
        out = capsys.readouterr().out
        document = json.loads((tmp_path / "actor_critic.json").read_text(encoding="utf-8"))
        assert document["settings"] == repr(ActorCritic(updates=60))
        for cell, method in zip(document["cells"], actor_critic.methods(2), strict=True):
            assert cell["method"] == method.name
            assert method.name in out
            assert 1 <= cell["greedy"] <= 500
            assert cell["max_delay"] <= 2 * method.parallelism
        if importlib.util.find_spec("matplotlib"):
            assert (tmp_path / "actor_critic.png").stat().st_size > 5_000
