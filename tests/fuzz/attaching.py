"""The attach path: a client meets any control and data file, a server any client.

The endpoints are real and so are the files; only nobody answers, so the wait for the turn
is left out: what the peer would have written stands there already.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import random
import struct
from collections.abc import Iterator
from pathlib import Path

import rlay
from rlay.channel import files
from rlay.channel.channel import Channel
from rlay.client import MemClient
from rlay.envs.client_env import ClientEnv
from rlay.errors import RlayError
from rlay.protocol import constants as c
from rlay.protocol.constants import Feature, Role
from rlay.protocol.header import HEADER, read_field, write_fields
from rlay.protocol.schema import fingerprint
from rlay.server import MemServer
from rlay.session import Session
from rlay.tools.inspect import examine
from tests.fuzz.contract import Target
from tests.fuzz.corpus import valid_cases
from tests.fuzz.headers import FIELDS
from tests.fuzz.mutations import EDGES, mutate_bytes
from tests.fuzz.schemas import schema_text, table_rows
from tests.spec.golden_session import GENERATION

_ALL = Feature.RENDER | Feature.CALL
#: How many bytes of the data file an edit may reach.
_DATA = 1 << 18
_SIGNED = 1 << 7
_numbers = itertools.count()

#: Golden sessions in which the server is the environment, and the agent.
_BY_SERVER = {
    Role.ENV: ("cartpole_two_steps", "dict_image", "all_spaces", "error_reply", "vector_env"),
    Role.AGENT: ("server_env_mode",),
}


def _edited(data: bytes, control: bytearray, record: bytearray) -> None:
    """Apply the input: a list of (offset, size, bytes) over control and data file."""
    at, sign = 1, data[:1] and data[0] & _SIGNED
    while at + 4 <= len(data):
        offset, size = int.from_bytes(data[at : at + 3], "little"), data[at + 3]
        part = data[at + 4 : at + 4 + size]
        file, offset = (control, offset) if offset < len(control) else (record, offset - _DATA)
        part = part[: max(0, len(file) - offset)]
        file[offset : offset + len(part)] = part
        at += 4 + size
    if sign:
        copy = bytes(control)
        write_fields(
            memoryview(control),
            {"fingerprint": fingerprint(schema_text(copy), table_rows(copy))},
        )


def edit(offset: int, part: bytes) -> bytes:
    """Return one edit of an input."""
    return offset.to_bytes(3, "little") + bytes([len(part)]) + part


def _case(data: bytes, server: Role) -> tuple[bytearray, bytearray]:
    names = _BY_SERVER[server]
    case = valid_cases()[names[(data[0] if data else 0) % _SIGNED % len(names)]]
    return bytearray(case.control), bytearray(case.data[0])


@contextlib.contextmanager
def _doing_nothing(method: str) -> Iterator[None]:
    original = getattr(Channel, method)
    setattr(Channel, method, lambda *_, **__: None)
    try:
        yield
    finally:
        setattr(Channel, method, original)


@contextlib.contextmanager
def _alone() -> Iterator[str]:
    """Give a channel name of one's own, leave out the waits, and remove what is left."""
    name = f"fuzz{os.getpid()}x{next(_numbers)}"
    with _doing_nothing("await_turn"):
        try:
            yield name
        finally:
            root = files.Paths(name).root
            for path in root.glob(f"{name}.*"):
                path.unlink()


def _write(path: Path, data: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)


def _talk(session: Session) -> None:
    """Ask the environment for everything, and take what is there for the answer."""
    seed = rlay.protocol.lanes.LaneSeeds([None] * session.schema.groups[0].lanes)
    session.send_reset(seed if session.schema.groups[0].lanes else None, None)  # type: ignore[arg-type]
    session.receive(0.0)
    if session.features & Feature.CALL:
        session.send_call("get", "x", (), {})
        session.receive(0.0)


