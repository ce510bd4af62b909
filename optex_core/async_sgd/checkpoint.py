"""Saved masters: state to file and back, from a snapshot or from a push log."""

from __future__ import annotations

import dataclasses
import os
from collections import Counter
from collections.abc import Iterable
from typing import Any

import numpy as np

from optex_core.async_sgd.push_log import LogRecord, PushLogReader, PushRecord, UpdateRecord
from optex_core.async_sgd.records import BurstContext, LostBurst, Push, PushTrace
from optex_core.async_sgd.state import MasterSettings, MasterState
from optex_core.engine.npz_file import read_npz, write_npz
from optex_core.engine.settings_spec import compare_specs, from_spec, to_spec
from optex_core.errors import ArgumentError, CheckpointError, DamagedFileError
from optex_core.types import Array

FORMAT, VERSION = "optex_core asynchronous run", 2
#: Settings that `Master.load` and `Master.resume` take.
ARGUMENTS = ("step", "batch", "max_delay", "on_late", "tag")
#: Names of step rules in files of earlier versions.
_FORMER_RULES = {"Constant": "constant", "Decaying": "decaying", "DelayAdaptive": "delay_adaptive"}


@dataclasses.dataclass(frozen=True, slots=True)
class SavedMaster:
    """A master as a file holds it; `fingerprint` is `master_fingerprint` of its settings."""

    path: str
    seed: int
    fingerprint: dict[str, object]
    state: MasterState

    def arguments(self, given: dict[str, Any]) -> dict[str, Any]:
        """Keyword arguments of a `Master` with these settings; `given` ones take precedence."""
        for name in given:
            if name not in ARGUMENTS:
                known = ", ".join(ARGUMENTS)
                raise ArgumentError(f"{name!r} cannot be passed here; known: {known}")
        settings = {name: self.fingerprint[name] for name in ARGUMENTS if name != "step"} | given
        if "step" not in given:
            settings["step"] = from_spec(self.fingerprint["step"], "step")
        return settings

    def check_settings(self, settings: MasterSettings) -> None:
        """Refuse settings that differ from those of the file, naming the first difference."""
        mine = master_fingerprint(settings, self.state)
        for name, value in self.fingerprint.items():
            if mine[name] != value:
                there, here = compare_specs(value, mine[name])
                raise CheckpointError(
                    f"{self.path} was made with {name}={there}, here it is {here}; leave {name} "
                    "out to continue it"
                )


def master_fingerprint(settings: MasterSettings, state: MasterState) -> dict[str, object]:
    """Settings that must be equal for a saved run to be continued, as JSON."""
    values = {name: getattr(settings, name) for name in ARGUMENTS}
    values["step"] = to_spec(settings.step)
    return {"d": len(state.v), "dtype": str(state.v.dtype), **values}


def log_header(settings: MasterSettings, state: MasterState) -> dict[str, object]:
    """The description of a run at the beginning of its log."""
    identity = master_fingerprint(settings, state)
    return {"identity": identity, "seed": settings.seed, "about": state.metadata}


def save_state(path: str | os.PathLike[str], settings: MasterSettings, state: MasterState) -> None:
    """Write a master to a file, atomically; see `Master.save`."""
    s = state
    received = list(s.received.values())
    header = {
        "format": FORMAT,
        "version": VERSION,
        **log_header(settings, state),
        "state": {
            **{name: getattr(s, name) for name in ("version", "issued", "bursts", "counts")},
            "parts": s.parts,
            "returned": sorted([*s.returned, *(context.part for context in s.open.values())]),
        },
        "received": [context.to_record() for context, _ in received],
        "lost": [lost.to_record() for lost in s.lost],
        "pushes": [
            {
                "gradients": p.gradients,
                "value": str(p.value),
                "report": {k: str(v) for k, v in p.report.items()},
            }
            for _, p in received
        ],
    }
    arrays = {"v": s.v, **{f"ledger/{k}": column for k, column in s.push_trace.to_arrays().items()}}
    for i, (_, push) in enumerate(received):
        arrays[f"push/{i}/b"] = push.b
        if push.a is not None:
            arrays[f"push/{i}/a"] = np.asarray(push.a)
    write_npz(path, header, arrays)


def load_state(path: str | os.PathLike[str]) -> SavedMaster:
    """The master in a file that `save_state` wrote; see `Master.load`."""
    parts = ("identity", "seed", "state", "received", "pushes", "lost")
    header, arrays = read_npz(path, format=FORMAT, version=VERSION, parts=parts)
    try:
        return _decode(path, header, arrays)
    # A file that another program has written may hold anything in any place.
    except (KeyError, IndexError, TypeError, ValueError, AttributeError, OverflowError) as error:
        if isinstance(error, CheckpointError):
            raise
        raise DamagedFileError(
            f"{path} is damaged ({type(error).__name__}: {error}); use another file or start anew"
        ) from error


