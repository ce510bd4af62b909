"""Every example runs as a reader would run it, in a process of its own."""

from __future__ import annotations

import importlib.util
import re
from functools import partial
from pathlib import Path

import pytest
from fresh_python import python

ROOT = Path(__file__).parents[1]
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))
#: Small arguments for those that take some.
ARGUMENTS = {
    "heat_inversion.py": ["16", "6", "{folder}"],
    "shampoo_network.py": ["40", "{folder}"],
}
#: The optional library of those that need one.
NEEDS = {
    "shampoo_network.py": "sklearn",
    "dask_cluster.py": "distributed",
    "async_sgd_dask.py": "distributed",
}
#: What they leave behind.
PICTURES = {
    "shampoo_network.py": ["shampoo.png"],
    "heat_inversion.py": ["field.png", "history.png"],
}


def test_there_are_examples() -> None:
    names = {path.stem for path in EXAMPLES}
    assert "test_my_simulator" in names
    assert names >= {
        "quickstart",
        "heat_inversion",
        "ask_tell",
        "scipy_plugin",
        "noisy_gradients",
        "own_pool",
        "test_my_simulator",
    }


#: Runs with these sources, whether or not another copy is installed.
shown = partial(python, PYTHONPATH=str(ROOT))


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_example_runs(path: Path, tmp_path: Path) -> None:
    library = NEEDS.get(path.name)
    if library is not None and importlib.util.find_spec(library) is None:
        pytest.skip(f"{library} is not installed")
    arguments = [a.format(folder=tmp_path) for a in ARGUMENTS.get(path.name, [])]
    done = shown("-W", "error", path, *arguments)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip(), "an example shows something"
    for name in PICTURES.get(path.name, []):
        assert (tmp_path / name).stat().st_size > 5_000


@pytest.mark.parametrize("name", [*ARGUMENTS, "dask_cluster.py"])
def test_examples_that_take_arguments_say_which(name: str) -> None:
    done = shown(ROOT / "examples" / name, "--help")
    assert done.returncode == 0, done.stderr
    assert f"Run: python examples/{name} [" in done.stdout


def test_the_code_of_the_readme_runs(tmp_path: Path) -> None:
    # In the order of the file, as one script: later pieces go on from the names of earlier ones.
    blocks = re.findall(
        r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL
    )
    assert len(blocks) >= 4
    script = tmp_path / "readme.py"
    script.write_text("\n\n".join(blocks), encoding="utf-8")
    done = shown("-W", "error", script, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "The largest gradient component is below gtol" in done.stdout
