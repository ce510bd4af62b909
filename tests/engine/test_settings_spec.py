"""Settings as JSON: what is made again, what is told apart, what differs."""

from __future__ import annotations

import dataclasses
import functools
import json
import logging

import numpy as np
import pytest
from saved_runs import X0, assert_same, exact

import optex_core as ox
from optex_core.engine.settings_spec import compare_specs, from_spec, to_spec
from optex_core.errors import CheckpointError


def decaying(step):
    return 0.01 / (1.0 + step)


class Own:
    """A user's optimizer with a state of arrays."""

    def init(self, x):
        return {"velocity": np.zeros_like(x), "steps": 0}

    def step(self, x, g, state):
        velocity = 0.5 * state["velocity"] - 1e-3 * g
        return x + velocity, {"velocity": velocity, "steps": state["steps"] + 1}


@pytest.mark.parametrize(
    ("optimizer", "named"),
    [
        (ox.SGD(decaying), r"decaying \(builtins.function\)"),
        (Own(), r"Own"),
        (ox.ClipByNorm(Own(), 5.0), r"Own"),
    ],
    ids=["function", "object", "wrapped"],
)
def test_what_a_file_cannot_hold_is_passed_again_and_the_error_names_it(tmp_path, optimizer, named):
    path = tmp_path / "run"
    run = dict(optimizer=optimizer, parallelism=3, strategy="paper", rng=0)
    whole = ox.minimize(exact, X0, maxiter=8, **run)
    ox.minimize(exact, X0, maxiter=4, checkpoint=path, **run)
    with pytest.raises(
        CheckpointError,
        match=rf"uses \S*{named} in its optimizer, which a file cannot hold; pass optimizer= again",
    ):
        ox.OptEx.load(path)
    assert ox.OptEx.load(path, optimizer=optimizer, maxiter=8).settings.optimizer is optimizer
    assert_same(whole, ox.minimize(exact, X0, maxiter=8, checkpoint=path, resume=True, **run))


def steep(step, rate=0.01):
    return rate / (1.0 + step) ** 2


class Tuned(Own):
    """A user's optimizer with settings in its attributes."""

    def __init__(self, lr, **more):
        self.lr = lr
        self.more = more

    def step(self, x, g, state):
        return x - self.lr * 1e-3 * g, state


class Slotted(Own):
    """The same with slots: no attributes but the declared ones."""

    __slots__ = ("lr",)

    def __init__(self, lr):
        self.lr = lr


class Linear:
    """A user's schedule."""

    def __init__(self, steps):
        self.steps = steps

    def at(self, t):
        return 0.01 * max(1 - t / self.steps, 0.0)


@dataclasses.dataclass(frozen=True)
class Typed:
    """A user's optimizer that is a dataclass."""

    lr: float = 0.1
    scale: object = None

    def init(self, x):
        return ()

    def step(self, x, g, state):
        return x - self.lr * 1e-3 * g, state


UNLIKE = [
    (Tuned(0.1), Tuned(0.1), Tuned(0.7)),
    (
        Tuned(0.1, scale=np.ones(4)),
        Tuned(0.1, scale=np.ones(4)),
        Tuned(0.1, scale=np.ones(4, np.float32)),
    ),
    (
        Tuned(0.1, scale=[np.ones(4)]),
        Tuned(0.1, scale=[np.ones(4)]),
        Tuned(0.1, scale=[np.zeros(4)]),
    ),
    (Slotted(0.1), Slotted(0.1), Slotted(0.7)),
    (Typed(0.1), Typed(0.1), Typed(0.7)),
    (Typed(scale=np.ones((2, 2))), Typed(scale=np.ones((2, 2))), Typed(scale=np.ones(4))),
    (Typed(scale=Tuned(1)), Typed(scale=Tuned(1)), Typed(scale=Tuned(2))),
    (
        ox.ClipByNorm(Typed(0.1), 1.0),
        ox.ClipByNorm(Typed(0.1), 1.0),
        ox.ClipByNorm(Typed(0.7), 1.0),
    ),
    (
        ox.Projected("adam", X0 - 1, 9.0),
        ox.Projected("adam", X0 - 1, 9.0),
        ox.Projected("adam", X0 - 2, 9.0),
    ),
    (ox.SGD(decaying), ox.SGD(decaying), ox.SGD(steep)),
    (Tuned(0.1, inner=Tuned(1)), Tuned(0.1, inner=Tuned(1)), Tuned(0.1, inner=Tuned(2))),
    (ox.SGD(Linear(9).at), ox.SGD(Linear(9).at), ox.SGD(Linear(8).at)),
    (
        ox.SGD(functools.partial(steep, rate=0.01)),
        ox.SGD(functools.partial(steep, rate=0.01)),
        ox.SGD(functools.partial(steep, rate=0.02)),
    ),
]


