"""Modules and functions of other libraries as objectives: flat vectors in and out, their own
gradients, the same bits from every worker.
"""

from __future__ import annotations

import sys

import numpy as np
import pytest
from evaluating import need

import optex_core as ox
from optex_core.adapters.call_signature import takes_seed
from optex_core.errors import (
    ArgumentError,
    ArgumentTypeError,
    CapabilityError,
    EvaluationError,
    MissingExtraError,
)

H = np.array([1.0, 0.5, 0.1])


def expected(**options):
    return ox.minimize(
        lambda x: (0.5 * (H * x) @ x, H * x),
        np.ones(3),
        optimizer=ox.SGD(0.5),
        maxiter=4,
        rng=0,
        **options,
    )


# -- Numba -----------------------------------------------------------------------------------------


def bowl(x, h):
    return 0.5 * np.sum(h * x * x), h * x


@pytest.mark.parametrize("workers", [None, "threads", 2])
def test_a_numba_function_runs_in_threads_and_processes(workers):
    import numba

    fun = ox.adapters.numba(numba.njit(bowl), H)
    res = ox.minimize(fun, np.ones(3), optimizer=ox.SGD(0.5), maxiter=4, rng=0, workers=workers)
    np.testing.assert_allclose(res.x, expected().x, rtol=1e-12)


def test_a_numba_function_runs_as_one_batch():
    fun = ox.adapters.numba(bowl, H)
    res = ox.minimize(fun, np.ones(3), optimizer=ox.SGD(0.5), maxiter=4, rng=0, vectorized=True)
    np.testing.assert_allclose(res.x, expected().x, rtol=1e-12)
    values, gradients = fun.value_and_grad(np.arange(12.0).reshape(4, 3))
    assert values.shape == (4,)
    np.testing.assert_array_equal(gradients, H * np.arange(12.0).reshape(4, 3))


def meeting(x, seen, at, patience):
    """0.5 |x|^2, whose calls away from the start wait within compiled code until a second one has
    entered, once.
    """
    if x[0] != 1.0 and seen[1] == 0:
        # an index that the compiler does not know: what is waited for is read anew each time
        seen[at[0]] += 1
        waited = 0
        while seen[0] < 2 and waited < patience:
            waited += 1
            seen[at[1]] = waited
        if seen[0] >= 2:
            seen[1] = 1
    return 0.5 * np.sum(x * x), x.copy()


@pytest.mark.parametrize(
    "options", [{"workers": "threads"}, {"vectorized": True}], ids=["threads", "batch"]
)
def test_compiled_gradients_of_a_round_run_at_the_same_time(options):
    numba = pytest.importorskip("numba")
    # with one thread, which the environment may ask for, a batch runs in turn
    together = "vectorized" not in options or numba.config.NUMBA_NUM_THREADS > 1
    seen, at = np.zeros(3, np.int64), np.array([0, 2])
    # In turn the first would wait for its whole patience, ten seconds and more, alone: nothing here
    # is measured by a clock.
    patience = 10**10 if together else 10
    fun = ox.adapters.numba(meeting, seen, at, patience)
    res = ox.minimize(
        fun, np.ones(3), optimizer=ox.SGD(0.5), parallelism=2, maxiter=2, rng=0, **options
    )
    assert (seen[2] < patience) == together, "no second evaluation entered while one was inside"
    assert res.njev == 4


def test_one_at_a_time_no_two_meet():
    pytest.importorskip("numba")
    seen = np.zeros(3, np.int64)
    ox.minimize(
        ox.adapters.numba(meeting, seen, np.array([0, 2]), 10),
        np.ones(3),
        optimizer=ox.SGD(0.5),
        parallelism=2,
        maxiter=2,
        rng=0,
    )
    assert seen[2] == 10  # the first waited in vain


