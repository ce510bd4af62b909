"""Bad input gets one sentence that says what was expected, what came and what to do; and nothing is
lost by it.
"""

from __future__ import annotations

import copy
import dataclasses
import functools
import inspect
import os
import pickle
import sys
from pathlib import Path

import numpy as np
import pytest
from one_sentence import assert_one_sentence
from scipy.optimize import Bounds

import optex_core as ox
from optex_core.errors import (
    ArgumentError,
    ArgumentTypeError,
    CapabilityError,
    CheckpointError,
    EvaluationError,
)
from optex_core.model.kernels import KERNELS
from optex_core.optimizers.base import OPTIMIZERS, WRAPPERS
from optex_core.optimizers.schedules import SCHEDULES
from optex_core.optimizers.wrappers import BestSoFar, WeightDecay
from optex_core.problems import PROBLEMS
from optex_core.strategies import STRATEGIES

X0 = np.array([3.0, -4.0])


def fun(x):
    return float(x @ x), 2 * x


def value(x):
    return float(x @ x)


class Silent:
    """Has no methods at all."""


def case(name, says, kind=(ArgumentError, ArgumentTypeError), **arguments):
    return pytest.param(arguments, says, kind, id=name)


DOOR = [
    # the start
    case("x0 None", "x0 must be a vector of numbers, got None", x0=None),
    case("x0 text", "x0 must hold real numbers, got dtype <U3", x0="abc"),
    case("x0 list of text", "x0 must hold real numbers, got dtype <U1", x0=["a", "b"]),
    case("x0 complex", "complex numbers; stack real and imaginary parts", x0=[1 + 2j, 3]),
    case("x0 objects", "x0 must hold real numbers, got dtype object", x0=[None, 1.0]),
    case("x0 dict", "x0 must hold real numbers, got dtype object", x0={"a": 1.0}),
    case(
        "x0 ragged", "x0 must be an array of numbers, got a ragged sequence", x0=[[1.0], [1.0, 2.0]]
    ),
    case("x0 empty", r"d >= 1, got shape \(0,\)", x0=[]),
    case("x0 matrix", r"got shape \(2, 2\); pass x0.ravel\(\)", x0=np.ones((2, 2))),
    case("x0 column", r"got shape \(2, 1\)", x0=np.ones((2, 1))),
    case("x0 nan", "x0 must be finite, got nan at index 1", x0=[1.0, np.nan]),
    case("x0 inf", "x0 must be finite, got -inf at index 0", x0=[-np.inf, 1.0]),
    case(
        "x0 float16", r"float32 or float64, got float16; pass x0.astype", x0=np.ones(2, np.float16)
    ),
    case("x0 longdouble", "float32 or float64, got", x0=np.ones(2, np.longdouble)),
    case(
        "x0 dates",
        "x0 must hold real numbers, got dtype datetime64",
        x0=np.array(["2020-01-01"], "M8[D]"),
    ),
    case("x0 masked", "masked entries", x0=np.ma.masked_array([1.0, 2.0], [True, False])),
    case("x0 structured", "x0 must hold real numbers", x0=np.zeros(2, [("a", float)])),
    # fun and jac
    case("fun text", "fun must be callable, got 'fun'", fun="fun"),
    case("fun None alone", "fun=None needs jac=callable", fun=None),
    case("jac False", "jac must be True", jac=False),
    case("jac None", "jac must be True", jac=None),
    case("jac typo", "jac must be one of .* did you mean '2-point'", jac="2point"),
    case("jac number", "jac must be True", jac=2),
    # the algorithm
    case("parallelism 0", "parallelism must be an integer >= 1, got 0", parallelism=0),
    case("parallelism -3", "parallelism must be an integer >= 1, got -3", parallelism=-3),
    case("parallelism float", "parallelism must be an integer, got 4.0", parallelism=4.0),
    case("parallelism bool", "parallelism must be an integer, got True", parallelism=True),
    case("parallelism text", "parallelism must be an integer, got '4'", parallelism="4"),
    case("parallelism None", "parallelism must be an integer, got None", parallelism=None),
    case("parallelism huge", "parallelism must be an integer <= 100000", parallelism=10**6),
    case("strategy typo", "did you mean 'verified'", strategy="verifed"),
    case("strategy class", "strategy must be a name or an object", strategy=ox.strategies.Paper),
    case("strategy number", "strategy must be a name or an object", strategy=3),
    case("optimizer typo", "did you mean 'adamw'", optimizer="adamww"),
    case("optimizer without a rate", "no default learning rate; pass the object", optimizer="sgd"),
    case("optimizer class", r"write Adam\(...\)", optimizer=ox.Adam),
    case("optimizer object", r"init\(x\) and step\(x, g, state\)", optimizer=Silent()),
    case(
        "estimator text", "estimator must be an optex_core.GradientEstimator", estimator="matern52"
    ),
    case(
        "estimator class",
        "estimator must be an optex_core.GradientEstimator",
        estimator=ox.GradientEstimator,
    ),
    case(
        "kernel_dims too many",
        "kernel_dims must be at most the number of parameters 2, got 3",
        estimator=ox.GradientEstimator(kernel_dims=3),
    ),
    case("backend typo", "did you mean 'numba'", backend="nunba"),
    case("backend None", "backend must be one of", backend=None),
    # units and bounds
    case("x_scale zero", "x_scale must be positive and finite, got 0.0", x_scale=0.0),
    case("x_scale negative", "x_scale must be positive and finite, got -1.0", x_scale=[1.0, -1.0]),
    case("x_scale nan", "x_scale must be positive and finite, got nan", x_scale=np.nan),
    case(
        "x_scale length", "x_scale must be a positive number or 2 of them", x_scale=[1.0, 2.0, 3.0]
    ),
    case("x_scale text", "x_scale must be a positive number or 2 of them", x_scale="jac"),
    case(
        "bounds crossed", r"low <= high, got \(5.0, 1.0\) for parameter 1", bounds=[(0, 9), (5, 1)]
    ),
    case(
        "bounds Bounds crossed",
        r"low <= high, got \(2.0, 1.0\) for parameter 0",
        bounds=Bounds([2.0, -9], [1.0, 9]),
    ),
    case("bounds too few", "bounds must be 2 pairs .* got 1", bounds=[(0, 9)]),
    case("bounds flat", r"2 pairs \(low, high\)", bounds=[0, 9]),
    case("bounds number", r"2 pairs \(low, high\)", bounds=3),
    case("bounds text", "bounds must be numbers", bounds=[("a", "b"), (1, 2)]),
    case("bounds nan", "low <= high, got", bounds=[(np.nan, 1), (0, 1)]),
    case(
        "bounds shape",
        "bounds must be numbers that fit 2 parameters",
        bounds=Bounds([0.0] * 3, [1.0] * 3),
    ),
    # when to stop
    case("maxiter negative", "maxiter must be an integer >= 0, got -1", maxiter=-1),
    case("maxiter float", "maxiter must be an integer, got 1000.0", maxiter=1e3),
    case("max_evals 0", "max_evals must be an integer >= 1, got 0", max_evals=0),
    case("gtol negative", "gtol must be a number >= 0, got -1e-06", gtol=-1e-6),
    case("gtol nan", "gtol must be a number >= 0, got nan", gtol=np.nan),
    case("gtol text", "gtol must be a number, got '1e-6'", gtol="1e-6"),
    case("ftol bool", "ftol must be a number, got True", ftol=True),
    case("xtol negative", "xtol must be a number >= 0", xtol=-1.0),
    case("target nan", "target must be a number", target=np.nan),
    case("max_time negative", "max_time must be a number >= 0", max_time=-1.0),
    # the rest
    case("rng negative", "rng must be an integer >= 0, got -1", rng=-1),
    case("rng float", "rng must be an integer, got 1.5", rng=1.5),
    case("rng text", "rng must be an integer, got 'seed'", rng="seed"),
    case("rng legacy", "rng must be an integer, got RandomState", rng=np.random.RandomState(0)),  # noqa: NPY002
    case("tag number", "tag must be a string, got 3", tag=3),
]
DRIVER = [
    case("callback text", "callback must be callable, got 'print'", callback="print"),
    case("progress text", "progress must be True, False or a callable, got 'yes'", progress="yes"),
    case("workers 0", "workers must be at least 1 process, got 0", workers=0),
    case("workers -1", "for all cores pass os.cpu_count", workers=-1),
    case("workers typo", "did you mean 'threads'", workers="thread"),
    case("workers object", "workers must be None", workers=Silent()),
    case(
        "workers and vectorized",
        "pass one of the two",
        workers=2,
        vectorized=True,
        kind=CapabilityError,
    ),
    case("on_error typo", "did you mean 'retry'", on_error="retr"),
    case("on_error None", "on_error must be one of", on_error=None),
    case("max_retries negative", "max_retries must be an integer >= 0", max_retries=-1),
    case("max_failures float", "max_failures must be an integer", max_failures=0.5),
    case("timeout 0", "timeout must be a number > 0, got 0", timeout=0),
    case("timeout inf", "timeout must be finite", timeout=np.inf),
    case("quorum 0", "quorum must be an integer >= 1", quorum=0),
    case("quorum too many", "quorum must be at most parallelism=4, got 5", quorum=5),
    case("quorum text", "quorum must be an integer, got 'half'", quorum="half"),
    case("grace alone", "grace needs quorum", grace=1.0),
    case("grace negative", "grace must be a number >= 0", grace=-1.0, quorum=2),
    case("resume alone", "resume=True needs checkpoint=", resume=True),
    case("checkpoint_every alone", "checkpoint_every needs checkpoint=", checkpoint_every=3),
    case("checkpoint number", "checkpoint must be the path of a file, got 3", checkpoint=3),
    case(
        "typo parallelism", "unknown option 'paralelism'; did you mean 'parallelism'", paralelism=4
    ),
    case("typo callback", "unknown option 'callbak'; did you mean 'callback'", callbak=print),
    case(
        "another's option",
        "unknown option 'method'; give it to the optimizer: ox.Adam",
        method="BFGS",
    ),
    case(
        "a rate without its optimizer",
        "unknown option 'learning_rate'; give it to the optimizer: ox.Adam",
        learning_rate=0.1,
    ),
]


