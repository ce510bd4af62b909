"""Numbers in the files of external programs: ``.npy``, raw binary, or text by a template.

A number in a text is read whole or refused: "1,5", "0.15-102", "1.#INF", "0x1A" or "12 345.6" in
the place of a value end the evaluation, where their beginnings look like numbers.
"""

from __future__ import annotations

import re
import stat
import string
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from optex_core._validation import short_repr
from optex_core.engine.npz_file import error_reason
from optex_core.errors import ArgumentError, ArgumentTypeError, EvaluationError, did_you_mean

RAW_SUFFIXES = (".bin", ".raw", ".dat")
#: Fields of a template of parameters, beside ``x``.
CONTEXT_FIELDS = ("d", "seed", "id", "iteration", "slot", "attempt")
#: A number as programs print it: also Fortran's 1.0D+03, nan and inf.
NUMBER_PATTERN = (
    r"[-+]?(?:(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eEdD][-+]?[0-9]+)?"
    r"|[nN]a[nN]|[iI]nf(?:inity)?|INF(?:INITY)?)"
)
_NUMBER = re.compile(NUMBER_PATTERN)
_NUMBERS = re.compile(rf"{NUMBER_PATTERN}(?:[\s,;]+{NUMBER_PATTERN})*")
#: A number begins behind a blank or an opening sign.
_START = re.compile(rf"(?<![^\s(\[{{\"'=:|<])(?={NUMBER_PATTERN})")
#: It ends at a blank or a sign, unless that goes on with a digit.
_END = re.compile(r"$|\s|[,;:)\]}\"'|>](?![0-9])|\.(?=\s|$)")
#: What shows that there is more of it: a digit behind a comma, an exponent behind a blank.
_MORE = re.compile(r"[.,][0-9]|[ \t]+[eEdD][-+]?[0-9]")
#: What makes a whole number the first digits of a larger one: a group of three behind a blank.
_DIGIT_GROUP = re.compile(r"[ \u00a0\u2009\u202f][0-9]{3}(?![0-9])")


@dataclass(frozen=True, slots=True)
class ProgramFile:
    """File of numbers."""

    name: str  # its name in the work directory
    template: str | None  # the text around the numbers
    dtype: str  # of the numbers in a raw file

    @property
    def format(self) -> str:
        """npy, raw or text."""
        suffix = Path(self.name).suffix.lower()
        if self.template is not None:
            return "text"
        return "npy" if suffix == ".npy" else "raw" if suffix in RAW_SUFFIXES else "text"


def make_program_file(argument: str, given: Any, dtype: str) -> ProgramFile:
    """Make a file of what the user gave: its name, or (name, template)."""
    pair = isinstance(given, (tuple, list)) and len(given) == 2
    name, template = given if pair else (given, None)
    if not isinstance(name, str) or not (template is None or isinstance(template, str)):
        raise ArgumentTypeError(
            f"{argument} must be a file name or (file name, template), got {short_repr(given)}"
        )
    path = Path(name)
    if not path.parts or path.is_absolute() or ".." in path.parts or "\0" in name:
        raise ArgumentError(f"{argument} must name a file within the work directory, got {name!r}")
    if template is not None:
        if path.suffix.lower() in (".npy", *RAW_SUFFIXES):
            raise ArgumentError(
                f"{argument}: a template makes a text file, but {name} has the suffix of a binary "
                "one; call it .txt"
            )
        known = ("x", *CONTEXT_FIELDS) if argument == "parameters" else (argument,)
        fields = check_template(argument, template, known)
        if argument != "parameters" and len(fields) != 1:
            raise ArgumentError(
                f"{argument}: the template {template!r} has {'two' if fields else 'no'} "
                f"{{{argument}}}, the place of the numbers"
            )
    return ProgramFile(name, template, dtype)


def check_template(argument: str, template: str, known: tuple[str, ...]) -> list[str]:
    """Return the fields of a template; refuse those that nothing fills."""
    try:
        parsed = list(string.Formatter().parse(template))
    except ValueError as error:
        raise ArgumentError(
            f"{argument}: {error} in {short_repr(template)}; a brace that is meant as such is "
            "written twice"
        ) from error
    fields = [re.split(r"[.\[]", field)[0] for _, field, _, _ in parsed if field is not None]
    for field in fields:
        if field not in known:
            raise ArgumentError(
                f"{argument}: nothing fills {{{field}}}{did_you_mean(field, known)}; a brace that "
                "is meant as such is written twice"
            )
    return fields


def write_vector(
    file: ProgramFile, folder: Path, x: np.ndarray, context: Mapping[str, object]
) -> None:
    """Write the parameters to a new file: never into one that is there, nor through a link. Text
    without a template is one number a line, with all its digits.
    """
    path = folder / file.name
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "xb") as out:
        if file.format == "npy":
            np.save(out, x, allow_pickle=False)
        elif file.format == "raw":
            x.astype(file.dtype).tofile(out)
        else:
            out.write(_text_of(file, x, context).encode())


def _text_of(file: ProgramFile, x: np.ndarray, context: Mapping[str, object]) -> str:
    if file.template is None:
        return "".join(f"{v!r}\n" for v in x.tolist())
    try:
        return file.template.format(x=_Numbers(x.tolist()), **context)
    except IndexError as error:
        raise ArgumentError(
            f"parameters: the template {short_repr(file.template)} takes numbers beyond the last, "
            f"{{x[{len(x) - 1}]}}"
        ) from error


