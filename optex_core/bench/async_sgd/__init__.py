"""Asynchronous SGD: throughput, delays and loss against workers; our bound on gradient norms.

The folder of the run holds ``async_sgd.json`` (settings and figures) and ``async_sgd.txt`` (the
tables); the study ``dpsgd`` draws them.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence

from optex_core.bench._runner import Row, choose, finish, make_parser, output_folder, say
from optex_core.bench._tables import columns
from optex_core.bench.async_sgd.measurements import computing, losses, rates, sleeping, slopes
from optex_core.bench.async_sgd.peer import against_scikit_learn

#: Part -> what measures it, and the title of its table.
PARTS: dict[str, tuple[Callable[..., list[Row]], str]] = {
    "sleeping": (
        sleeping,
        "Gradients that sleep 0.1 s, one to a push: throughput over N times one (reach: 0.95)",
    ),
    "computing": (
        computing,
        "Compiled gradients, two cores against one (reach: 1.7 where the machine gives 2)",
    ),
    "loss": (
        losses,
        "Sparse logistic regression, same number of gradients: loss against serial (reach: 2 % "
        "below the cap)",
    ),
    "rate": (
        rates,
        "Non-convex: mean |grad f|^2 at the suggested step, our bound beside it (nan: its "
        "condition exceeds 1)",
    ),
    "peer": (
        against_scikit_learn,
        "Sparse logistic regression, 1e5 rows of 40 entries, d = 2e4, six epochs: training loss, "
        "and scikit-learn's seconds over the method's",
    ),
}
_BURSTS = ((1, 0), (1, 7), (4, 1), (10, 0), (10, 3), (10, 40))
#: Mode -> part -> what it is called with.
EXTENTS: dict[str, dict[str, Row]] = {
    "quick": {
        "sleeping": {"numbers": (2, 8), "engines": ("threads",), "pushes": 15},
        "computing": {"rounds": 5},
        "loss": {"numbers": (1, 4), "cores": (1,), "gradients": 100_000},
        "rate": {"lengths": (500, 2000), "settings": ((1, 0), (10, 3)), "seeds": 1},
        "peer": {"steps": (1.0, 2.0), "seeds": (1,), "n": 20_000},
    },
    "default": {
        "sleeping": {"numbers": (2, 4, 8, 16)},
        "computing": {},
        "loss": {"numbers": (1, 2, 4, 8, 16), "cores": (1, 2)},
        "rate": {"lengths": (500, 2000, 8000), "settings": _BURSTS},
        "peer": {},
    },
    "full": {
        "sleeping": {"numbers": (1, 2, 4, 8, 16), "pushes": 60},
        "computing": {"rounds": 100},
        "loss": {"numbers": (1, 2, 4, 8, 16), "cores": (1, 2), "gradients": 1_000_000},
        "rate": {"lengths": (500, 1000, 2000, 4000, 8000, 16000), "settings": _BURSTS, "seeds": 4},
        "peer": {"repeats": 10},
    },
}
#: Entries of a row that its table has no column for.
_NO_COLUMNS = ("histogram", "stable", "message")
EXAMPLES = """  optex-core bench async_sgd             about two minutes on two cores
  optex-core bench async_sgd --quick     a first look, about 20 seconds
  optex-core bench async_sgd --full      to 16 workers, longer runs, more seeds; some four minutes
  optex-core bench async_sgd --parts sleeping,rate"""


def main(argv: Sequence[str]) -> int:
    """Run the benchmark with the options `argv`; the exit status."""
    texts = {"quick": "a first look", "full": "longer runs, more seeds"}
    args = make_parser("async_sgd", __doc__, EXAMPLES, parts=PARTS, **texts).parse_args(argv)
    parts = choose("part", args.parts, PARTS)
    if args.parts is None and importlib.util.find_spec("sklearn") is None:
        say("peer is left out: scikit-learn is not installed")
        parts = tuple(part for part in parts if part != "peer")
    extent = {part: EXTENTS[args.mode][part] for part in parts}
    figures: dict[str, list[Row]] = {}
    for part in parts:
        measure, title = PARTS[part]
        say(f"{part}: {title} ...")
        figures[part] = measure(**extent[part])
    exponents = slopes(figures.get("rate", []))
    document = {"mode": args.mode, "extent": extent, "figures": figures, "slopes": exponents}
    return finish("async_sgd", output_folder("async_sgd", args), report(figures), document)


def report(figures: dict[str, list[Row]]) -> str:
    """The tables as text."""
    blocks = []
    for part, rows in figures.items():
        names = [name for name in rows[0] if name not in _NO_COLUMNS]
        table = columns(names, [[_shown(row[name]) for name in names] for row in rows])
        lines = [PARTS[part][1], "", table, *_remarks(part, rows)]
        blocks.append("\n".join(lines))
    return "\n\n\n".join(blocks) + "\n"


def _remarks(part: str, rows: list[Row]) -> list[str]:
    """What stands below a table."""
    if part == "loss":
        unstable = [row for row in rows if not row["stable"]]
        found = [f"rate {row['rate']:g}, N = {row['N']}: {row['message']}" for row in unstable]
    elif part == "rate":
        found = [f"exponent of T at {name}: {slope:.3f}" for name, slope in slopes(rows).items()]
    elif part == "sleeping":
        most = [row for row in rows if row["N"] == max(other["N"] for other in rows)]
        found = [f"delays, {r['engine']}, N = {r['N']}: {_counts(r['histogram'])}" for r in most]
    else:
        return []
    return ["", *found]


def _counts(histogram: Sequence[int]) -> str:
    return " ".join(f"{delay}:{count}" for delay, count in enumerate(histogram) if count)


def _shown(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
