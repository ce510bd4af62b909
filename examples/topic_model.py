"""Topics in the docstrings of NumPy and SciPy, found by several worker processes that push to one
master whenever they are ready.

Run: python examples/topic_model.py [steps] [workers] [picture]
"""

import sys

import numpy as np

from optex_core.async_sgd.models import LDA, docstring_corpus, find_topics, perplexity
from optex_core.async_sgd.models.lda import unigram_perplexity


def main(steps=600, workers=4, picture=None):
    corpus = docstring_corpus()
    training, held_out = corpus.split(300)
    observed, scored = held_out.halves()
    print(f"{len(training)} docstrings, {training.words} different words, {training.tokens} in all")

    settings = LDA(topics=20)
    curve = []

    def watch(master, *_):
        if master.version % max(1, steps // 40) == 0:
            documents = master.version * 4 * settings.batch
            curve.append((documents, perplexity(settings, master.x, observed, scored)))
            print(
                f"\r{documents} documents seen, held-out perplexity {curve[-1][1]:.0f}",
                end="",
                flush=True,
            )

    found = find_topics(
        training,
        settings,
        steps=steps,
        parallelism=workers,
        inner_steps=4,
        workers=workers,
        max_delay=2 * workers,
        on_late="wait",
        callback=watch,
    )
    final = perplexity(settings, found.x, observed, scored)
    print(
        f"\n{found.report.pushes} pushes of 4 steps in {found.report.seconds:.1f} s; "
        f"delay {found.report.mean_delay:.1f} on average"
    )
    print(
        f"held-out perplexity {final:.0f}; frequencies of words alone: "
        f"{unigram_perplexity(training, scored):.0f}\n"
    )
    for words in found.words(9):
        print("  " + " ".join(words))
    if picture is not None:
        from matplotlib.figure import Figure

        figure = Figure(figsize=(6, 4), layout="constrained")
        axes = figure.add_subplot()
        axes.plot(*np.array(curve).T)
        axes.set(
            xlabel="documents seen",
            ylabel="held-out perplexity",
            title=f"{workers} worker processes",
        )
        figure.savefig(picture)
    assert found.x.min() > 0
    return found


if __name__ == "__main__":
    arguments = sys.argv[1:]
    if {"-h", "--help"} & set(arguments):
        print(__doc__)
    else:
        main(
            *(int(a) for a in arguments[:2]),
            **({"picture": arguments[2]} if len(arguments) > 2 else {}),
        )
