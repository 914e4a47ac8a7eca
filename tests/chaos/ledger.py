"""What a peer tells the monitor, so that it survives the peer: counters and lines.

The counters are a small mapped file of u64 words, one writer each; lines go to a file that is
only appended to. Both outlive SIGKILL, and neither uses anything of rlay. ``peer.c`` writes
the same.
"""

from __future__ import annotations

import mmap
import os
import time
from collections.abc import Iterator
from pathlib import Path

SIZE = 4096
#: The words, by index.
STEPS, EPISODES, SESSIONS, BEGAN_NS, ALLOWED_NS, STOP, BORN, HOLD = range(8)


class Ledger:
    """The counters and lines of one peer's place, across its restarts."""

    def __init__(self, path: Path) -> None:
        """Open both, making them if missing."""
        self.path, self.lines_path = path, path.with_suffix(".lines")
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        os.ftruncate(descriptor, SIZE)
        self._map = mmap.mmap(descriptor, SIZE)
        os.close(descriptor)
        self.words = memoryview(self._map).cast("Q")
        self._lines = os.open(self.lines_path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def add(self, word: int) -> None:
        """Count one more."""
        self.words[word] += 1

    def begin(self, allowed: float) -> None:
        """Say that a call begins that must end within ``allowed`` seconds."""
        self.words[ALLOWED_NS] = int(allowed * 1e9)
        self.words[BEGAN_NS] = time.monotonic_ns()

    def end(self) -> None:
        """Say that it has ended."""
        self.words[BEGAN_NS] = 0

    def tell(self, kind: str, text: str) -> None:
        """Append a line: ``error NAME text``, ``wrong text`` or ``unexpected text``."""
        os.write(self._lines, f"{kind} {text}".replace("\n", " | ").encode() + b"\n")

    def lines(self) -> Iterator[tuple[str, str]]:
        """Return an iterator over kind and text of every line so far."""
        return lines_of(self.lines_path)

    def close(self) -> None:
        """Let go of the files."""
        self.words.release()
        self._map.close()
        os.close(self._lines)


def lines_of(path: Path) -> Iterator[tuple[str, str]]:
    """Yield kind and text of every line of a file, which may be missing."""
    if path.exists():
        for line in path.read_text(errors="replace").splitlines():
            kind, _, text = line.partition(" ")
            yield kind, text
