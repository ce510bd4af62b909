"""What a hostile user gives to doors beside `minimize`: one sentence each, and nothing is begun."""

from __future__ import annotations

import numpy as np
import pytest

import optex_core as ox
from optex_core import testing
from optex_core.cli import main

X0 = np.array([1.0, -2.0, 0.5])


class Silent:
    """Does not say what it is."""

    def __repr__(self):
        raise RuntimeError("no")


def fun(x):
    return float(x @ x), 2 * x


@pytest.mark.parametrize("check", [testing.check_gradient, testing.check_objective])
@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"args": 3}, r"fun cannot be called with x and args=\(3,\): too many positional arguments"),
        ({"x0": "one"}, "x0 must hold real numbers"),
        ({"x0": np.ones((2, 2))}, r"x0 must have shape \(d,\) with d >= 1, got shape \(2, 2\)"),
        ({"x0": []}, r"x0 must have shape \(d,\) with d >= 1, got shape \(0,\)"),
        ({"x0": None}, "x0 must be a vector of numbers, got None"),
        ({"rng": "seed"}, "rng must be an integer, got 'seed'"),
        ({"rng": -1}, "rng must be an integer >= 0, got -1"),
        ({"noisy": "no"}, "noisy must be True or False, got 'no'"),
        ({"jac": Silent()}, "got an object of type Silent"),
    ],
)
def test_checks_of_functions(check, given, says):
    with pytest.raises((ox.ArgumentError, ox.ArgumentTypeError), match=says):
        check(fun, **{"x0": X0, **given})


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"bounds": 3}, "bounds"),
        ({"bounds": [(0, 1)]}, "bounds"),
        ({"expected_failures": ["purity"]}, r"expected_failures must map names of checks to reasons, got \['purity'\]"),
        ({"vectorized": "no"}, "vectorized must be True or False, got 'no'"),
        ({"estimate": np.array([])}, "estimate must be True or False"),
    ],
)
def test_what_only_check_objective_takes(given, says):
    with pytest.raises((ox.ArgumentError, ox.ArgumentTypeError), match=says):
        testing.check_objective(fun, X0, **given)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"parameters": None}, "parameters must name the file that the program reads"),
        ({"exit_codes": 0}, "exit_codes must be a sequence of integers, got 0"),
        ({"exit_codes": None}, "exit_codes must be a sequence of integers, got None"),
        ({"exit_codes": "01"}, "exit_codes must be a sequence of integers, got '01'"),
        ({"env": "PATH=/bin"}, "env must be a mapping of names to values, got 'PATH=/bin'"),
        ({"env": ["PATH"]}, r"env must be a mapping of names to values, got \['PATH'\]"),
        ({"files": 3}, "files must be a sequence of paths, got 3"),
        ({"files": [None]}, "files must be a sequence of paths, got None in it"),
        ({"files": "missing.txt"}, "files: there is no .*missing.txt$"),  # one name, and not its letters
        ({"folder": 3}, "folder must be a path, got 3"),
    ],
)
def test_programs(given, says):
    with pytest.raises((ox.ArgumentError, ox.ArgumentTypeError), match=says):
        ox.adapters.subprocess("true", **given)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: ox.SGD(0.1, momentum=0.9, nesterov="no"), "nesterov must be True or False, got 'no'"),
        (lambda: ox.Shampoo(spread=2), "spread must be True or False, got 2"),
        (lambda: ox.Shampoo(bias_correction=None), "bias_correction must be True or False, got None"),
        (
            lambda: ox.Adam(lambda: 0.1),
            "learning_rate is called with the number of steps taken, which .* does not take: too many",
        ),
        (lambda: ox.minimize(fun, X0, vectorized="no"), "vectorized must be True or False, got 'no'"),
        (lambda: ox.minimize(fun, X0, checkpoint="run.npz", resume="no"), "resume must be True or False, got 'no'"),
        (lambda: ox.minimize(fun, X0, callback=lambda: None), "callback is called with the result so far, which .* does not take"),
        (lambda: ox.minimize(fun, X0, progress=lambda: None), "progress is called with the result so far, which .* does not take"),
        (lambda: ox.minimize(fun, X0, on_error=lambda: "drop"), "on_error is called with the failure, which .* does not take"),
        (lambda: ox.minimize(fun, X0, optimizer=Silent()), "got an object of type Silent"),
        (lambda: ox.minimize(fun, X0, strategy=Silent()), "got an object of type Silent"),
        (lambda: ox.GradientEstimator(kernel=Silent()), "got an object of type Silent"),
        (lambda: ox.scipy_method(fun, X0, jac=True, callback="x"), "callback must be callable, got 'x'"),
        (lambda: ox.scipy_method(fun, X0, jac=True, disp=[]), r"disp must be True or False, got \[\]"),
        (lambda: ox.async_sgd.minimize(fun, X0, resume="no"), "resume must be True or False, got 'no'"),
        (lambda: ox.async_sgd.minimize(fun, X0, smoothness=np.ones(3)), "smoothness must be a number, got an array"),
    ],
)
def test_settings_and_loops(make, says, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    with pytest.raises((ox.ArgumentError, ox.ArgumentTypeError), match=says):
        make()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", [None, 3, ["sphere"], {}])
def test_what_is_no_name_finds_nothing(name):
    with pytest.raises(ox.ArgumentError, match="a problem is asked for by its name, got"):
        ox.problems.get_problem(name)


def test_a_result_can_be_shown_while_the_run_goes_on(capsys):
    assert ox.minimize(fun, X0, maxiter=3, callback=print).nit == 3
    shown = capsys.readouterr().out
    assert shown.count("stop: {}") == 2
    assert shown.count("maxiter: 3") == 1
    assert "stop: {}" in str(ox.OptEx(X0).result())
    ox.async_sgd.minimize(fun, X0, maxiter=3, callback=print)
    assert "stop: {}" in capsys.readouterr().out


def test_a_picture_is_drawn_to_a_file():
    history = ox.minimize(fun, X0, maxiter=2).history
    with pytest.raises(ox.ArgumentTypeError, match="path must be the name of a file or an open one, got 3"):
        history.plot(path=3)


@pytest.mark.parametrize("path", [None, 3, [], b"\0"])
def test_what_is_no_path_is_no_saved_run(path):
    with pytest.raises(ox.CheckpointError, match="the file of a saved run must be named by a path"):
        ox.OptEx.load(path)


def test_a_file_of_something_else_is_not_said_to_be_a_pickle_that_one_may_trust(tmp_path, capsys):
    (tmp_path / "text.npz").write_text("text")
    with pytest.raises(ox.CheckpointError, match="it begins like no .npy or .npz file"):
        ox.OptEx.load(tmp_path / "text.npz")
    assert main(["plot", str(tmp_path / "text.npz")]) == 1
    assert main(["minimize", "math:sqrt", "--x0", str(tmp_path / "text.npz")]) == 2
    said = capsys.readouterr().err
    assert said.count("it begins like no .npy or .npz file") == 2
    assert "pickle" not in said


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["bench", "overhead", "-d", "x"], "-d takes numbers of parameters such as 1000,1e6, got 'x'"),
        (["bench", "overhead", "-d", "inf"], "-d takes numbers of parameters such as 1000,1e6, got 'inf'"),
        (["bench", "overhead", "-d", "1e3,0"], "-d takes numbers of parameters from 1 on, got '0'"),
        (["bench", "overhead", "-d=-5"], "-d takes numbers of parameters from 1 on, got '-5'"),
        (["bench", "overhead", "--quick", "--parts", "rounds", "--only", "adma"], "--only 'adma': no cell of rounds has all of these words"),
        (["bench", "shampoo", "--tiles", "-1"], "--tiles must be an integer >= 1, got -1"),
        (["bench", "shampoo", "--interval", "0"], "--interval must be an integer >= 1, got 0"),
        (["minimize", "sphere", "--output", "file"], "is a file; name a folder"),
    ],
)
def test_the_command_line(words, says, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    assert main(words) == 2
    out, err = capsys.readouterr()
    assert says in err
    assert not out
    assert [p.name for p in tmp_path.iterdir()] == ["file"]
