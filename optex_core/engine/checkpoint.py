"""Saved runs: arrays plus one JSON header in a .npz, versioned, written to a temporary file, synced
and renamed. No pickle anywhere.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import math
import os
import types
from typing import TYPE_CHECKING, Any

import numpy as np

from optex_core.backends import for_array, get_backend, is_cupy
from optex_core.engine import npz_file
from optex_core.engine.records import FailedEvaluation, IterationRecord
from optex_core.engine.settings import as_criteria
from optex_core.engine.state import RoundState
from optex_core.engine.stopping import Criteria
from optex_core.engine.trace import Trace
from optex_core.errors import CheckpointError
from optex_core.model.estimator import GradientEstimator
from optex_core.model.kernels.base import KERNELS
from optex_core.model.likelihood import Hyperparameters
from optex_core.optimizers._pytree import tree_flatten, tree_unflatten
from optex_core.optimizers.base import OPTIMIZERS, WRAPPERS
from optex_core.optimizers.schedules import SCHEDULES
from optex_core.strategies.base import STRATEGIES, Observation
from optex_core.types import FirstOrderOptimizer

if TYPE_CHECKING:
    from optex_core.engine.optex import OptEx

FORMAT, VERSION = "optex_core run", 1

#: Endings from outside: a run that is continued goes on as if they had not been.
EXTERNAL_STOPS = {"max_time", "callback", "interrupted", "failed", "too_many_failures"}

#: The families whose members a file can hold by name.
REGISTRIES: dict[str, Any] = {
    "optimizer": OPTIMIZERS,
    "wrapper": WRAPPERS,
    "schedule": SCHEDULES,
    "strategy": STRATEGIES,
    "kernel": KERNELS,
}


#: Key in a file -> attribute of `EngineState`, for its numbers.
STATE_KEYS = {
    "fitted": "fitted_rows",
    "nit": "nit",
    "slot": "slot",
    "nsteps": "nsteps",
    "nfev": "nfev",
    "njev": "njev",
    "failures": "failures",
    "value": "value",
    "previous": "previous_value",
    "arrived": "value_known",
    "iterate_evaluated": "iterate_evaluated",
    "best": "best_value",
    "closing": "closing",
    "finished": "finished",
    "deterministic": "deterministic",
}


# -- files -----------------------------------------------------------------------------------------


def write_checkpoint(
    path: str | os.PathLike[str], header: dict[str, Any], arrays: dict[str, np.ndarray]
) -> None:
    """Write header and arrays to `path` atomically; see `npz_file.write_npz`."""
    npz_file.write_npz(path, {**header, "format": FORMAT, "version": VERSION}, arrays)


def read_checkpoint(path: str | os.PathLike[str]) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Header and arrays of a file that `write_checkpoint` wrote; see `npz_file.read_npz` for the
    errors.
    """
    return npz_file.read_npz(
        path, format=FORMAT, version=VERSION, parts=("identity", "seed", "criteria", "state")
    )


# -- settings --------------------------------------------------------------------------------------


def to_spec(part: Any, within: tuple[Any, ...] = ()) -> Any:
    """A part of the settings as JSON: registered classes by family, name and fields; what a file
    cannot give back as ``{"opaque": type, ...}``.

    What is opaque is told apart all the same: arrays by a digest of dtype, shape and bytes,
    functions by their qualified name, other objects by their fields or attributes. `within` holds
    the objects around it: one that holds itself ends there.
    """
    if part is None or isinstance(part, (bool, int, str)):
        return part
    if isinstance(part, (np.integer, np.bool_)):
        return part.item()
    if isinstance(part, (float, np.floating)):
        return float(part) if math.isfinite(part) else {"float": str(float(part))}
    opaque: dict[str, Any] = {"opaque": f"{type(part).__module__}.{type(part).__qualname__}"}
    if any(part is a for a in within):
        return opaque
    if isinstance(part, (list, tuple)):
        return [to_spec(p, (*within, part)) for p in part]
    if isinstance(part, np.ndarray) or is_cupy(part):
        return opaque | _array_digest(part, within)
    if isinstance(part, types.ModuleType):
        return opaque | {"named": part.__name__}
    around, within = within, (*within, part)
    # a class, a function or a method; its module may be __main__ today and another one tomorrow
    if hasattr(part, "__qualname__"):
        owner = (
            {"fields": {"self": to_spec(part.__self__, within)}}
            if isinstance(part, types.MethodType)
            else {}
        )
        # All lambdas are called the same, but for the function they stand in: a script that was
        # moved into its main() may go on.
        return (
            opaque
            | {"named": "<lambda>" if part.__name__ == "<lambda>" else part.__qualname__}
            | owner
        )
    if dataclasses.is_dataclass(part):
        for family, registry in REGISTRIES.items():
            name = getattr(part, "name", None)
            if isinstance(name, str) and name in registry and registry[name] is type(part):
                return {
                    "family": family,
                    "name": name,
                    # What only says who computes, such as a pool, is not what is computed: a run
                    # may go on with another one.
                    "fields": {
                        f.name: to_spec(getattr(part, f.name), within)
                        for f in dataclasses.fields(part)
                        if f.init and not f.metadata.get("runtime")
                    },
                }
    # What a user's object holds besides settings, such as a logger or a pool, changes while it runs
    # and holds half the world.
    if (
        any(_is_opaque_object(a) for a in around)
        and _is_opaque_object(part)
        and not callable(part)
        and not isinstance(part, FirstOrderOptimizer)
    ):
        return opaque
    return opaque | {
        "fields": {name: to_spec(value, within) for name, value in _object_fields(part).items()}
    }


