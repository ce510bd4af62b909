"""The cells that `overhead` measures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from optex_core.bench.overhead.cell import Cell
from optex_core.errors import BackendError

#: Bytes of both histories beyond which a cell is left out: a machine of 16 GB holds this and what
#: the rest needs.
LARGEST = 6e9


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
