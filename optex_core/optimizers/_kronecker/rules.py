"""Elementwise rules that the steps share."""

from __future__ import annotations


def mean_rule(xp):
    return lambda g, m, keep, rest: (keep * m + rest * g,)


def decay_rule(xp):
    return lambda x, u, keep: (keep * x - u,)
