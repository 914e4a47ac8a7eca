"""The compiled step of lanes, driven by hand over two bytearrays."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from rlay import atomics
from rlay.channel.wait import usable_cores
from rlay.protocol.constants import Side
from tests.exchanges import SLICE, records, settings

pytestmark = [
    pytest.mark.one_twin,
    pytest.mark.skipif(atomics.LaneExchange is None, reason="the extension was not built"),
]

LANES, SESSION = 3, 0x77
PLAIN = (np.arange(2, dtype=np.float32), 1.5, False, False, {})


class Pair:
    """An agent's and an environment's exchange over the same memory."""

    def __init__(self, observation: str = "<f4", *, begin: Any = "begin") -> None:
        self.control = bytearray(4096)
        self.request, self.reply = records(512, SESSION)
        self.mask = np.ndarray((LANES,), np.uint8, self.request, 64)
        self.actions = np.ndarray((LANES,), np.int64, self.request, 128)
        self.reward = np.ndarray((LANES,), np.float64, self.reply, 64)
        self.terminated = np.ndarray((LANES,), np.uint8, self.reply, 96)
        self.truncated = np.ndarray((LANES,), np.uint8, self.reply, 104)
        self.absent = np.ndarray((LANES,), np.uint8, self.reply, 112)
        self.observations = np.ndarray((LANES, 2), observation, self.reply, 128)
        self.read = lambda: list(self.actions.copy())
        self.agent, self.env = self.end(Side.CLIENT), self.end(Side.SERVER)
        self.over, self.finals = bytearray(LANES), {}  # type: ignore[var-annotated]
        self.begun: list[int] = []
        self.ended: list[int] = []
        self.core = -1
        self.begin = self.begin_lane if begin == "begin" else begin

    def end(self, side: Side, **changes: Any) -> Any:
        agent = side is Side.CLIENT
        columns = {
            "lanes": LANES,
            "agent": agent,
            "mask": (self.mask,),
            "results": (self.reward, self.terminated, self.truncated),
            "written": (self.actions,) if agent else (self.observations,),
            "integer": False,
            "taken": (self.observations,) if agent else (),
            "absent": (self.absent,),
        } | changes
        exchange = atomics.LaneExchange(  # type: ignore[misc]
            tuple(columns.values()),
            written=None,
            integer=False,
            write=None,
            read=lambda: self.read(),
            reply_at=(64, 96, 104),
            **settings(self, side, SESSION),
        )
        exchange.armed = True
        return exchange

    def begin_lane(self, lane: int) -> Any:
        self.begun.append(lane)
        self.over[lane] = 0
        return PLAIN

    def end_lane(self, lane: int, result: Any) -> Any:
        self.ended.append(lane)
        return result

    def serve(self, *steps: Callable[[Any], Any], slice_ns: int = 0) -> Any:
        """Serve until nothing is there for a slice."""
        hosted = (steps, self.over, self.begin, self.end_lane, self.finals, self.core)
        return self.env.serve(hosted, slice_ns)


def results() -> tuple[np.ndarray, tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Return a batch of five lanes to copy into."""
    flags = np.zeros(5, np.bool_), np.zeros(5, np.bool_)
    return np.zeros((5, 2), np.float32), (np.zeros(5), *flags)


def same(_: Any) -> Any:
    return PLAIN


def test_a_step_of_all_lanes_comes_back() -> None:
    pair, seen = Pair(), []

    def step(action: Any) -> Any:
        seen.append(action)
        return np.full(2, action, np.float32), float(action) / 2, action == 8, False, {}

    def ordinary(action: Any) -> Any:
        observation, reward, terminated, truncated, info = step(action)
        return observation, reward, bool(terminated), truncated, info

    batch = np.arange(5, 10)
    assert pair.agent.post((batch,), 2) is True
    assert pair.serve(ordinary, ordinary, ordinary) is None  # answered, then none for a slice
    assert seen == [7, 8, 9]
    assert type(seen[0]) is np.int64
    assert pair.mask.tolist() == [1, 1, 1]
    assert pair.ended == [1]
    assert pair.agent.landed(0) is True
    observations, (rewards, terminated, truncated) = results()
    assert pair.agent.copy((observations,), (rewards, terminated, truncated), 2) is True
    assert observations.tolist() == [[0, 0], [0, 0], [7, 7], [8, 8], [9, 9]]
    assert rewards.tolist() == [0, 0, 3.5, 4, 4.5]
    assert terminated.tolist() == [False, False, False, True, False]
    assert not truncated.any()
    assert pair.agent.seq == pair.env.seq == 1
    assert pair.agent.armed
    assert pair.env.armed


