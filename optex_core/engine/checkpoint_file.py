"""File of a saved run, and what makes it a good one.

A save counts as good when all that its header and its settings promise is there, in the right
shapes, dtypes and types. Keys of headers and names of arrays are those of version 1.
"""

from __future__ import annotations

import dataclasses
import math
import os
from typing import Any

import numpy as np

from optex_core.engine.npz_file import Header, read_npz, write_npz
from optex_core.engine.settings_spec import is_spec
from optex_core.engine.state import EngineState
from optex_core.engine.stopping import Criteria, Status
from optex_core.engine.trace import COLUMNS, Trace
from optex_core.errors import DamagedFileError

FORMAT, VERSION = "optex_core run", 1

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
#: What files of earlier versions do not have.
_LATER_KEYS = {"iterate_evaluated"}
_PARTS = ("identity", "seed", "criteria", "hyper", "reasons", "state", "rows", "late", "failed")


def write_checkpoint(path: str | os.PathLike[str], header: Header, arrays: Arrays) -> None:
    """Write what `checkpoint.dump` gave to `path`; see `npz_file.write_npz`."""
    write_npz(path, {**header, "format": FORMAT, "version": VERSION}, arrays)


def read_checkpoint(path: str | os.PathLike[str]) -> tuple[Header, Arrays]:
    """Header and arrays of a good save.

    CheckpointError for a file that is missing or of a later version; `DamagedFileError` for one
    whose header and arrays are not those of a run.
    """
    header, arrays = read_npz(path, format=FORMAT, version=VERSION, parts=_PARTS)
    try:
        wrong = _wrong_part(header, arrays) or _wrong_array(header, arrays)
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        wrong = repr(error)
    if wrong:
        raise DamagedFileError(
            f"{path} is damaged: no run saves such a file ({wrong}); use another file or start anew"
        )
    return header, arrays


def array_group(arrays: Arrays, group: str) -> Arrays:
    """The arrays whose names begin with ``group/``, without that."""
    return {n.removeprefix(f"{group}/"): a for n, a in arrays.items() if n.startswith(f"{group}/")}


def is_like(value: object, default: object) -> bool:
    """True for a JSON value of the type of `default`. A count is not negative, unless its default
    is.
    """
    if type(default) in (bool, str):
        return type(value) is type(default)
    if type(default) is int:
        return _is_count(value, min(default, 0))
    return type(value) in (int, float) or (isinstance(value, dict) and set(value) == {"float"})


def _is_count(value: object, low: int = 0) -> bool:
    return type(value) is int and low <= value < 1 << 63


def _wrong_part(header: Header, arrays: Arrays) -> str:
    """The first part of a header that no run saves, "" if there is none."""
    known, state, r = header["identity"], header["state"], header.get("round")
    defaults = {f.name: f.default for f in dataclasses.fields(EngineState)}
    failed = (0, 0, 0, 0, "", "", 0, False, 0.0)
    sound = {
        "identity": _is_count(known["d"], 1) and known["dtype"] in ("float32", "float64")
        and _is_count(known["parallelism"], 1) and isinstance(known["estimator"], dict)
        and isinstance(known["tag"], str | None) and isinstance(known["backend"], str)
        and is_spec([known["optimizer"], known["strategy"], *known["estimator"].values()])
        and isinstance(known["bounds"], str | None) and isinstance(known["x_scale"], str | None),
        "summaries": all(map(is_spec, header.get("summaries", {}).values())),
        "seed": type(header["seed"]) is int and header["seed"] >= 0,
        "criteria": isinstance(header["criteria"], dict)
        and set(header["criteria"]) <= {f.name for f in dataclasses.fields(Criteria)},
        "hyper": _are_hyperparameters(**header["hyper"]),
        "reasons": set(header["reasons"]) <= {status.key for status in Status},
        "saves": _is_count(header.get("saves", 0)),
        "began": header.get("began") is None or _is_count(header["began"]),
        "overhead": is_like(header["overhead"], 0.0),
        "note": isinstance(header["note"], str),
        "state": set(STATE_KEYS) <= set(state) | _LATER_KEYS
        and all(is_like(value, defaults[STATE_KEYS[key]]) for key, value in state.items()),
        "rows": all(is_like(v, COLUMNS[k]) for row in header["rows"] for k, v in row.items()),
        "late": all(len(c) == 4 and all(map(_is_count, c)) for c in header["late"]),
        "arrivals": _is_count(header["arrivals"]) and header["arrivals"] <= len(arrays),
        "failed": all(
            len(values) in (8, 9) and all(map(is_like, values, failed))
            for values in header["failed"]
        ),
        "round": r is None or (
            set(map(type, r["done"] + r["told"])) <= {bool}
            and len(r["done"]) <= len(r["told"]) == len(r["values"])
            and all(is_like(v, 0.0) or (v is None and not told)
                    for v, told in zip(r["values"], r["told"], strict=True))
            and (r["seconds"] is None or is_like(r["seconds"], 0.0))
            and _is_count(r["evaluations"]) and _is_count(r["opened"])
        ),
    }  # fmt: skip
    return next((name for name, fine in sound.items() if not fine), "")


