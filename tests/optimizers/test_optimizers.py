"""Optimizers: trajectories of independent references, and what holds for every one of them."""

from __future__ import annotations

import ast
import inspect
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from optex_core.backends import get_backend
from optex_core.backends._tracing import trace_rule
from optex_core.errors import ArgumentError, ArgumentTypeError
from optex_core.optimizers._pytree import tree_flatten
from optex_core.optimizers.adabelief import AdaBelief
from optex_core.optimizers.adadelta import Adadelta
from optex_core.optimizers.adagrad import Adagrad
from optex_core.optimizers.adam import Adam
from optex_core.optimizers.adamw import AdamW
from optex_core.optimizers.amsgrad import AMSGrad
from optex_core.optimizers.base import OPTIMIZERS, ElementwiseOptimizer, get_optimizer
from optex_core.optimizers.lion import Lion
from optex_core.optimizers.nadam import NAdam
from optex_core.optimizers.radam import RAdam
from optex_core.optimizers.rmsprop import RMSprop
from optex_core.optimizers.schedules import Cosine, ReduceOnPlateau, WarmUp
from optex_core.optimizers.sgd import SGD

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


# -- scalar loops of the papers' formulas, for what PyTorch does not have --------------------------


def adabelief_by_hand(
    learning_rate: float = 1e-3, b1: float = 0.9, b2: float = 0.999, eps: float = 1e-16
) -> list[list[float]]:
    """Algorithm 2 of arXiv 2010.07468, one coordinate after the other."""
    x, path = list(START), []
    m, s = [0.0] * len(x), [0.0] * len(x)
    for t in range(1, STEPS + 1):
        for k, g in enumerate(gradient(x)):
            m[k] += (1 - b1) * (g - m[k])
            s[k] = b2 * s[k] + (1 - b2) * (g - m[k]) ** 2 + eps
        x = [
            x[k] - learning_rate * (m[k] / (1 - b1**t)) / (math.sqrt(s[k] / (1 - b2**t)) + eps)
            for k in range(len(x))
        ]
        path.append(x)
    return path


def lion_by_hand(
    learning_rate: float = 1e-4, b1: float = 0.9, b2: float = 0.99, decay: float = 0.0
) -> list[list[float]]:
    """Algorithm 2 of arXiv 2302.06675, one coordinate after the other."""
    x, path = list(START), []
    m = [0.0] * len(x)
    for _ in range(STEPS):
        g = gradient(x)
        direction = [b1 * m[k] + (1 - b1) * g[k] for k in range(len(x))]
        x = [
            x[k] - learning_rate * ((direction[k] > 0) - (direction[k] < 0) + decay * x[k])
            for k in range(len(x))
        ]
        m = [b2 * m[k] + (1 - b2) * g[k] for k in range(len(x))]
        path.append(x)
    return path


BY_HAND = {
    "adabelief": (
        adabelief_by_hand,
        [{}, {"learning_rate": 0.05, "b1": 0.8, "b2": 0.9, "eps": 1e-6}],
    ),
    "lion": (lion_by_hand, [{}, {"learning_rate": 0.05, "b1": 0.8, "b2": 0.9, "decay": 0.2}]),
}

