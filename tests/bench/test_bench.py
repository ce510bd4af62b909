"""Benchmarks: what a hit is, on curves made by hand; one small run of `efficiency`; its suite is
that of the prototype; it can be resumed.
"""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from optex_core.bench import case_names
from optex_core.bench import efficiency as module
from optex_core.bench._result_store import Store
from optex_core.bench._tables import columns, first_hit, short
from optex_core.bench.efficiency import Extent, main, measure, plan
from optex_core.bench.efficiency.cells import (
    LBFGSB,
    Cell,
    Laboratory,
    envelope,
    goals,
    not_slower,
    speed_up,
)
from optex_core.bench.efficiency.plot import draw_efficiency
from optex_core.bench.efficiency.rates import (
    rates_report,
    rates_suite,
    run_rates,
    summarize_rates,
)
from optex_core.bench.efficiency.suite import Case, suite
from optex_core.bench.efficiency.summary import excess, summarize, summarize_noise, summarize_speed
from optex_core.bench.efficiency.tables import report
from optex_core.cli import main as command
from optex_core.errors import ArgumentError, CheckpointError
from optex_core.optimizers.adam import Adam
from optex_core.optimizers.sgd import SGD
from optex_core.problems import get_problem

REFERENCE = json.loads(
    (Path(__file__).parents[1] / "reference" / "prototype_problems.json").read_text(
        encoding="utf-8"
    )
)
NAN = math.nan


def tiny() -> dict[str, Case]:
    bowl, valley = get_problem("quadratic", d=6, condition=30.0), get_problem("beale")
    return {
        "bowl": Case("bowl", "a bowl", bowl, bowl.start(3), SGD(1.0), 20, True),
        "valley": Case("valley", "a valley", valley, valley.start(), Adam(0.02), 16),
    }


class TestCurves:
    PLAIN = np.array([10.0, 9.0, 8.0, 7.0, 6.0, 5.0, 4.0, 3.0, 2.0, 1.0, 1.5])

    def test_goals_are_the_best_values_within_the_shares(self) -> None:
        # 30 % of 10 steps are entries 0 to 3, 60 % 0 to 6; the last value is not the best. Only
        # rounding (1e-12 of the way) is allowed for.
        assert goals(self.PLAIN, 10) == pytest.approx((7.0, 4.0, 1.0), abs=1e-11)
        assert all(
            goal >= exact
            for goal, exact in zip(goals(self.PLAIN, 10), (7.0, 4.0, 1.0), strict=True)
        )

    def test_goals_of_a_run_that_diverges(self) -> None:
        assert goals(np.array([4.0, 3.0, NAN]), 10) == pytest.approx((3.0, 3.0, 3.0), abs=1e-11)

    def test_a_hit_is_the_first_round_at_or_below(self) -> None:
        assert first_hit(np.array([5.0, 3.0, 4.0, 2.0, 1.0]), 3.0) == 1
        assert first_hit(np.array([5.0, NAN, 2.0]), 2.0) == 2
        assert first_hit(np.array([5.0, NAN, 2.5]), 2.0) is None

    def test_the_optimizer_alone_is_its_own_measure(self) -> None:
        hits = [first_hit(self.PLAIN, goal) for goal in goals(self.PLAIN, 10)]
        assert hits == [3, 6, 9]
        assert [speed_up(h, h) for h in hits if h is not None] == [1.0, 1.0, 1.0]

    @pytest.mark.parametrize(
        ("plain", "hit", "expected"), [(9, 3, 3.0), (9, 0, 9.0), (0, 0, 1.0), (9, None, None)]
    )
    def test_speed_up(self, plain: int, hit: int | None, expected: float | None) -> None:
        assert speed_up(plain, hit) == expected

    @pytest.mark.parametrize(
        ("plain", "hit", "expected"),
        [
            (10, 10, True),
            (10, 11, True),
            (10, 12, False),
            (100, 105, True),
            (100, 106, False),
            (3, None, False),
        ],
    )
    def test_not_slower_allows_a_round_or_five_percent(
        self, plain: int, hit: int | None, expected: bool
    ) -> None:
        assert not_slower(plain, hit) is expected

    def test_the_envelope_is_the_best_rate_for_every_goal(self) -> None:
        found = envelope(
            [np.array([5.0, 4.0, 3.0, 2.0]), np.array([5.0, 1.5, np.inf, NAN]), np.array([5.0])], 3
        )
        assert found.tolist() == [5.0, 1.5, 1.5, 1.5]


