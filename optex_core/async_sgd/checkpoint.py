"""Runs that go on: a master as a file, from its log, and replayed."""

from __future__ import annotations

import dataclasses
import os
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from optex_core.async_sgd import step_rules as rules
from optex_core.async_sgd.master import Master
from optex_core.async_sgd.push_log import PushLog, PushLogReader, PushRecord, UpdateRecord
from optex_core.async_sgd.push_trace import PushTrace
from optex_core.async_sgd.records import BurstContext, LostBurst, Pull, Push
from optex_core.async_sgd.workers.burst_runner import BurstRunner
from optex_core.engine import npz_file
from optex_core.errors import ArgumentError, CheckpointError

FORMAT, VERSION = "optex_core asynchronous run", 1
# by the names in files
_RULES = {
    "Constant": rules.ConstantStep,
    "Decaying": rules.DecayingStep,
    "DelayAdaptive": rules.DelayAdaptiveStep,
}


# -- settings --------------------------------------------------------------------------------------


def master_fingerprint(master: Master) -> dict[str, Any]:
    """What must be equal for a saved run to be continued."""
    s = master.settings
    return {
        "d": len(master.x), "dtype": str(master.x.dtype), "step": rule_to_spec(s.step), "batch": s.batch, "max_delay": s.max_delay,
        "on_late": s.on_late, "tag": s.tag,
    }  # fmt: skip


def rule_to_spec(rule: Any) -> Any:
    """A number or a rule as JSON; what a file cannot hold by its name."""
    if type(rule) in _RULES.values():
        return {
            "kind": next(name for name, kind in _RULES.items() if type(rule) is kind),
            "fields": {
                f.name: rule_to_spec(getattr(rule, f.name)) for f in dataclasses.fields(rule)
            },
        }
    return (
        {"callable": getattr(rule, "__qualname__", type(rule).__qualname__)}
        if callable(rule)
        else rule
    )


def _rule_from_spec(spec: Any) -> Any:
    if not isinstance(spec, dict):
        return spec
    if "callable" in spec:
        raise CheckpointError(
            f"the saved run uses the step rule {spec['callable']}, which a file cannot "
            f"hold; pass step= again"
        )
    return _RULES[spec["kind"]](
        **{name: _rule_from_spec(value) for name, value in spec["fields"].items()}
    )


def _restore_master(
    known: dict[str, Any], seed: int, x0: Any, given: dict[str, Any], path: Any
) -> Master:
    """A master with the settings of a file; `given` are those that the caller insists on."""
    for name in given:
        if name not in ("step", "batch", "max_delay", "on_late", "tag"):
            raise ArgumentError(
                f"{name!r} cannot be passed here; known: step, batch, max_delay, on_late, tag"
            )
    settings = {name: known[name] for name in ("batch", "max_delay", "on_late", "tag")} | {
        k: v for k, v in given.items() if k != "step"
    }
    step = given["step"] if "step" in given else _rule_from_spec(known["step"])
    master = Master(x0, step=step, rng=seed, **settings)
    mine = master_fingerprint(master)
    for name, value in known.items():
        if mine[name] != value:
            raise CheckpointError(
                f"{path} was made with {name}={value}, here it is {mine[name]}; leave "
                f"{name} out to continue it"
            )
    return master


# -- snapshots -------------------------------------------------------------------------------------


def save(master: Master, path: str | os.PathLike[str]) -> None:
    """Write a master to a file; see `Master.save`."""
    s = master.state
    contexts = [dataclasses.asdict(c) for c, _ in s.received.values()]
    header = {
        "format": FORMAT, "version": VERSION, "identity": master_fingerprint(master), "seed": master.settings.seed, "about": master.metadata,
        "state": {"version": s.version, "issued": s.issued, "bursts": dict(s.bursts), "counts": dict(s.counts)},
        "received": contexts, "lost": [dataclasses.asdict(lost) for lost in master.lost],
        "pushes": [
            {"gradients": p.gradients, "value": str(p.value), "report": {k: str(v) for k, v in p.report.items()}} for _, p in s.received.values()
        ],
    }  # fmt: skip
    arrays = {
        "v": s.v,
        **{f"ledger/{name}": column for name, column in master.push_trace.to_arrays().items()},
    }
    for i, (_, push) in enumerate(s.received.values()):
        arrays[f"push/{i}/b"] = push.b
        if push.a is not None:
            arrays[f"push/{i}/a"] = np.asarray(push.a)
    npz_file.write_npz(path, header, arrays)


def load(path: str | os.PathLike[str], **given: Any) -> Master:
    """The master in a file; see `Master.load`."""
    header, arrays = npz_file.read_npz(
        path,
        format=FORMAT,
        version=VERSION,
        parts=("identity", "seed", "state", "received", "pushes", "lost"),
    )
    master = _restore_master(header["identity"], header["seed"], arrays["v"], given, path)
    master.metadata = header.get("about", {})
    s, kept = master.state, header["state"]
    s.version, s.issued = kept["version"], kept["issued"]
    s.bursts = Counter({int(worker): count for worker, count in kept["bursts"].items()})
    s.counts = Counter(kept["counts"])
    for i, (context, told) in enumerate(zip(header["received"], header["pushes"], strict=True)):
        a = arrays.get(f"push/{i}/a")
        report = {k: float(v) for k, v in told["report"].items()}
        push = Push(
            arrays[f"push/{i}/b"],
            a if a is None or a.ndim else a[()],
            told["gradients"],
            float(told["value"]),
            report,
        )
        s.received[context["id"]] = BurstContext(**context), push
    master.lost = [LostBurst(**lost) for lost in header["lost"]]
    master.push_trace = PushTrace.from_arrays(
        {
            name.removeprefix("ledger/"): column
            for name, column in arrays.items()
            if name.startswith("ledger/")
        }
    )
    return master


