"""External program as an objective: parameters in a file, value and gradient out of files."""

from __future__ import annotations

import os
import shlex
import shutil
import stat
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from optex_core._validation import (
    integer,
    one_of,
    positive,
    reject_unknown_keywords,
    sequence,
    short_repr,
    working_directory,
)
from optex_core.adapters.program_files import (
    CONTEXT_FIELDS,
    ProgramFile,
    check_template,
    make_program_file,
    read_numbers,
    write_vector,
)
from optex_core.errors import ArgumentError, ArgumentTypeError, EvaluationError
from optex_core.execution import programs
from optex_core.types import OUTSIDE_A_RUN, Context

#: Seconds that whoever set the evaluation's time limit has to act first, and to say so in the
#: result; the program is killed in any case.
DEADLINE_GRACE_SECONDS = 1.0
#: Bytes of a program's output that a failure keeps, from the end.
MAX_OUTPUT_BYTES = 1 << 16
STDOUT, STDERR = "stdout.txt", "stderr.txt"


@dataclass(frozen=True, slots=True)
class ProgramFailure:
    """End of a program that failed: ``detail`` of the `EvaluationError`."""

    command: tuple[str, ...]  # as it was run
    status: int | None  # exit status, negative for a signal; None if it could not be started
    #: The last 64 KiB of each.
    stdout: str
    stderr: str
    workdir: str | None  # its work directory, where it was kept
    seconds: float
    expired: bool  # True if it was killed because its time was over


@dataclass(frozen=True, slots=True)
class Program:
    """Executable as ``fun``, made by `subprocess`; picklable, for workers that have the program."""

    command: tuple[str, ...]
    parameters: ProgramFile
    value: ProgramFile | None
    gradient: ProgramFile | None
    timeout: float | None
    exit_codes: frozenset[int]
    environment: tuple[tuple[str, str | None], ...]
    files: tuple[str, ...]  # absolute paths
    keep: str
    folder: str | None
    here: str  # the directory in which it was made

    @property
    def __name__(self) -> str:
        return Path(self.command[0]).name

    def __repr__(self) -> str:
        return f"Program({shlex.join(self.command)!r})"

    def __call__(self, x: np.ndarray, ctx: Context = OUTSIDE_A_RUN) -> object:
        """Run the program at `x`, shape (d,): (value, gradient), or the one of them that it has."""
        if not isinstance(x, np.ndarray) or x.dtype.kind != "f":
            raise ArgumentTypeError(
                f"an external program takes real vectors of NumPy, got {short_repr(x)}; "
                "differences by complex step are not for it"
            )
        with programs.work_directory(self.folder) as workdir:
            return self._evaluate(x, replace(ctx, workdir=str(workdir)), workdir)

    def _evaluate(self, x: np.ndarray, ctx: Context, workdir: Path) -> object:
        fields = {name: getattr(ctx, name, len(x)) for name in CONTEXT_FIELDS}  # d is not in ctx
        try:
            for source in self.files:
                _link_or_copy(Path(source), workdir / Path(source).name)
            write_vector(self.parameters, workdir, x, fields)
        except OSError as error:
            raise EvaluationError(
                f"{self.__name__} could not be given its files in {workdir.parent}: "
                f"{error.strerror or error}; folder= takes another place"
            ) from error
        named = {"parameters": self.parameters, "value": self.value, "gradient": self.gradient}
        fields |= {n: str(workdir / file.name) for n, file in named.items() if file is not None}
        fields |= {"workdir": str(workdir), "here": self.here}
        words = [word.format(**fields) for word in self.command]
        out, err = workdir / STDOUT, workdir / STDERR
        deadline = None if ctx.deadline is None else ctx.deadline + DEADLINE_GRACE_SECONDS
        limits = [limit for limit in (self.timeout, deadline) if limit is not None]
        environment = {**os.environ, "OPTEX_CORE_ID": str(ctx.id), "OPTEX_CORE_SEED": str(ctx.seed)}
        for name, text in self.environment:
            environment.pop(name, None)
            if text is not None:
                environment[name] = text
        ended = programs.run_program(
            words, cwd=workdir, out=out, err=err, env=environment, timeout=min(limits, default=None)
        )
        failure = ""
        try:
            failure = self._exit_failure(ended, words, limits)
            if not failure:
                return self._read_results(workdir, len(x))
        except EvaluationError as error:
            failure = str(error)
        finally:
            kept = self._keep_workdir(workdir, ctx, failed=bool(failure))
        last = _tail(err).strip().splitlines()
        said = f"; it said: {last[-1][:200]}" if last else ""
        detail = ProgramFailure(
            tuple(words), ended.status, _tail(out), _tail(err), kept, ended.seconds, ended.expired
        )
        raise EvaluationError(failure + said, detail)

    def _exit_failure(
        self, ended: programs.ProgramExit, words: Sequence[str], limits: Sequence[float]
    ) -> str:
        """Return "" or what is wrong with how the program ended."""
        name = self.__name__
        if ended.status is None:
            return f"{name} could not be started: {ended.error}"
        if ended.expired:
            return f"{name} took longer than {min(limits):g} s and was killed"
        if ended.stopped:
            return f"{name} was killed: its evaluation was abandoned"
        if ended.status in self.exit_codes:
            return ""
        how = f"ended with exit status {ended.status}"
        if ended.status < 0:
            how = f"was killed by signal {-ended.status}"
        relative = [w for w in words[1:] if not os.path.isabs(w)]
        lost = next((w for w in relative if os.path.exists(os.path.join(self.here, w))), None)
        if lost is not None and not self.files:
            how += f"; it ran in a directory of its own, without {lost}: pass files=[{lost!r}]"
        return f"{name} {how}"

    def _read_results(self, workdir: Path, d: int) -> object:
        name = self.__name__
        if self.gradient is None:
            return self._read_value(workdir)
        gradient = read_numbers(self.gradient, workdir, "gradient", name).reshape(-1)
        both = self.value == self.gradient
        if gradient.size != d + both:
            expected = f"the value and the gradient's {d}" if both else f"the gradient's {d}"
            raise EvaluationError(
                f"{name} wrote {gradient.size} numbers to {self.gradient.name}, expected {expected}"
            )
        if both:
            return float(gradient[0]), gradient[1:]
        return gradient if self.value is None else (self._read_value(workdir), gradient)

    def _read_value(self, workdir: Path) -> float:
        assert self.value is not None
        value = read_numbers(self.value, workdir, "value", self.__name__)
        if value.size != 1:
            raise EvaluationError(
                f"{self.__name__} wrote {value.size} numbers to {self.value.name}, expected the "
                "value alone"
            )
        return float(np.reshape(value, ()))

    def _keep_workdir(self, workdir: Path, ctx: Context, *, failed: bool) -> str | None:
        """Copy the work directory to where it is kept; never over or into what is there, which may
        hold links to the user's files.
        """
        if self.keep == "never" or (self.keep == "failed" and not failed):
            return None
        target = first = Path(self.folder or self.here, f"evaluation-{ctx.id:06d}-{ctx.attempt}")
        number = 1
        while os.path.lexists(target):
            target, number = first.with_name(f"{first.name}.{number}"), number + 1
        shutil.copytree(workdir, target, symlinks=True, ignore=_pipes_and_sockets)
        return str(target)


