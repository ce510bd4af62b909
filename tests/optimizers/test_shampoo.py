"""Shampoo: against a plain loop of its formulas, against the optimizers it becomes with parts
switched off, and against bad input.
"""

from __future__ import annotations

import dataclasses
import logging
from decimal import Decimal, localcontext

import numpy as np
import pytest
from combinations import covering_pairs
from kronecker_paths import SHAPES, D, InlineService, gradient, start, walked

import optex_core as ox
from optex_core.backends import get_backend
from optex_core.backends._memory import Scratch
from optex_core.errors import ArgumentError, ArgumentTypeError, EvaluationError
from optex_core.optimizers._kronecker.blocking import BlockRules, make_layout
from optex_core.optimizers._kronecker.matrix_jobs import MatrixResult
from optex_core.optimizers._kronecker.matrix_roots import inverse_roots
from optex_core.optimizers._pytree import tree_leaves, tree_unflatten
from optex_core.optimizers.parameter_blocks import blocks_from_shapes
from optex_core.testing.assertions import same_bits
from optex_core.testing.reference import shampoo as reference_shampoo
from optex_core.testing.reference.digits import exact, rounded

# -- the formulas, one after the other -------------------------------------------------------------


@pytest.mark.parametrize(
    ("shapes", "settings"),
    [
        ([(6, 4)], {"b2": 1.0}),
        ([(6, 4)], {"b2": 0.9, "momentum": 0.8}),
        ([(7,)], {"b2": 0.95}),
        ([(3, 4, 2)], {"b2": 0.9}),
        ([(2, 3, 2, 2)], {"b2": 1.0}),
        ([(6, 4)], {"b2": 0.9, "interval": 3, "start": 5}),
        ([(6, 4)], {"b2": 0.9, "delay": 1}),
        ([(6, 4)], {"b2": 0.9, "delay": 4, "interval": 3, "start": 6}),
        ([(6, 4)], {"b2": 0.9, "delay": 7, "interval": 2}),
        ([(6, 4)], {"b2": 0.9, "delay": 3, "interval": 2, "trusted": lambda t: t % 3 == 0}),
        ([(6, 4)], {"b2": 0.9, "exponent": 3, "ridge": 1e-2}),
        ([(6, 4)], {"b2": 0.9, "exponent": 2.6, "interval": 2}),
        ([(6, 4)], {"b2": 0.9, "bias_correction": False, "statistics_interval": 2}),
        ([(6, 4), (1, 5), ()], {"b2": 0.9, "graft": "adam", "momentum": 0.9, "decay": 0.1}),
        (
            [(5, 3)],
            {
                "b2": 0.9,
                "graft": "rmsprop",
                "momentum": 0.8,
                "placement": "after",
                "sides": "left",
                "graft_b2": 0.9,
            },
        ),
        (
            [(5, 3), (4,)],
            {
                "b2": 1.0,
                "graft": "sgd",
                "momentum": 0.5,
                "placement": "after",
                "nesterov": True,
                "vectors": False,
            },
        ),
        ([(5, 3)], {"b2": 0.9, "graft": "adagrad", "sides": "right", "start": 3, "ramp": 4}),
    ],
)
def test_the_path_is_that_of_the_slow_twin(shapes, settings):
    trusted = settings.get("trusted", lambda t: True)
    given = {
        "interval": 1,
        "momentum": 0.0,
        "graft": "none",
        **{key: value for key, value in settings.items() if key != "trusted"},
    }
    optimizer = ox.Shampoo(0.05, shapes=shapes, merge="none", spread=False, **given)
    x = start(sum(int(np.prod(shape)) for shape in shapes))
    expected = reference_shampoo.shampoo_path(optimizer, x, gradient, 30, trusted)
    path, _ = walked(optimizer, 30, x, trusted=trusted)
    # Products of numbers of size one: 30 steps turn 1e-16 into some 1e-13 where a root has a
    # condition of up to 1e6.
    np.testing.assert_allclose(path, expected, rtol=1e-9, atol=1e-11)


def test_the_twin_takes_roots_by_rotations():
    rng = np.random.default_rng(3)
    A = rng.standard_normal((5, 5)) * np.logspace(0, -3, 5)
    A = A @ A.T
    with localcontext(prec=50):
        slow = rounded(reference_shampoo.inverse_root(exact(A), 4, Decimal(0)))
    np.testing.assert_allclose(slow, inverse_roots(A[None], 4, ridge=0.0).matrices[0], rtol=1e-7)
    np.testing.assert_allclose(np.linalg.matrix_power(slow, 4) @ A, np.eye(5), atol=1e-6)


@pytest.mark.parametrize(
    "settings",
    [{"spread": True}, {"merge": "right"}, {"block_size": 3}, {"scope": "block"}, {"shapes": None}],
)
def test_the_reference_refuses_what_it_has_not(settings):
    optimizer = ox.Shampoo(
        0.1, **{"shapes": [(5, 3)], "merge": "none", "spread": False, **settings}
    )
    with pytest.raises(ArgumentError, match="the reference implementation needs"):
        reference_shampoo.shampoo_path(optimizer, start(15), gradient, 1)


def test_one_axis_and_a_sum_is_full_matrix_adagrad():
    path, _ = walked(
        ox.Shampoo(0.1, shapes=[(5,)], graft="none", momentum=0.0, b2=1.0, start=1, interval=1),
        12,
        start(5),
    )
    x, H = start(5), np.zeros((5, 5))
    for t in range(12):
        g = gradient(x, t)
        H += np.outer(g, g)
        values, vectors = np.linalg.eigh(H + 1e-6 * np.linalg.eigvalsh(H)[-1] * np.eye(5))
        x = x - 0.1 * vectors @ ((vectors.T @ g) / np.sqrt(values))
        np.testing.assert_allclose(path[t], x, rtol=1e-7, atol=1e-9)


