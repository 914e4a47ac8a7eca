"""The control file's header: one table of fields, and reading it without trust (PROTOCOL.md §5).

All readers work on a private copy of the header page, taken once, so that a
peer that rewrites the mapping afterwards changes nothing that was checked.
"""

from __future__ import annotations

import dataclasses
import struct
from collections.abc import Mapping
from typing import Any

from rlay.errors import ChannelFormatError, ProtocolVersionError
from rlay.protocol import constants as c

_FORMATS = {"u8": "<B", "u16": "<H", "u32": "<I", "u64": "<Q"}


@dataclasses.dataclass(frozen=True)
class HeaderField:
    """One row of the header table; ``writer`` is a side, a role, or ``both``."""

    name: str
    offset: int
    size: int
    type: str
    writer: str


def _table(*rows: tuple[str, int, int, str, str]) -> dict[str, HeaderField]:
    return {row[0]: HeaderField(*row) for row in rows}


HEADER = _table(
    ("magic", 0x000, 8, "bytes", "server"),
    ("endian_tag", 0x008, 4, "u32", "server"),
    ("header_size", 0x00C, 4, "u32", "server"),
    ("control_size", 0x010, 8, "u64", "server"),
    ("generation", 0x018, 8, "u64", "server"),
    ("server_hello", 0x080, 128, "hello", "server"),
    ("client_hello", 0x100, 128, "hello", "client"),
    ("schema_size", 0x180, 4, "u32", "env"),
    ("field_count", 0x184, 4, "u32", "env"),
    ("fingerprint", 0x188, 8, "u64", "env"),
    ("request_size", 0x190, 8, "u64", "env"),
    ("reply_size", 0x198, 8, "u64", "env"),
    ("welcome_status", 0x200, 4, "u32", "server"),
    ("welcome_code", 0x204, 4, "u32", "server"),
    ("protocol", 0x208, 2, "u16", "server"),
    ("features", 0x210, 8, "u64", "server"),
    ("data_size", 0x218, 8, "u64", "server"),
    ("welcome_text", 0x220, 224, "text", "server"),
    ("turn", 0x300, 4, "u32", "both"),
    ("server_waiting", 0x380, 4, "u32", "server"),
    ("server_bye", 0x384, 4, "u32", "server"),
    ("client_waiting", 0x400, 4, "u32", "client"),
    ("client_bye", 0x404, 4, "u32", "client"),
    ("claim", 0x408, 4, "u32", "client"),
    ("field_table", c.FIELD_TABLE_OFFSET, c.FIELD_TABLE_SIZE, "rows", "env"),
    ("schema", c.SCHEMA_OFFSET, c.SCHEMA_CAPACITY, "json", "env"),
)

HELLO = _table(
    ("protocol_min", 0x00, 2, "u16", "side"),
    ("protocol_max", 0x02, 2, "u16", "side"),
    ("role", 0x04, 1, "u8", "side"),
    ("features", 0x08, 8, "u64", "side"),
    ("pid", 0x10, 4, "u32", "side"),
    ("library", 0x18, 40, "text", "side"),
    ("host", 0x40, 64, "text", "side"),
)

_HELLO_OFFSETS = {
    c.Side.SERVER: HEADER["server_hello"].offset,
    c.Side.CLIENT: HEADER["client_hello"].offset,
}


def _put(buffer: memoryview, field: HeaderField, base: int, value: Any) -> None:
    start = base + field.offset
    if field.type in _FORMATS:
        struct.pack_into(_FORMATS[field.type], buffer, start, value)
        return
    data = value.encode("utf-8", "replace") if field.type == "text" else bytes(value)
    if field.type == "text" and len(data) >= field.size:
        # One NUL must remain; drop a character cut in half rather than write broken UTF-8.
        data = data[: field.size - 1].decode("utf-8", "ignore").encode("utf-8")
    buffer[start : start + field.size] = data.ljust(field.size, b"\0")


def _get(copy: bytes, field: HeaderField, base: int = 0) -> Any:
    start = base + field.offset
    if field.type in _FORMATS:
        return struct.unpack_from(_FORMATS[field.type], copy, start)[0]
    data = copy[start : start + field.size]
    return data.split(b"\0", 1)[0].decode("utf-8", "replace") if field.type == "text" else data


