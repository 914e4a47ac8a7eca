"""Records of groups with lanes, over a buffer: exact writing, and reading that trusts nothing."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.vector.utils import batch_space, create_empty_array, iterate

from rlay.errors import (
    BodyTooLargeError,
    LayoutError,
    LayoutMismatchError,
    RemoteError,
    RemoteProtocolError,
)
from rlay.protocol.body import encode_body
from rlay.protocol.constants import Command, RecordKind
from rlay.protocol.lane_codecs import LaneError
from rlay.protocol.lanes import (
    LaneActions,
    LaneReplyRecord,
    LaneRequest,
    LaneRequestRecord,
    LaneResults,
    LaneSeeds,
    compile_records,
)
from rlay.protocol.prefix import PREFIX, stamp_session
from rlay.protocol.records import ReplyRecord, RequestRecord
from rlay.protocol.schema import Schema, compile_layout, describe_env
from tests.vector_toys import SPACES, same

COUNT = 3
ALL = range(COUNT)


@dataclasses.dataclass
class Wire:
    """Both records of a group with lanes, over one buffer."""

    schema: Schema
    request: Any
    reply: Any
    layout: Any
    memory: memoryview

    def field(self, kind: RecordKind, name: str) -> np.ndarray:
        record = self.memory[self.layout.record_slice(kind)]
        return self.layout.find(kind, name).view(record)


def wire(observation: Any, action: Any, **settings: Any) -> Wire:
    settings = {"lanes": COUNT, "autoreset": "same_step", **settings}
    schema = describe_env(observation, action, **settings)
    layout = compile_layout(schema)
    memory = memoryview(bytearray(layout.data_size))
    stamp_session(memory, layout, 7)
    return Wire(schema, *compile_records(schema, layout, memory), layout, memory)


@pytest.fixture
def plain() -> Wire:
    """Box observations, discrete actions, two declared infos."""
    fields = {"x": "float64", "say": spaces.Text(4)}
    box = spaces.Box(-1, 1, (2,), np.float32)
    return wire(box, spaces.Discrete(3), info_fields=fields, reply_body=4096)


def results(value: float = 0.0, lanes: Any = ALL, **kwargs: Any) -> LaneResults:
    return LaneResults(lanes, [np.full(2, value, np.float32) for _ in lanes], **kwargs)


def step(wire: Wire, values: LaneResults, infos: Any = None, rewards: Any = None) -> Any:
    count = len(values.lanes)
    flags = [False] * count
    wire.reply.write_step(1, values, rewards or [1.0] * count, flags, flags, infos or {})
    return wire.reply.read_step(wire.reply.open(1, Command.STEP))


# ---- codecs ----------------------------------------------------------------------------


@pytest.mark.parametrize("name", SPACES)
def test_batches_and_lists_are_two_forms_of_the_same(name: str) -> None:
    observation, action = SPACES[name]()
    both = wire(observation, action)
    batched = batch_space(action, COUNT)
    batched.seed(1)
    batch = batched.sample()
    codec = both.request.actions
    both.request.write_step(1, LaneActions(codec.exact(batch, COUNT)))
    request = both.request.read(both.request.command(1))
    assert isinstance(request, LaneRequest)
    assert request.lanes == ALL
    assert same(list(request.actions), list(iterate(batched, batch)))
    observation.seed(2)
    values = [observation.sample() for _ in ALL]
    seen = both.reply.observation
    seen.write(values, ALL)
    assert same(seen.read(ALL), values)
    out = seen.empty(5)
    seen.take(out, slice(1, 4))
    assert same(list(iterate(batch_space(observation, 5), seen.finish(out)))[1:4], values)
    assert same(list(iterate(batch_space(observation, COUNT), seen.view())), values)
    kind = type(create_empty_array(observation, n=5))
    assert type(seen.finish(out)) is kind


@pytest.mark.parametrize("name", SPACES)
def test_some_lanes(name: str) -> None:
    observation, action = SPACES[name]()
    both = wire(observation, action)
    observation.seed(3)
    before, after = ([observation.sample() for _ in ALL] for _ in range(2))
    seen = both.reply.observation
    seen.write(before, ALL)
    seen.write([after[0], after[2]], [0, 2])
    assert same(seen.read(ALL), [after[0], before[1], after[2]])
    assert same(seen.read([2]), [after[2]])
    out = seen.empty(2)
    seen.take(out, slice(0, 2), np.array([1, 2]))
    assert same(list(iterate(batch_space(observation, 2), seen.finish(out))), [before[1], after[2]])
    batched = batch_space(action, COUNT)
    batch = both.request.actions.exact(batched.sample(), COUNT)
    both.request.write_step(1, LaneActions(batch, np.array([2, 0]), np.array([0, 1])))
    request = both.request.read(both.request.command(1))
    assert request.lanes == [0, 1]
    every = list(iterate(batched, batch))
    assert same(list(request.actions), [every[2], every[0]])


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        (np.zeros(2), None),
        ([0, 1], None),
        (np.zeros(2, ">f4"), None),
        (np.full(2, 0.1), r"0\.1 cannot be held by float32"),
        (np.zeros(3, np.float32), "shape"),
        (np.zeros((1, 2), np.float32), "shape"),
        (np.zeros((), np.float32), "shape"),
        ("ab", "not an array"),
        (None, "not an array"),
    ],
)
def test_a_box_value_is_exact_or_an_error_of_its_lane(
    plain: Wire, value: Any, problem: str | None
) -> None:
    good = np.ones(2, np.float32)
    if problem is None:
        plain.reply.observation.write([good, value, good], ALL)
        found = plain.reply.observation.read(ALL)[1]
        assert found.dtype == np.float32
        assert found.tolist() == np.asarray(value).tolist()
        return
    with pytest.raises(LaneError, match="lane 1") as caught:
        plain.reply.observation.write([good, value, good], ALL)
    assert isinstance(caught.value.__cause__, LayoutError)
    with pytest.raises(LayoutError, match=problem):
        raise caught.value.__cause__


def test_shapes_that_add_up_are_not_enough(plain: Wire) -> None:
    values = [np.zeros(1, np.float32), np.zeros(3, np.float32), np.zeros(2, np.float32)]
    with pytest.raises(LaneError, match="lane 0"):
        plain.reply.observation.write(values, ALL)


@pytest.mark.parametrize("dtype", [np.int8, np.int64, np.uint64])
def test_discrete_values_are_exact(dtype: Any) -> None:
    both = wire(spaces.Discrete(5, dtype=dtype), spaces.Discrete(5, dtype=dtype))
    top = int(np.iinfo(dtype).max)
    for values in ([1, 2, top], [np.int64(1), 2, np.uint8(3)], list(np.arange(3, dtype=dtype))):
        both.reply.observation.write(values, ALL)
        found = both.reply.observation.read(ALL)
        assert [type(v) for v in found] == [dtype] * 3
        assert [int(v) for v in found] == [int(v) for v in values]
    for wrong in (top + 1, 1.0, "1", None, np.zeros(2, int)):
        with pytest.raises(LaneError, match="lane 2"):
            both.reply.observation.write([0, 1, wrong], ALL)
    exact = both.request.actions.exact
    assert exact([1, 2, 3], 3).dtype == dtype
    assert exact(np.array([top], dtype), 1).tolist() == [top]
    for batch in ([1.0, 2.0, 3.0], [1, 2], ["a", "b", "c"], [-(2**63), 0, 2**64], None, 1):
        with pytest.raises(LayoutError, match="action"):
            exact(batch, 3)


def test_any_byte_but_0_is_true() -> None:
    both = wire(spaces.Box(0, 1, (1,), np.bool_), spaces.Box(0, 1, (), np.bool_))
    for kind, name, codec in (
        (RecordKind.REPLY, "observation", both.reply.observation),
        (RecordKind.REQUEST, "action", both.request.actions),
    ):
        both.field(kind, name).view(np.uint8)[:] = 255
        assert np.array(codec.read(ALL)).view(np.uint8).max() == 1
        out = codec.empty(COUNT)
        codec.take(out, slice(0, COUNT))
        assert out.view(np.uint8).max() == 1


def test_batches_of_another_structure() -> None:
    inner = spaces.Dict({"a": spaces.Discrete(2), "t": spaces.Tuple((spaces.Discrete(2),))})
    both = wire(inner, inner)
    exact = both.request.actions.exact
    good = {"a": [0, 1, 1], "t": ([1, 0, 1],)}
    both.request.write_step(1, LaneActions(exact(good, 3)))
    assert both.request.read(both.request.command(1)).actions[1] == {"a": 1, "t": (0,)}
    for wrong in ({"a": [0, 1, 1]}, {**good, "b": 1}, {**good, "t": [0, 1, 1]}, [0, 1, 1]):
        with pytest.raises(LayoutError, match="action"):
            exact(wrong, 3)
    fine = {"a": 1, "t": (0,)}
    for value in ({"a": 1}, [1], {"a": 1, "t": (0, 1)}, {"a": 1, "t": 5}):
        with pytest.raises(LaneError, match="lane 1"):
            both.reply.observation.write([fine, value, fine], ALL)


def test_spaces_without_leaves() -> None:
    both = wire(spaces.Dict({}), spaces.Tuple(()))
    both.request.write_step(1, LaneActions(both.request.actions.exact((), 3)))
    assert both.request.read(both.request.command(1)).actions == [()] * 3
    both.reply.observation.write([{}] * 3, ALL)
    assert both.reply.observation.read(ALL) == [{}] * 3


# ---- requests --------------------------------------------------------------------------


def test_a_reset_has_a_seed_for_each_lane(plain: Wire) -> None:
    plain.request.write_reset(1, LaneSeeds([5, None, 2**64 - 1]), {"a": 1})
    request = plain.request.read(plain.request.command(1))
    assert (request.lanes, request.seeds) == (ALL, [5, None, 2**64 - 1])
    assert request.options == {"a": 1}
    mask = np.array([False, True, True])
    plain.request.write_reset(1, LaneSeeds([1, 2, None], mask), None)
    request = plain.request.read(plain.request.command(1))
    assert (request.lanes, request.seeds, request.options) == ([1, 2], [2, None], None)
    for wrong in (-1, 2**64, 1.0, "1"):
        with pytest.raises(LayoutError, match="seed"):
            plain.request.write_reset(1, LaneSeeds([0, 0, wrong]), None)


def test_one_seed_for_all_counts_on(plain: Wire) -> None:
    """What a simple agent in another language may write (§7)."""
    plain.request.write_reset(1, LaneSeeds([None, 9, None]), None)
    plain.field(RecordKind.REQUEST, "seed")[()] = 2**64 - 1
    plain.field(RecordKind.REQUEST, "seed#present")[()] = 1
    assert plain.request.read(plain.request.command(1)).seeds == [2**64 - 1, 9, 1]


def test_the_mask_of_every_command(plain: Wire) -> None:
    mask = plain.field(RecordKind.REQUEST, "mask")
    plain.request.write_plain(1, Command.RENDER, 2)
    assert plain.request.read(plain.request.command(1)).lanes == [2]
    plain.request.write_step(2, LaneActions(np.zeros(3, np.int64)))
    assert mask.tolist() == [1, 1, 1]
    mask[:] = [0, 255, 0]
    assert plain.request.read(plain.request.command(2)).lanes == [1]
    plain.request.write_call(3, {"op": "call", "name": "n", "args": [], "kwargs": {}})
    assert plain.request.read(plain.request.command(3)).call["name"] == "n"


# ---- replies ---------------------------------------------------------------------------


def test_infos_by_lane_declared_and_not(plain: Wire) -> None:
    infos = {0: {"x": 1.5, "other": 2}, 2: {"say": "hi", "final_info": {"x": 3}}}
    reply = step(plain, results(), infos)
    assert reply.infos == {0: {"other": 2}, 2: {"final_info": {"x": 3}}}
    present = {key: field.tolist() for key, (field, _) in plain.reply.info.items()}
    assert present == {"say": [0, 0, 1], "x": [1, 0, 0]}
    assert plain.reply.info["x"][1].read([0]) == [1.5]
    reply = step(plain, results())
    assert reply.infos == {}
    assert not any(field.any() for field, _ in plain.reply.info.values())
    for wrong in ({1: {"x": "text"}}, {1: {"x": [1.0, 2.0]}}, {1: "no dict"}):
        with pytest.raises(LaneError, match="lane 1"):
            step(plain, results(), wrong)
    with pytest.raises(BodyTooLargeError, match="reply_body"):
        step(plain, results(), {1: {"big": "x" * 5000}})


def test_a_step_of_some_lanes_leaves_the_others_observation(plain: Wire) -> None:
    step(plain, results(1.0), {0: {"x": 1.0}}, [1.0, 2.0, 3.0])
    step(plain, results(0.5, lanes=[1]), {1: {"x": 2.0}}, [4.0])
    assert plain.reply.reward.tolist() == [0.0, 4.0, 0.0]
    assert plain.field(RecordKind.REPLY, "observation")[:, 0].tolist() == [1.0, 0.5, 1.0]
    assert plain.reply.info["x"][0].tolist() == [0, 1, 0]


def test_final_observations_of_the_lanes_that_ended(plain: Wire) -> None:
    final = np.array([0.25, 0.5], np.float32)
    step(plain, results(finals={1: final}))
    assert same(plain.reply.finals(), {1: final})
    step(plain, results())
    assert plain.reply.finals() == {}
    with pytest.raises(LaneError, match="lane 2"):
        step(plain, results(finals={2: np.zeros(5)}))
    without = wire(spaces.Discrete(2), spaces.Discrete(2), autoreset="next_step")
    assert without.reply.finals() == {}
    with pytest.raises(KeyError):
        without.field(RecordKind.REPLY, "final_observation#present")


def test_rewards_and_flags_are_exact(plain: Wire) -> None:
    step(plain, results(), rewards=[1, np.float32(0.5), np.array(2.0)])
    assert plain.reply.reward.tolist() == [1.0, 0.5, 2.0]
    for wrong in (2**53 + 1, "1", [1.0], None):
        with pytest.raises(LaneError, match="lane 1"):
            step(plain, results(), rewards=[1.0, wrong, 1.0])
    flags = [True, np.bool_(False), 1]
    plain.reply.write_step(1, results(), [0.0] * 3, flags, [False] * 3, {})
    assert plain.reply.terminated.tolist() == [1, 0, 1]
    with pytest.raises(LaneError, match="lane 2") as caught:
        plain.reply.write_step(1, results(), [0.0] * 3, [False, False, 2], [False] * 3, {})
    assert "terminated" in str(caught.value.__cause__)


def test_an_error_names_its_lane(plain: Wire) -> None:
    def raised(error: BaseException) -> RemoteError:
        plain.reply.write_error(1, Command.STEP, error)
        with pytest.raises(RemoteError) as caught:
            plain.reply.open(1, Command.STEP)
        return caught.value

    error = LaneError(2)
    error.__cause__ = ValueError("no")
    found = raised(error)
    assert (found.lane, found.type, found.message) == (2, "ValueError", "no")
    assert str(found).startswith("lane 2 raised ValueError: no")
    found = raised(ValueError("no"))
    assert (found.lane, str(found).split("\n")[0]) == (
        None,
        "the environment raised ValueError: no",
    )


@pytest.mark.parametrize(
    "body",
    [
        [1],
        {"infos": [1]},
        {"infos": {"0": {}}},
        {"infos": {3: {}}},
        {"infos": {-1: {}}},
        {"infos": {0: 1}},
    ],
)
def test_a_malformed_body_is_the_peers_fault(plain: Wire, body: Any) -> None:
    data = encode_body(body, capacity=99, what="", setting="")
    plain.field(RecordKind.REPLY, "body")[: len(data)] = np.frombuffer(data, np.uint8)
    record = plain.memory[plain.layout.record_slice(RecordKind.REPLY)]
    PREFIX.pack_into(record, 0, 1, Command.STEP, 0, len(data), 7)
    with pytest.raises(RemoteProtocolError):
        plain.reply.read_step(plain.reply.open(1, Command.STEP))


def test_a_lane_out_of_range_in_an_error_is_not_believed(plain: Wire) -> None:
    plain.reply.write_error(1, Command.STEP, ValueError("no"), lane=9)
    with pytest.raises(RemoteError) as caught:
        plain.reply.open(1, Command.STEP)
    assert caught.value.lane is None


# ---- which records ---------------------------------------------------------------------


def test_records_by_the_schema() -> None:
    box, discrete = spaces.Box(0, 1, (1,)), spaces.Discrete(2)
    one = wire(box, discrete, lanes=0, autoreset="disabled")
    assert [type(one.request), type(one.reply)] == [RequestRecord, ReplyRecord]
    lanes = wire(box, discrete, lanes=1)
    assert [type(lanes.request), type(lanes.reply)] == [LaneRequestRecord, LaneReplyRecord]
    group = lanes.schema.groups[0]
    other = dataclasses.replace(group, name="other")
    agents = dataclasses.replace(group, agents=True)
    for groups in ((group, other), (agents,)):
        schema = Schema(groups)
        layout = compile_layout(schema)
        memory = memoryview(bytearray(layout.data_size))
        with pytest.raises(LayoutMismatchError, match="several groups"):
            compile_records(schema, layout, memory)
    for records in (RequestRecord, ReplyRecord):
        with pytest.raises(LayoutMismatchError, match="one environment"):
            records(lanes.schema, lanes.layout, lanes.memory)