@pytest.mark.parametrize(
    ("batch", "first"),
    [
        (np.arange(5, dtype=np.int32), 0),
        (np.arange(10)[::2], 0),
        (np.arange(2), 0),
        (np.arange(5), 3),
        (np.arange(5), -1),
        (np.zeros((5, 1), np.int64), 0),
        ([1, 2, 3], 0),
    ],
)
def test_actions_that_are_not_ordinary_are_not_sent(batch: Any, first: int) -> None:
    pair = Pair()
    assert pair.agent.post((batch,), first) is NotImplemented
    assert pair.agent.post(batch, first) is NotImplemented
    assert pair.agent.armed
    assert not pair.agent.moved
    assert pair.control == bytearray(4096)
    assert pair.agent.post((np.arange(5),), 2) is True


@pytest.mark.parametrize(
    "result",
    [
        (np.zeros(2), 1.0, False, False, {}),
        (np.zeros(3, np.float32), 1.0, False, False, {}),
        ([0.0, 0.0], 1.0, False, False, {}),
        (PLAIN[0], np.float32(1), False, False, {}),
        (PLAIN[0], 1.0, np.bool_(False), False, {}),
        (PLAIN[0], 1.0, False, False, {"lives": 3}),
    ],
)
def test_a_result_that_is_not_ordinary_comes_back_with_those_of_the_others(result: Any) -> None:
    pair = Pair()
    pair.agent.post((np.arange(3),), 0)
    assert pair.serve(same, lambda _: result, same) == [PLAIN, result, PLAIN]
    assert pair.env.calling
    assert pair.agent.landed(0) is None
    # The rest is the long way's, which this call must leave alone from now on.
    assert pair.agent.landed(0) is False


def test_finals_are_not_ordinary() -> None:
    pair = Pair()

    def ends(_: Any) -> Any:
        pair.finals[0] = "the last one"
        return PLAIN

    pair.finals[2] = "of an earlier step"
    pair.agent.post((np.arange(3),), 0)
    assert pair.serve(ends, same, same) == [PLAIN] * 3
    assert pair.finals == {0: "the last one"}


def test_a_lane_whose_episode_is_over_begins_the_next() -> None:
    pair = Pair()
    pair.over[1] = 1
    pair.agent.post((np.arange(3),), 0)
    assert pair.serve(same, lambda _: 1 / 0, same) is None
    assert pair.begun == [1]
    assert not any(pair.over)
    assert pair.agent.landed(0) is True


def test_without_autoreset_a_step_of_an_ended_lane_is_for_the_long_way() -> None:
    pair = Pair(begin=None)
    pair.over[1] = 1
    pair.agent.post((np.arange(3),), 0)
    assert pair.serve(same, same, same) is False
    assert not pair.env.calling


@pytest.mark.parametrize("result", [PLAIN[:4], [1, 2], 5])
def test_what_step_raises_names_its_lane(result: Any) -> None:
    pair = Pair()
    pair.agent.post((np.arange(3),), 0)
    with pytest.raises((ValueError, TypeError), match=r"expected 5|not iterable"):
        pair.serve(same, same, lambda _: result)
    assert pair.env.lane == 2
    assert pair.env.calling


def test_only_a_request_for_all_lanes_is_ordinary() -> None:
    pair = Pair()
    pair.agent.post((np.arange(3),), 0)
    pair.mask[1] = 0
    assert pair.serve(same, same, same) is False
    assert pair.env.seq == 0


def test_a_reply_with_something_declared_or_another_number_is_not_ordinary() -> None:
    for offset in (0, 8, 12, 16, 24, 112):
        pair = Pair()
        pair.agent.post((np.arange(3),), 0)
        pair.absent[:] = 1
        assert pair.serve(same, same, same) is None
        assert not pair.absent.any()
        pair.reply[offset] ^= 4
        assert pair.agent.landed(0) is False
        assert not pair.agent.armed


def test_no_invalid_bool_enters_numpy() -> None:
    pair = Pair(observation="?")
    pair.agent.post((np.arange(3),), 0)
    pair.serve(*[lambda _: (np.ones(2, bool), 1.0, False, False, {})] * LANES)
    pair.reply[128:134] = b"\x01\x02\xff\x00\x80\x00"
    pair.terminated[:] = [0, 2, 255]
    assert pair.agent.landed(0) is True
    observations, (rewards, *flags) = np.zeros((5, 2), np.bool_), results()[1]
    pair.agent.copy((observations,), (rewards, *flags), 1)
    assert observations.view(np.uint8).tolist() == [[0, 0], [1, 1], [1, 0], [1, 0], [0, 0]]
    assert flags[0].view(np.uint8).tolist() == [0, 0, 1, 1, 0]