def write_fields(buffer: memoryview, values: Mapping[str, Any]) -> None:
    """Write named header fields; only the side in the ``writer`` column may call this."""
    for name, value in values.items():
        _put(buffer, HEADER[name], 0, value)


def read_field(copy: bytes, name: str) -> Any:
    """Return one header field from a private copy of page 0."""
    return _get(copy, HEADER[name])


@dataclasses.dataclass(frozen=True)
class Hello:
    """Who one side is: versions, role, features; the rest is for people.

    Attributes:
        protocol_min: lowest protocol version spoken.
        protocol_max: highest protocol version spoken.
        role: ENV or AGENT.
        features: feature bits offered, unknown ones included.
        pid: process id as that side sees it; never used to decide anything.
        library: name and version.
        host: host name.
    """

    role: c.Role
    features: int = 0
    protocol_min: int = c.PROTOCOL_VERSION
    protocol_max: int = c.PROTOCOL_VERSION
    pid: int = 0
    library: str = ""
    host: str = ""

    def write(self, buffer: memoryview, side: c.Side) -> None:
        """Write this hello as the given side's."""
        for name, field in HELLO.items():
            _put(buffer, field, _HELLO_OFFSETS[side], getattr(self, name))

    def describe(self) -> str:
        """Say who this is, for error messages."""
        return f"{self.library or 'an unnamed library'}, process {self.pid} on {self.host or '?'}"


def read_hello(copy: bytes, side: c.Side, where: str) -> Hello:
    """Read and check a side's hello from a private copy of page 0.

    Raises:
        ChannelFormatError: the role or the version range cannot be true.
    """
    base = _HELLO_OFFSETS[side]
    values = {name: _get(copy, field, base) for name, field in HELLO.items()}
    prefix = side.name.lower()
    if values["role"] not in tuple(c.Role):
        raise ChannelFormatError(where, f"{prefix}_hello.role", values["role"], "1 or 2")
    if not 0 < values["protocol_min"] <= values["protocol_max"]:
        found = f"{values['protocol_min']}..{values['protocol_max']}"
        raise ChannelFormatError(where, f"{prefix}_hello protocol range", found, "low..high")
    values["role"] = c.Role(values["role"])
    return Hello(**values)


def check_identity(copy: bytes, file_size: int, where: str) -> int:
    """Check that a private copy of page 0 begins a control file; return its generation.

    Raises:
        ChannelFormatError: names the first field that is wrong, and both values.
    """
    if file_size != c.CONTROL_SIZE or len(copy) != c.HEADER_SIZE:
        raise ChannelFormatError(where, "file size", file_size, c.CONTROL_SIZE)
    expected: dict[str, Any] = {
        "magic": c.MAGIC,
        "endian_tag": c.ENDIAN_TAG,
        "header_size": c.HEADER_SIZE,
        "control_size": c.CONTROL_SIZE,
    }
    for name, value in expected.items():
        found = read_field(copy, name)
        if found != value:
            both = (f.hex() if isinstance(f, bytes) else hex(f) for f in (found, value))
            raise ChannelFormatError(where, name, *both)
    generation: int = read_field(copy, "generation")
    if generation == 0:
        raise ChannelFormatError(where, "generation", 0, "a random number")
    return generation


def check_peer(ours: Hello, theirs: Hello, where: str) -> int:
    """Check that two hellos go together; return the protocol version of the session.

    Raises:
        ProtocolVersionError: the version ranges do not overlap.
        ChannelFormatError: both sides play the same role.
    """
    version = min(ours.protocol_max, theirs.protocol_max)
    if version < max(ours.protocol_min, theirs.protocol_min):
        raise ProtocolVersionError(
            where,
            f"protocol version of the peer ({theirs.describe()})",
            f"{theirs.protocol_min} to {theirs.protocol_max}",
            f"{ours.protocol_min} to {ours.protocol_max}: update the older of the two",
        )
    if theirs.role is ours.role:
        raise ChannelFormatError(
            where,
            f"role of the peer ({theirs.describe()})",
            theirs.role.name,
            f"{ours.role.peer.name}, because this side is {ours.role.name} "
            "(ClientEnv goes with ServerBackend, ServerEnv with ClientBackend)",
        )
    return version
