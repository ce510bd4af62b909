"""Tables of RESULTS.md that are printed from the JSON files of finished runs in ``results/``."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from optex_core.bench._runner import Row
from optex_core.bench.efficiency.tables import summary_report
from optex_core.bench.lbfgs import report as lbfgs_report
from optex_core.bench.overhead.lookahead import table as lookahead_table
from optex_core.bench.shampoo.losses import losses_table
from optex_core.bench.shampoo.tuning import seconds_table, steps_table
from optex_core.errors import CheckpointError

RESULTS = Path(__file__).parent / "RESULTS.md"
FOLDER = RESULTS.parent / "results"


def committed(name: str) -> Row:
    """The document ``results/NAME.json``."""
    found: Row = json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))
    return found


def blocks() -> dict[str, str]:
    """Name to text of all tables."""
    steps = committed("shampoo_steps")["tasks"]
    return {
        "lbfgs": _verbatim(lbfgs_report(committed("lbfgs")["rows"])),
        "efficiency": _verbatim(summary_report(committed("efficiency")["summary"])),
        "lookahead": _verbatim(lookahead_table(committed("lookahead")["lookahead"])),
        "shampoo losses": _verbatim(losses_table(committed("shampoo_losses")["losses"])),
        "shampoo steps": _verbatim(steps_table(steps)),
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
