"""Settings as JSON: the spec of an optimizer, a strategy or a step rule, its inverse, and what
differs between two specs.

=================================  ============================================================
``{"family", "name", "fields"}``   a dataclass of a registry: made again by `from_spec`
``{"opaque", ...}``                what a file cannot give back, told apart all the same: arrays
                                   by a digest of dtype, shape and bytes, functions by their
                                   qualified name, other objects by their fields or attributes
``{"float": text}``                inf and nan
=================================  ============================================================
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import math
import os
import types
from collections.abc import Mapping
from typing import Any

import numpy as np

from optex_core.backends import for_array, is_cupy
from optex_core.errors import CheckpointError
from optex_core.model.kernels.base import KERNELS
from optex_core.optimizers.base import OPTIMIZERS, WRAPPERS
from optex_core.optimizers.schedules import SCHEDULES
from optex_core.strategies.base import STRATEGIES
from optex_core.types import FirstOrderOptimizer

#: Family -> registry: name -> class.
Registries = Mapping[str, Mapping[str, Any]]

#: The families of settings; `async_sgd` adds its own.
REGISTRIES: dict[str, Mapping[str, object]] = {
    "optimizer": OPTIMIZERS,
    "wrapper": WRAPPERS,
    "schedule": SCHEDULES,
    "strategy": STRATEGIES,
    "kernel": KERNELS,
}
#: Characters of a value in a message.
_MAX_TEXT = 100
#: What says what a spec is; the rest are its fields.
_HEAD_KEYS = ("family", "name", "opaque", "named", "digest", "float")


def to_spec(part: Any, registries: Registries = REGISTRIES, around: tuple[object, ...] = ()) -> Any:
    """Describe a part of the settings as JSON; dataclasses of `registries` can be made again.

    `around` are the objects that hold it: one that holds itself ends there.
    """
    if part is None or isinstance(part, (bool, int, str)):
        return part
    if isinstance(part, (np.integer, np.bool_)):
        return part.item()
    if isinstance(part, (float, np.floating)):
        return float(part) if math.isfinite(part) else {"float": str(float(part))}
    opaque: dict[str, object] = {"opaque": f"{type(part).__module__}.{type(part).__qualname__}"}
    if any(part is other for other in around):
        return opaque

    def specs(held: Mapping[str, object]) -> dict[str, object]:
        return {name: to_spec(one, registries, (*around, part)) for name, one in held.items()}

    if isinstance(part, (list, tuple)):
        return [to_spec(one, registries, (*around, part)) for one in part]
    if isinstance(part, np.ndarray) or is_cupy(part):
        host = for_array(part).to_host(part)
        if host.dtype.hasobject:  # its bytes are addresses
            return opaque | {"fields": specs({"values": host.tolist()})}
        return opaque | {"digest": array_digest(host, f"{host.dtype.str} {host.shape} ".encode())}
    if isinstance(part, types.ModuleType):
        return opaque | {"named": part.__name__}
    if hasattr(part, "__qualname__"):  # a class, function or method: its module may change
        # All lambdas have one name, but for the function they stand in: a script that was moved
        # into its main() may go on.
        named = "<lambda>" if part.__name__ == "<lambda>" else part.__qualname__
        owner = {"self": part.__self__} if isinstance(part, types.MethodType) else {}
        return opaque | {"named": named} | ({"fields": specs(owner)} if owner else {})
    for family, registry in registries.items() if dataclasses.is_dataclass(part) else ():
        name = next((n for n in registry if registry[n] is type(part)), None)
        if name is not None:
            held = {f.name: getattr(part, f.name) for f in _saved_fields(part)}
            return {"family": family, "name": name, "fields": specs(held)}
    # What a user's object holds besides settings, such as a logger or a pool, changes while it
    # runs and holds half the world.
    inner = _is_unknown(part) and any(_is_unknown(other) for other in around)
    if inner and not callable(part) and not isinstance(part, FirstOrderOptimizer):
        return opaque
    return opaque | {"fields": specs(_object_fields(part))}


def _saved_fields(kind: Any) -> list[dataclasses.Field[Any]]:
    """What only says who computes, such as a pool, is not what is computed."""
    return [f for f in dataclasses.fields(kind) if f.init and not f.metadata.get("runtime")]


def array_digest(array: np.ndarray, head: bytes = b"") -> str:
    """SHA-256 of the bytes of an array of numbers, after `head`."""
    return hashlib.sha256(head + np.ascontiguousarray(array).tobytes()).hexdigest()


def _is_unknown(part: object) -> bool:
    """True for an object of a class that says nothing of its contents."""
    known = (list, tuple, dict, functools.partial, types.MethodType)
    return not dataclasses.is_dataclass(part) and not isinstance(part, known)


def _object_fields(part: object) -> dict[str, object]:
    """What tells two objects of one type apart: entries, arguments, fields, attributes, slots."""
    if isinstance(part, dict):
        return {str(key): value for key, value in part.items()}
    if isinstance(part, functools.partial):
        return {"func": part.func, "args": part.args, "keywords": part.keywords}
    if dataclasses.is_dataclass(part):
        return {f.name: getattr(part, f.name) for f in dataclasses.fields(part)}
    kind, fields = type(part), dict(getattr(part, "__dict__", {}))
    for base in kind.__mro__:
        slots = vars(base).get("__slots__", ())
        for name in (slots,) if isinstance(slots, str) else slots:
            if hasattr(part, name) and not name.startswith("__"):
                fields[name] = getattr(part, name)
    # A cache may be filled in one run and not yet in the other.
    cached = [n for n in fields if isinstance(getattr(kind, n, None), functools.cached_property)]
    return {name: value for name, value in fields.items() if name not in cached}


def from_spec(spec: Any, what: str, registries: Registries = REGISTRIES) -> Any:
    """Make the part of the setting `what` that `to_spec` described.

    CheckpointError if it is opaque and has to be passed again, not registered here, or no spec.
    """
    if isinstance(spec, list):
        return [from_spec(s, what, registries) for s in spec]
    if not isinstance(spec, dict):
        return spec
    if "opaque" in spec:
        name = f"{spec['named']} ({spec['opaque']})" if "named" in spec else spec["opaque"]
        raise CheckpointError(
            f"the saved run uses {name} in its {what}, which a file cannot hold; pass {what}= again"
        )
    try:
        if "float" in spec:
            return float(spec["float"])
        family, name = spec["family"], spec["name"]
        if name not in registries[family]:
            raise CheckpointError(
                f"the saved run uses the {family} {name!r}, which is not registered here; import"
                " its module first"
            )
        fields = {key: from_spec(one, what, registries) for key, one in spec["fields"].items()}
        return registries[family][name](**fields)
    except CheckpointError:
        raise
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise CheckpointError(
            f"the saved run has a {what} that cannot be made here ({error}); pass {what}= again"
        ) from error


def with_defaults(spec: Any, registries: Registries = REGISTRIES) -> Any:
    """The spec with the defaults of the fields that its class has got since it was written."""
    if isinstance(spec, list):
        return [with_defaults(one, registries) for one in spec]
    if not isinstance(spec, dict) or not isinstance(spec.get("fields"), dict):
        return spec
    kind = registries.get(spec.get("family", ""), {}).get(spec.get("name", ""))
    if not dataclasses.is_dataclass(kind):
        return spec
    defaults = {
        f.name: to_spec(f.default, registries)
        for f in _saved_fields(kind)
        if f.default is not dataclasses.MISSING
    }
    fields = {name: with_defaults(one, registries) for name, one in spec["fields"].items()}
    return spec | {"fields": defaults | fields}


def is_spec(value: object) -> bool:
    """True for JSON in the form that `to_spec` gives: what `from_spec` and `compare_specs` read."""
    if isinstance(value, list):
        return all(map(is_spec, value))
    if not isinstance(value, dict):
        return True
    names = (value.get(key, "") for key in _HEAD_KEYS)
    fields = value.get("fields", {})
    return (
        all(isinstance(name, str) for name in names)
        and isinstance(fields, dict)
        and all(map(is_spec, fields.values()))
    )


def compare_specs(theirs: object, mine: object) -> tuple[str, str]:
    """Two unequal specs as texts of the first place where they differ: ``("sgd(momentum=0.0)",
    "sgd(momentum=0.5)")``.
    """
    whole, place = _name(mine), list[str]()
    while _head(theirs) == _head(mine):
        a, b = _parts(theirs), _parts(mine)
        if a is None or b is None or a.keys() != b.keys():
            break
        name = next(name for name in a if a[name] != b[name])
        place.append(str(name))
        theirs, mine = a[name], b[name]
    left, right = _text(theirs), _text(mine)
    same = len(os.path.commonprefix([left, right]))
    if same > _MAX_TEXT // 2:  # long texts from where they begin to differ
        left, right = (f"...{text[same - _MAX_TEXT // 4 :]}" for text in (left, right))
    left, right = (t if len(t) <= _MAX_TEXT else f"{t[: _MAX_TEXT - 3]}..." for t in (left, right))
    if not place:
        return left, right
    at = ".".join(place)
    return f"{whole}({at}={left})", f"{whole}({at}={right})"


def _head(spec: object) -> object:
    """What a spec is, without its fields; None for a list, a dict or a value."""
    return [spec.get(key) for key in _HEAD_KEYS] if isinstance(spec, dict) else None


def _parts(spec: object) -> dict[object, object] | None:
    """The fields, entries or elements of a spec; None for a value."""
    if isinstance(spec, list):
        return dict(enumerate(spec))
    return spec.get("fields", spec) if isinstance(spec, dict) else None


def _name(spec: object) -> str:
    if not isinstance(spec, dict):
        return ""
    return str(spec.get("named") or spec.get("name") or spec.get("opaque") or "")


def _text(spec: object) -> str:
    """A spec as one would write it in Python."""
    if isinstance(spec, list):
        return f"[{', '.join(map(_text, spec))}]"
    if not isinstance(spec, dict):
        return repr(spec)
    if "float" in spec:
        return str(spec["float"])
    head = _name(spec)
    if "digest" in spec:
        return f"{head}(sha256={spec['digest'][:12]})"
    fields = spec.get("fields", {} if head else spec)
    text = ", ".join(f"{name}={_text(value)}" for name, value in fields.items())
    return f"{head}({text})" if head and ("fields" in spec or "family" in spec) else head or text
