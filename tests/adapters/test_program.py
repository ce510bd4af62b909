"""Real executables as objectives: what they are given, what is read, what fails, and that nothing
of them is left behind, whatever is killed.
"""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import resource
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import optex_core as ox
from optex_core.adapters.program import Program, ProgramFailure
from optex_core.errors import ArgumentError, ArgumentTypeError, EvaluationError
from optex_core.execution import programs
from optex_core.execution.workers.pool import TaskFuture
from optex_core.execution.workers.thread import ThreadWorker
from optex_core.types import Context

CONTEXT = Context(id=7, seed=1234, iteration=1, slot=3, attempt=2)
X = np.array([1.0, -2.5, 1e-300])

#: A simulator, as an executable file of its own.
SIMULATOR = f"""#!{sys.executable}
import json, os, pathlib, sys
import numpy as np
x = np.load(sys.argv[1])
np.save(sys.argv[2], 2 * x)
pathlib.Path(sys.argv[3]).write_text(f"# the cost\\n{{float(x @ x)!r}}\\n")
seen = json.dumps([os.getcwd(), sys.argv[1:], dict(os.environ)])
pathlib.Path(sys.argv[4] if len(sys.argv) > 4 else os.devnull).write_text(seen)
"""


@pytest.fixture(autouse=True)
def world(tmp_path, monkeypatch):
    """A directory and a temporary directory of its own, in which nothing may be left, and no
    process.
    """
    home, temporary = tmp_path / "home", tmp_path / "tmp"
    home.mkdir()
    temporary.mkdir()
    monkeypatch.chdir(home)
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    monkeypatch.setenv("TMPDIR", str(temporary))
    monkeypatch.setenv("OPTEX_TEST_MARK", str(tmp_path))
    (home / "simulator").write_text(SIMULATOR)
    (home / "simulator").chmod(0o755)
    yield tmp_path
    programs.release_guardian()
    # a thread whose call was abandoned removes its folder when it gets a core
    assert wait_until(lambda: not list(temporary.glob("optex-core-*"))), "a folder is left"
    if Path("/proc").is_dir():
        assert wait_until(lambda: not marked(tmp_path)), "a process is left"


def marked(mark):
    """Processes that carry this test's mark in their environment, but for this one."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            with contextlib.suppress(OSError):
                mine = f"OPTEX_TEST_MARK={mark}".encode() in (entry / "environ").read_bytes().split(
                    b"\0"
                )
                # The two trackers of shared memory are kept by Python and loky until the end.
                if mine and b"resource_tracker" not in (entry / "cmdline").read_bytes():
                    found.append(int(entry.name))
    return found


def wait_until(condition, seconds=120):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.02)
    return False


def shell(text, **options):
    """A program of the shell's: how a shell is run where one is wanted."""
    places = [
        f"{{{name}}}"
        for name in ("parameters", "gradient", "value")
        if options.get(name, "") is not None
    ]
    return ox.adapters.subprocess(
        ["/bin/sh", "-c", text.replace("{", "{{").replace("}", "}}"), "sim", *places], **options
    )


COPY = 'cp "$1" "$2"; echo 2 > "$3"'


# -- what goes in and what comes out ---------------------------------------------------------------


def test_a_program_gets_its_parameters_and_gives_value_and_gradient(world):
    told = world / "told"
    program = ox.adapters.subprocess(
        [
            "./simulator",
            "{parameters}",
            "{gradient}",
            "{value}",
            str(told),
            "$(touch x); {seed} {{}}",
        ],
        env={"A": "b", "HOME": None},
    )
    value, gradient = program(X, ctx=CONTEXT)
    assert value == float(X @ X)
    np.testing.assert_array_equal(gradient, 2 * X)
    cwd, words, environment = json.loads(told.read_text())
    assert Path(cwd).parent == world / "tmp"
    assert words[0] == str(Path(cwd, "parameters.npy"))
    assert words[4] == "$(touch x); 1234 {}", "no shell has read it"
    assert (environment["A"], environment["OPTEX_CORE_SEED"], environment["OPTEX_CORE_ID"]) == (
        "b",
        "1234",
        "7",
    )
    assert "HOME" not in environment
    assert [p.name for p in (world / "home").iterdir()] == ["simulator"]


