"""Topic models of NumPy's and SciPy's docstrings and of known topics: serial, synchronous,
asynchronous, two-level, and scikit-learn's.

Every method takes the same steps over the same documents in the same order. Perplexity is that of
document completion: shares of topics are fitted on one half of each of 300 held-out documents, and
the words of the other half are predicted; all methods are scored by the same code. Known topics
count as recovered when their partner in the best assignment is closer than 0.2 in total variation.
The folder of the run holds ``cells.jsonl``, ``topics.json``, ``topics.txt`` and ``topics.png``.
"""

from __future__ import annotations

import importlib.util
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from optex_core.async_sgd.models.corpus import Corpus
from optex_core.async_sgd.models.docstrings import docstring_corpus, versions
from optex_core.async_sgd.models.lda import (
    LDA,
    Batches,
    perplexity,
    topic_distributions,
    topic_words,
    unigram_perplexity,
)
from optex_core.async_sgd.models.synthetic import match_topics, synthetic_corpus
from optex_core.async_sgd.models.topic_model import find_topics
from optex_core.bench._studies import (
    Method,
    chosen_rows,
    mean_and_error,
    opened,
    parser,
    save,
    with_error,
)
from optex_core.bench.efficiency.tables import columns

EXAMPLES = """examples:
  optex-core bench topics              two seeds, two minutes on two cores
  optex-core bench topics --full       ten seeds; stop it and start it again as you like"""
HELD_OUT = 300
SKLEARN = "scikit-learn online"
NOISE = (("start", "noise"),)


def methods(workers: int) -> list[Method]:
    """Rows of the table; the first is what the others are compared with."""
    together = (("mode", "synchronous"),)
    return [
        Method("serial"),
        Method("synchronous", workers, 1, 4, together, bounded=False),
        Method("asynchronous", workers, 1, 4),
        Method("two levels", workers, 2, 4),
        Method("asynchronous threads", workers, 1, 4, (("workers", "threads"),)),
        Method("serial from noise", options=NOISE),
        Method("asynchronous from noise", workers, 1, 4, NOISE),
    ]


class Study:
    """A corpus with held-out halves.

    Parameters
    ----------
    name : str
    corpus : Corpus
    settings : LDA
    steps : int
    truth : array, optional
        Known topics.
    """

    def __init__(
        self, name: str, corpus: Corpus, settings: LDA, steps: int, truth: np.ndarray | None = None
    ) -> None:
        self.name, self.settings, self.steps, self.truth = name, settings, steps, truth
        self.training, held = corpus.split(HELD_OUT)
        self.observed, self.scored = held.halves()

    def run(self, method: Method, seed: int) -> dict[str, Any]:
        """One cell: perplexity, known topics, delays, seconds, and how perplexity fell."""
        track: list[tuple[int, np.ndarray]] = []
        marks = {
            max(1, round(self.steps * share / method.inner_steps))
            for share in (0.02, 0.05, 0.1, 0.2, 0.35, 0.5, 0.75, 1.0)
        }

        def watch(master: Any, *_: Any) -> None:
            # parameters are never changed in place: keeping them costs nothing
            if master.counts["accepted"] in marks:
                track.append((master.counts["accepted"] * method.inner_steps, master.x))

        begin = time.perf_counter()
        found = find_topics(
            self.training,
            self.settings,
            steps=self.steps,
            rng=seed,
            callback=watch,
            **method.arguments,
        )
        seconds = time.perf_counter() - begin
        delays = found.master.push_trace.delay
        cell = self._scored(found.x, seconds) | {
            "lost": found.report.lost,
            "mean_delay": float(delays.mean()),
            "max_delay": int(delays.max()),
        }
        cell["least"] = float(found.x.min())
        cell["track"] = [
            [steps * self.settings.batch, perplexity(self.settings, x, self.observed, self.scored)]
            for steps, x in track
        ]
        cell["topics"] = found.words(8)
        return cell

    def run_sklearn(self, seed: int) -> dict[str, Any]:
        """The same documents in the same order through scikit-learn's ``partial_fit``."""
        from scipy.sparse import csr_matrix
        from sklearn.decomposition import LatentDirichletAllocation

        s, c = self.settings, self.training
        X = csr_matrix((c.counts, c.ids, c.indptr), shape=(len(c), c.words))
        model = LatentDirichletAllocation(
            s.topics, doc_topic_prior=s.alpha, topic_word_prior=s.eta, learning_decay=s.kappa, learning_offset=s.tau0, total_samples=len(c),
            mean_change_tol=s.tolerance, max_doc_update_iter=s.sweeps, random_state=seed,
        )  # fmt: skip
        batches = Batches(len(c), s.batch, seed)
        begin = time.perf_counter()
        for t in range(self.steps):
            model.partial_fit(X[batches[t]])
        v = np.ascontiguousarray(model.components_.T).ravel()
        return self._scored(v, time.perf_counter() - begin) | {"topics": topic_words(s, v, c, 8)}

    def _scored(self, v: np.ndarray, seconds: float) -> dict[str, Any]:
        cell: dict[str, Any] = {
            "perplexity": perplexity(self.settings, v, self.observed, self.scored),
            "seconds": seconds,
        }
        if self.truth is not None:
            match = match_topics(
                topic_distributions(self.settings, v, self.training.words), self.truth
            )
            cell |= {"recovered": match.recovered(), "of": len(self.truth), "distance": match.mean}
        return cell


