"""What tests with processes get: children that start fast and are ended for certain.

And programs in C, compiled once.
"""

from __future__ import annotations

import contextlib
import functools
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests import c_programs
from tests.c_programs import Build, Compile, Start
from tests.faults import plants
from tests.peers import Child, Forge

FOLDER = Path(__file__).parent

Spawn = Callable[..., Child]


@pytest.fixture(scope="session")
def forge() -> Iterator[Forge]:
    """The process that forks our children."""
    forge = Forge()
    try:
        yield forge
    finally:
        forge.close()


@pytest.fixture
def spawn(forge: Forge, atomics_twin: str, tmp_path: Path) -> Iterator[Spawn]:
    """A function that runs a function in a child; what still runs at the end is killed."""
    children: list[Child] = []

    def spawn_one(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Child:
        child = forge.start(tmp_path / f"child-{len(children)}", function, *args, **kwargs)
        children.append(child)
        return child

    try:
        yield spawn_one
    finally:
        for child in children:
            with contextlib.suppress(ProcessLookupError):
                child.signal(signal.SIGKILL)
            child.wait()


@pytest.fixture(scope="session")
def build(tmp_path_factory: pytest.TempPathFactory) -> Build:
    """A function that builds one target of the port's Makefile, once; the program's path."""
    folder = tmp_path_factory.mktemp("reference_c")

    @functools.cache
    def build_one(target: str) -> Path:
        return c_programs.make(folder, target)

    return build_one


@pytest.fixture(scope="session")
def compile_c(tmp_path_factory: pytest.TempPathFactory) -> Compile:
    """A function that compiles a program of this folder with these flags, once; its path."""
    folder = tmp_path_factory.mktemp("programs_c")

    @functools.cache
    def compile_one(source: str, *flags: str) -> Path:
        program = folder / f"{len(list(folder.iterdir()))}-{Path(source).stem}"
        c_programs.compile_strictly(FOLDER / source, program, *flags)
        return program

    return compile_one


@pytest.fixture
def start() -> Iterator[Start]:
    """A function that starts a program; whatever still runs at the end is killed."""
    with c_programs.starting() as start_one:
        yield start_one


@pytest.fixture(scope="session")
def compile_gnu(tmp_path_factory: pytest.TempPathFactory) -> Compile:
    """A function that compiles sources with ``rlay.h``, or with a changed copy, for glibc."""
    if shutil.which("gcc") is None:
        pytest.skip("there is no gcc")

    def compile_one(*sources: Path, change: tuple[str, str] | None = None) -> Path:
        folder = tmp_path_factory.mktemp("gnu")
        header = c_programs.header_with(*[change] if change else [])
        (folder / "rlay.h").write_text(header, encoding="utf-8")
        copies = [Path(shutil.copy(source, folder)) for source in sources]
        command = ["gcc", "-std=gnu11", "-O1", "-o", folder / "program", *copies, "-ldl", "-lm"]
        subprocess.run(command, check=True)
        return folder / "program"

    return compile_one


@pytest.fixture(scope="session")
def planned_peer(compile_gnu: Compile) -> Path:
    """A peer in C that can be told what it meets."""
    return compile_gnu(*plants.PEER)


@pytest.fixture
def attempts(request: pytest.FixtureRequest) -> dict[str, plants.Attempt]:
    """How to begin in each language."""
    in_c = plants.begin_in_c(request.getfixturevalue("planned_peer"))
    return {"python": plants.begin, "c": in_c}
