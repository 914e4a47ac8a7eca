"""The invalid golden cases: a valid case and one change each, named after its fault."""

from __future__ import annotations

import dataclasses
import json
import struct
from typing import Any

from rlay.protocol import constants as c
from rlay.protocol.constants import RecordKind
from rlay.protocol.header import HEADER, HELLO
from rlay.protocol.schema import compile_layout, fingerprint, read_schema
from tests.spec.golden_session import Case


@dataclasses.dataclass(frozen=True)
class Change:
    """Bytes of a valid file, and what stands there instead."""

    file: str
    offset: int
    was: bytes
    now: bytes


@dataclasses.dataclass(frozen=True)
class Fault:
    """One fault: in which case, who finds it where, and what it is called."""

    name: str
    about: str
    source: str
    fails_at: str
    error: str
    code: int
    changes: tuple[Change, ...] = ()
    control_size: int = c.CONTROL_SIZE


def apply(fault: Fault, case: Case, *, repair: bool = False) -> tuple[bytes, list[bytes]]:
    """Return control and data files with the fault; ``repair`` takes it back again."""
    files = {"control": bytearray(case.control)}
    files |= {f"data{i + 1}": bytearray(data) for i, data in enumerate(case.data)}
    for change in fault.changes:
        here = slice(change.offset, change.offset + len(change.was))
        files[change.file][here] = change.was if repair else change.now
    size = c.CONTROL_SIZE if repair else fault.control_size
    control = bytes(files.pop("control"))[:size].ljust(size, b"\0")
    return control, [bytes(data) for data in files.values()]


class Faults:
    """Makes the faults of the valid cases."""

    def __init__(self, cases: dict[str, Case]) -> None:
        self.cases = cases
        self.found: list[Fault] = []

    def add(self, name: str, about: str, error: str, code: int, **facts: Any) -> None:
        self.found.append(Fault(name, about, error=error, code=code, **facts))

    def change(self, source: str, file: str, offset: int, now: bytes) -> Change:
        case = self.cases[source]
        data = case.control if file == "control" else case.data[int(file.removeprefix("data")) - 1]
        was = data[offset : offset + len(now)]
        assert was != now, f"{source}: no change at {offset:#x}"
        return Change(file, offset, was, now)

    def header(
        self,
        name: str,
        about: str,
        field: str,
        now: int | bytes,
        error: tuple[str, int] = ("ChannelFormatError", 8),
        *,
        at: str = "identity",
        source: str = "cartpole_two_steps",
    ) -> None:
        """A header field, or ``SIDE_hello.FIELD``, that holds something else."""
        hello_name, dot, part = field.partition(".")
        row = HELLO[part] if dot else HEADER[field]
        offset = row.offset + (HEADER[hello_name].offset if dot else 0)
        data = now if isinstance(now, bytes) else now.to_bytes(row.size, "little")
        change = self.change(source, "control", offset, data)
        self.add(name, about, *error, source=source, fails_at=at, changes=(change,))

    def block(
        self,
        name: str,
        about: str,
        offset: int,
        now: bytes,
        error: tuple[str, int] = ("LayoutMismatchError", 10),
        *,
        source: str = "cartpole_two_steps",
    ) -> None:
        """Bytes of schema or field table, with the fingerprint that goes with them."""
        changes = self.signed(source, {offset: now})
        self.add(name, about, *error, source=source, fails_at="env_block", changes=changes)

    def signed(self, source: str, bytes_at: dict[int, bytes]) -> tuple[Change, ...]:
        """Changes of the control file, and of the fingerprint that goes with them."""
        control = bytearray(self.cases[source].control)
        for offset, now in bytes_at.items():
            control[offset : offset + len(now)] = now
        count, size = (
            struct.unpack_from("<I", control, HEADER[f].offset)[0]
            for f in ("field_count", "schema_size")
        )
        text = bytes(control[c.SCHEMA_OFFSET : c.SCHEMA_OFFSET + size])
        table = bytes(control[c.FIELD_TABLE_OFFSET : c.FIELD_TABLE_OFFSET + count * c.ROW_SIZE])
        print_now = fingerprint(text, table).to_bytes(8, "little")
        bytes_at = {**bytes_at, HEADER["fingerprint"].offset: print_now}
        return tuple(self.change(source, "control", *where) for where in bytes_at.items())

    def schema(self, name: str, about: str, was: str, now: str, **facts: Any) -> None:
        """A text of the same length in the schema."""
        control = self.cases[facts.get("source", "cartpole_two_steps")].control
        start = control.index(was.encode(), c.SCHEMA_OFFSET)
        assert len(was.encode()) == len(now.encode())
        facts.setdefault("error", ("SchemaError", 3))
        self.block(name, about, start, now.encode(), **facts)

    def row(self, name: str, about: str, number: int, offset: int, now: bytes) -> None:
        """Bytes of one row of the field table."""
        self.block(name, about, c.FIELD_TABLE_OFFSET + number * c.ROW_SIZE + offset, now)

    def record(
        self,
        name: str,
        about: str,
        at: str,
        offset: int,
        now: bytes,
        error: tuple[str, int] = ("RemoteProtocolError", 14),
        *,
        source: str = "cartpole_two_steps",
        exchange: int = 0,
    ) -> None:
        """Bytes of a record; ``at`` is ``request N``, ``reply N`` or ``session``."""
        meaning = self.cases[source].meaning
        kind, _, number = at.partition(" ")
        file = f"data{exchange or number}"
        start = meaning["env_block"]["request_size"] if kind == "reply" else 0
        change = self.change(source, file, start + offset, now)
        self.add(name, about, *error, source=source, fails_at=at, changes=(change,))

    def field(self, name: str, about: str, at: str, field: str, now: bytes, source: str) -> None:
        """Bytes at the beginning of a named field of a record."""
        schema = self.cases[source].meaning["schema"]
        kind = RecordKind.REQUEST if at.startswith("request") else RecordKind.REPLY
        layout = compile_layout(read_schema(json.dumps(schema).encode()))
        self.record(name, about, at, layout.find(kind, field).offset, now, source=source)


