"""What fuzzing found, each as the smallest bytes that showed it."""

from __future__ import annotations

import dataclasses
import json
import sys
import time
from typing import Any

import msgspec
import numpy as np
import pytest
from gymnasium import spaces

from rlay.envs.facts import spec_id
from rlay.envs.vector_workers import Batch
from rlay.errors import LayoutError, RemoteError, RemoteProtocolError, SchemaError
from rlay.protocol import prefix
from rlay.protocol.body import decode_body
from rlay.protocol.constants import STATUS_REMOTE, Command, RecordKind
from rlay.protocol.lanes import compile_records
from rlay.protocol.leaves import leaves
from rlay.protocol.prefix import stamp_session
from rlay.protocol.records import ReplyRecord
from rlay.protocol.schema import EnvFacts, Schema, compile_layout, describe_env, read_schema
from rlay.protocol.spaces import check_space, describe_info

pytestmark = pytest.mark.one_twin

SESSION = 77
SCHEMA = describe_env(spaces.Discrete(3), spaces.Discrete(2), frame=64)


def packed(code: int, value: Any) -> msgspec.msgpack.Ext:
    data = value if isinstance(value, bytes) else msgspec.msgpack.encode(value)
    return msgspec.msgpack.Ext(code, data)


#: 2,000 bytes: too many digits for Python to print.
HUGE = packed(4, b"\x7f" * 2000)


class Wire:
    """One record pair over plain memory, into which a test writes what it likes."""

    def __init__(self, schema: Schema) -> None:
        self.layout = compile_layout(schema)
        self.data = memoryview(bytearray(self.layout.data_size))
        stamp_session(self.data, self.layout, SESSION)
        self.request, self.reply = compile_records(schema, self.layout, self.data, SESSION)

    def put(self, kind: RecordKind, command: Command, status: int, body: Any) -> int:
        data = msgspec.msgpack.encode(body)
        record = self.data[self.layout.record_slice(kind)]
        start = self.layout.find(kind, "body").offset
        record[start : start + len(data)] = data
        prefix.PREFIX.pack_into(record, 0, 1, command, status, len(data), SESSION)
        return len(data)

    def field(self, kind: RecordKind, name: str) -> np.ndarray:
        return self.layout.find(kind, name).view(self.data[self.layout.record_slice(kind)])


@pytest.mark.parametrize("key", ["type", "message", "traceback"])
@pytest.mark.parametrize("value", [HUGE, 3, [[]], None])
def test_the_parts_of_an_error_are_text_or_left_out(key: str, value: Any) -> None:
    wire = Wire(SCHEMA)
    wire.put(RecordKind.REPLY, Command.STEP, STATUS_REMOTE, {"message": "no", key: value})
    with pytest.raises(RemoteError) as caught:
        wire.reply.open(1, Command.STEP)
    assert caught.value.message == ("" if key == "message" else "no")


@pytest.mark.parametrize("key", [2**64, -(2**63) - 1])
def test_an_integer_key_beyond_64_bits(key: int) -> None:
    data = b"\x81\xc7\x09\x04" + key.to_bytes(9, "little", signed=True) + b"\xc0"
    with pytest.raises(RemoteProtocolError, match="key beyond 64 bits"):
        decode_body(data)


def test_the_key_of_an_info_that_no_one_can_print() -> None:
    lanes = dataclasses.replace(SCHEMA.groups[0], lanes=2)
    wire = Wire(dataclasses.replace(SCHEMA, groups=(lanes,)))
    body = b"\x81\xa5infos\x81" + msgspec.msgpack.encode(HUGE) + b"\x80"
    size = wire.put(RecordKind.REPLY, Command.STEP, 0, msgspec.Raw(body))
    with pytest.raises(RemoteProtocolError, match="malformed body"):
        wire.reply.read_step(size)


