"""The figures of README.md and the tables of RESULTS.md are those of committed runs."""

from __future__ import annotations

import re
import shlex
from itertools import pairwise
from pathlib import Path

import pytest
from _page import RESULTS, blocks, committed, results, with_blocks

import optex_core
from optex_core.bench import get_case
from optex_core.bench._runner import choose
from optex_core.bench.lbfgs import SHARES, summarize
from optex_core.errors import CheckpointError
from optex_core.problems import get_problem

ROOT = Path(optex_core.__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
SECTION = README.partition("\n## Results\n")[2].partition("\n## ")[0]
ROWS = committed("lbfgs")["rows"]
SUMMARY = summarize(ROWS)
EFFICIENCY = committed("efficiency")["summary"]["given"]


def claimed() -> dict[str, dict[int, str]]:
    """The rows of the table under "Results" by their first cell: N to figure."""
    lines = [line for line in SECTION.splitlines() if line.startswith("| ")]
    head, *rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    numbers = [int(cell.removeprefix("N = ")) for cell in head[1:]]
    return {row[0]: dict(zip(numbers, row[1:], strict=True)) for row in rows}


def expected() -> dict[str, dict[int, str]]:
    """The same rows, from the file."""
    at, held = SUMMARY["all"]["at"], SUMMARY["held out"]["at"]
    numbers = (1, 4, 8)
    found = {
        "geometric mean": {N: f"{at[N]['mean']:.2f}" for N in numbers},
        "median": {N: f"{at[N]['median']:.2f}" for N in numbers},
        "held-out problems": {N: f"{held[N]['mean']:.2f}" for N in numbers},
        "worst problem": {N: f"{at[N]['worst']:.2f}" for N in numbers},
        f"goals reached (L-BFGS-B: {SUMMARY['all']['lbfgsb_reached']})": {
            N: str(at[N]["reached"]) for N in numbers
        },
    }
    rounds = {row["title"]: row for row in ROWS}
    for name, title in (
        ("Rosenbrock d = 10: rounds", "rosenbrock(d=10)"),
        ("quadratic d = 50, condition 1e5", "quadratic(d=50, condition=100000.0)"),
        ("heat inversion 48 x 48", "heat_inversion(size=48)"),
    ):
        one = rounds[title]
        found[f"{name} (L-BFGS-B: {one['lbfgsb'][-1]})"] = {
            N: str(one["rounds"][str(N)][-1]) for N in numbers
        }
    return found


def sentences() -> list[str]:
    """What else the section says in figures."""
    sizes = [row["d"] for row in ROWS]
    held = sum(row["held_out"] for row in ROWS)
    assert SHARES == (1e-1, 1e-3, 1e-6)
    own = {row["d"]: row for row in committed("lookahead")["lookahead"]}
    auto = [EFFICIENCY[f"N={N}"]["auto"] for N in (2, 5, 20)]
    mean, middle = ([f"{row[kind]:.1f}" for row in auto] for kind in ("mean", "median"))
    slower = ", ".join(str(len(row["slower"])) for row in auto)
    rival = EFFICIENCY["N=2"]["L-BFGS-B"]
    assert {row["cases"] for row in auto} == {30}
    return [
        "to bring f - min f down to 1e-1, 1e-3 and 1e-6 of what it is at the start "
        f"({len(ROWS)} problems, d = {min(sizes)} to {max(sizes):,}, {held} of them held out; "
        "`optex-core bench lbfgs`)",
        f"Own work of a round at N = 8: {own[10_000]['own']:.0f} ms at d = 10^4, "
        f"{own[1_000_000]['own'] / 1e3:.1f} s at 10^6 on two cores (`optex-core bench overhead "
        f"--parts lookahead`)",
        f"`auto` needs {mean[0]}, {mean[1]} and {mean[2]} times fewer rounds than the optimizer "
        f"alone at N = 2, 5, 20 (geometric mean of 30 problems; median {', '.join(middle)}; more "
        f"rounds on {slower} of them). L-BFGS-B needs {rival['mean']:.1f} times fewer than that "
        "optimizer, with one gradient a round: where gradients are exact, give no optimizer "
        "(`optex-core bench efficiency`)",
    ]


def test_the_table_is_that_of_the_committed_run() -> None:
    assert claimed() == expected()


def test_the_sentences_are_those_of_the_committed_runs_and_no_other_has_a_figure() -> None:
    text = " ".join(line for line in SECTION.splitlines() if not line.startswith("|"))
    text = " ".join(text.split())
    for sentence in sentences():
        assert sentence in text
        text = text.replace(sentence, "")
    assert not re.search(r"\d", text.replace("N = 8", "")), text


def test_what_the_readme_says_of_the_gain_per_gradient() -> None:
    mean = {N: one["mean"] for N, one in SUMMARY["all"]["at"].items()}
    assert mean[16] / mean[8] < mean[8] / mean[4]  # beyond N = 8 the gain falls
    assert EFFICIENCY["N=2"]["auto"]["gradients"] < 1  # with a rate, N = 2 needs fewer gradients
    assert SUMMARY["all"]["at"][8]["worst_problem"].startswith("levy")  # of many minima


def test_the_first_command_has_as_many_unknowns_as_the_readme_says() -> None:
    (said,) = re.findall(r"conductivity field of ([\d,]+) unknowns", README)
    assert get_problem("heat_inversion").d == int(said.replace(",", ""))


def commands() -> list[tuple[str, str]]:
    """Case and options of every command of a benchmark in the two files; options alone are those of
    the case in the heading above.
    """
    found = []
    for text in (README, RESULTS.read_text(encoding="utf-8")):
        case = ""
        for line in text.replace("\n  ", " ").splitlines():
            for command in re.findall(r"`([^`]+)`", line):
                if said := re.match(r"optex-core bench ([a-z]\w*)(.*)", command):
                    case = said.group(1) if line.startswith("## ") else case
                    found.append((said.group(1), said.group(2).strip()))
                elif case and re.match(r"--?[a-zA-Z]", command):
                    found.append((case, command))
    return list(dict.fromkeys(found))


@pytest.mark.parametrize(("case", "options"), commands())
def test_the_commands_that_are_named_exist(
    case: str, options: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        get_case(case).main(["--help"])
    known = capsys.readouterr().out
    for option, value in pairwise([*shlex.split(options), ""]):
        if option.startswith("-"):
            assert re.search(rf"(?m)^ +(-\w.*)?{option}\b", known), option
        if option == "--parts":
            choose("part", value, get_case(case).PARTS)


def test_commands_are_found() -> None:
    assert ("lbfgs", "") in commands()
    assert ("shampoo", "--parts losses,peer --seeds 5") in commands()
    assert ("overhead", "--full -d 1e7 --only 'N=5 paper adam'") in commands()


def test_results_hold_the_tables_of_the_committed_runs() -> None:
    text = RESULTS.read_text(encoding="utf-8")
    studies = results(ROOT / "examples" / "studies" / "results")
    assert text == with_blocks(text, blocks(studies))


def test_a_mark_that_is_missing_is_named() -> None:
    with pytest.raises(CheckpointError, match="'<!-- end made -->.*' once each"):
        with_blocks("<!-- made -->\n", {"made": "1\n"})
    text = "a\n<!-- made -->\nold\n<!-- end made -->\nb\n"
    assert with_blocks(text, {"made": "1\n"}) == text.replace("old", "1")