def u16(value: int) -> bytes:
    return value.to_bytes(2, "little")


def u32(value: int) -> bytes:
    return value.to_bytes(4, "little")


def u64(value: int) -> bytes:
    return value.to_bytes(8, "little")


#: Offsets in a record's prefix (PROTOCOL.md §7) and in a row (§8.1).
SEQ, COMMAND, STATUS, BODY_SIZE, SESSION = 0x00, 0x08, 0x0C, 0x10, 0x18
NAME, OFFSET, STRIDE, LANES, RECORD, DTYPE, NDIM = 0x00, 0xA0, 0xA8, 0xB0, 0xB4, 0xB5, 0xB6
GROUP, SHAPE = 0xB8, 0xC0
BODY = 64  # of CartPole's records


def header_faults(faults: Faults) -> None:
    add = faults.header
    add("bad_magic", "The magic begins with 0x88.", "magic", b"\x88RLAY\r\n\x1a")
    add("wrong_endian_tag", "The tag reads 0x04030201.", "endian_tag", 0x04030201)
    add("header_size_lies", "header_size is 8192.", "header_size", 8192)
    add("control_size_lies", "control_size is 262145.", "control_size", 262145)
    faults.add(
        "truncated_file",
        "The control file is 4096 bytes long.",
        "ChannelFormatError",
        8,
        source="cartpole_two_steps",
        fails_at="identity",
        control_size=4096,
    )
    add("zero_generation", "The generation is 0.", "generation", 0)
    add("role_out_of_range", "The server's role is 3.", "server_hello.role", 3, at="hello")
    add("same_roles", "Client and server are both ENV.", "client_hello.role", 1, at="hello")
    add(
        "protocol_range_reversed",
        "The server's lowest version is 2, its highest 1.",
        "server_hello.protocol_min",
        2,
        at="hello",
    )
    add("protocol_zero", "protocol_min is 0.", "server_hello.protocol_min", 0, at="hello")
    add(
        "protocol_too_new",
        "The server speaks versions 2 to 3 only.",
        "server_hello.protocol_min",
        u16(2) + u16(3),
        ("ProtocolVersionError", 9),
        at="hello",
    )
    block = {"at": "env_block"}
    add("schema_size_beyond_capacity", "192513 bytes.", "schema_size", 192513, **block)
    add("field_count_beyond_capacity", "257 rows.", "field_count", 257, **block)
    mismatch = ("LayoutMismatchError", 10)
    add("fingerprint_wrong", "The fingerprint is 0.", "fingerprint", 0, mismatch, **block)
    add("request_size_wrong", "4096 too many.", "request_size", 73728, mismatch, **block)
    add("reply_size_wrong", "4096 too few.", "reply_size", 65536, mismatch, **block)


