from __future__ import annotations

import dataclasses
import struct
from typing import Any

import numpy as np
import pytest
from gymnasium import spaces

from rlay.errors import (
    BodyTooLargeError,
    ChannelFormatError,
    LayoutError,
    LayoutMismatchError,
    RemoteError,
    RemoteProtocolError,
)
from rlay.protocol.body import decode_body
from rlay.protocol.constants import Command, RecordKind
from rlay.protocol.layout import Layout
from rlay.protocol.records import (
    PREFIX,
    ReplyRecord,
    Request,
    RequestRecord,
    check_session,
    stamp_session,
)
from rlay.protocol.schema import Schema, compile_layout, describe_env

SESSION = 0x1122334455667788
OBSERVATION = np.array([0.5, -0.0], np.float32)
IMAGE = np.arange(12, dtype=np.uint8).reshape(2, 2, 3)


class Pair:
    """Both records over one data file, as both sides compile them."""

    def __init__(self, **settings: Any) -> None:
        settings = {"request_body": 200, "reply_body": 400, "frame": 12} | settings
        self.schema: Schema = describe_env(
            spaces.Box(-1, 1, (2,), np.float32),
            spaces.Discrete(3),
            info_fields={"lap": "int64", "spot": spaces.Box(-1, 1, (2,), np.float32)},
            **settings,
        )
        self.layout: Layout = compile_layout(self.schema)
        self.data = memoryview(bytearray(self.layout.data_size))
        stamp_session(self.data, self.layout, SESSION)
        self.request = RequestRecord(self.schema, self.layout, self.data)
        self.reply = ReplyRecord(self.schema, self.layout, self.data)

    def part(self, kind: RecordKind) -> memoryview:
        return self.data[self.layout.record_slice(kind)]

    def prefix(self, kind: RecordKind) -> tuple[int, ...]:
        return PREFIX.unpack_from(self.part(kind))

    def poke(self, kind: RecordKind, offset: int, data: bytes) -> None:
        self.part(kind)[offset : offset + len(data)] = data

    def body(self, kind: RecordKind, data: bytes) -> None:
        self.poke(kind, self.layout.find(kind, "body").offset, data)
        self.poke(kind, 0x10, struct.pack("<I", len(data)))


@pytest.fixture
def pair() -> Pair:
    return Pair()


REQUEST, REPLY = RecordKind.REQUEST, RecordKind.REPLY


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


# ---- replies -------------------------------------------------------------------------


def test_reply_to_a_reset(pair: Pair) -> None:
    info = {"lap": 3, "why": "so", "spot": OBSERVATION}
    pair.reply.write_reset(1, OBSERVATION, info)
    observation, found = pair.reply.read_reset(pair.reply.open(1, Command.RESET))
    assert observation.tobytes() == OBSERVATION.tobytes()
    assert found.keys() == info.keys()
    assert (found["lap"], found["why"]) == (3, "so")
    assert type(found["lap"]) is np.int64
    assert found["spot"].tobytes() == OBSERVATION.tobytes()


def test_reply_to_a_step(pair: Pair) -> None:
    pair.reply.write_step(1, OBSERVATION, 1, np.bool_(True), 0, {})
    size = pair.reply.open(1, Command.STEP)
    assert size == 0
    observation, reward, terminated, truncated, info = pair.reply.read_step(size)
    assert observation.tolist() == [0.5, 0]
    assert (reward, terminated, truncated, info) == (1.0, True, False, {})
    assert (type(reward), type(terminated), type(truncated)) == (float, bool, bool)


def test_views_of_the_reply(pair: Pair) -> None:
    pair.reply.write_step(1, OBSERVATION, 0.0, False, False, {})
    view = pair.reply.read_step(0, copy=False)[0]
    pair.reply.write_step(2, OBSERVATION + 1, 0.0, False, False, {})
    assert view.tolist() == [1.5, 1]


def test_declared_info_that_is_not_there(pair: Pair) -> None:
    pair.reply.write_reset(1, OBSERVATION, {"lap": 3, "x": 1})
    pair.reply.write_reset(2, OBSERVATION, {"y": None})
    assert pair.reply.read_reset(pair.reply.open(2, Command.RESET))[1] == {"y": None}