def speed(case: str, speed_ups: list[float | None], **more: Any) -> dict[str, Any]:
    base = {
        "case": case,
        "plain": [4, 8, 12],
        "limit": 12,
        "gradients": 24,
        "diverged": False,
        "work_ms": 1.0,
    }
    return {
        **base,
        "speed_ups": speed_ups,
        "not_slower": [s is not None and s >= 1 for s in speed_ups],
        **more,
    }


def ending(strategy: str, final: float | None, *, seed: int = 0, N: int = 5) -> dict[str, Any]:
    base = {"part": "noise", "case": "c", "level": 1.0, "start": 10.0, "clean": 0.0}
    return {
        **base,
        "strategy": strategy,
        "final": final,
        "seed": seed,
        "parallelism": 1 if strategy == "sequential" else N,
    }


class TestSummaries:
    def test_never_counts_as_the_round_after_the_last(self) -> None:
        row = summarize_speed([speed("a", [2.0, 2.0, 2.0]), speed("b", [2.0, 2.0, None])], {})
        # 12 rounds of the optimizer alone over the 13th of the other.
        assert row["means"] == pytest.approx([2.0, 2.0, math.sqrt(2.0 * 12 / 13)], rel=1e-14)
        assert (row["worst"], row["never"], row["slower"], row["over_target"]) == (
            None,
            1,
            ["b"],
            None,
        )
        assert row["gradients"] == pytest.approx(2.0, rel=1e-14)

    def test_the_ratio_to_target_takes_the_same_cases(self) -> None:
        target = {"a": speed("a", [4.0, 4.0, 4.0])}
        row = summarize_speed([speed("a", [2.0, 4.0, 8.0]), speed("b", [100.0] * 3)], target)
        assert row["over_target"] == pytest.approx(1.0, rel=1e-14)

    def test_excess_is_in_units_of_the_drop_of_the_other(self) -> None:
        assert excess(ending("auto", 6.0), ending("sequential", 5.0)) == pytest.approx(
            0.2, rel=1e-15
        )
        # The other has not come down: its drop without noise is the unit.
        assert excess(ending("auto", 14.0), ending("sequential", 12.0)) == pytest.approx(
            0.2, rel=1e-15
        )
        assert excess(ending("auto", None), ending("sequential", 5.0)) == math.inf
        assert excess(ending("auto", None), ending("sequential", None)) == 0.0

    def test_noise_compares_run_with_run_and_mean_with_mean(self) -> None:
        finals = {"sequential": (2.0, 3.0), "auto": (3.0, 2.0), "paper": (2.0, None)}
        cells = [
            ending(s, final, seed=seed)
            for s, each in finals.items()
            for seed, final in enumerate(each)
        ]
        found = summarize_noise(cells)
        assert found["auto"] == {
            "runs": 2,
            "above": 1,
            "settings": 1,
            "settings_above": [],
            "worst": 0.0,
        }
        assert found["paper"]["settings_above"] == [["c", 1.0, 5]]
        assert found["paper"]["worst"] is None

    def test_columns(self) -> None:
        assert (
            columns(("", "b"), [("long", "1"), ("x", "234")])
            == "        b\n----  ---\nlong    1\nx     234"
        )
        assert [short(v) for v in (None, NAN, 1234.5, 0.12345, math.inf)] == [
            "-",
            "-",
            "1234",
            "0.123",
            "inf",
        ]


