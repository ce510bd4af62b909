"""A saved run: its state as a JSON header and arrays, their file, and back.

Keys of headers and names of arrays are those of version 1. Only `OptEx.load` makes an engine.
"""

from __future__ import annotations

import dataclasses
import math
import os
import types
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from optex_core.backends import get_backend
from optex_core.engine.candidates import FailedEvaluation
from optex_core.engine.npz_file import Header, read_npz, write_npz
from optex_core.engine.round_machine import RoundMachine
from optex_core.engine.settings_spec import (
    array_digest,
    compare_specs,
    from_spec,
    to_spec,
    with_defaults,
)
from optex_core.engine.stopping import Criteria
from optex_core.engine.trace import IterationRecord, Trace
from optex_core.errors import CheckpointError, ProtocolError
from optex_core.model.estimator import GradientEstimator
from optex_core.model.likelihood import Hyperparameters
from optex_core.optimizers._pytree import tree_leaves, tree_unflatten
from optex_core.strategies.base import Observation
from optex_core.types import Array, Candidate

FORMAT, VERSION = "optex_core run", 1
_PARTS = ("identity", "seed", "criteria", "hyper", "reasons", "state", "rows", "late", "failed")

Arrays = dict[str, np.ndarray]

#: Key in a file -> attribute of `EngineState`, for its numbers, vectors and trees of both.
STATE_KEYS = {
    "fitted": "fitted_rows", "nit": "nit", "slot": "first_slot", "nsteps": "nsteps", "nfev": "nfev",
    "njev": "njev", "failures": "failures", "value": "value", "previous": "previous_value",
    "arrived": "value_known", "iterate_evaluated": "iterate_evaluated", "best": "best_value",
    "closing": "ends_at_iterate", "finished": "finished", "deterministic": "deterministic",
}  # fmt: skip
VECTOR_KEYS = {
    "x": "x", "gradient": "gradient", "best_x": "best_x", "best_gradient": "best_gradient",
    "origin": "iteration_start",
}  # fmt: skip
TREE_KEYS = {"optimizer": "optimizer_state", "memory": "strategy_state"}

#: Endings from outside: a run that is continued goes on as if they had not been.
EXTERNAL_STOPS = {"max_time", "callback", "interrupted", "failed", "too_many_failures"}


def write_checkpoint(path: str | os.PathLike[str], header: Header, arrays: Arrays) -> None:
    """Write what `dump` gave to `path`; see `npz_file.write_npz`."""
    write_npz(path, {**header, "format": FORMAT, "version": VERSION}, arrays)


def read_checkpoint(path: str | os.PathLike[str]) -> tuple[Header, Arrays]:
    """Header and arrays of a save; see `npz_file.read_npz`."""
    return read_npz(path, format=FORMAT, version=VERSION, parts=_PARTS)


def array_group(arrays: Arrays, group: str) -> Arrays:
    """The arrays whose names begin with ``group/``, without that."""
    return {n.removeprefix(f"{group}/"): a for n, a in arrays.items() if n.startswith(f"{group}/")}


def fingerprint(machine: RoundMachine) -> Header:
    """What must be equal for a saved run to be continued: everything but the stopping criteria."""
    s, host = machine.settings, machine.backend.to_host
    estimator = {f.name: getattr(s.estimator, f.name) for f in dataclasses.fields(s.estimator)}
    bounds = None
    if s.low is not None and s.high is not None:
        bounds = array_digest(host(s.high), host(s.low).tobytes())
    return {
        "d": len(machine.state.x),
        "dtype": str(machine.state.x.dtype),
        "backend": machine.backend.name,
        "parallelism": s.parallelism,
        "optimizer": to_spec(s.optimizer),
        "strategy": to_spec(s.strategy),
        "estimator": {name: to_spec(value) for name, value in estimator.items()},
        "bounds": bounds,
        "x_scale": None if s.scale is None else array_digest(host(s.scale)),
        "tag": s.tag,
    }


def check_compatible(machine: RoundMachine, header: Header, path: str) -> None:
    """Refuse a saved run of other settings: the first that differs is named with both values."""
    mine, theirs = fingerprint(machine), dict(header["identity"])
    theirs |= {part: with_defaults(theirs[part]) for part in ("optimizer", "strategy")}
    name = next((name for name, value in mine.items() if value != theirs.get(name)), None)
    if name is None:
        return
    there, here = compare_specs(theirs.get(name), mine[name])
    what = f"its {name} is {there}, here it is {here}"
    if name in ("bounds", "x_scale"):  # of which a file has a digest
        what = f"its {name} is not the one given here"
    raise CheckpointError(
        f"{path} belongs to another run: {what}; use the same settings, or another checkpoint file"
    )


# -- dump ------------------------------------------------------------------------------------------


