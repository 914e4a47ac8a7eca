"""Random bytes into every reader: an error that is declared, or a value."""

from __future__ import annotations

import struct
from typing import Any

import numpy as np
from gymnasium import spaces
from hypothesis import given, settings
from hypothesis import strategies as st

from rlay.errors import (
    ChannelFormatError,
    LayoutMismatchError,
    RemoteError,
    RemoteProtocolError,
    SchemaError,
)
from rlay.protocol import constants as c
from rlay.protocol.constants import RecordKind, Side
from rlay.protocol.env_block import read_env_block, write_env_block
from rlay.protocol.header import Hello, check_identity, read_hello, write_fields
from rlay.protocol.layout import Layout, read_table
from rlay.protocol.prefix import stamp_session
from rlay.protocol.records import ReplyRecord, RequestRecord
from rlay.protocol.schema import compile_layout, describe_env, fingerprint, read_schema
from rlay.protocol.spaces import space_from

few = settings(max_examples=60)
keys = st.text(st.sampled_from("ab/~#.ß"), max_size=3)

CARTPOLE = describe_env(spaces.Box(-1, 1, (4,), np.float32), spaces.Discrete(2))
TEXT = CARTPOLE.to_json()
LAYOUT = compile_layout(CARTPOLE)


@st.composite
def damaged(draw: st.DrawFn, data: bytes) -> bytes:
    """Good bytes with a few bad ones."""
    copy = bytearray(data)
    for _ in range(draw(st.integers(1, 4))):
        copy[draw(st.integers(0, len(copy) - 1))] = draw(st.integers(0, 255))
    return bytes(copy)


@few
@given(st.one_of(st.binary(max_size=200), damaged(TEXT)))
def test_read_schema_of_any_bytes(data: bytes) -> None:
    try:
        schema = read_schema(data)
    except SchemaError:
        pass
    else:
        assert schema.to_json()


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 2**40) | st.floats() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=2),
    max_leaves=5,
)
names = st.sampled_from(
    "dtype shape low high n start nvec spaces space capacity charset min_length max_length "
    "stack node edge nodes edges".split()
)
types = st.sampled_from(
    "Box Discrete MultiDiscrete MultiBinary Text Dict Tuple OneOf Sequence Graph".split()
)
shapes_of_json = st.lists(st.integers(-1, 4), max_size=3)


@st.composite
def odd_descriptions(draw: st.DrawFn) -> dict[str, Any]:
    found: dict[str, Any] = {"type": draw(types), "dtype": "float32", "shape": [2]}
    found |= {"low": 0, "high": 1, "n": 2, "start": 0, "nvec": [2, 2], "spaces": []}
    found |= {"charset": "ab", "min_length": 0, "max_length": 2, "stack": False, "capacity": 1}
    found |= {"nodes": 1, "edges": 1, "edge": None}
    found |= {"space": {"type": "MultiBinary", "shape": [1]}}
    found["node"] = {"type": "Discrete", "dtype": "int8", "n": 2, "start": 0}
    return found | draw(st.dictionaries(names, json_values | shapes_of_json, max_size=2))


@few
@given(odd_descriptions())
def test_space_from_any_json(description: dict[str, Any]) -> None:
    try:
        space = space_from(description, "at")
    except SchemaError:
        pass
    else:
        assert isinstance(space, spaces.Space)


