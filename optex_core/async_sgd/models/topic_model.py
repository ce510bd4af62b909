"""Topic models by many workers: the affine burst of stochastic variational inference, and
`find_topics`, which runs it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np

from optex_core._validation import integer, one_of, reject_unknown_keywords, short_repr
from optex_core.async_sgd.master import Master
from optex_core.async_sgd.models.corpus import Corpus
from optex_core.async_sgd.models.going_on import make_or_resume_master
from optex_core.async_sgd.models.lda import (
    LDA,
    Batches,
    natural_target,
    select_e_step,
    topic_distributions,
    topic_words,
)
from optex_core.async_sgd.models.seeding import clustered_start
from optex_core.async_sgd.records import BurstContext, Push
from optex_core.async_sgd.worker_loop import LoopReport, run
from optex_core.errors import ArgumentError, ArgumentTypeError
from optex_core.types import Array

MODES = ("asynchronous", "synchronous")
STARTS = ("clusters", "noise")


class VariationalBurst:
    """B steps of stochastic variational inference on a local copy of lambda, pushed as one affine
    map.

    Every step u <- (1 - rho) u + rho h maps positive numbers to positive numbers, and so does their
    composition v <- a v + b::

        a <- (1 - rho) a,    b <- (1 - rho) b + rho h

    whatever has happened to v meanwhile. The difference u - v, pushed in its place, does not: with
    delays up to 8 it drove 180,000 entries of lambda below zero in 300 steps.

    Step number ``ctx.id B + j`` of the run decides the documents and rho, so every step of the
    serial schedule is taken once, whoever takes it. With several cores each computes its h from u
    as it is (no lock, compiled code without the interpreter lock); u, a and b then move under a
    lock: 0.1 ms against some 6 ms for h.

    Parameters
    ----------
    corpus : Corpus
        The training documents.
    settings : LDA
    inner_steps : int
        B.
    cores : int
        Threads in this worker, at most B.
    seed : int
        Of the order of the documents.
    compiled : bool or None
        See `select_e_step`.
    """

    def __init__(
        self,
        corpus: Corpus,
        settings: LDA,
        *,
        inner_steps: int = 4,
        cores: int = 1,
        seed: int = 0,
        compiled: bool | None = None,
    ) -> None:
        if not isinstance(corpus, Corpus):
            raise ArgumentTypeError(
                f"corpus must be a Corpus (Corpus.from_texts makes one), got {short_repr(corpus)}"
            )
        if not isinstance(settings, LDA):
            raise ArgumentTypeError(f"settings must be an LDA, got {short_repr(settings)}")
        if not len(corpus) or (np.diff(corpus.indptr) == 0).any():
            raise ArgumentError(
                "corpus must have documents, and each of them words; leave out the "
                "empty ones (minimum_tokens=1)"
            )
        self.corpus, self.settings, self.compiled = corpus, settings, compiled
        self.inner_steps, self.cores = (
            integer("inner_steps", inner_steps, low=1),
            integer("cores", cores, low=1),
        )
        if self.cores > self.inner_steps:
            raise ArgumentError(
                f"cores must be at most inner_steps, got {cores} and {inner_steps}: "
                f"there would be nothing to do for some"
            )
        self.batches = Batches(len(corpus), settings.batch, integer("seed", seed, low=0))

    def __call__(self, v: Array, version: int, seed: int, ctx: BurstContext) -> Push:
        """The affine map of steps ``ctx.id B ... ctx.id B + B - 1`` from v."""
        s, e_step = self.settings, select_e_step(self.compiled)
        u = s.matrix(v, self.corpus.words).copy()
        b = np.zeros_like(u)
        a = 1.0
        lock = threading.Lock()

        def step(t: int) -> None:
            nonlocal a
            target = natural_target(s, self.corpus, self.batches[t], u, e_step)
            rho = s.rate(t)
            target *= rho
            with lock:
                for moved in (u, b):
                    np.multiply(moved, 1.0 - rho, out=moved)
                    np.add(moved, target, out=moved)
                a *= 1.0 - rho

        numbers = range(ctx.id * self.inner_steps, (ctx.id + 1) * self.inner_steps)
        if self.cores == 1:
            for t in numbers:
                step(t)
        else:
            with ThreadPoolExecutor(self.cores, thread_name_prefix="optex-core-core") as pool:
                for done in [pool.submit(step, t) for t in numbers]:
                    done.result()
        return Push.affine(
            a,
            b.ravel(),
            gradients=self.inner_steps,
            report={"documents": float(self.inner_steps * s.batch)},
        )


@dataclass(frozen=True, slots=True, eq=False)
class Topics:
    """What `find_topics` found.

    Attributes
    ----------
    settings : LDA
    corpus : Corpus
        The training documents.
    x : array, shape (words * K,), float64
        lambda, every entry above zero.
    report : Report
        Of the run: seconds, delays, lost bursts.
    master : Master
        Its ledger has a row for each push.
    """

    settings: LDA
    corpus: Corpus
    x: np.ndarray
    report: LoopReport
    master: Master

    def words(self, number: int = 10) -> list[list[str]]:
        """The most probable words of each topic, the largest topic first."""
        return topic_words(self.settings, self.x, self.corpus, number)

    def shares(self, corpus: Corpus | None = None) -> np.ndarray:
        """E[theta], the shares of topics in each document of `corpus` (without: of the training
        documents), shape (documents, K).
        """
        corpus = self.corpus if corpus is None else corpus
        if not isinstance(corpus, Corpus) or corpus.vocabulary != self.corpus.vocabulary:
            raise ArgumentError(
                f"corpus must be a Corpus over the {self.corpus.words} words that the "
                f"topics know, got {short_repr(corpus)}"
            )
        s = self.settings
        gamma, _ = select_e_step()(
            corpus,
            np.arange(len(corpus)),
            s.matrix(self.x, corpus.words),
            s.alpha,
            s.tolerance,
            s.sweeps,
        )
        return gamma / gamma.sum(axis=1, keepdims=True)

    @property
    def distributions(self) -> np.ndarray:
        """E[beta], shape (K, words); rows sum to one."""
        return topic_distributions(self.settings, self.x, self.corpus.words)


@reject_unknown_keywords
def find_topics(
    corpus: Corpus,
    settings: LDA | None = None,
    *,
    steps: int = 1000,
    parallelism: int = 4,
    cores: int = 1,
    inner_steps: int = 4,
    workers: Any = None,
    mode: str = "asynchronous",
    start: str = "clusters",
    max_delay: int | None = None,
    on_late: str | None = None,
    rng: int = 0,
    log: Any = None,
    master: Master | None = None,
    compiled: bool | None = None,
    callback: Callable[[Master, Push, Any], Any] | None = None,
    max_time: float | None = None,
    timeout: float | None = None,
    on_error: str = "raise",
    max_failures: int | None = None,
) -> Topics:
    """Latent Dirichlet allocation by asynchronous stochastic variational inference on two levels.

    N workers take B steps each (see `VariationalBurst`) and push them to a master that applies them
    as they come. With ``parallelism=1, inner_steps=1, start="noise"`` this is Hoffman et al.'s
    online algorithm.

    Parameters
    ----------
    corpus : Corpus
        Training documents; none may be empty.
    settings : LDA, optional
        The model; ``LDA()`` without.
    steps : int, default 1000
        Mini-batches in all, rounded up to whole bursts.
    parallelism : int, default 4
        N, workers.
    cores : int, default 1
        Threads in each, at most `inner_steps`.
    inner_steps : int, default 4
        B, steps between a pull and a push.
    workers : None, int, "threads", "processes" or executor, default None
        Where the workers run, see `run`; None: all in this thread in turn, which repeats bit for
        bit.
    mode : {"asynchronous", "synchronous"}, default "asynchronous"
        Synchronous: all N start from the same version, and their N maps are applied together.
    start : {"clusters", "noise"}, default "clusters"
        Where lambda begins: `clustered_start`, or the papers' Gamma(100, 1/100), from which topics
        often merge for good.
    max_delay : int, optional
        Updates that a push may be late. Not with the synchronous mode, where it is 0.
    on_late : {"reject", "damp", "wait"}, optional
        What happens to a later one, see `Master`; refused without. With "wait" nothing is lost:
        workers wait for the slowest instead.
    rng : int, default 0
        Seed of the start and of the order of the documents.
    log : path-like, optional
        Every push is written there before it counts, so that a killed run can go on:
        ``master=Master.resume(path)``.
    master : Master, optional
        Goes on with it: `Topics.master` of an earlier run, ``Master.load(path)``, or
        ``Master.resume(path)``; `steps` counts from its beginning.
    compiled : bool, optional
        True or False forces the compiled or the NumPy E-step; by default the compiled one where
        Numba works.
    callback : callable, optional
        ``callback(master, push, receipt)`` after each push.
    max_time, timeout : float, optional
        Seconds; see `run`.
    on_error : {"raise", "drop"}, default "raise"
        See `run`.
    max_failures : int, optional
        See `run`.

    Returns
    -------
    Topics

    Raises
    ------
    ArgumentError, ArgumentTypeError
        For an argument that cannot work.

    References
    ----------
    Hoffman, Blei, Bach, Online learning for latent Dirichlet allocation, NIPS 2010. Hoffman, Blei,
    Wang, Paisley, Stochastic variational inference, JMLR 2013. Mohamad, Alamri, Bouchachia, arXiv
    2210.02882, 2022, for the two levels (DPSVI). Intended differences from that: the affine push
    (above); the rate of a step follows its number and not the master's version, so that N changes
    no rate; topics begin at clusters of documents.

    Examples
    --------
    >>> from optex_core.async_sgd.models.lda import LDA
    >>> from optex_core.async_sgd.models.synthetic import match_topics, synthetic_corpus
    >>> corpus, truth = synthetic_corpus(300, words=60, topics=3)
    >>> found = find_topics(corpus, LDA(topics=3, batch=16, tau0=4.0), steps=60, compiled=False)
    >>> match_topics(found.distributions, truth).recovered(), bool(found.x.min() > 0)
    (3, True)
    """
    settings = LDA() if settings is None else settings
    N, steps, rng = (
        integer("parallelism", parallelism, low=1),
        integer("steps", steps, low=1),
        integer("rng", rng, low=0),
    )
    burst = VariationalBurst(
        corpus, settings, inner_steps=inner_steps, cores=cores, seed=rng, compiled=compiled
    )
    together = one_of("mode", mode, MODES) == "synchronous"
    if together and max_delay is not None:
        raise ArgumentError(
            "max_delay belongs to the asynchronous mode: in the synchronous one no "
            "push is ever late"
        )
    bounds: dict[str, Any] = {"max_delay": max_delay, "on_late": on_late}
    if together and master is None:
        bounds = {"batch": N, "max_delay": 0, "on_late": "wait"}
    clusters = one_of("start", start, STARTS) == "clusters"

    def begin() -> Array:
        return (
            clustered_start(settings, corpus, rng)
            if clusters
            else settings.start(corpus.words, rng)
        )

    master = make_or_resume_master(
        master, "lda", corpus.words * settings.topics, begin, rng, {**bounds, "log": log}
    )
    pushes = -(-steps // burst.inner_steps)
    limits: dict[str, Any] = {
        "max_time": max_time,
        "timeout": timeout,
        "on_error": on_error,
        "max_failures": max_failures,
    }
    report = run(
        master, burst, parallelism=N, workers=workers, pushes=pushes, callback=callback, **limits
    )
    return Topics(settings, corpus, master.x, report, master)