def dump(machine: RoundMachine) -> tuple[Header, Arrays]:
    """The state of a run as a JSON header and arrays."""
    s, r, surrogate, settings = machine.state, machine.round, machine.surrogate, machine.settings
    if r is not None and r.recorded:
        raise ProtocolError(
            "the optimizer failed while a round was being closed: such a state cannot be saved, an"
            " earlier file is kept"
        )
    late = list(machine.late.values())
    if r is not None and s.finished:  # what the finished run did not wait for stays tellable
        late += r.pending
    vectors = {key: getattr(s, name) for key, name in VECTOR_KEYS.items()}
    vectors |= {"low": settings.low, "high": settings.high, "scale": settings.scale}
    vectors |= {f"late/{i}": c.x for i, c in enumerate(late)}
    vectors |= {f"failed/{i}": f.x for i, f in enumerate(machine.failures)}
    for i, (x, g) in enumerate(surrogate.pending):
        vectors |= {f"arrival/{i}/x": x, f"arrival/{i}/g": g}
    header: Header = {
        "identity": fingerprint(machine),
        "seed": settings.seed,
        "criteria": _specs(dataclasses.asdict(settings.criteria)),
        "hyper": dataclasses.asdict(s.hyperparameters),
        "reasons": _specs(s.reasons),
        "overhead": surrogate.overhead,
        "note": surrogate.note,
        "state": {key: to_spec(getattr(s, name)) for key, name in STATE_KEYS.items()},
        "rows": [_specs(dataclasses.asdict(row)) for row in machine.rows],
        "late": [[c.id, c.seed, c.iteration, c.slot] for c in late],
        "arrivals": len(surrogate.pending),
        "failed": [
            [f.id, f.iteration, f.slot, f.seed, f.message, f.traceback, f.attempt]
            + [f.error is not None, to_spec(f.value)]
            for f in machine.failures
        ],
    }
    if r is not None:
        header["round"] = {
            "done": r.done,
            "told": [one is not None for one in r.observations],
            "seconds": to_spec(r.seconds),
            "evaluations": r.evaluations,
            "opened": r.evaluations_at_open,
            "values": [None if one is None else to_spec(one.value) for one in r.observations],
        }
        told = {i: one for i, one in enumerate(r.observations) if one is not None}
        vectors |= {f"round/{i}": one.gradient for i, one in told.items()}
    for key, name in TREE_KEYS.items():
        leaves = tree_leaves(getattr(s, name))
        found = {i: leaf for i, leaf in enumerate(leaves) if hasattr(leaf, "shape")}
        header[key] = [{"array": i} if i in found else to_spec(a) for i, a in enumerate(leaves)]
        vectors |= {f"{key}/{i}": leaf for i, leaf in found.items()}
    arrays = {n: machine.backend.to_host(a) for n, a in vectors.items() if a is not None}
    groups: dict[str, Mapping[str, object]] = {"trace": machine.trace.to_arrays()}
    if surrogate.history is not None:
        groups["history"] = surrogate.history.dump()
    if surrogate.tracker is not None:
        groups["span"] = surrogate.tracker.dump(s.x, s.optimizer_state)
    for group, parts in groups.items():
        arrays |= {f"{group}/{name}": np.asarray(part) for name, part in parts.items()}
    return header, arrays


def _specs(values: Mapping[str, object]) -> Header:
    return {name: to_spec(value) for name, value in values.items()}


# -- restore ---------------------------------------------------------------------------------------


def engine_arguments(
    header: Header, arrays: Arrays, given: Mapping[str, object], criteria: Mapping[str, Any]
) -> dict[str, Any]:
    """Arguments of the `OptEx` that a save belongs to.

    Optimizer, strategy and estimator in `given`, and `criteria`, replace the saved ones where they
    are not None. CheckpointError if a part that a file cannot hold is not given.
    """
    known = header["identity"]
    parts = {name: one for name, one in given.items() if one is not None}
    for name in ("optimizer", "strategy"):
        if name not in parts:
            parts[name] = from_spec(known[name], name)
    if "estimator" not in parts:
        fields = {name: from_spec(one, "estimator") for name, one in known["estimator"].items()}
        parts["estimator"] = GradientEstimator(**fields)
    new = dataclasses.asdict(Criteria(**criteria))
    backend = get_backend(known["backend"])
    bounded = "low" in arrays
    return {
        **{name: from_spec(value, name) for name, value in header["criteria"].items()},
        **{name: value for name, value in new.items() if value is not None},
        **parts,
        "x0": backend.copy_in(arrays["x"], arrays["x"].dtype),
        "parallelism": known["parallelism"],
        "backend": backend,
        "bounds": types.SimpleNamespace(lb=arrays["low"], ub=arrays["high"]) if bounded else None,
        "x_scale": arrays.get("scale"),
        "rng": header["seed"],
        "tag": known["tag"],
    }


