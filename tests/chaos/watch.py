"""What the monitor sees of a process without asking it: /proc, and the ledger it keeps."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from pathlib import Path

from tests.chaos.ledger import ALLOWED_NS, BEGAN_NS, Ledger

#: A call may end this much after its deadline: both cores are everybody's; seconds.
MARGIN = 10.0


class Overdue:
    """Notices a call that has lasted longer than it may; time in SIGSTOP does not count."""

    def __init__(self, margin: float = MARGIN) -> None:
        self._margin = margin
        self._began = 0
        self._spent, self._seen = 0.0, 0.0

    def look(self, ledger: Ledger, *, stopped: bool) -> float | None:
        """Return the seconds that a call has lasted beyond its deadline and margin, or None."""
        began, now = ledger.words[BEGAN_NS], time.monotonic()
        if began != self._began:
            self._began, self._spent = began, 0.0
        elif began and not stopped:
            self._spent += now - self._seen
        self._seen = now
        over = self._spent - ledger.words[ALLOWED_NS] / 1e9
        return over if began and over > self._margin else None


def held(pid: int, root: str) -> tuple[int, int]:
    """Return how many descriptors a process has open, and mappings of a directory's files."""
    with contextlib.suppress(OSError):
        maps = Path(f"/proc/{pid}/maps").read_text().count(root)
        return len(os.listdir(f"/proc/{pid}/fd")), maps
    return 0, 0


def children(pid: int) -> list[int]:
    """Return the processes that a process started and that still run."""
    with contextlib.suppress(OSError):
        return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return []


def _was_started_with(pid: int | str, root: str) -> bool:
    with contextlib.suppress(OSError):
        environment = Path(f"/proc/{pid}/environ").read_bytes()
        return f"RLAY_DIR={root}".encode() in environment.split(b"\0")
    return False


def processes_of(root: str) -> dict[int, str]:
    """Return the processes that were started with this channel directory, but for ourselves."""
    found = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit() and int(entry) != os.getpid() and _was_started_with(entry, root):
            with contextlib.suppress(OSError):
                command = Path(f"/proc/{entry}/cmdline").read_bytes().replace(b"\0", b" ")
                found[int(entry)] = command.decode(errors="replace").strip()
    return found


def end(pid: int, root: str) -> None:
    """Kill a process that was left over, and no other that has its number now."""
    with contextlib.suppress(OSError):
        handle = os.pidfd_open(pid)
        try:
            if _was_started_with(pid, root):
                signal.pidfd_send_signal(handle, signal.SIGKILL)
        finally:
            os.close(handle)