#: Every optimizer in every form that a reference covers: all other tests run over it.
CASES = [(case["name"], case["settings"]) for case in REFERENCE["cases"]] + [
    (n, s) for n, (_, many) in BY_HAND.items() for s in many
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


def same_bits(a: Any, b: Any) -> bool:
    (left, kinds), (right, others) = tree_flatten(a), tree_flatten(b)
    return kinds == others and all(
        np.asarray(p).tobytes() == np.asarray(q).tobytes() for p, q in zip(left, right, strict=True)
    )


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


@pytest.mark.parametrize("case", [c for c in CASES if c[0] in BY_HAND], ids=callable_name)
def test_trajectory_is_that_of_the_paper(case):
    expected = BY_HAND[case[0]][0](**case[1])
    np.testing.assert_allclose(walked(make(case)), expected, **TOLERANCE)


@pytest.mark.parametrize("name", list(OPTIMIZERS))
def test_every_elementwise_optimizer_has_a_reference(name):
    if issubclass(OPTIMIZERS[name], ElementwiseOptimizer):
        assert name in {covered for covered, _ in CASES}, (
            f"{name} has no reference: add a case to tests/reference/make_torch.py or to BY_HAND"
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


@every_case
def test_affine_is_declared_as_it_is(case):
    # step(a p + (1 - a) q) = a step(p) + (1 - a) step(q), for all of x, g and the state vectors
    # together.
    optimizer, rng = make(case), np.random.default_rng(0)
    start = optimizer.init(np.zeros(6))
    for _ in range(12):  # beyond the steps of RAdam that are affine
        _, start = optimizer.step(np.zeros(6), rng.normal(size=6), start)

    def stepped(vectors: np.ndarray) -> np.ndarray:
        x, state = optimizer.step(
            vectors[0],
            vectors[1],
            type(start)(start.t, tuple(vectors[2:]), start.host_scalars, start.schedule),
        )
        return np.stack([x, *state.slots])

    p, q = rng.uniform(0.5, 2.0, size=(2, 2 + len(start.slots), 6))  # positive, as squares are,
    q[1] *= -50.0  # but gradients of either sign
    mixed, expected = stepped(0.3 * p + 0.7 * q), 0.3 * stepped(p) + 0.7 * stepped(q)
    assert (
        np.allclose(mixed, expected, rtol=1e-13, atol=0) == optimizer.affine == (case[0] == "sgd")
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


@pytest.mark.parametrize(
    "case", list({make(case).rule: case for case in CASES}.values()), ids=callable_name
)
def test_every_rule_has_a_translation_for_the_gpu(case):
    optimizer = make(case)
    state = optimizer.init(np.zeros(1))
    scalars = optimizer.scalars(1, 0.1, optimizer.next_host_scalars(1, state.host_scalars))
    _, results = trace_rule(optimizer.rule, 2 + len(state.slots), len(scalars))
    assert len(results) == 1 + len(state.slots)


def test_a_step_on_the_compiled_backend_follows_numpy():
    numba = get_backend("numba")
    optimizer, x = Adam(0.1), np.array(START)
    expected, state = optimizer.step(x, x, optimizer.init(x))
    found, other = optimizer.step(x, x, optimizer.init(x, backend=numba), backend=numba)
    # contracted and reciprocal arithmetic: some ulps
    np.testing.assert_allclose(found, expected, rtol=1e-14)
    assert other.t == state.t == 1


def test_rules_hold_no_float_literals():
    # One literal makes Numba compute a float32 loop in float64, at half the speed.
    for rule in {make(case).rule for case in CASES}:
        tree = ast.parse(inspect.getsource(rule))
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


@pytest.mark.parametrize("kind", [AdamW, Lion])
def test_decay_shrinks_what_has_no_gradient(kind):
    optimizer = kind(0.1, decay=0.5)
    x = np.array([2.0, -4.0])
    np.testing.assert_allclose(
        optimizer.step(x, np.zeros(2), optimizer.init(x))[0], 0.95 * x, rtol=1e-15
    )


def test_adamw_without_decay_is_adam():
    assert same_bits(walked(AdamW(0.1, decay=0.0)), walked(Adam(0.1)))


def test_radam_begins_with_momentum_alone():
    # For b2 = 0.999 the variance is bounded from the sixth step on; until then the step is the
    # corrected mean times the rate.
    optimizer, g = RAdam(0.1), np.array([1e-3, 1e3])
    x = np.zeros(2)
    state = optimizer.init(x)
    moved = []
    for _ in range(6):
        new, state = optimizer.step(x, g, state)
        moved.append(new - x)
        x = new
    np.testing.assert_allclose(moved[:5], np.tile(-0.1 * g, (5, 1)), rtol=1e-12)
    # normalised: up to eps = 1e-8 over |g|
    assert abs(moved[5][0] / moved[5][1]) == pytest.approx(1.0, rel=1e-3)


def test_centered_rmsprop_survives_a_constant_gradient():
    optimizer = RMSprop(1e-9, alpha=0.5, centered=True)
    x = np.zeros(1000)
    g = np.random.default_rng(0).normal(size=1000)
    state = optimizer.init(x)
    for _ in range(200):  # the variance is zero by then, up to rounding of either sign
        x, state = optimizer.step(x, g, state)
        assert np.isfinite(x).all()


def test_a_schedule_is_asked_for_the_steps_taken():
    schedule = Cosine(0.5, 4)
    x, optimizer = np.ones(1), SGD(schedule)
    state = optimizer.init(x)
    for t in range(6):
        new, state = optimizer.step(x, np.ones(1), state)
        assert new[0] == x[0] - schedule(t)
        x = new


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
        pytest.param(lambda: SGD(0.0), "learning_rate must be a number > 0", id="rate-zero"),
        pytest.param(lambda: SGD(True), "learning_rate must be a number, got True", id="rate-bool"),
        pytest.param(lambda: SGD(Cosine), r"got the class Cosine; write Cosine\(", id="rate-class"),
        pytest.param(
            lambda: SGD(math.nan), "learning_rate must be a number > 0, got nan", id="rate-nan"
        ),
        pytest.param(
            lambda: SGD(0.1, momentum=1.0),
            "momentum must be a number >= 0 and < 1",
            id="sgd-momentum",
        ),
        pytest.param(
            lambda: SGD(0.1, nesterov=True), "nesterov=True needs momentum > 0", id="sgd-nesterov"
        ),
        pytest.param(
            lambda: Adagrad(initial_accumulator=-1.0),
            "initial_accumulator must be a number >= 0",
            id="adagrad-accumulator",
        ),
        pytest.param(lambda: Adagrad(eps=math.inf), "eps must be a number >= 0", id="adagrad-eps"),
        pytest.param(
            lambda: Adadelta(rho=1.0), "rho must be a number >= 0 and < 1", id="adadelta-rho"
        ),
        pytest.param(lambda: Adadelta(eps=0.0), "eps must be a number > 0", id="adadelta-eps"),
        pytest.param(
            lambda: RMSprop(alpha=-0.1), "alpha must be a number >= 0 and < 1", id="rmsprop-alpha"
        ),
        pytest.param(
            lambda: RMSprop(momentum=2),
            "momentum must be a number >= 0 and < 1",
            id="rmsprop-momentum",
        ),
        *(
            pytest.param(
                lambda kind=kind, name=name: kind(**{name: 1.0}),
                f"{name} must be a number >= 0 and < 1",
                id=f"{kind.name}-{name}",
            )
            for kind in (Adam, AdamW, AMSGrad, NAdam, RAdam, AdaBelief, Lion)
            for name in ("b1", "b2")
        ),
        *(
            pytest.param(
                lambda kind=kind: kind(eps=-1e-8),
                "eps must be a number >=? 0",
                id=f"{kind.name}-eps",
            )
            for kind in (Adam, AdamW, AMSGrad, NAdam, RAdam, AdaBelief, RMSprop)
        ),
        pytest.param(lambda: RAdam(eps=0.0), "eps must be a number > 0", id="radam-eps-zero"),
        pytest.param(lambda: AdamW(decay=-0.1), "decay must be a number >= 0", id="adamw-decay"),
        pytest.param(lambda: Lion(decay=math.nan), "decay must be a number >= 0", id="lion-decay"),
        pytest.param(
            lambda: NAdam(momentum_decay=-1.0),
            "momentum_decay must be a number >= 0",
            id="nadam-decay",
        ),
        pytest.param(
            lambda: get_optimizer("sgd"),
            r"no default learning rate; pass the object with one, such as optex_core.SGD\(0.1\)",
            id="sgd-name",
        ),
        pytest.param(
            lambda: get_optimizer("adma"),
            "unknown optimizer 'adma'; did you mean 'adam'",
            id="unknown",
        ),
        pytest.param(lambda: get_optimizer(Adam), r"got the class Adam; write Adam\(", id="class"),  # type: ignore[arg-type]
        pytest.param(
            lambda: get_optimizer(3),
            r"a name or an object with init\(x\) and step\(x, g, state\), got 3",
            id="number",
        ),  # type: ignore[arg-type]
    ],
)
def test_wrong_settings_are_refused_with_a_sentence(build, sentence):
    with pytest.raises((ArgumentError, ArgumentTypeError), match=sentence):
        build()


def test_a_name_gives_the_defaults():
    assert get_optimizer("adam") == Adam()
