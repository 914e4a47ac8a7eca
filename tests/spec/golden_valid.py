"""The valid golden cases: sessions with values written by hand."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from typing import Any

import numpy as np
from gymnasium import spaces

from rlay.errors import LayoutMismatchError
from rlay.protocol import constants as c
from rlay.protocol.body import encode_body
from rlay.protocol.constants import Bye, Command, Feature, RecordKind, Role, Side, Welcome
from rlay.protocol.env_block import write_env_block
from rlay.protocol.header import Hello, write_fields
from rlay.protocol.lanes import LaneActions, LaneResults, LaneSeeds, compile_records
from rlay.protocol.layout import Layout
from rlay.protocol.records import PREFIX, ReplyRecord, RequestRecord, stamp_session
from rlay.protocol.schema import EnvFacts, Group, Schema, compile_layout, describe_env, fingerprint
from tests.spec.golden_text import plain

GENERATION = 0x0123456789ABCDEF


@dataclasses.dataclass
class Case:
    """A session frozen at one moment: a control file, and the data file after each exchange."""

    name: str
    meaning: dict[str, Any]
    control: bytes
    data: list[bytes]


def hello(role: Role, features: int, pid: int) -> Hello:
    return Hello(role, features, pid=pid, library="rlay-golden 1", host="golden")


class Session:
    """Builds one case: control file first, then exchange after exchange."""

    def __init__(
        self, name: str, about: str, schema: Schema, *, server: Role = Role.ENV, features: int = 0
    ) -> None:
        self.case = Case(name, {"about": about}, b"", [])
        self.schema, self.layout = schema, compile_layout(schema)
        self.server, self.seq = server, 0
        self.control = memoryview(bytearray(c.CONTROL_SIZE))
        identity = {
            "magic": c.MAGIC,
            "endian_tag": c.ENDIAN_TAG,
            "header_size": c.HEADER_SIZE,
            "control_size": c.CONTROL_SIZE,
            "generation": GENERATION,
        }
        write_fields(self.control, identity)
        self.hellos = {
            Side.SERVER: hello(server, features, 4711),
            Side.CLIENT: hello(server.peer, features, 4712),
        }
        for side, ours in self.hellos.items():
            ours.write(self.control, side)
        write_env_block(self.control, schema, self.layout)
        write_fields(self.control, {"claim": 1})
        self.data = memoryview(bytearray(self.layout.data_size))
        stamp_session(self.data, self.layout, GENERATION)
        agent = Side.CLIENT if server is Role.ENV else Side.SERVER
        self.welcome = {
            "welcome_status": int(Welcome.ACCEPTED),
            "welcome_code": 0,
            "protocol": c.PROTOCOL_VERSION,
            "features": features,
            "data_size": self.layout.data_size,
            "welcome_text": "",
        }
        self.words = {"turn": int(agent), "server_bye": 0, "client_bye": 0, "claim": 1}
        self.exchanges: list[dict[str, Any]] = []

    def exchange(
        self, command: Command, status: int, request: dict[str, Any], reply: dict[str, Any]
    ) -> None:
        """Keep what the data file holds now, and what it means."""
        self.exchanges.append(
            {
                "seq": self.seq,
                "command": command.name,
                "status": status,
                "request": {key: plain(value) for key, value in request.items()},
                "reply": {key: plain(value) for key, value in reply.items()},
            }
        )
        self.case.data.append(bytes(self.data))

    def finish(self) -> Case:
        write_fields(self.control, {**self.welcome, **self.words})
        case = self.case
        case.control = bytes(self.control)
        text, table = self.schema.to_json(), self.layout.pack_table()
        case.meaning |= {
            "files": {
                "control": f"{case.name}.control.hex",
                "data": [f"{case.name}.data{i + 1}.hex" for i in range(len(case.data))],
            },
            "generation": f"{GENERATION:016x}",
            "server_hello": dataclasses.asdict(self.hellos[Side.SERVER]),
            "client_hello": dataclasses.asdict(self.hellos[Side.CLIENT]),
            "env_block": {
                "schema_size": len(text),
                "field_count": len(self.layout.fields),
                "fingerprint": f"{fingerprint(text, table):016x}",
                "request_size": self.layout.request_size,
                "reply_size": self.layout.reply_size,
            },
            "schema": json.loads(text),
            "welcome": self.welcome,
            "words": self.words,
            "exchanges": self.exchanges,
        }
        return case


class PlainSession(Session):
    """A session of one environment with one agent."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.request = RequestRecord(self.schema, self.layout, self.data)
        self.reply = ReplyRecord(self.schema, self.layout, self.data)

    def reset(
        self, observation: Any, info: dict[str, Any], seed: int | None, options: Any = None
    ) -> None:
        self.seq += 1
        self.request.write_reset(self.seq, seed, options)
        self.reply.write_reset(self.seq, observation, info)
        request = {"seed": seed, "options": options}
        self.exchange(Command.RESET, 0, request, {"observation": observation, "info": info})

    def step(
        self,
        action: Any,
        observation: Any,
        reward: float,
        info: dict[str, Any],
        *,
        terminated: bool = False,
        truncated: bool = False,
    ) -> None:
        self.seq += 1
        self.request.write_step(self.seq, action)
        self.reply.write_step(self.seq, observation, reward, terminated, truncated, info)
        reply = {
            "observation": observation,
            "reward": reward,
            "terminated": terminated,
            "truncated": truncated,
            "info": info,
        }
        self.exchange(Command.STEP, 0, {"action": action}, reply)

    def render(self, frame: Any) -> None:
        self.seq += 1
        self.request.write_plain(self.seq, Command.RENDER)
        self.reply.write_frame(self.seq, frame)
        self.exchange(Command.RENDER, 0, {}, {"frame": frame})

    def call(self, call: dict[str, Any], value: Any) -> None:
        self.seq += 1
        self.request.write_call(self.seq, call)
        self.reply.write_value(self.seq, Command.CALL, value)
        self.exchange(Command.CALL, 0, {"call": call}, {"value": value})

    def failing_step(self, action: Any, error: dict[str, str]) -> None:
        self.seq += 1
        self.request.write_step(self.seq, action)
        body = encode_body(error, capacity=self.schema.reply_body, what="error", setting="")
        record = self.data[self.layout.record_slice(RecordKind.REPLY)]
        start = self.layout.find(RecordKind.REPLY, "body").offset
        record[start : start + len(body)] = body
        PREFIX.pack_into(record, 0, self.seq, Command.STEP, c.STATUS_REMOTE, len(body), GENERATION)
        self.exchange(Command.STEP, c.STATUS_REMOTE, {"action": action}, {"error": error})


