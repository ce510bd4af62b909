"""Optimizers: trajectories of independent references, and what holds for every one of them."""

from __future__ import annotations

import ast
import inspect
import json
import math
import textwrap
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from optex_core.errors import ArgumentError, ArgumentTypeError
from optex_core.optimizers.adadelta import Adadelta
from optex_core.optimizers.adagrad import Adagrad
from optex_core.optimizers.adam import AdaBelief, Adam, AdamW, AMSGrad, NAdam, RAdam
from optex_core.optimizers.base import OPTIMIZERS, ElementwiseOptimizer, get_optimizer
from optex_core.optimizers.lion import Lion
from optex_core.optimizers.rmsprop import RMSprop
from optex_core.optimizers.schedules import Cosine, ReduceOnPlateau, WarmUp
from optex_core.optimizers.sgd import SGD
from optex_core.testing.assertions import same_bits
from optex_core.testing.reference.steps import RULES

REFERENCE = json.loads(
    (Path(__file__).parents[1] / "reference" / "torch_trajectories.json").read_text(
        encoding="utf-8"
    )
)
START = REFERENCE["start"]
STEPS = REFERENCE["steps"]


def gradient(x: list[float]) -> list[float]:
    """The function of tests/reference/make_torch.py; only additions and multiplications, so the
    same bits everywhere.
    """
    last = len(x) - 1
    return [
        0.5 * x[k] * x[k] * x[k] + 0.25 * x[k] - 0.125 * x[(k + 1) % last] + 0.0625 * k
        if k < last
        else 0.0
        for k in range(last + 1)
    ]


#: Every optimizer in every form that a reference covers: all other tests run over it.
CASES = [(case["name"], case["settings"]) for case in REFERENCE["cases"]] + [
    # PyTorch does not have these; the check suite compares them with their formulas
    ("adabelief", {"learning_rate": 0.05, "b1": 0.8, "b2": 0.9, "eps": 1e-6}),
    ("lion", {"learning_rate": 0.05, "b1": 0.8, "b2": 0.9, "decay": 0.2}),
]


def callable_name(case: tuple[str, dict[str, Any]]) -> str:
    return "-".join([case[0], *(f"{key}={value}" for key, value in case[1].items())])


every_case = pytest.mark.parametrize("case", CASES, ids=callable_name)


def make(case: tuple[str, dict[str, Any]], **more: Any) -> Any:
    return OPTIMIZERS[case[0]](**{**case[1], **more})


def without_decay(case: tuple[str, dict[str, Any]]) -> Any:
    optimizer = make(case)
    return make(case, decay=0.0) if hasattr(optimizer, "decay") else optimizer


def walked(
    optimizer: Any, steps: int = STEPS, dtype: Any = np.float64, start: Any = START
) -> list[np.ndarray]:
    x = np.array(start, dtype)
    state, path = optimizer.init(x), []
    for _ in range(steps):
        x, state = optimizer.step(x, np.array(gradient(x.tolist()), dtype), state)
        path.append(x)
    return path


# -- references ------------------------------------------------------------------------------------

# Both sides round differently (order of the factors, bias correction on the host): 60 steps of a
# smooth problem turn some 1e-16 into some 1e-14; the centered variance, a difference of like
# numbers, loses one digit more. Measured: 1.1e-14 at most.
TOLERANCE = {"rtol": 1e-12, "atol": 1e-14}


@pytest.mark.parametrize(
    "case", REFERENCE["cases"], ids=lambda case: callable_name((case["name"], case["settings"]))
)
def test_trajectory_is_that_of_pytorch(case):
    path = walked(make((case["name"], case["settings"])))
    for t, expected in case["x"].items():
        np.testing.assert_allclose(
            path[int(t) - 1], expected, **TOLERANCE, err_msg=f"after step {t}"
        )


