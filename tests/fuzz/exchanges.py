"""The two records: prefix, fields and body of an exchange, with lanes and without."""

from __future__ import annotations

import dataclasses
import functools
import json
import random
import struct
from typing import Any

from rlay.envs.vector_workers import Batch
from rlay.errors import LayoutError, RemoteError, RemoteProtocolError
from rlay.protocol.constants import STATUS_REMOTE, Bye, Command, RecordKind
from rlay.protocol.lane_codecs import ALL
from rlay.protocol.lanes import LaneReplyRecord, compile_records
from rlay.protocol.layout import Layout
from rlay.protocol.prefix import PREFIX
from rlay.protocol.records import ReplyRecord
from rlay.protocol.schema import Schema, compile_layout, read_schema
from tests.fuzz.contract import Target
from tests.fuzz.corpus import faults, valid_cases
from tests.fuzz.mutations import EDGES, mutate_bytes
from tests.spec.golden_session import GENERATION

_COMMANDS = (Command.RESET, Command.STEP, Command.RENDER, Command.CALL, Command.CLOSE)


class _Worker:
    """As much of a ``VectorEnv``'s worker as taking a reply needs."""

    def __init__(self, count: int) -> None:
        self.count, self.where, self.session = count, slice(0, count), self

    def end(self, bye: Bye) -> None:
        """Be the session, which a malformed reply ends."""

    def check_intact(self) -> None:
        """Be the session, whose file is whole."""


def read_reply(reply: ReplyRecord, seq: int, command: Command, *, copy: bool) -> None:
    """Read a reply as ``Session.receive`` and ``VectorEnv`` do."""
    size = reply.open(seq, command)
    if command is Command.RENDER:
        reply.read_frame(size, copy=copy)
    elif command in (Command.CALL, Command.CLOSE):
        reply.read_value(size)
    else:
        reset = command is Command.RESET
        found = reply.read_reset(size, copy=copy) if reset else reply.read_step(size, copy=copy)
        if isinstance(reply, LaneReplyRecord):
            worker: Any = _Worker(reply.count)
            batch = Batch(reply.count, reply.observation.empty(reply.count))
            if reset:
                batch.take_reset(worker, found)
            else:
                batch.take_step(worker, found, worker.where, ALL)
            reply.observation.finish(batch.observations)
            reply.observation.view()


def read_everything(schema: Schema, layout: Layout, data: bytearray, session: int) -> None:
    """Read both records by every command, whatever stands in them; errors are as good."""
    if len(schema.groups) != 1 or schema.groups[0].agents:
        return
    memory = memoryview(data)
    request, reply = compile_records(schema, layout, memory, session)
    for command in _COMMANDS:
        for kind in RecordKind:
            PREFIX.pack_into(memory[layout.record_slice(kind)], 0, 1, command, 0, 0, session)
        for copy in (True, False):
            try:
                request.read(request.command(1), copy=copy)
                read_reply(reply, 1, command, copy=copy)
            except RemoteProtocolError:
                pass


@functools.cache
def _sessions() -> list[tuple[Schema, Layout, bytes, bytes]]:
    """Return schema, layout and both records of every exchange of the golden cases."""
    found = []
    for case in valid_cases().values():
        schema = read_schema(json.dumps(case.meaning["schema"]).encode())
        if len(schema.groups) == 1:
            layout = compile_layout(schema)
            found += [(schema, layout, *_halves(layout, data)) for data in case.data]
    return found


def _halves(layout: Layout, data: bytes) -> tuple[bytes, bytes]:
    first, second = (data[layout.record_slice(kind)] for kind in RecordKind)
    return first, second


@dataclasses.dataclass(frozen=True)
class _Input:
    """How an input is laid out: which exchange, which record, how it is read, its first bytes."""

    session: int
    kind: RecordKind
    copy: bool
    repaired: bool
    record: bytes

    def pack(self) -> bytes:
        bits = (self.kind - 1) | self.copy << 1 | self.repaired << 2
        return struct.pack("<BB", self.session, bits) + self.record

    @staticmethod
    def unpack(data: bytes) -> _Input:
        session, bits = data[:2].ljust(2, b"\0")
        kind = RecordKind(1 + (bits & 1))
        return _Input(session % len(_sessions()), kind, bool(bits & 2), bool(bits & 4), data[2:])


