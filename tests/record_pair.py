"""Both records over one data file, as both sides compile them."""

from __future__ import annotations

import struct
from typing import Any

import numpy as np
from gymnasium import spaces

from rlay.protocol.constants import RecordKind
from rlay.protocol.layout import Layout
from rlay.protocol.prefix import PREFIX, stamp_session
from rlay.protocol.records import ReplyRecord, RequestRecord
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
