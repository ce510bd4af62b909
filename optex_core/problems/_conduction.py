"""Steady heat conduction on the unit square by finite volumes: the system matrix, its factor, and
its derivative.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.sparse import csc_array
from scipy.sparse.linalg import splu

from optex_core.errors import EvaluationError

#: Largest |log conductivity|: beyond it the matrix's condition exceeds what float64 resolves (e^40
#: = 2e17) and answers would be noise.
LARGEST = 20.0

#: Largest relative difference between the heat put in and the heat that leaves. Measured on an
#: island of conductivity e^c in e^-c: 1e-14 at c = 1, 1e-10 at 5, 3e-7 at 10, 4e-4 at 14, all
#: digits lost at 18.
IMBALANCE = 1e-6


@dataclass(frozen=True, slots=True)
class Simulation:
    """One solved state: what the adjoint needs of it. It belongs to one call and is never stored (a
    factor cannot be pickled).
    """

    #: shapes (faces,) and (2 size,): conduction through every face and every held edge.
    faces: np.ndarray
    edges: np.ndarray
    factor: Any  # of the system matrix; its ``solve`` takes (cells,) or (cells, experiments)
    u: np.ndarray  # shape (cells,) or (cells, experiments): temperatures


class Conduction:
    """-div(kappa grad u) = q with kappa = exp(m) constant in each of size x size square cells.

    The left and right edges are held at temperature 0 (which makes the problem well-posed), the
    lower and upper ones are insulated. Cell (row i, column j) has its centre at ((j + 1/2) h, (i +
    1/2) h), h = 1 / size, and number i size + j. Heat through the face of the cells a, b is t (u_a
    - u_b), t the harmonic mean 2 / (1 / kappa_a + 1 / kappa_b); through a held edge it is 2 kappa_a
    u_a, half a cell away. So A(m) u = q with A symmetric positive definite, (cells, cells), u in
    (cells, experiments) and q in power per cell.

    Immutable after construction; a factor belongs to one call, so threads may share the object.

    Parameters
    ----------
    size : int
        Cells per side.
    """

    def __init__(self, size: int) -> None:
        self.size, self.cells = size, size * size
        number = np.arange(self.cells).reshape(size, size)
        self.first = np.concatenate([number[:, :-1].ravel(), number[:-1].ravel()])
        self.second = np.concatenate([number[:, 1:].ravel(), number[1:].ravel()])
        self.held = np.concatenate([number[:, 0], number[:, -1]])
        # The pattern never changes: entry k of the compressed matrix is entry order[k] of
        # (diagonal, -t, -t).
        rows = np.concatenate([number.ravel(), self.first, self.second])
        columns = np.concatenate([number.ravel(), self.second, self.first])
        self.order = np.lexsort((rows, columns))
        self.rows = rows[self.order].astype(np.int32)
        counts = np.bincount(columns, minlength=self.cells)
        self.starts = np.concatenate([[0], np.cumsum(counts)]).astype(np.int32)

    def solve(self, m: np.ndarray, heat: np.ndarray) -> Simulation:
        """Temperatures for the log-conductivities m, (cells,), and the heat per cell, (cells,) or
        (cells, experiments). EvaluationError where m is not finite or beyond `LARGEST`, or the
        matrix cannot be solved in float64.
        """
        worst = np.abs(m).max()
        if not worst <= LARGEST:  # false for nan too
            raise EvaluationError(
                f"log-conductivities must be finite and at most {LARGEST:g} in "
                f"absolute value, got one of {worst:g}"
            )
        resistance = np.exp(-m)
        faces = 2 / (resistance[self.first] + resistance[self.second])
        edges = 2 / resistance[self.held]
        try:
            factor = self._factor(faces, edges)
        except RuntimeError as error:
            # good conductors among very bad ones: their loss to the outside is rounded away
            raise EvaluationError(
                "the conductivities differ too much for float64: the heat equation's "
                "matrix is singular"
            ) from error
        u = factor.solve(heat)
        if not np.allclose(edges @ u[self.held], heat.sum(0), rtol=IMBALANCE, atol=0):
            raise EvaluationError(
                "the conductivities differ too much for float64: the heat that leaves "
                "the plate is not the heat put in"
            )
        return Simulation(faces, edges, factor, u)

    def _factor(self, faces: np.ndarray, edges: np.ndarray) -> Any:
        n = self.cells
        sides = ((self.first, faces), (self.second, faces), (self.held, edges))
        diagonal = sum(np.bincount(cells, heat, n) for cells, heat in sides)
        entries = np.concatenate([diagonal, -faces, -faces])[self.order]
        matrix = csc_array((entries, self.rows, self.starts), shape=(n, n))
        # Symmetric and diagonally dominant: no pivoting. Measured at 64 cells a side against the
        # default ordering: half the fill, 6.5 ms instead of 9.3; nested dissection by hand: 6.0 ms,
        # not worth its lines.
        symmetric: Any = {"diag_pivot_thresh": 0.0, "options": {"SymmetricMode": True}}
        return splu(matrix, permc_spec="MMD_AT_PLUS_A", **symmetric)

    def pullback(self, m: np.ndarray, state: Simulation, adjoint: np.ndarray) -> np.ndarray:
        """The gradient -sum_e adjoint_e' (dA/dm) u_e, (cells,), from adjoints of shape (cells,
        experiments).

        From t = 2 / (1/kappa_a + 1/kappa_b): dt/dm_a = t^2 / (2 kappa_a); of an edge 2 kappa_a it
        is the coefficient itself.
        """
        first, second, held, u = self.first, self.second, self.held, state.u
        bend = -np.vecdot(u[first] - u[second], adjoint[first] - adjoint[second])
        through = bend * state.faces**2 / 2
        gradient = np.bincount(first, through, self.cells)
        gradient += np.bincount(second, through, self.cells)
        gradient *= np.exp(-m)
        edges = -np.vecdot(u[held], adjoint[held]) * state.edges
        return gradient + np.bincount(held, edges, self.cells)
