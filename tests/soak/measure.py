"""What a side holds, read from /proc, and whether it grows. Nothing here knows rlay."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path

#: Pages that a process touches late are no leak; KiB.
MEMORY_ALLOWED = 768


@dataclasses.dataclass(frozen=True)
class Held:
    """What one process holds at one moment.

    Attributes:
        memory: resident, KiB.
        descriptors: open ones.
        threads: running ones.
        mappings: of files in the channel directory.
    """

    memory: int
    descriptors: int
    threads: int
    mappings: int


@dataclasses.dataclass(frozen=True)
class Look:
    """What both sides hold, and the channel directory."""

    done: int
    seconds: float
    env: Held
    agent: Held
    files: int


def held(pid: int, root: Path) -> Held:
    """Look at a process."""
    status = dict(
        line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines()
    )
    return Held(
        memory=int(status["VmRSS"].split()[0]),
        descriptors=len(os.listdir(f"/proc/{pid}/fd")),
        threads=int(status["Threads"]),
        mappings=Path(f"/proc/{pid}/maps").read_text().count(f"{root}/"),
    )


def growth(looks: Sequence[Look], memory_allowed: int = MEMORY_ALLOWED) -> list[str]:
    """Say what grew from the first look to the last; memory, which warms up, in the last half."""
    first, half, last = looks[0], looks[len(looks) // 2], looks[-1]
    found = []
    for side in ("env", "agent"):
        for field in dataclasses.fields(Held):
            memory = field.name == "memory"
            was = getattr(getattr(half if memory else first, side), field.name)
            is_now = getattr(getattr(last, side), field.name)
            if is_now > was + (memory_allowed if memory else 0):
                found.append(f"{side}: {field.name} grew from {was} to {is_now}")
    if last.files > first.files:
        found.append(f"files grew from {first.files} to {last.files}")
    return found
