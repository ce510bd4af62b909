"""Topics in docstrings, found by worker processes that push to one master when they are ready."""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from optex_core.async_sgd import LoopReport
from topic_model import (
    LDA,
    Corpus,
    docstring_corpus,
    find_topics,
    match_topics,
    perplexity,
    synthetic_corpus,
    unigram_perplexity,
)
from topic_model.lda import BatchSchedule


def compare(
    training: Corpus,
    halves: tuple[Corpus, Corpus],
    settings: LDA,
    steps: int,
    workers: int,
    seeds: int,
) -> None:
    """Print held-out perplexity, staleness and time of all methods, on the same documents.

    Methods take turns, seed by seed, so that a busy machine slows all of them alike.
    """
    bound = {"max_delay": 2 * workers, "on_late": "wait"}
    many: dict[str, Any] = {"parallelism": workers, "workers": workers}
    methods: dict[str, dict[str, Any]] = {
        "serial": {"parallelism": 1, "inner_steps": 1},
        "synchronous": {**many, "synchronous": True},
        "asynchronous": {**many, **bound},
        "two levels": {**many, **bound, "cores": 2},
        "serial from noise": {"parallelism": 1, "inner_steps": 1, "start": "noise"},
        "scikit-learn online": {},
    }
    scores: dict[str, list[float]] = {name: [] for name in methods}
    seconds: dict[str, list[float]] = {name: [] for name in methods}
    delays: dict[str, float] = dict.fromkeys(methods, 0.0)
    for seed in range(seeds):
        for name, arguments in methods.items():
            start = time.perf_counter()
            if name == "scikit-learn online":
                x = scikit_learn_topics(training, settings, steps, seed)
            else:
                found = find_topics(training, settings, steps=steps, rng=seed, **arguments)
                x, delays[name] = found.x, found.report.mean_delay
            seconds[name].append(time.perf_counter() - start)
            scores[name].append(perplexity(settings, x, *halves))
    for name, values in scores.items():
        milliseconds = 1e3 * np.array(seconds[name]) / (steps * settings.batch)
        slower = np.median(np.array(seconds[name]) / seconds["serial"])
        print(
            f"{name:20} perplexity {np.mean(values):6.1f}, spread {np.ptp(values):5.1f}  staleness "
            f"{delays[name]:4.1f}  {np.median(milliseconds):5.2f} ms a document, {slower:4.2f} "
            "times serial"
        )


def scikit_learn_topics(corpus: Corpus, settings: LDA, steps: int, seed: int) -> np.ndarray:
    """lambda by scikit-learn's online method, on the documents of `find_topics`."""
    from sklearn.decomposition import LatentDirichletAllocation

    s = settings
    model = LatentDirichletAllocation(
        s.topics, doc_topic_prior=s.alpha, topic_word_prior=s.eta, learning_decay=s.kappa,
        learning_offset=s.tau0 + 1.0, total_samples=len(corpus), batch_size=s.batch,
        mean_change_tol=s.tolerance, max_doc_update_iter=s.sweeps, random_state=seed,
    )  # fmt: skip
    batches = BatchSchedule(len(corpus), s.batch, seed)
    for t in range(steps):
        model.partial_fit(corpus.counts[batches[t]])
    return np.ascontiguousarray(model.components_.T).ravel()


def main(argv: Sequence[str] | None = None) -> None:
    """Run the example; see ``python -m topic_model --help``."""
    parser = argparse.ArgumentParser(prog="python -m topic_model", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a small corpus of known topics")
    parser.add_argument("--compare", action="store_true", help="a table of all methods")
    parser.add_argument("--steps", type=int, help="mini-batches (default 600, with --quick 60)")
    parser.add_argument("--seeds", type=int, default=1, help="of --compare (default 1)")
    parser.add_argument("--workers", type=int, help="processes (default 4, with --quick 2)")
    args = parser.parse_args(argv)
    workers = args.workers or (2 if args.quick else 4)
    steps = args.steps or (60 if args.quick else 600)
    if args.quick:
        settings = LDA(topics=4, batch=16, tau0=8.0)
        corpus, truth = synthetic_corpus(300, words=120, topics=4, rng=1)
    else:
        settings, corpus, truth = LDA(), docstring_corpus(), None
    training, held = corpus.split(len(corpus) // 10)
    halves = held.halves()
    words_alone = unigram_perplexity(training, halves[1])
    print(f"{training}; held-out perplexity of words alone: {words_alone:.0f}")
    if args.compare:
        compare(training, halves, settings, steps, workers, args.seeds)
        return

    def watch(intermediate_result: LoopReport) -> None:
        master = intermediate_result.master
        if master.version % max(1, steps // 40) == 0:
            seen, score = (
                4 * settings.batch * master.version,
                perplexity(settings, master.x, *halves),
            )
            print(f"\r{seen} documents seen, held-out perplexity {score:.0f}", end="", flush=True)

    found = find_topics(
        training,
        settings,
        steps=steps,
        parallelism=workers,
        workers=workers,
        max_delay=2 * workers,
        on_late="wait",
        callback=watch,
    )
    report = found.report
    print(f"\n{report.pushes} pushes of 4 steps in {report.seconds:.1f} s; ", end="")
    print(f"staleness {report.mean_delay:.1f} on average\n")
    for words in found.words(9):
        print("  " + " ".join(words))
    if truth is not None:
        distances = match_topics(found.distributions, truth)[1]
        print(f"{(distances < 0.2).sum()} of {len(truth)} known topics found")


if __name__ == "__main__":
    main()
