"""One study: what it measures, and the run that a kill does not lose."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from optex_core.bench._result_store import Store
from optex_core.bench._runner import Row, finish, make_parser, mode_of, output_folder
from optex_core.bench._tables import columns
from optex_core.engine.plots import new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True, slots=True)
class Table:
    """A table of text.

    Attributes
    ----------
    caption : str
    head : sequence of str
        The first column is to the left.
    rows : sequence of sequences of str
    """

    caption: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]

    def text(self) -> str:
        """Plain text in columns."""
        return f"{self.caption}\n\n{columns(self.head, self.rows)}"


@dataclass(frozen=True, slots=True)
class Findings:
    """What a study has found.

    Attributes
    ----------
    tables : sequence of Table
        The first one stands on the page.
    comparisons : sequence of mapping
        What `compare` returns, for the page's table of losses.
    losses : sequence of (what, loses on, figure, use instead)
        Further rows of that table.
    figures : mapping
        The numbers behind tables and picture, JSON.
    skipped : sequence of str
        What was not measured, with the reason.
    """

    tables: Sequence[Table]
    comparisons: Sequence[Row] = ()
    losses: Sequence[tuple[str, str, str, str]] = ()
    figures: Row = field(default_factory=dict)
    skipped: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Study:
    """A script of `examples/studies`.

    Attributes
    ----------
    name, title : str
    text : str
        The paragraph of the page: what is measured, and how.
    source : Path
        The script.
    measure : callable
        ``measure(mode, store) -> Findings`` with the mode "quick", "default" or "full"; every
        costly number comes from ``store.compute``.
    draw : callable
        ``draw(findings, figure)``.
    """

    name: str
    title: str
    text: str
    source: Path
    measure: Callable[[str, Store], Findings]
    draw: Callable[[Findings, Figure], None]


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
    mode, folder = mode_of(args), output_folder(f"studies/{study.name}", args)
    sources = [study.source, *sorted(study.source.parent.glob("_*.py"))]
    store = Store(folder / f"{study.name}.cells.jsonl", resume=True, others=sources)
    resumed, begin = len(store.cells), time.perf_counter()
    # One BLAS thread: the same bits everywhere, and no workers that share cores with threads.
    with threadpool_limits(limits=1, user_api="blas"):
        findings = study.measure(mode, store)

    def draw(path: Path) -> None:
        figure = new_figure(10.0, 5.0)
        study.draw(findings, figure)
        figure.savefig(path, dpi=90)

    document = {
        "title": study.title,
        "text": " ".join(study.text.split()),
        "mode": mode,
        "source": store.source,
        "seconds": round(time.perf_counter() - begin),
        "resumed": resumed,
        "tables": [{"caption": t.caption, "head": t.head, "rows": t.rows} for t in findings.tables],
        "comparisons": findings.comparisons,
        "losses": findings.losses,
        "figures": findings.figures,
        "skipped": findings.skipped,
    }
    text = "\n\n\n".join(table.text() for table in findings.tables) + "\n"
    return finish(study.name, folder, text, document, draw)
