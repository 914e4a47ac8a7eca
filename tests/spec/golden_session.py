"""A session that becomes a golden case: control file first, then exchange after exchange."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import numpy as np

from rlay.protocol import constants as c
from rlay.protocol.body import encode_body
from rlay.protocol.constants import Command, RecordKind, Role, Side, Welcome
from rlay.protocol.env_block import write_env_block
from rlay.protocol.header import Hello, write_fields
from rlay.protocol.prefix import PREFIX, stamp_session
from rlay.protocol.records import ReplyRecord, RequestRecord
from rlay.protocol.schema import Schema, compile_layout, fingerprint
from tests.spec.golden_text import plain

GENERATION = 0x0123456789ABCDEF


def f32(*values: float) -> np.ndarray:
    return np.array(values, np.float32)


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