# -- reductions ------------------------------------------------------------------------------------

GRAFTED = {
    "sgd": (ox.SGD(0.05), {"graft": "sgd", "momentum": 0.0}),
    "sgd-momentum": (ox.SGD(0.05, momentum=0.9), {"graft": "sgd", "placement": "after"}),
    "sgd-nesterov": (
        ox.SGD(0.05, momentum=0.8, nesterov=True),
        {"graft": "sgd", "placement": "after", "momentum": 0.8, "nesterov": True},
    ),
    "none-momentum": (ox.SGD(0.05, momentum=0.9), {"graft": "none", "placement": "after"}),
    "adagrad": (ox.Adagrad(0.05), {"graft": "adagrad", "momentum": 0.0}),
    "rmsprop": (
        ox.RMSprop(0.05, alpha=0.95),
        {"graft": "rmsprop", "momentum": 0.0, "graft_b2": 0.95},
    ),
    "rmsprop-momentum": (
        ox.RMSprop(0.05, momentum=0.7),
        {"graft": "rmsprop", "momentum": 0.7, "graft_b2": 0.99, "placement": "after"},
    ),
    "adam": (ox.Adam(0.05), {"graft_b2": 0.999}),
    "adam-settings": (
        ox.Adam(0.05, b1=0.8, b2=0.95, eps=1e-4),
        {"graft": "adam", "momentum": 0.8, "graft_b2": 0.95, "graft_eps": 1e-4},
    ),
    "adamw": (ox.AdamW(0.05, decay=0.3), {"graft_b2": 0.999, "decay": 0.3}),
}
OFF = {
    "sides": {"sides": "none"},
    "before-the-start": {"start": 10**9},
    "single-numbers": {"shapes": [()] * D},
    "no-vectors": {"shapes": [(D,)], "vectors": False},
}


@pytest.mark.parametrize(
    ("name", "off", "dtype"), covering_pairs(GRAFTED, OFF, [np.float32, np.float64])
)
def test_without_preconditioning_it_is_the_graft(name, off, dtype):
    known, settings = GRAFTED[name]
    optimizer = ox.Shampoo(0.05, **{"shapes": SHAPES, **settings, **OFF[off]})
    expected, _ = walked(known, 20, start(dtype=dtype))
    path, _ = walked(optimizer, 20, start(dtype=dtype))
    for mine, theirs in zip(path, expected, strict=True):
        assert mine.dtype == dtype
        np.testing.assert_array_equal(mine, theirs)


def test_predicted_gradients_alone_are_the_graft():
    path, state = walked(ox.Shampoo(0.05, shapes=SHAPES), trusted=lambda t: False)
    np.testing.assert_array_equal(path, walked(ox.Adam(0.05, b2=0.95))[0])
    assert (state.t, state.seen) == (25, 0)


def test_predicted_gradients_change_no_statistics():
    optimizer = ox.Shampoo(0.05, shapes=SHAPES, start=1, interval=2, delay=1)
    _, state = walked(optimizer, 9)
    _, after = walked(optimizer, 5, trusted=lambda t: False, state=state)
    for name in ("seen", "updates", "statistics", "matrices", "versions", "pending"):
        assert same_bits(getattr(state, name), getattr(after, name)), name
    assert after.t == 14


@pytest.mark.parametrize("graft", ["sgd", "adam", "none"])
def test_tiles_are_what_separate_tensors_would_be(graft):
    # One matrix of 7 x 6 in tiles of 3: each block is its own problem, remainders included.
    x = start(42)
    settings = {
        "graft": graft,
        "momentum": 0.0,
        "start": 1,
        "interval": 1,
        "scope": "block",
        "block_size": 3,
    }
    path, _ = walked(ox.Shampoo(0.05, shapes=[(7, 6)], **settings), 15, x)
    cuts = [(slice(i, min(i + 3, 7)), slice(j, j + 3)) for i in (0, 3, 6) for j in (0, 3)]
    order = np.concatenate([np.arange(42).reshape(7, 6)[cut].ravel() for cut in cuts])
    shapes = [np.zeros((7, 6))[cut].shape for cut in cuts]
    separate = ox.Shampoo(0.05, shapes=shapes, merge="none", **settings)
    y, state = x[order], separate.init(x[order])
    for t in range(15):
        whole = np.empty(42)
        whole[order] = y
        y, state = separate.step(y, gradient(whole, t)[order], state)
        np.testing.assert_allclose(path[t][order], y, rtol=1e-9, atol=1e-11)


def test_equal_tiles_are_stacked_and_alone_they_give_the_same_bits():
    shapes = {"a": (5, 3), "b": (5, 3), "c": (5, 3)}
    x = start(45)
    together = ox.Shampoo(0.05, shapes=shapes, start=1, interval=3, spread=False)
    alone = ox.Shampoo(0.05, shapes=[(5, 3)], start=1, interval=3, spread=False)
    assert len(together.init(x).matrices) == 1
    path, _ = walked(together, 10, x)
    for k in range(3):
        part = slice(15 * k, 15 * k + 15)
        y, state, before = x[part], alone.init(x[part]), x
        for t in range(10):
            y, state = alone.step(y, gradient(before, t)[part], state)
            before = path[t]
            np.testing.assert_array_equal(path[t][part], y)


