"""Flips bytes in the mapped files of a process while it runs, whatever language it is in.

Linux only: the files are found in ``/proc/PID/maps``, also those that were unlinked, and
changed through ``/proc/PID/mem``. They are mapped shared, so both sides of a channel see it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import random
import time
from pathlib import Path

from rlay.protocol import constants as c
from tests.fuzz.headers import FIELDS
from tests.fuzz.mutations import EDGES

#: Mappings come and go with each session; how long a list of them is believed.
_FRESH_SECONDS = 0.02


@dataclasses.dataclass(frozen=True)
class Region:
    """One mapped file of a process."""

    start: int
    size: int
    control: bool


def regions(pid: int, root: Path) -> list[Region]:
    """Return the control and data files under ``root`` that a process has mapped for writing."""
    found = []
    for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
        span, rights, _, _, _, *path = line.split(None, 5)
        name = path[0].removesuffix(" (deleted)") if path else ""
        if name.startswith(f"{root}/") and "w" in rights and name.endswith((".rlay", ".data")):
            start, end = (int(part, 16) for part in span.split("-"))
            found.append(Region(start, end - start, name.endswith(".rlay")))
    return found


class Mutator:
    """Changes bytes of one process's channel files.

    Attributes:
        count: changes made so far.
    """

    def __init__(self, pid: int, root: Path, seed: int) -> None:
        """Take a process of this user, and the directory of its channels."""
        self.pid, self.root, self.count = pid, root, 0
        self._chance = random.Random(seed)
        self._memory = os.open(f"/proc/{pid}/mem", os.O_RDWR | os.O_CLOEXEC)
        self._regions: list[Region] = []
        self._read_at = 0.0

    def close(self) -> None:
        """Let go of the process."""
        os.close(self._memory)

    def strike(self) -> None:
        """Change a few bytes somewhere; nothing when nothing is mapped, or no more."""
        if time.monotonic() > self._read_at + _FRESH_SECONDS:
            self._regions, self._read_at = regions(self.pid, self.root), time.monotonic()
        if self._regions:
            # Gone since the list was made: the session is over, and another will come.
            with contextlib.suppress(OSError):
                self._change(self._chance.choice(self._regions))

    def _change(self, region: Region) -> None:
        offset, size = self._place(region)
        kind, address = self._chance.randrange(3), region.start + offset
        if kind == 0:
            byte = os.pread(self._memory, 1, address)
            part = bytes([byte[0] ^ 1 << self._chance.randrange(8)])
        elif kind == 1:
            part = (self._chance.choice(EDGES) % (1 << 8 * size)).to_bytes(size, "little")
        else:
            part = self._chance.randbytes(size)
        os.pwrite(self._memory, part, address)
        self.count += 1

    def _place(self, region: Region) -> tuple[int, int]:
        """Return where to strike: mostly where something is read."""
        size = self._chance.choice((1, 2, 4, 8))
        pick = self._chance.randrange(8)
        if pick == 0:
            return self._chance.randrange(region.size - 8), size
        if region.control and pick < 5:
            offset, size = self._chance.choice(FIELDS)
            return offset, min(size, 8)
        if region.control:
            begin = self._chance.choice((c.FIELD_TABLE_OFFSET, c.SCHEMA_OFFSET))
            return begin + self._chance.randrange(2048), size
        # Either record: the prefix, the fields or the beginning of the body.
        page = self._chance.randrange(region.size // c.RECORD_ALIGNMENT) * c.RECORD_ALIGNMENT
        page = 0 if pick < 3 else page
        return page + self._chance.choice((0, 0, 32, 64)) + self._chance.randrange(32) & ~7, size