def test_a_call_with_a_key_that_no_one_can_print() -> None:
    wire = Wire(SCHEMA)
    body = b"\x81" + msgspec.msgpack.encode(HUGE) + b"\xc0"
    wire.put(RecordKind.REQUEST, Command.CALL, 0, msgspec.Raw(body))
    with pytest.raises(RemoteProtocolError, match="malformed body"):
        wire.request.read(wire.request.command(1))


@pytest.mark.parametrize(
    "shape",
    [[HUGE], [2**63], [0] * 65, [0, 2**62, 2**62], [HUGE] * 60, [[1]], [True], [-1], [1.0]],
)
def test_the_shape_of_an_array_is_checked_before_its_product(shape: Any) -> None:
    with pytest.raises(RemoteProtocolError, match="malformed body"):
        decode_body(msgspec.msgpack.encode(packed(1, ["<f8", shape, b""])))


@pytest.mark.parametrize("shape", [(0, 2**32 - 1, 2**32 - 1), (2**32 - 1, 0, 1), (65, 0, 0)])
def test_a_frame_of_nothing_with_huge_dimensions(shape: tuple[int, ...]) -> None:
    wire = Wire(SCHEMA)
    assert isinstance(wire.reply, ReplyRecord)
    wire.field(RecordKind.REPLY, "frame#shape")[:] = shape
    with pytest.raises(RemoteProtocolError, match="larger than its field"):
        wire.reply.read_frame(0)


def test_a_frame_of_nothing_is_a_frame() -> None:
    wire = Wire(SCHEMA)
    wire.field(RecordKind.REPLY, "frame#shape")[:] = (0, 64, 3)
    assert wire.reply.read_frame(0).shape == (0, 64, 3)


def test_the_session_in_the_record_is_not_asked_again() -> None:
    wire = Wire(SCHEMA)
    stamp_session(wire.data, wire.layout, SESSION + 1)
    forged = compile_records(SCHEMA, wire.layout, wire.data, SESSION)[1]
    with pytest.raises(RemoteProtocolError, match="is of session"):
        forged.open(0, Command.READY)


def test_a_request_is_believed_as_it_was_when_it_was_checked() -> None:
    """The size of the body is that of the checked prefix, whatever stands there by now."""
    wire = Wire(SCHEMA)
    wire.put(RecordKind.REQUEST, Command.RESET, 0, {"a": 1})
    command = wire.request.command(1)
    prefix.PREFIX.pack_into(wire.data, 0, 9, 9, 9, 2**32 - 1, 9)
    assert wire.request.read(command).options == {"a": 1}


EMPTY = {"type": "Box", "dtype": "int8", "shape": [0], "low": 0, "high": 1}


@pytest.mark.parametrize(
    ("capacities", "space", "fits"),
    [
        ([2**16], EMPTY, True),
        ([2**16 + 1], EMPTY, False),
        ([2**32 - 1], {"type": "Tuple", "spaces": []}, False),
        ([2**32 - 1], {"type": "Dict", "spaces": []}, False),
        ([2**8, 2**8], EMPTY, True),
        ([2**8, 2**8 + 1], EMPTY, False),
        ([0, 2**32 - 1], EMPTY, True),
        ([2**20], {"type": "Discrete", "dtype": "int8", "n": 2, "start": 0}, True),
    ],
)
def test_elements_without_bytes_are_counted(
    capacities: list[int], space: dict[str, Any], fits: bool
) -> None:
    for capacity in reversed(capacities):
        space = {"type": "Sequence", "space": space, "stack": False, "capacity": capacity}
    if fits:
        assert list(leaves(space, "p"))
        return
    with pytest.raises(SchemaError, match="elements that take no bytes"):
        list(leaves(space, "p"))


BOX = {"type": "Box", "dtype": "int8", "shape": [2**16 + 1], "low": 0, "high": 1}
GRAPH = {"type": "Graph", "node": BOX, "edge": BOX, "nodes": 1, "edges": 1}