def f32(*values: float) -> np.ndarray:
    return np.array(values, np.float32)


def cartpole_schema() -> Schema:
    high = f32(4.8, np.inf, 0.41887903, np.inf)
    env = EnvFacts(
        id="CartPole-v1",
        metadata={"render_modes": ["human", "rgb_array"], "render_fps": 50},
        max_episode_steps=500,
        reward_threshold=475.0,
    )
    return describe_env(spaces.Box(-high, high), spaces.Discrete(2), env=env)


FIRST = f32(0.01369617, -0.02302133, -0.04590265, -0.04834723)
SECOND = f32(0.01323574, 0.17272775, -0.04686959, -0.3551522)
THIRD = f32(0.0166903, -0.02170456, -0.05397264, -0.07758987)


def cartpole_two_steps() -> Case:
    about = "CartPole in ClientEnv mode: a reset with seed 7, then two steps."
    session = PlainSession("cartpole_two_steps", about, cartpole_schema())
    session.reset(FIRST, {}, seed=7)
    session.step(np.int64(1), SECOND, 1.0, {})
    session.step(np.int64(0), THIRD, 1.0, {"lives": 3}, truncated=True)
    return session.finish()


def error_reply() -> Case:
    about = "The environment raises in a step: status 16, and a map that says what."
    session = PlainSession("error_reply", about, cartpole_schema())
    session.reset(FIRST, {}, seed=None, options={})
    session.failing_step(
        np.int64(1),
        {
            "type": "ZeroDivisionError",
            "message": "division by zero in the Größe of a cart",
            "traceback": "Traceback (most recent call last):\n  ...\nZeroDivisionError\n",
        },
    )
    return session.finish()


def server_env_mode() -> Case:
    about = "ServerEnv mode: the server is the AGENT, the client is the ENV and brings the schema."
    session = PlainSession("server_env_mode", about, cartpole_schema(), server=Role.AGENT)
    session.reset(FIRST, {"level": "first"}, seed=2**64 - 1)
    session.step(np.int64(1), SECOND, -0.5, {}, terminated=True)
    return session.finish()


def rejected_hello() -> Case:
    about = (
        "ServerEnv mode: the server expected other spaces and rejects the client, then says bye."
    )
    session = PlainSession("rejected_hello", about, cartpole_schema(), server=Role.AGENT)
    session.welcome = {
        "welcome_status": int(Welcome.REJECTED),
        "welcome_code": LayoutMismatchError.code,
        "protocol": 0,
        "features": 0,
        "data_size": 0,
        "welcome_text": "observation/shape/0: found 4, expected 8",
    }
    session.words |= {"turn": int(Side.CLIENT), "server_bye": int(Bye.CLOSED)}
    return session.finish()