class TestSuite:
    def test_the_first_eight_are_those_of_the_prototype(self) -> None:
        cases = list(suite().values())
        assert len(cases) == len(REFERENCE["cases"]) + 22 == 30
        for case, expected in zip(cases, REFERENCE["cases"], strict=False):
            assert case.title == expected["case"]
            # 1e-12: the same formulas; sums may be taken in another order.
            np.testing.assert_allclose(case.x0[:4], expected["start_head"], rtol=1e-15)
            assert case.problem.value(case.x0) == pytest.approx(expected["start_value"], rel=1e-12)
            x, state = case.x0, case.optimizer.init(case.x0)
            for _ in range(10):
                x, state = case.optimizer.step(x, case.problem.gradient(x), state)
            # 1e-9: ten steps multiply rounding errors on Rosenbrock's function.
            assert case.problem.value(x) == pytest.approx(
                expected["values_after_10_and_20_steps"][0], rel=1e-9
            )

    def test_names_are_keys_and_starts_fit(self) -> None:
        for name, case in suite().items():
            assert case.name == name
            assert case.x0.shape == (case.problem.d,)
            assert case.steps >= 100


EXTENT = Extent(
    ("bowl", "valley", "quadratic_1"),
    ("sequential", "auto", "target", "data_parallel"),
    (2,),
    (2,),
    (2,),
    (2,),
    levels=(1.0,),
    seeds=2,
)


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict[str, Any]]]:
    path = tmp_path_factory.mktemp("bench") / "cells.jsonl"
    cells = measure(plan(EXTENT, tiny()), tiny(), Store(path, resume=False))
    return path, cells


class TestCells:
    def test_every_cell_is_in_the_file(self, measured: tuple[Path, list[dict[str, Any]]]) -> None:
        path, cells = measured
        lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        assert [line["key"] for line in lines] == [cell.key for cell in plan(EXTENT, tiny())]
        # 2 cases x (sequential, L-BFGS-B, 3 others), the same three tuned, 1 noisy case x 2 seeds
        # x 4; 3 rates x 2 seeds x 3.
        assert len(cells) == len(lines) == 2 * 5 + 2 * 3 + 8 + 3 * 2 * 3

    def test_known_speed_ups(self, measured: tuple[Path, list[dict[str, Any]]]) -> None:
        found = {(c["case"], c["strategy"]): c for c in measured[1] if c["part"] == "given"}
        for name in tiny():
            assert found[name, "sequential"]["speed_ups"] == [1.0, 1.0, 1.0]
            assert found[name, "sequential"]["hits"] == found[name, "sequential"]["plain"]
            # Two true steps a round: half of the rounds, rounded up.
            target = found[name, "target"]
            assert target["hits"] == [math.ceil(p / 2) for p in target["plain"]]
            # Without noise the mean of equal gradients is the gradient.
            assert found[name, "data_parallel"]["speed_ups"] == [1.0, 1.0, 1.0]
            assert (
                found[name, "data_parallel"]["gradients"]
                == 2 * found[name, "sequential"]["gradients"]
            )

    def test_the_best_rate_is_at_least_as_good_as_the_given_one(
        self, measured: tuple[Path, list[dict[str, Any]]]
    ) -> None:
        for cell in (c for c in measured[1] if c["part"] == "best"):
            if cell["strategy"] == "sequential":
                assert cell["speed_ups"] == [1.0, 1.0, 1.0]
            # The goal is the best of all rates, so it takes at least one of them to the end or
            # close to it.
            assert cell["plain"][-1] <= cell["limit"]

    def test_seeds_of_noise_differ_and_repeat(
        self, measured: tuple[Path, list[dict[str, Any]]]
    ) -> None:
        finals = [
            c["final"] for c in measured[1] if c["part"] == "noise" and c["strategy"] == "auto"
        ]
        assert len(set(finals)) == 2
        cell = Cell("noise", "bowl", "auto", 2, level=1.0, seed=1)
        assert Laboratory(tiny()).run(cell)["final"] == finals[1]

    def test_lbfgsb_is_stopped_at_the_budget(self) -> None:
        cases = tiny()
        found = Laboratory(cases).run(Cell("given", "bowl", LBFGSB, 1))
        assert found["rounds"] <= cases["bowl"].steps
        assert found["hits"][-1] is not None  # a quadratic in six dimensions

    def test_report_and_summary_name_everything(
        self, measured: tuple[Path, list[dict[str, Any]]]
    ) -> None:
        cells = measured[1]
        text = report(cells, tiny())
        for expected in ("a bowl", "a valley", "a bowl, noise 1", "quadratic 30, noise 1", LBFGSB):
            assert expected in text
        summary = summarize(cells)
        assert set(summary) == {"given", "best", "noise", "rates"}
        assert summary["given"]["N=2"]["target"]["over_target"] == pytest.approx(1.0, rel=1e-14)
        assert summary["given"]["N=2"]["sequential"]["slower"] == []

    def test_picture(self, measured: tuple[Path, list[dict[str, Any]]]) -> None:
        figures = pytest.importorskip("matplotlib.figure", reason="matplotlib is not installed")
        figure = figures.Figure()
        draw_efficiency(measured[1], tiny(), figure)
        titles = [axes.get_title() for axes in figure.axes]
        assert len(titles) == 3
        assert "N = 2, each at its best rate" in titles[1]
        assert [label.get_text() for label in figure.axes[0].get_xticklabels()][0] == LBFGSB
        shown = [text.get_text() for text in figure.axes[0].texts]
        assert shown.count("1.0") >= 4  # sequential and data_parallel, on both