def test_minimize_runs_a_program_in_threads_in_processes_and_here(world):
    program = ox.adapters.subprocess("./simulator {parameters} {gradient} {value}")
    assert pickle.loads(pickle.dumps(program)) == program
    options = {"optimizer": ox.SGD(0.25), "parallelism": 2, "maxiter": 3, "rng": 0}
    alone = ox.minimize(lambda x: (x @ x, 2 * x), X, **options)
    for workers in (None, "threads", 2):
        res = ox.minimize(program, X, workers=workers, **options)
        np.testing.assert_array_equal(res.x, alone.x)
        assert (res.njev, res.fun) == (alone.njev, alone.fun)
        assert wait_until(lambda: not marked(world)), "the run is over: so are its processes"


def test_raw_numbers_with_their_byte_order(world):
    code = (
        "import sys, numpy as np; x = np.fromfile(sys.argv[1], '>f4'); np.append(x @ x, 2 "
        "* x).astype('>f4').tofile(sys.argv[2])"
    )
    program = ox.adapters.subprocess(
        [sys.executable, "-c", code, "{parameters}", "{value}"],
        parameters="p.bin",
        value="out/result.raw",
        gradient="out/result.raw",
        dtype=">f4",
    )
    # the program must make the folder of its results
    with pytest.raises(EvaluationError, match="No such file or directory"):
        program(np.ones(3), ctx=CONTEXT)
    program = ox.adapters.subprocess(
        [sys.executable, "-c", code, "{parameters}", "{value}"],
        parameters="p.bin",
        value="result.raw",
        gradient="result.raw",
        dtype=">f4",
    )
    value, gradient = program(np.array([1.0, 2.0, 3.0]), ctx=CONTEXT)
    assert value == 14.0
    np.testing.assert_array_equal(gradient, [2.0, 4.0, 6.0])


def test_text_by_templates(world):
    deck = "&input n={d} alpha={x[0]:.3e} beta={x[1]} /\nall:\n{x:.17g}\nseed {seed} braces {{}}\n"
    said = "iteration 1 cost=  9.0\ncost=   1.5D+01\ndJ/dp [ 1.0, -2.5E-1\n 3 ] end\nnorm 4.0\n"
    program = shell(
        f'cat deck.inp >&2; printf "{said}"; exit 3'.replace("\n", "\\n"),
        parameters=("deck.inp", deck),
        exit_codes=(0, 3),
        keep="always",
        value=("stdout.txt", "cost= {value}"),
        gradient=("stdout.txt", "dJ/dp [ {gradient} ]"),
        folder=str(world),
    )
    value, gradient = program(X, ctx=CONTEXT)
    assert value == 15.0, "the last one"
    np.testing.assert_array_equal(gradient, [1.0, -0.25, 3.0])
    kept = world / "evaluation-000007-2"
    numbers = "\n".join(f"{v:.17g}" for v in X)
    assert (
        (kept / "stderr.txt").read_text()
        == f"&input n=3 alpha=1.000e+00 beta=-2.5 /\nall:\n{numbers}\nseed 1234 braces {{}}\n"
    )


def test_a_work_directory_without_space_is_a_failed_evaluation(world):
    program = shell(COPY)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        with pytest.raises(EvaluationError, match=r"its files in .*tmp: .*; folder="):
            program(np.ones(10_000), ctx=CONTEXT)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


@pytest.mark.parametrize("name", ["g.txt", "g.npy", "g.bin"])
@pytest.mark.parametrize("make", ["mkfifo", "ln -s /dev/zero", "mkdir"])
def test_results_that_may_have_no_end_are_not_read(world, make, name):
    program = shell(f'{make} "$2"; mkfifo other; echo 1 > "$3"', gradient=name, keep="failed")
    with pytest.raises(EvaluationError, match=rf"{name} that cannot be read: it is a folder, a"):
        program(X, ctx=CONTEXT)
    (kept,) = (world / "home").glob("evaluation-*")
    assert (kept / "value.txt").read_text() == "1\n"
    assert not (kept / "other").exists()