@pytest.mark.parametrize(("arguments", "says", "kind"), DOOR + DRIVER)
def test_minimize_refuses_at_the_door(arguments, says, kind):
    def never(x):
        raise AssertionError("evaluated")

    with pytest.raises(kind, match=says) as caught:
        ox.minimize(**{"fun": never, "x0": X0} | arguments)
    assert_one_sentence(caught.value)


@pytest.mark.parametrize(
    ("arguments", "says", "kind"), [c for c in DOOR if not {"fun", "jac"} & set(c.values[0])]
)
def test_the_engine_refuses_at_the_door(arguments, says, kind):
    with pytest.raises(kind, match=says):
        ox.OptEx(**{"x0": X0} | arguments)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: ox.SGD(-0.1), "learning_rate must be a number > 0, got -0.1"),
        (lambda: ox.Adam(np.nan), "learning_rate must be"),
        (lambda: ox.Adam("fast"), "learning_rate must be"),
        (lambda: ox.SGD(0.1, momentum=1.5), "momentum must be"),
        (lambda: ox.strategies.Paper(selection="best"), "selection must be one of"),
        (lambda: ox.strategies.Verified(window=0), "window must be an integer >= 1"),
        (lambda: ox.strategies.Verified(max_overhead=-1), "max_overhead must be a number > 0"),
        (lambda: ox.OptEx(X0, gtoll=1e-3), "unknown option 'gtoll'; did you mean 'gtol'"),
        (lambda: ox.SGD(0.1, momentm=0.9), "unknown option 'momentm'; did you mean 'momentum'"),
        (lambda: ox.GradientEstimator(kernal=1), "unknown option 'kernal'; did you mean 'kernel'"),
        (lambda: ox.strategies.Verified(windw=3), "unknown option 'windw'; did you mean 'window'"),
        (
            lambda: ox.ClipByNorm("adam", max_nrm=1.0),
            "unknown option 'max_nrm'; did you mean 'max_norm'",
        ),
        (lambda: ox.schedules.Cosine(0.1, step=3), "unknown option 'step'; did you mean 'steps'"),
        (
            lambda: ox.GradientEstimator(kernel=KERNELS["rational_quadratic"](alhpa=1.0)),
            "unknown option 'alhpa'; did you mean 'alpha'",
        ),
    ],
    ids=lambda p: p if isinstance(p, str) else "",
)
def test_settings_refuse_when_they_are_made(make, says):
    with pytest.raises((ArgumentError, ArgumentTypeError), match=says) as caught:
        make()
    assert_one_sentence(caught.value)


