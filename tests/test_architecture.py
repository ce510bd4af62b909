"""The house keeps its shape: who may import whom, how long a file may be, and what no module may
contain.
"""

from __future__ import annotations

import ast
import importlib
import inspect
from collections.abc import Iterator
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import optex_core
from optex_core.engine.result import RunResult

ROOT = Path(optex_core.__file__).parent
FILES = sorted(ROOT.rglob("*.py"))

#: Layer of every module and folder directly below the package; `testing`, `bench` and `cli` are
#: what users of the package write, too.
LAYERS = {
    0: "errors types _validation _registry",
    1: "backends",
    2: "model optimizers",
    3: "strategies",
    4: "engine",
    5: "execution",
    6: "runs async_sgd adapters problems",
    7: "_minimize testing bench cli __main__ __init__",
}
LAYER = {name: layer for layer, names in LAYERS.items() for name in names.split()}

#: Within and between layers too: these import nothing of the second.
FORBIDDEN = {
    "execution": ("engine", "strategies"),
    "async_sgd": ("strategies", "problems"),
    "adapters": ("problems",),
    "problems": ("adapters",),
    "_minimize": ("problems", "testing", "bench", "cli"),
    "testing": ("bench", "cli"),
    "bench": ("cli",),
}

#: Folders whose files are alternatives of one thing: each stands on the base and the folder's
#: shared files, never on a sibling.
PLUGINS = ("backends", "model/kernels", "optimizers", "strategies", "problems")
#: Files in these folders that others may stand on, beside `base` and those that begin with an
#: underscore. Each is a part and no alternative.
SHARED = {
    # NumPy is the reference: what another backend does not do better, it does in the same way
    "backends": ("numpy_", "numba", "blas_threads", "types"),
    "optimizers": ("wrappers", "schedules", "parameter_blocks"),
    "strategies": ("trust_window", "rollout"),
}

#: Libraries that are slow to load or optional, and the only files that may load them when they are
#: themselves imported.
ON_USE = {
    "numba": (
        "backends/numba/_disk_cache.py",
        "backends/numba/_internals.py",
        "backends/numba/_jit.py",
        "backends/numba/elementwise.py",
        "backends/numba_.py",
    ),
    "cupy": ("backends/cupy_.py",),
    "matplotlib": (),
    "tqdm": (),
    "torch": (),
    "jax": (),
    "dask": (),
    "distributed": (),
    "mpi4py": (),
    "ray": (),
    "hypothesis": ("testing/hypothesis_strategies.py", "testing/state_machines.py"),
    "pytest": (),
    "scipy.optimize": ("engine/result.py",),
}
LONGEST = 600


def relative(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def unit(path: str | tuple[str, ...]) -> str:
    """The entry of the layer table that a file or a dotted name belongs to."""
    parts = path.removesuffix(".py").split("/") if isinstance(path, str) else path
    return parts[0] if parts else "__init__"


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def only_for_types(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test) in (
        "TYPE_CHECKING",
        "typing.TYPE_CHECKING",
    )


def imports(
    node: ast.AST, *, inside: bool = False
) -> Iterator[tuple[str, tuple[str, ...], bool, int]]:
    """(module, names, inside a function?, line) of all imports that run; those for type checkers
    alone do not.
    """
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import):
            yield from ((alias.name, (), inside, child.lineno) for alias in child.names)
        elif isinstance(child, ast.ImportFrom):
            assert child.level == 0, f"line {child.lineno}: imports are absolute"
            yield (
                child.module or "",
                tuple(alias.name for alias in child.names),
                inside,
                child.lineno,
            )
        elif not only_for_types(child):
            yield from imports(
                child,
                inside=inside
                or isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)),
            )


def own_imports(path: Path) -> Iterator[tuple[tuple[str, ...], tuple[str, ...], int]]:
    """(parts below the package, names, line) of the imports of our own modules."""
    for module, names, _, line in imports(tree(path)):
        parts = tuple(module.split("."))
        if parts[0] != "optex_core":
            continue
        # `from optex_core import x`: each name is a module or a public name of the package
        if len(parts) == 1:
            for name in names or ("__init__",):
                yield ((name,) if name in LAYER else ("__init__",)), (), line
        else:
            yield parts[1:], names, line


