"""What tests with processes get: children that start fast and are ended for certain."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.peers import Child, Forge

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
