"""A real simulator on worker processes: recover a conductivity field from temperatures, and draw
what was found.

Run: python examples/heat_inversion.py [size] [rounds] [folder for the picture]
"""

import os
import sys

import numpy as np

import optex_core as ox
from optex_core.problems import get_problem


def main(size=48, rounds=20, folder=None):
    problem = get_problem("heat_inversion", size=size)
    optimizer = ox.Adam(problem.rate)
    workers = min(8, os.cpu_count() or 1)
    res = ox.minimize(
        problem,
        problem.start(),
        optimizer=optimizer,
        parallelism=8,
        workers=workers,
        maxiter=rounds,
        rng=0,
    )
    alone = ox.minimize(
        problem,
        problem.start(),
        optimizer=optimizer,
        strategy="sequential",
        target=res.fun,
        maxiter=20 * rounds,
    )
    error = np.linalg.norm(res.x - problem.truth.ravel()) / np.linalg.norm(problem.truth)
    print(f"{problem.d} unknowns, {workers} worker processes")
    print(
        f"predicted windows: {res.nit:4d} rounds to value {res.fun:.4g}; relative "
        f"error of the field {error:.2f}"
    )
    print(f"{type(optimizer).__name__} alone:        {alone.nit:4d} rounds to the same value")
    if folder is not None:
        from matplotlib.figure import Figure

        figure = Figure(figsize=(9, 4), layout="constrained")
        for axes, field, title in zip(
            figure.subplots(1, 2),
            (problem.field(problem.truth.ravel()), problem.field(res.x)),
            ("truth", "found"),
            strict=True,
        ):
            figure.colorbar(axes.imshow(field, origin="lower"), ax=axes, label="log conductivity")
            axes.set_title(title)
        figure.savefig(os.path.join(folder, "field.png"))
        res.history.plot(
            os.path.join(folder, "history.png"), baseline={"Adam alone": alone.history}
        )
    return res, alone


if __name__ == "__main__":
    arguments = sys.argv[1:]
    if {"-h", "--help"} & set(arguments):
        print(__doc__)
    else:
        main(
            *(int(a) for a in arguments[:2]),
            **({"folder": arguments[2]} if len(arguments) > 2 else {}),
        )
