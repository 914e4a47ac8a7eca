"""The reply of both records: results, frames, values and errors."""

from __future__ import annotations

import struct
from typing import Any

import numpy as np
import pytest

from rlay.errors import BodyTooLargeError, LayoutError, RemoteError, RemoteProtocolError
from rlay.protocol.constants import Command, RecordKind
from tests.record_pair import IMAGE, OBSERVATION, SESSION, Pair


@pytest.fixture
def pair() -> Pair:
    return Pair()


REPLY = RecordKind.REPLY


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