class TestRates:
    def test_seeds_differ_and_repeat_and_a_run_that_diverges_has_no_end(self) -> None:
        case = rates_suite()["quadratic_1"]
        cells = [Cell("rates", "", "auto", 4, seed=seed, rate=0.1) for seed in (0, 1, 0)]
        first, second, again = (run_rates(case, cell)["final"] for cell in cells)
        assert first == again != second
        steep = replace(case, optimizer=SGD)
        assert run_rates(steep, replace(cells[0], rate=100.0))["final"] is None

    def test_the_tables_compare_medians_and_begin_with_the_worst(self) -> None:
        ends: dict[float, dict[str, list[float | None]]] = {
            0.1: {"auto": [1.0, 2.0, 3.0], "sequential": [4.0] * 3, "data_parallel": [4.0] * 3},
            1.0: {"auto": [None] * 3, "sequential": [2.5] * 3, "data_parallel": [None] * 3},
        }
        cells = [
            {"part": "rates", "case": "quadratic_1", "rate": rate, "strategy": s, "final": final,
             "parallelism": 1 if s == "sequential" else 4}
            for rate, by in ends.items() for s, finals in by.items() for final in finals
        ]  # fmt: skip
        lines = [line.split() for line in rates_report(summarize_rates(cells)).splitlines()]
        tops = [i for i, line in enumerate(lines) if line and line[-1] == "ratio"]
        (worst, other), best = (lines[i + 2 : i + 2 + n] for i, n in zip(tops, (2, 1), strict=True))
        assert [worst[-1], other[-1]] == ["inf", "0.5"]
        assert other[6:9] == ["2", "[1,", "3]"]
        assert best[0][-1] == "0.8"  # 2 at 0.1 over 2.5 at 1
        assert "of 2: above 1.05 on 1, lower by 1.3 x and more on 1" in rates_report(
            summarize_rates(cells)
        )

    def test_networks_of_the_digits(self) -> None:
        pytest.importorskip("sklearn")
        for name, case in rates_suite().items():
            fun, x0, value = case.make(0)
            found, gradient = fun(x0, seed=1)
            assert fun(x0, seed=2)[0] != found == fun(x0, seed=1)[0], name
            if name in ("relu_adam", "deep_adam"):
                slope = np.mean([fun(x0, seed=k)[1] @ gradient for k in range(200)])
                norm = float(np.linalg.norm(gradient))
                step = 1e-4 / norm * gradient
                change = (value(x0 + step) - value(x0 - step)) / 2e-4 * norm
                assert slope == pytest.approx(change, rel=0.1)


