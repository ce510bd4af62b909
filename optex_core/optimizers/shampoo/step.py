"""The step of Shampoo: momentum, the graft's update, and the preconditioned one of its length."""

from __future__ import annotations

import math
from types import ModuleType

import numpy as np

from optex_core.optimizers._kronecker.blocking import BlockBatch
from optex_core.optimizers._kronecker.rules import decay_rule, mean_rule
from optex_core.optimizers._kronecker.settings import Workspace
from optex_core.optimizers._kronecker.state import KroneckerState
from optex_core.optimizers._kronecker.statistics import contract
from optex_core.optimizers.shampoo.grafting import (
    GRAFTS,
    nesterov_velocity_rule,
    velocity_rule,
)
from optex_core.optimizers.shampoo.settings import ShampooSettings
from optex_core.types import Array


def preconditioned_step(
    s: ShampooSettings, work: Workspace, x: Array, g: Array, state: KroneckerState, rate: float
) -> tuple[Array, tuple[Array, ...]]:
    """The next x and the next slots."""
    backend, t = work.backend, state.t + 1
    graft = GRAFTS[s.graft]
    accumulators = state.slots[bool(s.momentum) :]
    h, scale = g, rate
    first: tuple[Array, ...] = ()
    after = bool(s.momentum) and s.placement == "after"
    if after:
        scale = 1.0  # the rate multiplies the velocity
    elif s.momentum:
        first = backend.apply(mean_rule, (g, state.slots[0]), (s.momentum, 1.0 - s.momentum))
        h, scale = first[0], rate / (1.0 - s.momentum**t)
    eps = graft.eps if s.graft_eps is None else s.graft_eps
    scalars = (scale, eps, *graft.scalars(t, s.graft_b2))
    u, *second = backend.apply(graft.rule, (g, h, *accumulators), scalars)
    if state.seen >= s.start and work.layout.active:
        _precondition(work, s, h, u, state, scale)
    keep = 1.0 - rate * s.decay
    if after:
        rule = nesterov_velocity_rule if s.nesterov else velocity_rule
        x, *velocity = backend.apply(rule, (x, u, state.slots[0]), (rate, s.momentum, keep))
        first = tuple(velocity)
    else:
        (x,) = backend.apply(decay_rule, (x, u), (keep,))
    return x, (*first, *second)


def _precondition(
    work: Workspace, s: ShampooSettings, h: Array, u: Array, state: KroneckerState, scale: float
) -> None:
    """Turn the graft's update `u` into the preconditioned one, in place; tiles without all of their
    roots keep it.
    """
    backend, layout, scratch = work.backend, work.layout, work.scratch
    kept = None if all(state.versions) else _without_roots(work, state, u)
    if kept is not None:
        u -= kept
    share = min(1.0, (state.seen - s.start + 1) / s.ramp) if s.ramp else 1.0
    by_tile = s.scope == "block" and s.graft != "none"
    d = scratch.empty("direction", (len(h),), h.dtype)
    for stack, roots in zip(layout.stacks, state.matrices, strict=True):
        there = None if by_tile or d.dtype != work.dtype else stack.view(d)
        tiles = stack.gather(scratch, "tiles", h, work.dtype)
        tiles = contract(scratch, stack, tiles, roots, there)
        if by_tile:
            grafted = stack.gather(scratch, "grafted", u, work.dtype)
            tiles = _graft_norms(backend.xp, stack, tiles, grafted)
        if there is None:
            stack.scatter(tiles, d)
    for index in layout.active:
        at = layout.tensors[index].slice
        new, old = d[at], u[at]
        if s.graft == "none" or s.scope == "block":
            factor, usable = scale if s.graft == "none" else 1.0, backend.all_finite(new)
        else:
            length = math.sqrt(backend.dot(new, new))
            factor = math.sqrt(backend.dot(old, old)) / (length or math.inf)
            usable = math.isfinite(length) and math.isfinite(factor)
        if not usable:
            continue  # beyond the range of the numbers: the graft's update is as good as any
        if share < 1.0:
            old *= u.dtype.type(1.0 - share)
            old += u.dtype.type(share * factor) * new
        else:
            backend.xp.multiply(new, u.dtype.type(factor), out=old)
    if kept is not None:
        u += kept


def _without_roots(work: Workspace, state: KroneckerState, u: Array) -> Array:
    """The entries of `u` in tiles without all of their roots, zeros elsewhere. (Roots that are not
    there are zero, and so is the direction of these tiles.)
    """
    kept = work.backend.zeros(len(u), u.dtype)
    for factor in work.layout.factors:
        if not state.versions[factor.index]:
            group = work.layout.group_of(factor)
            place = np.unravel_index(factor.tile - group.first, group.counts)
            group.view(kept)[place] = group.view(u)[place]
    return kept


def _graft_norms(xp: ModuleType, stack: BlockBatch, tiles: Array, grafted: Array) -> Array:
    """The tiles, each with the length of the graft's update."""
    axes = tuple(range(1, len(stack.tile) + 1))
    wanted, found = (xp.sqrt((a * a).sum(axes, keepdims=True)) for a in (grafted, tiles))
    return tiles * (wanted / xp.where(found > 0.0, found, 1.0))