def studies() -> dict[str, Callable[[], Study]]:
    """Both corpora, made when they are needed."""

    def known() -> Study:
        corpus, truth = synthetic_corpus()
        return Study("known topics", corpus, LDA(topics=10), 500, truth)

    return {
        "docstrings": lambda: Study("docstrings", docstring_corpus(), LDA(), 1000),
        "known topics": known,
    }


def main(argv: Sequence[str]) -> int:
    """Run the benchmark.

    Parameters
    ----------
    argv : sequence of str
        The options.

    Returns
    -------
    int
        0.
    """
    found = parser("topics", __doc__, EXAMPLES, "2, with --full 10")
    found.add_argument(
        "--corpus", choices=[*studies(), "both"], default="both", help="what to read (default both)"
    )
    args = found.parse_args(argv)
    folder, store = opened("topics", args)
    seeds = range(args.seeds or (10 if args.full else 2))
    known = [*(method.name for method in methods(args.workers)), SKLEARN]
    rows = [
        row
        for row in chosen_rows(args.methods, known)
        if row != SKLEARN or importlib.util.find_spec("sklearn")
    ]
    cells: list[dict[str, Any]] = []
    described = {}
    for name, make in studies().items():
        if args.corpus not in (name, "both"):
            continue
        study = make()
        c = study.training
        described[name] = {
            "documents": len(c), "words": c.words, "tokens": c.tokens, "held_out": len(study.scored), "steps": study.steps,
            "settings": repr(study.settings), "words alone": unigram_perplexity(c, study.scored),
        }  # fmt: skip
        for seed in seeds:
            for row in rows:
                key = f"{name}/{row}/{args.workers}/{seed}"
                if key not in store.cells:
                    method = next((m for m in methods(args.workers) if m.name == row), None)
                    cell = (
                        study.run(method, seed) if method is not None else study.run_sklearn(seed)
                    )
                    store.add(key, {"corpus": name, "method": row, "seed": seed, **cell})
                cells.append(store.cells[key])
                print(
                    f"{key}: perplexity {cells[-1]['perplexity']:.1f}, "
                    f"{cells[-1]['seconds']:.1f} s",
                    file=sys.stderr,
                    flush=True,
                )
    text = report(cells, described, methods(args.workers))
    print(text)
    if importlib.util.find_spec("sklearn") is None:
        print(
            "scikit-learn is not installed: its row is missing; run: python -m pip "
            "install scikit-learn",
            file=sys.stderr,
        )
    document = {
        "libraries": versions(),
        "workers": args.workers,
        "seeds": len(seeds),
        "corpora": described,
        "cells": cells,
    }
    print(save(folder, "topics", text, document, lambda figure: draw(figure, cells, described)))
    return 0