REGISTERED = [
    entry
    for registry in (KERNELS, OPTIMIZERS, WRAPPERS, SCHEDULES, STRATEGIES, PROBLEMS)
    for entry in registry.values()
]


@pytest.mark.parametrize("kind", REGISTERED, ids=lambda kind: kind.__name__)
def test_every_setting_is_known_by_name(kind):
    with pytest.raises(ArgumentTypeError, match="unknown option 'no_such_setting'"):
        kind(no_such_setting=1)
    assert "self" not in inspect.signature(kind).parameters
    assert [f.name for f in dataclasses.fields(kind) if f.init] == list(
        inspect.signature(kind).parameters
    )


def test_settings_with_checked_names_stay_plain_records():
    optimizer = ox.SGD(0.1, momentum=0.9)
    assert pickle.loads(pickle.dumps(optimizer)) == copy.deepcopy(optimizer) == optimizer
    assert dataclasses.replace(optimizer, momentum=0.5) == ox.SGD(0.1, 0.5)
    assert repr(optimizer) == "SGD(learning_rate=0.1, momentum=0.9, nesterov=False)"
    with pytest.raises(TypeError, match="missing 1 required positional argument: 'learning_rate'"):
        ox.SGD()


@dataclasses.dataclass(frozen=True)
class Outer:
    """A user's optimizer around another one, under a name of its own."""

    within: object

    def init(self, x):
        return self.within.init(x)

    def step(self, x, g, state):
        return self.within.step(x, g, state)


