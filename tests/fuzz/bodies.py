"""The body: MessagePack with extensions."""

from __future__ import annotations

import json
import struct

import msgspec
import numpy as np

from rlay.errors import RemoteProtocolError
from rlay.protocol.body import decode_body, encode_body
from tests.fuzz.contract import Target
from tests.fuzz.corpus import valid_cases
from tests.fuzz.mutations import mutate_bytes


def parse(data: bytes) -> None:
    """Decode a body; what it decodes to, the writer would write."""
    value = decode_body(data)
    encode_body(value, capacity=1 << 30, what="value", setting="")


def _ext(code: int, data: bytes) -> bytes:
    return msgspec.msgpack.encode(msgspec.msgpack.Ext(code, data))


def _nested(code: int, depth: int) -> bytes:
    data = b"\x90"
    for _ in range(depth):
        data = _ext(code, b"\x91" + data)
    return data


def _array(*parts: object) -> bytes:
    return _ext(1, msgspec.msgpack.encode(list(parts)))


#: Each needs one particular check.
HOSTILE = (
    b"\x91" * 60_000 + b"\x90",
    b"\x81\xa1a" * 20_000 + b"\xc0",
    _nested(3, 3000),
    b"\xdd\xff\xff\xff\xff",
    b"\xdf\xff\xff\xff\xff\xa1a",
    b"\xc6\xff\xff\xff\xffx",
    b"\xdb\xff\xff\xff\xffx",
    b"\xc9\xff\xff\xff\xff\x01x",
    _array("<f8", [2**32, 2**32], b""),
    _array("<f8", [0, 2**62, 2**62], b""),
    _array("<f8", [2**62] * 60, b""),
    _array("|S999999999", [0], b""),
    _array("<U999999999", [1], b""),
    _array("|S0", [2**40], b""),
    _array("<M8[99999999Y]", [1], b"\x01" * 8),
    _array("<m8", [1], b"\x01" * 8),
    _array("|b1", [1], b"\x02"),
    _array("<U1", [1], b"\xff" * 4),
    _ext(2, msgspec.msgpack.encode(["<U1", b"\xff" * 4])),
    _ext(2, msgspec.msgpack.encode(["<f8"])),
    _ext(4, b"\xff" * 60_000),
    b"\x81" + _ext(4, b"\x7f" * 2000) + b"\xc0",
    b"\x81" + _ext(3, b"\x90") + b"\xc0",
    b"\x82\xa1a\x01\xa1a\x02",
    b"\xd7\xff" + b"\xff" * 8,
    b"\xa2\xc3\x28",
    b"\xa3\xed\xa0\x80",
    b"\x81\xa3\xed\xa0\x80\xc0",
    struct.pack(">Bd", 0xCB, float("nan")),
)


def bodies() -> list[bytes]:
    """Return bodies with every type there is, and the hostile ones."""
    value = {
        "n": [None, True, -1, 2**64 - 1, 2**70, 1.5, float("nan"), 1j, "ß", b"\0"],
        "t": ((), (1, (2,))),
        "a": [np.arange(6, dtype="<i2").reshape(2, 3), np.zeros((0, 3)), np.array("ab")],
        3: {"x": np.float32(1), "d": np.datetime64(5, "ms"), "s": np.bytes_(b"q\0")},
    }
    texts = [json.loads(json.dumps(case.meaning["schema"])) for case in valid_cases().values()]
    good = [encode_body(v, capacity=1 << 20, what="", setting="") for v in (value, *texts[:2])]
    parts = [encode_body(v, capacity=1 << 20, what="", setting="") for v in value["n"] + value["a"]]
    return [*good, *parts, *HOSTILE]


TOKENS = (b"\x91", b"\xdd\xff\xff\xff\xff", b"\xdf\0\1\0\0", b"\xc7\x08\x04", b"\xc7\x05\x01")
TOKENS += (b"\xc7\x10\x05", b"\xd6\xff", b"\xc7\x0c\xff", b"\x81", b"\xa3<f8", b"\xc4\x08", b"\xc1")
BODY = Target(
    "body",
    parse,
    (RemoteProtocolError,),
    bodies,
    lambda data, chance: mutate_bytes(data, chance, TOKENS),
)