def _pipes_and_sockets(folder: str, names: Iterable[str]) -> list[str]:
    """What cannot be copied of a folder."""
    modes = {name: os.lstat(os.path.join(folder, name)).st_mode for name in names}
    copied = stat.S_ISREG, stat.S_ISDIR, stat.S_ISLNK
    return [name for name, mode in modes.items() if not any(kind(mode) for kind in copied)]


@reject_unknown_keywords
def subprocess(
    command: str | Sequence[str],
    *,
    parameters: str | tuple[str, str] = "parameters.npy",
    gradient: str | tuple[str, str] | None = "gradient.npy",
    value: str | tuple[str, str] | None = "value.txt",
    dtype: str = "float64",
    timeout: float | None = None,
    exit_codes: Iterable[int] = (0,),
    env: Mapping[str, str | None] | None = None,
    files: Iterable[str | os.PathLike[str]] = (),
    keep: str = "never",
    folder: str | os.PathLike[str] | None = None,
) -> Program:
    r"""Make ``fun`` of an external program: any executable that reads a file and writes files.

    Each evaluation runs in a work directory of its own: the parameters are written, the program is
    started, its results are read. No shell is involved. The program and all that it has started
    (its process group) end with the evaluation, at the time limit, and with the process that
    evaluates, however that ends.

    Parameters
    ----------
    command : sequence of str, or str
        The program and its arguments; text is split into words as a shell would do it (quotes,
        backslashes), and no more. Filled in are ``{parameters}``, ``{gradient}``, ``{value}``
        (absolute paths of these files), ``{workdir}``, ``{here}`` (the directory this is called
        in), ``{d}``, ``{seed}``, ``{id}``, ``{iteration}``, ``{slot}``, ``{attempt}``. A program
        given by a relative path is found from here.
    parameters : str or (str, str), default "parameters.npy"
        The file the program reads. The suffix says how it is written: ``.npy``; ``.bin``, ``.raw``
        or ``.dat`` the raw numbers, d of `dtype`; any other one number a line. A pair (name,
        template): text with ``{x[0]}``, ``{x[1]:.6f}``, ``{x}`` (all, one a line) and ``{d}``,
        ``{seed}``, ... filled in.
    gradient : str, (str, str) or None, default "gradient.npy"
        The file that holds the gradient afterwards, d numbers, read by the same rules; text may
        have commas, and comments after ``#``. A pair (name, template), as ``("stdout.txt", "dJ/dp =
        {gradient}")``: the numbers that stand in the place of ``{gradient}``, wherever the other
        words are found. ``stdout.txt`` and ``stderr.txt`` are what the program prints. None: the
        program has a value only, for ``minimize(program, x0, jac="2-point")``.
    value : str, (str, str) or None, default "value.txt"
        The same for the value; of several places that fit a template the last one counts. The same
        file as `gradient`: it holds the value first. None: the program has no value; pass it as
        ``minimize(None, x0, jac=program)``.
    dtype : str, default "float64"
        Of the numbers in raw files, with its byte order where that matters: ">f8".
    timeout : float, optional
        Seconds until the whole process group is killed; a ``timeout`` of `minimize` counts too.
    exit_codes : iterable of int, default (0,)
        The exit statuses of a good end.
    env : mapping, optional
        Changes of the environment: a text, or None to remove a variable. ``OPTEX_CORE_ID`` and
        ``OPTEX_CORE_SEED`` are always set.
    files : iterable of paths, default ()
        Files and folders that each work directory is given: meshes, scripts, tables. They are links
        (copies where links are not possible), so the program must not write into them. Names that
        meet each other, or those of the files above, are refused.
    keep : {"never", "failed", "always"}, default "never"
        Which work directories are kept, as ``evaluation-<id>-<attempt>`` in `folder`; with a number
        behind that where there is one from an earlier run.
    folder : path, optional
        Where the work directories are made, such as a fast local disk; by default the system's
        temporary directory. It must exist.

    Returns
    -------
    Program
        A callable ``fun(x)`` for `minimize` and others; ``workers="threads"`` is enough, since the
        program is a process by itself. A failed run is an `optex_core.EvaluationError` whose
        ``detail`` is a `ProgramFailure`.

    Notes
    -----
    Starting a program takes about 10 ms. On Windows a program is not ended when its Python process
    is killed, and a time limit ends the program without what it has started.

    Examples
    --------
    >>> import sys
    >>> import numpy as np
    >>> import optex_core as ox
    >>> code = "import sys, numpy as np; x = np.load(sys.argv[1]); np.save(sys.argv[2], 2 * x); "
    >>> code += "print('cost =', x @ x)"
    >>> command = [sys.executable, "-c", code, "{parameters}", "{gradient}"]
    >>> program = subprocess(command, value=("stdout.txt", "cost = {value}"), timeout=60)
    >>> res = ox.minimize(program, [3.0, -4.0], optimizer=ox.SGD(0.5), workers="threads", gtol=1e-6)
    >>> bool(res.success), float(res.fun)
    (True, 0.0)
    """
    words = _as_words(command)
    if parameters is None:
        raise ArgumentTypeError("parameters must name the file that the program reads, got None")
    try:
        kind = np.dtype(dtype).str
    except Exception as error:  # TypeError; others from objects that pretend
        raise ArgumentTypeError(
            f"dtype must name a NumPy dtype such as 'float64' or '>f4', got {short_repr(dtype)}"
        ) from error
    if value is None and gradient is None:
        raise ArgumentError("value and gradient are both None; the program must give one of them")
    named = {"parameters": parameters, "gradient": gradient, "value": value}
    made = {n: make_program_file(n, file, kind) for n, file in named.items() if file is not None}
    for word in words:
        check_template("command", word, (*made, "workdir", "here", *CONTEXT_FIELDS))
    here = working_directory()
    words[0] = _executable(words[0], here)
    if isinstance(files, (str, os.PathLike)):  # one name is no list of letters
        files = (files,)
    given = sequence("files", files, "paths", (str, os.PathLike))
    sources = tuple(dict.fromkeys(os.path.abspath(f) for f in given))
    for source in sources:
        if not os.path.exists(source):
            raise ArgumentError(f"files: there is no {source}")
    _check_names(made, sources)
    if env is not None and not isinstance(env, Mapping):
        raise ArgumentTypeError(f"env must be a mapping of names to values, got {short_repr(env)}")
    changes = {} if env is None else env
    codes = sequence("exit_codes", exit_codes, "integers")
    home = _work_folder(folder)
    programs.remove_stale_dirs(home)
    return Program(
        command=tuple(words),
        parameters=made["parameters"],
        value=made.get("value"),
        gradient=made.get("gradient"),
        timeout=None if timeout is None else positive("timeout", timeout),
        exit_codes=frozenset(integer("exit_codes", code) for code in codes),
        environment=tuple((str(k), None if v is None else str(v)) for k, v in changes.items()),
        files=sources,
        keep=one_of("keep", keep, ("never", "failed", "always")),
        folder=home,
        here=here,
    )


