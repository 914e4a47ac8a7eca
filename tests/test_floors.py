"""Imports go down only, and every module stands on a floor.

The lower a floor, the less it may know: ``protocol`` sees buffers and nothing of the
machine, ``channel`` files and clocks but no spaces, and so on up to the command line.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from fnmatch import fnmatchcase
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

FLOORS = [
    {"rlay.errors", "rlay._types", "rlay._version", "rlay.atomics"}
    | {"rlay._atomics", "rlay._atomics_pure"},
    {"rlay.protocol", "rlay.protocol.*"},
    {"rlay.channel", "rlay.channel.*"},
    {"rlay.server", "rlay.client", "rlay.exchange", "rlay.lifetime", "rlay.session"}
    | {"rlay.endpoint", "rlay.conversation", "rlay.agent_moves", "rlay.env_moves"},
    {"rlay.envs", "rlay.envs.*"},
    {"rlay.tools", "rlay.tools.*", "rlay.integrations", "rlay.integrations.*"},
    {"rlay", "rlay.cli", "rlay.__main__"},
]

#: Modules that may not import one another although they share a floor.
STRANGERS = ["rlay.server", "rlay.client", "rlay.tools.*", "rlay.integrations.*"]

#: What the protocol must not know: files, clocks, threads, chance.
MACHINE = {"os", "time", "threading", "mmap", "socket", "random", "multiprocessing"}

#: The only places for these packages, so that they can be exchanged.
PLACES: dict[str, set[str]] = {
    "filelock": {"rlay.channel.locks"},
    "msgspec": {"rlay.protocol.body"},
    "yaml": set(),
    "gymnasium": {"rlay.protocol.spaces", "rlay.protocol.codecs", "rlay.envs.*", "rlay.tools.*"},
}


def matches(module: str, patterns: set[str] | list[str]) -> bool:
    return any(fnmatchcase(module, pattern) for pattern in patterns)


def floor_of(module: str) -> int | None:
    return next((n for n, patterns in enumerate(FLOORS) if matches(module, patterns)), None)


def is_type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING")


def import_nodes(node: ast.AST) -> Iterator[ast.Import | ast.ImportFrom]:
    """Every import at any depth, but for those only a type checker sees."""
    if isinstance(node, ast.Import | ast.ImportFrom):
        yield node
    children = node.orelse if is_type_checking(node) else ast.iter_child_nodes(node)  # type: ignore[attr-defined]
    for child in children:
        yield from import_nodes(child)


def imported_by(module: str, source: str, known: set[str], packages: set[str]) -> Iterator[str]:
    """Absolute names of the modules that ``module`` imports."""
    for node in import_nodes(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
            continue
        base = node.module or ""
        if node.level:
            parents = module.split(".")[: None if module in packages else -1]
            parents = parents[: len(parents) - node.level + 1]
            base = ".".join([*parents, base] if base else parents)
        for alias in node.names:
            name = f"{base}.{alias.name}"
            yield name if name in known else base


def same_household(one: str, other: str) -> bool:
    """Whether both belong to the same tool, or one is the package of the other."""
    one_parts, other_parts = one.split("."), other.split(".")
    return min(len(one_parts), len(other_parts)) < 3 or one_parts[:3] == other_parts[:3]


def problem_with(module: str, floor: int, target: str) -> str | None:
    top = target.partition(".")[0]
    if top != "rlay":
        if floor == 1 and top in MACHINE:
            return f"{module} imports {target}: the protocol knows buffers only"
        if top in PLACES and not matches(module, PLACES[top]):
            return f"{module} imports {target}: not its place"
        return None
    target_floor = floor_of(target)
    if target_floor is not None and target_floor > floor:
        return f"{module} (F{floor}) imports {target} (F{target_floor}): up"
    if matches(module, STRANGERS) and matches(target, STRANGERS) and module != target:
        related = floor == 5 and same_household(module, target)
        return None if related else f"{module} imports {target}: siblings"
    return None


def problems(sources: dict[str, str], packages: set[str]) -> list[str]:
    """Everything wrong with these modules, given as names and texts."""
    known = set(sources) | {"rlay._atomics"}  # the extension has no .py
    found = []
    for module, source in sources.items():
        floor = floor_of(module)
        if floor is None:
            found.append(f"{module} stands on no floor")
            continue
        for target in imported_by(module, source, known, packages):
            problem = problem_with(module, floor, target)
            if problem:
                found.append(problem)
    return sorted(set(found))


def package_sources() -> tuple[dict[str, str], set[str]]:
    sources, packages = {}, set()
    for path in (ROOT / "rlay").rglob("*.py"):
        parts = path.relative_to(ROOT).with_suffix("").parts
        if parts[-1] == "__init__":
            parts = parts[:-1]
            packages.add(".".join(parts))
        sources[".".join(parts)] = path.read_text(encoding="utf-8")
    return sources, packages


def test_imports_go_down() -> None:
    sources, packages = package_sources()
    assert "rlay.protocol.body" in sources
    assert problems(sources, packages) == []


@pytest.mark.parametrize(
    ("module", "source", "problem"),
    [
        ("rlay.planted", "", "rlay.planted stands on no floor"),
        ("rlay.helpers.planted", "", "stands on no floor"),
        ("rlay.errors", "from rlay.protocol import body", "(F0) imports rlay.protocol.body (F1)"),
        ("rlay.protocol.p", "import rlay.channel.locks", "(F1) imports rlay.channel.locks (F2)"),
        ("rlay.protocol.p", "from ..channel import locks", "imports rlay.channel"),
        ("rlay.protocol.p", "from .. import cli", "imports rlay"),
        ("rlay.protocol", "from ..client import x", "imports rlay.client (F3): up"),
        ("rlay.channel.p", "from rlay import client", "imports rlay.client (F3): up"),
        ("rlay.channel.p", "from rlay import __version__", "imports rlay (F6): up"),
        ("rlay.client", "def f():\n    import rlay.envs", "imports rlay.envs (F4): up"),
        ("rlay.client", "from rlay.server import MemServer", "imports rlay.server: siblings"),
        ("rlay.server", "from rlay import client", "imports rlay.client: siblings"),
        ("rlay.tools.bench", "from rlay.tools import body", "rlay.tools"),
        ("rlay.tools.bench", "from rlay.tools.serve import main", "rlay.tools.serve: siblings"),
        ("rlay.tools.bench", "import rlay.integrations.ray", "rlay.integrations.ray: siblings"),
        ("rlay.protocol.p", "import os.path", "imports os.path: the protocol knows buffers only"),
        ("rlay.protocol.p", "if x:\n    from time import sleep", "the protocol knows buffers"),
        ("rlay.channel.files", "import filelock", "not its place"),
        ("rlay.protocol.schema", "import yaml", "not its place"),
        ("rlay.session", "from gymnasium.spaces import Box", "not its place"),
        ("rlay.protocol.records", "import msgspec.msgpack", "not its place"),
        ("rlay.errors", "if TYPE_CHECKING:\n    pass\nelse:\n    import rlay.cli", "rlay.cli"),
    ],
)
def test_a_planted_violation_is_found(module: str, source: str, problem: str) -> None:
    planted = {module: source, "rlay.protocol.body": "", "rlay.client": "", "rlay.cli": ""}
    planted |= {module: source, "rlay.channel.locks": "", "rlay.tools.body": ""}
    found = problems(planted, {"rlay", "rlay.protocol"})
    assert len(found) == 1, found
    assert problem in found[0]


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("rlay.protocol.p", "from rlay.protocol import body\nfrom . import body"),
        ("rlay.protocol.p", "import numpy, struct\nfrom rlay.errors import RlayError"),
        ("rlay.errors", "if typing.TYPE_CHECKING:\n    from rlay.cli import main"),
        ("rlay.client", "from rlay.session import Session\nimport time"),
        ("rlay.tools.gateway.relay", "from rlay.tools.gateway.wire import pack"),
        ("rlay.cli", "from rlay.tools import bench, serve"),
    ],
)
def test_what_is_allowed_is_not_found(module: str, source: str) -> None:
    assert problems({module: source, "rlay.protocol.body": ""}, {"rlay", "rlay.protocol"}) == []
