"""What a hostile user gives to doors beside `minimize`: one sentence each, and nothing is begun."""

from __future__ import annotations

from decimal import Decimal
from fractions import Fraction

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
        (
            {"args": 3},
            r"fun cannot be called with x and args=\(3,\): too many positional arguments",
        ),
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
        (
            {"expected_failures": ["purity"]},
            r"expected_failures must map names of checks to reasons, got \['purity'\]",
        ),
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
        # one name, and not its letters
        ({"files": "missing.txt"}, "files: there is no .*missing.txt$"),
        ({"folder": 3}, "folder must be a path, got 3"),
    ],
)
def test_programs(given, says):
    with pytest.raises((ox.ArgumentError, ox.ArgumentTypeError), match=says):
        ox.adapters.subprocess("true", **given)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: ox.SGD(0.1, momentum=0.9, nesterov="no"),
         "nesterov must be True or False, got 'no'"),
        (lambda: ox.Shampoo(spread=2), "spread must be True or False, got 2"),
        (lambda: ox.Shampoo(bias_correction=None),
         "bias_correction must be True or False, got None"),
        (
            lambda: ox.Adam(lambda: 0.1),
            "learning_rate is called with the number of steps taken, which .* does not "
            "take: too many",
        ),
        (lambda: ox.minimize(fun, X0, vectorized="no"),
         "vectorized must be True or False, got 'no'"),
        (lambda: ox.minimize(fun, X0, checkpoint="run.npz", resume="no"),
         "resume must be True or False, got 'no'"),
        (lambda: ox.minimize(fun, X0, callback=lambda: None),
         "callback is called with the result so far, which .* does not take"),
        (lambda: ox.minimize(fun, X0, progress=lambda: None),
         "progress is called with the result so far, which .* does not take"),
        (lambda: ox.minimize(fun, X0, on_error=lambda: "drop"),
         "on_error is called with the failure, which .* does not take"),
        (lambda: ox.minimize(fun, X0, optimizer=Silent()), "got an object of type Silent"),
        (lambda: ox.minimize(fun, X0, strategy=Silent()), "got an object of type Silent"),
        (lambda: ox.GradientEstimator(kernel=Silent()), "got an object of type Silent"),
        (lambda: ox.scipy_method(fun, X0, jac=True, callback="x"),
         "callback must be callable, got 'x'"),
        (lambda: ox.scipy_method(fun, X0, jac=True, disp=[]),
         r"disp must be True or False, got \[\]"),
        (lambda: ox.async_sgd.minimize(fun, X0, resume="no"),
         "resume must be True or False, got 'no'"),
        (lambda: ox.async_sgd.minimize(fun, X0, smoothness=np.ones(3)),
         "smoothness must be a number, got an array"),
    ],
)  # fmt: skip
def test_settings_and_loops(make, says, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    with pytest.raises((ox.ArgumentError, ox.ArgumentTypeError), match=says):
        make()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: ox.SGD(10**400), "learning_rate must be a number that a float can hold, got 1000"),
        (lambda: ox.SGD(10**5000),
         "learning_rate must be a number that a float can hold, got an object of type int"),
        (lambda: ox.minimize(fun, X0, gtol=10**400),
         "gtol must be a number that a float can hold, got 1000"),
        (lambda: ox.minimize(fun, X0, parallelism=10**400),
         r"parallelism must be an integer <= 100000, got 1000+\.\.\.$"),
        (lambda: ox.minimize(fun, X0, parallelism=-(10**400)),
         r"parallelism must be an integer >= 1, got -1000+\.\.\.$"),
        (lambda: ox.minimize(fun, X0, x_scale=10**400),
         "x_scale must be a positive number or 3 of them, got 1000"),
        (lambda: ox.minimize(fun, X0, x_scale=X0 * 1j),
         "x_scale must be a positive number or 3 of them, got an array"),
        (lambda: ox.minimize(fun, X0, bounds=[(0, 10**400)] * 3),
         "bounds must be numbers that fit 3 parameters: an integer that no float can hold"),
        (lambda: ox.minimize(fun, X0, bounds=[(0, 1j)] * 3),
         "bounds must be numbers that fit 3 parameters: complex numbers"),
        (lambda: ox.Projected("adam", low=X0 * 1j),
         "low must be a number or an array of numbers, got an array"),
        (lambda: ox.Shampoo(delay=10**30), "delay must be an integer <= 1000000, got 1000"),
        (lambda: ox.Shampoo(exponent=10**400),
         "exponent must be a number that a float can hold, got 1000"),
        (lambda: ox.Shampoo(shapes=np.array(3)),
         r"shapes must be a dict of names to shapes, .*, got 3$"),
        (lambda: ox.strategies.Verified(window=10**30),
         "window must be an integer <= 9007199254740992, got 1000"),
        (lambda: ox.RMSprop(0.1, centered=X0), "centered must be True or False, got an array"),
        (lambda: ox.GradientEstimator(length_scale=5e-324),
         "length_scale must be a number >= 1e-150 and <= 1e.150, got 5e-324"),
        (lambda: ox.OptEx(X0).save("a\0b"),
         r"path='a\\x00b' cannot be the name of a file: embedded null byte"),
        (lambda: ox.warm_up(dtype=None, backend="numpy"),
         "dtype must be a sequence of names of dtypes, got None"),
        (lambda: ox.warm_up(dtype="float16", backend="numpy"),
         "dtype must be one of 'float32', 'float64', got 'float16'"),
        (lambda: ox.adapters.subprocess("true", dtype=np), "dtype must name a NumPy dtype"),
        (lambda: ox.adapters.subprocess("true", files=np.array(3)),
         r"files must be a sequence of paths, got array\(3\)"),
        (lambda: ox.flatten([1.0, 10**400]),
         r"\[1\] must be a number that a float can hold, got 1000"),
        (lambda: ox.async_sgd.minimize(fun, X0, rate=lambda: 0.1),
         "rate is called with the version, which .* does not take"),
        (lambda: ox.async_sgd.minimize(fun, X0, step=lambda t: 1.0),
         "step is called with version and delay, which .* does not take"),
        (lambda: ox.async_sgd.minimize(fun, X0, callback=lambda: None),
         "callback is called with the result so far, which .* does not take"),
        (lambda: ox.async_sgd.run(ox.async_sgd.Master(X0), lambda v: v, maxiter=3),
         "burst is called with v and ctx, which"),
        (lambda: ox.async_sgd.Master(X0, log=3), "log must be the path of a file, got 3"),
        (lambda: ox.async_sgd.replay(3), "path must be the path of a file, got 3"),
    ],
)  # fmt: skip
def test_numbers_without_limits_and_things_of_another_kind(make, says, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        (ox.ArgumentError, ox.ArgumentTypeError, ox.CheckpointError), match=says
    ) as caught:
        make()
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 300
    assert not list(tmp_path.iterdir())


