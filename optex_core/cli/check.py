"""Check that the gradient of module:function (or of a built-in problem) is the derivative of its value."""

from __future__ import annotations

import argparse

from optex_core.cli import subject as subjects
from optex_core.cli.subject import get_subject

SUMMARY = "check a gradient against differences"
EXAMPLES = """  optex-core check mymodule:fun --dimension 100
  optex-core check mymodule:fun --x0 start.npy
  optex-core check rosenbrock --size 20"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the command."""
    parser.add_argument("name", metavar="module:function|NAME", help="a function that returns (value, gradient), or a built-in problem")
    subjects.add_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Do it; 1 if something is wrong."""
    from optex_core.testing.gradient import check_gradient

    subject = get_subject(args.name, args)
    report = check_gradient(subject.fun, subject.x0, rng=args.seed)
    print(report)
    return 0 if report.ok else 1