def test_a_parallel_numba_function_is_refused():
    import numba

    with pytest.raises(CapabilityError, match="leave parallel=True out"):
        ox.adapters.numba(numba.njit(parallel=True)(bowl))
    with pytest.raises(ArgumentTypeError):
        ox.adapters.numba(3)


# -- PyTorch ---------------------------------------------------------------------------------------


def network(dropout=0.0):
    need("torch")
    import torch

    torch.manual_seed(0)
    layers = [
        torch.nn.Linear(4, 8),
        torch.nn.BatchNorm1d(8),
        torch.nn.Tanh(),
        torch.nn.Dropout(dropout),
        torch.nn.Linear(8, 1),
    ]
    net = torch.nn.Sequential(*layers).double()
    net[4].bias.requires_grad_(False)
    inputs = torch.linspace(-1, 1, 40, dtype=torch.float64).reshape(10, 4)
    return net, lambda model: ((model(inputs) - 1.0) ** 2).mean()


def test_a_torch_module_gives_its_own_gradient_and_stays_as_it_is():
    net, loss = network()
    import torch

    before = {k: v.clone() for k, v in net.state_dict().items()}
    fun = ox.adapters.torch(net, loss)
    assert fun.x0.shape == (4 * 8 + 8 + 8 + 8 + 8,)
    value, gradient = fun.value_and_grad(fun.x0, seed=1)
    for k, v in net.state_dict().items():
        assert torch.equal(v, before[k]), k
    direct = loss(net)
    direct.backward()
    assert value == direct.item()
    np.testing.assert_array_equal(
        gradient,
        np.concatenate([p.grad.numpy().ravel() for p in net.parameters() if p.requires_grad]),
    )
    res = ox.minimize(fun, fun.x0, optimizer=ox.SGD(0.1), maxiter=5)
    fun.write(res.x)
    assert loss(net).item() == res.fun < value


def test_dropout_is_seeded_by_the_evaluation_in_threads_and_processes():
    net, loss = network(dropout=0.5)
    assert not takes_seed(ox.adapters.torch(net[0], loss))
    fun = ox.adapters.torch(net, loss)
    assert takes_seed(fun)
    assert (
        fun.value_and_grad(fun.x0, seed=1)[0]
        == fun.value_and_grad(fun.x0, seed=1)[0]
        != fun.value_and_grad(fun.x0, seed=2)[0]
    )
    options = {"optimizer": ox.SGD(0.05), "maxiter": 3, "rng": 0, "parallelism": 2}
    alone = ox.minimize(fun, fun.x0, **options)
    for workers in ("threads", 1):
        np.testing.assert_allclose(
            ox.minimize(fun, fun.x0, workers=workers, **options).x, alone.x, rtol=1e-10
        )


def test_torch_misuse():
    net, loss = network()
    with pytest.raises(ArgumentTypeError, match="torch.nn.Module"):
        ox.adapters.torch(loss, loss)
    with pytest.raises(ArgumentError, match="requires_grad"):
        ox.adapters.torch(net.requires_grad_(False), loss)
    net.requires_grad_(True)
    fun = ox.adapters.torch(net, lambda model: model(np.ones))
    with pytest.raises(ArgumentTypeError, match="free parameters"):
        fun.value_and_grad(np.ones(3), seed=0)
    with pytest.raises(EvaluationError, match="a tensor with one number"):
        ox.adapters.torch(net, lambda model: 3.0).value_and_grad(fun.x0, seed=0)


# -- JAX -------------------------------------------------------------------------------------------


def test_a_jax_function_keeps_double_precision_alone_and_in_batches():
    need("jax")
    fun = ox.adapters.jax(lambda x: 0.5 * (H * x * x).sum())
    for options in ({}, {"vectorized": True}, {"workers": "threads"}):
        res = ox.minimize(fun, np.ones(3), optimizer=ox.SGD(0.5), maxiter=4, rng=0, **options)
        np.testing.assert_allclose(res.x, expected().x, rtol=1e-12)


