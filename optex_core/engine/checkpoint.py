"""Dump and restore of a run's state as a JSON header and arrays, which `checkpoint_file` keeps.

Only `OptEx.load` makes an engine.
"""

from __future__ import annotations

import dataclasses
import math
import types
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from optex_core._validation import short_repr
from optex_core.backends import get_backend
from optex_core.engine.checkpoint_file import (
    STATE_KEYS,
    TREE_KEYS,
    VECTOR_KEYS,
    Arrays,
    Header,
    array_group,
    is_like,
)
from optex_core.engine.round_machine import RoundMachine
from optex_core.engine.settings import Settings
from optex_core.engine.settings_spec import (
    array_digest,
    compare_specs,
    from_spec,
    to_spec,
    with_defaults,
)
from optex_core.engine.state import EngineState, FailedEvaluation
from optex_core.engine.stopping import Criteria
from optex_core.engine.trace import IterationRecord, Trace
from optex_core.errors import CheckpointError, ProtocolError
from optex_core.model.estimator import GradientEstimator
from optex_core.model.likelihood import Hyperparameters
from optex_core.optimizers._pytree import is_array, tree_leaves, tree_unflatten
from optex_core.strategies._noise import KNOWN_STATUSES, UNKNOWN
from optex_core.strategies.base import Observation
from optex_core.types import Array, Candidate, FirstOrderOptimizer

#: Endings from outside: a run that is continued goes on as if they had not been.
EXTERNAL_STOPS = {"max_time", "callback", "interrupted", "failed", "too_many_failures"}


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


def summaries(machine: RoundMachine) -> dict[str, str]:
    """Short texts of the settings that `fingerprint` holds as digests, for messages."""
    s, host = machine.settings, machine.backend.to_host
    given = {"bounds": (s.low, s.high), "x_scale": (s.scale,)}
    return {
        name: _shorten([host(a) for a in parts if a is not None]) for name, parts in given.items()
    }


def _shorten(arrays: list[np.ndarray]) -> str:
    texts = [np.array2string(a, threshold=6, edgeitems=2, separator=", ") for a in arrays]
    return " to ".join(" ".join(text.split()) for text in texts) or "None"


