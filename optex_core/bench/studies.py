"""The papers' studies with all controls: the scripts of examples/studies, in turn.

Each script runs in a process of its own; started again, it continues where it was stopped, and a
finished one measures nothing again. The folder of the run holds for each study NAME.json, NAME.txt
and NAME.png. ``--page`` writes the README of the studies from the JSON files of default runs beside
it, and into RESULTS.md its first table and those of the JSON files in bench/results.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import optex_core
from optex_core.bench._runner import choose, make_parser, output_folder, say
from optex_core.errors import CapabilityError

EXAMPLES = """  optex-core bench studies --quick        that all of them run: two minutes
  optex-core bench studies                the figures of the page: half an hour on two cores
  optex-core bench studies --studies synthetic,networks --full
  optex-core bench studies --page         the page anew, from the committed figures"""


def main(argv: Sequence[str]) -> int:
    """Run the studies with the options `argv`; the exit status."""
    texts = {"quick": "small sizes and one seed: that they run", "full": "more sizes and seeds"}
    parser = make_parser("studies", __doc__, EXAMPLES, **texts)
    parser.add_argument("--studies", metavar="NAME,...", help="scripts (default: all)")
    parser.add_argument("--page", action="store_true", help="write the page, and measure nothing")
    args = parser.parse_args(argv)
    scripts = folder_of_scripts()
    folder = output_folder("studies", args).resolve()
    options = [] if args.mode == "default" else [f"--{args.mode}"]
    # These sources in the scripts too, whether or not another copy is installed.
    root = str(Path(optex_core.__file__).parents[1])
    paths = [root, *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    if args.page:
        return _run([str(scripts / "_page.py")], environment)
    status = 0
    for name in choose("study", args.studies, study_names(scripts)):
        begin = time.perf_counter()
        command = [str(scripts / f"{name}.py"), *options, "--output", str(folder)]
        ended = _run(command, environment)
        say(f"{name}: exit status {ended} after {time.perf_counter() - begin:.0f} s")
        status = status or ended
    return status


def _run(command: list[str], environment: Mapping[str, str]) -> int:
    return subprocess.run([sys.executable, *command], env=environment, check=False).returncode


def folder_of_scripts() -> Path:
    """``examples/studies`` of the checkout that this package is in.

    Raises
    ------
    CapabilityError
        If there is none, as in an installed package.
    """
    folder = Path(optex_core.__file__).parents[1] / "examples" / "studies"
    if not folder.is_dir():
        raise CapabilityError(
            f"the studies are scripts of the repository, and there is no {folder}; clone the "
            f"repository and run optex-core bench studies there"
        )
    return folder


def study_names(folder: Path) -> list[str]:
    """The studies in a folder; a module whose name begins with an underscore is a part of one."""
    return sorted(path.stem for path in folder.glob("[!_]*.py"))
