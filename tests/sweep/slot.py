"""What is shared with the victim: a page that outlives it, and the end of whoever waits for it."""

from __future__ import annotations

import ctypes
import json
import mmap
import signal
import struct
from typing import Any

_SIZE = struct.Struct("<I")
_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None)


def die_with_parent() -> None:
    """Let the kernel kill this process when its parent ends: nothing outlives a sweep."""
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


class Slot:
    """One JSON value in anonymous shared memory."""

    def __init__(self, size: int = 1 << 23) -> None:
        self._map = mmap.mmap(-1, size)

    def put(self, value: Any) -> None:
        data = json.dumps(value).encode()
        self._map[_SIZE.size : _SIZE.size + len(data)] = data
        _SIZE.pack_into(self._map, 0, len(data))

    def get(self) -> Any:
        (size,) = _SIZE.unpack_from(self._map)
        return json.loads(self._map[_SIZE.size : _SIZE.size + size]) if size else None

    def clear(self) -> None:
        _SIZE.pack_into(self._map, 0, 0)


class Cell:
    """One number in anonymous shared memory."""

    def __init__(self) -> None:
        self._map = mmap.mmap(-1, 8)

    @property
    def value(self) -> int:
        return int.from_bytes(self._map[:8], "little")

    @value.setter
    def value(self, number: int) -> None:
        self._map[:8] = number.to_bytes(8, "little")