def test_a_value_beyond_all_floats_is_refused_and_the_engine_goes_on():
    engine = ox.OptEx(X0, optimizer=ox.SGD(0.1), rng=0)
    (c,) = engine.ask()
    with pytest.raises(
        ox.ArgumentError, match="value must be a number that a float can hold, got 1000"
    ):
        engine.tell(c.id, gradient=2 * c.x, value=10**400)
    engine.tell(c.id, gradient=2 * c.x, value=5.25)
    assert engine.state.nit == 1


@pytest.mark.parametrize("number", [np.uint8, np.array, Fraction, Decimal])
def test_settings_hold_numbers_of_python_whatever_came(number):
    optimizer = ox.ClipByValue(
        ox.Shampoo(
            0.1, shapes=[(3, 1)], block_size=number(2) if number in (np.uint8, np.array) else 2
        ),
        number(1),
    )
    x, _ = optimizer.step(X0, 5 * X0, optimizer.init(X0))
    plain = ox.ClipByValue(ox.Shampoo(0.1, shapes=[(3, 1)], block_size=2), 1)
    np.testing.assert_array_equal(x, plain.step(X0, 5 * X0, plain.init(X0))[0])
    assert optimizer == plain
    assert type(optimizer.max_value) in (int, float)
    half = ox.Adam(
        0.1,
        b1=Fraction(1, 2)
        if number is Fraction
        else Decimal("0.5")
        if number is Decimal
        else np.float32(0.5),
    )
    assert half == ox.Adam(0.1, b1=0.5)
    assert type(half.b1) is float
    res = ox.minimize(
        fun,
        X0,
        optimizer=half,
        ftol=Decimal("1e-3"),
        max_time=Fraction(600),
        estimator=ox.GradientEstimator(length_scale=10**30),
    )
    assert res.stop.keys() == {"ftol"}