@pytest.mark.parametrize("name", list(OPTIMIZERS))
def test_every_elementwise_optimizer_has_a_reference(name):
    if issubclass(OPTIMIZERS[name], ElementwiseOptimizer):
        covered = {case["name"] for case in REFERENCE["cases"]} | set(RULES)
        assert name in covered, (
            f"{name} has no reference: add a case to tests/reference/make_torch.py, or its formula "
            f"to optex_core.testing.reference.steps"
        )
    else:
        # What is not one elementwise rule has a test file of its own, in which its name stands.
        assert list(Path(__file__).parent.glob(f"test_{name}*.py")), (
            f"{name} has no test file tests/optimizers/test_{name}.py"
        )


# -- what holds for every one ----------------------------------------------------------------------


@every_case
def test_single_precision_follows_double_precision(case):
    # 10 steps of 1e-7 each, some amplified by the division by a small root.
    np.testing.assert_allclose(
        walked(make(case), 10, np.float32)[-1], walked(make(case), 10)[-1], rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize(
    "case", list({make(case).rule: case for case in CASES}.values()), ids=callable_name
)
def test_every_rule_compiles_and_stays_in_single_precision(case):
    # As a scalar function, without the parallel loop around it: a tenth of the compile time. The
    # return type shows a promotion to float64, which the backend would round away again, at half
    # the speed.
    import numba

    optimizer = make(case)
    state = optimizer.init(np.zeros(1, np.float32))
    arguments = [np.float32(0.5 + 0.25 * i) for i in range(2 + len(state.slots))]
    arguments += [
        np.float32(s)
        for s in optimizer.scalars(8, 0.1, optimizer.next_host_scalars(8, state.host_scalars))
    ]
    compiled = numba.njit(error_model="numpy")(optimizer.rule(np))
    found = compiled(*arguments)
    (signature,) = compiled.nopython_signatures
    assert {str(kind) for kind in signature.return_type} == {"float32"}
    # some ulps: the compiler may contract
    np.testing.assert_allclose(found, optimizer.rule(np)(*arguments), rtol=1e-6)


def test_rules_hold_no_float_literals():
    # One literal makes Numba compute a float32 loop in float64, at half the speed.
    for rule in {make(case).rule for case in CASES}:
        tree = ast.parse(textwrap.dedent(inspect.getsource(rule)))
        assert not [
            node.value
            for node in ast.walk(tree)
            if isinstance(node, ast.Constant) and isinstance(node.value, float)
        ], rule


def test_a_rule_is_one_object_for_one_formula():
    for case in CASES:
        assert make(case).rule is make(case, learning_rate=0.5).rule


@pytest.mark.parametrize("kind", [Adam, AMSGrad, NAdam, Adagrad, RMSprop, AdaBelief, Lion])
@given(power=st.integers(-20, 20), seed=st.integers(0, 2**32 - 1))
def test_the_units_of_the_gradient_do_not_matter(kind, power, seed):
    # A power of four, so that every product and root is exact and the bits agree.
    optimizer = kind(0.1) if kind is Lion else kind(0.1, eps=0.0)
    gradients = np.random.default_rng(seed).normal(size=(4, 3))
    x = y = np.ones(3)
    first = second = optimizer.init(x)
    for g in gradients:
        x, first = optimizer.step(x, g, first)
        y, second = optimizer.step(y, g * 4.0**power, second)
    assert np.array_equal(x, y)


# -- particular ones -------------------------------------------------------------------------------


def test_sgd_without_momentum_keeps_no_vector():
    assert SGD(0.1).init(np.zeros(3)).slots == ()
    assert len(SGD(0.1, momentum=0.9).init(np.zeros(3)).slots) == 1


def test_adamw_without_decay_is_adam():
    assert same_bits(walked(AdamW(0.1, decay=0.0)), walked(Adam(0.1)))


def test_centered_rmsprop_survives_a_constant_gradient():
    optimizer = RMSprop(1e-9, alpha=0.5, centered=True)
    x = np.zeros(1000)
    g = np.random.default_rng(0).normal(size=1000)
    state = optimizer.init(x)
    for _ in range(200):  # the variance is zero by then, up to rounding of either sign
        x, state = optimizer.step(x, g, state)
        assert np.isfinite(x).all()


def test_a_plateau_schedule_reads_the_values_of_the_steps():
    optimizer = SGD(ReduceOnPlateau(WarmUp(0.5, 0), factor=0.5, patience=0))
    x = np.zeros(1)
    state = optimizer.init(x)
    moved = []
    for value in [1.0, math.nan, 1.0, math.nan, 0.5, 0.5]:
        new, state = optimizer.step(x, np.ones(1), state, value=value)
        moved.append(float(x[0] - new[0]))
        x = new
    assert moved == [0.5, 0.5, 0.25, 0.25, 0.25, 0.125]


def test_a_wrong_rate_is_named_at_its_step():
    optimizer = Adam(lambda t: 0.1 - 0.06 * t)
    x = np.zeros(2)
    _, state = optimizer.step(x, x, optimizer.init(x))
    _, state = optimizer.step(x, x, state)
    with pytest.raises(
        ArgumentError, match=r"must return a finite rate >= 0, got -0.0.* at step t = 2"
    ):
        optimizer.step(x, x, state)


@pytest.mark.parametrize(
    ("build", "sentence"),
    [
        (lambda: SGD(0.0), "learning_rate must be a number > 0"),
        (lambda: SGD(True), "learning_rate must be a number, got True"),
        (lambda: SGD(Cosine), r"got the class Cosine; write Cosine\("),
        (lambda: SGD(math.nan), "learning_rate must be a number > 0, got nan"),
        (lambda: SGD(0.1, momentum=1.0), "momentum must be a number >= 0 and < 1"),
        (lambda: SGD(0.1, nesterov=True), "nesterov=True needs momentum > 0"),
        (lambda: Adagrad(initial_accumulator=-1.0), "initial_accumulator must be a number >= 0"),
        (lambda: Adagrad(eps=math.inf), "eps must be a number >= 0"),
        (lambda: Adadelta(rho=1.0), "rho must be a number >= 0 and < 1"),
        (lambda: Adadelta(eps=0.0), "eps must be a number > 0"),
        (lambda: RMSprop(alpha=-0.1), "alpha must be a number >= 0 and < 1"),
        (lambda: RMSprop(momentum=2), "momentum must be a number >= 0 and < 1"),
        *(
            (
                lambda kind=kind, name=name: kind(**{name: 1.0}),
                f"{name} must be a number >= 0 and < 1",
            )
            for kind in (Adam, AdamW, AMSGrad, NAdam, RAdam, AdaBelief, Lion)
            for name in ("b1", "b2")
        ),
        *(
            (lambda kind=kind: kind(eps=-1e-8), "eps must be a number >=? 0")
            for kind in (Adam, AdamW, AMSGrad, NAdam, RAdam, AdaBelief, RMSprop)
        ),
        (lambda: RAdam(eps=0.0), "eps must be a number > 0"),
        (lambda: AdamW(decay=-0.1), "decay must be a number >= 0"),
        (lambda: Lion(decay=math.nan), "decay must be a number >= 0"),
        (lambda: NAdam(momentum_decay=-1.0), "momentum_decay must be a number >= 0"),
        (
            lambda: get_optimizer("sgd"),
            r"no default learning rate; pass the object with one, such as optex_core.SGD\(0.1\)",
        ),
        (lambda: get_optimizer("adma"), "unknown optimizer 'adma'; did you mean 'adam'"),
        (lambda: get_optimizer(Adam), r"got the class Adam; write Adam\("),  # type: ignore[arg-type]
        (
            lambda: get_optimizer(3),
            r"a name or an object with init\(x\) and step\(x, g, state\), got 3",
        ),  # type: ignore[arg-type]
    ],
)
def test_wrong_settings_are_refused_with_a_sentence(build, sentence):
    with pytest.raises((ArgumentError, ArgumentTypeError), match=sentence):
        build()


def test_a_name_gives_the_defaults():
    assert get_optimizer("adam") == Adam()