def _is_opaque_object(part: Any) -> bool:
    """True for an object of which nothing is known."""
    return not dataclasses.is_dataclass(part) and not isinstance(
        part, (list, tuple, dict, functools.partial, types.MethodType)
    )


def _array_digest(array: Any, within: tuple[Any, ...]) -> dict[str, Any]:
    host = for_array(array).to_host(array)
    if host.dtype.hasobject:  # its bytes are addresses
        return {"fields": {"values": to_spec(host.tolist(), (*within, array))}}
    digest = hashlib.sha256(f"{host.dtype.str} {host.shape} ".encode())
    digest.update(np.ascontiguousarray(host).tobytes())
    return {"digest": digest.hexdigest()}


def _object_fields(part: Any) -> dict[str, Any]:
    """What tells two objects of one type apart: the entries of a dict, the arguments of a partial,
    fields, attributes, slots.
    """
    if isinstance(part, dict):
        return {str(key): value for key, value in part.items()}
    if isinstance(part, functools.partial):
        return {"func": part.func, "args": part.args, "keywords": part.keywords}
    if dataclasses.is_dataclass(part):
        return {f.name: getattr(part, f.name) for f in dataclasses.fields(part)}
    held = dict(getattr(part, "__dict__", {}))
    for kind in type(part).__mro__:
        slots = vars(kind).get("__slots__", ())
        for name in (slots,) if isinstance(slots, str) else slots:
            if hasattr(part, name) and not name.startswith("__"):
                held[name] = getattr(part, name)
    # A cache may be filled in one run and not yet in the other.
    return {
        name: value
        for name, value in held.items()
        if not isinstance(getattr(type(part), name, None), functools.cached_property)
    }


def from_spec(described: Any, what: str) -> Any:
    """The inverse of `to_spec`; an opaque part raises, naming `what` has to be passed again."""
    if isinstance(described, list):
        return [from_spec(d, what) for d in described]
    if not isinstance(described, dict):
        return described
    if "float" in described:
        return float(described["float"])
    if "opaque" in described:
        name = (
            f"{described['named']} ({described['opaque']})"
            if "named" in described
            else described["opaque"]
        )
        raise CheckpointError(
            f"the saved run uses {name} in its {what}, which a file cannot hold; pass {what}= again"
        )
    try:
        kind: Any = REGISTRIES[described["family"]][described["name"]]
    except (KeyError, ValueError) as error:
        what = f"{described['family']} {described['name']!r}"
        raise CheckpointError(
            f"the saved run uses the {what}, which is not registered here; import its module first"
        ) from error
    return kind(**{name: from_spec(value, what) for name, value in described["fields"].items()})


def fingerprint(engine: OptEx) -> dict[str, Any]:
    """What must be equal for a saved run to be continued: everything but the stopping criteria."""
    s = engine.settings
    estimator = {
        f.name: to_spec(getattr(s.estimator, f.name)) for f in dataclasses.fields(s.estimator)
    }
    return {
        "d": len(engine.state.x),
        "dtype": str(engine.state.x.dtype),
        "backend": engine.backend.name,
        "parallelism": s.parallelism,
        "optimizer": to_spec(s.optimizer),
        "strategy": to_spec(s.strategy),
        "estimator": estimator,
        "bounds": _digest(engine, s.low, s.high),
        "x_scale": _digest(engine, s.scale),
        "tag": s.tag,
    }


