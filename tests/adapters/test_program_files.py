"""Numbers in the files of programs: read whole or refused, written to new files alone."""

from __future__ import annotations

import io
import os
import sys

import numpy as np
import pytest

import optex_core as ox
from optex_core.adapters.program_files import make_program_file, read_numbers, write_vector
from optex_core.errors import ArgumentError, EvaluationError


def read(folder, text, template="cost = {value}", field="value"):
    (folder / "out.txt").write_text(text)
    file = make_program_file(field, ("out.txt", template), "f8")
    return read_numbers(file, folder, field, "sim").tolist()


@pytest.mark.parametrize(
    "text",
    [
        "1,5", "0.15-102", "1.#QNAN", "1.#INF", "1_000", "1.234.567,8", "1.234,8", "0x1A",
        "12 345.6", "1'000", "1/3", "1:30", "1e", "0.15 E+03", "1.5J", "50%", "1.5.2", "1.5*2",
        "****", "-", "", "\u22121.5", "NaNs", "(1.5,2.0)", "12\u00a0345", "12\u202f345,6",
    ],
)  # fmt: skip
def test_half_a_number_is_refused(tmp_path, text):
    with pytest.raises(EvaluationError, match=r"where a number was expected|has no 'cost = "):
        read(tmp_path, f"cost = 3.0\ncost = {text}\n")  # nor is an older value taken for it


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1.5", 1.5), ("-2.", -2.0), ("1.5.", 1.5), ("1.5, ok", 1.5), ("1.5)", 1.5), ("1D+03", 1e3),
        (".5e-1;", 0.05), ("12 34", 12.0), ("1.5 250", 1.5), ("-INF", -np.inf),
    ],
)  # fmt: skip
def test_a_number_may_end_a_sentence_or_a_list(tmp_path, text, value):
    assert read(tmp_path, f"cost = 7\ncost = {text}\nthe end") == [value]


def test_words_behind_a_number_must_be_found_behind_all_of_it(tmp_path):
    assert read(tmp_path, "cost = 1.5J", "cost = {value}J") == [1.5]
    assert read(tmp_path, '{"cost":1.5,"grad":[1]}', '"cost":{value},') == [1.5]
    assert read(tmp_path, "a 3.5 total\nb 4.5 total", "{value} total") == [4.5]
    for template, text in (
        ("cost = {value} J", "cost = 12 345 J"),
        ("c,{value},", "c,1,5,"),
        ("{value} total", "12,345.6 total"),
        ("{value} total", "12 345.6 total"),
    ):
        with pytest.raises(EvaluationError):
            read(tmp_path, text, template)


def test_every_number_of_a_gradient_is_whole(tmp_path):
    template = "dJ = {gradient}"
    assert read(tmp_path, "dJ = 1.0, 2\n3\ndJ = 4\n", template, "gradient") == [1, 2, 3, 4]
    for text in ("dJ = 1.0 1.#INF", "dJ = 1.0 0x1A", "dJ = 1.0 0.15-102\n2"):
        with pytest.raises(EvaluationError, match="where a number was expected"):
            read(tmp_path, text, template, "gradient")
    with pytest.raises(EvaluationError):
        read(tmp_path, "[ 1.0, 0.15-102, 3 ]", "[ {gradient} ]", "gradient")


def test_a_field_may_stand_once():
    with pytest.raises(ArgumentError, match="has two {value}"):
        make_program_file("value", ("out.txt", "{value} {value}"), "f8")


def test_parameters_are_written_to_a_new_file_alone(tmp_path):
    (tmp_path / "mine").write_text("my template")
    (tmp_path / "p.txt").symlink_to(tmp_path / "mine")
    for given in ("p.txt", ("p.txt", "{x}")):
        file = make_program_file("parameters", given, "f8")
        with pytest.raises(FileExistsError):
            write_vector(file, tmp_path, np.ones(2), {})
    assert (tmp_path / "mine").read_text() == "my template"


# -- the user's files ------------------------------------------------------------------------------


@pytest.fixture
def user(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, text in (("a/mesh.dat", "fine"), ("b/mesh.dat", "coarse"), ("p.txt", "mine")):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    for name in ("stdout.txt", "stderr.txt", "g.txt", "v.txt"):
        (tmp_path / name).write_text("mine")
    (tmp_path / "in").mkdir()
    return tmp_path


CODE = """
import sys
x = [float(line) for line in open(sys.argv[1])]
open(sys.argv[2], "w").write("\\n".join(repr(2 * v) for v in x))
open(sys.argv[3], "w").write(repr(sum(v * v for v in x)))
"""


def program(**options):
    names = {"parameters": "p.txt", "gradient": "g.txt", "value": "v.txt"}
    words = [sys.executable, "-S", "-c", CODE, "{parameters}", "{gradient}", "{value}"]
    return ox.adapters.subprocess(words, **{**names, **options})


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"files": ["a/mesh.dat", "b/mesh.dat"]}, "would have one name, 'mesh.dat'"),
        ({"files": ["p.txt"]}, "parameters: in the work directory the name 'p.txt'"),
        ({"files": ["g.txt"]}, "gradient: "),
        ({"files": ["v.txt"]}, "value: "),
        ({"files": ["stdout.txt"]}, "what the program prints"),
        ({"files": ["stderr.txt"]}, "what the program prints"),
        ({"files": ["in"], "parameters": "in/p.txt"}, "parameters: "),
        ({"files": ["in"], "gradient": "./in/g.txt"}, "gradient: "),
        ({"files": ["/"]}, "one name, ''"),
        ({"parameters": "stdout.txt"}, "parameters: "),
        ({"parameters": "./g.txt"}, "use two names"),
        ({"parameters": "v.txt"}, "use two names"),
    ],
)
def test_names_that_meet_are_refused(user, options, says):
    before = {p: p.read_text() for p in user.rglob("*") if p.is_file()}
    with pytest.raises(ArgumentError, match=says):
        program(**options)
    assert {p: p.read_text() for p in user.rglob("*") if p.is_file()} == before


