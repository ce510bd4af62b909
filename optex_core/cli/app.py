"""Entry point of the command line: one command, errors as sentences and exit statuses."""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Sequence

from optex_core import __version__
from optex_core.errors import (
    ArgumentError,
    ArgumentTypeError,
    CapabilityError,
    MissingExtraError,
    OptexError,
)

#: In the order of the help. A command is a module of this folder with `SUMMARY`, `EXAMPLES`,
#: `add_arguments(parser)` and `run(args) -> status`.
COMMANDS = ("minimize", "bench", "doctor", "plot", "check")

#: What errors say in Python's terms -> in options of `check` and `minimize`.
OPTION_WORDS = {
    " because jac=True": "",
    "pass the gradient as jac=callable, or jac='2-point'": (
        "`optex-core check` takes the gradient as --jac module:function, or --jac 2-point; "
        "`optex-core minimize` takes a function that returns both"
    ),
    "resume=True needs checkpoint=, the file of the run": "--resume needs --checkpoint FILE",
}

#: Errors of the words on the command line, and of what is installed: exit status 2.
NOT_UNDERSTOOD = (
    ArgumentError, ArgumentTypeError, CapabilityError, MissingExtraError, FileNotFoundError,
)  # fmt: skip

EPILOG = """examples:
  optex-core minimize --list                           what is built in
  optex-core minimize heat_inversion --parallelism 8   run a problem and its optimizer alone
  optex-core minimize mymodule:fun --x0 start.npy      run your function of (value, gradient)
  optex-core check mymodule:fun --dimension 100        is that gradient right?
  optex-core doctor                                    which backends and engines work here

exit status: 0 the run ended (also at --maxiter), 1 it failed or the check did not succeed,
2 the command was not understood"""


def make_parser() -> argparse.ArgumentParser:
    """The parser of all commands."""
    parser = argparse.ArgumentParser(
        prog="optex-core",
        description="First-order optimization with fewer sequential gradient evaluations.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"optex_core {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name in COMMANDS:
        module = importlib.import_module(f"optex_core.cli.{name}")
        sub = commands.add_parser(
            name,
            help=module.SUMMARY,
            description=module.__doc__,
            epilog=f"examples:\n{module.EXAMPLES}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        module.add_arguments(sub)
        sub.set_defaults(run=module.run)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line, that of the process by default.

    The exit status: 0 well, 1 without success, 2 not understood.
    """
    args = make_parser().parse_args(argv)
    try:
        return int(args.run(args))
    except (OptexError, FileNotFoundError) as error:
        told = str(error)
        for ours, option in OPTION_WORDS.items():
            told = told.replace(ours, option)
        print(f"optex-core {args.command}: {told}", file=sys.stderr)
        return 2 if isinstance(error, NOT_UNDERSTOOD) else 1
    except BrokenPipeError:
        # The reader, such as `head`, has gone. Python would complain once more when it closes the
        # stream at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
