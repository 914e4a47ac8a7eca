"""What ``import rlay`` gives, and what it does not cost."""

from __future__ import annotations

import ast
import inspect
import subprocess
import sys
from pathlib import Path

import pytest

import rlay

ROOT = Path(__file__).parent.parent
HEAVY = ("rlay.tools", "rlay.cli", "rlay.integrations")
OTHERS = ("yaml", "matplotlib", "rich", "ray", "pettingzoo", "pygame", "torch")


def test_all_is_sorted_and_without_doubles() -> None:
    assert rlay.__all__ == sorted(set(rlay.__all__))


def test_all_is_complete() -> None:
    tree = ast.parse((ROOT / "rlay" / "__init__.py").read_text(encoding="utf-8"))
    imported = {
        alias.asname or alias.name
        for node in tree.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert imported == set(rlay.__all__)


def test_the_package_has_no_logic() -> None:
    tree = ast.parse((ROOT / "rlay" / "__init__.py").read_text(encoding="utf-8"))
    kinds = {type(node) for node in tree.body}
    assert kinds == {ast.Expr, ast.ImportFrom, ast.Assign}


@pytest.mark.parametrize("name", [n for n in rlay.__all__ if n != "__version__"])
def test_every_name_has_a_docstring_of_its_own(name: str) -> None:
    value = getattr(rlay, name)
    assert value.__module__.startswith("rlay.")
    doc = vars(value).get("__doc__") if inspect.isclass(value) else value.__doc__
    assert doc
    assert doc.strip().splitlines()[0].endswith((".", ":"))


def test_the_version_is_a_version() -> None:
    assert [part.isdecimal() for part in rlay.__version__.split(".")[:2]] == [True, True]


def loaded_by(code: str) -> set[str]:
    """Return the names of the modules a fresh interpreter has loaded after this code."""
    done = subprocess.run(
        [sys.executable, "-c", f"{code}\nimport sys\nprint(*sorted(sys.modules))"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    return set(done.stdout.split())


def unwanted(modules: set[str]) -> set[str]:
    return {
        name
        for name in modules
        if name.partition(".")[0] in OTHERS
        or any(name == h or name.startswith(h + ".") for h in HEAVY)
    }


def test_importing_rlay_loads_nothing_that_is_not_needed() -> None:
    modules = loaded_by("import rlay")
    assert "rlay.session" in modules
    assert unwanted(modules) == set()


def test_what_is_unwanted_would_be_noticed() -> None:
    assert unwanted(loaded_by("import rlay, yaml, rlay.cli")) >= {"yaml", "rlay.cli"}
    assert unwanted({"rlay.tools.serve", "matplotlib.pyplot", "rlay.clip", "raylib"}) == {
        "rlay.tools.serve",
        "matplotlib.pyplot",
    }