def restore(machine: RoundMachine, header: Header, arrays: Arrays, path: str) -> None:
    """Put a saved state into a fresh run of equal settings.

    A run that was ended from outside, or by a budget that now allows more, goes on. CheckpointError
    if the save is of other settings or does not fit the states of its optimizer and strategy.
    """
    check_compatible(machine, header, path)
    copy_in = machine.backend.copy_in

    def vector(name: str) -> Array:
        return copy_in(arrays[name], arrays[name].dtype)

    try:
        s, surrogate = machine.state, machine.surrogate
        for key, value in header["state"].items():
            setattr(s, STATE_KEYS[key], from_spec(value, key))
        for key, name in VECTOR_KEYS.items():
            setattr(s, name, vector(key) if key in arrays else None)
        for key, name in TREE_KEYS.items():
            setattr(s, name, _restored_tree(getattr(s, name), key, header[key], vector))
        s.hyperparameters = Hyperparameters(**header["hyper"])
        s.reasons = {name: from_spec(value, name) for name, value in header["reasons"].items()}
        surrogate.overhead, surrogate.note = header["overhead"], header["note"]
        if surrogate.history is not None:
            surrogate.history.restore(array_group(arrays, "history"))
        if surrogate.tracker is not None:
            surrogate.tracker.restore(array_group(arrays, "span"), s.x, s.optimizer_state)
        pending = range(header["arrivals"])
        surrogate.pending = [(vector(f"arrival/{i}/x"), vector(f"arrival/{i}/g")) for i in pending]
        machine.trace = Trace.from_arrays(array_group(arrays, "trace"))
        machine.rows = [
            IterationRecord(**{name: from_spec(value, name) for name, value in row.items()})
            for row in header["rows"]
        ]
        machine.late = {}
        for i, (id_, seed, iteration, slot) in enumerate(header["late"]):
            x = machine.backend.read_only(vector(f"late/{i}"))
            machine.late[id_] = Candidate(id_, x, seed, iteration, slot)
        machine.failures = []
        for i, values in enumerate(header["failed"]):
            id_, iteration, slot, seed, message, text, attempt, raised, *value = values
            error = RuntimeError(message) if raised else None
            known = from_spec(value[0], "failures") if value else math.nan  # not in earlier files
            where = id_, iteration, slot, seed, vector(f"failed/{i}")
            machine.failures.append(FailedEvaluation(*where, message, error, text, attempt, known))
        _restore_round(machine, header.get("round"), vector)
    except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
        if isinstance(error, CheckpointError):
            raise
        raise CheckpointError(
            f"{path} is damaged or was written with other settings ({error})"
        ) from error


def _restored_tree(
    fresh: object, key: str, saved: list[Any], vector: Callable[[str], Array]
) -> object:
    """The state of an optimizer or a strategy, nested as the `fresh` one."""
    leaves = [
        vector(f"{key}/{leaf['array']}")
        if isinstance(leaf, dict) and "array" in leaf
        else from_spec(leaf, key)
        for leaf in saved
    ]
    if key == "memory":  # what a strategy has learned to remember since has its first value
        leaves += tree_leaves(fresh)[len(leaves) :]
    return tree_unflatten(fresh, leaves)


def _restore_round(
    machine: RoundMachine, saved: Header | None, vector: Callable[[str], Array]
) -> None:
    """Open the saved round anew (same state, same bits) and enter what had been observed of it."""
    s = machine.state
    if (s.finished or s.ends_at_iterate) and not _undo_external_stop(machine):
        return
    if saved is None:
        return
    machine.advance(saved["opened"])  # the budget cuts the round as it did when it was opened
    r = machine.round
    if r is None:
        return
    r.seconds, r.evaluations = from_spec(saved["seconds"], "seconds"), saved["evaluations"]
    for i in range(min(len(saved["done"]), len(r.done))):
        r.done[i] = saved["done"][i]
        if saved["told"][i]:
            g, value = vector(f"round/{i}"), from_spec(saved["values"][i], "value")
            r.observations[i] = Observation(g, machine.backend.dot(g, g), value)
    # What ended the run is asked again: it goes on with the bits of a run without the failure.
    if r.done[0] and r.observations[0] is None and not r.iterate_evaluated:
        r.done[0] = False
        r.evaluations -= 1
    for c in r.candidates:
        machine.late.pop(c.id, None)
    first = r.observations[0]
    if first is not None and r.is_final:
        machine.record_iterate(first.value, first.gradient)
    elif all(r.done):
        machine.advance()


def _undo_external_stop(machine: RoundMachine) -> bool:
    """Take back an ending from outside, or by a budget that now allows more.

    False if the run remains finished.
    """
    s, criteria, trace = machine.state, machine.settings.criteria, machine.trace
    lasting = {name: value for name, value in s.reasons.items() if name not in EXTERNAL_STOPS}
    budgets = {"maxiter": (criteria.maxiter, s.nit), "max_evals": (criteria.max_evals, s.njev)}
    # A criterion of convergence is no budget: it lasts.
    used = [budgets.get(name, (0, 0)) for name in lasting]
    if all(limit is None or spent < limit for limit, spent in used):
        # What was the final evaluation is slot 0 of the next round.
        s.reasons, s.finished, s.ends_at_iterate = {}, False, False
        if machine.settings.strategy.averages_gradients:  # the final evaluation has one seed, not N
            s.value, s.gradient, s.value_known = math.nan, None, False
    elif s.ends_at_iterate and not s.value_known:  # the final evaluation is still to come
        s.reasons, s.finished = lasting, False
    else:
        return not s.finished
    if len(trace) and trace[-1].iteration == s.nit:
        columns = {name: column[:-1] for name, column in trace.to_arrays().items()}
        machine.trace = Trace.from_arrays(columns)
    return True