@pytest.mark.parametrize(
    "reward", [struct.unpack("<d", struct.pack("<Q", 0x7FF0000000000001))[0], -0.0, 5e-324]
)
def test_rewards_to_the_last_bit(pair: Pair, reward: float) -> None:
    pair.reply.write_step(1, OBSERVATION, reward, False, False, {})
    assert struct.pack("<d", pair.reply.read_step(0)[1]) == struct.pack("<d", reward)


@pytest.mark.parametrize("byte", [1, 2, 255])
def test_any_flag_but_zero_is_true(pair: Pair, byte: int) -> None:
    pair.reply.write_step(1, OBSERVATION, 0.0, False, False, {})
    for name in ("terminated", "truncated"):
        pair.poke(REPLY, pair.layout.find(REPLY, name).offset, bytes([byte]))
    assert pair.reply.read_step(0)[2:4] == (True, True)


@pytest.mark.parametrize(
    ("values", "text"),
    [
        (([1.0, 0.1], 0.0, False, False, {}), r"observation: 0\.1 cannot be held by float32"),
        ((OBSERVATION, "1", False, False, {}), "reward: str '1' is not an array"),
        ((OBSERVATION, 2**53 + 1, False, False, {}), "reward: 9007199254740993 cannot be held"),
        ((OBSERVATION, [1.0], False, False, {}), r"reward: shape \(1,\), expected \(\)"),
        ((OBSERVATION, 0.0, None, False, {}), "terminated: NoneType None"),
        ((OBSERVATION, 0.0, False, 2, {}), "truncated: 2 cannot be held by bool"),
        ((OBSERVATION, 0.0, False, False, []), r"info: \[\] is not a dict"),
        ((OBSERVATION, 0.0, False, False, {"lap": 0.5}), r"info\.lap: 0\.5 cannot be held"),
        ((OBSERVATION, 0.0, False, False, {"x": {1}}), r'info\["x"\].*type set'),
    ],
)
def test_what_a_reply_cannot_hold(pair: Pair, values: tuple[Any, ...], text: str) -> None:
    with pytest.raises(LayoutError, match=text):
        pair.reply.write_step(1, *values)
    assert pair.prefix(REPLY) == (0, 0, 0, 0, SESSION)


def test_info_too_large(pair: Pair) -> None:
    with pytest.raises(BodyTooLargeError, match="raise reply_body") as caught:
        pair.reply.write_reset(1, OBSERVATION, {"lap": 1, "map": "x" * 500, "a": 1})
    assert (caught.value.key, caught.value.capacity) == ('info["map"]', 400)


@pytest.mark.parametrize(
    ("offset", "data", "text"),
    [
        (0x00, struct.pack("<Q", 1), "the reply carries seq 1, expected 2"),
        (0x08, struct.pack("<I", 1), "answers command 1, asked was 2"),
        (0x0C, struct.pack("<I", 7), "status is 7, expected 0 or 16"),
        (0x10, struct.pack("<I", 401), "body_size is 401, at most 400 fit"),
        (0x18, struct.pack("<Q", 0), "of session 0, not"),
    ],
)
def test_a_hostile_reply(pair: Pair, offset: int, data: bytes, text: str) -> None:
    pair.reply.write_step(2, OBSERVATION, 0.0, False, False, {})
    pair.reply.open(2, Command.STEP)
    pair.poke(REPLY, offset, data)
    with pytest.raises(RemoteProtocolError, match=text):
        pair.reply.open(2, Command.STEP)


@pytest.mark.parametrize("body", [b"\xc1", b"\x90", b"\x80\x80"])
def test_info_that_is_no_map(pair: Pair, body: bytes) -> None:
    pair.reply.write_reset(1, OBSERVATION, {})
    pair.body(REPLY, body)
    with pytest.raises(RemoteProtocolError):
        pair.reply.read_reset(pair.reply.open(1, Command.RESET))


# ---- frames, values, errors ----------------------------------------------------------

FRAMES = [
    IMAGE,
    IMAGE[::-1, ::-1],
    np.zeros((0, 4, 3), np.uint8),
    np.zeros((2, 3, 3), np.uint8),
    IMAGE.astype(np.int8),
    IMAGE[0],
    None,
    "text",
    [IMAGE],
]