def _digest(engine: OptEx, *arrays: Any) -> str | None:
    if arrays[0] is None:
        return None
    digest = hashlib.sha256()
    for a in arrays:
        digest.update(np.ascontiguousarray(engine.backend.to_host(a)).tobytes())
    return digest.hexdigest()


# -- engines ---------------------------------------------------------------------------------------


def save_engine(engine: OptEx, path: str | os.PathLike[str]) -> None:
    """Write `engine` to `path`; see `OptEx.save`."""
    write_checkpoint(path, *dump_engine(engine))


def dump_engine(engine: OptEx) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """The engine as a JSON header and arrays."""
    s, host = engine.state, engine.backend.to_host
    arrays: dict[str, np.ndarray] = {"x": host(s.x)}
    header: dict[str, Any] = {
        "identity": fingerprint(engine),
        "seed": engine.settings.seed,
        "criteria": {
            name: to_spec(value)
            for name, value in dataclasses.asdict(engine.settings.criteria).items()
        },
        "hyper": dataclasses.asdict(s.hyperparameters),
        "reasons": {name: to_spec(value) for name, value in s.reasons.items()},
        "saves": engine.saves,
        "began": engine.x0_checksum,
        "overhead": engine.machine.surrogate.overhead,
        "note": engine.machine.surrogate.note,
    }
    header["state"] = {key: to_spec(getattr(s, name)) for key, name in STATE_KEYS.items()}
    bounds = (("low", engine.settings.low), ("high", engine.settings.high))
    for name, array in (
        ("gradient", s.gradient),
        ("best_x", s.best_x),
        ("origin", s.iteration_start),
        *bounds,
    ):
        if array is not None:
            arrays[name] = host(array)
    if engine.settings.scale is not None:
        arrays["scale"] = host(engine.settings.scale)
    for name, tree in (("optimizer", s.optimizer_state), ("memory", s.strategy_state)):
        leaves, _ = tree_flatten(tree)
        header[name] = []
        for i, leaf in enumerate(leaves):
            if hasattr(leaf, "shape"):
                arrays[f"{name}/{i}"] = host(leaf)
                header[name].append({"array": i})
            else:
                header[name].append(to_spec(leaf))
    if engine.machine.surrogate.history is not None:
        for name, part in engine.machine.surrogate.history.dump().items():
            arrays[f"history/{name}"] = np.asarray(part)
    if engine.machine.surrogate.tracker is not None:
        for name, part in engine.machine.surrogate.tracker.dump(s.x, s.optimizer_state).items():
            arrays[f"span/{name}"] = part
    for name, column in engine.trace.to_arrays().items():
        arrays[f"trace/{name}"] = column
    header["rows"] = [
        {k: to_spec(v) for k, v in dataclasses.asdict(row).items()} for row in engine.machine.rows
    ]
    if engine.round is not None:
        r = engine.round
        header["round"] = {
            "done": r.done,
            "told": [t is not None for t in r.observations],
            "seconds": to_spec(r.seconds),
            "evaluations": r.evaluations,
            "opened": r.evaluations_at_open,
        }
        header["round"]["values"] = [
            to_spec(t.value) if t is not None else None for t in r.observations
        ]
        for i, told in enumerate(r.observations):
            if told is not None:
                arrays[f"round/{i}"] = host(told.gradient)
    late = list(engine.late.values())
    # what the finished run did not wait for stays tellable
    if engine.round is not None and s.finished:
        late += [
            c
            for c, told in zip(engine.round.candidates, engine.round.done, strict=True)
            if not told
        ]
    header["late"] = [[c.id, c.seed, c.iteration, c.slot] for c in late]
    for i, c in enumerate(late):
        arrays[f"late/{i}"] = host(c.x)
    for i, (x, g) in enumerate(engine.machine.surrogate.pending):
        arrays[f"arrival/{i}/x"], arrays[f"arrival/{i}/g"] = host(x), host(g)
    header["arrivals"] = len(engine.machine.surrogate.pending)
    header["failed"] = [
        [
            f.id,
            f.iteration,
            f.slot,
            f.seed,
            f.message,
            f.traceback,
            f.attempt,
            f.error is not None,
            to_spec(f.value),
        ]
        for f in engine.failures
    ]
    for i, f in enumerate(engine.failures):
        arrays[f"failed/{i}"] = host(f.x)
    return header, arrays


