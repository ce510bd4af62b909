"""Numbers in the files of external programs: ``.npy``, raw binary, or text by a template."""

from __future__ import annotations

import re
import string
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from optex_core._validation import short_repr
from optex_core.errors import ArgumentError, ArgumentTypeError, EvaluationError, did_you_mean

RAW_SUFFIXES = (".bin", ".raw", ".dat")
#: A number as programs print it: also Fortran's 1.0D+03, nan and inf.
NUMBER_PATTERN = (
    r"[-+]?(?:(?:\d+\.?\d*|\.\d+)(?:[eEdD][-+]?\d+)?|[nN]a[nN]|[iI]nf(?:inity)?|INF(?:INITY)?)"
)
_NUMBERS_PATTERN = rf"{NUMBER_PATTERN}(?:[\s,;]+{NUMBER_PATTERN})*"
#: What a template of parameters may name, beside ``x``.
CONTEXT_FIELDS = ("d", "seed", "id", "iteration", "slot", "attempt")


@dataclass(frozen=True, slots=True)
class ProgramFile:
    """A file of numbers.

    Attributes
    ----------
    name : str
        Its name in the work directory.
    template : str or None
        The text around the numbers.
    dtype : str
        Of the numbers in a raw file.
    """

    name: str
    template: str | None
    dtype: str

    @property
    def format(self) -> str:
        """npy, raw or text."""
        suffix = Path(self.name).suffix.lower()
        if self.template is not None:
            return "text"
        return "npy" if suffix == ".npy" else "raw" if suffix in RAW_SUFFIXES else "text"


def make_program_file(argument: str, given: Any, dtype: str) -> ProgramFile:
    """Read what the user gave as a file: its name, or (name, template)."""
    name, template = (
        given if isinstance(given, (tuple, list)) and len(given) == 2 else (given, None)
    )
    if not isinstance(name, str) or not (template is None or isinstance(template, str)):
        raise ArgumentTypeError(
            f"{argument} must be a file name or (file name, template), got {short_repr(given)}"
        )
    if not name or Path(name).is_absolute() or ".." in Path(name).parts:
        raise ArgumentError(f"{argument} must name a file within the work directory, got {name!r}")
    return ProgramFile(name, template, dtype)


def check_template(argument: str, template: str, known: tuple[str, ...]) -> None:
    """Refuse fields that nothing fills."""
    try:
        fields = [
            re.split(r"[.\[]", field)[0]
            for _, field, _, _ in string.Formatter().parse(template)
            if field is not None
        ]
    except ValueError as error:
        raise ArgumentError(
            f"{argument}: {error} in {short_repr(template)}; a brace that is meant as "
            f"such is written twice"
        ) from error
    for field in fields:
        if field not in known:
            hint = did_you_mean(field, known)
            raise ArgumentError(
                f"{argument}: nothing fills {{{field}}}{hint}; a brace that is meant "
                f"as such is written twice"
            )


def write_vector(
    file: ProgramFile, folder: Path, x: np.ndarray, context: Mapping[str, Any]
) -> None:
    """Write the parameters: text without a template is one number a line, with all its digits."""
    path = folder / file.name
    path.parent.mkdir(parents=True, exist_ok=True)
    if file.format == "npy":
        np.save(path, x, allow_pickle=False)
    elif file.format == "raw":
        x.astype(file.dtype).tofile(path)
    elif file.template is None:
        path.write_text("".join(f"{v!r}\n" for v in x.tolist()), encoding="utf-8")
    else:
        try:
            text = file.template.format(x=_Numbers(x.tolist()), **context)
        except IndexError as error:
            raise ArgumentError(
                f"parameters: the template {short_repr(file.template)} takes numbers "
                f"beyond the last, {{x[{len(x) - 1}]}}"
            ) from error
        path.write_text(text, encoding="utf-8")


class _Numbers(list[float]):
    """The parameters in a template: ``{x[0]}``, ``{x[0]:.6f}``; ``{x}`` and ``{x:.6f}`` are all of
    them, one a line.
    """

    def __format__(self, spec: str) -> str:
        return "\n".join(format(v, spec) if spec else repr(v) for v in self)


def read_numbers(file: ProgramFile, folder: Path, field: str, program: str) -> np.ndarray:
    """The numbers in a file the program has written, float64 or what the file says.

    Raises
    ------
    EvaluationError
        There is no such file, or no numbers in it.
    """
    path = folder / file.name
    try:
        if file.format == "npy":
            return np.atleast_1d(np.load(path, allow_pickle=False))
        if file.format == "raw":
            if path.stat().st_size % np.dtype(file.dtype).itemsize:
                raise EvaluationError(
                    f"{program} wrote {path.stat().st_size} bytes to {file.name}, "
                    f"which are no whole numbers of {file.dtype}"
                )
            return np.fromfile(path, file.dtype)
        return _in_text(path.read_text(encoding="utf-8", errors="replace"), file, field, program)
    except FileNotFoundError as error:
        there = sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())
        raise EvaluationError(
            f"{program} wrote no {file.name}; its work directory holds "
            f"{', '.join(there[:10]) or 'nothing'}"
        ) from error
    except (ValueError, EOFError) as error:
        raise EvaluationError(
            f"{program} wrote a {file.name} that cannot be read: {error}"
        ) from error


def _in_text(text: str, file: ProgramFile, field: str, program: str) -> np.ndarray:
    """All numbers of a plain text (comments begin with #), or those in the place of the field,
    wherever the template's words are found.
    """
    if file.template is None:
        pieces = re.sub(r"#.*", "", text).replace(",", " ").replace(";", " ").split()
        wrong = next((p for p in pieces if not re.fullmatch(NUMBER_PATTERN, p)), None)
        if wrong is not None:
            raise EvaluationError(
                f"{program} wrote {wrong[:40]!r} to {file.name}, where a number was expected"
            )
        return _floats(pieces)
    found = re.findall(_pattern(file.template, field), text)
    if not found:
        raise EvaluationError(
            f"{program}: {file.name} has no {file.template!r}; it begins with {text[:60]!r}"
        )
    if field == "value":  # printed several times, as the program goes: the last one counts
        found = found[-1:]
    return _floats(piece for run in found for piece in re.findall(NUMBER_PATTERN, run))


def _floats(pieces: Any) -> np.ndarray:
    return np.array([float(re.sub("[dD]", "e", p)) for p in pieces], float)


def _pattern(template: str, field: str) -> str:
    """A template as a regular expression: blanks match any blanks, the field matches numbers."""
    parts = []
    for words, name, _, _ in string.Formatter().parse(template):
        parts.append(r"\s+".join(re.escape(word) for word in re.split(r"\s+", words)))
        if name == field:
            parts.append(f"({NUMBER_PATTERN if field == 'value' else _NUMBERS_PATTERN})")
    return "".join(parts)
