"""Properties over many examples, drawn by Hypothesis, with the smallest failing one."""

from __future__ import annotations

from collections.abc import Callable

from optex_core.errors import MissingExtraError
from optex_core.testing.check_suite import CheckFailed, CheckSkipped, describe_error


def for_all(
    body: Callable[..., None], *, examples: int | None = None, **strategies: object
) -> None:
    """Call ``body(**drawn)`` with examples from `strategies`, always the same ones; a failure is
    shrunk and reported with its example.

    Parameters
    ----------
    body : callable
        Raises where the property does not hold.
    examples : int, optional
        How many are drawn; by default as many as the active profile of Hypothesis says (100 unless
        one was loaded). A number is a limit: a profile that asks for fewer draws fewer.
    **strategies
        Argument -> Hypothesis strategy.

    Raises
    ------
    CheckFailed
        With the smallest example that was found.
    MissingExtraError
        Hypothesis is not installed.

    Examples
    --------
    >>> from optex_core.testing import strategies as st
    >>> for_all(lambda x: None, x=st.vectors(d=3))
    """
    try:
        import hypothesis
    except ImportError as error:
        raise MissingExtraError.of("hypothesis", "testing", "checking properties") from error

    def run(**drawn: object) -> None:
        body(**drawn)

    profile = hypothesis.settings().max_examples
    settings = hypothesis.settings(
        max_examples=profile if examples is None else min(examples, profile),
        derandomize=True,  # a red check is red again
        database=None,  # nothing is written beside the user's files
        deadline=None,  # the first example compiles
        report_multiple_bugs=False,
        print_blob=False,
        suppress_health_check=list(hypothesis.HealthCheck),
        # Without the phase that explains, which runs a failing example a hundred times more.
        phases=(hypothesis.Phase.explicit, hypothesis.Phase.generate, hypothesis.Phase.shrink),
    )
    try:
        settings(hypothesis.given(**strategies)(run))()
    except (CheckSkipped, MissingExtraError):
        raise
    except Exception as error:
        text = describe_error(error)
        if isinstance(error, hypothesis.errors.Flaky):
            text = "it fails, and passes when tried again: its answers change from call to call"
        # Hypothesis' note of the smallest example
        raise CheckFailed("\n".join([text, *getattr(error, "__notes__", ())[:1]])) from error
