"""The step of Shampoo: momentum, the graft's update, and the preconditioned one of its length."""

from __future__ import annotations

import math
from typing import Any

from optex_core.optimizers.shampoo.blocking import BlockBatch
from optex_core.optimizers.shampoo.grafting import (
    GRAFTS,
    decay_rule,
    mean_rule,
    nesterov_velocity_rule,
    velocity_rule,
)
from optex_core.optimizers.shampoo.settings import Workspace
from optex_core.optimizers.shampoo.statistics import apply_preconditioners
from optex_core.optimizers.shampoo.update_schedule import ShampooState
from optex_core.types import Array


def preconditioned_step(
    work: Workspace, x: Array, g: Array, state: ShampooState, rate: float
) -> tuple[Array, tuple[Array, ...]]:
    """The next x and the next slots."""
    s, backend, t, graft = work.settings, work.backend, state.t + 1, GRAFTS[work.settings.graft]
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
        _precondition(work, h, u, state, scale)
    keep = 1.0 - rate * s.decay
    if after:
        rule = nesterov_velocity_rule if s.nesterov else velocity_rule
        x, *velocity = backend.apply(rule, (x, u, state.slots[0]), (rate, s.momentum, keep))
        first = tuple(velocity)
    else:
        (x,) = backend.apply(decay_rule, (x, u), (keep,))
    return x, (*first, *second)


def _precondition(work: Workspace, h: Array, u: Array, state: ShampooState, scale: float) -> None:
    """Turn the graft's update `u` into the preconditioned one, in place, for the tensors whose
    roots are all there.
    """
    s, backend, layout, scratch = work.settings, work.backend, work.layout, work.scratch
    whole = all(state.versions)
    missing = () if whole else (f for f in layout.factors if not state.versions[f.index])
    waiting = {layout.group_of(f).tensor for f in missing}
    share = min(1.0, (state.seen - s.start + 1) / s.ramp) if s.ramp else 1.0
    by_tile = s.scope == "block" and s.graft != "none"
    d = scratch.empty("direction", (len(h),), h.dtype)
    for stack, roots in zip(layout.stacks, state.roots, strict=True):
        there = None if by_tile or d.dtype != work.dtype else stack.view(d)
        tiles = stack.gather(scratch, "tiles", h, work.dtype)
        tiles = apply_preconditioners(scratch, stack, tiles, roots, there)
        if by_tile:
            grafted = stack.gather(scratch, "grafted", u, work.dtype)
            tiles = _graft_norms(backend.xp, stack, tiles, grafted)
        if there is None:
            stack.scatter(tiles, d)
    for index in layout.active:
        if index in waiting:
            continue
        at = layout.tensors[index].slice
        if s.graft == "none" or s.scope == "block":
            factor, usable = scale if s.graft == "none" else 1.0, backend.all_finite(d[at])
        else:
            length = math.sqrt(backend.dot(d[at], d[at]))
            factor = math.sqrt(backend.dot(u[at], u[at])) / (length or math.inf)
            usable = math.isfinite(length) and math.isfinite(factor)
        if not usable:
            continue  # beyond the range of the numbers: the graft's update is as good as any
        if share < 1.0:
            u[at] *= u.dtype.type(1.0 - share)
            u[at] += u.dtype.type(share * factor) * d[at]
        else:
            backend.xp.multiply(d[at], u.dtype.type(factor), out=u[at])


def _graft_norms(xp: Any, stack: BlockBatch, tiles: Array, grafted: Array) -> Array:
    """The tiles, each with the length of the graft's update."""
    axes = tuple(range(1, len(stack.tile) + 1))
    wanted, found = (xp.sqrt((a * a).sum(axes, keepdims=True)) for a in (grafted, tiles))
    return tiles * (wanted / xp.where(found > 0.0, found, 1.0))
