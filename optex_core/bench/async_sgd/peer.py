"""Sparse logistic regression beside scikit-learn's SGDClassifier: the loss after the same epochs,
and the time of both, in turns.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import scipy.sparse

from optex_core.async_sgd._minimize import minimize
from optex_core.bench._runner import Row
from optex_core.bench.async_sgd.problems import sparse_logistic
from optex_core.errors import MissingExtraError
from optex_core.types import Array

#: Parameters from a seed and a step.
Fit = Callable[[int, float], Array]


class _Problem:
    """A data set, and the methods that fit it in a number of epochs with a given step."""

    def __init__(self, n: int, d: int, width: int, epochs: int, seed: int) -> None:
        self.samples, self.d, self.epochs = sparse_logistic(n, d, width, seed), d, epochs
        columns, entries, self.labels = self.samples.data
        rows = np.arange(0, n * width + 1, width)
        parts = entries.ravel(), columns.ravel().astype(np.int32), rows.astype(np.int32)
        self.matrix = scipy.sparse.csr_matrix(parts, shape=(n, d))

    def loss(self, x: Array) -> float:
        """The mean over all rows."""
        return float(np.logaddexp(0.0, -self.labels * (self.matrix @ x)).mean())

    def scikit_learn(self, rng: int, step: float, schedule: str = "constant") -> Array:
        """SGDClassifier: `step` is eta0 of the constant rate, and 1e-5 / alpha of "optimal"."""
        try:
            from sklearn.linear_model import SGDClassifier
        except ImportError as error:
            raise MissingExtraError.of("scikit-learn", "test", "the part peer") from error
        settings: Row = {"eta0": step, "penalty": None}
        if schedule == "optimal":
            settings = {"alpha": 1e-5 / step}
        model = SGDClassifier(
            loss="log_loss", fit_intercept=False, max_iter=self.epochs, tol=None,
            random_state=rng, learning_rate=schedule, **settings,
        ).fit(self.matrix, self.labels)  # fmt: skip
        coefficients: Array = model.coef_.ravel()
        return coefficients

    def ours(self, rng: int, step: float, order: str = "shuffle", **options: Any) -> Array:
        """`async_sgd.minimize`, with its final evaluation of all rows."""
        res = minimize(
            replace(self.samples, order=order),
            np.zeros(self.d),
            rate=step,
            max_evals=self.epochs * self.samples.n,
            rng=rng,
            **options,
        )
        return res.x


def _methods(problem: _Problem, inner_steps: int) -> dict[str, Fit]:
    one: Row = {"parallelism": 1, "inner_steps": inner_steps}
    two: Row = {"parallelism": 2, "inner_steps": 2 * inner_steps, "workers": "threads"}
    return {
        "scikit-learn, constant rate": problem.scikit_learn,
        "scikit-learn, its default rate": lambda rng, step: problem.scikit_learn(
            rng, step, "optimal"
        ),
        "replacement, one core": lambda rng, step: problem.ours(rng, step, "replacement", **one),
        "shuffle, one core": lambda rng, step: problem.ours(rng, step, **one),
        "shuffle, two threads": lambda rng, step: problem.ours(rng, step, **two),
    }


def against_scikit_learn(
    steps: Sequence[float] = (0.5, 1.0, 2.0, 4.0, 8.0),
    seeds: Sequence[int] = (1, 2, 3),
    repeats: int = 3,
    n: int = 100_000,
    d: int = 20_000,
    width: int = 40,
    epochs: int = 6,
    inner_steps: int = 4000,
) -> list[Row]:
    """Losses over `seeds`, each a data set of its own; scikit-learn's seconds over the method's, in
    turns within one run: the median, that of the shortest times, and of CPU seconds of all cores.

    Every method takes the best of the same number of `steps` on a data set that is not reported.
    """
    best: dict[str, float] = {}
    problem = _Problem(n, d, width, epochs, 0)
    for name, fit in _methods(problem, inner_steps).items():
        best[name] = min(steps, key=lambda step: problem.loss(fit(0, step)))  # noqa: B023
    runs: dict[str, list[Row]] = {name: [] for name in best}
    for seed in seeds:
        problem = _Problem(n, d, width, epochs, seed)
        for _ in range(repeats):
            for name, fit in _methods(problem, inner_steps).items():
                start = time.perf_counter(), time.process_time()
                x = fit(seed, best[name])
                seconds, cpu = time.perf_counter() - start[0], time.process_time() - start[1]
                runs[name].append({"seconds": seconds, "cpu": cpu, "loss": problem.loss(x)})
    peer = runs[next(iter(best))]

    def quicker(own: list[Row], what: str) -> float:
        return statistics.median(a[what] / b[what] for a, b in zip(peer, own, strict=True))

    rows = []
    for name, own in runs.items():
        losses = [run["loss"] for run in own[::repeats]]  # of the seeds
        rows.append(
            {
                "method": name,
                "step": best[name],
                "loss": statistics.mean(losses),
                "spread": max(losses) - min(losses),
                "seconds": quicker(own, "seconds"),
                "shortest": min(a["seconds"] for a in peer) / min(b["seconds"] for b in own),
                "CPU seconds": quicker(own, "cpu"),
            }
        )
    return rows
