"""The compiled step, driven by hand over two bytearrays."""

from __future__ import annotations

import math
import threading
from typing import Any

import numpy as np
import pytest

from rlay import atomics
from rlay.lifetime import new_guard
from rlay.protocol.constants import Command, Side
from rlay.protocol.header import HEADER
from rlay.protocol.prefix import PREFIX
from tests.exchanges import SLICE, STEP, records, settings

pytestmark = [
    pytest.mark.one_twin,
    pytest.mark.skipif(atomics.Exchange is None, reason="the extension was not built"),
]

SESSION = 0x1234
REWARD, TERMINATED, TRUNCATED, VALUE = 32, 40, 41, 48


class Long:
    """Stands for a codec: remembers what it was given."""

    def __init__(self) -> None:
        self.written: list[Any] = []

    def write(self, value: Any) -> None:
        if isinstance(value, str):
            raise ValueError(f"no field holds {value!r}")
        self.written.append(value)


class Pair:
    """An agent's and an environment's exchange over the same memory."""

    def __init__(
        self, action: np.dtype[Any], shape: tuple[int, ...] = (), *, integer: bool = True
    ) -> None:
        self.control = bytearray(4096)
        self.request, self.reply = records(256, SESSION)
        self.action = np.ndarray(shape, action, buffer=self.request, offset=VALUE)
        self.observation = np.ndarray((3,), np.float32, buffer=self.reply, offset=VALUE)
        self.integer = integer and shape == ()
        self.long = {"agent": Long(), "env": Long()}
        self.agent, self.env = self.end(Side.CLIENT), self.end(Side.SERVER)

    def end(self, side: Side) -> Any:
        agent = side is Side.CLIENT
        exchange = atomics.Exchange(  # type: ignore[misc]
            written=self.action if agent else self.observation,
            integer=agent and self.integer,
            write=self.long["agent" if agent else "env"].write,
            read=self.observation.copy if agent else lambda: self.action[()],
            reply_at=(REWARD, TERMINATED, TRUNCATED),
            **settings(self, side, SESSION),
        )
        exchange.armed = True
        return exchange

    def turn(self, side: int | None = None) -> int:
        offset = HEADER["turn"].offset
        if side is not None:
            self.control[offset : offset + 4] = int(side).to_bytes(4, "little")
        return int.from_bytes(self.control[offset : offset + 4], "little")

    def answer(self, seq: int, *, status: int = 0, body: int = 0, session: int = SESSION) -> None:
        """Prepare the reply and the turn, as if the environment had been quick."""
        PREFIX.pack_into(self.reply, 0, seq, STEP, status, body, session)

    def step(self, action: Any, **reply: Any) -> Any:
        """Let the agent step against a reply that a thread hands over."""
        box: list[Any] = []
        self.answer(self.agent.seq + 1, **reply)
        thread = threading.Thread(target=self._hand_back)
        thread.start()
        try:
            box.append(self.agent.step(action, 5_000_000_000))
        finally:
            self.turn(Side.SERVER)
            thread.join()
        return box[0]

    def _hand_back(self) -> None:
        word = atomics.Word(self.control, HEADER["turn"].offset)
        waiting = atomics.Word(bytearray(4), 0)
        theirs = atomics.Word(self.control, HEADER["client_waiting"].offset)
        while word.wait(Side.SERVER, waiting, 0, SLICE) != Side.SERVER:
            pass
        word.hand_over(Side.CLIENT, theirs)


class Env:
    """Answers with what it is told to."""

    def __init__(self, *results: Any) -> None:
        self.results, self.actions = list(results), []

    def step(self, action: Any) -> Any:
        self.actions.append(action)
        result = self.results.pop(0)
        if isinstance(result, BaseException):
            raise result
        return result


@pytest.fixture
def pair() -> Pair:
    """A pair with a Discrete action."""
    return Pair(np.dtype(np.int64))


def test_a_step_is_one_call(pair: Pair) -> None:
    pair.observation[:] = [1.0, math.nan, -0.0]
    pair.reply[REWARD : REWARD + 8] = np.float64(2.5).tobytes()
    pair.reply[TERMINATED] = 1
    observation, reward, terminated, truncated, info = pair.step(-7)
    assert observation.tobytes() == pair.observation.tobytes()
    assert not np.shares_memory(observation, pair.observation)
    assert (reward, terminated, truncated, info) == (2.5, True, False, {})
    assert int(pair.action) == -7
    assert PREFIX.unpack_from(pair.request) == (1, STEP, 0, 0, SESSION)
    assert (pair.agent.seq, pair.agent.armed, pair.agent.moved) == (1, True, True)