def parse(data: bytes) -> None:
    """Put the bytes over the beginning of a golden record, and read it as its reader does.

    A repaired prefix carries the right seq and session, so that what follows is reached.
    """
    given = _Input.unpack(data)
    schema, layout, *records = _sessions()[given.session]
    here = layout.record_slice(given.kind)
    memory = memoryview(bytearray(records[0] + records[1]))
    seq, command = PREFIX.unpack_from(memory)[:2]
    changed = given.record[: here.stop - here.start]
    memory[here.start : here.start + len(changed)] = changed
    if given.repaired:
        struct.pack_into("<Q", memory, here.start, seq)
        struct.pack_into("<Q", memory, here.start + 24, GENERATION)
    request, reply = compile_records(schema, layout, memory, GENERATION)
    if given.kind is RecordKind.REQUEST:
        request.read(request.command(seq), copy=given.copy)
    else:
        read_reply(reply, seq, Command(command), copy=given.copy)


def seeds(*, lanes: bool) -> list[bytes]:
    """Return every record of the golden exchanges that have lanes, or have none."""
    found = []
    for number, (schema, _, *records) in enumerate(_sessions()):
        if bool(schema.groups[0].lanes) is lanes:
            for kind, record in zip(RecordKind, records, strict=True):
                found.append(_packed(number, kind, record))
    if not lanes:
        found += _faulty()
    return found


def _packed(number: int, kind: RecordKind, record: bytes) -> bytes:
    return _Input(number, kind, number % 2 == 0, True, record.rstrip(b"\0") + bytes(8)).pack()


def _faulty() -> list[bytes]:
    """Return the records of the invalid golden cases, over the session they spoil."""
    first, found = 0, []
    for case in valid_cases().values():
        if len(case.meaning["schema"]["groups"]) > 1:
            continue
        layout = compile_layout(read_schema(json.dumps(case.meaning["schema"]).encode()))
        for fault, data in faults(case.name):
            kind, _, number = fault.fails_at.partition(" ")
            if number:
                exchange = int(number) - 1
                record = _halves(layout, data[exchange])[kind == "reply"]
                which = RecordKind.REPLY if kind == "reply" else RecordKind.REQUEST
                found.append(_packed(first + exchange, which, record))
        first += len(case.data)
    return found


TOKENS = (b"\xc7\x0f\x04", b"\xde\xff\xff", b"\x81\xa5infos\x81", b"\xff" * 4, b"\xff" * 8)


def mutate(data: bytes, chance: random.Random) -> bytes:
    """Change a number of the prefix, a count behind it, or any bytes."""
    given = _Input.unpack(data)
    record = bytearray(given.record)
    kind = chance.randrange(4)
    if kind == 0:
        offset = chance.choice((0, 8, 12, 16, 24))
        record[offset : offset + 4] = (chance.choice(EDGES) % (1 << 32)).to_bytes(4, "little")
    elif kind == 1:
        record[12:16] = STATUS_REMOTE.to_bytes(4, "little")
    elif kind == 2 and len(record) > 36:
        offset = chance.randrange(32, len(record) - 3) & ~3
        record[offset : offset + 4] = (chance.choice(EDGES) % (1 << 32)).to_bytes(4, "little")
    else:
        record = bytearray(record[:32] + mutate_bytes(bytes(record[32:]), chance, TOKENS))
    changed = dataclasses.replace(given, record=bytes(record), repaired=chance.randrange(8) > 0)
    return changed.pack()


# Of lanes, LayoutError: values of several lanes that Gymnasium cannot put into one batch.
RECORD = Target(
    "record", parse, (RemoteProtocolError, RemoteError), lambda: seeds(lanes=False), mutate
)
LANES = Target(
    "lanes",
    parse,
    (RemoteProtocolError, RemoteError, LayoutError),
    lambda: seeds(lanes=True),
    mutate,
)