@pytest.mark.parametrize(
    ("options", "who"),
    [
        ({"strategy": "line_search"}, "strategy 'line_search'"),
        ({"strategy": ox.strategies.Paper(selection="value")}, "strategy 'paper'"),
        ({"ftol": 1e-3}, "ftol"),
        ({"target": 0.0}, "target"),
        ({"optimizer": ox.SGD(ox.schedules.ReduceOnPlateau(0.1))}, "schedule ReduceOnPlateau"),
        ({"optimizer": ox.ClipByNorm(ox.SGD(ox.schedules.ReduceOnPlateau(0.1)), 1.0)},
         "schedule ReduceOnPlateau"),
        ({"optimizer": ox.SGD(ox.schedules.ReduceOnPlateau(ox.schedules.WarmUp(0.1, 3)))},
         "schedule ReduceOnPlateau"),
        ({"optimizer": BestSoFar("adam")}, "optimizer BestSoFar"),
        ({"optimizer": ox.ClipByNorm(BestSoFar("adam"), 1.0)}, "optimizer BestSoFar"),
        ({"optimizer": WeightDecay("adam", ox.schedules.ReduceOnPlateau(0.1))},
         "schedule ReduceOnPlateau"),
        ({"optimizer": Outer(ox.SGD(ox.schedules.ReduceOnPlateau(0.1)))},
         "schedule ReduceOnPlateau"),
    ],
    ids=lambda p: p if isinstance(p, str) else "",
)  # fmt: skip
def test_what_needs_values_is_refused_without_them(options, who):
    with pytest.raises(
        CapabilityError, match=f"{who}.* needs values, but fun=None gives gradients only"
    ):
        ox.minimize(None, X0, jac=lambda x: 2 * x, **options)


@pytest.mark.parametrize("args", [(1,), (1, 2, 3)], ids=len)
def test_wrong_args_are_refused_before_anything_is_called(args):
    def two(x, a, b):
        return fun(x)

    with pytest.raises(
        ArgumentTypeError,
        match=r"two cannot be called with x and args=\(1,.*: (missing a required|too many "
        r"positional) argument",
    ):
        ox.minimize(two, X0, args)


def test_what_a_decorator_adds_is_not_asked_of_the_caller():
    @functools.wraps(fun)
    def adds(x):
        return two(x, 1)

    def two(x, a):
        return fun(x)

    adds.__wrapped__ = two
    assert ox.minimize(adds, X0, maxiter=1).nit == 1


def test_a_bare_argument_stands_for_a_tuple_of_one():
    assert ox.minimize(lambda x, a: fun(x), X0, 3, maxiter=1).nit == 1
    with pytest.raises(
        ArgumentTypeError, match=r"cannot be called with x and args=\(3,\): too many"
    ):
        ox.minimize(fun, X0, 3, maxiter=1)


@pytest.mark.parametrize(
    ("path", "says"),
    [
        ("x" * 300, "cannot be the name of a file"),
        ("x" * 250, "cannot be the name of a file"),
        ("a\0b", "null byte"),
        ("/proc/x", "cannot save to"),
    ],
    ids=["long", "long with endings", "zero byte", "no folder for files"],
)
@pytest.mark.parametrize("resume", [False, True])
@pytest.mark.parametrize("run", [ox.minimize, ox.async_sgd.minimize])
def test_a_checkpoint_that_cannot_be_is_refused_before_anything_is_evaluated(
    path, says, resume, run, monkeypatch, tmp_path
):
    monkeypatch.chdir(tmp_path)

    def never(x):
        raise AssertionError("called")

    if path.startswith("/proc") and not Path("/proc/self").exists():
        pytest.skip("no /proc here")
    with pytest.raises(CheckpointError, match=says):
        run(never, X0, checkpoint=path, resume=resume, maxiter=3)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(os.name == "nt", reason="there a directory that is in use cannot be removed")
