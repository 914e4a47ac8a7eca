"""What is done to a channel: signals to its processes, and hands on its files.

Each function does one thing at once and says what it did, or None when there was nothing to
do it to. What is drawn at random never depends on what was found.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
from pathlib import Path

#: Kinds and how often each is drawn.
SIGNALS = {"kill": 6, "stop": 4, "interrupt": 3, "restart": 2}
FILES = {"unlink control": 2, "unlink data": 2, "replace control": 2, "replace data": 2}
LOCKS = {"unlink lock": 1}
WEIGHTS = {**SIGNALS, **FILES, **LOCKS}

#: Errors that any survivor may see: somebody was late, came first, left or started again.
ALWAYS = (
    "ChannelTimeoutError",
    "PeerClosedError",
    "ChannelNotFoundError",
    "ChannelBusyError",
)
#: Those that need a cause, and the kinds of disturbance that are one.
CAUSES = {
    "PeerLostError": set(WEIGHTS) - {"stop"},
    "ChannelFormatError": {"replace control", "replace data"},
    # A client that mapped a copy of the data file writes where nobody reads.
    "RemoteProtocolError": {"replace data"},
    "LocalProtocolError": {"interrupt", "restart"},
    "KeyboardInterrupt": {"interrupt", "restart"},
}

#: Codes of PROTOCOL.md §13, by which the C peers name errors.
CODES = {
    "6": "ChannelNotFoundError",
    "7": "ChannelBusyError",
    "8": "ChannelFormatError",
    "14": "RemoteProtocolError",
    "15": "PeerClosedError",
    "17": "PeerLostError",
    "18": "ChannelTimeoutError",
}


def control_files(root: Path, channel: str) -> list[Path]:
    """Return the control files of a channel, or of all that ``make_vec`` made."""
    return sorted(root.glob("make-*.rlay" if channel == "vector" else f"{channel}.rlay"))


def data_files(root: Path, channel: str) -> list[Path]:
    """Return its data files; there is one for a moment only."""
    return sorted(root.glob("make-*.data" if channel == "vector" else f"{channel}.*.data"))


def lock_files(root: Path, channel: str) -> list[Path]:
    """Return its lock files."""
    return sorted(root.glob("make-*.lock" if channel == "vector" else f"{channel}.*.lock"))


def on_files(
    kind: str, root: Path, channel: str, number: int, planted: set[tuple[int, int]]
) -> bool:
    """Unlink or replace a file of the channel; tell whether there was one.

    Args:
        kind: of the disturbance.
        root: the channel directory.
        channel: its name.
        number: drawn at random: which file, and how.
        planted: gets the inode of a file that was put in place of another.
    """
    verb, what = kind.split()
    find = {"control": control_files, "data": data_files, "lock": lock_files}[what]
    draw = random.Random(number)
    found = find(root, channel)
    # What is there may go away at any moment.
    with contextlib.suppress(FileNotFoundError):
        if found and verb == "unlink":
            draw.choice(found).unlink()
            return True
        if found:
            victim = draw.choice(found)
            planted.add(_replace(victim, root / f"replacement-of-{victim.name}", draw))
            return True
    return False


def _replace(victim: Path, new: Path, draw: random.Random) -> tuple[int, int]:
    old = victim.read_bytes()
    content = draw.choice([draw.randbytes(len(old)), b"", old[: len(old) // 2], old])
    descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as stream:
        stream.write(content)
        made = os.fstat(descriptor)
    os.replace(new, victim)
    return made.st_dev, made.st_ino


def strike(pid: int, number: signal.Signals, parent: int) -> bool:
    """Signal a grandchild that may end at any moment, if it still is one."""
    try:
        handle = os.pidfd_open(pid)
    except OSError:
        return False
    try:
        # The handle is of one process, and that one is ours or the number was used anew.
        stat = Path(f"/proc/{pid}/stat").read_text()
        if int(stat.rpartition(")")[2].split()[1]) != parent:
            return False
        signal.pidfd_send_signal(handle, number)
        return True
    except OSError:
        return False
    finally:
        os.close(handle)
