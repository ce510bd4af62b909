"""A real simulator: the conductivity of a plate from temperatures, by finite volumes and the
discrete adjoint.
"""

from __future__ import annotations

from dataclasses import dataclass
from dataclasses import field as derived  # `field` is a method here

import numpy as np

from optex_core._validation import integer, nonnegative
from optex_core.problems._conduction import Conduction
from optex_core.problems.base import PROBLEMS, Problem, as_points, set_derived

#: Radius (standard deviation) of a heater; side of the plate = 1.
HEATER = 0.06


@PROBLEMS.register
@dataclass(frozen=True, slots=True)
class HeatInversion(Problem):
    """Recover the conductivity kappa = exp(x) of every cell of a heated plate from noisy
    temperatures.

    In each of several experiments one heater of power 1 warms the unit square, -div(kappa grad u) =
    q, which is held at 0 on the left and right edges and insulated below and above (`Conduction`
    says how it is discretised). Sensors on a square grid, from the insulated lower edge to the
    upper one, read the temperature of their cell. With y the readings and F(x) the simulated ones,

        f(x) = d [ |F(x) - y|^2 / (2 |y|^2) + smoothing / 2 sum_faces (x_a - x_b)^2 + damping / 2
        mean_a x_a^2 ].

    The factor d = cells makes the Hessian's size in the Euclidean norm of x independent of `size`
    (the gradient by a cell shrinks with its area), so one learning rate serves all sizes. The
    gradient costs one factorisation, and per experiment two solves with it: with the same symmetric
    matrix for the simulation and for the adjoint (Vogel, Computational Methods for Inverse
    Problems, SIAM 2002, chapter 6).

    The truth is drawn from `seed`: three round inclusions, two that conduct better than the plate
    and one worse, with soft rims. The readings are simulated on the same grid, with normal noise
    added.

    Parameters
    ----------
    size : int, default 96
        Cells per side, at least 8; d = size^2.
    experiments : int, default 6
        Heater positions, at least 1.
    sensors : int, default 9
        Sensors per side, at least 2.
    noise : float, default 0.01
        Standard deviation of the noise, in units of the root mean square reading.
    smoothing : float, default 3e-6
        Weight of the squared gradient of the field.
    damping : float, default 1e-5
        Weight of the squared field: where no sensor looks, x stays near 0.
    seed : int, default 0
        Draws the inclusions and the noise.

    Notes
    -----
    EvaluationError where a conductivity is not finite, beyond e^20 or e^-20, or where the system
    cannot be solved. A gradient takes 4 ms at size 32, 28 ms at 96, 65 ms at 128, 1 s at 384 (1
    core). The largest curvature is about 1.3 at the start and 1.5 at the truth.
    """

    name = "heat_inversion"
    rate = 0.05
    start_scale = 0.0
    size: int = 96
    experiments: int = 6
    sensors: int = 9
    noise: float = 0.01
    smoothing: float = 3e-6
    damping: float = 1e-5
    seed: int = 0
    conduction: Conduction = derived(init=False, repr=False, compare=False)
    heat: np.ndarray = derived(init=False, repr=False, compare=False)
    places: np.ndarray = derived(init=False, repr=False, compare=False)
    readings: np.ndarray = derived(init=False, repr=False, compare=False)
    truth: np.ndarray = derived(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        size = integer("size", self.size, low=8)
        experiments = integer("experiments", self.experiments, low=1)
        sensors, seed = integer("sensors", self.sensors, low=2), integer("seed", self.seed, low=0)
        noise = nonnegative("noise", self.noise)
        nonnegative("smoothing", self.smoothing)
        nonnegative("damping", self.damping)
        rng = np.random.default_rng(seed)
        conduction, truth = Conduction(size), _inclusions(size, rng)
        heat, places = _heaters(size, experiments), _sensor_cells(size, sensors)
        exact = conduction.solve(truth, heat).u[places]
        readings = exact + noise * np.sqrt(np.mean(exact**2)) * rng.standard_normal(exact.shape)
        object.__setattr__(self, "conduction", conduction)
        set_derived(self, heat=heat, places=places, readings=readings, truth=truth)

    @property
    def d(self) -> int:
        return self.size**2

    @property
    def goal(self) -> float:
        """The value of the true field: what lies below fits the noise of the readings (the
        discrepancy principle: Morozov, Soviet Math. Dokl. 7, 1966).
        """
        return self(self.truth)[0]

    def field(self, x: np.ndarray) -> np.ndarray:
        """The log-conductivities as a picture, (size, size): row i is at height (i + 1/2) / size,
        column j at (j + 1/2) / size.
        """
        return as_points(self.name, x, (self.d,)).reshape(self.size, self.size).copy()

    def temperatures(self, x: np.ndarray) -> np.ndarray:
        """The temperature fields of the experiments, (experiments, size, size)."""
        u = self.conduction.solve(as_points(self.name, x, (self.d,)), self.heat).u
        return np.ascontiguousarray(u.T).reshape(self.experiments, self.size, self.size)

    def __call__(self, x: np.ndarray) -> tuple[float, np.ndarray]:
        x = as_points(self.name, x, (self.d,))
        plate = self.conduction
        state = plate.solve(x, self.heat)
        miss = state.u[self.places] - self.readings
        scale = self.d / np.sum(self.readings**2)
        load = np.zeros_like(self.heat)
        load[self.places] = scale * miss
        gradient = plate.pullback(x, state, state.factor.solve(load))
        jump = x[plate.first] - x[plate.second]
        pull = self.d * self.smoothing * jump
        gradient += np.bincount(plate.first, pull, self.d) - np.bincount(plate.second, pull, self.d)
        gradient += self.damping * x
        value = 0.5 * (scale * np.sum(miss**2) + jump @ pull + self.damping * (x @ x))
        return float(value), gradient


def _centres(size: int) -> tuple[np.ndarray, np.ndarray]:
    """Coordinates across and up of every cell's centre, each (cells,)."""
    ticks = (np.arange(size) + 0.5) / size
    return np.tile(ticks, size), np.repeat(ticks, size)


def _inclusions(size: int, rng: np.random.Generator) -> np.ndarray:
    """Log-conductivities, (cells,): 0 with three soft discs of 1, -1 and 1, one in each of three
    sectors so that they seldom meet.
    """
    across, up = _centres(size)
    log_kappa = np.zeros(size * size)
    turn = rng.uniform(0, 2 * np.pi)
    for k, strength in enumerate((1.0, -1.0, 1.0)):
        angle = turn + 2 * np.pi * (k + rng.uniform(-0.1, 0.1)) / 3
        away, radius = rng.uniform(0.22, 0.3), rng.uniform(0.1, 0.16)
        distance = np.hypot(across - 0.5 - away * np.cos(angle), up - 0.5 - away * np.sin(angle))
        log_kappa += strength * 0.5 * (1 - np.tanh((distance - radius) / 0.03))
    return log_kappa


def _heaters(size: int, experiments: int) -> np.ndarray:
    """Power per cell, (cells, experiments): Gaussian spots of total power 1 on an ellipse about the
    centre, the first one up.
    """
    across, up = _centres(size)
    angle = 2 * np.pi * np.arange(experiments) / experiments
    east, north = 0.5 + 0.3 * np.sin(angle), 0.5 + 0.3 * np.cos(angle)
    square = (across[:, None] - east) ** 2 + (up[:, None] - north) ** 2
    spots = np.exp(-0.5 * square / HEATER**2)
    return np.asfortranarray(spots / spots.sum(0))


def _sensor_cells(size: int, sensors: int) -> np.ndarray:
    """Numbers of the cells that hold a sensor, sorted, each once: a grid that starts and ends on
    the insulated edges.
    """
    up = np.minimum((np.linspace(0, 1, sensors) * size).astype(int), size - 1)
    # the held edges, left and right, tell nothing
    across = ((np.arange(sensors) + 1) / (sensors + 1) * size).astype(int)
    return np.unique(up[:, None] * size + across)
