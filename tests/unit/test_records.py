from __future__ import annotations

import dataclasses
import struct
from typing import Any

import numpy as np
import pytest

from rlay.errors import (
    BodyTooLargeError,
    ChannelFormatError,
    LayoutError,
    LayoutMismatchError,
    RemoteProtocolError,
)
from rlay.protocol.body import decode_body
from rlay.protocol.constants import Command, RecordKind
from rlay.protocol.prefix import check_session
from rlay.protocol.records import ReplyRecord, Request, RequestRecord
from rlay.protocol.schema import compile_layout
from tests.record_pair import IMAGE, SESSION, Pair


@pytest.fixture
def pair() -> Pair:
    return Pair()


REQUEST = RecordKind.REQUEST


# ---- requests ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("seed", "options"),
    [
        (None, None),
        (0, None),
        (7, {}),
        (2**64 - 1, {"level": 3, "map": [1, 2.5]}),
        (np.uint64(2**64 - 1), None),
        (None, {"level": "first"}),
    ],
)
def test_reset(pair: Pair, seed: Any, options: Any) -> None:
    pair.request.write_reset(1, seed, options)
    assert pair.request.command(1) is Command.RESET
    assert pair.request.read(pair.request.command(1)) == Request(
        Command.RESET, seed=seed, options=options
    )


def test_no_options_and_empty_options_are_different(pair: Pair) -> None:
    pair.request.write_reset(1, None, {})
    assert pair.prefix(REQUEST)[3] == 1
    assert pair.request.read(pair.request.command(1)).options == {}


def test_an_old_seed_is_not_seen(pair: Pair) -> None:
    pair.request.write_reset(1, 5, None)
    pair.request.write_reset(2, None, None)
    assert pair.request.read(pair.request.command(2)).seed is None


@pytest.mark.parametrize("seed", [-1, 2**64, 1.5, "1", np.int64(-1)])
def test_a_seed_that_is_no_u64(pair: Pair, seed: Any) -> None:
    with pytest.raises(LayoutError, match=r"seed: .* is not an integer from 0 to 2\*\*64 - 1"):
        pair.request.write_reset(1, seed, None)
    assert pair.prefix(REQUEST) == (0, 0, 0, 0, SESSION)


def test_step(pair: Pair) -> None:
    pair.request.write_step(3, 2)
    assert pair.prefix(REQUEST) == (3, Command.STEP, 0, 0, SESSION)
    assert pair.request.read(pair.request.command(3)).action == 2


def test_an_action_that_does_not_fit_leaves_the_prefix(pair: Pair) -> None:
    pair.request.write_step(1, 1)
    with pytest.raises(LayoutError, match=r"action: 0\.5 is no integer"):
        pair.request.write_step(2, 0.5)
    assert pair.prefix(REQUEST)[0] == 1


CALL = {"op": "call", "name": "f", "args": [1, (2,)], "kwargs": {"x": IMAGE}}


def test_call(pair: Pair) -> None:
    pair.request.write_call(1, CALL)
    found = pair.request.read(pair.request.command(1)).call
    assert found is not None
    assert found["args"] == [1, (2,)]
    assert np.array_equal(found["kwargs"]["x"], IMAGE)


@pytest.mark.parametrize("command", [Command.RENDER, Command.CLOSE])
def test_commands_that_carry_nothing(pair: Pair, command: Command) -> None:
    pair.request.write_call(1, CALL)
    pair.request.write_plain(2, command)
    assert pair.prefix(REQUEST) == (2, command, 0, 0, SESSION)
    assert pair.request.read(pair.request.command(2)) == Request(command)


@pytest.mark.parametrize(
    "call",
    [
        {},
        {"op": "call"},
        CALL | {"op": 3},
        CALL | {"args": {}},
        CALL | {"kwargs": []},
        CALL | {"name": None},
    ],
)
def test_a_call_that_is_none(pair: Pair, call: dict[str, Any]) -> None:
    pair.request.write_call(1, call)
    with pytest.raises(RemoteProtocolError, match="the call holds"):
        pair.request.read(pair.request.command(1))


@pytest.mark.parametrize(
    ("offset", "data", "text"),
    [
        (0x00, struct.pack("<Q", 3), "the request carries seq 3, expected 2"),
        (0x00, struct.pack("<Q", 0), "seq 0, expected 2"),
        (0x08, struct.pack("<I", 0), "command is 0, which is none"),
        (0x08, struct.pack("<I", 6), "command is 6, which is none"),
        (0x08, struct.pack("<I", 2**32 - 1), "command is 4294967295"),
        (0x0C, struct.pack("<I", 16), "status is 16, expected 0"),
        (0x10, struct.pack("<I", 201), "body_size is 201, at most 200 fit"),
        (0x10, struct.pack("<I", 2**32 - 1), "body_size is 4294967295"),
        (0x18, struct.pack("<Q", 1), "of session 1, not 1122334455667788"),
    ],
)
def test_a_hostile_request(pair: Pair, offset: int, data: bytes, text: str) -> None:
    pair.request.write_step(2, 1)
    pair.request.command(2)
    pair.poke(REQUEST, offset, data)
    with pytest.raises(RemoteProtocolError, match=text):
        pair.request.command(2)


@pytest.mark.parametrize("body", [b"\xc1", b"\x90", b"\x01", b"\x80\x80", b"\x81\xa1a"])
@pytest.mark.parametrize("command", [Command.RESET, Command.CALL])
def test_a_request_with_a_hostile_body(pair: Pair, command: Command, body: bytes) -> None:
    pair.request.write_plain(1, command)
    pair.body(REQUEST, body)
    with pytest.raises(RemoteProtocolError):
        pair.request.read(pair.request.command(1))


def test_options_too_large(pair: Pair) -> None:
    with pytest.raises(BodyTooLargeError, match="raise request_body") as caught:
        pair.request.write_reset(1, None, {"big": b"x" * 300, "small": 1})
    error = caught.value
    assert (error.key, error.capacity) == ('options["big"]', 200)
    assert error.size > 300


# ---- both ----------------------------------------------------------------------------


def test_bodies_end_with_the_record(pair: Pair) -> None:
    pair.request.write_call(1, {"x": b"y" * 150})
    offset, size = pair.layout.find(REQUEST, "body").offset, pair.prefix(REQUEST)[3]
    assert decode_body(bytes(pair.part(REQUEST)[offset : offset + size])) == {"x": b"y" * 150}


def test_session_in_both_prefixes(pair: Pair) -> None:
    check_session(pair.data, pair.layout, SESSION)
    for kind in RecordKind:
        assert pair.prefix(kind) == (0, 0, 0, 0, SESSION)
        damaged = memoryview(bytearray(pair.data))
        start = pair.layout.record_slice(kind).start
        damaged[start + 0x18] ^= 1
        with pytest.raises(ChannelFormatError, match="session") as caught:
            check_session(damaged, pair.layout, SESSION)
        assert caught.value.expected == hex(SESSION)
        assert kind.name.lower() in str(caught.value)


@pytest.mark.parametrize("lanes", [1, 4])
def test_lanes_and_groups_are_for_other_faces(pair: Pair, lanes: int) -> None:
    group = dataclasses.replace(pair.schema.groups[0], lanes=lanes)
    for groups in ((group,), (pair.schema.groups[0],) * 2):
        schema = dataclasses.replace(pair.schema, groups=groups)
        layout = compile_layout(schema)
        data = memoryview(bytearray(layout.data_size))
        for record in (RequestRecord, ReplyRecord):
            with pytest.raises(LayoutMismatchError, match="lanes or several groups"):
                record(schema, layout, data)