def _are_hyperparameters(length: Any, noise: Any, curvature: Any, age: object) -> bool:
    """True for finite numbers, and a length whose square is: distances are divided by it."""
    numbers = [n for n in (length, noise, curvature) if type(n) in (int, float)]
    if len(numbers) < 3 or not all(map(math.isfinite, numbers)) or not _is_count(age):
        return False
    return min(numbers[:2]) >= 0 and math.isfinite(numbers[0] * numbers[0])


def _wrong_array(header: Header, arrays: Arrays) -> str:
    """The first array that is missing, too many, of another shape or dtype or not finite, or ""."""
    known, told = header["identity"], (header.get("round") or {}).get("told", ())
    finite = {"x", *(set(VECTOR_KEYS) & set(arrays))}
    finite |= {f"round/{i}" for i, one in enumerate(told) if one}
    vectors = finite | {f"late/{i}" for i in range(len(header["late"]))}
    vectors |= {f"arrival/{i}/{part}" for i in range(header["arrivals"]) for part in "xg"}
    vectors |= {f"failed/{i}" for i in range(len(header["failed"]))}
    vectors |= {"low", "high"} if known["bounds"] is not None else set()
    vectors |= {"scale"} if known["x_scale"] is not None else set()
    for name in sorted(vectors):
        array = arrays.get(name)
        if array is None or array.shape != (known["d"],) or str(array.dtype) != known["dtype"]:
            return name
        if name in finite and not np.isfinite(array).all():
            return f"{name} is not finite"
    leaves = {
        f"{name}/{leaf['array']}"
        for name in TREE_KEYS
        for leaf in header[name]
        if isinstance(leaf, dict) and "array" in leaf
    }
    groups = {name for name in arrays if name.split("/")[0] in ("history", "span", "trace")}
    if wrong := (leaves | vectors | groups) ^ set(arrays):
        return min(wrong)
    Trace.from_arrays(array_group(arrays, "trace"))
    history = array_group(arrays, "history")
    return _wrong_row(history, known["d"], known["estimator"]["history"]) if history else ""


def _wrong_row(history: Arrays, d: int, capacity: int) -> str:
    n, newest, total = len(history["X"]), int(history["newest"]), int(history["total"])
    shapes = {"X": (n, d), "G": (n, d), "newest": (), "total": (), "sizes": (n,), "late": (3, n)}
    for name, array in history.items():
        rows = name in ("X", "G")
        if array.shape != shapes.get(name, (n, n)) or (rows and not np.isfinite(array).all()):
            return f"history/{name}"
    return "" if n <= min(capacity, total) and (n == 0 or -1 <= newest < n) else "history"
