"""SciPy's own plug-in door: keep scipy.optimize.minimize and pass optex_core as the method.

Run: python examples/scipy_plugin.py
"""

import numpy as np
from scipy.optimize import minimize, rosen, rosen_der

import optex_core as ox


def main():
    x0 = np.full(10, -1.0)
    options = {"optimizer": ox.Adam(0.05), "parallelism": 8, "maxiter": 200, "rng": 0}
    res = minimize(rosen, x0, jac=rosen_der, method=ox.scipy_method, tol=1e-3, options=options)
    print(f"{res.message} {res.nit} rounds, value {res.fun:.3g}")
    assert res.fun < rosen(x0)
    return res


if __name__ == "__main__":
    main()