def test_plain_text_keeps_every_digit_and_takes_comments(world):
    program = shell(
        '(echo "# gradient"; cat "$1") > "$2"; echo 1,,2 | tr -s , " " > /dev/null; '
        'echo NaN > "$3"',
        parameters="p.txt",
        gradient="g.txt",
    )
    value, gradient = program(np.array([0.1, 1 / 3, -1e-300]), ctx=CONTEXT)
    assert np.isnan(value)
    np.testing.assert_array_equal(gradient, [0.1, 1 / 3, -1e-300])


def test_a_gradient_alone_and_a_value_alone():
    only_gradient = shell('cp "$1" "$2"', value=None)
    res = ox.minimize(None, [1.0, 2.0], jac=only_gradient, optimizer=ox.SGD(0.5), maxiter=2)
    assert res.nfev == 0
    code = "import sys, numpy as np; x = np.load(sys.argv[1]); print(repr(float(x @ x)))"
    only_value = ox.adapters.subprocess(
        [sys.executable, "-c", code, "{parameters}"], value="stdout.txt", gradient=None
    )
    res = ox.minimize(
        only_value, [1.0, 2.0], jac="2-point", optimizer=ox.SGD(0.5), maxiter=1, parallelism=1
    )
    np.testing.assert_allclose(res.x, 0, atol=1e-6)
    assert (res.nfev, res.njev) == (6, 2)


def test_files_are_given_and_their_absence_is_explained(world):
    (world / "home" / "mesh.txt").write_text("5\n")
    (world / "home" / "tables").mkdir()
    with pytest.raises(EvaluationError, match=r"without mesh\.txt: pass files=\['mesh\.txt'\]"):
        ox.adapters.subprocess(["/bin/cat", "mesh.txt"], gradient="stdout.txt", value=None)(
            np.ones(1), ctx=CONTEXT
        )
    given = ox.adapters.subprocess(
        ["/bin/cat", "mesh.txt"], gradient="stdout.txt", value=None, files=["mesh.txt", "tables"]
    )
    np.testing.assert_array_equal(given(np.ones(1), ctx=CONTEXT), [5.0])
    assert (world / "home" / "tables").is_dir(), "links are removed, not what they point at"


# -- failures --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("echo tangled mesh >&2; echo so far; exit 4",
         r"sh ended with exit status 4; it said: tangled mesh"),
        ("kill -SEGV $$", "sh was killed by signal 11"),
        ('cp "$1" "$2"',
         r"sh wrote no value\.txt; its work directory holds gradient\.npy, parameters\.npy"),
        ('echo 1 > "$3"; echo no > "$2"', r"wrote a gradient\.npy that cannot be read"),
        ('cp "$1" "$2"; echo 1 2 > "$3"',
         r"wrote 2 numbers to value\.txt, expected the value alone"),
        ('cp "$1" "$2"; echo 1 oops > "$3"',
         r"wrote 'oops' to value\.txt, where a number was expected"),
        ('sleep 60 & echo "started $!" >&2; sleep 60',
         r"took longer than 2 s and was killed; it said: started"),
    ],
)  # fmt: skip
def test_failures_say_what_happened_and_keep_what_was_said(world, monkeypatch, text, says):
    limit = 30.0
    if "sleep" in text:  # it is over when the program has said what it says
        limit, looks = 2.0, []

        def clock():
            said = any(path.stat().st_size for path in world.glob("optex-core-*/stderr.txt"))
            looks.append(said)
            return 3600.0 * (said and len(looks) > 1)  # first it looks when the time begins

        clocks = SimpleNamespace(perf_counter=time.perf_counter, monotonic=clock)
        monkeypatch.setattr(programs, "time", clocks)
    program = shell(text, timeout=limit, keep="failed", folder=world)
    with pytest.raises(EvaluationError, match=says) as caught:
        program(X, ctx=CONTEXT)
    detail = caught.value.detail
    assert isinstance(detail, ProgramFailure)
    assert detail.workdir == str(world / "evaluation-000007-2")
    assert np.load(Path(detail.workdir, "parameters.npy")).shape == (3,)
    assert detail.expired == ("sleep" in text)
    if "tangled" in text:
        assert (detail.status, detail.stdout, detail.stderr) == (4, "so far\n", "tangled mesh\n")
    again = pickle.loads(pickle.dumps(caught.value))
    assert again.detail == detail
    assert wait_until(lambda: not [p for p in marked(world) if "sleep" in _command(p)]), (
        "its whole group ends"
    )


