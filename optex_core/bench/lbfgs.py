"""SciPy's L-BFGS-B, one evaluation after another, over the rounds of the default method.

Rounds to a share of the drop that L-BFGS-B reaches in 3,000 evaluations: 1e-1, 1e-3 and 1e-6 of it.
A goal that was missed counts 0.2; runs are capped by rounds and not by a clock: three times
L-BFGS-B's and 30 more, at most 1,000. The second half of
the problems was not looked at while constants were chosen.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from statistics import geometric_mean

import numpy as np

from optex_core.bench._lbfgsb import NAME, run_lbfgsb
from optex_core.bench._runner import Row, finish, make_parser, numbered, numbers, output_folder, say
from optex_core.bench._tables import columns, first_hit, short
from optex_core.engine.optex import OptEx
from optex_core.errors import EvaluationError
from optex_core.problems import get_problem
from optex_core.problems.base import Problem

EXAMPLES = """  optex-core bench lbfgs --quick       four problems, N = 4: seconds
  optex-core bench lbfgs               all problems, N = 1, 4, 8, 16"""
SHARES = (1e-1, 1e-3, 1e-6)
MISSED = 0.2
#: Name, settings, held out.
PROBLEMS: tuple[tuple[str, Row, bool], ...] = (
    ("rosenbrock", {"d": 2}, False),
    ("rosenbrock", {"d": 10}, True),
    ("rosenbrock", {"d": 60}, False),
    ("beale", {}, False),
    ("powell_singular", {"d": 4}, True),
    ("powell_singular", {"d": 100}, False),
    ("styblinski_tang", {"d": 20}, True),
    ("levy", {"d": 10}, False),
    ("griewank", {"d": 20}, True),
    ("logistic", {}, False),
    ("logistic", {"d": 100, "n": 400}, True),
    ("network", {}, False),
    ("network", {"seed": 1}, True),
    ("quadratic", {"d": 50, "condition": 1e5}, False),
    ("quadratic", {"d": 400, "condition": 1e3}, True),
    ("sphere", {"d": 100}, False),
    ("heat_inversion", {"size": 24}, True),
    ("heat_inversion", {"size": 48}, False),
    ("rosenbrock", {"d": 30}, True),
    ("styblinski_tang", {"d": 100}, False),
    ("levy", {"d": 40}, True),
    ("griewank", {"d": 100}, True),
    ("logistic", {"d": 50, "n": 300, "seed": 1}, False),
    ("network", {"inputs": 10, "hidden": 5, "n": 200, "seed": 2}, True),
    ("quadratic", {"d": 60, "condition": 1e4, "rotated": True}, True),
    ("quadratic", {"d": 100, "condition": 1e3, "rotated": True}, False),
    ("minimal_surface", {"d": 400}, False),
    ("minimal_surface", {"d": 100}, True),
    ("negative_binomial", {}, False),
    ("negative_binomial", {"n": 600, "seed": 1}, True),
)


def main(argv: Sequence[str]) -> int:
    """Run the benchmark with the options `argv`; the exit status."""
    parser = make_parser("lbfgs", __doc__, EXAMPLES, quick="four problems, N = 4")
    parser.add_argument("-N", "--parallelism", metavar="N,...", help="default 1,4,8,16")
    args = parser.parse_args(argv)
    quick = args.mode == "quick"
    N = numbers("-N", args.parallelism or ("4" if quick else "1,4,8,16"))
    rows = []
    for progress, (name, settings, held) in numbered(PROBLEMS[:8:2] if quick else PROBLEMS):
        rows.append({**measure(name, settings, N), "held_out": held})
        say(f"{progress} {rows[-1]['title']}: {rows[-1]['rounds']}")
    return finish("lbfgs", output_folder("lbfgs", args), report(rows), {"rows": rows})


def measure(name: str, settings: Row, parallelism: Sequence[int]) -> Row:
    """Rounds to each goal, of L-BFGS-B and of the default method at every N; None for a miss."""
    problem = get_problem(name, **settings)
    x0 = problem.start(0)
    begin = time.perf_counter()
    trace, _ = run_lbfgsb(problem, x0, max_evals=3000)
    own = time.perf_counter() - begin - float(np.sum(trace.seconds))
    values = np.minimum.accumulate(np.where(np.isfinite(trace.value), trace.value, np.inf))
    goals = [float(values[-1] + share * (values[0] - values[-1])) for share in SHARES]
    theirs = [first_hit(values, goal) for goal in goals]
    cap = 3 * max(k for k in theirs if k is not None) + 30
    runs = {str(n): _run(problem, x0, n, goals, min(cap, 1000)) for n in parallelism}
    return {
        "title": f"{name}({', '.join(f'{k}={v}' for k, v in settings.items())})",
        "d": len(x0),
        "lbfgsb": theirs,
        "lbfgsb_own_ms": 1e3 * own / len(values),
        **{
            key: {n: run[i] for n, run in runs.items()}
            for i, key in enumerate(("rounds", "gradients", "own_ms"))
        },
    }


def _run(
    problem: Problem, x0: np.ndarray, N: int, goals: Sequence[float], cap: int
) -> tuple[list[int | None], list[int | None], float]:
    """Rounds and gradients to each goal, and own milliseconds of a round."""
    engine = OptEx(x0, parallelism=N, rng=0, gtol=0.0, target=goals[-1], maxiter=cap)
    lowest, gradients, inside, begin = [np.inf], [0], 0.0, time.perf_counter()
    while not engine.stop():
        for c in engine.ask():
            start = time.perf_counter()
            try:
                value, gradient = problem(np.asarray(c.x))
            except EvaluationError as error:  # a simulator refuses points far outside its range
                engine.tell(c.id, error=error)
                continue
            inside += time.perf_counter() - start
            lowest[-1] = min(lowest[-1], value if np.isfinite(value) else np.inf)
            engine.tell(c.id, value=value, gradient=gradient)
        lowest.append(lowest[-1])
        gradients.append(engine.state.njev)
    hits = [first_hit(lowest, goal) for goal in goals]
    spent = [None if k is None else gradients[min(k + 1, len(gradients) - 1)] for k in hits]
    return hits, spent, 1e3 * (time.perf_counter() - begin - inside) / len(lowest)


def ratios(row: Row, N: int) -> list[float]:
    """L-BFGS-B's evaluations over our rounds, for each goal; both count the start."""
    pairs = zip(row["lbfgsb"], row["rounds"][str(N)], strict=True)
    return [MISSED if b is None else (a + 1) / (b + 1) for a, b in pairs]


