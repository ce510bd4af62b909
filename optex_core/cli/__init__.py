"""The command line: `app` finds the command, one file per command does it."""

from optex_core.cli.app import main

__all__ = ["main"]