def _command(pid):
    try:
        return Path(f"/proc/{pid}/cmdline").read_text()
    except OSError:
        return ""


def test_the_wrong_number_of_numbers():
    with pytest.raises(
        EvaluationError, match=r"wrote 3 numbers to g\.txt, expected the gradient's 2"
    ):
        shell('echo 1 2 3 > "$2"; echo 1 > "$3"', gradient="g.txt")(np.ones(2), ctx=CONTEXT)
    with pytest.raises(
        EvaluationError, match=r"wrote 2 numbers to g\.txt, expected the value and the gradient's 2"
    ):
        shell('echo 1 2 > "$2"', gradient="g.txt", value="g.txt")(np.ones(2), ctx=CONTEXT)
    with pytest.raises(
        EvaluationError, match=r"stdout\.txt has no 'J = {value}'; it begins with 'K = 1"
    ):
        shell('cp "$1" "$2"; echo K = 1', value=("stdout.txt", "J = {value}"))(
            np.ones(2), ctx=CONTEXT
        )
    with pytest.raises(
        EvaluationError, match=r"wrote 4 bytes to g\.bin, which are no whole numbers of <f8"
    ):
        shell('printf 1234 > "$2"; echo 1 > "$3"', gradient="g.bin")(np.ones(2), ctx=CONTEXT)


def test_a_run_survives_programs_that_fail(world):
    flag = world / "failed"
    program = shell(f"[ -e {flag} ] || {{ touch {flag}; exit 9; }}; {COPY}")
    res = ox.minimize(
        program,
        [1.0, 2.0],
        optimizer=ox.SGD(0.5),
        parallelism=2,
        workers="threads",
        on_error="retry",
        maxiter=2,
    )
    assert res.nit == 2
    assert [f.error.detail.status for f in res.failures] == [9]


def test_what_a_program_leaves_running_ends_with_it(world):
    shell(f"sleep 77 & {COPY}")(X, ctx=CONTEXT)
    assert wait_until(lambda: not [p for p in marked(world) if "sleep" in _command(p)])


# -- nothing outlives anything ---------------------------------------------------------------------


def test_a_timeout_of_minimize_ends_the_program(world):
    program = shell("sleep 77")
    for workers in ("threads", 1):
        start = time.monotonic()
        with pytest.raises(EvaluationError, match=r"took longer than|timeout"):
            ox.minimize(program, [1.0], workers=workers, timeout=0.5, parallelism=1)
        assert time.monotonic() - start < 60
        assert wait_until(lambda: not marked(world)), workers


DRIVER = """
import sys, numpy as np, optex_core as ox
words = ["/bin/sh", "-c", "touch up; sleep 66 & sleep 66"]
program = ox.adapters.subprocess(words, folder={folder!r})
ox.minimize(program, np.ones(2), workers={workers}, parallelism=1)
"""


