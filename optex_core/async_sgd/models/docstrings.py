"""A corpus that needs no download: the docstrings of installed libraries, read from their sources
without importing them.
"""

from __future__ import annotations

import ast
import importlib.metadata
import importlib.util
from collections.abc import Iterator, Sequence
from pathlib import Path

from optex_core.async_sgd.models.corpus import Corpus
from optex_core.errors import ArgumentError

#: Folders that hold no documentation of the library: its tests, and copies of others.
LEFT_OUT = ("tests", "testing", "_lib", "conftest.py")
#: NumPy and SciPy attach the docstrings of compiled functions with calls of these.
ATTACHED = ("add_newdoc", "add_docstring")
#: Characters below which a docstring says nothing about its topic.
SHORTEST = 300


def docstring_corpus(
    libraries: Sequence[str] = ("numpy", "scipy"),
    *,
    minimum_documents: int = 10,
    maximum_share: float = 0.25,
    minimum_tokens: int = 20,
) -> Corpus:
    """The docstrings of `libraries` as a corpus; about 3,500 documents for NumPy and SciPy, 5 s.

    Sources are parsed, nothing is imported: the order is that of the files, the same everywhere for
    the same versions (`versions`).

    Parameters
    ----------
    libraries : sequence of str, default ("numpy", "scipy")
        Names of installed packages with Python sources.
    minimum_documents : int, default 10
        A word must occur in so many docstrings.
    maximum_share : float, default 0.25
        And in no more than this share of them.
    minimum_tokens : int, default 20
        Shorter docstrings are left out.

    Returns
    -------
    Corpus

    Raises
    ------
    ArgumentError
        If a library is not installed or has no sources.
    """
    return Corpus.from_texts(
        docstrings(libraries),
        minimum_documents=minimum_documents,
        maximum_share=maximum_share,
        minimum_tokens=minimum_tokens,
    )


def docstrings(libraries: Sequence[str]) -> list[str]:
    """Different docstrings of at least 300 characters, in the order of the files."""
    found: dict[str, None] = {}
    for library in libraries:
        before = len(found)
        for path in _sources(library):
            found.update(dict.fromkeys(text for text in _in(path) if len(text) >= SHORTEST))
        if len(found) == before:
            raise ArgumentError(
                f"library {library!r} has no docstrings in Python sources here; choose another"
            )
    return list(found)


def versions(libraries: Sequence[str] = ("numpy", "scipy")) -> dict[str, str]:
    """The installed versions, which the corpus depends on."""
    return {library: importlib.metadata.version(library) for library in libraries}


def _sources(library: str) -> list[Path]:
    spec = importlib.util.find_spec(library) if library.isidentifier() else None
    if spec is None or not spec.submodule_search_locations:
        raise ArgumentError(
            f"library {library!r} is not an installed package; expected names like 'numpy'"
        )
    root = Path(next(iter(spec.submodule_search_locations)))
    return sorted(
        p
        for p in root.rglob("*.py")
        if not set(p.relative_to(root).parts) & set(LEFT_OUT) and not p.name.startswith("test_")
    )


def _in(path: Path) -> Iterator[str]:
    # Sources that a library ships only as templates are not Python: nothing to read in them.
    try:
        tree = ast.parse(path.read_text(encoding="utf-8"))
    except SyntaxError:
        return
    for node in ast.walk(tree):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            yield (ast.get_docstring(node, clean=False) or "").strip()
        elif (
            isinstance(node, ast.Call)
            and getattr(node.func, "id", getattr(node.func, "attr", "")) in ATTACHED
        ):
            yield from (
                part.value.strip()
                for part in ast.walk(node)
                if isinstance(part, ast.Constant) and isinstance(part.value, str)
            )