@pytest.mark.parametrize(("shapes", "contiguous"), [
    ({"a": (5, 3)}, True),
    # cut along its first axis: rows stay together
    ({"s": (), "a": (8, 3)}, True),
    ({"a": (5, 3), "s": (), "b": (5, 3)}, False),
    ({"a": (3, 8)}, False),
])  # fmt: skip
def test_whole_rows_of_one_tensor_are_read_where_they_are(shapes, contiguous):
    size = 5 if (5, 3) in shapes.values() else 4
    layout = ox.Shampoo(0.1, shapes=shapes, block_size=size).layout(
        sum(int(np.prod(shape)) for shape in shapes.values())
    )
    (stack,) = layout.stacks
    x = np.arange(float(layout.size))
    tiles = stack.gather(Scratch(), "tiles", x, np.dtype(np.float64))
    assert np.shares_memory(tiles, x) == contiguous
    copied = np.empty_like(tiles)
    for region in stack.groups:
        region.of(copied)[...] = region.view(x)
    np.testing.assert_array_equal(tiles, copied)
    assert not np.shares_memory(stack.gather(Scratch(), "tiles", x, np.dtype(np.float32)), x)


@pytest.mark.parametrize(
    "settings", [{}, {"graft": "none"}, {"scope": "block"}, {"placement": "after", "graft": "sgd"}]
)
def test_where_tiles_stand_changes_no_bit(settings):
    near = ox.Shampoo(0.05, shapes=[(5, 3), (5, 3)], interval=2, **settings)
    apart = ox.Shampoo(0.05, shapes=[(5, 3), (), (5, 3)], interval=2, **settings)
    x, inner = start(31), np.delete(np.arange(31), 15)
    y, state, others = x[inner], near.init(x[inner]), apart.init(x)
    for t in range(10):
        g = gradient(x, t)
        y, state = near.step(y, g[inner], state)
        x, others = apart.step(x, g, others)
        np.testing.assert_array_equal(x[inner], y)


def test_merging_axes_is_reshaping():
    x = start(36)
    settings = {"start": 1, "interval": 2, "block_size": 8}
    # 3 x 3 = 9 is too many, 2 x 3 = 6 is not; two axes stay
    merged = ox.Shampoo(0.05, shapes=[(2, 2, 3, 3)], merge="right", **settings)
    assert merged.layout(36).shapes == ((2, 6, 3),)
    np.testing.assert_array_equal(
        walked(merged, 8, x)[0],
        walked(ox.Shampoo(0.05, shapes=[(2, 6, 3)], merge="none", **settings), 8, x)[0],
    )


def test_spread_roots_come_at_their_own_steps_and_are_all_there_at_the_start():
    optimizer = ox.Shampoo(0.05, shapes=SHAPES, interval=4, delay=2, start=6)
    layout = optimizer.layout(D)
    begun = {t: [f.index for f in layout.turn(t, 6, 2)] for t in range(1, 13)}
    assert (
        sorted(i for t in range(1, 5) for i in begun[t])
        == sorted(i for t in range(5, 9) for i in begun[t])
        == list(range(5))
    )
    assert max(len(begun[t]) for t in begun) == 2
    _, state = walked(optimizer, 5)
    assert not all(state.versions)
    _, state = walked(optimizer, 6)
    assert all(state.versions)


def test_an_early_start_begins_what_had_no_turn():
    _, state = walked(ox.Shampoo(0.05, shapes=SHAPES, interval=4, start=2), 2)
    assert set(state.versions) == {1, 2}


@pytest.mark.parametrize("delay", [0, 3])
def test_without_spread_the_roots_used_at_the_start_are_made_for_it(delay):
    optimizer = ox.Shampoo(0.05, shapes=SHAPES, start=18, interval=4, delay=delay, spread=False)
    x, state, seen = start(), optimizer.init(start()), {}
    for t in range(1, 26):
        x, state = optimizer.step(x, gradient(x, t), state)
        seen[t] = set(state.versions)
    # as in Meta's: at the start, then at every multiple of the interval
    made = {18 - delay, *(t for t in range(4, 26, 4) if t > 18 - delay)}
    assert seen[17] == {0}
    for t in range(18, 26):
        assert seen[t] == {max(m for m in made if m <= t - delay)}


# -- tiles of different ages -----------------------------------------------------------------------


@pytest.mark.parametrize("scope", ["tensor", "block"])
@pytest.mark.parametrize("delay", [0, 2])
def test_a_tile_whose_first_gradient_is_late_has_its_share_in_any_units(scope, delay):
    shares = []
    for scale in (1e-4, 1.0, 1e4):
        rng = np.random.default_rng(0)
        G = scale * rng.standard_normal((20, 16, 8))
        G[:5, 8:] = 0.0
        optimizer = ox.Shampoo(0.1, shapes=[(16, 8)], block_size=8, scope=scope, delay=delay)
        x, state, found = np.zeros(128), optimizer.init(np.zeros(128)), []
        for g in G:
            y, state = optimizer.step(x, g.ravel(), state)
            step, x = (y - x).reshape(16, 8), y
            found.append(np.linalg.norm(step[8:]) / np.linalg.norm(step[:8]))
        shares.append(found[5:])
        assert all(state.versions)
    assert 0.3 < np.min(shares) <= np.max(shares) < 6.0
    # eps of the graft, 1e-8, is not in the gradients' units
    np.testing.assert_allclose(shares[0], shares[1], rtol=1e-3)
    np.testing.assert_allclose(shares[2], shares[1], rtol=1e-3)