@pytest.mark.parametrize(
    ("workers", "folder"), [(None, "own"), ("threads", "temporary"), (1, "temporary")]
)
def test_a_killed_driver_leaves_neither_program_nor_folder(world, workers, folder):
    if workers == 1 and folder == "own":
        return  # the driver kills the worker's programs: the next test
    own = world / "own"
    own.mkdir()
    code = DRIVER.format(workers=repr(workers), folder=str(own) if folder == "own" else None)
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    driver = subprocess.Popen([sys.executable, "-c", code], env=env)
    place = own if folder == "own" else world / "tmp"
    assert wait_until(lambda: list(place.glob("optex-core-*/up")))
    driver.kill()
    driver.wait()
    assert wait_until(lambda: not marked(world))
    assert wait_until(lambda: not list(place.glob("optex-core-*")))


def test_a_killed_worker_leaves_no_program(world):
    workers, died = world / "workers", world / "died"
    program = shell(
        f"echo $PPID >> {workers}; "
        f"[ -e {died} ] || {{ touch {died}; sleep 66 & sleep 66; }}; {COPY}"
    )

    def kill():
        wait_until(died.exists)
        os.kill(int(workers.read_text().split()[0]), signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    res = ox.minimize(
        program, [1.0, 2.0], workers=1, optimizer=ox.SGD(0.5), parallelism=1, maxiter=1
    )
    killer.join()
    assert res.nit == 1  # it was not waited for
    assert wait_until(lambda: not [p for p in marked(world) if "sleep" in _command(p)])


def guardians(mark):
    return [p for p in marked(mark) if "process_cleanup" in _command(p)]


def test_a_killed_guardian_is_replaced_and_programs_go_on(world):
    up, go = world / "up", world / "go"
    program = shell(f"touch {up}; while [ ! -e {go} ]; do sleep 0.05; done; {COPY}")

    def kill():
        wait_until(up.exists)
        for guardian in guardians(world):
            os.kill(guardian, signal.SIGKILL)
        go.touch()

    killer = threading.Thread(target=kill)
    killer.start()
    assert program(X, ctx=CONTEXT)[0] == 2.0
    killer.join()
    assert program(X, ctx=CONTEXT)[0] == 2.0
    assert wait_until(lambda: len(guardians(world)) == 1)


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="/proc is not installed")
def test_what_leaves_its_group_is_ended_too(world):
    """Programs are found by the token in their environment, in whatever session."""
    code = DRIVER.replace("touch up; sleep 66 & sleep 66", "touch up; setsid sleep 66 & sleep 66")
    code = code.format(workers=None, folder=None)
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    driver = subprocess.Popen([sys.executable, "-c", code], env=env)
    assert wait_until(lambda: list((world / "tmp").glob("optex-core-*/up")))
    driver.kill()
    driver.wait()
    assert wait_until(lambda: not marked(world))


def test_an_interrupt_ends_the_program(world):
    program = shell("touch up; sleep 66")
    main = threading.get_ident()

    def strike():
        wait_until(lambda: list((world / "tmp").glob("optex-core-*/up")))
        signal.pthread_kill(main, signal.SIGINT)

    striker = threading.Thread(target=strike)
    striker.start()
    res = ox.minimize(program, [1.0], parallelism=1)
    striker.join()
    assert res.status is ox.Status.INTERRUPTED
    assert wait_until(lambda: not marked(world))


def test_an_interrupt_while_a_program_is_started_ends_it_too(world, monkeypatch):
    start = subprocess.Popen._execute_child

    def interrupted(self, words, *rest):
        start(self, words, *rest)
        if "sleep 66" in words:
            signal.raise_signal(signal.SIGINT)  # it runs, and `Popen` has not returned

    monkeypatch.setattr(subprocess.Popen, "_execute_child", interrupted)
    res = ox.minimize(shell("sleep 66"), [1.0], parallelism=1)
    assert res.status is ox.Status.INTERRUPTED
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert wait_until(lambda: not [p for p in marked(world) if "sleep" in _command(p)])


def test_an_evaluation_that_is_abandoned_before_it_starts_its_program_ends_it(world):
    begun, abandoned, worker = threading.Event(), threading.Event(), ThreadWorker()

    def late():
        begun.set()
        abandoned.wait()
        return shell("sleep 77")(X, ctx=CONTEXT)

    task = TaskFuture((late,))
    worker.start(task, None)
    begun.wait()
    assert not worker.terminate()
    abandoned.set()
    with pytest.raises(EvaluationError, match="its evaluation was abandoned"):
        task.result()
    worker._thread.join()
    assert not programs._abandoned_threads, "another thread may get its number"


