"""The command line: what it prints, what it leaves behind, how it ends."""

from __future__ import annotations

import contextlib
import json
import os
import re
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from clocks import Clock
from fresh_python import python

import optex_core as ox
import optex_core.bench
from optex_core.bench import case_names, get_case
from optex_core.cli import main
from optex_core.cli.app import COMMANDS
from optex_core.cli.baseline import BaselineRow, common_value, comparison
from optex_core.cli.doctor import ENVIRONMENT_CHECKS, EnvironmentCheck, _outcome, _start
from optex_core.cli.optimizer_text import read_optimizer
from optex_core.cli.problem_source import get_problem_source, size_setting
from optex_core.cli.run_folder import FILE, Run, load_run, new_folder, save_run
from optex_core.engine.trace import IterationRecord, Trace
from optex_core.errors import ArgumentError, CheckpointError
from optex_core.problems import PROBLEMS

BOWL = """
import numpy as np

def bowl(x):
    return float(x @ x), 2 * x

def lying(x):
    return float(x @ x), x

def value(x):
    return float(x @ x)

def slope(x):
    return 2 * x

def rows(X):
    return (X * X).sum(1), 2 * X

def row_values(X):
    return (X * X).sum(1)

def cliff(x):
    return float("nan"), x

number = 3
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory with a module of the user's."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "bowls", raising=False)
    (tmp_path / "bowls.py").write_text(BOWL)
    return tmp_path


def falling(rows: int, rate: float) -> Trace:
    trace = Trace()
    for k in range(rows):
        trace.append(
            IterationRecord(
                k,
                value=10.0 * rate**k,
                evaluations=2,
                accepted=1,
                window=1,
                slowest=0.5,
                overhead=0.1,
                seconds=1.0,
            )
        )
    return trace


def shell(text: str) -> list[str]:
    """The arguments in a line of the shell."""
    return text.split()


def command(*arguments: str) -> int:
    try:
        return main(arguments)
    except SystemExit as end:  # argparse ends the process itself
        return int(end.code or 0)


def test_a_real_process(here: Path) -> None:
    words = ["minimize", "rosenbrock", "--workers", "2", "--maxiter", "20", "--seed", "3"]
    done = python("-W", "error", "-m", "optex_core", *words, cwd=here)
    assert done.returncode == 0, done.stderr
    assert "rosenbrock: 10 parameters, lbfgs" in done.stdout
    assert "in 2 worker processes" in done.stdout
    assert "fewer rounds" in done.stdout
    assert "\r" not in done.stdout + done.stderr, (
        "progress is not rewritten in place where nobody watches"
    )
    run = load_run(here / "optex-runs" / "rosenbrock-4")
    assert run.summary["nit"] == 20
    assert run.summary["status"] == "MAXITER"
    assert len(run.trace) == 21, "20 rounds and the final evaluation"
    assert run.summary["value"] == run.trace.value[-1]
    assert list(run.baselines), "the optimizer alone is kept with the run"
    assert (here / "optex-runs" / "rosenbrock-4" / "run.png").stat().st_size > 10_000


def test_minimize_a_function_of_the_user(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    np.save("start.npy", np.array([3.0, -4.0]))
    options = shell(
        "--optimizer sgd --learning-rate 0.1 --workers 0 --gtol 1e-5 --output out --no-plot --quiet"
    )
    assert command("minimize", "bowls:bowl", "--x0", "start.npy", *options) == 0
    said = capsys.readouterr()
    assert "below gtol" in said.out
    assert said.err == ""
    run = load_run(here / "out" / FILE)
    assert np.abs(2 * run.x).max() <= 1e-5
    assert not (here / "out" / "run.png").exists()


def test_minimize_goes_on_from_a_checkpoint(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = shell(
        "minimize sphere --workers 0 --no-baseline --no-plot --quiet "
        "--checkpoint run.optex --resume"
    )
    assert command(*options, "--maxiter", "2", "--output", "a") == 0
    assert command(*options, "--maxiter", "2", "--output", "a") == 0, "nothing is left to do"
    assert load_run("a").summary["nit"] == 2


def test_minimize_an_external_program_within_bounds(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code = (
        "import sys, numpy as np; x = np.loadtxt(sys.argv[1]); np.save(sys.argv[2], 2 * "
        "x); print(x @ x)"
    )
    (here / "simulate.py").write_text(code)
    np.save("x0.npy", np.array([2.0, 3.0]))
    command_line = f"{sys.executable} simulate.py {{parameters}} {{gradient}}"
    options = shell(
        "--parameters p.txt --value stdout.txt --files simulate.py --bounds=0.5,9 "
        "--x0 x0.npy --no-plot"
    )
    method = shell("--optimizer sgd --learning-rate 0.4 --maxiter 3 --output out --baseline-time 5")
    assert command("minimize", "--program", command_line, *options, *method) == 0, (
        capsys.readouterr()
    )
    said = capsys.readouterr().out
    assert "in processes of its own" in said
    run = load_run(here / "out" / FILE)
    assert run.x.tolist() == [0.5, 0.5]
    assert command("plot", "out", "--output", "picture.docx") == 2
    assert "known are .png" in capsys.readouterr().err


def test_a_comparison_that_the_clock_cuts_off_says_what_allows_more(
    capsys: pytest.CaptureFixture[str], here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Clock(monkeypatch)
    (here / "slow.py").write_text(
        "import time\n\ndef fun(x):\n    time.perf_counter.advance(0.05)\n    return x @ x, 2 * x\n"
    )
    options = shell(
        "--dimension 3 --optimizer sgd --learning-rate 0.01 --maxiter 9 --workers 0 --no-plot"
    )
    command("minimize", "slow:fun", *options, "--baseline-time", "0.4")
    assert (
        "rounds (max_time); --baseline-time allows more than 0.4 s in all"
        in capsys.readouterr().out
    )


def test_status_tells_success(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    quick = ["--workers", "0", "--no-plot", "--no-baseline", "--quiet"]
    assert command("minimize", "sphere", "--target", "1e-3", *quick) == 0
    assert command("minimize", "sphere", "--target", "1e-30", "--maxiter", "2", *quick) == 1
    assert command("minimize", "bowls:cliff", "--dimension", "2", "--maxiter", "2", *quick) == 1


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["minimize"], "--list shows them"),
        (["minimize", "spere"], "did you mean 'sphere'"),
        (["minimize", "sphere", "--set", "d"], "takes key=value"),
        (["minimize", "sphere", "--set", "e=3"], "no setting 'e'"),
        (["minimize", "sphere", "--dimension", "3"], "--size or --set"),
        (["minimize", "beale", "--size", "3"], "has no size"),
        (["minimize", "sphere", "--optimizer", "adm"], "did you mean"),
        (
            ["minimize", "bowls:bowl", "--dimension", "3", "--optimizer", "sgd"],
            "give --learning-rate",
        ),
        (["minimize", "bowls:bowl"], "--x0 FILE.npy, or --dimension"),
        (["minimize", "bowls:bowl", "--dimension", "0"], "at least 1"),
        (["minimize", "bowls:bole", "--dimension", "3"], "has no 'bole'"),
        (["minimize", "bowls:bole"], "has no 'bole'"),
        (["minimize", "sphere", "--resume"], "--resume needs --checkpoint FILE"),
        (["minimize", "bowls:number", "--dimension", "3"], "not callable"),
        (["minimize", "basins:bowl", "--dimension", "3"], "no module 'basins'"),
        (["minimize", "bowls:bowl", "--x0", "bowls.py"], "it is no .npy file"),
        (["minimize", "bowls:bowl", "--x0", "."], "it is a folder, a pipe or a device"),
        (["minimize", ":bowl", "--dimension", "3"], "module:function, the module as in `import`"),
        (["check", "../bowls:bowl", "--dimension", "3"], "module:function, the module as in `imp"),
        (["minimize", "bowls:bowl", "--x0", "nothing.npy"], "there is no file nothing.npy"),
        (["minimize", "sphere", "--bounds", "3"], "LOW,HIGH"),
        (
            ["minimize", "sphere", "--bounds", "nothing.npy"],
            "--bounds: there is no file nothing.npy",
        ),
        (["minimize", "sphere", "--program", "/bin/true"], "give one of them"),
        (["minimize", "--program", "./nothing", "--dimension", "2"], "there is no program"),
        (["minimize", "--program", "/bin/true"], "where shall true start"),
        (["minimize", "--program", "/bin/true {x}", "--dimension", "2"], "nothing fills {x}"),
        (["minimize", "bowls:bowl", "--size", "3"], "for built-in problems"),
        (["plot", "nothing"], "no saved run"),
        (["bench", "nothing"], "unknown benchmark"),
    ],
)
def test_misuse_is_explained(
    here: Path, capsys: pytest.CaptureFixture[str], words: list[str], sentence: str
) -> None:
    assert command(*words) == 2
    said = capsys.readouterr()
    assert sentence in said.err
    assert "Traceback" not in said.err
    assert len(said.err.strip().splitlines()) == 1


def test_help_and_version(capsys: pytest.CaptureFixture[str]) -> None:
    for words in (["--help"], *([name, "--help"] for name in COMMANDS)):
        assert command(*words) == 0
        text = capsys.readouterr().out
        assert "examples:" in text
        assert "optex-core" in text
    assert command("--version") == 0
    assert capsys.readouterr().out.startswith("optex_core ")
    assert command() == 2
    assert command("minimise") == 2


def test_list_names_everything(capsys: pytest.CaptureFixture[str]) -> None:
    from optex_core.model.kernels import KERNELS
    from optex_core.optimizers import OPTIMIZERS
    from optex_core.strategies import STRATEGIES

    assert command("minimize", "--list") == 0
    words = capsys.readouterr().out.split()
    assert {*PROBLEMS, *OPTIMIZERS, *STRATEGIES, *KERNELS} <= set(words)


def test_check(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command("check", "bowls:bowl", "--dimension", "5") == 0
    assert command("check", "bowls:lying", "--dimension", "5") == 1
    assert command("check", "rosenbrock", "--size", "4") == 0
    assert "not the derivative" in capsys.readouterr().out


def test_check_of_separate_and_of_vectorized_functions(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    five = ("--dimension", "5", "--no-estimate")
    assert command("check", "bowls:value", "--jac", "bowls:slope", *five) == 0
    assert command("check", "bowls:value", "--jac", "bowls:slope", "--gradient-only", *five) == 0
    assert command("check", "bowls:value", "--jac", "bowls:cliff", "--gradient-only", *five) != 0
    assert command("check", "bowls:value", "--jac", "3-point", "--no-estimate", *five) == 0
    assert command("check", "bowls:rows", "--vectorized", *five) == 0
    assert command("check", "bowls:rows", "--vectorized", "--gradient-only", *five) == 0
    assert command("check", "bowls:row_values", "--jac", "bowls:slope", "--vectorized", *five) == 0
    assert (
        command(
            *shell("check bowls:row_values --jac bowls:slope --vectorized --gradient-only"), *five
        )
        == 0
    )
    assert "gradient of row_values" in capsys.readouterr().out
    assert command("check", "bowls:value", "--jac", "bowls:slop", *five) != 0
    assert "bowls has no 'slop'" in capsys.readouterr().err


def test_bench_lists_its_cases(capsys: pytest.CaptureFixture[str]) -> None:
    assert command("bench") == 0
    lines = [line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines()]
    assert [name for name, _ in lines] == case_names()
    assert all(text[:1].isupper() for _, text in lines)
    assert all(callable(get_case(name).main) for name in case_names())


def test_bench_hands_everything_to_the_case(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    # A case is one new file in the folder.
    (tmp_path / "echo_case.py").write_text(
        '"""Returns how many options it got."""\ndef main(argv):\n    return len(argv)\n'
    )
    (tmp_path / "_shared.py").write_text("")
    monkeypatch.setattr("optex_core.bench.__path__", [*optex_core.bench.__path__, str(tmp_path)])
    monkeypatch.delitem(sys.modules, "optex_core.bench.echo_case", raising=False)
    assert "_shared" not in case_names()
    assert command("bench") == 0
    assert "echo_case   Returns how many options it got.\n" in capsys.readouterr().out
    assert command("bench", "echo_case") == 0
    assert command("bench", "echo_case", "--help", "-n", "3", "word") == 4
    monkeypatch.delitem(sys.modules, "optex_core.bench.echo_case")


def test_doctor_tries_things() -> None:
    works = EnvironmentCheck("g", "works", "numpy", "print('fine')", "")
    raises = EnvironmentCheck("g", "raises", "numpy", "raise RuntimeError('no driver')", "")
    absent = EnvironmentCheck("g", "absent", "no_such_module", "", "pip install it")
    dies = EnvironmentCheck("g", "dies", "numpy", "import os; os.abort()", "")
    hangs = EnvironmentCheck("g", "hangs", "numpy", "import time; time.sleep(60)", "")
    assert _outcome(works, _start(works), 60) == (True, "fine")
    assert _outcome(raises, _start(raises), 60) == (False, "RuntimeError: no driver")
    assert _outcome(absent, _start(absent), 60) == (False, "not installed; pip install it")
    assert _outcome(dies, _start(dies), 60)[1].startswith("ended by signal 6")
    assert _outcome(hangs, _start(hangs), 0.1) == (False, "did not answer within 0.1 s")
    assert {"numpy", "numba", "cupy", "threads", "processes", "programs", "dask", "mpi", "ray"} <= {
        trial.name for trial in ENVIRONMENT_CHECKS
    }


def test_doctor_works_without_what_it_looks_for(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("optex_core.cli.doctor.ENVIRONMENT_CHECKS", ())
    monkeypatch.setitem(sys.modules, "loky", None)
    assert command("doctor") == 0
    assert "cores" in capsys.readouterr().out


def test_doctor_prints_what_works(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "optex_core.cli.doctor.ENVIRONMENT_CHECKS",
        tuple(trial for trial in ENVIRONMENT_CHECKS if trial.name in ("numpy", "tqdm")),
    )
    assert command("doctor") == 0
    said = capsys.readouterr().out
    assert "yes numpy" in said
    assert "cores" in said
    monkeypatch.setattr(
        "optex_core.cli.doctor.ENVIRONMENT_CHECKS",
        (EnvironmentCheck("g", "broken", "numpy", "raise SystemError", "", required=True),),
    )
    assert command("doctor") == 1


def test_runs_come_back_from_their_file(tmp_path: Path) -> None:
    run = Run(
        np.arange(3.0), falling(4, 0.5), {"name": "a", "nit": 3}, {"alone, x 2": falling(9, 0.9)}
    )
    back = load_run(save_run(run, tmp_path / "new"))
    assert np.array_equal(back.x, run.x)
    assert back.trace == run.trace
    assert dict(back.baselines) == run.baselines
    assert back.summary == run.summary
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == [FILE], (
        "nothing temporary stays"
    )


@pytest.mark.parametrize("earlier", [False, True])
def test_damage_is_one_sentence_and_files_of_earlier_versions_are_read(
    tmp_path: Path, earlier: bool
) -> None:
    trace, file, rng = falling(4, 0.5), tmp_path / FILE, np.random.default_rng(0)
    save_run(Run(np.ones(2), trace, {"nit": 3}), tmp_path)
    if earlier:
        header = {"format": "optex_core run", "version": 1, "summary": {}, "baselines": []}
        columns = {f"trace0.{name}": column for name, column in trace.to_arrays().items()}
        np.savez_compressed(file, header=np.array(json.dumps(header)), x=np.ones(2), **columns)
    assert load_run(file).trace == trace
    data, accepted = file.read_bytes(), 0
    for _ in range(150):
        damaged = bytearray(data)
        damaged[rng.integers(len(data))] ^= 1 << rng.integers(8)
        file.write_bytes(damaged)
        with contextlib.suppress(CheckpointError):
            # Its members are named by the file's own directory alone in files of earlier versions.
            assert load_run(file).trace == trace or earlier
            accepted += 1
    assert earlier or accepted < 75, "bits of dates and of padding alone say nothing"


def test_foreign_files_are_refused(tmp_path: Path) -> None:
    file = tmp_path / FILE
    file.write_bytes(b"not a run")
    with pytest.raises(CheckpointError, match="not a saved run"):
        load_run(file)
    np.savez(file, x=np.ones(3))
    with pytest.raises(CheckpointError, match="not a saved run"):
        load_run(file)
    np.savez(file, header=np.array(json.dumps({"format": "optex_core run", "version": 99})))
    with pytest.raises(CheckpointError, match="has version 99"):
        load_run(file)
    ox.OptEx(np.ones(3)).save(file)
    with pytest.raises(CheckpointError, match="is a checkpoint, to go on from"):
        load_run(file)
    whole = save_run(Run(np.arange(3.0), falling(4, 0.5), {}), tmp_path).read_bytes()
    file.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(CheckpointError, match="damaged"):
        load_run(file)


def test_folders_are_never_reused(here: Path) -> None:
    names = [new_folder("bowls:bowl").as_posix() for _ in range(3)]
    assert names == ["optex-runs/bowls_bowl", "optex-runs/bowls_bowl-2", "optex-runs/bowls_bowl-3"]


def test_plot_draws_a_saved_run(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    summary = {
        "name": "bowl",
        "d": 3,
        "strategy": "auto",
        "parallelism": 2,
        "message": "Done.",
        "value": 0.1,
        "nit": 3,
        "njev": 8,
    }
    save_run(Run(np.arange(3.0), falling(4, 0.5), summary), here / "a")
    save_run(Run(np.arange(3.0), falling(9, 0.9), summary), here / "b")
    assert command("plot", "a", "--with", "b", "--output", "both.svg") == 0
    assert "auto, 2 gradients at once (b)" in (here / "both.svg").read_text()
    assert command("plot", "a/run.npz") == 0
    assert (here / "a" / "run.png").exists()


def test_comparison_counts_to_the_common_value() -> None:
    own, alone, short = (
        BaselineRow("own", 0.1, falling(5, 0.5)),
        BaselineRow("alone", 0.1, falling(9, 0.5**0.5)),
        BaselineRow("short", 0.1, falling(3, 0.9)),
    )
    value = common_value(own.trace)
    # Rounding decides below 1e-10 of the way down.
    assert value == pytest.approx(own.trace.value.min(), rel=1e-8)
    assert (own.reached(value), alone.reached(value), short.reached(value)) == (4, 8, None)
    text = comparison([own, alone, short], value, 2).splitlines()
    # Four rounds of two gradients, a second each here, 0.6 s each if all ran at once.
    assert text[2].split() == ["own", "0.1", "4", "9", "4", "2.4"]
    assert text[3].split()[-2:] == ["2", "x"]
    assert "> 2" in text[4], "what was not reached is a bound"
    assert np.isnan(common_value(falling(3, 1.5))), "a run that has not come down sets no value"


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="there is no /proc here")
def test_an_output_that_cannot_be_written_is_refused_before_the_run(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert command("minimize", "sphere", "--output", "/proc/optex") == 2
    assert "/proc cannot be written" in capsys.readouterr().err


def test_settings_of_problems() -> None:
    args = SimpleNamespace(
        settings=["noise=0.5", "seed=3"], size=8, dimension=None, x0=None, seed=0
    )
    source = get_problem_source("heat_inversion", args)  # type: ignore[arg-type]
    assert (source.fun.size, source.fun.noise, source.fun.seed) == (8, 0.5, 3)  # type: ignore[attr-defined]
    assert len(source.x0) == 64
    assert size_setting("sphere") == "d"
    with pytest.raises(ArgumentError, match="has no size"):
        size_setting("beale")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("sgd(learning_rate=0.5, momentum=0.9)", ox.SGD(0.5, momentum=0.9)),
        ("sgd(0.5)", ox.SGD(0.5)),
        ("adam", ox.Adam()),
        ("clip_by_norm(sgd(0.1), 1.0)", ox.ClipByNorm(ox.SGD(0.1), 1.0)),
        ("adam(cosine(0.1, 200))", ox.Adam(ox.schedules.Cosine(0.1, 200))),
    ],
)
def test_optimizers_as_text(text: str, expected: object) -> None:
    assert read_optimizer(text) == expected


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("sgd(rate=3)", "unknown option 'rate'"),
        ("sgdd(0.1)", "did you mean 'sgd'"),
        ("sgd(lambda: 3)", "is no number, text, tuple or call"),
        ("sgd(0.1", "takes a name or name"),
        ("sgd(**{})", "settings are written name=value"),
        ("sgd", "has no default learning rate; give --learning-rate"),
        ("__import__('os').system('true')", "is no number, text, tuple or call"),
    ],
)
def test_text_that_is_no_optimizer(text: str, sentence: str) -> None:
    with pytest.raises(ArgumentError, match=re.escape(sentence)):
        read_optimizer(text)


def test_lbfgsb_is_the_first_baseline(capsys: pytest.CaptureFixture[str], here: Path) -> None:
    options = ["--workers", "threads", "--no-plot", "--quiet", "--optimizer", "adam(0.05)"]
    assert command("minimize", "rosenbrock", *options) == 0
    table = [line for line in capsys.readouterr().out.splitlines() if " x" in line]
    assert table[0].startswith("SciPy's L-BFGS-B")
    assert "optimizer alone" in table[1]


def test_raw_numbers_are_told_as_such(capsys: pytest.CaptureFixture[str], here: Path) -> None:
    np.savez(here / "cut.npy", x=np.ones(5))
    os.rename(here / "cut.npy.npz", here / "cut.npy")
    (here / "cut.npy").write_bytes((here / "cut.npy").read_bytes()[:-9])
    assert command("minimize", "bowls:bowl", "--x0", "cut.npy") == 2
    assert "damaged .npz file" in capsys.readouterr().err
    np.ones(5).tofile(here / "raw.npy")
    np.save(here / "objects.npy", np.array([1, "a"], dtype=object))
    assert command("minimize", "bowls:bowl", "--x0", "raw.npy") == 2
    told = capsys.readouterr().err
    assert "5 of float64 would fit" in told
    assert "allow_pickle" not in told
    assert command("minimize", "bowls:bowl", "--x0", "objects.npy") == 2
    assert "holds Python objects" in capsys.readouterr().err


def test_a_missing_gradient_is_told_in_options(
    capsys: pytest.CaptureFixture[str], here: Path
) -> None:
    (here / "values.py").write_text("def fun(x):\n    return float(x @ x)\n")
    assert command("check", "values:fun", "--dimension", "3") == 1
    told = capsys.readouterr().err
    assert "--jac module:function" in told
    assert "jac=" not in told
    assert command("check", "values.py:fun", "--dimension", "3") == 2
    assert "write values:fun" in capsys.readouterr().err


def test_results_are_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert command("bench", "--results") == 0
    assert "optex-core bench efficiency" in capsys.readouterr().out


def test_the_help_explains_the_progress_line(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["minimize", "--help"])
    said = capsys.readouterr().out
    assert "steps a/w" in said
    assert "gradient prediction error" in said