@pytest.mark.parametrize("what", ["program", "checkpoint", "processes", "asynchronous processes"])
def test_a_working_directory_that_was_removed_is_named(what, monkeypatch, tmp_path):
    runs = {
        "program": lambda: ox.adapters.subprocess([sys.executable, "{parameters}"]),
        "checkpoint": lambda: ox.minimize(fun, X0, checkpoint="run.npz", maxiter=3),
        "processes": lambda: ox.minimize(fun, X0, workers=2, maxiter=3),
        "asynchronous processes": lambda: ox.async_sgd.minimize(
            fun, X0, rate=0.1, workers=2, maxiter=3
        ),
    }
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    with pytest.raises(ArgumentError, match="working directory of this process does not exist"):
        runs[what]()


def test_what_is_no_map_is_refused():
    with pytest.raises(
        ArgumentTypeError, match="cannot be called with a function and the items|does not take"
    ):
        ox.minimize(fun, X0, workers=len)
    with pytest.raises(EvaluationError, match="must return.* its results|iterable"):
        ox.minimize(fun, X0, workers=lambda function, items: None)


def test_what_looks_odd_but_is_meant_works():
    run = functools.partial(ox.minimize, fun, optimizer=ox.SGD(0.1), maxiter=3, rng=0)
    assert run(X0, parallelism=np.int64(2)).nit == 3
    assert run(5).x.shape == (1,)
    assert run(X0.astype(">f8")).x.tolist() == run(X0).x.tolist()
    assert run(X0, bounds=[(3.0, 3.0), (None, None)]).x[0] == 3.0
    assert run(X0, bounds=np.array([[-9.0, 9.0], [-9.0, 9.0]])).nit == 3
    assert run(X0, bounds=Bounds(-9, 9)).nit == 3
    assert run(X0, x_scale=1e-8).nit == 3
    assert run(X0, target=-np.inf).nit == 3
    assert run(X0, estimator=ox.GradientEstimator(history=2), parallelism=5).nit == 3
    assert run(np.asfortranarray(X0)[::-1]).nit == 3
    assert run(tuple(X0), rng=np.random.SeedSequence(4)).nit == 3
    assert (
        run(
            X0,
            progress=lambda result: None,
            callback=lambda result: None,
            on_error=lambda failure: "drop",
        ).nit
        == 3
    )
    assert run(X0, workers="threads", grace=0, quorum=4).nit == 3


def test_what_a_pool_or_a_map_gives_back_is_named_when_it_is_of_another_kind():
    class Pool:
        def submit(self, function, *args):
            return 3

    with pytest.raises(
        CapabilityError, match=r"workers=Pool must return a concurrent.futures.Future, got 3"
    ):
        ox.minimize(fun, X0, optimizer=ox.SGD(0.1), workers=Pool(), maxiter=2)
    with pytest.raises(EvaluationError, match=r"in their order: 1 points gave 0 results"):
        ox.minimize(fun, X0, optimizer=ox.SGD(0.1), workers=lambda function, items: [], maxiter=2)
    with pytest.raises(EvaluationError, match=r"in their order: 1 points gave 3$"):
        ox.minimize(fun, X0, optimizer=ox.SGD(0.1), workers=lambda function, items: [3], maxiter=2)


def test_a_run_is_saved_to_a_file(tmp_path):
    engine = ox.OptEx(X0, optimizer=ox.SGD(0.1))
    with pytest.raises(CheckpointError, match="it is a folder; give the name of a file in it"):
        engine.save(tmp_path)
    with pytest.raises(ArgumentTypeError, match="path must be the path of a file, got 3"):
        engine.save(3)
    assert not list(tmp_path.iterdir())


def test_a_lambda_is_the_same_wherever_its_script_makes_it(tmp_path):
    made = eval("lambda step: 0.1 / (1 + step)")
    ox.OptEx(X0, optimizer=ox.SGD(made)).save(tmp_path / "run")
    assert ox.OptEx.load(tmp_path / "run", optimizer=ox.SGD(lambda step: 0.1 / (1 + step))).ask()


def test_a_command_whose_quotation_stays_open_and_a_template_beyond_the_last_number():
    with pytest.raises(ArgumentError, match="close the quotation, or pass a list of words"):
        ox.adapters.subprocess("solve 'x")
    program = ox.adapters.subprocess([sys.executable, "-c", ""], parameters=("p.txt", "{x[2]}"))
    with pytest.raises(ArgumentError, match=r"takes numbers beyond the last, \{x\[1\]\}"):
        ox.minimize(program, X0, optimizer=ox.SGD(0.1), maxiter=1)


def test_a_number_without_limits_may_be_anything_but_nan():
    with pytest.raises(ArgumentError, match="target must be a number other than nan, got nan"):
        ox.minimize(fun, X0, optimizer=ox.SGD(0.1), target=float("nan"))