def load_engine(
    kind: type[OptEx],
    path: str | os.PathLike[str],
    *,
    optimizer: Any,
    strategy: Any,
    estimator: GradientEstimator | None,
    criteria: dict[str, Any],
) -> OptEx:
    """The engine saved in `path`; see `OptEx.load`."""
    header, arrays = read_checkpoint(path)
    known = header["identity"]
    if estimator is None:
        parts = {name: from_spec(value, "estimator") for name, value in known["estimator"].items()}
        estimator = GradientEstimator(**parts)
    given = {
        **{name: from_spec(value, name) for name, value in header["criteria"].items()},
        **specified_criteria(criteria),
    }
    backend = get_backend(known["backend"])
    x = backend.copy_in(arrays["x"], arrays["x"].dtype)
    engine = kind(
        x,
        optimizer=from_spec(known["optimizer"], "optimizer") if optimizer is None else optimizer,
        parallelism=known["parallelism"],
        strategy=from_spec(known["strategy"], "strategy") if strategy is None else strategy,
        estimator=estimator,
        backend=backend,
        bounds=types.SimpleNamespace(lb=arrays["low"], ub=arrays["high"])
        if "low" in arrays
        else None,
        x_scale=arrays.get("scale"),
        rng=header["seed"],
        tag=known["tag"],
        **given,
    )
    restore_engine(engine, header, arrays, str(path))
    engine.saves = 0  # the journal beside the file is not that of this engine
    return engine


def specified_criteria(criteria: dict[str, Any]) -> dict[str, Any]:
    """The criteria that are not None, names checked."""
    return {
        name: value
        for name, value in dataclasses.asdict(as_criteria(**criteria)).items()
        if value is not None
    }


def check_compatible(engine: OptEx, header: dict[str, Any], path: str) -> None:
    """Refuse a saved run of other settings, size, dtype or tag, naming the first difference."""
    mine, theirs = fingerprint(engine), header["identity"]
    for name, value in mine.items():
        if value != theirs.get(name):
            there, here = _short_difference(theirs.get(name), value)
            raise CheckpointError(
                f"{path} belongs to another run: its {name} is {there}, here it is "
                f"{here}; use the same settings, or another checkpoint file"
            )


def restore_engine(
    engine: OptEx, header: dict[str, Any], arrays: dict[str, np.ndarray], path: str
) -> None:
    """Put a saved state into a fresh `engine` of equal settings; a run that only its budget had
    ended is opened again if the budget now allows.
    """
    check_compatible(engine, header, path)
    s, backend = engine.state, engine.backend

    def take(name: str) -> Any:
        return backend.copy_in(arrays[name], arrays[name].dtype)

    try:
        for key, value in header["state"].items():
            setattr(s, STATE_KEYS[key], from_spec(value, key))
        s.x = take("x")
        s.gradient = take("gradient") if "gradient" in arrays else None
        s.best_x = take("best_x") if "best_x" in arrays else None
        s.iteration_start = take("origin") if "origin" in arrays else None
        for name in ("optimizer", "memory"):
            leaves = [
                take(f"{name}/{leaf['array']}")
                if isinstance(leaf, dict) and "array" in leaf
                else from_spec(leaf, name)
                for leaf in header[name]
            ]
            attribute = {"optimizer": "optimizer_state", "memory": "strategy_state"}[name]
            fresh = getattr(s, attribute)
            # what a strategy has learned to remember since the file was written has its first value
            if name == "memory":
                leaves += tree_flatten(fresh)[0][len(leaves) :]
            setattr(s, attribute, tree_unflatten(fresh, leaves))
        s.hyperparameters = Hyperparameters(**header["hyper"])
        s.reasons = {name: from_spec(value, name) for name, value in header["reasons"].items()}
        engine.machine.surrogate.overhead, engine.machine.surrogate.note, engine.saves = (
            header["overhead"],
            header["note"],
            header["saves"],
        )
        engine.x0_checksum = header.get("began", engine.x0_checksum)
        if engine.machine.surrogate.history is not None:
            engine.machine.surrogate.history.restore(
                {
                    n.removeprefix("history/"): a
                    for n, a in arrays.items()
                    if n.startswith("history/")
                }
            )
        if engine.machine.surrogate.tracker is not None:
            engine.machine.surrogate.tracker.restore(
                {n.removeprefix("span/"): a for n, a in arrays.items() if n.startswith("span/")},
                s.x,
                s.optimizer_state,
            )
        engine.machine.trace = Trace.from_arrays(
            {n.removeprefix("trace/"): a for n, a in arrays.items() if n.startswith("trace/")}
        )
        engine.machine.rows = [
            IterationRecord(**{k: from_spec(v, k) for k, v in row.items()})
            for row in header["rows"]
        ]
        engine.machine.late = {}
        for i, (id_, seed, iteration, slot) in enumerate(header["late"]):
            c = engine.machine.make_candidate(take(f"late/{i}"), 0)
            engine.late[id_] = dataclasses.replace(
                c, id=id_, seed=seed, iteration=iteration, slot=slot
            )
        engine.machine.surrogate.pending = [
            (take(f"arrival/{i}/x"), take(f"arrival/{i}/g")) for i in range(header["arrivals"])
        ]
        engine.machine.failures = [
            FailedEvaluation(
                id_,
                iteration,
                slot,
                seed,
                take(f"failed/{i}"),
                message,
                RuntimeError(message) if raised else None,
                text,
                attempt,
                from_spec(value[0], "failures") if value else math.nan,
            )
            for i, (
                id_,
                iteration,
                slot,
                seed,
                message,
                text,
                attempt,
                raised,
                *value,
            ) in enumerate(header["failed"])
        ]
        _restore_round(engine, header.get("round"), take)
    except (KeyError, TypeError, ValueError, IndexError) as error:
        if isinstance(error, CheckpointError):
            raise
        raise CheckpointError(
            f"{path} is damaged or was written with other settings ({error})"
        ) from error