def test_a_tile_without_a_root_steps_by_its_graft_and_the_rest_keeps_the_length():
    optimizer = ox.Shampoo(
        0.1, shapes=[(16, 8)], block_size=8, delay=3, graft="sgd", momentum=0.0, start=1
    )
    rng = np.random.default_rng(0)
    x, state = np.zeros(128), optimizer.init(np.zeros(128))
    for t in range(9):
        g = rng.standard_normal((16, 8))
        g[8:] *= t >= 6
        y, state = optimizer.step(x, g.ravel(), state)
        step, x = (y - x).reshape(16, 8), y
    np.testing.assert_allclose(step[8:], -0.1 * g[8:], rtol=1e-12)
    assert np.linalg.norm(step[:8]) == pytest.approx(0.1 * np.linalg.norm(g[:8]))
    assert not np.allclose(step[:8], -0.1 * g[:8])
    report = optimizer.report(state)
    assert report["waiting"] == ["0 (16, 8)"]
    _, state = optimizer.step(x, g.ravel(), state)
    assert optimizer.report(state)["waiting"] == []


def test_statistics_that_grow_tenfold_get_a_root_at_once():
    optimizer = ox.Shampoo(0.1, shapes=[(4, 3)], interval=50)
    rng = np.random.default_rng(0)
    x, state, versions = np.zeros(12), optimizer.init(np.zeros(12)), []
    for t in range(12):
        g = (1e3 if t == 7 else 1.0) * rng.standard_normal(12)
        x, state = optimizer.step(x, g, state)
        versions.append(state.versions)
    assert versions[6] == (1, 1)
    assert versions[7] == versions[11] == (8, 8)


@pytest.mark.parametrize("b2", [0.9, 0.99, 1.0])
@pytest.mark.parametrize("settings", [{}, {"spread": False}, {"scope": "block"}])
def test_bias_correction_has_no_effect_beside_a_graft_whatever_the_ages_of_the_roots(b2, settings):
    paths = [
        walked(
            ox.Shampoo(
                0.1, shapes=[(16, 8)], block_size=8, b2=b2, bias_correction=correct, **settings
            ),
            14,
            start(128),
        )[0]
        for correct in (True, False)
    ]
    np.testing.assert_array_equal(*paths)


@pytest.mark.parametrize("b2", [0.9, 1.0])
def test_tiles_of_one_law_have_one_share_whatever_the_ages_of_their_roots(b2):
    # Two tiles with the same gradients: roots of steps 1 and 6 differ by noise, not by 1 - b2^u.
    optimizer = ox.Shampoo(
        0.1, shapes=[(16, 8)], block_size=8, b2=b2, momentum=0.0, graft="sgd", interval=10, start=1
    )
    rng = np.random.default_rng(0)
    x, state, ratios = np.zeros(128), optimizer.init(np.zeros(128)), []
    for _ in range(30):
        half = np.linalg.qr(rng.standard_normal((8, 8)))[0]
        y, state = optimizer.step(x, np.concatenate([half, half]).ravel(), state)
        step, x = (y - x).reshape(16, 8), y
        ratios.append(np.linalg.norm(step[8:]) / np.linalg.norm(step[:8]))
    assert len(set(state.versions)) > 1
    np.testing.assert_allclose(ratios, 1.0, rtol=1e-9)


def test_a_ramp_goes_from_the_graft_to_the_roots():
    settings = {"shapes": [(6, 4)], "graft": "sgd", "momentum": 0.0, "interval": 1, "start": 3}
    x = start(24)
    state = ox.Shampoo(0.1, ramp=4, **settings).init(x)
    for t in range(8):
        g = gradient(x, t)
        plain, full = x - 0.1 * g, ox.Shampoo(0.1, **settings).step(x, g, state)[0]
        new, state = ox.Shampoo(0.1, ramp=4, **settings).step(x, g, state)
        share = min(1.0, max(0.0, (t + 1 - 3 + 1) / 4))
        np.testing.assert_allclose(new, (1 - share) * plain + share * full, rtol=1e-12)
        x = new


def test_statistics_have_their_own_interval():
    optimizer = ox.Shampoo(0.05, shapes=SHAPES, statistics_interval=3)
    _, state = walked(optimizer, 3)
    _, fourth = walked(optimizer, 4)
    assert (state.updates, fourth.updates) == (1, 2)
    assert same_bits(walked(optimizer, 1)[1].statistics, state.statistics)


@pytest.mark.parametrize(
    ("scope", "graft"),
    [("tensor", "adam"), ("block", "adam"), ("tensor", "sgd"), ("block", "rmsprop")],
)
def test_an_update_has_the_length_of_its_graft(scope, graft):
    x = start(48)
    optimizer = ox.Shampoo(
        0.05, shapes=[(8, 6)], block_size=4, graft=graft, scope=scope, start=2, interval=1
    )
    _, state = walked(optimizer, 6, x)
    g = gradient(x)
    moved = (optimizer.step(x, g, state)[0] - x).reshape(8, 6)
    grafted = (dataclasses.replace(optimizer, start=10**9).step(x, g, state)[0] - x).reshape(8, 6)
    assert np.linalg.norm(moved) == pytest.approx(np.linalg.norm(grafted), rel=1e-10)
    tile = (slice(0, 4), slice(0, 4))
    assert (
        np.linalg.norm(moved[tile]) == pytest.approx(np.linalg.norm(grafted[tile]), rel=1e-10)
    ) == (scope == "block")


@pytest.mark.parametrize(
    ("settings", "axes"),
    [
        ({}, (0, 1)),
        ({"sides": "left"}, (0,)),
        ({"sides": "right"}, (1,)),
        ({"max_axis": 5}, (1,)),
        ({"max_axis": 3}, None),
        ({"sides": "none"}, None),
        ({"overrides": {"w": {"sides": "right", "exponent": 8}}}, (1,)),
    ],
)
def test_which_axes_are_preconditioned(settings, axes):
    stacks = ox.Shampoo(0.1, shapes={"w": (6, 4)}, **settings).layout(24).stacks
    assert (stacks[0].axes if stacks else None) == axes
    if axes:
        assert stacks[0].p == (8 if "overrides" in settings else 2 * len(axes))