def _decode(
    path: str | os.PathLike[str], header: dict[str, Any], arrays: dict[str, np.ndarray]
) -> SavedMaster:
    fingerprint, kept = _fingerprint(header), header["state"]
    v = _checked_array(arrays["v"], fingerprint)
    v.flags.writeable = False
    state = MasterState(v, _count(kept["version"]), _count(kept["issued"]))
    state.bursts = Counter({int(worker): _count(n) for worker, n in kept["bursts"].items()})
    state.counts = Counter({str(kind): _count(n) for kind, n in kept["counts"].items()})
    pairs = zip(header["received"], header["pushes"], strict=True)
    for i, (context, saved) in enumerate(pairs):
        a: Any = arrays.get(f"push/{i}/a")
        if a is not None:
            a = a[()] if a.ndim == 0 else _checked_array(a, fingerprint)
        push = Push(
            _checked_array(arrays[f"push/{i}/b"], fingerprint),
            a,
            _count(saved["gradients"]),
            float(saved["value"]),
            {k: float(v) for k, v in saved["report"].items()},
        )
        state.received[context["id"]] = BurstContext.from_record(context, header["seed"]), push
    for lost in header["lost"]:
        state.record_lost(LostBurst.from_record(lost))
    state.parts = _count(kept.get("parts", state.issued))  # in earlier files a part was an id
    state.returned = sorted(map(_count, kept.get("returned", ())))
    if any(part >= state.parts for part in state.returned):
        raise ValueError("parts came back that were never handed out")
    columns = {k.removeprefix("ledger/"): a for k, a in arrays.items() if k.startswith("ledger/")}
    state.push_trace = PushTrace.from_arrays(columns)
    applied = state.counts["applied"]
    if {column.shape for column in columns.values()} != {(applied,)} or state.version > applied:
        raise ValueError("the push trace does not hold the pushes applied")
    state.metadata = dict(header.get("about", {}))
    return SavedMaster(os.fspath(path), header["seed"], fingerprint, state)


def _fingerprint(header: dict[str, Any]) -> dict[str, Any]:
    """The checked fingerprint of a header, with the step rule as `to_spec` writes it today."""

    def rule(spec: Any) -> Any:
        if isinstance(spec, dict) and "callable" in spec:
            return {"opaque": "builtins.function", "named": spec["callable"]}
        if isinstance(spec, dict) and "kind" in spec:
            fields = {name: rule(value) for name, value in spec["fields"].items()}
            return {"family": "step_rule", "name": _FORMER_RULES[spec["kind"]], "fields": fields}
        return spec

    step = rule(header["identity"]["step"])
    fingerprint = {**header["identity"], "step": step}
    known = 1.0 if is_opaque(step) else from_spec(step, "step")
    settings = {name: fingerprint[name] for name in ARGUMENTS} | {"step": known}
    seed = header["seed"]
    if type(seed) is not int or seed < 0:
        raise ValueError(f"the seed {seed!r:.40}")
    MasterSettings.checked(rng=seed, **settings)
    return fingerprint


def is_opaque(spec: object) -> bool:
    """True for a step rule that no file can hold."""
    return isinstance(spec, dict) and "opaque" in spec


def _checked_array(array: Array, fingerprint: dict[str, object]) -> Array:
    expected = (fingerprint["d"],), fingerprint["dtype"]
    if (array.shape, str(array.dtype)) != expected:
        raise ValueError(
            f"expected an array of shape {expected[0]} and type {expected[1]}, got {array.shape} "
            f"and {array.dtype}"
        )
    if not np.isfinite(array).all():
        raise ValueError("an array holds numbers that are not finite")
    return array


def _count(value: object) -> int:
    if type(value) is not int or not 0 <= value < 1 << 63:
        raise ValueError(f"expected a count, got {value!r:.40}")
    return value


def logged_start(reader: PushLogReader) -> SavedMaster:
    """The master at the beginning of a push log."""
    header = reader.header
    try:
        fingerprint = _fingerprint(header)
        state = MasterState(_checked_array(reader.x0, fingerprint))
        state.v.flags.writeable = False
        state.metadata = dict(header.get("about", {}))
        return SavedMaster(str(reader.path), header["seed"], fingerprint, state)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DamagedFileError(
            f"{reader.path} is damaged ({type(error).__name__}: {error}); start anew"
        ) from error


def apply_records(
    saved: SavedMaster, records: Iterable[LogRecord], until: int | None = None
) -> None:
    """Apply the records of a log to a state, up to the version `until`.

    CheckpointError for one that does not follow from those before it: a frame that is written
    twice, left out or out of order has a right checksum.
    """
    state, pushed = saved.state, set()
    for i, record in enumerate(records):
        try:
            if isinstance(record, PushRecord):
                if record.context.id in pushed:
                    raise ValueError(f"burst {record.context.id} has been pushed before")
                pushed.add(record.context.id)
                state.receive(record.context, record.push)
            elif isinstance(record, UpdateRecord):
                state.apply(record.ids, record.etas)
            else:
                state.lose(record)
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise CheckpointError(
                f"{saved.path} is damaged: its record {i} does not follow from those before it "
                f"({type(error).__name__}: {error}); replay(path, until=...) gives the parameters "
                "of an update before that"
            ) from error
        if until is not None and isinstance(record, UpdateRecord) and state.version >= until:
            return