@pytest.mark.parametrize(("saved", "same", "other"), UNLIKE, ids=lambda part: type(part).__name__)
def test_what_a_file_cannot_hold_is_compared_all_the_same(tmp_path, saved, same, other):
    run = dict(parallelism=2, strategy="paper", rng=0, checkpoint=tmp_path / "run")
    ox.minimize(exact, X0, maxiter=2, optimizer=saved, **run)
    with pytest.raises(CheckpointError, match="belongs to another run: its optimizer") as caught:
        ox.minimize(exact, X0, maxiter=4, resume=True, optimizer=other, **run)
    theirs, mine = str(caught.value).split(" is ", 1)[1].split("; use")[0].split(", here it is ")
    assert theirs != mine  # what differs is shown, however long the rest is
    with pytest.raises(
        CheckpointError,
        match="uses .* in its optimizer, which a file cannot hold; pass optimizer= again",
    ):
        ox.OptEx.load(tmp_path / "run")
    assert ox.minimize(exact, X0, maxiter=4, resume=True, optimizer=same, **run).nit == 4


def test_objects_that_hold_themselves_are_described():
    outer = Tuned(0.1)
    outer.more["self"] = outer
    outer.more["list"] = [outer]
    outer.more["list"].append(outer.more["list"])
    outer.more |= {
        "any": object(),
        "log": logging.getLogger("optex_core"),
        "library": np,
        "objects": np.array([outer, None]),
    }
    text = json.dumps(to_spec(outer))
    assert len(text) < 1000
    assert '"library": {"named": "numpy"' in json.dumps(to_spec(outer), sort_keys=True)
    assert "Tuned" in text
    assert "builtins.object" in text
    assert " at 0x" not in text


DIFFERENCES = [
    (ox.SGD(0.5), ox.SGD(0.5, momentum=0.5), "sgd(momentum=0.0)", "sgd(momentum=0.5)"),
    (0.5, np.inf, "0.5", "inf"),
    (
        ox.ClipByNorm(ox.SGD(0.5), 1.0),
        ox.ClipByNorm(ox.SGD(0.1), 1.0),
        "clip_by_norm(optimizer.learning_rate=0.5)",
        "clip_by_norm(optimizer.learning_rate=0.1)",
    ),
    (ox.SGD(0.5), ox.Lion(0.5), "sgd(learning_rate=0.5, ", "lion(learning_rate=0.5, "),
    ([1, 2, 3], [1, 4, 3], "(1=2)", "(1=4)"),
    ([1, 2], [1, 2, 3], "[1, 2]", "[1, 2, 3]"),
    (None, "a", "None", "'a'"),
    ({"a": 1, "b": 2}, {"b": 2, "c": 3}, "dict(a=1, b=2)", "dict(b=2, c=3)"),
]


@pytest.mark.parametrize(("theirs", "mine", "there", "here"), DIFFERENCES)
def test_the_first_difference_is_shown_with_its_place(theirs, mine, there, here):
    found = compare_specs(to_spec(theirs), to_spec(mine))
    for text, wanted in zip(found, (there, here), strict=True):
        assert text.replace("builtins.", "").startswith(wanted)


def test_long_values_are_shown_from_where_they_differ():
    there, here = compare_specs("x" * 500 + "a" * 500, "x" * 500 + "b" * 500)
    assert there != here
    assert max(len(there), len(here)) <= 100


@pytest.mark.parametrize(
    "spec",
    [{"family": "optimizer"}, {"family": 1, "name": [], "fields": {}}, {"float": "x"},
     {"family": "optimizer", "name": "sgd", "fields": {"__class__": 1}}, {"a": 1}],
)  # fmt: skip
def test_a_damaged_spec_is_one_sentence(spec):
    with pytest.raises(ox.errors.OptexError):
        from_spec(spec, "optimizer")
