"""Which file systems a channel must not be on (PROTOCOL.md §4).

On these a mapping is not the same memory for both sides, or ``flock`` does not reach the
other one, and nothing would say so: a session would stand still, or a dead peer look alive.
"""

from __future__ import annotations

import ctypes
import errno
import os
import pathlib
import sys

from rlay.errors import UnsafePathError

#: Linux' numbers for file systems, as ``statfs`` gives them (PROTOCOL.md §4).
REFUSED = {
    0x00006969: "NFS",
    0x0000517B: "SMB",
    0xFE534D42: "SMB2",
    0xFF534D42: "CIFS",
    0x01021997: "9p",
    0x65735546: "FUSE",
    0x5346414F: "AFS",
    0x00C36400: "Ceph",
    0x73757245: "Coda",
    0x786F4256: "vboxsf",
}

#: With this value RLAY_FILE_SYSTEM lets any file system pass.
ANY = "any"

#: More than any system's ``struct statfs``; its first four bytes are the type.
_STATFS_SIZE = 512


def _type_of(path: pathlib.Path) -> int | None:
    """Return the number of the file system, or None when the system does not say."""
    if sys.platform != "linux":
        return None
    statfs = ctypes.CDLL(None, use_errno=True).statfs
    buffer = ctypes.create_string_buffer(_STATFS_SIZE)
    while statfs(os.fsencode(path), buffer) != 0:
        if ctypes.get_errno() != errno.EINTR:
            return None
    return int.from_bytes(buffer.raw[:4], sys.byteorder)


def check_file_system(path: pathlib.Path) -> None:
    """Refuse a directory on a network or user-space file system.

    Raises:
        UnsafePathError: names the file system and what to do.
    """
    if os.environ.get("RLAY_FILE_SYSTEM") == ANY:
        return
    kind = REFUSED.get(_type_of(path) or 0)
    if kind is not None:
        raise UnsafePathError(
            path,
            f"is on a {kind} file system, where processes may not see each other's memory or locks",
            "set RLAY_DIR to a directory on a local one, such as /dev/shm, or, if you know that "
            f"mmap and flock work there, RLAY_FILE_SYSTEM={ANY}",
        )
