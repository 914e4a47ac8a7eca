"""The valid golden cases of groups with lanes."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
from gymnasium import spaces

from rlay.protocol import constants as c
from rlay.protocol.body import encode_body
from rlay.protocol.constants import Command, RecordKind
from rlay.protocol.lanes import LaneActions, LaneResults, LaneSeeds, compile_records
from rlay.protocol.layout import Layout
from rlay.protocol.prefix import PREFIX
from rlay.protocol.schema import EnvFacts, Group, Schema, describe_env
from tests.spec.golden_session import GENERATION, Case, Session, f32


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