def dict_image() -> Case:
    int64 = np.iinfo(np.int64)
    observation = spaces.Dict(
        {
            "camera": spaces.Box(0, 255, (4, 4, 3), np.uint8),
            "ticks": spaces.Box(int64.min, int64.max, (2,), np.int64),
        }
    )
    schema = describe_env(
        observation,
        spaces.Box(-1, 1, (2,), np.float64),
        info_fields={"lap": "int64", "best": "float64"},
        env=EnvFacts(render_mode="rgb_array"),
        request_body=256,
        reply_body=512,
        frame=64,
    )
    about = (
        "A Dict with a uint8 image and the limits of int64, declared info, options, "
        "a frame in its field, a call."
    )
    features = int(Feature.RENDER | Feature.CALL)
    session = PlainSession("dict_image", about, schema, features=features)
    image = np.arange(48, dtype=np.uint8).reshape(4, 4, 3)
    ticks = np.array([int64.min, int64.max])
    session.reset(
        {"camera": image, "ticks": ticks}, {"lap": np.int64(-1)}, seed=0, options={"level": 3}
    )
    session.step(
        np.array([-1.0, 0.1]),
        {"camera": 255 - image, "ticks": ticks[::-1].copy()},
        float("-inf"),
        {
            "lap": np.int64(2),
            "best": np.float64(0.1),
            "path": np.arange(3, dtype=np.int16),
            "where": ("left", 2**70, 1 - 2j, None),
        },
    )
    session.render(image)
    call = {"op": "call", "name": "add", "args": [1, 2.5], "kwargs": {"key": b"\x00\xff"}}
    session.call(call, [np.float32(3.5), True])
    return session.finish()


def bits(dtype: str, *values: int) -> np.ndarray:
    """Return floats by their bits, so that no processor can touch a NaN."""
    size = np.dtype(dtype).itemsize
    return np.frombuffer(b"".join(v.to_bytes(size, "little") for v in values), dtype).copy()


def all_spaces() -> Case:
    uint64 = np.iinfo(np.uint64)
    # Pairs keep their order; Gymnasium would sort a dict.
    entries: dict[str, Any] = {
        "half": spaces.Box(-np.inf, np.inf, (3,), np.float16),
        "single": spaces.Box(-np.inf, np.inf, (2, 2), np.float32),
        "double": spaces.Box(-np.inf, np.inf, (), np.float64),
        "flags": spaces.Box(0, 1, (3,), np.bool_),
        "huge": spaces.Box(0, uint64.max, (1,), np.uint64),
        "nothing": spaces.Box(0, 1, (0, 3), np.float32),
        "mission": spaces.Text(6, min_length=0, charset="abcäß€🚗"),
        "a/b~c": spaces.Dict({"": spaces.Discrete(3)}),
        "either": spaces.OneOf([spaces.Discrete(2, dtype=np.int8), spaces.MultiBinary(4)]),
        "items": spaces.Sequence(
            spaces.Tuple((spaces.Text(2), spaces.Sequence(spaces.Discrete(9))))
        ),
        "stacked": spaces.Sequence(spaces.Box(-1, 1, (2,), np.float32), stack=True),
        "graph": spaces.Graph(spaces.Box(-1, 1, (2,), np.float32), spaces.Discrete(5)),
        "links": spaces.Graph(spaces.Discrete(4), None),
    }
    observation = spaces.Dict(list(entries.items()))
    action = spaces.Tuple(
        (
            spaces.Discrete(5, start=-2, dtype=np.int16),
            spaces.MultiDiscrete([[2, 3], [4, 5]], start=[[0, -1], [7, 0]]),
            spaces.MultiBinary((2, 2)),
        )
    )
    schema = describe_env(
        observation,
        action,
        capacities={
            "observation/items": 3,
            "observation/items/*/1": 2,
            "observation/stacked": 4,
            "observation/graph": (3, 4),
            "observation/links": (2, 0),
        },
        request_body=64,
        reply_body=64,
    )
    about = (
        "Every space type, nested, with values at the edges: NaN payloads (quiet and signalling), "
        "-0.0, limits, empty arrays, UTF-8 of 1 to 4 bytes, counts of 0 and at capacity."
    )
    session = PlainSession("all_spaces", about, schema)
    full = {
        "half": bits("float16", 0x8000, 0x7C01, 0xFE55),
        "single": bits("float32", 0x7FA00001, 0xFFC12345, 0x80000000, 1).reshape(2, 2),
        "double": bits("float64", 0x7FF0000000000001).reshape(()),
        "flags": np.array([True, False, True]),
        "huge": np.array([uint64.max], np.uint64),
        "nothing": np.zeros((0, 3), np.float32),
        "mission": "aä€🚗ßc",
        "a/b~c": {"": np.int64(2)},
        "either": (np.int64(1), np.array([1, 0, 0, 1], np.int8)),
        "items": (
            ("ab", (np.int64(8), np.int64(0))),
            ("z", ()),
            ("Q9", (np.int64(7),)),
        ),
        "stacked": f32(0.5, -0.5, 1, -1, 0, 0.25, -0.25, 0.125).reshape(4, 2),
        "graph": spaces.GraphInstance(
            f32(1, -1, 0.5, 0).reshape(2, 2),
            np.array([4, 0, 2], np.int64),
            np.array([[0, 1], [1, 0], [1, 1]], np.int64),
        ),
        "links": spaces.GraphInstance(np.array([3, 1], np.int64), None, np.zeros((0, 2), np.int64)),
    }
    empty = full | {
        "mission": "",
        "either": (np.int64(0), np.int8(1)),
        "items": (),
        "stacked": np.zeros((0, 2), np.float32),
        "graph": spaces.GraphInstance(np.zeros((0, 2), np.float32), None, None),
        "links": spaces.GraphInstance(np.zeros((0,), np.int64), None, None),
    }
    session.reset(full, {}, seed=None)
    moves = (np.int16(-2), np.array([[1, 1], [10, 4]]), np.array([[0, 1], [1, 1]], np.int8))
    session.step(moves, empty, -0.0, {})
    return session.finish()