@pytest.mark.parametrize(
    "space",
    [
        {"type": "Sequence", "space": BOX, "stack": False, "capacity": 0},
        {"type": "Sequence", "space": GRAPH, "stack": False, "capacity": 0},
        GRAPH | {"nodes": 0},
        GRAPH | {"edges": 0},
    ],
)
def test_a_large_space_of_which_there_is_no_value(space: dict[str, Any]) -> None:
    with pytest.raises(SchemaError, match=r"capacity 0 for elements of \d+ bytes"):
        list(leaves(space, "p"))
    assert list(leaves({**space, "nodes": 1, "edges": 1, "capacity": 1}, "p"))


def schema_with(**changes: Any) -> bytes:
    return json.dumps({**json.loads(SCHEMA.to_json()), **changes}).encode()


def test_a_key_twice_in_one_object() -> None:
    with pytest.raises(SchemaError, match="key 'a' stands twice"):
        read_schema(SCHEMA.to_json().replace(b'"metadata":{}', b'"metadata":{"a":1,"b":2,"a":3}'))


def nested(depth: int) -> Any:
    value: Any = 0
    for _ in range(depth):
        value = [value]
    return value


@pytest.mark.parametrize(("depth", "fits"), [(125, True), (126, False), (400, False)])
def test_how_deep_a_schema_may_nest(depth: int, fits: bool) -> None:
    facts = {"env": {**json.loads(SCHEMA.to_json())["env"], "metadata": {"a": nested(depth)}}}
    env = EnvFacts(metadata={"a": nested(depth)})
    if fits:
        assert read_schema(schema_with(**facts)).to_json()
        assert dataclasses.replace(SCHEMA, env=env).to_json()
        return
    with pytest.raises(SchemaError, match="nested deeper than 128 levels"):
        read_schema(schema_with(**facts))
    with pytest.raises(LayoutError, match="nested deeper than 128 levels"):
        dataclasses.replace(SCHEMA, env=env).to_json()


def test_a_space_is_checked_without_being_built() -> None:
    """A gigabyte costs as much to check as a byte: nothing is allocated by its size."""
    box = {"type": "Box", "dtype": "uint8", "shape": [2**15, 2**15], "low": 0, "high": 255}
    start = time.process_time()
    check_space({"type": "Tuple", "spaces": [box, box]}, "at")
    assert time.process_time() - start < 5.0


@pytest.mark.parametrize("declared", [None, 3, 1.0, [], {}, {"names": ["a"]}, (), "", "f9", object])
def test_what_is_no_declared_info(declared: Any) -> None:
    with pytest.raises(LayoutError, match=r"info\.x: .* is neither a Space nor one of .*write"):
        describe_info("x", declared, {})


@pytest.mark.parametrize(
    "name", [None, "", "x", "a b-v0", "a/b/c-v0", "a-v" + "9" * 5000, "a-v0\n", "-v", "/a-v1"]
)
def test_an_id_that_gymnasium_would_not_take(name: str | None) -> None:
    assert spec_id(EnvFacts(id=name), "chan.1") == "rlay/chan.1-v0"


@pytest.mark.parametrize("name", ["CartPole-v1", "ALE/Pong-v5", "rlay/x.y-v0"])
def test_an_id_that_gymnasium_takes(name: str) -> None:
    assert spec_id(EnvFacts(id=name), "chan") == name


def test_infos_of_lanes_that_do_not_go_together() -> None:
    batch = Batch(2, None)
    batch._add({"a": np.zeros(2)}, 0)
    with pytest.raises(LayoutError, match="lane 1 cannot stand beside"):
        batch._add({"a": np.zeros(3)}, 1)


def test_python_cannot_print_the_huge_integer() -> None:
    """The negative control of the tests above."""
    if not hasattr(sys, "get_int_max_str_digits"):
        pytest.skip("this Python prints any integer")
    with pytest.raises(ValueError, match="Exceeds the limit"):
        str(int.from_bytes(HUGE.data, "little"))