class TestStore:
    def test_finished_cells_are_kept_and_a_cut_line_is_not(self, tmp_path: Path) -> None:
        path = tmp_path / "cells.jsonl"
        Store(path, resume=False).add("a", {"x": 1})
        with path.open("a", encoding="utf-8") as file:
            file.write('{"key": "b", "sou')
        store = Store(path, resume=True)
        assert store.cells == {"a": {"x": 1}}
        store.add("b", {"x": 2})
        assert Store(path, resume=True).cells == {"a": {"x": 1}, "b": {"x": 2}}
        assert Store(path, resume=False).cells == {}

    def test_cells_of_other_code_are_not_kept(self, tmp_path: Path) -> None:
        path = tmp_path / "cells.jsonl"
        path.write_text('{"key": "a", "source": "another", "x": 1}\n', encoding="utf-8")
        assert Store(path, resume=True).cells == {}

    def test_something_else_is_refused(self, tmp_path: Path) -> None:
        path = tmp_path / "cells.jsonl"
        path.write_text("hello\nworld\n", encoding="utf-8")
        with pytest.raises(CheckpointError, match=r"cells.jsonl:1 is not a finished cell"):
            Store(path, resume=True)

    def test_a_restart_runs_only_what_is_missing(
        self,
        measured: tuple[Path, list[dict[str, Any]]],
        tmp_path: Path,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        copy = tmp_path / "cells.jsonl"
        copy.write_text(
            "".join(measured[0].read_text(encoding="utf-8").splitlines(keepends=True)[:-1]),
            encoding="utf-8",
        )
        cells = measure(plan(EXTENT, tiny()), tiny(), Store(copy, resume=True))
        assert len(capsys.readouterr().err.splitlines()) == 1
        clocks = ("seconds", "work_ms")
        without = [{k: v for k, v in cell.items() if k not in clocks} for cell in cells]
        assert without == [
            {k: v for k, v in cell.items() if k not in clocks} for cell in measured[1]
        ]


class TestDoor:
    def test_it_is_listed(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert "efficiency" in case_names()
        assert command(["bench"]) == 0
        lines = [line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines()]
        assert {name: text.startswith("Rounds to the same value") for name, text in lines}[
            "efficiency"
        ]
        assert {name for name, _ in lines} >= set(case_names())

    def test_a_run_leaves_its_files(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setattr(module, "suite", tiny)
        options = [
            "--cases",
            "bowl,valley",
            "--strategies",
            "auto,target",
            "-N",
            "2",
            "--parts",
            "given",
            "--output",
            str(tmp_path / "out"),
        ]
        assert main(["--quick", *options]) == 0
        out = capsys.readouterr().out
        assert "auto" in out
        document = json.loads((tmp_path / "out" / "efficiency.json").read_text(encoding="utf-8"))
        assert document["mode"] == "quick"
        assert document["extent"]["parallelism"] == [2]
        assert set(document["cases"]) == {"bowl", "valley"}
        # the rival that needs no rate comes first
        assert list(document["summary"]["given"]["N=2"]) == [LBFGSB, "auto", "target"]
        head = next(line for line in out.splitlines() if line.startswith("geometric mean"))
        assert "median" in head
        assert "worst case" in head
        lines = (tmp_path / "out" / "cells.jsonl").read_text(encoding="utf-8").splitlines()
        assert {json.loads(line)["strategy"] for line in lines} == {"auto", "target", LBFGSB}
        for cell in map(json.loads, lines):
            assert len(cell["hits"]) == len(cell["speed_ups"]) == len(cell["plain"]) == 3
        assert (tmp_path / "out" / "efficiency.txt").read_text(encoding="utf-8") in out

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            (["--cases", "quadratic_sdg"], "unknown case 'quadratic_sdg'"),
            (["--strategies", "autom"], "unknown strategy"),
            (["--parts", "gift"], "unknown part"),
            (["-N", "1"], "whole numbers from 2 on"),
            (["-N", "a"], "-N takes whole numbers"),
        ],
    )
    def test_options_that_cannot_work(
        self, options: list[str], message: str, tmp_path: Path
    ) -> None:
        with pytest.raises(ArgumentError) as caught:
            main([*options, "--output", str(tmp_path)])
        assert message in str(caught.value)
