"""Source of a command's problem: a built-in one or ``module:function``, as one callable."""

from __future__ import annotations

import argparse
import ast
import dataclasses
import importlib
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from optex_core._validation import short_repr
from optex_core.engine.npz_file import error_reason
from optex_core.errors import ArgumentError
from optex_core.problems import PROBLEMS, get_problem


@dataclass(frozen=True, slots=True)
class ProblemSource:
    """A function to be minimised."""

    name: str  # for titles and file names
    fun: Callable[..., object]  # returns (value, gradient)
    x0: np.ndarray  # shape (d,): the start
    optimizer: str = "adam"  # the optimizer taken when none is named
    #: A good learning rate for that optimizer; None where nobody knows one.
    rate: float | None = None
    goal: float | None = None  # a value at which one would stop; None where there is no natural one


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options that choose a source."""
    add = parser.add_argument
    add("--x0", metavar="FILE.npy", help="start from this vector")
    normal = "module:function: start from a standard normal vector of this length"
    add("--dimension", type=int, metavar="D", help=normal)
    size = "problem: its size (the first whole-number setting; --list shows them)"
    add("--size", type=int, metavar="K", help=size)
    setting = "problem: any setting, may be repeated"
    add("--set", action="append", default=[], metavar="KEY=VALUE", dest="settings", help=setting)
    add("--seed", type=int, default=0, help="makes the run repeatable (default 0)")


def get_problem_source(name: str, args: argparse.Namespace) -> ProblemSource:
    """The source called `name`, with the options of `add_arguments`; ArgumentError if there is no
    such problem, module or function, or no start.
    """
    return _imported(name, args) if ":" in name else _problem(name, args)


def _problem(name: str, args: argparse.Namespace) -> ProblemSource:
    settings = dict(_setting(text) for text in args.settings)
    if args.dimension is not None:
        raise ArgumentError(
            f"--dimension is for module:function; problem {name!r} takes --size or --set key=value"
        )
    if args.size is not None:
        settings[size_setting(name)] = args.size
    problem = get_problem(name, **settings)
    x0 = _vector(args.x0) if args.x0 else problem.start(args.seed)
    return ProblemSource(name, problem, x0, problem.optimizer, problem.rate, problem.goal)


def default_settings(name: str) -> dict[str, object]:
    """The settings of a problem and their defaults."""
    kind: Any = PROBLEMS[name]
    return {f.name: f.default for f in dataclasses.fields(kind) if f.init}


def size_setting(name: str) -> str:
    """The setting that ``--size`` means."""
    settings = default_settings(name)
    for key, default in settings.items():
        if type(default) is int and key != "seed":
            return key
    raise ArgumentError(
        f"problem {name!r} has no size; its settings are: {', '.join(settings) or 'none'}"
    )


def _setting(text: str) -> tuple[str, object]:
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise ArgumentError(f"--set takes key=value, got {text!r}")
    try:
        return key, ast.literal_eval(value)
    except (ValueError, SyntaxError):  # not a Python literal: a plain word
        return key, value


def _imported(name: str, args: argparse.Namespace) -> ProblemSource:
    return ProblemSource(name, function_at(name), _start(name, args))


def function_at(name: str) -> Callable[..., object]:
    """What ``module:function`` names; ArgumentError if there is no such module or function."""
    module_name, _, path = name.partition(":")
    if module_name.endswith(".py"):
        dotted = module_name.removesuffix(".py").replace(os.sep, ".").strip(".")
        raise ArgumentError(f"{name}: a module is named without .py; write {dotted}:{path}")
    if not module_name or module_name.startswith("."):
        raise ArgumentError(
            f"{name}: expected module:function, the module as in `import`: found from the working "
            "directory or installed"
        )
    # As `python -m` does: a module beside the user is found. Worker processes inherit the path.
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        target: object = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.split(".")[0] != module_name.split(".")[0]:
            raise  # the module was found, and misses something itself
        raise ArgumentError(
            f"there is no module {module_name!r} here or in the environment"
        ) from error
    for part in path.split("."):
        if not hasattr(target, part):
            raise ArgumentError(f"{module_name} has no {path!r}")
        target = getattr(target, part)
    if not callable(target):
        raise ArgumentError(f"{name} is not callable: {short_repr(target)}")
    return target


def program_source(args: argparse.Namespace) -> ProblemSource:
    """The external program of ``--program``; ArgumentError if there is no such program, or no
    start.
    """
    from optex_core.adapters.program import subprocess

    # ``FILE``, or ``FILE=TEMPLATE`` as the pair that `subprocess` takes
    files: dict[str, Any] = {}
    for name in ("parameters", "gradient", "value"):
        file, equals, template = getattr(args, name).partition("=")
        files[name] = (file, template) if equals else file
    program = subprocess(args.program, **files, timeout=args.timeout, files=args.files)
    return ProblemSource(program.__name__, program, _start(program.__name__, args))


def _start(name: str, args: argparse.Namespace) -> np.ndarray:
    """The start of a function of the user's."""
    if args.size is not None or args.settings:
        raise ArgumentError(
            f"--size and --set are for built-in problems; {name} takes --x0 FILE.npy "
            f"or --dimension D"
        )
    if args.x0:
        return _vector(args.x0)
    if args.dimension is None:
        raise ArgumentError(
            f"where shall {name} start? give --x0 FILE.npy, or --dimension D for a random start"
        )
    if args.dimension < 1:
        raise ArgumentError(f"--dimension must be at least 1, got {args.dimension}")
    return np.random.default_rng(args.seed).standard_normal(args.dimension)


def numbers_in(option: str, path: str) -> np.ndarray:
    """The array in a .npy file."""
    if os.path.exists(path) and not os.path.isfile(path):  # which may have no end
        raise ArgumentError(
            f"{option} {path} must be a .npy file; it is a folder, a pipe or a device"
        )
    try:
        with open(path, "rb") as file:  # by its path NumPy leaves a damaged archive open
            found = np.load(file, allow_pickle=False)
    except FileNotFoundError as error:
        raise ArgumentError(f"{option}: there is no file {path}") from error
    except Exception as error:  # what NumPy and zipfile raise for damaged bytes is any
        raise ArgumentError(f"{option} {path}: {_why_not_read(path, error)}") from error
    if not isinstance(found, np.ndarray):
        raise ArgumentError(
            f"{option} {path} must be a .npy file with one array; it is an archive of several"
        )
    return found


def _why_not_read(path: str, error: BaseException) -> str:
    """What a file is that NumPy does not read as an array of numbers."""
    size = os.path.getsize(path)
    with open(path, "rb") as file:
        start = file.read(6)
    if "pickle" in str(error) and start == b"\x93NUMPY":
        return "it holds Python objects, not numbers; save numbers with numpy.save"
    for kind, magic in ((".npy", b"\x93NUMPY"), (".npz", b"PK")):
        if start.startswith(magic):
            return f"it is a damaged {kind} file ({error_reason(error)})"
    if size and size % 8 == 0:
        return (
            f"it is no .npy file; if it holds raw numbers ({size // 8} of float64 would fit), "
            "write it with numpy.save(path, numpy.fromfile(raw))"
        )
    return "it is no .npy file; write one with numpy.save"


def _vector(path: str) -> np.ndarray:
    x0 = numbers_in("--x0", path)
    if x0.ndim != 1:
        raise ArgumentError(f"--x0 must hold one vector, got {short_repr(x0)}")
    return x0
