"""The page of the studies and the tables of RESULTS.md, from the JSON files of finished runs and
nothing else.

Run: python examples/studies/_page.py
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from _report import losers

from optex_core import bench
from optex_core.bench._runner import Row
from optex_core.bench.efficiency.tables import summary_report
from optex_core.bench.lbfgs import report as lbfgs_report
from optex_core.bench.overhead.lookahead import table as lookahead_table
from optex_core.bench.shampoo.losses import losses_table
from optex_core.bench.shampoo.tuning import seconds_table, steps_table
from optex_core.errors import CheckpointError

STUDIES = Path(__file__).parent
#: The measured tables of the package, and the JSON files of finished runs beside it.
RESULTS = Path(bench.__file__).parent / "RESULTS.md"
FOLDER = RESULTS.parent / "results"
HEAD = """# Studies

The experiments of the papers behind this package, small enough to run here, with every control that
a practitioner would use. Each is one script: `python examples/studies/NAME.py [--quick|--full]`
continues where it was killed; `optex-core bench studies` runs all of them; `optex-core bench
studies --page` makes this page from `results/*.json`.

`sequential` is the optimizer alone. Every method that takes a rate has the same trials on a seed
that is not reported. `sequential, N x rate` is the optimizer at N times its own best rate;
`data_parallel` averages N gradients (a batch N times as large); `target`, N steps counted as one
round, cannot be achieved and is left out where methods are compared. The seconds below are
those of one machine with two cores, which other programs used too where the load is above one or
two: compare them within one task.
"""


def results(folder: Path) -> dict[str, Row]:
    """Name to document of the JSON files in a folder, sorted by name."""
    return {
        path.stem: json.loads(path.read_text(encoding="utf-8"))
        for path in sorted(folder.glob("*.json"))
    }


def page(documents: Mapping[str, Row]) -> str:
    """The page in Markdown: where methods lose, then a section for each study."""
    parts = [HEAD, "## Where each method loses, and what to use instead\n", losses(documents)]
    for name, one in documents.items():
        table = one["tables"][0]
        parts += [
            f"## {one['title']}\n",
            f"`python examples/studies/{name}.py`, {_machine(one)}. {one['text']}\n",
            f"{table['caption']}\n",
            _markdown(table["head"], table["rows"]),
            *(f"Not measured: {reason}.\n" for reason in one["skipped"]),
            f"![{one['title']}](results/{name}.png)\n",
        ]
        if one["tables"][1:]:
            parts.append(f"More in [results/{name}.txt](results/{name}.txt).\n")
    return "\n".join(parts)


def losses(documents: Mapping[str, Row]) -> str:
    """By rounds and by seconds over all tasks, then what single studies say of themselves."""
    rows = []
    for figure in ("rounds", "gradients", "seconds"):
        found = [task for one in documents.values() for task in one["comparisons"]]
        rows += [
            (f"`{method}`, by {figure}", lost, worst, instead)
            for method, lost, worst, instead in losers(found, figure)
        ]
    rows += [tuple(row) for one in documents.values() for row in one["losses"]]
    text = (
        "Lost: needs more than 1.1 times what the best method needs to the same value: in rounds,\n"
        "in gradients, or in seconds on real workers (two cores). Exact: without noise.\n"
    )
    return f"{text}\n{_markdown(('method', 'loses on', 'worst case', 'use instead'), rows)}"


def _machine(one: Row) -> str:
    seconds = "" if one["resumed"] else f", {one['seconds']} s"
    load = one["machine"].get("load")  # of all programs; above the cores they wait for each other
    return f"{one['machine']['cores']} cores{'' if load is None else f', load {load}'}{seconds}"


def _markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [[cell.replace("|", "\\|") for cell in line] for line in (head, *rows)]
    lines.insert(1, ["---"] * len(head))
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def committed(name: str) -> Row:
    """The document ``results/NAME.json``."""
    found: Row = json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))
    return found


def blocks(studies: Mapping[str, Row]) -> dict[str, str]:
    """Name to text of all tables of RESULTS.md; `studies`: their documents by name."""
    steps = committed("shampoo_steps")["tasks"]
    return {
        "lbfgs": _verbatim(lbfgs_report(committed("lbfgs")["rows"])),
        "efficiency": _verbatim(summary_report(committed("efficiency")["summary"])),
        "efficiency rates": _verbatim(summary_report(committed("efficiency_rates")["summary"])),
        "lookahead": _verbatim(lookahead_table(committed("lookahead")["lookahead"])),
        "shampoo losses": _verbatim(losses_table(committed("shampoo_losses")["losses"])),
        "shampoo steps": _verbatim(steps_table(steps)),
        "studies": losses(studies),
        "shampoo seconds": _verbatim(seconds_table(committed("shampoo_seconds")["seconds"], steps)),
    }


def with_blocks(text: str, tables: Mapping[str, str]) -> str:
    """`text` with each table between its marks, ``<!-- NAME -->`` and ``<!-- end NAME -->``.

    Raises
    ------
    CheckpointError
        If a mark is not there exactly once.
    """
    for name, table in tables.items():
        begin, end = f"<!-- {name} -->\n", f"<!-- end {name} -->\n"
        if text.count(begin) != 1 or text.count(end) != 1:
            raise CheckpointError(f"expected {begin!r} and {end!r} once each in {RESULTS.name}")
        before, _, rest = text.partition(begin)
        text = before + begin + table + end + rest.partition(end)[2]
    return text


def _verbatim(text: str) -> str:
    return f"```\n{text.rstrip()}\n```\n"


def main() -> None:
    found = results(STUDIES / "results")
    (STUDIES / "README.md").write_text(page(found), encoding="utf-8")
    text = with_blocks(RESULTS.read_text(encoding="utf-8"), blocks(found))
    RESULTS.write_text(text, encoding="utf-8")
    print(f"written: {STUDIES / 'README.md'}, {RESULTS}")


if __name__ == "__main__":
    main()