def is_module(parts: tuple[str, ...]) -> bool:
    base = ROOT.joinpath(*parts)
    return base.with_suffix(".py").exists() or (base / "__init__.py").exists()


def test_every_module_has_a_layer() -> None:
    tops = {unit(relative(p)) for p in FILES}
    assert tops <= set(LAYER), f"give these a layer: {sorted(tops - set(LAYER))}"


def test_the_root_is_small() -> None:
    files = [p.name for p in ROOT.glob("*.py")]
    folders = [p.name for p in ROOT.iterdir() if p.is_dir() and p.name != "__pycache__"]
    assert len(files) <= 7, files
    assert len(folders) <= 13, folders


#: One thing in two places: a problem of its own and its reference implementation, the two methods.
SAME_NAME = {"minimize", "median_distance", "secant_curvature"}


def test_public_names_have_one_meaning() -> None:
    # Benchmark cases and commands have one interface, and so have the checks of several suites.
    homes: dict[str, list[str]] = {}
    for path in FILES:
        if unit(relative(path)) in ("bench", "cli") or "testing/suites/" in relative(path):
            continue
        for node in tree(path).body:
            if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and not node.name.startswith("_"):
                homes.setdefault(node.name, []).append(relative(path))
    double = {n: where for n, where in homes.items() if len(where) > 1 and n not in SAME_NAME}
    assert not double, double


def test_no_concrete_class_is_subclassed() -> None:
    wrong = []
    for path in FILES:
        name = ".".join(("optex_core", *path.relative_to(ROOT).with_suffix("").parts))
        if "entry" in name or name.endswith(("__init__", "__main__", "cupy_")):
            continue
        module = importlib.import_module(name)
        for kind in vars(module).values():
            if not inspect.isclass(kind) or kind.__module__ != name:
                continue
            for base in kind.__bases__:
                ours = base.__module__.startswith("optex_core")
                final = not inspect.isabstract(base) and not getattr(base, "_is_protocol", False)
                # what a result shows has no method that a result must have
                if ours and final and not issubclass(base, BaseException | RunResult):
                    wrong.append(f"{name}.{kind.__name__} subclasses {base.__name__}")
    assert not wrong, "\n".join(wrong)


def test_imports_point_downwards() -> None:
    wrong = []
    for path in FILES:
        here = unit(relative(path))
        for parts, _, line in own_imports(path):
            there = unit(parts)
            if there == here:
                continue
            place = (
                f"{relative(path)}:{line}: {here} (L{LAYER[here]}) imports {there} "
                f"(L{LAYER[there]})"
            )
            if LAYER[there] > LAYER[here]:
                wrong.append(f"{place}; imports point downwards")
            if there in FORBIDDEN.get(here, ()):
                wrong.append(f"{place}, which the table forbids")
            # Public names of the package are for users: the package itself says where things are.
            if there == "__init__" and here not in ("__main__", "cli", "bench", "testing"):
                wrong.append(f"{place}; import the module that defines the name")
    assert not wrong, "\n".join(wrong)


def imported_modules(path: Path) -> set[str]:
    """Dotted names, below the package, of the modules that a file imports when it runs, within
    functions too.
    """
    found = set()
    for parts, names, _ in own_imports(path):
        if not is_module(parts):
            continue
        inside = [(*parts, name) for name in names if is_module((*parts, name))]
        found |= {".".join(one) for one in inside}
        if len(inside) < len(names) or not names:
            found.add(".".join(parts))
    return found


def test_no_import_circle() -> None:
    graph = {}
    for path in FILES:
        name = relative(path).removesuffix(".py").removesuffix("/__init__").replace("/", ".")
        graph[name] = imported_modules(path) - {name}
    try:
        list(TopologicalSorter(graph).static_order())
    except CycleError as circle:
        raise AssertionError(f"modules import each other: {' <- '.join(circle.args[1])}") from None


def test_execution_knows_no_engine() -> None:
    # Neither directly nor through something it imports.
    reached: set[str] = set()
    todo = ["execution"]
    while todo:
        name = todo.pop()
        if name in reached:
            continue
        reached.add(name)
        todo += [
            unit(parts)
            for p in FILES
            if unit(relative(p)) == name
            for parts, _, _ in own_imports(p)
        ]
    assert "types" in reached
    assert "engine" not in reached


