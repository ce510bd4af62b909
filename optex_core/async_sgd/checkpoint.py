"""Saved masters: state to file and back, from a snapshot or from a push log."""

from __future__ import annotations

import dataclasses
import os
from collections import Counter
from collections.abc import Iterable
from typing import Any

import numpy as np

from optex_core.async_sgd.push_log import (
    LogRecord,
    PushLogReader,
    PushRecord,
    UpdateRecord,
)
from optex_core.async_sgd.records import BurstContext, LostBurst, Push, PushTrace
from optex_core.async_sgd.state import MasterSettings, MasterState
from optex_core.engine.npz_file import read_npz, write_npz
from optex_core.engine.settings_spec import compare_specs, from_spec, to_spec
from optex_core.errors import ArgumentError, CheckpointError

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
    kept, v = header["state"], arrays["v"]
    v.flags.writeable = False
    state = MasterState(v, kept["version"], kept["issued"])
    state.bursts = Counter({int(worker): n for worker, n in kept["bursts"].items()})
    state.counts = Counter(kept["counts"])
    pairs = zip(header["received"], header["pushes"], strict=True)
    for i, (context, saved) in enumerate(pairs):
        a = arrays.get(f"push/{i}/a")
        push = Push(
            arrays[f"push/{i}/b"],
            a[()] if a is not None and a.ndim == 0 else a,
            saved["gradients"],
            float(saved["value"]),
            {k: float(v) for k, v in saved["report"].items()},
        )
        state.received[context["id"]] = BurstContext.from_record(context, header["seed"]), push
    for lost in header["lost"]:
        state.record_lost(LostBurst.from_record(lost))
    state.parts = kept.get("parts", state.issued)  # in earlier files a part was an id
    state.returned = sorted(kept.get("returned", ()))
    columns = {k.removeprefix("ledger/"): a for k, a in arrays.items() if k.startswith("ledger/")}
    state.push_trace = PushTrace.from_arrays(columns)
    state.metadata = dict(header.get("about", {}))
    return SavedMaster(os.fspath(path), header["seed"], _fingerprint(header), state)


def _fingerprint(header: dict[str, Any]) -> dict[str, Any]:
    """The fingerprint of a header, with the step rule as `to_spec` writes it today."""

    def rule(spec: Any) -> Any:
        if isinstance(spec, dict) and "callable" in spec:
            return {"opaque": "builtins.function", "named": spec["callable"]}
        if isinstance(spec, dict) and "kind" in spec:
            fields = {name: rule(value) for name, value in spec["fields"].items()}
            return {"family": "step_rule", "name": _FORMER_RULES[spec["kind"]], "fields": fields}
        return spec

    identity: dict[str, Any] = header["identity"]
    return {**identity, "step": rule(identity["step"])}


def is_opaque(spec: object) -> bool:
    """True for a step rule that no file can hold."""
    return isinstance(spec, dict) and "opaque" in spec


def logged_start(reader: PushLogReader) -> SavedMaster:
    """The master at the beginning of a push log."""
    header, state = reader.header, MasterState(reader.x0)
    state.v.flags.writeable = False
    state.metadata = dict(header.get("about", {}))
    return SavedMaster(str(reader.path), header["seed"], _fingerprint(header), state)


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
