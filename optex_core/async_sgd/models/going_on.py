"""The master of a study: a new one, or one from an earlier run that goes on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from optex_core._validation import short_repr
from optex_core.async_sgd.master import Master
from optex_core.errors import ArgumentError, ArgumentTypeError
from optex_core.types import Array


def make_or_resume_master(
    given: Master | None,
    tag: str,
    d: int,
    start: Callable[[], Array],
    rng: int,
    settings: dict[str, Any],
) -> Master:
    """The master that was given, checked, or a new one from ``start()``.

    Parameters
    ----------
    given : Master or None
    tag : str
        Of the study: a master of another one is refused.
    d : int
        Parameters of the study.
    start : callable
        Makes the start of a new master.
    rng : int
        Seed of a new one; it must be that of the given one, since documents and games follow from
        it.
    settings : dict
        For `Master`; with a given one all must be None.

    Raises
    ------
    ArgumentError, ArgumentTypeError
        If the master belongs to something else.
    """
    if given is None:
        return Master(
            start(),
            rng=rng,
            tag=tag,
            **{name: value for name, value in settings.items() if value is not None},
        )
    if not isinstance(given, Master):
        raise ArgumentTypeError(
            f"master must be a Master (Master.load and Master.resume give one), got "
            f"{short_repr(given)}"
        )
    for name, value in settings.items():
        if value is not None:
            raise ArgumentError(
                f"{name} belongs to the master: a master that goes on has its own; leave {name} out"
            )
    if given.settings.tag != tag or given.x.shape != (d,):
        raise ArgumentError(
            f"master is of tag {given.settings.tag!r} with {given.x.size} parameters, "
            f"this run of tag {tag!r} with {d}; give the corpus and the "
            "settings of the run that it comes from"
        )
    if given.settings.seed != rng:
        raise ArgumentError(
            f"master was made with rng={given.settings.seed}, got rng={rng}: give the "
            f"same, or other steps would follow"
        )
    return given
