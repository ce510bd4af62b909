"""What the README claims is what RESULTS.md says that the benchmark prints."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import optex_core

ROOT = Path(optex_core.__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
RESULTS = (ROOT / "optex_core" / "bench" / "RESULTS.md").read_text(encoding="utf-8")


def claimed() -> dict[str, dict[int, str]]:
    """The rows of the table under "Results" by their first cell: N to figure."""
    section = README.partition("\n## Results\n")[2].partition("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("| ")]
    head, *rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    numbers = [int(cell.removeprefix("N = ")) for cell in head[1:]]
    return {row[0]: dict(zip(numbers, row[1:], strict=True)) for row in rows}


def printed() -> tuple[dict[str, dict[str, str]], dict[tuple[str, int], list[str]]]:
    """Rounds to the last goal by problem and column, and the summary by set and N."""
    block = RESULTS.partition("`optex-core bench lbfgs`")[2].partition("```\n")[2]
    problems: dict[str, dict[str, str]] = {}
    summary: dict[tuple[str, int], list[str]] = {}
    head: list[str] = []
    for line in block.partition("```")[0].splitlines():
        cells = re.split(r" {2,}", line.strip())
        if cells[0] == "problem":
            head = cells[2:]
        elif re.match(r"\w+\(.*\)", cells[0]):
            # the name may leave one space before d
            rounds = [cell.split(", ")[-1] for cell in cells[-len(head) :]]
            problems[cells[0].removesuffix(" *")] = dict(zip(head, rounds, strict=True))
        elif len(cells) > 5 and cells[1].isdigit():
            summary[cells[0], int(cells[1])] = cells[2:]
    return problems, summary


PROBLEMS, SUMMARY = printed()


def test_the_output_was_read() -> None:
    said = re.search(r"(\d+) problems", README.partition("\n## Results\n")[2])
    assert said is not None
    assert len(PROBLEMS) == int(said.group(1))
    assert {N for _, N in SUMMARY} >= {N for row in claimed().values() for N in row}


@pytest.mark.parametrize(
    ("row", "kind", "column"),
    [
        ("geometric mean", "all", 0),
        ("held-out problems", "held out", 0),
        ("worst problem", "all", 2),
        ("goals reached", "all", 3),
    ],
)
def test_summaries_are_those_of_the_benchmark(row: str, kind: str, column: int) -> None:
    (cells,) = (cells for name, cells in claimed().items() if name.startswith(row))
    for N, cell in cells.items():
        figure = float(SUMMARY[kind, N][column].split()[0])
        assert float(cell) == pytest.approx(figure, abs=0.005), f"{row}, N = {N}"


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        ("Rosenbrock d = 10", "rosenbrock(d=10)"),
        ("quadratic d = 50, condition 1e5", "quadratic(d=50, condition=100000.0)"),
        ("heat inversion 48 x 48", "heat_inversion(size=48)"),
    ],
)
def test_rounds_are_those_of_the_benchmark(row: str, problem: str) -> None:
    (found,) = ((name, cells) for name, cells in claimed().items() if name.startswith(row))
    name, cells = found
    alone = re.search(r"\(L-BFGS-B: (\d+)\)", name)
    assert alone is not None
    found_there = PROBLEMS[problem]
    assert alone.group(1) == found_there["L-BFGS-B"]
    assert cells == {N: found_there[f"N = {N}"] for N in cells}


def test_every_row_is_tested() -> None:
    assert len(claimed()) == 7