def summarize(rows: Sequence[Row]) -> dict[str, Row]:
    """What all problems, those held out, and those that are no quadratics say together.

    Returns
    -------
    dict of str to dict
        ``goals``; L-BFGS-B's ``lbfgsb_reached`` and ``lbfgsb_own_ms``; ``at`` with a dict for every
        N: the geometric ``mean`` of the problems' ratios, ``median``, ``worst``, ``worst_problem``,
        ``reached``, ``gradients`` over L-BFGS-B's, and ``own_ms`` of a round, the median.
    """
    sets = {
        "all": rows,
        "held out": [row for row in rows if row["held_out"]],
        "no quadratics": [r for r in rows if not r["title"].startswith(("quad", "sphere"))],
    }
    return {
        label: {
            "goals": len(chosen) * len(SHARES),
            "lbfgsb_reached": sum(k is not None for row in chosen for k in row["lbfgsb"]),
            "lbfgsb_own_ms": float(np.median([row["lbfgsb_own_ms"] for row in chosen])),
            "at": {int(N): _summarized(chosen, int(N)) for N in chosen[0]["rounds"]},
        }
        for label, chosen in sets.items()
        if chosen
    }


def _summarized(rows: Sequence[Row], N: int) -> Row:
    each = [geometric_mean(ratios(row, N)) for row in rows]
    pairs = [
        pair for row in rows for pair in zip(row["lbfgsb"], row["gradients"][str(N)], strict=True)
    ]
    return {
        "mean": geometric_mean(each),
        "median": float(np.median(each)),
        "worst": min(each),
        "worst_problem": rows[int(np.argmin(each))]["title"],
        "reached": sum(k is not None for row in rows for k in row["rounds"][str(N)]),
        "gradients": geometric_mean(
            mine / (theirs + 1) for theirs, mine in pairs if None not in (theirs, mine)
        ),
        "own_ms": float(np.median([row["own_ms"][str(N)] for row in rows])),
    }


def report(rows: Sequence[Row]) -> str:
    """The tables."""
    parallelism = [int(N) for N in rows[0]["rounds"]]
    head = ["problem", "d", "L-BFGS-B", *(f"N = {N}" for N in parallelism)]
    lines = [
        [
            row["title"] + (" *" if row["held_out"] else ""),
            str(row["d"]),
            *(
                ", ".join("-" if k is None else str(k) for k in rounds)
                for rounds in (row["lbfgsb"], *(row["rounds"][str(N)] for N in parallelism))
            ),
        ]
        for row in rows
    ]
    single = f"Rounds to {SHARES} of the drop (*: held out)\n\n{columns(head, lines)}"
    head = ["", "N", "geometric mean", "median", "worst", "goals", "gradients", "own ms"]
    lines = []
    for label, one in summarize(rows).items():
        own, of = short(one["lbfgsb_own_ms"]), f"of {one['goals']}"
        lines.append([label, NAME, "1", "1", "", f"{one['lbfgsb_reached']} {of}", "1", own])
        for N, found in one["at"].items():
            worst, reached = f"{short(found['worst'])} {found['worst_problem']}", found["reached"]
            mean, middle, gradients, own = (
                short(found[key]) for key in ("mean", "median", "gradients", "own_ms")
            )
            lines.append([label, str(N), mean, middle, worst, f"{reached} {of}", gradients, own])
    together = (
        "L-BFGS-B's evaluations over rounds (a missed goal counts 0.2), gradients over"
        " L-BFGS-B's,\nown work of a round (median over the problems)\n\n"
    )
    return f"{single}\n\n\n{together}{columns(head, lines, left=(0, 4))}\n"