def table_faults(faults: Faults) -> None:
    add = faults.row
    add("row_offset_wrong", "`action` is said to lie at 56.", 2, OFFSET, u64(56))
    add("row_stride_wrong", "`action` is said to take 4 bytes.", 2, STRIDE, u64(4))
    add("row_lanes_wrong", "`seed` has a lane.", 0, LANES, u32(1))
    add("row_record_unknown", "`action` is in record 3.", 2, RECORD, b"\x03")
    add("row_dtype_unknown", "`action` has dtype code 13.", 2, DTYPE, b"\x0d")
    add("row_ndim_too_large", "`observation` has 9 dimensions.", 7, NDIM, b"\x09")
    add("row_group_wrong", "`action` is of group 1.", 2, GROUP, u16(1))
    add("row_shape_too_large", "`observation` has 2^32 - 1 elements.", 7, SHAPE, u32(2**32 - 1))
    add("row_name_not_utf8", "`action` begins with 0xFF.", 2, NAME, b"\xff")
    add("row_name_empty", "`action` has no name.", 2, NAME, b"\0")
    add(
        "row_name_unterminated",
        "`action` has a name of 160 bytes.",
        2,
        NAME,
        b"action" + b"x" * 154,
    )
    faults.add(
        "record_too_large",
        "The reply's body makes the record larger than 2^32 bytes.",
        "LayoutMismatchError",
        10,
        source="cartpole_two_steps",
        fails_at="env_block",
        changes=faults.signed(
            "cartpole_two_steps",
            {
                c.FIELD_TABLE_OFFSET + 8 * c.ROW_SIZE + STRIDE: u64(2**32 - 32),
                c.FIELD_TABLE_OFFSET + 8 * c.ROW_SIZE + SHAPE: u32(2**32 - 32),
                HEADER["reply_size"].offset: u64(2**32 + 4096),
            },
        ),
    )
    add("rows_duplicate_name", "`truncated` is called `terminated`.", 6, NAME, b"terminated")


def schema_faults(faults: Faults) -> None:
    add = faults.schema
    add("schema_not_json", "It begins with `[`.", '{"body"', '["body"')
    add("schema_version_unknown", "Its format is 2.", '"schema":1', '"schema":2')
    add("schema_key_missing", "`lanes` is called `laned`.", '"lanes"', '"laned"')
    add("schema_space_unknown", "A space of type `Discreet`.", '"Discrete"', '"Discreet"')
    add("schema_dtype_unknown", "The action is `int63`.", '"int64"', '"int63"')
    add("schema_autoreset_unknown", "The mode is `disablez`.", '"disabled"', '"disablez"')
    add("schema_agents_no_bool", "`agents` is a number.", "false", "1e000")
    add("schema_number_infinite", "reward_threshold is 1e999.", "475.0", "1e999")
    add("schema_lone_surrogate", "The group's name is half a pair.", '"default"', '"\\ud800x"')
    add("schema_number_nan", "reward_threshold is NaN.", "475.0", "  NaN")
    add(
        "schema_key_twice",
        "`body` holds `reply` twice.",
        '"request":65536}',
        '"reply"  :65536}',
    )
    add("schema_bound_out_of_range", "A uint8 ends at 2.5.", "255", "2.5", source="dict_image")
    add(
        "schema_stack_no_bool",
        "`stack` is 3.",
        '"stack":false',
        '"stack":3    ',
        source="all_spaces",
    )
    tuple_ = '[{"dtype":"int16","n":5,"start":-2,"type":"Discrete"}'
    rest = ',{"dtype":"int64","nvec":[2,3,4,5],"shape":[2,2],"start":[0,-1,7,0],'
    rest += '"type":"MultiDiscrete"},{"shape":[2,2],"type":"MultiBinary"}]'
    text = '""'.ljust(len(tuple_ + rest))
    add("schema_spaces_no_list", "A Tuple of ``.", tuple_ + rest, text, source="all_spaces")
    was = '[["half",{"dtype":"float16","high":"inf","low":"-inf","shape":[3],"type":"Box"}],'
    was += '["single",{"dtype":"float32","high":"inf","low":"-inf","shape":[2,2],"type":"Box"}],'
    was += '["double",{"dtype":"float64","high":"inf","low":"-inf","shape":[],"type":"Box"}],'
    was += '["flags",{"dtype":"bool","high":true,"low":false,"shape":[3],"type":"Box"}]'
    deep = ("[" * 130 + "]" * 130 + ",0").ljust(len(was))
    add("schema_too_deep", "130 lists in one another.", was, "[" + deep[:-1], source="all_spaces")
    add("schema_bounds_reversed", "The lowest angle is above the highest.", "-0.418", "90.418")
    add(
        "schema_and_table_disagree",
        "The schema's action is `int32`, the row's is int64.",
        '"int64"',
        '"int32"',
        error=("LayoutMismatchError", 10),
    )