def _restore_round(engine: OptEx, saved: dict[str, Any] | None, take: Any) -> None:
    """Plan the round that was open anew (same state, same bits) and put back what had been told of
    it.
    """
    s = engine.state
    if (s.finished or s.closing) and not _undo_external_stop(engine):
        return
    if saved is None:
        return
    done, told = saved["done"], saved["told"]
    engine.machine.advance(
        saved["opened"]
    )  # the budget cuts the round as it did when it was opened
    r: RoundState | None = engine.round
    if r is None:
        return
    r.seconds, r.evaluations = from_spec(saved["seconds"], "seconds"), saved["evaluations"]
    for i in range(min(len(done), len(r.done))):
        r.done[i] = done[i]
        if told[i]:
            gradient = take(f"round/{i}")
            r.observations[i] = Observation(
                gradient,
                engine.backend.dot(gradient, gradient),
                from_spec(saved["values"][i], "value"),
            )
    # what ended the run is asked again: continued runs have the bits of a run without the failure
    if r.done[0] and r.observations[0] is None and not r.iterate_evaluated:
        r.done[0] = False
        r.evaluations -= 1
    for c in r.candidates:
        engine.late.pop(c.id, None)
    first = r.observations[0]
    if first is not None and r.closing:
        engine.machine.arrive(first.value, first.gradient)
    elif all(r.done):
        engine.machine.advance()


def _undo_external_stop(engine: OptEx) -> bool:
    """Take back an ending from outside, or by a budget that now allows more; False if the run
    remains finished.
    """
    s, criteria = engine.state, engine.settings.criteria
    lasting = {name: value for name, value in s.reasons.items() if name not in EXTERNAL_STOPS}
    if set(lasting) <= {"maxiter", "max_evals"} and not _budget_exhausted(
        lasting, criteria, s.nit, s.njev
    ):
        # What was the closing point is slot 0 of the next round.
        s.reasons, s.finished, s.closing = {}, False, False
        # the closing point has one seed, a round N of them
        if engine.settings.strategy.averages_gradients:
            s.value, s.gradient, s.value_known = math.nan, None, False
    elif s.closing and not s.value_known:  # the closing point is still to be evaluated
        s.reasons, s.finished = lasting, False
    else:
        return not s.finished
    if len(engine.trace) and engine.trace.iteration[-1] == s.nit:
        engine.machine.trace = Trace.from_arrays(
            {name: column[:-1] for name, column in engine.trace.to_arrays().items()}
        )
    return True


def _budget_exhausted(reasons: dict[str, Any], criteria: Criteria, nit: int, njev: int) -> bool:
    """True if one of the budgets that ended the run still holds."""
    if "maxiter" in reasons and criteria.maxiter is not None and nit >= criteria.maxiter:
        return True
    return "max_evals" in reasons and criteria.max_evals is not None and njev >= criteria.max_evals


def _short_difference(one: Any, other: Any) -> tuple[str, str]:
    """Two unequal parts as short texts that differ; long ones from where they begin to, on."""
    texts = json.dumps(one), json.dumps(other)
    same = len(os.path.commonprefix(texts))
    first = 0 if same < 90 else same - 40
    left, right = ((("..." if first else "") + text[first:]) for text in texts)
    return left if len(left) <= 100 else left[:97] + "...", right if len(right) <= 100 else right[
        :97
    ] + "..."
