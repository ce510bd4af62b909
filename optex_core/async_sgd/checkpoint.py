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
from optex_core.async_sgd.push_log import Accepted, Applied, PushLog, Reader
from optex_core.async_sgd.push_trace import Ledger
from optex_core.async_sgd.records import Context, Job, Lost, Push
from optex_core.async_sgd.workers.burst_runner import Team
from optex_core.engine import npz_file as files
from optex_core.errors import ArgumentError, CheckpointError

FORMAT, VERSION = "optex_core asynchronous run", 1
_RULES = {kind.__name__: kind for kind in (rules.Constant, rules.Decaying, rules.DelayAdaptive)}


# -- settings -------------------------------------------------------------------------------------------------------------------------


def identity(master: Master) -> dict[str, Any]:
    """What must be equal for a saved run to be continued."""
    s = master.settings
    return {
        "d": len(master.x), "dtype": str(master.x.dtype), "step": described(s.step), "batch": s.batch, "max_delay": s.max_delay,
        "on_late": s.on_late, "tag": s.tag,
    }  # fmt: skip


def described(rule: Any) -> Any:
    """A number or a rule as JSON; what a file cannot hold by its name."""
    if type(rule) in _RULES.values():
        return {"kind": type(rule).__name__, "fields": {f.name: described(getattr(rule, f.name)) for f in dataclasses.fields(rule)}}
    return {"callable": getattr(rule, "__qualname__", type(rule).__qualname__)} if callable(rule) else rule


def _rebuilt(described: Any) -> Any:
    if not isinstance(described, dict):
        return described
    if "callable" in described:
        raise CheckpointError(f"the saved run uses the step rule {described['callable']}, which a file cannot hold; pass step= again")
    return _RULES[described["kind"]](**{name: _rebuilt(value) for name, value in described["fields"].items()})


def _made(known: dict[str, Any], seed: int, x0: Any, given: dict[str, Any], path: Any) -> Master:
    """A master with the settings of a file; `given` are those that the caller insists on."""
    for name in given:
        if name not in ("step", "batch", "max_delay", "on_late", "tag"):
            raise ArgumentError(f"{name!r} cannot be passed here; known: step, batch, max_delay, on_late, tag")
    settings = {name: known[name] for name in ("batch", "max_delay", "on_late", "tag")} | {k: v for k, v in given.items() if k != "step"}
    step = given["step"] if "step" in given else _rebuilt(known["step"])
    master = Master(x0, step=step, rng=seed, **settings)
    mine = identity(master)
    for name, value in known.items():
        if mine[name] != value:
            raise CheckpointError(f"{path} was made with {name}={value}, here it is {mine[name]}; leave {name} out to continue it")
    return master


# -- snapshots ------------------------------------------------------------------------------------------------------------------------


def save(master: Master, path: str | os.PathLike[str]) -> None:
    """Write a master to a file; see `Master.save`."""
    s = master.state
    contexts = [dataclasses.asdict(c) for c, _ in s.received.values()]
    header = {
        "format": FORMAT, "version": VERSION, "identity": identity(master), "seed": master.settings.seed, "about": master.about,
        "state": {"version": s.version, "issued": s.issued, "bursts": dict(s.bursts), "counts": dict(s.counts)},
        "received": contexts, "lost": [dataclasses.asdict(lost) for lost in master.lost],
        "pushes": [
            {"gradients": p.gradients, "value": str(p.value), "report": {k: str(v) for k, v in p.report.items()}} for _, p in s.received.values()
        ],
    }  # fmt: skip
    arrays = {"v": s.v, **{f"ledger/{name}": column for name, column in master.ledger.to_arrays().items()}}
    for i, (_, push) in enumerate(s.received.values()):
        arrays[f"push/{i}/b"] = push.b
        if push.a is not None:
            arrays[f"push/{i}/a"] = np.asarray(push.a)
    files.write(path, header, arrays)


