"""Saved masters: what another program has written into a file is refused in one sentence."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from optex_core.async_sgd import DecayingStep, DelayAdaptiveStep, Master, Push, minimize
from optex_core.async_sgd.checkpoint import FORMAT, VERSION
from optex_core.engine.npz_file import read_npz, write_npz
from optex_core.errors import CheckpointError


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """A master of two updates, and one push that waits for the rest of its mini-batch."""
    rule = DelayAdaptiveStep(2.0, rule=DecayingStep(0.8, 10.0, 0.6))
    master = Master(np.ones(3), rng=0, batch=2, step=rule)
    for k in range(5):
        master.push(master.pull(k).id, Push.affine(0.5, np.full(3, float(k))))
    master.save(tmp_path / "m.npz")
    return tmp_path / "m.npz"


def rewrite(path: Path, header: dict[str, Any], arrays: dict[str, Any]) -> None:
    """Replace entries of a saved file; None removes one. ``a/b`` is the entry b of the entry a."""
    old, members = read_npz(path, format=FORMAT, version=VERSION)
    for key, value in header.items():
        *outer, name = key.split("/")
        place = old
        for part in outer:
            place = place[part]
        place[name] = value
    members = {k: a for k, a in {**members, **arrays}.items() if a is not None}
    write_npz(path, old, members)


@pytest.mark.parametrize(
    ("header", "arrays"),
    [
        ({"state": None}, {}),
        ({"state": []}, {}),
        ({"state/version": -1}, {}),
        ({"state/version": "a"}, {}),
        ({"state/version": True}, {}),
        ({"state/issued": 10**40}, {}),
        ({"state/version": 5}, {}),
        ({"state/bursts": {"a": 1}}, {}),
        ({"state/counts": {"applied": 3}}, {}),
        ({"state/parts": -1}, {}),
        ({"state/returned": [99]}, {}),
        ({"state/returned": "all"}, {}),
        ({"lost": [{"id": 1, "kind": "none"}]}, {}),
        ({"seed": "x"}, {}),
        ({"seed": -1}, {}),
        ({"identity": None}, {}),
        ({"identity/d": 4}, {}),
        ({"identity/dtype": "float32"}, {}),
        ({"identity/batch": "two"}, {}),
        ({"identity/step": {"family": "none", "name": "x", "fields": {}}}, {}),
        ({"received": []}, {}),
        ({"received": [{"id": 1}]}, {}),
        ({"pushes": [{"gradients": 1}]}, {}),
        ({"lost": [1]}, {}),
        ({"about": 3}, {}),
        ({}, {"v": np.ones(4)}),
        ({}, {"v": np.ones((3, 1))}),
        ({}, {"v": np.ones(3, np.float32)}),
        ({}, {"v": np.array([1.0, np.nan, 1.0])}),
        ({}, {"push/0/b": np.ones(2)}),
        ({}, {"push/0/b": None}),
        ({}, {"ledger/eta": np.ones(1)}),
        ({}, {"ledger/job": None}),
    ],
)
def test_a_crafted_file_is_refused(
    saved: Path, header: dict[str, Any], arrays: dict[str, Any]
) -> None:
    rewrite(saved, header, arrays)
    with pytest.raises(CheckpointError):
        Master.load(saved)


def test_step_rules_of_earlier_files_are_read(saved: Path) -> None:
    decaying = {"kind": "Decaying", "fields": {"first": 0.8, "tau0": 10.0, "kappa": 0.6}}
    rewrite(
        saved,
        {"identity/step": {"kind": "DelayAdaptive", "fields": {"c": 2.0, "rule": decaying}}},
        {},
    )
    expected = DelayAdaptiveStep(2.0, rule=DecayingStep(0.8, 10.0, 0.6))
    assert Master.load(saved).settings.step == expected
    assert Master.load(saved, step=expected).version == 2
    with pytest.raises(CheckpointError, match="was made with step="):
        Master.load(saved, step=0.5)


def test_a_link_that_leads_nowhere_is_no_place_for_a_run(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    path.symlink_to(path)
    with pytest.raises(CheckpointError):
        minimize(lambda x: (x @ x, 2 * x), np.ones(2), maxiter=2, checkpoint=path, resume=True)
    assert path.is_symlink()
