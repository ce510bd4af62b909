"""A simulator's tests: its gradient, its manners, an optimizer of one's own. Run it with `pytest
examples/test_my_simulator.py`, or as a program.
"""

import numpy as np
import scipy.sparse as sp
from scipy.sparse.linalg import spsolve

from optex_core.testing import (
    check_gradient,
    check_objective,
    check_optimizer,
    for_all,
    parametrize_with_checks,
)
from optex_core.testing import hypothesis_strategies as st

N = 40
MEASURED = np.sin(np.linspace(0.0, np.pi, N)) / 5


def simulate(k):
    """Misfit of the temperature of a rod of conductivities exp(k), heated everywhere, and its
    gradient by the adjoint equation.
    """
    c = np.exp(k)
    A = (N + 1) ** 2 * sp.diags([-c[1:-1], c[:-1] + c[1:], -c[1:-1]], [-1, 0, 1], format="csc")
    T = spsolve(A, np.ones(N))
    adjoint = spsolve(A.T, T - MEASURED)
    jumps = np.diff(T, prepend=0.0, append=0.0) * np.diff(adjoint, prepend=0.0, append=0.0)
    return 0.5 * float((T - MEASURED) @ (T - MEASURED)), -((N + 1) ** 2) * c * jumps


class Damped:
    """An optimizer of one's own: gradient descent with a friction on the last move."""

    def init(self, x):
        return np.zeros_like(x)

    def step(self, x, g, v):
        v = 0.5 * v - 0.1 * g
        return x + v, v


def test_the_gradient_is_right():
    # what the sparse solver leaves
    report = check_gradient(simulate, np.linspace(-0.5, 0.5, N + 1), accuracy=1e-8)
    assert report, report


def test_it_can_run_anywhere():
    report = check_objective(simulate, np.zeros(N + 1))
    assert report, report
    print(report)


@parametrize_with_checks("optimizer", [Damped()])
def test_my_optimizer(check):
    check()


def test_a_property():
    """Twice the conductivity everywhere, half the temperature: no misfit to half of the measurement
    where there was none to the whole.
    """

    def halves(k):
        c = np.exp(np.clip(k, -2, 2))
        A = sp.diags([-c[1:-1], c[:-1] + c[1:], -c[1:-1]], [-1, 0, 1], format="csc")
        np.testing.assert_allclose(
            spsolve(2 * A, np.ones(N)), spsolve(A, np.ones(N)) / 2, rtol=1e-10
        )

    for_all(halves, k=st.vectors(N + 1, magnitude=2.0))


if __name__ == "__main__":
    print(check_gradient(simulate, np.linspace(-0.5, 0.5, N + 1), accuracy=1e-8))
    print(check_objective(simulate, np.zeros(N + 1)))
    print(check_optimizer(Damped()))
    test_a_property()
