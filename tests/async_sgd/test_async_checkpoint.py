"""Saved masters: files of earlier versions, and names under which no file can be."""

from __future__ import annotations

from pathlib import Path

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


def test_step_rules_of_earlier_files_are_read(saved: Path) -> None:
    decaying = {"kind": "Decaying", "fields": {"first": 0.8, "tau0": 10.0, "kappa": 0.6}}
    header, arrays = read_npz(saved, format=FORMAT, version=VERSION)
    adaptive = {"kind": "DelayAdaptive", "fields": {"c": 2.0, "rule": decaying}}
    header["identity"]["step"] = adaptive
    write_npz(saved, header, arrays)
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
