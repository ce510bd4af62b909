"""Inversion of a resistivity section with SimPEG, as a function of one flat vector.

Notes
-----
SimPEG takes a model that `numpy.allclose` cannot tell from the last one for that one, so values do
not change over distances below about 1e-5; `optex_core.testing.check_gradient` says so. The steps
of the study are a thousand times longer.
"""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

#: S/m, as a logarithm: the ground without what is sought.
GROUND = math.log(1e-2)
#: m: the side of a cell; cells across and down; the position of the electrodes.
CELL, ACROSS, DOWN = 10.0, 18, 8
ELECTRODES = np.arange(-80.0, 81.0, 16.0)


@lru_cache(maxsize=1)
def section(seed: int) -> tuple[Any, int]:
    """SimPEG's objective (data misfit and roughness) for a section of this seed, and its size."""
    import discretize
    from simpeg import data_misfit, maps, regularization
    from simpeg.electromagnetics.static import resistivity
    from simpeg.utils.solver_utils import get_default_solver

    mesh = discretize.TensorMesh(
        [np.full(ACROSS, CELL), np.full(DOWN, CELL)], origin=[-CELL * ACROSS / 2, -CELL * DOWN]
    )
    rng, truth = np.random.default_rng(seed), np.full(mesh.n_cells, GROUND)
    for strength in (1.5, -1.5):  # one body conducts better than the ground, one worse
        centre = rng.uniform(-50, 50), rng.uniform(-40, -20)
        distance = np.linalg.norm(mesh.cell_centers - np.array(centre), axis=1)
        truth += strength * (distance < rng.uniform(12, 20))
    at = np.column_stack([ELECTRODES, np.full(len(ELECTRODES), -0.01)])
    sources = []
    for a in range(0, len(at) - 3, 2):  # dipole - dipole
        receivers = resistivity.receivers.Dipole(at[a + 2 : -1], at[a + 3 :])
        sources.append(resistivity.sources.Dipole([receivers], at[a], at[a + 1]))
    simulation = resistivity.Simulation2DNodal(
        mesh, survey=resistivity.Survey(sources), sigmaMap=maps.ExpMap(nP=mesh.n_cells), nky=3,
        solver=get_default_solver(),
    )  # fmt: skip
    data = simulation.make_synthetic_data(
        truth, relative_error=0.03, add_noise=True, random_seed=seed
    )
    misfit = data_misfit.L2DataMisfit(data=data, simulation=simulation)
    roughness = regularization.WeightedLeastSquares(
        mesh, alpha_s=1e-4, reference_model=np.full(mesh.n_cells, GROUND)
    )
    return misfit + roughness, mesh.n_cells


@dataclass(frozen=True, slots=True)
class Resistivity:
    """``fun(x) -> (value, gradient)`` of the section of a seed."""

    seed: int

    def __post_init__(self) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of SimPEG, about the solver that is installed
            section(self.seed)  # a worker builds it when it starts

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.seed,)

    def __call__(self, x: np.ndarray) -> tuple[float, np.ndarray]:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of SimPEG, about its own solver's settings
            objective, _ = section(self.seed)
            return float(objective(x)), np.asarray(objective.deriv(x))