def test_one_file_given_twice_is_one_file(user):
    same = program(files=["a/mesh.dat", user / "a" / "mesh.dat"])
    value, gradient = same(np.ones(2))
    assert (value, gradient.tolist()) == (2.0, [2.0, 2.0])


def test_a_work_directory_is_kept_beside_what_is_there(user):
    given = program(files=["p.txt"], parameters="q.txt", keep="always", folder=user)
    given(np.ones(2))
    again = program(keep="always", folder=user)  # its p.txt is a link in the directory kept first
    again(np.ones(2))
    assert (user / "p.txt").read_text() == "mine"
    kept = sorted(p.name for p in user.glob("evaluation-*"))
    assert kept == ["evaluation-000000-0", "evaluation-000000-0.1"]


def test_without_a_temporary_directory_one_sentence_says_so(user, monkeypatch):
    def none():
        raise FileNotFoundError("No usable temporary directory found")

    monkeypatch.setattr("tempfile.gettempdir", none)
    with pytest.raises(ArgumentError, match="no temporary directory that can be written; pass fol"):
        program()
    value, _ = program(folder=os.getcwd())(np.ones(2))
    assert value == 2.0
    res = ox.minimize(lambda x: (0.5 * float(x @ x), x), np.ones(3), workers=2, maxiter=3)
    assert res.nit >= 1


@pytest.mark.parametrize("text", ["1.#INF", "-1.#IND", "1.5#", "1.5 1.#QNAN"])
def test_a_number_with_a_hash_in_it_is_not_what_stands_before_the_hash(tmp_path, text):
    (tmp_path / "v.txt").write_text(f"{text}\n")
    with pytest.raises(EvaluationError, match=r"wrote '.*#.*' to v\.txt, where a number"):
        read_numbers(make_program_file("value", "v.txt", "f8"), tmp_path, "value", "sim")


def test_comments_and_a_byte_order_mark_are_no_numbers(tmp_path):
    (tmp_path / "g.txt").write_bytes(
        "\ufeff# gradient\r\n1.5, #2\r\n2.5;#x\r\n3.5 # y\r\n".encode()
    )
    file = make_program_file("gradient", "g.txt", "f8")
    assert read_numbers(file, tmp_path, "gradient", "sim").tolist() == [1.5, 2.5, 3.5]


def _npy(*arrays):
    stream = io.BytesIO()
    for array in arrays:
        np.save(stream, array, allow_pickle=True)
    return stream.getvalue()


def _npz():
    stream = io.BytesIO()
    np.savez(stream, gradient=np.ones(3))
    return stream.getvalue()


NPY = {
    "two arrays": (_npy(np.ones(3), np.zeros(3)), "more bytes follow"),
    "an archive": (_npz(), "archive of arrays"),
    "a cut archive": (_npz()[:-5], "not a zip file"),
    "more than any memory": (
        _npy(np.ones(3)).replace(b"(3,), }          ", b"(3000000000000,), }"), "Unable to allocate"
    ),
    "objects": (_npy(np.array([None])), "begins like no .npy"),
    "a cut header": (_npy(np.ones(3))[:40], "EOF: reading array header"),
    "text": (b"1.0\n2.0\n", "begins like no .npy"),
    "nothing": (b"", "No data left"),
}  # fmt: skip


@pytest.mark.parametrize("what", NPY)
def test_a_npy_file_that_is_not_one_array_is_refused(tmp_path, what):
    data, says = NPY[what]
    (tmp_path / "g.npy").write_bytes(data)
    file = make_program_file("gradient", "g.npy", "f8")
    with pytest.raises(EvaluationError, match=rf"g\.npy that cannot be read: .*{says}") as caught:
        read_numbers(file, tmp_path, "gradient", "sim")
    assert "allow_pickle" not in str(caught.value)


@pytest.mark.parametrize("argument", ["parameters", "gradient", "value"])
def test_a_name_with_a_zero_byte_is_refused(argument):
    with pytest.raises(ArgumentError, match=f"{argument} must name a file within"):
        make_program_file(argument, "g\0.txt", "f8")