def test_bursts_whose_values_sum_to_more_than_a_float_have_their_mean():
    def diverging(x, *, seed):
        return 1.5e308, 0.0 * x

    res = ox.async_sgd.minimize(diverging, X0, rate=0.1, inner_steps=4, maxiter=2, rng=0)
    assert res.history.value[-1] == 1.5e308


@pytest.mark.parametrize("name", [None, 3, ["sphere"], {}])
def test_what_is_no_name_finds_nothing(name):
    with pytest.raises(ox.ArgumentError, match="a problem is asked for by its name, got"):
        ox.problems.get_problem(name)


def test_a_result_can_be_shown_while_the_run_goes_on(capsys):
    assert ox.minimize(fun, X0, optimizer="adam", maxiter=3, callback=print).nit == 3
    shown = capsys.readouterr().out
    assert shown.count("stop: {}") == 2
    assert shown.count("maxiter: 3") == 1
    assert "stop: {}" in str(ox.OptEx(X0).result())
    ox.async_sgd.minimize(fun, X0, maxiter=3, callback=print)
    assert "stop: {}" in capsys.readouterr().out


def test_a_picture_is_drawn_to_a_file():
    history = ox.minimize(fun, X0, maxiter=2).history
    with pytest.raises(
        ox.ArgumentTypeError, match="path must be the name of a file or an open one, got 3"
    ):
        history.plot(path=3)


@pytest.mark.parametrize("path", [None, 3, [], b"\0"])
def test_what_is_no_path_is_no_saved_run(path):
    with pytest.raises(
        ox.CheckpointError, match="the saved run must be named by the path of a file, got"
    ):
        ox.OptEx.load(path)


def test_a_file_of_something_else_is_not_said_to_be_a_pickle_that_one_may_trust(tmp_path, capsys):
    (tmp_path / "text.npz").write_text("text")
    with pytest.raises(ox.CheckpointError, match="is not a saved run, or it is damaged"):
        ox.OptEx.load(tmp_path / "text.npz")
    assert main(["plot", str(tmp_path / "text.npz")]) == 1
    assert main(["minimize", "math:sqrt", "--x0", str(tmp_path / "text.npz")]) == 2
    said = capsys.readouterr().err
    assert "is not a saved run, or it is damaged" in said
    assert "pickle" not in said


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["bench", "overhead", "-d", "x"],
         "-d takes whole numbers with commas between them, got 'x'"),
        (["bench", "overhead", "-d", "inf"],
         "-d takes whole numbers with commas between them, got 'inf'"),
        (["bench", "overhead", "-d", "1e3,0"], "-d takes whole numbers from 1 on, got '1e3,0'"),
        (["bench", "overhead", "-d=-5"], "-d takes whole numbers from 1 on, got '-5'"),
        (["bench", "overhead", "--quick", "--parts", "rounds", "--only", "adma"],
         "--only 'adma': no cell has all of these words"),
        (["bench", "shampoo", "--tiles", "-1"], "--tiles must be an integer >= 1, got -1"),
        (["bench", "shampoo", "--interval", "0"], "--interval must be an integer >= 1, got 0"),
        (["minimize", "sphere", "--output", "file"], "is a file; name a folder"),
    ],
)  # fmt: skip
def test_the_command_line(words, says, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    assert main(words) == 2
    out, err = capsys.readouterr()
    assert says in err
    assert not out
    assert [p.name for p in tmp_path.iterdir()] == ["file"]
