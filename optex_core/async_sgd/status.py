"""How a burst ended: an enumeration whose members carry their sentence."""

from __future__ import annotations

import enum


class BurstStatus(enum.StrEnum):
    """The end of a burst. A member equals its word in files and in ``master.counts``.

    Attributes
    ----------
    message : str
        The sentence.
    hands_out_again : bool
        True where the part of the burst is handed out again. False for an error and for numbers
        that are not finite, which the same samples would give again.
    """

    message: str
    hands_out_again: bool

    def __new__(cls, word: str, message: str = "", hands_out_again: bool = False) -> BurstStatus:  # noqa: D102
        member = str.__new__(cls, word)
        member._value_ = word
        member.message, member.hands_out_again = message, hands_out_again
        return member

    ACCEPTED = "accepted", "The push was accepted.", False
    LATE = "late", "The push came more than max_delay updates late.", True
    NOT_FINITE = "not finite", "The push holds numbers that are not finite.", False
    ERROR = "error", "The burst raised an error.", False
    WORKER = "worker", "The worker died.", True
    TIMEOUT = "timeout", "The burst ran for longer than timeout.", True
    ABANDONED = "abandoned", "The run ended before the burst did.", True
