"""Which of Shampoo's rules a tensor can have of its own, and whether they can work."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from optex_core._validation import integer, one_of, plain_value, short_repr
from optex_core.errors import ArgumentTypeError, OptexError, did_you_mean
from optex_core.optimizers.shampoo.blocking import SIDES

OVERRIDABLE_RULES = ("block_size", "max_axis", "merge", "sides", "exponent", "vectors")


def check_rules(block_size: Any, max_axis: Any, merge: Any, sides: Any, exponent: Any) -> None:
    integer("block_size", block_size, low=1)
    integer("max_axis", max_axis, low=1)
    one_of("merge", merge, ("right", "left", "none"))
    one_of("sides", sides, SIDES)
    if exponent is not None:
        integer("exponent", exponent, low=1, high=2**53)  # roots take it as a float


def as_overrides(given: Any) -> tuple[tuple[str, tuple[tuple[str, Any], ...]], ...] | None:
    """As tuples of pairs, which a file can hold."""
    if given is None:
        return None
    pairs = given.items() if isinstance(given, Mapping) else given
    result = []
    try:
        for name, rules in pairs:
            chosen = tuple(
                (str(rule), plain_value(value))
                for rule, value in (rules.items() if isinstance(rules, Mapping) else rules)
            )
            for rule, _ in chosen:
                if rule not in OVERRIDABLE_RULES:
                    raise ArgumentTypeError(
                        f"unknown rule {rule!r} for the tensor "
                        f"{name!r}{did_you_mean(rule, OVERRIDABLE_RULES)}"
                    )
            result.append((str(name), chosen))
    except OptexError:
        raise
    except (TypeError, ValueError) as error:
        raise ArgumentTypeError(
            f"overrides must be a dict like {{'w': {{'sides': 'right'}}}}, got {short_repr(given)}"
        ) from error
    return tuple(result)