def _as_words(command: object) -> list[str]:
    try:
        text = shlex.split(command) if isinstance(command, str) else command
    except ValueError as error:
        raise ArgumentError(
            f"command: {error} in {short_repr(command)}; close the quotation, or pass a list of "
            "words"
        ) from error
    words = sequence("command", text, "words, or one text", (str, os.PathLike))
    if not words:
        raise ArgumentError("command is empty; it takes the program and its arguments")
    return [os.fspath(w) for w in words]


def _executable(word: str, here: str) -> str:
    """The program: an absolute path if it was given by a path, else a name on the PATH."""
    if "{" in word:
        return word
    if os.path.dirname(word):
        path = os.path.join(here, word)
        if not os.path.isfile(path):
            raise ArgumentError(f"command: there is no program {path}")
        if not os.access(path, os.X_OK):
            raise ArgumentError(
                f"command: {path} is not executable; run: chmod +x {word}, or name its interpreter "
                "first"
            )
        return os.path.normpath(path)
    if shutil.which(word) is None:
        beside = os.path.exists(os.path.join(here, word))
        near = f"; ./{word} is here, write it so" if beside else ""
        raise ArgumentError(f"command: there is no program {word!r} on the PATH{near}")
    return word


def _check_names(made: Mapping[str, ProgramFile], sources: Sequence[str]) -> None:
    """Refuse two things of one name in the work directory: the second would be written through the
    link to the first, into the user's file. A folder that is linked holds what is written in it.
    """
    taken = {n: f"what the program prints ({n})" for n in map(os.path.normcase, (STDOUT, STDERR))}
    for source in sources:
        name = os.path.basename(source)
        before = taken.setdefault(os.path.normcase(name), source)
        if before != source or not name:
            raise ArgumentError(
                f"files: {source} and {before} would have one name, {name!r}, in the work "
                "directory; rename one of them"
            )
    written = {os.path.normpath(f.name): n for n, f in made.items() if n != "parameters"}
    for argument, file in made.items():
        first = Path(file.name).parts[0]
        before = taken.get(os.path.normcase(first), "")
        # The results may well be what the program prints.
        printed = argument != "parameters" and os.path.normpath(file.name) in (STDOUT, STDERR)
        if before and not (printed and before not in sources):
            raise ArgumentError(
                f"{argument}: in the work directory the name {first!r} is taken by "
                f"{before}; use another"
            )
    clash = written.get(os.path.normpath(made["parameters"].name))
    if clash is not None:
        raise ArgumentError(
            f"parameters and {clash} are both {made['parameters'].name!r}: what the program does "
            "not write would be read as its result; use two names"
        )


def _work_folder(folder: object) -> str | None:
    """The folder of work directories, absolute; None for the system's."""
    if folder is None:
        try:
            tempfile.gettempdir()
        except OSError as error:
            raise ArgumentError(
                "folder: this system has no temporary directory that can be written; pass "
                "folder=, or set the environment variable TMPDIR"
            ) from error
        return None
    if not isinstance(folder, (str, os.PathLike)):
        raise ArgumentTypeError(f"folder must be a path, got {short_repr(folder)}")
    home = os.path.abspath(folder)
    if not os.path.isdir(home):
        raise ArgumentError(f"folder: there is no folder {home}; create it first")
    return home


def _link_or_copy(source: Path, target: Path) -> None:
    try:
        target.symlink_to(source, target_is_directory=source.is_dir())
    except FileExistsError:
        raise
    except OSError:  # a file system without links
        if source.is_dir():
            shutil.copytree(source, target)
        else:
            shutil.copy2(source, target)


def _tail(path: Path) -> str:
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - MAX_OUTPUT_BYTES))
            return file.read().decode("utf-8", "replace")
    except OSError:  # never written: the program was not started
        return ""
