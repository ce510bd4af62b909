"""Tables of `overhead`."""

from __future__ import annotations

from collections.abc import Sequence

from optex_core.bench._runner import Row
from optex_core.bench._tables import columns, short
from optex_core.bench.overhead.cell import PHASES, Cell
from optex_core.bench.overhead.lookahead import PARALLELISM
from optex_core.bench.overhead.lookahead import table as lookahead_table

LEGEND = """own: ms of our own work in a round (the fastest), usual: the median, processor: ms that
all threads worked in it; floor: bytes that must move (MB) over the bandwidth of a copy (GB/s, same
process); ratio: own / floor; peak: memory of the run over that of its history, allowed:
2 T0 d + (S + 2N + 8) d numbers over the same (compiled code takes 60 MB beside, which shows below
d = 1e6); first s: seconds until the end of the first round, without importing Python and NumPy."""


def report(found: Row) -> str:
    """All tables."""
    texts = [LEGEND] if found["rounds"] else []
    if found["rounds"]:
        texts.append(f"Our own work in a round\n\n{rounds_table(found['rounds'])}")
    if found["lookahead"]:
        title = f"Own work of a round of the default method, N = {PARALLELISM}, Rosenbrock"
        texts.append(f"{title}\n\n{lookahead_table(found['lookahead'])}")
    if found["compile"]:
        rows = [[r["name"], short(r["seconds"]), short(r["cpu"])] for r in found["compile"]]
        texts.append(
            f"From the start of Python to the third round, d = "
            f"200,000\n\n{columns(('', 'seconds', 'of processor'), rows)}"
        )
    return "\n\n\n".join(texts) + "\n"


def rounds_table(results: Sequence[Row]) -> str:
    """One line for each cell."""
    head = (
        "ms",
        "own",
        "usual",
        "processor",
        *PHASES,
        "floor",
        "MB",
        "GB/s",
        "ratio",
        "peak",
        "allowed",
        "first s",
    )
    rows: list[list[str]] = []
    for r in results:
        if (title := _failed(r, rows, head)) is None:
            continue
        numbers = [
            1e3 * v
            for v in (
                r["fastest"],
                r["seconds"],
                r["processor"],
                *(r["phases"][p] for p in PHASES),
                r["floor"],
            )
        ]
        numbers += [sum(r["moved"].values()) / 1e6, r["copy"] / 1e9, r["ratio"]]
        memory = [
            None if r["peak"] is None else r["peak"] / r["history_bytes"],
            r["allowed_bytes"] / r["history_bytes"],
        ]
        rows.append([title, *map(short, numbers), *map(short, memory), short(r["first_round"])])
    return columns(head, rows)


def _failed(r: Row, rows: list[list[str]], head: Sequence[str]) -> str | None:
    """The title of a cell; None for one that failed, which gets a line that says why."""
    title = Cell(**r["cell"]).title
    if "error" not in r:
        return title
    rows.append([f"{title}: {r['error']}", *[""] * (len(head) - 1)])
    return None