# -- logs ------------------------------------------------------------------------------------------


def start_log(master: Master, log: Any) -> PushLog:
    """Start the log of a new master."""
    log = log if isinstance(log, PushLog) else PushLog(log)
    log.create(
        {
            "identity": master_fingerprint(master),
            "seed": master.settings.seed,
            "about": master.metadata,
        },
        master.x,
    )
    return log


def resume(path: str | os.PathLike[str], *, sync: bool = False, **given: Any) -> Master:
    """Continue the run in a log; see `Master.resume`."""
    with PushLogReader(path) as reader:
        master = _restore_master(
            reader.header["identity"], reader.header["seed"], reader.x0, given, path
        )
        master.metadata = reader.header.get("about", {})
        _replay_events(master, reader, None)
        end = reader.end
    log = PushLog(path, sync=sync)
    log.append_to(end)
    master.attach_log(log)
    return master


def replay(
    path: str | os.PathLike[str],
    burst: Callable[..., Any] | None = None,
    *,
    until: int | None = None,
    step: Any = 1.0,
) -> Master:
    """Apply a log again, in the recorded order with the recorded steps: the same parameters, to the
    bit.

    Parameters
    ----------
    path : path-like
        The log; only read.
    burst : callable, optional
        Run every burst again, from the version and with the seed it had, in place of the arrays in
        the log. The same bits again if bursts are deterministic functions of (v, version, seed,
        ctx): not with lock-free cores, whose races no log can hold. Spawned bursts begin anew and
        see the pushed bursts of their worker, not the lost ones.
    until : int, optional
        Updates after which to stop; for a look at an earlier state.
    step : float or callable, default 1.0
        Only what further use of the master would take, where the log holds a rule that no file can
        hold.

    Returns
    -------
    Master
        Without a log.

    Raises
    ------
    CheckpointError
        For a file that is no whole log.

    Examples
    --------
    >>> import os, tempfile
    >>> import numpy as np
    >>> from optex_core.async_sgd import Master, Push, replay, run
    >>> path = os.path.join(tempfile.mkdtemp(), "run.log")
    >>> master = Master(np.ones(3), rng=0, log=path)
    >>> report = run(master, lambda v, version, seed, ctx: Push.steps(0.1 * v), parallelism=3, pushes=20)
    >>> master.close()
    >>> bool(np.array_equal(replay(path).x, master.x))
    True
    """
    with PushLogReader(path) as reader:
        known = reader.header["identity"]
        try:
            _rule_from_spec(known["step"])
        except CheckpointError:
            # a user's own rule: the log holds what it gave, which is all that is needed
            known = {**known, "step": rule_to_spec(rules.as_step_rule(step))}
            master = _restore_master(known, reader.header["seed"], reader.x0, {"step": step}, path)
        else:
            master = _restore_master(known, reader.header["seed"], reader.x0, {}, path)
        _replay_events(
            master,
            reader,
            None if burst is None else BurstRunner(burst),
            until,
            _bursts_per_version(path) if burst is not None else None,
        )
    if until is None:
        # a kill between a push and its update leaves the update to those who come after, here as in
        # `resume`
        master.update()
    return master


def _bursts_per_version(path: str | os.PathLike[str]) -> Counter[int]:
    """How many bursts of a log start from each version."""
    with PushLogReader(path) as reader:
        return Counter(event.context.version for event in reader if isinstance(event, PushRecord))


def _replay_events(
    master: Master,
    reader: PushLogReader,
    runner: BurstRunner | None,
    until: int | None = None,
    uses: Counter[int] | None = None,
) -> None:
    s = master.state
    past = {0: s.v}
    for event in reader:
        if isinstance(event, PushRecord):
            context = event.context
            push = event.push
            if runner is not None and uses is not None:
                done = runner.run(Pull(past[context.version], context))
                if done.push is None:
                    raise CheckpointError(
                        f"burst {context.id} failed when it was run again: {done.error}"
                    ) from done.error
                push = done.push
                uses[context.version] -= 1
                for version in [
                    version for version in past if version != s.version and not uses[version]
                ]:
                    del past[version]
            master.receive(context, push)
        elif isinstance(event, UpdateRecord):
            master.apply_update(event.jobs, event.etas)
            if runner is not None:
                past[s.version] = s.v
            if until is not None and s.version >= until:
                return
        else:
            master.receive_lost(event)


def has_saved_run(path: Any) -> bool:
    """True if there is a log or a file to go on from; one that was cut before its first frame is
    none.
    """
    return path is not None and Path(path).exists() and Path(path).stat().st_size > 0
