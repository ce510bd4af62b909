"""Grafts: the first-order rules whose length Shampoo's update takes over, and which step alone
where nothing is preconditioned.

Each has the order of operations of the optimizer of its name: with preconditioning off the steps
are bitwise identical. `h` is the gradient, or its running mean with momentum before; `rate` is all
that multiplies the update.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from optex_core.backends.types import Rule


def sgd_graft_rule(xp):
    return lambda g, h, rate, eps: (rate * h,)


def adagrad_graft_rule(xp):
    def step(g, h, s, rate, eps):
        s = s + g * g
        return rate * h / (xp.sqrt(s) + eps), s

    return step


def rmsprop_graft_rule(xp):
    def step(g, h, s, rate, eps, keep, rest):
        s = keep * s + rest * g * g
        return rate * h / (xp.sqrt(s) + eps), s

    return step


def adam_graft_rule(xp):
    def step(g, h, s, rate, eps, keep, rest, root):
        s = keep * s + rest * g * g
        return rate * h / (xp.sqrt(s) / root + eps), s

    return step


@dataclass(frozen=True, slots=True)
class GraftRule:
    """One graft: `rule` is (g, h, *slots, rate, eps, *scalars) -> (update, *slots), and the step
    x - update.
    """

    rule: Rule
    slots: int  # state vectors, 0 or 1
    eps: float  # its usual constant outside the root
    scalars: Callable[[int, float], tuple[float, ...]]  # (t, b2) -> what the rule takes after eps


#: "none" steps as SGD does where nothing is preconditioned (as in Google's JAX code), and leaves
#: the preconditioned update at its own length.
GRAFTS = {
    "none": GraftRule(sgd_graft_rule, 0, 0.0, lambda t, b2: ()),
    "sgd": GraftRule(sgd_graft_rule, 0, 0.0, lambda t, b2: ()),
    "adagrad": GraftRule(adagrad_graft_rule, 1, 1e-10, lambda t, b2: ()),
    "rmsprop": GraftRule(rmsprop_graft_rule, 1, 1e-8, lambda t, b2: (b2, 1 - b2)),
    "adam": GraftRule(adam_graft_rule, 1, 1e-8, lambda t, b2: (b2, 1 - b2, math.sqrt(1 - b2**t))),
}


# -- the parts around the graft --------------------------------------------------------------------


def velocity_rule(xp):
    def step(x, u, v, rate, momentum, keep):
        v = momentum * v + u
        return keep * x - rate * v, v

    return step


def nesterov_velocity_rule(xp):
    def step(x, u, v, rate, momentum, keep):
        v = momentum * v + u
        return keep * x - rate * (u + momentum * v), v

    return step