def attach_client(data: bytes) -> None:
    """Attach an agent to a server's files."""
    control, record = _case(data, Role.ENV)
    write_fields(memoryview(control), {"claim": 0, "client_bye": 0, "turn": c.Side.CLIENT})
    _edited(data, control, record)
    with _alone() as name:
        paths = files.Paths(name)
        _write(paths.control, control)
        _write(paths.data(read_field(bytes(control[: c.HEADER_SIZE]), "generation")), record)
        with contextlib.suppress(RlayError):
            examine(name)
        # The server's answer stays where it is; what the client writes first would hide it.
        with _doing_nothing("hand_over"):
            if data[:1] and data[0] & 64:
                client = MemClient(name, Role.AGENT, features=_ALL)
                try:
                    _talk(client.attach(0.0))
                finally:
                    client.close()
                return
            with contextlib.closing(ClientEnv(name, timeout=0.0, attach_timeout=0.0)) as env:
                env.reset()


def accept_client(data: bytes) -> None:
    """Accept an environment that attaches to an agent's server."""
    case, record = _case(data, Role.AGENT)
    with _alone() as name:
        server = MemServer(name, Role.AGENT, features=_ALL)
        try:
            assert server._channel is not None
            memory = server._channel.mapping.memory
            control = bytearray(memory)
            start, stop = HEADER["client_hello"].offset, HEADER["welcome_status"].offset
            control[start:stop] = case[start:stop]
            control[c.FIELD_TABLE_OFFSET :] = case[c.FIELD_TABLE_OFFSET :]
            write_fields(memoryview(control), {"claim": 1, "turn": c.Side.SERVER})
            for start in (0, read_field(bytes(case[: c.HEADER_SIZE]), "request_size")):
                struct.pack_into("<Q", record, start + 24, server._channel.generation)
            _edited(data, control, record)
            memory[:] = control
            session = server.accept(0.0)
            room = len(session._data.memory)
            session._data.memory[: min(room, len(record))] = record[:room]
            _talk(session)
        finally:
            server.close()


def seeds() -> list[bytes]:
    """Return no edits at all, and some that a parser behind the first one has to refuse."""
    session = struct.pack("<Q", GENERATION + 1)
    number = HEADER["schema_size"].offset
    edits = [b"", edit(HEADER["generation"].offset, session), edit(_DATA + 24, session)]
    edits += [edit(number, b"\xff" * 8), edit(c.SCHEMA_OFFSET, b"["), edit(0x1A0, b"\xff" * 96)]
    edits += [edit(HEADER["welcome_status"].offset, b"\2\0\0\0\x0a"), edit(0x300, b"\xff" * 4)]
    edits += [edit(HEADER["client_hello"].offset, b"\xff" * 128), edit(c.FIELD_TABLE_OFFSET, b"x")]
    name = valid_cases()["cartpole_two_steps"].control.index(b"CartPole-v1")
    edits += [edit(name + 4, b" ")]
    return [bytes([bits]) + e for e in edits for bits in (_SIGNED, 64, _SIGNED + 2, 68)]


def mutate(data: bytes, chance: random.Random) -> bytes:
    """Add an edit of a header field, of the schema, the table or the records."""
    kind, data = chance.randrange(6), data or b"\0"
    if kind == 0:
        return mutate_bytes(data, chance)
    if kind == 1:
        return bytes([chance.randrange(256)]) + data[1:]
    offset, size = chance.choice(FIELDS)
    part = (chance.choice(EDGES) % (1 << 64)).to_bytes(8, "little")[: min(size, 8)]
    if kind == 2:
        offset = c.SCHEMA_OFFSET + chance.randrange(900)
        part = chance.choice((b"[", b'"', b"9", b"-", b"e9", b"null", b"}", b"\xff", b"0.5", b" "))
    elif kind == 3:
        row = c.FIELD_TABLE_OFFSET + chance.randrange(12) * c.ROW_SIZE
        offset, part = row + chance.choice((0, 0xA0, 0xA8, 0xB0, 0xB4, 0xB6, 0xB8, 0xC0)), part[:4]
    elif kind == 4:
        offset = _DATA + chance.choice((0, 69632)) + chance.randrange(96)
    return data[:4000] + edit(offset, part)


ATTACH = Target("attach", attach_client, (RlayError,), seeds, mutate)
ACCEPT = Target("accept", accept_client, (RlayError,), seeds, mutate)