@pytest.mark.parametrize("frame", FRAMES, ids=lambda f: f"{type(f).__name__}")
@pytest.mark.parametrize("room", [0, 12])
def test_frames(frame: Any, room: int) -> None:
    pair = Pair(frame=room)
    pair.reply.write_frame(1, IMAGE)
    pair.reply.write_frame(2, frame)
    size = pair.reply.open(2, Command.RENDER)
    for copy in (True, False):
        found = pair.reply.read_frame(size, copy=copy)
        assert type(found) is type(frame)
        if isinstance(frame, np.ndarray):
            assert found.dtype == frame.dtype
            assert np.array_equal(found, frame)
    in_field = room and isinstance(frame, np.ndarray) and frame.size <= room
    if in_field and frame.dtype == np.uint8 and frame.ndim == 3:
        assert size == 0


def test_a_frame_that_fits_nowhere(pair: Pair) -> None:
    with pytest.raises(BodyTooLargeError, match="raise frame_capacity") as caught:
        pair.reply.write_frame(1, np.zeros((20, 20, 3), np.uint8))
    assert (caught.value.size, caught.value.capacity) == (1200, 12)
    with pytest.raises(BodyTooLargeError, match="raise reply_body"):
        pair.reply.write_frame(1, "x" * 500)
    with pytest.raises(BodyTooLargeError, match="raise reply_body"):
        Pair(frame=0).reply.write_frame(1, np.zeros((20, 20, 3), np.uint8))


@pytest.mark.parametrize("shape", [(3, 2, 3), (2**32 - 1, 2**32 - 1, 2**32 - 1)])
def test_a_hostile_frame(pair: Pair, shape: tuple[int, ...]) -> None:
    pair.reply.write_frame(1, IMAGE)
    offset = pair.layout.find(REPLY, "frame#shape").offset
    pair.poke(REPLY, offset, struct.pack("<III", *shape))
    with pytest.raises(RemoteProtocolError, match="is larger than its field"):
        pair.reply.read_frame(0)


@pytest.mark.parametrize("value", [None, 3, [1, (2.5, None)], {"a": b"x"}, False])
def test_values_of_a_call(pair: Pair, value: Any) -> None:
    pair.reply.write_value(1, Command.CALL, value)
    assert pair.reply.read_value(pair.reply.open(1, Command.CALL)) == value


def failure(message: str) -> ValueError:
    try:
        raise ValueError(message)
    except ValueError as error:
        return error


def test_an_error_travels(pair: Pair) -> None:
    pair = Pair(reply_body=65536)
    pair.reply.write_error(4, Command.STEP, failure("no ñ"))
    with pytest.raises(RemoteError, match="raised ValueError: no ñ") as caught:
        pair.reply.open(4, Command.STEP)
    error = caught.value
    assert (error.type, error.message) == ("ValueError", "no ñ")
    assert error.remote_traceback.startswith("Traceback")
    assert "def" not in error.remote_traceback or "failure" in error.remote_traceback


@pytest.mark.parametrize("capacity", [0, 10, 60, 100, 400, 4000])
@pytest.mark.parametrize("message", ["short", "ä" * 1000, "\ud800"])
def test_an_error_is_cut_to_what_fits(capacity: int, message: str) -> None:
    pair = Pair(reply_body=capacity)
    pair.reply.write_error(1, Command.STEP, failure(message))
    assert pair.prefix(REPLY)[3] <= capacity
    with pytest.raises(RemoteError) as caught:
        pair.reply.open(1, Command.STEP)
    expected = message.encode("utf-8", "backslashreplace").decode()
    assert expected.startswith(caught.value.message)
    assert (caught.value.type == "ValueError") == (capacity >= 60)


@pytest.mark.parametrize("body", [b"\x90", b"\xc1", b"\x01"])
def test_an_error_that_is_no_map(pair: Pair, body: bytes) -> None:
    pair.reply.write_error(1, Command.STEP, failure("x"))
    pair.body(REPLY, body)
    with pytest.raises(RemoteProtocolError):
        pair.reply.open(1, Command.STEP)


def test_an_error_map_with_other_keys(pair: Pair) -> None:
    pair.reply.write_error(1, Command.STEP, failure("x"))
    pair.body(REPLY, b"\x81\xa1a\x01")
    with pytest.raises(RemoteError, match="raised Exception: "):
        pair.reply.open(1, Command.STEP)


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