def test_alternatives_do_not_know_each_other() -> None:
    wrong = []
    for path in FILES:
        folder = next((name for name in PLUGINS if relative(path).startswith(f"{name}/")), None)
        if folder is None:
            continue
        inside = relative(path).removeprefix(f"{folder}/").removesuffix(".py").split("/")
        stem, depth = inside[0], folder.count("/") + 1
        if stem == "__init__":
            continue
        for parts, _, line in own_imports(path):
            there = parts[:depth], parts[depth : depth + 1]
            if (
                "/".join(there[0]) != folder
                or not there[1]
                or there[1][0] == stem
                or not is_module(parts[: depth + 1])
            ):
                continue
            name = there[1][0]
            part = name.startswith("_") or name in SHARED.get(folder, ())
            if not part and name != "base":
                wrong.append(f"{relative(path)}:{line} stands on its sibling {name}")
            if stem == "base" and not part:
                wrong.append(f"{relative(path)}:{line}: the base imports an alternative")
    assert not wrong, "\n".join(wrong)


def test_private_names_stay_in_their_module() -> None:
    wrong = [
        f"{relative(path)}:{line} imports the private name {name} of {'.'.join(parts)}"
        for path in FILES
        for parts, names, line in own_imports(path)
        for name in names
        if name.startswith("_") and not name.startswith("__") and not is_module((*parts, name))
    ]
    assert not wrong, "\n".join(wrong)


def test_slow_libraries_load_on_use() -> None:
    wrong = []
    for path in FILES:
        for module, names, inside, line in imports(tree(path)):
            full = {module, *(f"{module}.{name}" for name in names)}
            for library, owners in ON_USE.items():
                loads = any(name == library or name.startswith(library + ".") for name in full)
                if loads and not inside and relative(path) not in owners:
                    wrong.append(
                        f"{relative(path)}:{line} loads {library} at import; do it in "
                        f"the function that needs it"
                    )
    assert not wrong, "\n".join(wrong)


def test_files_are_short() -> None:
    lengths = {relative(path): len(path.read_text(encoding="utf-8").splitlines()) for path in FILES}
    long = {name: lines for name, lines in lengths.items() if lines > LONGEST}
    assert not long, f"two ideas share a file of more than {LONGEST} lines: {long}"


def test_no_error_is_swallowed() -> None:
    wrong = []
    for path in FILES:
        for node in ast.walk(tree(path)):
            if not isinstance(node, ast.ExceptHandler):
                continue
            wide = node.type is None or ast.unparse(node.type) in ("Exception", "BaseException")
            silent = all(isinstance(line, (ast.Pass, ast.Continue)) for line in node.body)
            if node.type is None or (wide and silent):
                wrong.append(
                    f"{relative(path)}:{node.lineno}: "
                    f"{'a bare except' if node.type is None else 'every error is swallowed'}"
                )
    assert not wrong, "\n".join(wrong)


def test_only_the_doors_print() -> None:
    wrong = [
        f"{relative(path)}:{node.lineno} prints; hand the text to the caller or to logging"
        for path in FILES
        if unit(relative(path)) not in ("cli", "bench", "__main__")
        for node in ast.walk(tree(path))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id == "print"
    ]
    assert not wrong, "\n".join(wrong)


def test_top_level_is_what_the_design_says() -> None:
    top = ROOT.parent
    if not (top / "pyproject.toml").exists():  # an installed package has no top level of its own
        assert (ROOT / "py.typed").exists()
        return
    allowed = {
        "setup.cfg",
        "pyproject.toml",
        "README.md",
        "LICENSE",
        "examples",
        "tests",
        "optex_core",
    }
    left_behind = ("build", "dist", "optex-runs")  # by building and running; git ignores them
    found = {
        p.name
        for p in top.iterdir()
        if not p.name.startswith(".") and p.suffix != ".egg-info" and p.name not in left_behind
    }
    assert found <= allowed, f"not part of the top level: {sorted(found - allowed)}"
