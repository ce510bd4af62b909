"""The error of the gradient estimate: against the length of the history, against what it says of
itself, and what becomes of the sqrt(N) law.

Run: python examples/studies/estimation_error.py [--quick|--full]
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from _comparison import ALONE, FASTER, LBFGSB, METHODS, RATELESS, TUNING_SEED, Objective, minimized
from _study import Findings, Study, Table, run_study
from scipy.spatial.distance import cdist

import optex_core as ox
from optex_core.bench._result_store import Store
from optex_core.bench._tables import short
from optex_core.engine.plots import COLOURS
from optex_core.model.kernels import KERNELS
from optex_core.problems import get_problem
from optex_core.problems.noisy import Noisy

TEXT = """The first theorem of the paper says that the error of the estimate falls to zero with the
history. Drawn: 100 gradient components from the assumed Gaussian process (Matern 5/2, length 1) at
points spread over a subspace of 2, 10 or 50 dimensions, or along a smooth path with steps of 0.1;
predicted are 20 new points, or the next five. Real: 200 steps of Adam on four problems; predicted
is the gradient five steps ahead of the newest known one. The table has the root mean square of the
error over that of the gradient; coverage is the share of components within 1.645 predicted standard
deviations, which would be 90 % if the estimate knew itself. The law of the second theorem, an error
after T rounds that falls as 1/sqrt(N), is looked for with SGD on a quadratic of 100 parameters,
every method and N at the best of six rates, with all controls."""
LENGTHS = (4, 8, 16, 32, 64, 128)
#: title -> (dimensions of the points' subspace, or 0 for a path; noise)
DRAWN = {
    "drawn, 2 dimensions": (2, 0.0),
    "drawn, 10 dimensions": (10, 0.0),
    "drawn, 50 dimensions": (50, 0.0),
    "drawn, path": (0, 0.0),
    "drawn, path, noise 0.3": (0, 0.3),
}
#: title -> (problem, rate of Adam)
REAL: dict[str, tuple[Callable[[], Any], float]] = {
    "logistic regression": (lambda: get_problem("logistic"), 0.05),
    "network": (lambda: get_problem("network"), 0.02),
    "Rosenbrock d = 300": (lambda: get_problem("rosenbrock", d=300), 0.05),
    "heat inversion 24 x 24": (lambda: get_problem("heat_inversion", size=24), 0.05),
}
D, NEW, AHEAD, STEPS = 100, 20, 5, 200
#: Noise, in units of the first gradient.
LEVELS = (0.0, 1.0, 10.0)
#: Stable up to 2 / (largest curvature).
LAW_RATES = (0.01, 0.03, 0.1, 0.3, 1.0, 1.8)
LAW_ROUNDS = 80
#: mode -> (history lengths, seeds, N of the law, its levels, its seeds)
EXTENTS: dict[str, tuple[Sequence[int], int, Sequence[int], Sequence[float], int]] = {
    "quick": ((4, 16), 1, (1, 4), (1.0,), 1),
    "default": (LENGTHS, 5, (1, 4, 16), LEVELS, 5),
    "full": ((*LENGTHS, 256), 20, (1, 2, 4, 8, 16, 32), (*LEVELS, 100.0), 10),
}
Z90 = 1.6448536269514722


def drawn_rows(dimensions: int, noise: float, n: int, seed: int) -> tuple[np.ndarray, ...]:
    """n points (n, D) and gradients (n, D) of the process, and new ones, (m, D), without noise."""
    rng = np.random.default_rng(seed)
    if dimensions:
        turn = np.linalg.qr(rng.standard_normal((D, dimensions)))[0]
        # within two lengths of each other, whatever the dimension
        X = rng.standard_normal((n + NEW, dimensions)) / math.sqrt(dimensions) @ turn.T
    else:
        # a helix of radius 2 that climbs three lengths in a turn: it comes near no point again
        angle = 0.05 * np.arange(n + AHEAD)
        X = np.zeros((n + AHEAD, D))
        X[:, :3] = np.column_stack([2 * np.cos(angle), 2 * np.sin(angle), 0.5 * angle])
    gram = KERNELS["matern52"]().profile(cdist(X, X, "sqeuclidean"))
    values, vectors = np.linalg.eigh(gram)
    G = vectors * np.sqrt(np.maximum(values, 0.0)) @ vectors.T @ rng.standard_normal((len(X), D))
    return X[:n], G[:n] + noise * rng.standard_normal((n, D)), X[n:], G[n:]


def scores(
    X: np.ndarray, G: np.ndarray, new: np.ndarray, true: np.ndarray, mean: str
) -> dict[str, float]:
    """Squared error and squared gradient at new points, the share of components covered, and the
    squared error of the newest gradient.
    """
    posterior = ox.GradientEstimator(mean=mean, tune="likelihood").fit(X, G)
    error, size, covered, repeated = 0.0, 0.0, [], 0.0
    for x, g in zip(new, true, strict=True):
        mu, std = posterior.predict(x)
        error += float((mu - g) @ (mu - g))
        size += float(g @ g)
        covered.append(float(np.mean(np.abs(mu - g) <= Z90 * std / math.sqrt(len(g)))))
        repeated += float((G[-1] - g) @ (G[-1] - g))
    return {"error": error, "size": size, "covered": float(np.mean(covered)), "repeated": repeated}


def real_scores(title: str, n: int, seed: int, mean: str) -> dict[str, float]:
    """The sum of `scores` over moments of a path of Adam, AHEAD steps before each."""
    make, rate = REAL[title]
    problem, rule = make(), ox.Adam(rate)
    x = problem.start(seed) + 0.01 * np.random.default_rng(seed).standard_normal(problem.d)
    state, X, G = rule.init(x), [], []
    for _ in range(STEPS):
        X.append(x)
        G.append(problem.gradient(x))
        x, state = rule.step(x, G[-1], state)
    rows, ahead, total = np.array(X), np.array(G), []
    for t in range(max(LENGTHS), STEPS, 20):
        known = slice(t - AHEAD - n + 1, t - AHEAD + 1)
        total.append(scores(rows[known], ahead[known], rows[t : t + 1], ahead[t : t + 1], mean))
    keys = ("error", "size", "repeated")
    return {key: sum(s[key] for s in total) for key in keys} | {
        "covered": float(np.mean([s["covered"] for s in total]))
    }


def errors(
    title: str, run: Callable[[int, int], dict[str, float]], lengths: Sequence[int], seeds: int,
    store: Store,
) -> dict[str, Any]:  # fmt: skip
    """Relative error for each length of history, and coverage, over the seeds."""
    row: dict[str, Any] = {"title": title, "lengths": list(lengths), "error": [], "coverage": []}
    for n in lengths:
        cells = [
            store.compute(f"{title}/{n}/{seed}", partial(run, n, seed)) for seed in range(seeds)
        ]
        size = sum(c["size"] for c in cells)
        row["error"].append(math.sqrt(sum(c["error"] for c in cells) / size))
        row["coverage"].append(float(np.mean([c["covered"] for c in cells])))
        row["repeated"] = math.sqrt(sum(c["repeated"] for c in cells) / size)
    return row


def squared_gradient(level: float, seed: int) -> Objective:
    """The quadratic, seen through noise; judged by |grad F|^2."""
    problem = get_problem("quadratic", d=100, condition=100.0)
    x0 = problem.start(seed)
    norm = float(np.linalg.norm(problem.gradient(x0)))
    fun = Noisy(problem, level * norm, relative=False) if level else problem
    return Objective(fun, x0, lambda x: float(np.sum(problem.gradient(x) ** 2)))


def law(level: float, numbers: Sequence[int], seeds: int, store: Store) -> list[dict[str, Any]]:
    """For every method the mean of |grad F|^2 over the last tenth of the rounds against N, each at
    its best rate.
    """

    def final(method: str, N: int, rate: float | None, seed: int) -> float:
        def run() -> dict[str, Any]:
            make = partial(squared_gradient, level)
            done = minimized(make, ox.SGD, LAW_ROUNDS, N, method, rate, seed)
            return {"final": done.final}

        found = store.compute(f"law/{level}/{method}/{N}/{rate}/{seed}", run)["final"]
        return math.inf if found is None else float(found)

    def best_rate(method: str, N: int) -> float | None:
        if method in (RATELESS, LBFGSB):
            return None
        if method == FASTER:
            alone = best_rate(ALONE, 1)
            assert alone is not None
            return N * alone
        return min(LAW_RATES, key=lambda rate: final(method, N, rate, TUNING_SEED))

    rows = []
    for method in METHODS:
        if method == LBFGSB and level:
            continue
        finals = []
        for N in numbers:
            rate = best_rate(method, N)
            finals.append(float(np.mean([final(method, N, rate, seed) for seed in range(seeds)])))
        known = all(0.0 < value < math.inf for value in finals)
        slope = float(np.polyfit(np.log(numbers), np.log(finals), 1)[0]) if known else None
        rows.append(
            {"level": level, "method": method, "N": list(numbers),
             "squared gradient": [v if v < math.inf else None for v in finals], "exponent": slope}
        )  # fmt: skip
    return rows


def measure(mode: str, store: Store) -> Findings:
    lengths, seeds, numbers, levels, law_seeds = EXTENTS[mode]

    def drawn(title: str, n: int, seed: int) -> dict[str, float]:
        return scores(*drawn_rows(*DRAWN[title], n, seed), "constant")

    def real(title: str, n: int, seed: int) -> dict[str, float]:
        return real_scores(title, n, seed, "linear")

    rows = [errors(title, partial(drawn, title), lengths, seeds, store) for title in DRAWN]
    short_ones = [n for n in lengths if n <= max(LENGTHS) - AHEAD]
    rows += [errors(title, partial(real, title), short_ones, seeds, store) for title in REAL]
    laws = [row for level in levels for row in law(level, numbers, law_seeds, store)]
    return Findings(
        [error_table(rows), coverage_table(rows), law_table(laws)],
        losses=losses(rows, laws),
        figures={"errors": rows, "law": laws},
    )


def error_table(rows: Sequence[dict[str, Any]]) -> Table:
    lengths = rows[0]["lengths"]
    return Table(
        "Relative error of the estimate against the rows of the history.",
        ["", *(f"{n} rows" for n in lengths), "newest gradient repeated", "coverage of 90 %"],
        [
            [
                row["title"],
                *(short(e) for e in row["error"]),
                *["-"] * (len(lengths) - len(row["error"])),
                short(row["repeated"]),
                f"{min(row['coverage']):.0%} to {max(row['coverage']):.0%}",
            ]
            for row in rows
        ],
    )


def coverage_table(rows: Sequence[dict[str, Any]]) -> Table:
    lengths = rows[0]["lengths"]
    return Table(
        "Share of components within 1.645 predicted standard deviations.",
        ["", *(f"{n} rows" for n in lengths)],
        [
            [
                row["title"],
                *(f"{c:.0%}" for c in row["coverage"]),
                *["-"] * (len(lengths) - len(row["coverage"])),
            ]
            for row in rows
        ],
    )


def law_table(rows: Sequence[dict[str, Any]]) -> Table:
    return Table(
        f"SGD, quadratic, condition 100: |grad F|^2 after {LAW_ROUNDS} rounds at each method's "
        f"best rate; the law is an exponent of -0.5.",
        ["noise / first gradient", "method", *(f"N = {n}" for n in rows[0]["N"]), "exponent of N"],
        [
            [f"{r['level']:g}", r["method"],
             *("diverged" if v is None else short(v) for v in r["squared gradient"]),
             said(r["exponent"])]
            for r in rows
        ],
    )  # fmt: skip


def said(exponent: float | None) -> str:
    """Of N; "-" where a run is at the minimum, or none ended."""
    return "-" if exponent is None else f"{exponent:.2f}"


def losses(
    rows: Sequence[dict[str, Any]], laws: Sequence[dict[str, Any]]
) -> list[tuple[str, str, str, str]]:
    """Where a long history helps no more, and where the law does not hold."""
    worse = [row for row in rows if min(row["error"]) > 0.9 * row["repeated"] or
             min(row["error"]) > 0.5]  # fmt: skip
    found = []
    if worse:
        worst = max(worse, key=lambda row: min(row["error"]))
        found.append(
            ("the gradient estimate", f"{len(worse)} of {len(rows)}",
             f"{worst['title']}: relative error {short(min(worst['error']))} at best",
             "no prediction: `data_parallel` under noise, L-BFGS-B without")
        )  # fmt: skip
    longer = [row for row in rows if row["title"] in REAL and len(row["error"]) > 1]
    worse = [row for row in longer if row["error"][-1] > 1.1 * min(row["error"])]
    if worse:
        worst = max(worse, key=lambda row: row["error"][-1] / min(row["error"]))
        best = worst["lengths"][int(np.argmin(worst["error"]))]
        found.append(
            (f"a history of {worst['lengths'][-1]} rows", f"{len(worse)} of {len(longer)} paths",
             f"{worst['title']}: error {short(worst['error'][-1])} against "
             f"{short(min(worst['error']))} with {best} rows", "the default, max(20, 6 N) rows")
        )  # fmt: skip
    for level in dict.fromkeys(row["level"] for row in laws):
        here = {row["method"]: row for row in laws if row["level"] == level}
        average = here["data_parallel"]
        for row in (here["paper"], here[RATELESS]):
            last = row["squared gradient"][-1]
            if last is None or last > 1.1 * average["squared gradient"][-1]:
                found.append(
                    (f"`{row['method']}`, the sqrt(N) law, noise {level:g}",
                     f"exponent {said(row['exponent'])}, N = {row['N'][-1]}",
                     f"|grad F|^2 {'diverged' if last is None else short(last)} against "
                     f"{short(average['squared gradient'][-1])}",
                     f"`data_parallel`, exponent {said(average['exponent'])}")
                )  # fmt: skip
    return found


def draw(findings: Findings, figure: Any) -> None:
    figure.set_size_inches(11.0, 4.2)
    left, right = figure.subplots(1, 2)
    for i, row in enumerate(findings.figures["errors"]):
        left.plot(
            row["lengths"], row["error"], marker="o", markersize=3, label=row["title"],
            color=COLOURS[i % len(COLOURS)], linestyle="-" if i < len(DRAWN) else "--",
        )  # fmt: skip
    left.set_xlabel("rows of the history")
    left.set_ylabel("relative error of the estimate")
    rows = findings.figures["law"]
    levels = list(dict.fromkeys(row["level"] for row in rows))
    for row in rows:
        finals = np.array([np.nan if v is None else v for v in row["squared gradient"]])
        if not finals[0] > 0:  # at the minimum with one gradient a round
            continue
        number = METHODS.index(row["method"])
        right.plot(
            row["N"], finals / finals[0], marker="os"[number // len(COLOURS)], markersize=4,
            label=row["method"] if row["level"] == levels[-1] else None,
            color=COLOURS[number % len(COLOURS)],
            linestyle=("-", "--", ":", "-.")[levels.index(row["level"])],
        )  # fmt: skip
    numbers = np.array(rows[0]["N"], float)
    right.plot(numbers, numbers**-0.5, color="black", linewidth=2.5, alpha=0.4, label="1 / sqrt(N)")
    right.set_title(
        "lines solid, dashed, dotted: noise " + ", ".join(f"{level:g}" for level in levels),
        fontsize="medium",
    )
    right.set_xlabel("N")
    right.set_ylabel("|grad F|^2 over that at N = 1")
    right.set_ylim(1e-4, 10)
    for axes in (left, right):
        axes.set_xscale("log", base=2)
        axes.set_yscale("log")
        axes.grid(visible=True, alpha=0.25)
        axes.legend(fontsize="xx-small")


STUDY = Study("estimation_error", "Estimation error", TEXT, Path(__file__), measure, draw)

if __name__ == "__main__":
    raise SystemExit(run_study(STUDY))