def test_a_long_axis_is_left_whole_and_the_other_side_counts_alone():
    layout = ox.Shampoo(0.1, shapes={"embedding": (300, 10)}, block_size=4, max_axis=100).layout(
        3000
    )
    assert [(s.tile, s.axes, s.p, s.number) for s in layout.stacks] == [
        ((300, 4), (1,), 2, 2),
        ((300, 2), (1,), 2, 1),
    ]


def test_tiles_cover_every_entry_once():
    tensors = blocks_from_shapes({"a": (7, 10, 3), "b": (11,), "c": (2, 5)})
    layout = make_layout(tensors, (BlockRules(4, 8192, "none", "both", True, None),) * 3, 5, True)
    x = np.arange(231.0)
    back = np.full(231, -1.0)
    for stack in layout.stacks:
        tiles = stack.gather(Scratch(), "tiles", x, np.float64)
        assert tiles.shape == (stack.number, *stack.tile)
        assert max(stack.tile) <= 4
        stack.scatter(tiles, back)
    np.testing.assert_array_equal(back, x)
    assert sum(s.number * int(np.prod(s.tile)) for s in layout.stacks) == 231


def test_either_solver_leads_the_same_way():
    path, state = walked(ox.Shampoo(0.05, shapes=SHAPES, start=1, interval=2, ridge=1e-3), 12)
    newton, other = walked(
        ox.Shampoo(0.05, shapes=SHAPES, start=1, interval=2, ridge=1e-3, solver="newton"), 12
    )
    assert state.versions == other.versions
    assert other.rejected == 0
    # The ridges differ by up to a twelfth at n = 6: |A^16|_F^(1/16) against lambda_max.
    assert 0 < np.abs(np.subtract(path, newton)).max() < 1e-2


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"delay": 3, "interval": 2},
        {"placement": "after", "graft": "rmsprop"},
        {"packed_dtype": "float32"},
    ],
)
def test_steps_are_pure(settings):
    optimizer = ox.Shampoo(0.05, shapes=SHAPES, start=1, **settings)
    x = start()
    _, state = walked(optimizer, 6)
    g = gradient(x)
    given = [x, g, *(leaf for leaf in tree_leaves(state) if isinstance(leaf, np.ndarray))]
    for array in given:
        array.flags.writeable = False
    first, second = optimizer.step(x, g, state), optimizer.step(x, g, state)
    assert same_bits(first, second)
    assert not np.shares_memory(first[0], x)


@pytest.mark.parametrize("delay", [0, 3])
def test_a_saved_state_goes_on_with_the_same_bits_jobs_in_flight_included(delay):
    optimizer = ox.Shampoo(0.05, shapes=SHAPES, interval=4, delay=delay)
    x = start()
    path, state = walked(optimizer, 11)
    assert (sum(job is not None for job in state.pending) > 0) == (delay > 0)
    leaves = tree_leaves(state)
    back = tree_unflatten(
        optimizer.init(x), [np.asarray(leaf) if leaf is not None else None for leaf in leaves]
    )
    assert same_bits(back, state)
    one, two = (
        walked(optimizer, 9, path[-1], state=state, first=11),
        walked(optimizer, 9, path[-1], state=back, first=11),
    )
    assert same_bits(one, two)