rows = st.binary(max_size=4 * c.ROW_SIZE).map(lambda data: data[: len(data) // 256 * 256])


@few
@given(
    st.one_of(rows, damaged(LAYOUT.pack_table())),
    st.integers(0, 2**64 - 1) | st.just(LAYOUT.request_size),
    st.integers(0, 2**64 - 1) | st.just(LAYOUT.reply_size),
)
def test_read_table_of_any_bytes(table: bytes, request_size: int, reply_size: int) -> None:
    try:
        layout = read_table(table, request_size, reply_size)
    except LayoutMismatchError:
        pass
    else:
        assert layout.data_size == request_size + reply_size + 65536


def page() -> bytes:
    memory = memoryview(bytearray(c.HEADER_SIZE))
    write_fields(memory, {"magic": c.MAGIC, "endian_tag": c.ENDIAN_TAG, "generation": 1})
    write_fields(memory, {"header_size": c.HEADER_SIZE, "control_size": c.CONTROL_SIZE})
    for side in Side:
        Hello(c.Role.ENV).write(memory, side)
    return bytes(memory)


def spread(data: bytes) -> bytes:
    """Put random bytes on the identity and both hellos of a good page."""
    copy = bytearray(page())
    for i, byte in enumerate(data):
        start = (0x00, 0x80, 0x100)[i % 3]
        copy[start + i // 3] ^= byte
    return bytes(copy)


@few
@given(st.binary(max_size=90).map(spread), st.sampled_from(Side))
def test_header_of_any_bytes(copy: bytes, side: Side) -> None:
    try:
        assert check_identity(copy, c.CONTROL_SIZE, "here")
    except ChannelFormatError:
        pass
    try:
        hello = read_hello(copy, side, "here")
    except ChannelFormatError:
        pass
    else:
        assert hello.describe()


@st.composite
def control_files(draw: st.DrawFn) -> bytes:
    """An env block with damage, mostly with the fingerprint that goes with it."""
    memory = memoryview(bytearray(c.CONTROL_SIZE))
    write_env_block(memory, CARTPOLE, LAYOUT)
    table = draw(st.just(LAYOUT.pack_table()) | damaged(LAYOUT.pack_table()))
    text = draw(st.just(TEXT) | damaged(TEXT))
    memory[c.FIELD_TABLE_OFFSET : c.FIELD_TABLE_OFFSET + len(table)] = table
    memory[c.SCHEMA_OFFSET : c.SCHEMA_OFFSET + len(text)] = text
    write_fields(memory, {"fingerprint": fingerprint(text, table)})
    for name in ("schema_size", "field_count", "request_size", "reply_size", "fingerprint"):
        if draw(st.integers(0, 9)) == 0:
            write_fields(memory, {name: draw(st.integers(0, 2**32 - 1) | st.integers(0, 600))})
    return bytes(memory)


@few
@given(control_files())
def test_env_block_of_any_bytes(data: bytes) -> None:
    try:
        schema, layout = read_env_block(memoryview(data), data[: c.HEADER_SIZE], "here")
    except (ChannelFormatError, SchemaError, LayoutMismatchError):
        pass
    else:
        assert compile_layout(schema) == layout


def record_pair(layout: Layout, data: memoryview) -> tuple[RequestRecord, ReplyRecord]:
    return RequestRecord(CARTPOLE, layout, data), ReplyRecord(CARTPOLE, layout, data)


@few
@given(
    st.integers(0, 3),
    st.integers(0, 7),
    st.sampled_from([0, 0, 16, 5]),
    st.integers(0, 12) | st.integers(0, 2**32 - 1),
    st.binary(max_size=12),
)
def test_records_of_any_bytes(
    seq: int, command: int, status: int, body_size: int, body: bytes
) -> None:
    data = memoryview(bytearray(LAYOUT.data_size))
    stamp_session(data, LAYOUT, 9)
    request, reply = record_pair(LAYOUT, data)
    for kind in RecordKind:
        start = LAYOUT.record_slice(kind).start
        struct.pack_into("<QIII4xQ", data, start, seq, command, status, body_size, 9)
        offset = start + LAYOUT.find(kind, "body").offset
        data[offset : offset + len(body)] = body
    try:
        request.read(request.command(1))
    except RemoteProtocolError:
        pass
    for asked in (c.Command.RESET, c.Command.STEP, c.Command.RENDER, c.Command.CALL):
        try:
            size = reply.open(1, asked)
            read = (reply.read_reset, reply.read_step, reply.read_frame, reply.read_value)
            read[asked - 1](size)
        except (RemoteProtocolError, RemoteError):
            pass
