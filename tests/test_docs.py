"""The documentation says what the code does: every public name, its parameters, their defaults, and
examples that run.
"""

from __future__ import annotations

import ast
import doctest
import importlib
import importlib.util
import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import optex_core
from optex_core.errors import OptexError
from optex_core.model.kernels import KERNELS
from optex_core.optimizers import OPTIMIZERS
from optex_core.optimizers.schedules import SCHEDULES
from optex_core.problems import PROBLEMS
from optex_core.strategies import STRATEGIES

ROOT = Path(optex_core.__file__).parent
FILES = sorted(ROOT.rglob("*.py"))
PUBLIC = {name: getattr(optex_core, name) for name in optex_core.__all__}
REGISTERED = {
    f"{registry.kind} {name}": entry
    for registry in (KERNELS, OPTIMIZERS, PROBLEMS, SCHEDULES, STRATEGIES)
    for name, entry in registry.items()
}
DOCUMENTED = {
    name: thing
    for name, thing in {**PUBLIC, **REGISTERED}.items()
    if not inspect.ismodule(thing) and (inspect.isclass(thing) or callable(thing))
}
#: Bases whose constructors are not ours to describe.
FOREIGN = (dict, int, BaseException)


def sections(text: str) -> dict[str, str]:
    """The parts of a numpydoc docstring by their heading; what comes before the first is ""."""
    lines = inspect.cleandoc(text).splitlines()
    heads = [
        i
        for i in range(len(lines) - 1)
        if lines[i] and set(lines[i + 1]) == {"-"} and len(lines[i + 1]) >= 3
    ]
    parts = {"": "\n".join(lines[: heads[0] if heads else len(lines)])}
    for i, end in zip(heads, [*heads, len(lines)][1:], strict=True):
        parts[lines[i]] = "\n".join(lines[i + 2 : end])
    return parts


def entries(section: str) -> Iterator[tuple[list[str], str]]:
    """(names, what stands after the colon) of the parameters in a section."""
    for line in section.splitlines():
        if line and not line[0].isspace():
            names, _, kind = line.partition(" : ")
            yield [name.strip().lstrip("*") for name in names.split(",")], kind


def signature(thing: Any) -> dict[str, inspect.Parameter]:
    parameters = inspect.signature(thing).parameters
    return {name: p for name, p in parameters.items() if not name.startswith("_")}


def says(text: str, default: Any) -> bool:
    """Whether "default ..." in a docstring means the value `default`."""
    try:
        return bool(ast.literal_eval(text) == default)
    except (ValueError, SyntaxError):
        return text == str(default)


@pytest.fixture(params=sorted(DOCUMENTED))
def thing(request: pytest.FixtureRequest) -> Any:
    return DOCUMENTED[request.param]


def test_public_names_are_sorted_and_exist() -> None:
    assert list(optex_core.__all__) == sorted(optex_core.__all__)
    assert set(optex_core.__all__) <= set(dir(optex_core))


def test_every_module_is_described() -> None:
    for path in FILES:
        text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
        assert text, f"{path.relative_to(ROOT)} has no docstring"
        assert (
            text.splitlines()[0].rstrip().endswith((".", ":", ",")) or len(text.splitlines()) > 1
        ), f"{path.relative_to(ROOT)}: {text!r}"


def test_it_is_described(thing: Any) -> None:
    # Not inherited: the docstring of the base does not tell what is special here.
    text = thing.__dict__.get("__doc__") if inspect.isclass(thing) else thing.__doc__
    assert text
    assert text.strip()
    # A dataclass without a docstring gets its signature as one.
    assert not text.startswith(f"{getattr(thing, '__name__', '')}(")


def test_parameters_are_those_of_the_signature(thing: Any) -> None:
    if inspect.isclass(thing) and issubclass(thing, FOREIGN):
        assert issubclass(thing, (OptexError, dict, int))
        return
    parts = sections(thing.__doc__)
    expected = signature(thing)
    parameters = [name for names, _ in entries(parts.get("Parameters", "")) for name in names]
    attributes = [name for names, _ in entries(parts.get("Attributes", "")) for name in names]
    assert not set(parameters) - set(expected), (
        f"documented, but not in the signature: {sorted(set(parameters) - set(expected))}"
    )
    # Records describe their fields once, as attributes.
    missing = set(expected) - set(parameters) - set(attributes)
    assert not missing, f"not documented: {sorted(missing)}"
    in_order = [name for name in expected if name in parameters]
    assert parameters == in_order, f"documented in the order {parameters}, signature {in_order}"


def test_defaults_are_the_defaults(thing: Any) -> None:
    if inspect.isclass(thing) and issubclass(thing, FOREIGN):
        assert issubclass(thing, (OptexError, dict, int))
        return
    expected = signature(thing)
    for names, kind in entries(sections(thing.__doc__).get("Parameters", "")):
        stated = re.search(r"\bdefault:? (.+)$", kind)
        for i, name in enumerate(names):
            if expected[name].kind in (
                inspect.Parameter.VAR_KEYWORD,
                inspect.Parameter.VAR_POSITIONAL,
            ):
                continue  # nothing to leave out
            actual = expected[name].default
            if stated is None:
                optional = "optional" in kind
                assert optional == (actual is not inspect.Parameter.empty), (
                    f"{name}: the docstring has {kind!r}, the signature {actual!r}"
                )
                continue
            text = stated.group(1).strip()
            # Several names share a line, and one default or one each.
            each = [part.strip() for part in text.split(",")]
            assert says(text, actual) or (len(each) == len(names) and says(each[i], actual)), (
                f"{name}: documented {text}, is {actual!r}"
            )


@pytest.mark.parametrize(
    "path",
    [p for p in FILES if ">>> " in p.read_text(encoding="utf-8")],
    ids=lambda p: p.relative_to(ROOT).as_posix(),
)
def test_examples_run(path: Path) -> None:
    if path.name == "cupy_.py" and importlib.util.find_spec("cupy") is None:
        pytest.skip("cupy is not installed")
    name = ".".join(("optex_core", *path.relative_to(ROOT).with_suffix("").parts)).removesuffix(
        ".__init__"
    )
    said: list[str] = []
    runner = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE)
    for example in doctest.DocTestFinder().find(importlib.import_module(name), name):
        runner.run(example, out=said.append)
    assert runner.summarize(verbose=False).failed == 0, "".join(said)
