"""Which cells `overhead` measures, part by part."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from optex_core.bench.overhead.cell import Cell
from optex_core.errors import BackendError

#: Bytes of both histories beyond which a cell is left out: a machine of 16 GB holds this and what
#: the rest needs.
LARGEST = 6e9
#: Seconds that the gradients of a round are said to take where `max_overhead` is measured, and the
#: share of them that is allowed.
GRADIENTS, SHARE = 0.1, 0.5


def usable_backends() -> list[str]:
    """The backends that work here."""
    from optex_core.backends import BACKEND_NAMES, get_backend

    found = []
    for name in BACKEND_NAMES:
        try:
            get_backend(name)
        except BackendError:
            continue
        found.append(name)
    return found


def plan(mode: str, sizes: Sequence[int] | None, backends: Sequence[str]) -> list[Cell]:
    """The cells of a mode, small problems first."""
    default = {
        "quick": (10_000, 1_000_000),
        "default": (1_000, 10_000, 100_000, 1_000_000),
        "full": (10**3, 10**4, 10**5, 10**6, 10**7),
    }[mode]
    full = mode == "full"
    cells = []
    for d in sizes or default:
        for backend in backends:
            # Plain NumPy at 1e6 says nothing more than at 1e5, and takes its time.
            if backend == "numpy" and d > (10**6 if full else 10**5):
                continue
            for dtype in ("float32", "float64") if full else ("float32",):
                for history in (
                    (20,)
                    if mode == "quick" and d < 10**6
                    else (20, 50)
                    if mode != "quick"
                    else (50,)
                ):
                    for N in (5, 20) if full else (5,):
                        if 2 * history * d * np.dtype(dtype).itemsize > LARGEST:
                            continue
                        base = Cell(backend, d, history, N, dtype, seconds=2.0 if full else 1.0)
                        cells += (
                            [base]
                            if mode == "quick" and d < 10**6
                            else [base, replace(base, optimizer="nesterov")]
                        )
                        if history == 50 and backend == "numba" and d >= 10**6 and N == 5:
                            cells += [
                                replace(base, kernel_dims=1_000),
                                replace(base, strategy="verified", window=N),
                            ]
                            cells += [
                                replace(base, strategy="verified", window=N, optimizer="nesterov")
                            ]
    return cells


def tunings(mode: str, sizes: Sequence[int] | None, backends: Sequence[str]) -> list[Cell]:
    """What tuning adds: at each d a run with fixed hyperparameters, then the same with the
    likelihood searched in every round.
    """
    default = {
        "quick": (10_000,),
        "default": (10, 1_000, 10_000, 100_000, 1_000_000),
        "full": (10, 10**3, 10**4, 10**5, 10**6, 10**7),
    }[mode]
    cells = []
    for d in sizes or default:
        # The backend does not see T0 x T0 numbers: the one that is usual at this d.
        backend = "numba" if "numba" in backends and d >= 10_000 else "numpy"
        for history in (20,) if mode == "quick" else (20, 50):
            base = Cell(backend, d, history, seconds=2.0 if mode == "full" else 1.0)
            cells += [base, replace(base, tune="likelihood")]
    return cells


def windows(mode: str, sizes: Sequence[int] | None, backends: Sequence[str]) -> list[Cell]:
    """What a window longer than N costs, and how `max_overhead` holds a free one within a share of
    the gradients' time.
    """
    if "numba" not in backends or mode == "quick":
        return []
    cells = []
    for d in sizes or (100_000,):
        base = Cell("numba", d, strategy="verified", seconds=1.0)
        for optimizer in ("adam", "nesterov"):
            cells += [replace(base, window=S, optimizer=optimizer) for S in (5, 10, 20, 40)]
            free = replace(base, optimizer=optimizer, gradients=GRADIENTS)
            cells += [free, replace(free, max_overhead=SHARE)]
    return cells