@pytest.mark.parametrize("packed", ["float32", "float64"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_state_has_its_own_precision(dtype, packed):
    path, state = walked(
        ox.Shampoo(0.05, shapes=SHAPES, start=1, interval=2, packed_dtype=packed),
        10,
        start(dtype=dtype),
    )
    assert path[-1].dtype == dtype
    assert {state.statistics.dtype, *(a.dtype for pair in state.matrices for a in pair)} == {
        np.dtype(packed)
    }
    exact, _ = walked(ox.Shampoo(0.05, shapes=SHAPES, start=1, interval=2), 10)
    assert np.abs(path[-1] - exact[-1]).max() < (
        1e-9 if dtype == np.float64 == np.dtype(packed) else 2e-2
    )


def test_numba_takes_the_same_steps():
    optimizer = ox.Shampoo(0.05, shapes=SHAPES, start=2, interval=2, delay=1)
    backend = get_backend("numba")
    x = start()
    state, (path, _) = optimizer.init(x, backend=backend), walked(optimizer, 12)
    for t in range(12):
        x, state = optimizer.step(x, gradient(x, t), state, backend=backend)
        np.testing.assert_allclose(x, path[t], rtol=1e-9, atol=1e-11)


# -- failures --------------------------------------------------------------------------------------


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_gradient_that_is_not_finite_is_left_out_and_reported(bad, caplog):
    optimizer = ox.Shampoo(0.05, shapes=SHAPES, start=1)
    path, state = walked(optimizer, 4)
    g = gradient(path[-1])
    g[3] = bad
    with caplog.at_level(logging.WARNING, logger="optex_core"):
        x, after = optimizer.step(path[-1], g, state)
    np.testing.assert_array_equal(x, path[-1])
    assert same_bits(dataclasses.replace(after, skipped=0, skipped_in_a_row=0), state)
    assert optimizer.report(after)["skipped"] == 1
    assert "not finite, in w (6, 4), was left out" in caplog.text


def test_gradients_that_are_never_finite_are_an_error_after_a_stated_number_in_a_row():
    optimizer = ox.Shampoo(0.05, shapes={"layers": (3, 4), "b": (4,)}, max_skipped=5)
    x = start(16)
    bad = np.where(np.arange(16) == 13, np.nan, 1.0)
    state = optimizer.init(x)
    for _ in range(3):
        for _ in range(4):
            # predicted gradients and single failures do not count
            y, state = optimizer.step(x, bad, state)
            y, state = optimizer.step(x, bad, state, trusted=False)
        x, state = optimizer.step(x, gradient(x), state)
    for _ in range(4):
        y, state = optimizer.step(x, bad, state)
        np.testing.assert_array_equal(x, y)
    with pytest.raises(EvaluationError, match=r"5 gradients in a row .* the last in b \(4,\)"):
        optimizer.step(x, bad, state)
    for _ in range(50):
        _, state = dataclasses.replace(optimizer, max_skipped=None).step(x, bad, state)
    assert optimizer.report(state)["skipped"] == 24 + 4 + 50


@pytest.mark.parametrize(("dtype", "size"), [(np.float64, 1e200), (np.float32, 1e25)])
def test_squares_that_overflow_leave_the_statistics(dtype, size):
    optimizer = ox.Shampoo(0.05, shapes=[(4, 3)], start=1, interval=1, graft="sgd", momentum=0.0)
    x = start(12, dtype)
    x, state = optimizer.step(x, gradient(x).astype(dtype), optimizer.init(x))
    y, after = optimizer.step(x, np.full(12, size, dtype), state)
    assert same_bits(after.statistics, state.statistics)
    assert after.skipped == 1
    assert np.isfinite(y).all()


@pytest.mark.parametrize(
    ("size", "graft"), [(0.0, "none"), (1e-300, "sgd"), (1e-160, "adam"), (1e150, "none")]
)
def test_gradients_of_any_size_give_finite_steps(size, graft):
    optimizer = ox.Shampoo(0.05, shapes=[(4, 3)], start=1, interval=1, graft=graft)
    x = np.ones(12)
    state = optimizer.init(x)
    for t in range(4):
        x, state = optimizer.step(x, size * gradient(np.ones(12), t), state)
        assert np.isfinite(x).all()


class Refusing(InlineService):
    """Every second root misses its residual."""

    def __init__(self):
        self.calls = 0

    def result(self, job):
        self.calls += 1
        found = super().result(job)
        return found if self.calls % 2 else [MatrixResult(None, 0.5)] * len(found)


def test_a_root_that_misses_its_residual_is_not_published_and_counted(caplog):
    optimizer = ox.Shampoo(0.05, shapes=[(4, 3)], start=1, interval=1, roots=Refusing())
    x = start(12)
    state = optimizer.init(x)
    x, state = optimizer.step(x, gradient(x), state)
    with caplog.at_level(logging.WARNING, logger="optex_core"):
        _, after = optimizer.step(x, gradient(x, 1), state)
    assert same_bits(after.matrices, state.matrices)
    assert after.versions == state.versions == (1, 1)
    assert optimizer.report(after)["rejected"] == 2
    assert optimizer.report(after)["oldest"] == 1
    assert "missed its residual" in caplog.text


@pytest.mark.parametrize(
    ("build", "sentence"),
    [
        (lambda: ox.Shampoo(0.1, shapes={"w": (3, 0)}),
         r"the shape of 'w' is \(3, 0\): every axis must have a length of at least 1"),
        (lambda: ox.Shampoo(0.1, shapes={"w": (3, -1)}),
         "every axis must have a length of at least 1"),
        (lambda: ox.Shampoo(0.1, shapes=[("w", (3,)), ("w", (4,))]), "the name 'w' comes twice"),
        (lambda: ox.Shampoo(0.1, shapes={}), "got none; leave shapes out"),
        (lambda: ox.Shampoo(0.1, shapes=(3, 4)),
         r"got the single shape \(3, 4\); write \[\(3, 4\)\]"),
        (lambda: ox.Shampoo(0.1, shapes="w"), "shapes must be a dict of names to shapes"),
        (lambda: ox.Shampoo(0.1, shapes=12), "shapes must be a dict of names to shapes"),
        (lambda: ox.Shampoo(0.1, shapes={"w": (2.5, 2)}),
         "the shape of 'w' must be a tuple of integers"),
        (lambda: ox.Shampoo(0.1, shapes={"w": "ab"}),
         "the shape of 'w' must be a tuple of integers"),
        (lambda: ox.Shampoo(0.1, shapes={1: (2,)}), "names in shapes must be strings, got 1"),
        (lambda: ox.Shampoo(0.1, shapes={"w": (3, 4)}).init(np.zeros(13)),
         r"they have 12 entries in all \(w \(3, 4\)\), x has 13"),
        (lambda: ox.Shampoo(0.1, momentum=1.0), "momentum must be a number >= 0 and < 1"),
        (lambda: ox.Shampoo(0.1, placement="befor"),
         "placement must be one of 'before', 'after', got 'befor'; did you mean 'before'"),
        (lambda: ox.Shampoo(0.1, nesterov=True),
         "nesterov=True needs momentum > 0 and placement='after'"),
        (lambda: ox.Shampoo(0.1, b2=0.0), "b2 must be a number > 0 and <= 1"),
        (lambda: ox.Shampoo(0.1, graft="adm"), "did you mean 'adam'"),
        (lambda: ox.Shampoo(0.1, ridge=0.0), "ridge must be a number > 0"),
        (lambda: ox.Shampoo(0.1, interval=0), "interval must be an integer >= 1"),
        (lambda: ox.Shampoo(0.1, delay=-1), "delay must be an integer >= 0"),
        (lambda: ox.Shampoo(0.1, start=0), "start must be an integer >= 1"),
        (lambda: ox.Shampoo(0.1, exponent=0.5), "exponent must be a number >= 1"),
        (lambda: ox.Shampoo(0.1, exponent=2.5, solver="newton"),
         "solver='newton' needs an integer exponent, got 2.5; pass solver='eigh'"),
        (lambda: ox.Shampoo(0.1, max_skipped=0), "max_skipped must be an integer >= 1"),
        (lambda: ox.Shampoo(0.1, block_size=0), "block_size must be an integer >= 1"),
        (lambda: ox.Shampoo(0.1, packed_dtype="float16"),
         "packed_dtype must be one of 'float32', 'float64'"),
        (lambda: ox.Shampoo(0.1, roots=3), "roots must be an optex_core.RootPool"),
        (lambda: ox.Shampoo(0.1, shapes={"w": (2, 2)}, overrides={"v": {}}),
         "overrides name the tensor 'v', which shapes do not have"),
        (lambda: ox.Shampoo(0.1, shapes={"w": (2, 2)}, overrides={"w": {"side": "left"}}),
         "unknown rule 'side' for the tensor 'w'; did you mean 'sides'"),
        (lambda: ox.Shampoo(0.1, shapes={"w": (2, 2)}, overrides={"w": {"sides": "up"}}),
         "sides must be one of"),
        (lambda: ox.Shampoo(0.1, shapes={"w": (2, 2)}, overrides=3),
         "overrides must be a dict like"),
        (lambda: ox.Shampoo(0.1, blocksize=4),
         "unknown option 'blocksize'; did you mean 'block_size'"),
        (lambda: ox.Shampoo().plan(), "plan needs shapes"),
    ],
)  # fmt: skip
def test_bad_input_is_named(build, sentence):
    with pytest.raises((ArgumentError, ArgumentTypeError), match=sentence):
        build()


def test_more_memory_than_there_is_is_said_before_the_run():
    with pytest.raises(
        ArgumentError, match=r"the state takes .* GB, more than there is; pass a smaller block_size"
    ):
        ox.Shampoo(0.1, shapes=[(10**8,)], block_size=10**8, max_axis=10**9).init(
            np.broadcast_to(np.float64(0), 10**8)
        )


# -- names and presets -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ("epsilon", "ridge"),
        ("grafting", "graft"),
        ("start_preconditioning_step", "start"),
        ("precondition_frequency", "interval"),
        ("max_preconditioner_dim", "block_size"),
        ("beta2", "b2"),
        ("weight_decay", "decay"),
    ],
)
def test_the_fields_names_are_told_ours(theirs, ours):
    with pytest.raises(
        ArgumentTypeError, match=f"unknown option '{theirs}'; here it is called '{ours}'"
    ):
        ox.Shampoo(0.1, **{theirs: 1})