def test_integers_are_written_as_such() -> None:
    pair = Pair()
    numbers = np.ndarray((LANES,), np.int8, pair.reply, 256)
    pair.env = pair.end(Side.SERVER, written=(numbers,), integer=True)
    pair.agent.post((np.arange(3),), 0)
    for values, written in (((1, np.int8(-2), 127), True), ((1, 128, 3), False)):
        steps = [lambda _, value=value: (value, 0.0, False, False, {}) for value in values]
        found = pair.serve(*steps)
        assert (found is None) == written
        if written:
            assert numbers.tolist() == list(values)
            assert pair.agent.landed(0) is True
            pair.agent.post((np.arange(3),), 0)


def test_an_interrupt_while_a_number_is_written_is_not_lost() -> None:
    class Interrupted:
        def __index__(self) -> int:
            raise KeyboardInterrupt

    pair = Pair()
    numbers = np.ndarray((LANES,), np.int8, pair.reply, 256)
    pair.env = pair.end(Side.SERVER, written=(numbers,), integer=True)
    pair.agent.post((np.arange(3),), 0)
    with pytest.raises(KeyboardInterrupt):
        pair.serve(*[lambda _: (Interrupted(), 0.0, False, False, {})] * LANES)
    assert pair.env.calling
    assert pair.agent.landed(0) is None


def test_results_need_room() -> None:
    pair = Pair()
    pair.agent.post((np.arange(3),), 0)
    pair.serve(same, same, same)
    pair.agent.landed(0)
    observations, flat = results()
    for batch, scalars, first in (
        ((observations,), flat, 3),
        ((observations,), flat, -1),
        ((observations.astype(np.float64),), flat, 0),
        ((observations,), (flat[0].astype(np.float32), *flat[1:]), 0),
        ((observations,), (flat[0], flat[1].view(np.uint8), flat[2]), 0),
    ):
        with pytest.raises(ValueError, match="no room"):
            pair.agent.copy(batch, scalars, first)
    with pytest.raises(TypeError, match="tuples"):
        pair.agent.copy([observations], flat, 0)
    flat[0][:] = 0
    pair.agent.copy(None, flat, 2)
    assert flat[0].tolist() == [0, 0, 1.5, 1.5, 1.5]


def test_arrays_that_are_no_columns_are_refused() -> None:
    pair = Pair()
    wrong = {
        "mask": [(), (np.zeros(2, np.uint8),)],
        "results": [(pair.reward,), (pair.terminated,) * 3],
        "integer": [True],
        "written": [(np.zeros((2, 2), np.float32),)],
    }
    for name, values in wrong.items():
        for value in values:
            with pytest.raises(ValueError, match=r"columns|lanes"):
                pair.end(Side.SERVER, **{name: value})


def test_released_while_it_waits_the_memory_stays() -> None:
    pair = Pair()
    pair.agent.post((np.arange(3),), 0)
    waiting = threading.Thread(target=pair.agent.landed, args=(SLICE,))
    waiting.start()
    pair.agent.release()
    waiting.join()
    assert pair.agent.post((np.arange(3),), 0) is NotImplemented
    pair.env.release()
    with pytest.raises(ValueError, match="released"):
        pair.serve(same, same, same)


def test_once_released_nothing_is_posted() -> None:
    agent = Pair().end(Side.CLIENT, written=())

    class Releases:
        def __index__(self) -> int:
            agent.release()
            agent.armed = True
            return 0

    for first in (Releases(), 0):
        with pytest.raises(ValueError, match="released"):
            agent.post((), first)


def core_of_this_thread() -> int:
    """Ask the system, whose answer is of the last time slice."""
    with open("/proc/thread-self/stat") as stat:
        return int(stat.read().rpartition(")")[2].split()[36])


@pytest.mark.skipif(len(usable_cores()) < 2 or sys.platform != "linux", reason="needs two cores")
def test_a_worker_goes_to_its_core_and_is_bound_to_none() -> None:
    allowed = os.sched_getaffinity(0)
    for core in [*usable_cores(), 10_000]:
        for _ in range(3):
            pair, seen = Pair(), []
            pair.core = core

            def step(_: Any, seen: list[int] = seen) -> Any:
                seen.append(core_of_this_thread())
                return PLAIN

            pair.agent.post((np.arange(3),), 0)
            assert pair.serve(step, same, same) is None
            assert os.sched_getaffinity(0) == allowed
            # The system may have taken us away since: that is what it is free to do.
            if core in seen or core == 10_000:
                break
        else:
            pytest.fail(f"never on core {core}")