def record_faults(faults: Faults) -> None:
    add = faults.record
    add(
        "data_session_wrong",
        "At attach the data file's request record is of session 1.",
        "session",
        SESSION,
        u64(1),
        ("ChannelFormatError", 8),
        exchange=1,
    )
    add("request_seq_wrong", "The second request has seq 3.", "request 2", SEQ, u64(3))
    add("request_session_wrong", "Another session.", "request 2", SESSION, u64(1))
    add("request_command_unknown", "Command 9.", "request 2", COMMAND, u32(9))
    add("request_command_ready", "Command 0.", "request 2", COMMAND, u32(0))
    add("request_status_not_zero", "A request of status 16.", "request 2", STATUS, u32(16))
    add("request_body_size_beyond_capacity", "65537.", "request 2", BODY_SIZE, u32(65537))
    add("reply_seq_wrong", "The second reply has seq 1.", "reply 2", SEQ, u64(1))
    add("reply_session_wrong", "Another session.", "reply 2", SESSION, u64(1))
    add("reply_command_wrong", "A RESET's reply to a STEP.", "reply 2", COMMAND, u32(1))
    add("reply_status_unknown", "Status 7.", "reply 2", STATUS, u32(7))
    add("reply_body_size_beyond_capacity", "2^32 - 1.", "reply 2", BODY_SIZE, u32(2**32 - 1))
    add("body_not_msgpack", "The body begins with 0xC1.", "reply 3", BODY, b"\xc1")
    add("body_too_short", "The body's last byte is left out.", "reply 3", BODY_SIZE, u32(7))
    add("body_too_long", "A byte follows the value.", "reply 3", BODY_SIZE, u32(9))
    add("body_not_a_map", "Info is the list `['lives', 3]`.", "reply 3", BODY, b"\x92")
    long = u32(2**32 - 1)
    add("body_text_beyond_end", "A key of 2^32 - 1 bytes.", "reply 3", BODY, b"\x81\xdb" + long)
    add("body_map_beyond_end", "A map of 2^32 - 1 pairs.", "reply 3", BODY, b"\xdf" + long)
    add("body_extension_unknown", "Extension type 99.", "reply 3", BODY, b"\xc7\x05\x63")
    place = {"source": "error_reply"}
    add("error_not_a_map", "Status 16 with a list.", "reply 2", BODY, b"\x96", **place)
    put = faults.field
    frame = u32(9) + u32(9) + u32(3)
    put("frame_shape_beyond_field", "9x9x3.", "reply 3", "frame#shape", frame, "dict_image")
    put("frame_shape_overflows", "Each 2^32 - 1.", "reply 3", "frame#shape", long * 3, "dict_image")
    frame = u32(0) + u32(2**32 - 1) + u32(2**32 - 1)
    put("frame_dimension_too_large", "0 high.", "reply 3", "frame#shape", frame, "dict_image")
    for name, about, field, now in (
        ("text_length_beyond_capacity", "25 of 24 bytes.", "mission#length", u32(25)),
        ("text_not_utf8", "The text begins with 0xFF.", "mission", b"\xff"),
        ("one_of_index_beyond_spaces", "Index 2 of 2.", "either#index", u32(2)),
        ("sequence_length_beyond_capacity", "4 of 3.", "items#length", u32(4)),
        ("inner_length_beyond_capacity", "2^32 - 1 of 2.", "items/*/1#length", u32(2**32 - 1)),
        ("graph_nodes_beyond_capacity", "4 of 3.", "graph#nodes", u32(4)),
        ("graph_edges_beyond_capacity", "2^32 - 2 of 4.", "graph#edges", u32(2**32 - 2)),
    ):
        put(name, about, "reply 1", f"observation/{field}", now, "all_spaces")


def all_faults(cases: dict[str, Case]) -> list[Fault]:
    faults = Faults(cases)
    for make in (header_faults, table_faults, schema_faults, record_faults):
        make(faults)
    return faults.found