@pytest.mark.parametrize(
    ("dtype", "value", "ordinary"),
    [
        ("int8", -128, True),
        ("int8", 128, False),
        ("uint8", 255, True),
        ("uint8", -1, False),
        ("int16", 32767, True),
        ("int32", 2**31, False),
        ("int64", 2**63 - 1, True),
        ("int64", 2**63, False),
        ("uint64", 2**63 - 1, True),
        ("uint64", 2**63, False),
        ("int64", np.int32(5), True),
        ("int64", np.array(5), True),
        ("int64", 5.0, False),
        ("int64", None, False),
    ],
)
def test_integers(pair: Pair, dtype: str, value: Any, ordinary: bool) -> None:
    """What is not ordinary goes to the codec, which decides."""
    pair = Pair(np.dtype(dtype))
    assert type(pair.step(value)) is tuple
    assert pair.long["agent"].written == ([] if ordinary else [value])
    if ordinary:
        assert int(pair.action) == int(value)


@pytest.mark.parametrize(
    ("value", "ordinary"),
    [
        (np.arange(4, dtype=np.float32).reshape(2, 2), True),
        (np.arange(4, dtype=np.float64).reshape(2, 2), False),
        (np.arange(4, dtype=np.float32), False),
        (np.arange(8, dtype=np.float32).reshape(2, 4)[:, ::2], False),
        (np.arange(4, dtype=">f4").reshape(2, 2), False),
        ([[1.0, 2.0], [3.0, 4.0]], False),
        (memoryview(bytes(16)).cast("f", (2, 2)), False),
    ],
)
def test_arrays(pair: Pair, value: Any, ordinary: bool) -> None:
    pair = Pair(np.dtype(np.float32), (2, 2))
    assert type(pair.step(value)) is tuple
    assert len(pair.long["agent"].written) == (0 if ordinary else 1)
    if ordinary:
        assert pair.action.tobytes() == value.tobytes()


@pytest.mark.parametrize(("dtype", "ordinary"), [("float32", True), ("float64", False)])
def test_an_array_of_no_dimensions(dtype: str, ordinary: bool) -> None:
    """NumPy gives it no shape, and a null pointer is not compared: a sanitizer sees that."""
    pair = Pair(np.dtype(np.float32), integer=False)
    assert type(pair.step(np.array(2.5, dtype))) is tuple
    assert len(pair.long["agent"].written) == (0 if ordinary else 1)
    assert float(pair.action) == (2.5 if ordinary else 0.0)


def test_a_value_the_codec_refuses_is_not_sent(pair: Pair) -> None:
    with pytest.raises(ValueError, match="no field holds"):
        pair.agent.step("left", SLICE)
    assert (pair.turn(), pair.agent.seq, pair.agent.armed) == (0, 0, True)


class Interrupted:
    """A number that Ctrl-C comes in the middle of."""

    def __index__(self) -> int:
        raise KeyboardInterrupt


def test_an_interrupt_while_a_number_is_written_is_not_lost(pair: Pair) -> None:
    with pytest.raises(KeyboardInterrupt):
        pair.agent.step(Interrupted(), SLICE)
    assert pair.long["agent"].written == []
    assert (pair.turn(), pair.agent.seq, pair.agent.armed) == (0, 0, True)


def test_who_is_not_armed_sends_nothing(pair: Pair) -> None:
    pair.agent.armed = False
    assert pair.agent.step(1, SLICE) is NotImplemented
    assert (pair.turn(), pair.agent.seq, pair.agent.moved) == (0, 0, False)


def test_no_reply_within_a_slice_leaves_the_request_pending(pair: Pair) -> None:
    assert pair.agent.step(1, 0) is None
    assert (pair.turn(), pair.agent.seq, pair.agent.armed) == (Side.SERVER, 1, False)
    assert pair.agent.step(2, 0) is NotImplemented
    assert int(pair.action) == 1


@pytest.mark.parametrize(
    "reply", [{"status": 16}, {"body": 3}, {"session": 9}], ids=["error", "body", "session"]
)
def test_a_reply_that_is_not_ordinary_is_left_alone(pair: Pair, reply: dict[str, int]) -> None:
    assert pair.step(1, **reply) is True
    assert (pair.agent.seq, pair.agent.armed) == (1, False)


def ask(pair: Pair, seq: int, action: int, command: int = STEP) -> None:
    """Prepare a request and give the environment the turn."""
    pair.action[()] = action
    PREFIX.pack_into(pair.request, 0, seq, command, 0, 0, SESSION)
    pair.turn(Side.SERVER)


def ordinary(reward: Any = 0.5) -> tuple[Any, ...]:
    return np.ones(3, np.float32), reward, False, True, {}