def load(path: str | os.PathLike[str], **given: Any) -> Master:
    """The master in a file; see `Master.load`."""
    header, arrays = files.read(path, format=FORMAT, version=VERSION, parts=("identity", "seed", "state", "received", "pushes", "lost"))
    master = _made(header["identity"], header["seed"], arrays["v"], given, path)
    master.about = header.get("about", {})
    s, kept = master.state, header["state"]
    s.version, s.issued = kept["version"], kept["issued"]
    s.bursts = Counter({int(worker): count for worker, count in kept["bursts"].items()})
    s.counts = Counter(kept["counts"])
    for i, (context, told) in enumerate(zip(header["received"], header["pushes"], strict=True)):
        a = arrays.get(f"push/{i}/a")
        report = {k: float(v) for k, v in told["report"].items()}
        push = Push(arrays[f"push/{i}/b"], a if a is None or a.ndim else a[()], told["gradients"], float(told["value"]), report)
        s.received[context["id"]] = Context(**context), push
    master.lost = [Lost(**lost) for lost in header["lost"]]
    master.ledger = Ledger.from_arrays({name.removeprefix("ledger/"): column for name, column in arrays.items() if name.startswith("ledger/")})
    return master


# -- logs -----------------------------------------------------------------------------------------------------------------------------


def begin(master: Master, log: Any) -> PushLog:
    """Start the log of a new master."""
    log = log if isinstance(log, PushLog) else PushLog(log)
    log.begin({"identity": identity(master), "seed": master.settings.seed, "about": master.about}, master.x)
    return log


def resume(path: str | os.PathLike[str], *, sync: bool = False, **given: Any) -> Master:
    """Continue the run in a log; see `Master.resume`."""
    with Reader(path) as reader:
        master = _made(reader.header["identity"], reader.header["seed"], reader.x0, given, path)
        master.about = reader.header.get("about", {})
        _follow(master, reader, None)
        end = reader.end
    log = PushLog(path, sync=sync)
    log.go_on(end)
    master.attach(log)
    return master


def replay(path: str | os.PathLike[str], burst: Callable[..., Any] | None = None, *, until: int | None = None, step: Any = 1.0) -> Master:
    """Apply a log again, in the recorded order with the recorded steps: the same parameters, to the bit.

    Parameters
    ----------
    path : path-like
        The log; only read.
    burst : callable, optional
        Run every burst again, from the version and with the seed it had, in place of the arrays in the log. The same bits again if bursts are
        deterministic functions of (v, version, seed, ctx): not with lock-free cores, whose races no log can hold. Spawned bursts begin anew and see
        the pushed bursts of their worker, not the lost ones.
    until : int, optional
        Updates after which to stop; for a look at an earlier state.
    step : float or callable, default 1.0
        Only what further use of the master would take, where the log holds a rule that no file can hold.

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
    with Reader(path) as reader:
        known = reader.header["identity"]
        try:
            _rebuilt(known["step"])
        except CheckpointError:  # a user's own rule: the log holds what it gave, which is all that is needed
            known = {**known, "step": described(rules.step_rule(step))}
            master = _made(known, reader.header["seed"], reader.x0, {"step": step}, path)
        else:
            master = _made(known, reader.header["seed"], reader.x0, {}, path)
        _follow(master, reader, None if burst is None else Team(burst), until, _uses(path) if burst is not None else None)
    if until is None:
        master.advance()  # a kill between a push and its update leaves the update to those who come after, here as in `resume`
    return master


def _uses(path: str | os.PathLike[str]) -> Counter[int]:
    """How many bursts of a log start from each version."""
    with Reader(path) as reader:
        return Counter(event.context.version for event in reader if isinstance(event, Accepted))


def _follow(master: Master, reader: Reader, team: Team | None, until: int | None = None, uses: Counter[int] | None = None) -> None:
    s = master.state
    past = {0: s.v}
    for event in reader:
        if isinstance(event, Accepted):
            context = event.context
            push = event.push
            if team is not None and uses is not None:
                done = team.perform(Job(past[context.version], context))
                if done.push is None:
                    raise CheckpointError(f"burst {context.id} failed when it was run again: {done.error}") from done.error
                push = done.push
                uses[context.version] -= 1
                for version in [version for version in past if version != s.version and not uses[version]]:
                    del past[version]
            master.take(context, push)
        elif isinstance(event, Applied):
            master.apply_with(event.jobs, event.etas)
            if team is not None:
                past[s.version] = s.v
            if until is not None and s.version >= until:
                return
        else:
            master.take_lost(event)


def existing(path: Any) -> bool:
    """True if there is a log or a file to go on from; one that was cut before its first frame is none."""
    return path is not None and Path(path).exists() and Path(path).stat().st_size > 0