class _Numbers(list[float]):
    """The parameters in a template: ``{x[0]}``, ``{x[0]:.6f}``; ``{x}`` and ``{x:.6f}`` are all of
    them, one a line.
    """

    def __format__(self, spec: str) -> str:
        return "\n".join(format(v, spec) if spec else repr(v) for v in self)


def read_numbers(file: ProgramFile, folder: Path, field: str, program: str) -> np.ndarray:
    """Read the numbers in a file that the program has written, float64 or what the file says;
    EvaluationError where there is no such file, or no numbers in it.
    """
    path = folder / file.name
    try:
        if not stat.S_ISREG(path.stat().st_mode):  # which may have no end
            raise ValueError("it is a folder, a pipe or a device")
        if file.format == "npy":
            return _load_npy(path)
        if file.format == "raw":
            size = path.stat().st_size
            if size % np.dtype(file.dtype).itemsize:
                raise EvaluationError(
                    f"{program} wrote {size} bytes to {file.name}, which are no whole numbers of "
                    f"{file.dtype}"
                )
            return np.fromfile(path, file.dtype)
        text = path.read_text(encoding="utf-8-sig", errors="replace")
    except FileNotFoundError as error:
        there = sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())
        raise EvaluationError(
            f"{program} wrote no {file.name}; its work directory holds "
            f"{', '.join(there[:10]) or 'nothing'}"
        ) from error
    except EvaluationError:
        raise
    except Exception as error:  # what NumPy and zipfile raise for bytes that are no file of theirs
        raise EvaluationError(
            f"{program} wrote a {file.name} that cannot be read: {error_reason(error)}"
        ) from error
    if file.template is not None:
        return _numbers_in_template(text, file, field, program)
    # All numbers of a plain text. A # within a word begins no comment: 1.#INF is not 1.
    pieces = re.sub(r"(?<![^\s,;])#.*", "", text).replace(",", " ").replace(";", " ").split()
    return _floats(pieces, file, program)


def _load_npy(path: Path) -> np.ndarray:
    """The one array of a .npy file, to the file's end."""
    with path.open("rb") as stream:
        array = np.load(stream, allow_pickle=False)
        if not isinstance(array, np.ndarray):
            raise ValueError("it is an archive of arrays (.npz), where one array was expected")
        if stream.read(1):
            raise ValueError(f"more bytes follow its array of shape {array.shape}")
    return np.atleast_1d(array)


def _numbers_in_template(text: str, file: ProgramFile, field: str, program: str) -> np.ndarray:
    """The numbers in the place of the field, wherever the template's words are found; a value is
    the last of them, as it is printed several times while the program goes.
    """
    before, after = _words_around(file.template or "", field)
    places = [m.end() for m in (re.compile(before) if before else _START).finditer(text)]
    pieces: list[str] = []
    for place in reversed(places):
        found = _numbers_at(text, place, after, field)
        if found is not None and not _is_whole(text, place, found, after, field):
            wrong = text[place:].partition("\n")[0]
            raise EvaluationError(
                f"{program} wrote {wrong[:40]!r} to {file.name}, where a number was expected"
            )
        if found is not None:
            pieces = [*_NUMBER.findall(found), *pieces]
        if field == "value" and (pieces or before):  # an older value is not the value
            break
    if pieces:
        return _floats(pieces, file, program)
    begin = f"it begins with {text[:60]!r}"
    if places:
        begin = f"its last place for it goes on with {text[places[-1] : places[-1] + 30]!r}"
    raise EvaluationError(f"{program}: {file.name} has no {file.template!r}; {begin}")


def _words_around(template: str, field: str) -> tuple[str, str]:
    """Regular expressions of the words before and after a field; blanks match any blanks."""
    around = ["", ""]
    after = False
    for words, name, _, _ in string.Formatter().parse(template):
        around[after] += r"\s+".join(re.escape(word) for word in re.split(r"\s+", words))
        after = after or name == field
    return around[0], around[1]


def _numbers_at(text: str, place: int, after: str, field: str) -> str | None:
    """The number or numbers at a place that the words `after` follow; None where there are none."""
    match = (_NUMBER if field == "value" else _NUMBERS).match(text, place)
    if match is None or not re.compile(after).match(text, match.end()):
        return None
    return match.group()


def _is_whole(text: str, place: int, found: str, after: str, field: str) -> bool:
    """True if what `_numbers_at` has found does not go on behind it."""
    end = place + len(found)
    grouped = re.fullmatch(r"[0-9][ \u00a0\u2009\u202f]", text[max(0, place - 2) : place])
    if field == "value" and grouped and re.match(r"[0-9]{3}(?![0-9])", found):
        return False
    if field == "value" and re.fullmatch(r"[-+]?[0-9]{1,3}", found):
        if _DIGIT_GROUP.match(text, end) or _MORE.match(text, end):
            return False
    elif re.match(r"[ \t]+[eEdD][-+]?[0-9]", text[end : end + 100]):
        return False
    return bool(after.strip() or _END.match(text, end))


def _floats(pieces: Iterable[str], file: ProgramFile, program: str) -> np.ndarray:
    numbers = []
    for piece in pieces:
        if not _NUMBER.fullmatch(piece):
            raise EvaluationError(
                f"{program} wrote {piece[:40]!r} to {file.name}, where a number was expected"
            )
        numbers.append(float(re.sub("[dD]", "e", piece)))
    return np.array(numbers, float)
