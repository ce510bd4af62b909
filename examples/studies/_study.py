"""One study: what it measures, and the run that a kill does not lose."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from _report import Table, draw_curves

from optex_core.bench._result_store import Store
from optex_core.bench._runner import Row, as_json, finish, make_parser, output_folder
from optex_core.bench._tables import columns

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True, slots=True)
class Findings:
    """What a study has found."""

    tables: Sequence[Table]  # the first one stands on the page
    comparisons: Sequence[Row] = ()  # what `compare` returns, for the page's table of losses
    #: Further rows of that table: (what, loses on, figure, use instead).
    losses: Sequence[tuple[str, str, str, str]] = ()
    figures: Row = field(default_factory=dict)  # numbers behind tables and picture, JSON
    skipped: Sequence[str] = ()  # what was not measured, with the reason


@dataclass(frozen=True, slots=True)
class Study:
    """A script of `examples/studies`."""

    name: str
    title: str
    text: str  # the paragraph of the page: what is measured, and how
    source: Path  # the script
    #: ``measure(mode, store)`` with the mode "quick", "default" or "full"; every costly number
    #: comes from ``store.compute``.
    measure: Callable[[str, Store], Findings]
    #: None: the curves of the comparisons.
    draw: Callable[[Findings, Figure], None] | None = None


def run_study(study: Study, argv: Sequence[str] | None = None) -> int:
    """Run a study with the options `argv`; the exit status.

    A run that was killed continues, and one that is finished measures nothing again: its cells
    stand in ``NAME.cells.jsonl`` in the run's folder, and count while the code is the same.
    """
    from threadpoolctl import threadpool_limits

    parser = make_parser(
        study.name,
        study.text,
        f"  python examples/studies/{study.source.name} --quick",
        quick="small sizes and one seed: that it runs",
        full="more sizes and seeds",
        prog=f"python examples/studies/{study.source.name}",
    )
    args = parser.parse_args(argv)
    # Rates that are too high are tried on purpose, and points out of a simulator's range.
    logging.getLogger("optex_core").setLevel(logging.ERROR)
    folder = output_folder(f"studies/{study.name}", args)
    sources = [study.source, *sorted(study.source.parent.glob("_*.py"))]
    store = Store(folder / f"{study.name}.cells.jsonl", resume=True, others=sources)
    resumed, begin = len(store.cells), time.perf_counter()
    # One BLAS thread: the same bits everywhere, and no workers that share cores with threads.
    with threadpool_limits(limits=1, user_api="blas"):
        findings = study.measure(args.mode, store)

    document = {
        "title": study.title,
        "text": " ".join(study.text.split()),
        "mode": args.mode,
        "source": store.source,
        "seconds": round(time.perf_counter() - begin),
        "resumed": resumed,
        **as_json(findings),
    }
    texts = (f"{table.caption}\n\n{columns(table.head, table.rows)}" for table in findings.tables)

    def draw(figure: Figure) -> None:
        if study.draw is None:
            draw_curves(findings.comparisons, figure)
        else:
            study.draw(findings, figure)

    return finish(study.name, folder, "\n\n\n".join(texts) + "\n", document, draw)