def test_a_batch_of_a_jax_function_compiles_once():
    need("jax")
    traced = []

    def fun(x):
        traced.append(x.shape)
        return 0.5 * (H * x * x).sum()

    batch = ox.adapters.jax(fun)
    options = {"optimizer": ox.SGD(0.5), "maxiter": 6, "rng": 0, "parallelism": 5}
    res = ox.minimize(batch, np.ones(3), vectorized=True, **options)
    assert res.nit == 6
    assert len(traced) == 1  # one row first, then five, and two at the end
    values, gradients = batch.value_and_grad(np.arange(6.0).reshape(2, 3), seed=(1, 2))
    assert (values.shape, gradients.shape) == ((2,), (2, 3))
    assert len(traced) == 1


def test_a_jax_function_of_a_tree_with_a_seed():
    need("jax")
    import jax

    def loss(p, *, seed):
        return ((p["a"] - 1) ** 2).sum() + p["b"] ** 2 + 0 * jax.random.normal(jax.random.key(seed))

    fun = ox.adapters.jax(loss, {"a": np.zeros((2, 2)), "b": np.array(3.0)})
    assert takes_seed(fun)
    assert not takes_seed(ox.adapters.jax(lambda x: x @ x, np.ones(3)))
    assert fun.x0.tolist() == [0, 0, 0, 0, 3]
    value, gradient = fun.value_and_grad(fun.x0, seed=2**63)
    assert value == 13.0
    assert gradient.tolist() == [-2, -2, -2, -2, 6]


@pytest.mark.parametrize("name", ["numba", "jax", "torch", "subprocess"])
def test_an_adapter_is_a_function_for_scipy_too_and_says_what_it_is(name, tmp_path):
    from scipy.optimize import minimize

    x0 = np.ones(3)
    if name == "numba":
        fun, shown = ox.adapters.numba(bowl, H), "NumbaFunction(bowl)"
    elif name == "jax":
        need("jax")
        fun, shown = ox.adapters.jax(lambda x: 0.5 * (H * x * x).sum()), "JaxFunction("
    elif name == "torch":
        net, loss = network()
        fun, shown = ox.adapters.torch(net, loss), "TorchFunction(Sequential, 64 parameters)"
        x0 = fun.x0
    else:
        code = (
            "import sys, numpy as np; x = np.load(sys.argv[1]); h = np.array([1, 0.5, 0.1]); "
            "np.save(sys.argv[2], h * x); "
            "open(sys.argv[3], 'w').write(repr(float((h * x) @ x / 2)))"
        )
        words = [sys.executable, "-c", code, "{parameters}", "{gradient}", "{value}"]
        fun, shown = ox.adapters.subprocess(words), "Program("
    assert repr(fun).startswith(shown)
    value, gradient = fun(x0)
    assert isinstance(value, float)
    assert gradient.shape == x0.shape
    res = minimize(fun, x0, jac=True, method="L-BFGS-B", options={"maxiter": 5})
    assert res.fun < value


@pytest.mark.parametrize("library", ["torch", "jax"])
def test_a_missing_library_names_its_extra(monkeypatch, library):
    for name in [m for m in sys.modules if m.partition(".")[0] == library]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(
        MissingExtraError, match=rf"python -m pip install 'optex_core\[{library}\]'"
    ):
        getattr(ox.adapters, library)(lambda x: x, *([] if library == "jax" else [lambda m: m]))


def test_an_object_with_value_and_grad_is_a_function():
    class Simulator:
        def value_and_grad(self, x, ctx):
            assert isinstance(ctx, ox.Context)
            return 0.5 * (H * x) @ x, H * x

    res = ox.minimize(
        Simulator(), np.ones(3), optimizer=ox.SGD(0.5), maxiter=4, rng=0, workers="threads"
    )
    np.testing.assert_array_equal(res.x, expected().x)