def check_compatible(machine: RoundMachine, header: Header, path: str) -> None:
    """Refuse a saved run of other settings: the first that differs is named with both values."""
    mine, theirs = fingerprint(machine), dict(header["identity"])
    theirs |= {part: with_defaults(theirs[part]) for part in ("optimizer", "strategy")}
    name = next((name for name, value in mine.items() if value != theirs.get(name)), None)
    if name is None:
        return
    there, here = compare_specs(theirs.get(name), mine[name])
    if name in ("bounds", "x_scale"):
        there = header.get("summaries", {}).get(name, there)
        here = summaries(machine)[name]
        if there == here:  # they differ where the texts are cut
            there, here = (f"{here} (sha256={side[name][:12]})" for side in (theirs, mine))
    raise CheckpointError(
        f"{path} belongs to another run: its {name} is {there}, here it is {here}; use the same"
        " settings, or another checkpoint file"
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
        late += [c for c, done in zip(r.candidates, r.done, strict=True) if not done]
    vectors = {key: getattr(s, name) for key, name in VECTOR_KEYS.items()}
    vectors |= {"low": settings.low, "high": settings.high, "scale": settings.scale}
    vectors |= {f"late/{i}": c.x for i, c in enumerate(late)}
    vectors |= {f"failed/{i}": f.x for i, f in enumerate(machine.failures)}
    for i, (x, g) in enumerate(surrogate.pending):
        vectors |= {f"arrival/{i}/x": x, f"arrival/{i}/g": g}
    header: Header = {
        "identity": fingerprint(machine),
        "summaries": summaries(machine),
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
        _restore_state(machine.state, machine.settings, header, arrays, vector)
        s, surrogate = machine.state, machine.surrogate
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
        machine.failures = [
            _failure(values, vector(f"failed/{i}")) for i, values in enumerate(header["failed"])
        ]
        _restore_round(machine, header.get("round"), vector)
    except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
        if isinstance(error, CheckpointError):
            raise
        raise CheckpointError(
            f"{path} is damaged or was written with other settings ({error})"
        ) from error


def _failure(values: list[Any], x: Array) -> FailedEvaluation:
    id_, iteration, slot, seed, message, traceback, attempt, raised, *value = values
    error = RuntimeError(message) if raised else None
    known = from_spec(value[0], "failures") if value else math.nan
    return FailedEvaluation(
        id_, iteration, slot, seed, x, message, error, traceback, attempt, known
    )  # fmt: skip


def _restore_state(
    s: EngineState,
    settings: Settings,
    header: Header,
    arrays: Arrays,
    vector: Callable[[str], Array],
) -> None:
    for key, value in header["state"].items():
        setattr(s, STATE_KEYS[key], from_spec(value, key))
    for key, name in VECTOR_KEYS.items():
        setattr(s, name, vector(key) if key in arrays else None)
    s.hyperparameters = Hyperparameters(**header["hyper"])
    s.reasons = {name: from_spec(value, name) for name, value in header["reasons"].items()}
    for (key, name), part in zip(TREE_KEYS.items(), ("optimizer", "strategy"), strict=True):
        fresh = getattr(s, name)
        expected = tree_leaves(fresh)
        leaves = [
            vector(f"{key}/{leaf['array']}")
            if isinstance(leaf, dict) and "array" in leaf
            else from_spec(leaf, key)
            for leaf in header[key]
        ]
        if key == "memory":  # what a strategy has learned to remember since has its first value
            leaves += expected[len(leaves) :]
        if _is_own(getattr(settings, part)):  # what a user's state holds may change its kind
            for i, (one, other) in enumerate(zip(leaves, expected, strict=False)):
                if not _is_leaf_like(one, other, fixed=key == "optimizer"):
                    raise ValueError(f"leaf {i} of the state of the {part} is {short_repr(one)}")
        restored = tree_unflatten(fresh, leaves)
        status = getattr(restored, "noise_status", UNKNOWN)
        if _is_own(getattr(settings, part)) and status not in KNOWN_STATUSES:
            raise ValueError(f"the noise status of the {part} is {status}, expected 0, 1 or 2")
        setattr(s, name, restored)


def _is_own(part: object) -> bool:
    """True for an optimizer or a strategy of this library that wraps none of the user's."""
    fields = dataclasses.fields(part) if dataclasses.is_dataclass(part) else ()
    inner = [getattr(part, field.name, None) for field in fields]
    own = type(part).__module__.startswith("optex_core.")
    return own and all(_is_own(one) for one in inner if isinstance(one, FirstOrderOptimizer))


def _is_leaf_like(leaf: object, fresh: object, *, fixed: bool) -> bool:
    """True if `leaf` may stand where a fresh state has `fresh`, which is None where nothing is
    known yet. The arrays of an optimizer, whose shapes are `fixed`, do not come and go.
    """
    shapes = [(a.shape, a.dtype) for a in (leaf, fresh) if is_array(a)]
    if len(shapes) == 2:
        return not fixed or shapes[0] == shapes[1]
    if fresh is None:
        return leaf is None or bool(shapes) or is_like(leaf, 0.0)
    if leaf is None and is_array(fresh):
        return not fixed
    return not shapes and is_like(leaf, fresh)


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
        if machine.averages_gradients:  # the final evaluation has one seed, not N
            machine.reported = s.nit if s.value_known else -1
            s.value, s.gradient, s.value_known = math.nan, None, False
    elif s.ends_at_iterate and not s.value_known:  # the final evaluation is still to come
        s.reasons, s.finished = lasting, False
    else:
        return not s.finished
    if len(trace) and trace.iteration[-1] == s.nit:
        columns = {name: column[:-1] for name, column in trace.to_arrays().items()}
        machine.trace = Trace.from_arrays(columns)
    return True