def test_the_next_program_clears_what_nobody_could(world):
    gone = subprocess.run(
        [sys.executable, "-c", "import os; print(os.getpid())"],
        capture_output=True,
        text=True,
        check=True,
    )
    host = __import__("socket").gethostname()
    left = world / f"optex-core-{int(gone.stdout)}-x@{host}"
    others = [
        world / f"optex-core-{os.getpid()}-x@{host}",
        world / f"optex-core-{int(gone.stdout)}-x@elsewhere",
        world / "optex-core-notes",
    ]
    for folder in (left, *others):
        folder.mkdir()
    shell(COPY, folder=world)
    assert not left.exists()
    assert all(folder.exists() for folder in others)


@pytest.mark.parametrize("missing", ["groups", "pidfd"])
def test_where_the_system_has_less_programs_run_too(world, monkeypatch, missing):
    if missing == "groups":
        monkeypatch.setattr(programs, "POSIX", False)
    monkeypatch.delattr(os, "pidfd_open", raising=False)
    assert shell(COPY)(X, ctx=CONTEXT)[0] == 2.0
    with pytest.raises(EvaluationError, match="took longer than"):
        ox.adapters.subprocess(["/bin/sleep", "60"], timeout=0.2)(X, ctx=CONTEXT)
    with pytest.raises(EvaluationError, match="could not be started"):
        ox.adapters.subprocess(["{here}/nothing"])(X, ctx=CONTEXT)


# -- the door --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "error", "says"),
    [
        ({"command": []}, ArgumentError, "empty"),
        ({"command": 3}, ArgumentTypeError, "sequence of words"),
        ({"command": "nonsense-zzz"}, ArgumentError, "no program 'nonsense-zzz' on the PATH"),
        ({"command": "simulator"}, ArgumentError, r"\./simulator is here, write it so"),
        ({"command": "./nothing"}, ArgumentError, "there is no program .*/nothing"),
        ({"command": "./notes.txt"}, ArgumentError, r"is not executable; run: chmod \+x"),
        (
            {"command": "./simulator {paramters}"},
            ArgumentError,
            "nothing fills {paramters}; did you mean 'parameters'",
        ),
        ({"command": "./simulator {"}, ArgumentError, "written twice"),
        ({"parameters": ("p.npy", "{x}")}, ArgumentError, "suffix of a binary one"),
        ({"parameters": ("p.txt", "{y}")}, ArgumentError, "nothing fills {y}"),
        ({"parameters": 3}, ArgumentTypeError, "a file name or"),
        ({"gradient": "/tmp/g.npy"}, ArgumentError, "within the work directory"),
        ({"gradient": ("g.txt", "none")}, ArgumentError, r"has no {gradient}"),
        ({"gradient": None, "value": None}, ArgumentError, "both None"),
        ({"dtype": "reals"}, ArgumentTypeError, "NumPy dtype"),
        ({"timeout": 0}, ArgumentError, "timeout"),
        ({"keep": "failures"}, ArgumentError, "did you mean"),
        ({"files": ["nothing.msh"]}, ArgumentError, "nothing.msh"),
        ({"folder": "nowhere"}, ArgumentError, "create it first"),
        ({"time_out": 3}, ArgumentTypeError, "did you mean 'timeout'"),
    ],
)
def test_misuse_is_refused(world, change, error, says):
    (world / "home" / "notes.txt").touch()
    with pytest.raises(error, match=says):
        ox.adapters.subprocess(**{"command": "./simulator", **change})


def test_complex_parameters_are_refused():
    with pytest.raises(ArgumentTypeError, match="complex step"):
        shell(COPY)(X + 0j, ctx=CONTEXT)
    assert isinstance(shell(COPY), Program)