def vector_lanes() -> Case:
    """A session of groups with lanes; the fields are written one by one."""
    plain_env = describe_env(spaces.Box(-1, 1, (2,), np.float32), spaces.Discrete(3)).groups[0]
    carts = dataclasses.replace(plain_env, lanes=4, autoreset="same_step", name="carts")
    drones = Group(
        action={"type": "MultiBinary", "shape": [2]},
        observation=plain_env.observation,
        info={"hits": {"type": "Discrete", "dtype": "uint8", "n": 9, "start": 0}},
        lanes=2,
        agents=True,
        name="drones",
    )
    schema = Schema((carts, drones), EnvFacts(), request_body=32, reply_body=32)
    about = (
        "Two groups: four lanes of a vector environment (mask, same_step, final_observation), "
        "and two lanes for agents that come and go (agent_id 0: none). Values are given by field."
    )
    session = Session("vector_lanes", about, schema)
    positions = np.arange(8, dtype=np.float32).reshape(4, 2) / 8
    session.seq = 1
    reset = {
        "0:observation": positions,
        "1:agent_id": np.array([11, 0], np.uint64),
        "1:observation": f32(0.5, -0.5, 0, 0).reshape(2, 2),
        "1:info.hits#present": np.array([0, 0], np.uint8),
    }
    asked = {
        "seed": np.uint64(7),
        "seed#present": np.uint8(1),
        "0:mask": np.array([1, 1, 1, 1], np.uint8),
        "0:lane_seed": np.array([70, 0, 2**64 - 1, 0], np.uint64),
        "0:lane_seed#present": np.array([1, 0, 1, 0], np.uint8),
        "1:mask": np.array([1, 1], np.uint8),
    }
    put_fields(session, Command.RESET, asked, reset)
    session.seq = 2
    put_fields(
        session,
        Command.STEP,
        {
            "0:action": np.array([0, 1, 2, 0]),
            "0:mask": np.array([1, 1, 1, 0], np.uint8),
            "1:action": np.array([[0, 1], [0, 0]], np.int8),
            "1:mask": np.array([1, 0], np.uint8),
        },
        {
            "0:reward": np.array([1, -1, 0.5, 0], np.float64),
            "0:terminated": np.array([0, 1, 0, 0], np.uint8),
            "0:truncated": np.array([0, 0, 1, 0], np.uint8),
            "0:observation": np.where([[True], [True], [True], [False]], -positions, positions),
            "0:final_observation#present": np.array([0, 1, 1, 0], np.uint8),
            "0:final_observation": positions + 1,
            "1:reward": np.array([0.25, 0], np.float64),
            "1:terminated": np.array([0, 0], np.uint8),
            "1:truncated": np.array([0, 0], np.uint8),
            "1:agent_id": np.array([11, 12], np.uint64),
            "1:observation": f32(1, -1, 0.25, -0.25).reshape(2, 2),
            "1:info.hits#present": np.array([1, 0], np.uint8),
            "1:info.hits": np.array([8, 0], np.uint8),
        },
    )
    return session.finish()