@pytest.mark.parametrize("kind", [ox.Shampoo, ox.SOAP])
def test_a_preset_is_its_numbers_and_what_is_given_precedes_them(kind):
    for k, preset in enumerate(("small", "large")):
        numbers = {name: values[k] for name, values in kind.PRESETS.items()}
        optimizer = kind(0.1, [(4, 3)], preset=preset, interval=7)
        given = {**numbers, "interval": 7}
        assert {name: getattr(optimizer, name) for name in numbers} == given
        assert optimizer == kind(0.1, [(4, 3)], preset=preset, **given)
    with pytest.raises(ArgumentError, match="preset must be one of 'small', 'large', got 'larg'"):
        kind(0.1, preset="larg")


def test_overrides_and_reports_name_a_tensor_by_its_path():
    _, back = ox.flatten({"layers": [{"weight": np.ones((6, 4)), "bias": np.ones(4)}]})
    optimizer = ox.Shampoo(0.1, back, overrides={"layers[0].weight": {"sides": "left"}})
    assert optimizer == ox.Shampoo(
        0.1, back, overrides={"['layers'][0]['weight']": {"sides": "left"}}
    )
    assert [stack.axes for stack in optimizer.layout(28).stacks] == [(0,), (0,)]
    report = optimizer.report(optimizer.init(start(28)))
    assert report["waiting"] == ["layers[0].weight (6, 4)", "layers[0].bias (4,)"]
    assert report["oldest_tensor"] is None
    _, state = walked(dataclasses.replace(optimizer, interval=4), 6, start(28))
    assert optimizer.report(state)["oldest_tensor"] in report["waiting"]
    with pytest.raises(ArgumentError, match=r"did you mean 'layers\[0\]\.weight'"):
        ox.Shampoo(0.1, back, overrides={"layers[0].weigth": {}})
    with pytest.raises(ArgumentError, match=r"\(layers\[0\]\.weight \(6, 4\), layers\[0\]\.bias"):
        optimizer.init(start(27))


# -- the plan --------------------------------------------------------------------------------------


def test_the_plan_is_what_is_allocated(capsys):
    optimizer = ox.Shampoo(
        0.1, shapes={"w": (300, 100), "c": (3, 3, 8, 8), "b": (100,), "s": ()}, delay=10
    )
    x = start(30000 + 576 + 101)
    plan = optimizer.plan()
    printed = capsys.readouterr().out
    assert printed == str(plan) + "\n"
    assert "the graft alone" in printed
    state = optimizer.init(x)
    for t in range(30):
        x, state = optimizer.step(x, gradient(x, t), state)
    arrays = {
        name: [a for a in tree_leaves(getattr(state, name)) if a is not None]
        for name in ("statistics", "matrices", "slots", "pending")
    }
    found = {name: sum(a.nbytes for a in many) for name, many in arrays.items()}
    assert (plan.statistics, plan.roots, plan.moments, plan.jobs) == tuple(found.values())
    assert plan.bytes == sum(found.values())
    assert plan.factors == len(state.versions)


def test_a_plan_takes_the_dtype_of_the_parameters(capsys):
    plan = ox.Shampoo(shapes={"w": (256, 256)}).plan(dtype=np.float32)
    assert "256 x 256" in capsys.readouterr().out
    assert plan.factors == 8
    assert plan.batch == pytest.approx(2 * 256 / 3)
    assert plan.roots == 8 * 128 * 128 * 4
    assert ox.Shampoo(shapes=[(4, 4)]).plan(show=False).d == 16
    assert capsys.readouterr().out == ""