def test_the_environment_answers_until_nothing_comes(pair: Pair) -> None:
    ask(pair, 1, 4)
    env = Env(ordinary())
    assert pair.env.serve(env, 0) is None
    assert env.actions == [4]
    assert PREFIX.unpack_from(pair.reply) == (1, STEP, 0, 0, SESSION)
    assert pair.observation.tolist() == [1.0, 1.0, 1.0]
    assert np.frombuffer(pair.reply, np.float64, 1, REWARD)[0] == 0.5
    assert (pair.reply[TERMINATED], pair.reply[TRUNCATED]) == (0, 1)
    assert (pair.turn(), pair.env.seq, pair.env.armed) == (Side.CLIENT, 1, True)


@pytest.mark.parametrize(("seq", "command"), [(2, STEP), (1, int(Command.RESET))])
def test_another_request_is_left_alone(pair: Pair, seq: int, command: int) -> None:
    ask(pair, seq, 4, command)
    assert pair.env.serve(Env(), 0) is False
    assert (pair.env.seq, pair.env.armed, pair.env.calling) == (0, True, False)


@pytest.mark.parametrize(
    "result",
    [
        (*ordinary()[:4], {"a": 1}),
        ordinary(1),
        (*ordinary()[:2], np.True_, False, {}),
        ordinary()[:4],
        None,
        (),
    ],
    ids=["info", "int reward", "numpy bool", "four", "None", "empty"],
)
def test_a_result_that_is_not_ordinary_comes_back_unsent(pair: Pair, result: Any) -> None:
    ask(pair, 1, 4)
    assert pair.env.serve(Env(result), 0) is result
    assert (pair.turn(), pair.env.seq, pair.env.armed) == (Side.SERVER, 1, False)
    assert pair.env.calling is True


def test_an_exception_leaves_the_request_open(pair: Pair) -> None:
    ask(pair, 1, 4)
    with pytest.raises(KeyError):
        pair.env.serve(Env(KeyError("x")), 0)
    assert (pair.turn(), pair.env.seq, pair.env.armed) == (Side.SERVER, 1, False)
    assert pair.env.calling is True


def test_step_is_looked_up_at_each_call(pair: Pair) -> None:
    """A test double or wrapper put in place meanwhile takes effect, as in one process."""
    env = Env()
    env.step = lambda action: ordinary(float(action))  # type: ignore[method-assign]
    ask(pair, 1, 4)
    assert pair.env.serve(env, 0) is None
    env.step = lambda action: ordinary(10.0 + action)  # type: ignore[method-assign]
    ask(pair, 2, 5)
    assert pair.env.serve(env, 0) is None
    assert np.frombuffer(pair.reply, np.float64, 1, REWARD)[0] == 15.0


def test_release_lets_go_of_the_memory(pair: Pair) -> None:
    for _ in range(2):
        pair.agent.release()
        pair.env.release()
    with pytest.raises(ValueError, match="released"):
        pair.env.serve(Env(), 0)
    assert pair.agent.step(1, 0) is NotImplemented
    pair.control.extend(b"x")  # a bytearray with an export cannot grow


def test_release_within_a_step_waits_for_its_end(pair: Pair) -> None:
    ask(pair, 1, 4)

    class Leaves:
        def step(self, action: Any) -> Any:
            pair.env.release()
            return ordinary()

    result = pair.env.serve(Leaves(), 0)
    assert result[1] == 0.5
    assert pair.turn() == Side.SERVER


@pytest.mark.parametrize(
    ("name", "value", "problem"),
    [
        ("cells", (0, 4, 6), "aligned"),
        ("cells", (0, 4, 4096), "out of bounds"),
        ("cells", (-4, 4, 8), "out of bounds"),
        ("reply_at", (250, 40, 41), "outside the reply"),
        ("reply_at", (32, -1, 41), "outside the reply"),
        ("theirs", bytearray(16), "prefix"),
        ("integer", True, "integer scalar"),
    ],
)
def test_what_cannot_be_is_refused(pair: Pair, name: str, value: Any, problem: str) -> None:
    arguments: dict[str, Any] = {
        "control": pair.control,
        "ours": pair.reply,
        "theirs": pair.request,
        "cells": (0x300, 0x380, 0x400),
        "turns": (1, 2),
        "step": STEP,
        "session": SESSION,
        "agent": False,
        "written": pair.observation,
        "integer": False,
        "write": print,
        "read": print,
        "reply_at": (REWARD, TERMINATED, TRUNCATED),
        "plain_info": True,
        "spin_ns": 0,
        "longest_spin_ns": 0,
        "nap_ns": 0,
        "guard": new_guard(),
    }
    with pytest.raises(ValueError, match=problem):
        atomics.Exchange(**{**arguments, name: value})  # type: ignore[misc]
