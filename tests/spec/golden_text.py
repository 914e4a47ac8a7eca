"""The text form of golden files: binary files as hex, values as JSON (spec/golden/README.md)."""

from __future__ import annotations

import struct
from typing import Any

import numpy as np
from gymnasium import spaces

BYTES_PER_LINE = 16
#: Larger than any golden file.
_LARGEST = 1 << 24


def to_hex(data: bytes) -> str:
    """Return the size, then each line of 16 bytes that are not all zero."""
    lines = [f"size {len(data)}"]
    for start in range(0, len(data), BYTES_PER_LINE):
        part = data[start : start + BYTES_PER_LINE]
        if any(part):
            lines.append(f"{start:06x}: {part.hex(' ')}")
    return "\n".join(lines) + "\n"


def from_hex(text: str) -> bytes:
    """Return the binary file that a text stands for.

    Raises:
        ValueError: it is no such text.
    """
    first, *lines = text.splitlines()
    size = int(first.removeprefix("size "))
    if not 0 <= size <= _LARGEST:
        raise ValueError(f"a golden file of {size} bytes, at most {_LARGEST}")
    data = bytearray(size)
    for line in lines:
        offset, _, digits = line.partition(": ")
        start, part = int(offset, 16), bytes.fromhex(digits)
        if not 0 <= start <= size - len(part):
            raise ValueError(f"{len(part)} bytes at {start} of {size}")
        data[start : start + len(part)] = part
    return bytes(data)


def plain(value: Any) -> Any:
    """Return a value of a space or a body as JSON, to the last bit."""
    if isinstance(value, spaces.GraphInstance):
        return {"graph": [plain(part) for part in value]}
    if isinstance(value, np.ndarray):
        data = np.ascontiguousarray(value).astype(value.dtype.newbyteorder("<")).tobytes()
        return {"array": value.dtype.name, "shape": list(value.shape), "hex": data.hex()}
    if isinstance(value, np.generic):
        return {"scalar": value.dtype.name, "hex": value.tobytes().hex()}
    if isinstance(value, tuple):
        return {"tuple": [plain(item) for item in value]}
    if isinstance(value, dict):
        return {"map": [[key, plain(value[key])] for key in sorted(value)]}
    if isinstance(value, float):
        return {"float64": struct.pack("<d", value).hex(), "about": repr(value)}
    if isinstance(value, complex):
        return {"complex": struct.pack("<dd", value.real, value.imag).hex()}
    if isinstance(value, bytes):
        return {"bytes": value.hex()}
    if isinstance(value, list):
        return [plain(item) for item in value]
    return value