def of(cells: Sequence[dict[str, Any]], **wanted: Any) -> list[dict[str, Any]]:
    """The cells with these entries."""
    return [cell for cell in cells if all(cell[key] == value for key, value in wanted.items())]


def report(
    cells: Sequence[dict[str, Any]], described: dict[str, Any], shown: Sequence[Method]
) -> str:
    """Tables and the topics of one run."""
    texts = []
    for name, about in described.items():
        here = of(cells, corpus=name)
        head = [
            "",
            "workers x cores x steps",
            "perplexity",
            "against serial",
            "least lambda",
            "delay mean, max",
            "seconds",
        ]
        known = "recovered" in here[0]
        rows = []
        serial = mean_and_error([c["perplexity"] for c in of(here, method="serial")])[0]
        for row in dict.fromkeys(c["method"] for c in here):
            mine = of(here, method=row)
            method = next((m for m in shown if m.name == row), None)
            line = [
                row,
                f"{method.parallelism} x {method.cores} x {method.inner_steps}"
                if method
                else "1 x 1 x 1",
            ]
            line += [
                with_error([c["perplexity"] for c in mine]),
                f"{mean_and_error([c['perplexity'] for c in mine])[0] / serial - 1:+.1%}",
            ]
            line += [f"{min(c['least'] for c in mine):.3g}" if method else "-"]
            line += [
                f"{np.mean([c['mean_delay'] for c in mine]):.1f}, "
                f"{max(c['max_delay'] for c in mine)}"
                if method
                else "-"
            ]
            line += [f"{np.median([c['seconds'] for c in mine]):.1f}"]
            if known:
                line += [
                    f"{sum(c['recovered'] for c in mine)} of {sum(c['of'] for c in mine)}",
                    f"{np.mean([c['distance'] for c in mine]):.3f}",
                ]
            rows.append(line)
        title = (
            f"{name}: {about['documents']} documents, {about['words']} words, "
            f"{about['tokens']} tokens; {about['steps']} steps; "
            f"{len(of(here, method='serial'))} seeds\nperplexity on "
            f"{about['held_out']} held-out documents (completion); "
            f"frequencies of words alone: {about['words alone']:.1f}"
        )
        texts.append(
            f"{title}\n\n{columns([*head, *(['recovered', 'distance'] if known else [])], rows)}"
        )
        if not known:
            last = next((c for c in here if c["method"] == "asynchronous"), here[0])
            texts.append(
                f"topics of the first run that is {last['method']}\n\n"
                + "\n".join("  " + " ".join(words) for words in last["topics"])
            )
    return "\n\n\n".join(texts) + "\n"


def draw(figure: Any, cells: Sequence[dict[str, Any]], described: dict[str, Any]) -> None:
    """Perplexity against documents, one line for each method's first seed, and every seed's last
    value.
    """
    for axes, name in zip(
        figure.subplots(1, len(described), squeeze=False)[0], described, strict=True
    ):
        here = of(cells, corpus=name)
        for i, row in enumerate(dict.fromkeys(c["method"] for c in here)):
            mine = of(here, method=row)
            if "track" in mine[0]:
                axes.plot(*np.array(mine[0]["track"]).T, color=f"C{i}", label=row)
            end = described[name]["steps"] * LDA().batch
            axes.plot(
                [end * (1.02 + 0.015 * i)] * len(mine),
                [c["perplexity"] for c in mine],
                ".",
                color=f"C{i}",
                label=None if "track" in mine[0] else row,
            )
        axes.set(
            title=name,
            xlabel="documents seen; dots: all seeds at the end",
            ylabel="held-out perplexity",
            yscale="log",
        )
        axes.legend(fontsize="small")