# -- inside the engine -----------------------------------------------------------------------------


def regression(seed=0):
    rng = np.random.default_rng(seed)
    A = rng.standard_normal((60, 12)) * np.logspace(0, -1.5, 12)
    B = A @ rng.standard_normal((12, 8)) * np.logspace(0, -1, 8)

    def fun(x):
        R = A @ x.reshape(12, 8) - B
        return float(np.vdot(R, R)) / 60, 2 * (A.T @ R).ravel() / 60

    return fun


@pytest.mark.parametrize(
    "strategy",
    [
        "auto",
        "verified",
        "corrected",
        "paper",
        "sequential",
        "target",
        "data_parallel",
        "repeat_last",
        "line_search",
    ],
)
def test_every_strategy_runs_and_only_true_gradients_count(strategy):
    optimizer = ox.Shampoo(0.05, shapes=[(12, 8)], interval=2, delay=1)
    engine = ox.OptEx(
        np.zeros(96), optimizer=optimizer, strategy=strategy, parallelism=4, rng=0, maxiter=25
    )
    fun = regression()
    while not engine.stop():
        for c in engine.ask():
            value, g = fun(c.x)
            engine.tell(c.id, gradient=g, value=value)
    report = optimizer.report(engine.state.optimizer_state)
    assert report["steps"] == engine.state.nsteps
    assert report["trusted"] == (100 if strategy == "target" else 25)
    assert report["roots"] == 2
    assert engine.result().fun < 0.2 * fun(np.zeros(96))[0]


def test_a_noisy_run_learns_its_statistics_too():
    fun, rng = regression(), np.random.default_rng(0)

    def noisy(x):
        value, g = fun(x)
        return value, g + 2.0 * rng.standard_normal(96)

    optimizer = ox.Shampoo(0.02, shapes=[(12, 8)], interval=2)
    engine = ox.OptEx(np.zeros(96), optimizer=optimizer, parallelism=5, rng=0, maxiter=30)
    while not engine.stop():
        for c in engine.ask():
            value, g = noisy(c.x)
            engine.tell(c.id, gradient=g, value=value)
    assert "noisy" in "".join(engine.result().history.note)
    assert optimizer.report(engine.state.optimizer_state)["trusted"] == 30


class TrustsOnlyWhatWasTold:
    """Shampoo whose statistics take nothing but gradients that were evaluated as they are, never
    what `auto` smooths from them.
    """

    def __init__(self, shampoo, told):
        self.shampoo, self.told = shampoo, told

    def init(self, x):
        return self.shampoo.init(x)

    def step(self, x, g, state, trusted=True):
        return self.shampoo.step(
            x, g, state, trusted=trusted and any(np.array_equal(g, one) for one in self.told)
        )


def test_under_noise_statistics_of_smoothed_gradients_are_better_than_none():
    ends = {"smoothed": [], "told": []}
    for seed in range(3):
        fun = regression(seed)
        for name, found in ends.items():
            rng, told = np.random.default_rng(50 + seed), []
            optimizer = ox.Shampoo(0.01, shapes=[(12, 8)], interval=2, b2=0.95)
            noise = 0.3 * np.linalg.norm(fun(np.zeros(96))[1]) / np.sqrt(96)
            used = optimizer if name == "smoothed" else TrustsOnlyWhatWasTold(optimizer, told)
            engine = ox.OptEx(np.zeros(96), optimizer=used, parallelism=5, rng=0, maxiter=60)
            while not engine.stop():
                for c in engine.ask():
                    value, g = fun(c.x)
                    told.append(g + noise * rng.standard_normal(96))
                    engine.tell(c.id, gradient=told[-1], value=value)
            found.append(fun(engine.result().x)[0])
    smoothed, told = (float(np.exp(np.mean(np.log(found)))) for found in ends.values())
    assert smoothed < 0.8 * told


@pytest.mark.parametrize("strategy", ["auto", "sequential"])
def test_a_saved_run_goes_on_with_the_same_bits(strategy, tmp_path):
    optimizer = ox.Shampoo(
        0.05, shapes={"w": (12, 8)}, interval=4, delay=6, overrides={"w": {"block_size": 6}}
    )
    whole = ox.minimize(
        regression(),
        np.zeros(96),
        optimizer=optimizer,
        strategy=strategy,
        parallelism=3,
        maxiter=24,
        rng=0,
    )
    path = tmp_path / "run.npz"
    ox.minimize(
        regression(),
        np.zeros(96),
        optimizer=optimizer,
        strategy=strategy,
        parallelism=3,
        maxiter=11,
        rng=0,
        checkpoint=path,
    )
    engine = ox.OptEx.load(path, maxiter=24)  # the optimizer is in the file
    assert engine.settings.optimizer == optimizer
    assert optimizer.report(engine.state.optimizer_state)["pending"] > 0
    fun = regression()
    while not engine.stop():
        for c in engine.ask():
            value, g = fun(c.x)
            engine.tell(c.id, gradient=g, value=value)
    np.testing.assert_array_equal(engine.result().x, whole.x)


def test_flattened_trees_name_their_shapes():
    x, back = ox.flatten({"w": np.ones((4, 3)), "b": np.zeros(3)})
    optimizer = ox.Shampoo(0.1, shapes=back.shapes)
    assert optimizer == ox.Shampoo(0.1, shapes=back)
    assert [shape for _, shape in optimizer.shapes] == [(4, 3), (3,)]
    assert optimizer.init(x).seen == 0
