"""Plug-in folders: a file is registered, reachable by name and as an attribute, and described."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import pytest
from fresh_python import python

import optex_core as ox
from optex_core._registry import Registry, inherit_parameters, plugin_attributes
from optex_core.model.kernels import KERNELS
from optex_core.optimizers import OPTIMIZERS, WRAPPERS
from optex_core.problems import PROBLEMS
from optex_core.strategies import STRATEGIES

FOLDERS = [
    (ox.optimizers, OPTIMIZERS),
    (ox.optimizers, WRAPPERS),
    (ox.kernels, KERNELS),
    (ox.strategies, STRATEGIES),
    (ox.problems, PROBLEMS),
]


@pytest.mark.parametrize(("package", "registry"), FOLDERS)
def test_everything_registered_is_an_attribute(package, registry):
    for entry in registry.values():
        name = getattr(entry, "__name__", None)
        if name is not None:
            assert getattr(package, name) is entry
            assert name in dir(package)


@pytest.mark.parametrize(("package", "registry"), FOLDERS)
@pytest.mark.parametrize("name", ["Nothing", "nothing", "__wrapped__"])
def test_anything_else_is_an_attribute_error(package, registry, name):
    with pytest.raises(AttributeError, match=f"module '{package.__name__}' has no attribute"):
        getattr(package, name)
    with pytest.raises(AttributeError, match="module 'optex_core' has no attribute"):
        getattr(ox, name)


def test_optimizers_and_wrappers_are_attributes_of_the_package_itself():
    for entry in (*OPTIMIZERS.values(), *WRAPPERS.values()):
        assert getattr(ox, entry.__name__) is entry


NEW_FILES = {
    "optimizers": (
        "from dataclasses import dataclass\n"
        "from typing import ClassVar\n"
        "from optex_core.optimizers.base import OPTIMIZERS, ElementwiseOptimizer\n"
        "@OPTIMIZERS.register\n"
        "@dataclass(frozen=True)\n"
        "class Mine(ElementwiseOptimizer):\n"
        "    name: ClassVar[str] = 'mine'\n"
        "    learning_rate: float = 0.1\n"
        "    slot_names = ()\n"
        "    rule = property(lambda self: lambda xp: lambda x, g, rate: (x - rate * g,))\n"
        "    scalars = lambda self, t, rate, host_scalars: (rate,)\n"
    ),
    "model.kernels": (
        "from optex_core.model.kernels.base import KERNELS\n"
        "from optex_core.model.kernels.rbf import RBF\n"
        "@KERNELS.register\n"
        "class Mine:\n"
        "    name = 'mine'\n"
        "    profile = RBF.profile\n"
        "    complement = RBF.complement\n"
    ),
    "strategies": (
        "from dataclasses import dataclass\n"
        "from typing import ClassVar\n"
        "from optex_core.strategies.base import STRATEGIES\n"
        "@STRATEGIES.register\n"
        "class Mine:\n"
        "    name: ClassVar[str] = 'mine'\n"
    ),
    "problems": (
        "from optex_core.problems.base import PROBLEMS\n"
        "@PROBLEMS.register\n"
        "class Mine:\n"
        "    name = 'mine'\n"
    ),
}


@pytest.mark.parametrize("folder", NEW_FILES)
def test_a_new_file_is_found_by_its_folder(tmp_path, folder):
    (tmp_path / "mine.py").write_text(NEW_FILES[folder])
    public = folder.split(".")[-1]
    code = (
        f"import optex_core.{folder} as package\n"
        f"package.__path__.append({str(tmp_path)!r})\n"
        "import optex_core as ox\n"
        f"assert ox.{public}.Mine.name == 'mine'\n"
        f"assert 'Mine' in dir(ox.{public})\n"
    )
    if folder == "optimizers":
        code += (
            "assert ox.Mine is ox.optimizers.Mine\n"
            "res = ox.minimize(lambda x: (x @ x / 2, x), [1.0, 2.0], optimizer='mine', maxiter=3)\n"
            "assert res.nit == 3\n"
        )
    done = python("-W", "error", "-c", code)
    assert done.returncode == 0, done.stderr


def test_a_new_class_needs_no_second_entry():
    registry: Registry[type] = Registry("part", "optex_core.errors")

    @registry.register
    class Part:
        name = "part"

    found, names = plugin_attributes("somewhere", ["PARTS"], registry)
    assert found("Part") is Part
    assert names() == ["PARTS", "Part"]


@dataclass
class Base:
    """A base.

    Parameters
    ----------
    rate : float, default 0.1
        How fast.
    low, high : float, default 0, 1
        Limits.
    """

    rate: float = 0.1
    low: float = 0.0
    high: float = 1.0


def test_parameters_that_are_left_out_are_described_as_in_the_base():
    @dataclass
    class Own(Base):
        """A part.

        Parameters
        ----------
        high : float, default 2
            Another limit.
        name : str
            Its own.

        References
        ----------
        Somebody, 2020.
        """

        rate: float = 0.5
        high: float = 2.0
        name: str = ""

    inherit_parameters(Own)
    assert Own.__doc__ == (
        "A part.\n\nParameters\n----------\nrate : float, default 0.5\n    How fast.\n"
        "low : float, default 0.0\n    Limits.\nhigh : float, default 2\n    Another limit.\n"
        "name : str\n    Its own.\n\nReferences\n----------\nSomebody, 2020."
    )


def test_a_class_without_parameters_of_its_own_gets_a_section():
    @dataclass
    class Own(Base):
        """A part.

        Examples
        --------
        >>> 1
        1
        """

    inherit_parameters(Own)
    assert Own.__doc__.startswith("A part.\n\nParameters\n----------\nrate : float, default 0.1")
    assert Own.__doc__.endswith("Limits.\n\nExamples\n--------\n>>> 1\n1")


@dataclass
class Plain:
    """Nothing to describe."""

    name: ClassVar[str] = "plain"


def test_nothing_is_added_where_nothing_is_described():
    inherit_parameters(Plain)
    assert Plain.__doc__ == "Nothing to describe."
