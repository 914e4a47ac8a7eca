"""What both records begin and end with: the prefix and the body (PROTOCOL.md §7)."""

from __future__ import annotations

import struct
from typing import Any

import numpy as np

from rlay.errors import ChannelFormatError, LayoutMismatchError, RemoteProtocolError
from rlay.protocol.body import decode_body, encode_body
from rlay.protocol.constants import RecordKind
from rlay.protocol.layout import Layout
from rlay.protocol.schema import Schema

#: seq, command, status, body_size, session
PREFIX = struct.Struct("<QIII4xQ")


def stamp_session(data: memoryview, layout: Layout, session: int) -> None:
    """Write the session into both prefixes of a new data file; only the server does."""
    for kind in RecordKind:
        PREFIX.pack_into(data[layout.record_slice(kind)], 0, 0, 0, 0, 0, session)


def check_session(data: memoryview, layout: Layout, session: int) -> None:
    """Check at attach that both prefixes carry the session.

    Raises:
        ChannelFormatError: this is another session's data file.
    """
    for kind in RecordKind:
        found = PREFIX.unpack_from(data[layout.record_slice(kind)])[4]
        if found != session:
            where = f"data file, {kind.name.lower()} record"
            raise ChannelFormatError(where, "session", hex(found), hex(session))


class Record:
    """Prefix and body of one of the two records, over the mapped data file."""

    #: Whether this is the record of a group with lanes; see ``lanes.py``.
    lanes = False

    def __init__(
        self,
        kind: RecordKind,
        schema: Schema,
        layout: Layout,
        data: memoryview,
        session: int | None,
    ) -> None:
        """Compile over the mapped data file; ``session`` None is the one that stands there."""
        if len(schema.groups) != 1 or bool(schema.groups[0].lanes) != self.lanes:
            raise LayoutMismatchError(
                "the channel carries lanes or several groups; "
                "this endpoint is for one environment with one agent"
            )
        self._memory = data[layout.record_slice(kind)]
        self._layout, self._kind = layout, kind
        self._body_offset = layout.find(kind, "body").offset
        self._body_capacity = layout.find(kind, "body").size
        self._body_setting = f"{kind.name.lower()}_body"
        # Who knows the session says so: the record's own could have changed since it was checked.
        self._session: int = PREFIX.unpack_from(self._memory)[4] if session is None else session

    @property
    def memory(self) -> memoryview:
        """The mapped record, for the compiled step."""
        return self._memory

    def _field(self, name: str) -> np.ndarray:
        return self._layout.find(self._kind, name).view(self._memory)

    def _finish(self, seq: int, command: int, status: int, body: bytes) -> None:
        if body:
            self._memory[self._body_offset : self._body_offset + len(body)] = body
        PREFIX.pack_into(self._memory, 0, seq, command, status, len(body), self._session)

    def _open(self, seq: int) -> tuple[int, int, int]:
        """Copy and check the prefix; return (command, status, body_size)."""
        found, command, status, body_size, session = PREFIX.unpack_from(self._memory)
        what = self._kind.name.lower()
        if found != seq:
            raise RemoteProtocolError(f"the {what} carries seq {found}, expected {seq}")
        if session != self._session:
            raise RemoteProtocolError(
                f"the {what} is of session {session:x}, not {self._session:x}"
            )
        if body_size > self._body_capacity:
            raise RemoteProtocolError(
                f"the {what}'s body_size is {body_size}, at most {self._body_capacity} fit"
            )
        return command, status, body_size

    def _encode(self, value: Any, what: str) -> bytes:
        """Return a body; ``what`` names the value where it does not fit."""
        return encode_body(
            value, capacity=self._body_capacity, what=what, setting=self._body_setting
        )

    def _body(self, size: int) -> Any:
        start = self._body_offset
        return decode_body(bytes(self._memory[start : start + size])) if size else None

    def _map_body(self, size: int, what: str) -> dict[Any, Any]:
        value = self._body(size) if size else {}
        if not isinstance(value, dict):
            raise RemoteProtocolError(f"{what} is a {type(value).__name__}, expected a map")
        return value