def vector_env() -> Case:
    """A session with one group of lanes, as a vector environment has it; infos in the body."""
    schema = describe_env(
        spaces.Box(-1, 1, (2,), np.float32),
        spaces.Discrete(3),
        info_fields={"lap": "int64"},
        request_body=64,
        reply_body=192,
        lanes=3,
        autoreset="same_step",
    )
    about = (
        "Three lanes of a vector environment: a seed for each, infos by lane with final_info, "
        "a step of one lane only, and an error of one lane. Values are given by field."
    )
    session = Session("vector_env", about, schema)
    request, reply = compile_records(schema, session.layout, session.data)
    rows = np.arange(6, dtype=np.float32).reshape(3, 2) / 8
    names = ("mask", "lane_seed", "lane_seed#present", "action", "body")
    gives = ("reward", "terminated", "truncated", "observation", "info.lap#present", "info.lap")
    gives += ("final_observation#present", "final_observation", "body")

    def keep(command: Command, status: int = 0) -> None:
        session.exchange(
            command, status, said(RecordKind.REQUEST, names), said(RecordKind.REPLY, gives)
        )

    def said(kind: RecordKind, fields: tuple[str, ...]) -> dict[str, Any]:
        record = session.data[session.layout.record_slice(kind)]
        found = {}
        for name in fields:
            value = session.layout.find(kind, name).view(record)
            if name == "body":
                value = value[: PREFIX.unpack_from(record)[3]]
            found[name] = value.copy()
        return found

    session.seq = 1
    request.write_reset(1, LaneSeeds([7, None, 2**64 - 1]), {"level": 2})  # type: ignore[arg-type]
    reply.write_reset(1, LaneResults(range(3), list(rows)), {1: {"lap": 0}, 2: {"map": "a"}})
    keep(Command.RESET)
    session.seq = 2
    request.write_step(2, LaneActions(np.array([0, 1, 2])))
    results = LaneResults(range(3), list(-rows), {1: rows[1] + 0.5})
    infos: dict[int, dict[str, Any]] = {
        0: {"lap": -1, "fuel": 0.5},
        1: {"final_info": {"lap": 3, "won": True}},
    }
    flags = [False, True, False]
    reply.write_step(2, results, [1.0, -1.0, 0.0], flags, [False] * 3, infos)
    keep(Command.STEP)
    session.seq = 3
    request.write_step(3, LaneActions(np.array([1]), slice(None), np.array([2])))
    reply.write_step(3, LaneResults([2], [rows[2]]), [0.25], [False], [True], {})
    keep(Command.STEP)
    session.seq = 4
    request.write_step(4, LaneActions(np.array([0, 0, 0])))
    error = {"type": "ValueError", "message": "no", "traceback": "", "lane": 1}
    body = encode_body(error, capacity=schema.reply_body, what="error", setting="")
    record = session.data[session.layout.record_slice(RecordKind.REPLY)]
    start = session.layout.find(RecordKind.REPLY, "body").offset
    record[start : start + len(body)] = body
    PREFIX.pack_into(record, 0, 4, Command.STEP, c.STATUS_REMOTE, len(body), GENERATION)
    keep(Command.STEP, c.STATUS_REMOTE)
    return session.finish()


def field_of(layout: Layout, record: RecordKind, name: str) -> Any:
    """Return the field ``GROUP:NAME``, or ``NAME`` of the record as a whole."""
    group, colon, rest = name.partition(":")
    if not colon:
        return layout.find(record, name, c.WHOLE_RECORD)
    return layout.find(record, rest, int(group))


def put_fields(
    session: Session, command: Command, request: dict[str, Any], reply: dict[str, Any]
) -> None:
    for kind, values in ((RecordKind.REQUEST, request), (RecordKind.REPLY, reply)):
        record = session.data[session.layout.record_slice(kind)]
        for name, value in values.items():
            field_of(session.layout, kind, name).view(record)[...] = value
        PREFIX.pack_into(record, 0, session.seq, command, 0, 0, GENERATION)
    # Scalars are said as arrays of no dimension, as the fields are.
    request = {name: np.array(value) for name, value in request.items()}
    session.exchange(command, 0, request, reply)


VALID: tuple[Callable[[], Case], ...] = (
    cartpole_two_steps,
    dict_image,
    all_spaces,
    server_env_mode,
    rejected_hello,
    vector_lanes,
    vector_env,
    error_reply,
)
