"""Every number on the wire that is not an offset (PROTOCOL.md §4, §5, §8)."""

from __future__ import annotations

import enum

PROTOCOL_VERSION = 1

MAGIC = b"\x89RLAY\r\n\x1a"
ENDIAN_TAG = 0x01020304
HEADER_SIZE = 4096
CONTROL_SIZE = 262144
FIELD_TABLE_OFFSET = 0x1000
FIELD_TABLE_SIZE = 65536
SCHEMA_OFFSET = 0x11000
SCHEMA_CAPACITY = 192512

ROW_SIZE = 256
MAX_ROWS = FIELD_TABLE_SIZE // ROW_SIZE
MAX_NAME = 159
MAX_NDIM = 8
RECORD_ALIGNMENT = 4096
#: Bytes behind the records that nobody writes: the largest page of any system.
TAIL_SIZE = 65536
ARRAY_ALIGNMENT = 64
#: Bytes of a record, and so of a field, at most.
MAX_RECORD = 1 << 32
#: Elements without bytes in the Sequences around one another, at most; and the bytes of an
#: element in a Sequence or Graph without room for one.
MAX_EMPTY_ELEMENTS = 1 << 16
#: Objects and arrays inside one another in a schema, at most.
MAX_SCHEMA_DEPTH = 128
PREFIX_SIZE = 32
WHOLE_RECORD = 0xFFFF
NO_EDGES = 0xFFFFFFFF

FNV_OFFSET = 0xCBF29CE484222325
FNV_PRIME = 0x100000001B3


class Side(enum.IntEnum):
    """Who owns the channel; also the value of the turn word while that side may write."""

    SERVER = 1
    CLIENT = 2

    @property
    def peer(self) -> Side:
        """The other side."""
        return Side(3 - self)


TURN_IDLE = 0


class Role(enum.IntEnum):
    """Who makes observations, who makes actions."""

    ENV = 1
    AGENT = 2

    @property
    def peer(self) -> Role:
        """The other role."""
        return Role(3 - self)


class Bye(enum.IntEnum):
    """How a side said goodbye."""

    NONE = 0
    CLOSED = 1
    FAILED = 2


class Welcome(enum.IntEnum):
    """The server's answer to a hello."""

    NONE = 0
    ACCEPTED = 1
    REJECTED = 2


class Feature(enum.IntFlag):
    """What an endpoint offers beyond reset, step and close."""

    NONE = 0
    RENDER = 1
    CALL = 2


class Command(enum.IntEnum):
    """What a request asks; READY writes no record."""

    READY = 0
    RESET = 1
    STEP = 2
    RENDER = 3
    CALL = 4
    CLOSE = 5


class RecordKind(enum.IntEnum):
    """The two records of one exchange."""

    REQUEST = 1
    REPLY = 2


#: Reply status: the environment answered, or raised (then the body says what).
STATUS_OK = 0
STATUS_REMOTE = 16

#: Wire code of each dtype (PROTOCOL.md §8); bool is one byte, 0 or 1.
DTYPE_CODES = {
    "bool": 1,
    "int8": 2,
    "int16": 3,
    "int32": 4,
    "int64": 5,
    "uint8": 6,
    "uint16": 7,
    "uint32": 8,
    "uint64": 9,
    "float16": 10,
    "float32": 11,
    "float64": 12,
}

#: Names of Gymnasium's autoreset modes as the schema spells them.
AUTORESET_MODES = ("disabled", "next_step", "same_step")

DEFAULT_BODY_CAPACITY = 65536
