"""The env block: schema, field table, and both together with sizes and fingerprint."""

from __future__ import annotations

import json
import random
import struct

from rlay.envs.facts import spec_id
from rlay.errors import ChannelFormatError, LayoutError, LayoutMismatchError, SchemaError
from rlay.protocol import constants as c
from rlay.protocol.constants import RecordKind
from rlay.protocol.env_block import read_env_block
from rlay.protocol.header import HEADER, read_field, write_fields
from rlay.protocol.layout import ROW, Field, Layout, place, read_table
from rlay.protocol.schema import (
    Schema,
    compile_layout,
    fingerprint,
    first_difference,
    read_schema,
)
from rlay.protocol.spaces import capacities_of, space_from
from tests.fuzz.contract import Target
from tests.fuzz.corpus import golden_cases
from tests.fuzz.exchanges import read_everything
from tests.fuzz.mutations import EDGES, mutate_bytes, mutate_json

#: Spaces whose records are larger are not built: a user who wants them has the memory.
_LARGEST = 1 << 20
_SIZES = struct.Struct("<II")


def take_up(schema: Schema, layout: Layout) -> None:
    """Do what both endpoints do with a schema they have accepted."""
    assert first_difference(schema.to_dict(), schema.to_dict(), "schema") is None
    assert spec_id(schema.env, "channel")
    if layout.data_size > _LARGEST:
        return
    for group in schema.groups:
        for name in ("observation", "action"):
            description = getattr(group, name)
            assert space_from(description, name) is not None
            capacities_of(description, name)
    read_everything(schema, layout, bytearray(layout.data_size), 1)


def parse_schema(data: bytes) -> None:
    """Read a schema, write it again, and read values of zeros by it."""
    schema = read_schema(data)
    assert read_schema(schema.to_json()) == schema
    take_up(schema, compile_layout(schema))


def schema_text(control: bytes) -> bytes:
    """Return the schema in a control file."""
    size = min(read_field(control, "schema_size"), c.SCHEMA_CAPACITY)
    return control[c.SCHEMA_OFFSET : c.SCHEMA_OFFSET + size]


def table_rows(control: bytes) -> bytes:
    """Return the field table in a control file."""
    count = min(read_field(control, "field_count"), c.MAX_ROWS)
    return control[c.FIELD_TABLE_OFFSET : c.FIELD_TABLE_OFFSET + count * c.ROW_SIZE]


def _with(path: str, value: object) -> bytes:
    text = json.loads(schema_text(golden_cases()[0][0]))
    *parents, last = path.split("/")
    inner = text
    for key in parents:
        inner = inner[int(key) if key.isdecimal() else key]
    inner[last] = value
    return json.dumps(text).encode()


def _nested(depth: int) -> object:
    value: object = []
    for _ in range(depth):
        value = [value]
    return value


BIG = {"type": "Box", "dtype": "float64", "shape": [1 << 22], "low": 0, "high": 1}
NOTHING = {"type": "Sequence", "space": {"type": "Tuple", "spaces": []}, "stack": False}


def hostile() -> list[bytes]:
    """Return schemas that each need one particular check."""
    space = "groups/0/observation"
    return [
        _with(space, {"type": "Tuple", "spaces": [BIG] * 20}),
        _with(space, {"type": "Sequence", "space": BIG, "stack": True, "capacity": 0}),
        _with(space, {"type": "Graph", "node": BIG, "edge": None, "nodes": 0, "edges": 0}),
        _with(space, NOTHING | {"capacity": 2**32 - 1}),
        _with(space, {"type": "Dict", "spaces": [["k" * 90_000, NOTHING | {"capacity": 0}]]}),
        _with(space, {"type": "Text", "charset": "a", "min_length": 0, "max_length": 10**4200}),
        _with("groups/0/lanes", 2**32 - 1),
        _with("env/metadata", {"a": _nested(480)}),
        _with("env/id", "not an id-v" + "9" * 5000),
        _with(space, BIG),
    ]


def schemas() -> list[bytes]:
    """Return the golden schemas and the hostile ones."""
    return sorted({schema_text(control) for control, _ in golden_cases()}) + hostile()


def parse_table(data: bytes) -> None:
    """Read a table; where the sizes are 0, with the offsets and sizes that belong to its rows."""
    sizes, rows = data[:16].ljust(16, b"\0"), data[16 : 16 + 257 * c.ROW_SIZE]
    rows = rows[: len(rows) // c.ROW_SIZE * c.ROW_SIZE]
    request_size, reply_size = struct.unpack("<QQ", sizes)
    if not any(sizes):
        rows, request_size, reply_size = _placed(rows)
    layout = read_table(rows, request_size, reply_size)
    assert request_size + reply_size <= 2 * (c.MAX_RECORD + 4096)
    assert layout.data_size == request_size + reply_size + c.TAIL_SIZE


def _placed(rows: bytes) -> tuple[bytes, int, int]:
    """Return a table with the offsets that a layout gives, if there is one."""
    changed = bytearray(rows)
    try:
        layout = place(field for field in _fields(rows))
    except (LayoutError, ValueError, KeyError):
        return rows, 0, 0
    for i, field in enumerate(layout.fields):
        struct.pack_into("<QQ", changed, i * c.ROW_SIZE + 0xA0, field.offset, field.stride)
    return bytes(changed), layout.request_size, layout.reply_size


def _fields(rows: bytes) -> list[Field]:
    names = {code: name for name, code in c.DTYPE_CODES.items()}
    found = []
    for i in range(0, len(rows), c.ROW_SIZE):
        name, _, _, lanes, record, dtype, ndim, group, *shape = ROW.unpack_from(rows, i)
        text, kind = name.split(b"\0", 1)[0].decode(), RecordKind(record)
        found.append(Field(text, names[dtype], tuple(shape[:ndim]), kind, lanes, group))
    return found


def tables() -> list[bytes]:
    """Return the golden tables, with their sizes and without."""
    found = []
    for control, _ in golden_cases():
        sizes = control[HEADER["request_size"].offset :][:16]
        found += [sizes + table_rows(control), bytes(16) + table_rows(control)]
    return sorted(set(found))


def mutate_table(data: bytes, chance: random.Random) -> bytes:
    """Change one number of one row."""
    rows = (len(data) - 16) // c.ROW_SIZE
    if rows < 1 or chance.randrange(4) == 0:
        return mutate_bytes(data, chance)
    changed = bytearray(data)
    offset, size = chance.choice(
        ((0, 1), (0xB0, 4), (0xB4, 1), (0xB5, 1), (0xB6, 1), (0xB8, 2), (0xC0, 4), (0xC4, 4))
    )
    at = 16 + chance.randrange(rows) * c.ROW_SIZE + offset
    changed[at : at + size] = (chance.choice(EDGES) % (1 << 8 * size)).to_bytes(size, "little")
    return bytes(changed)


def parse_block(data: bytes) -> None:
    """Read an env block of a schema and a table; without a table, the one that belongs to it."""
    text_size, _ = _SIZES.unpack(data[: _SIZES.size].ljust(_SIZES.size, b"\0"))
    text = data[_SIZES.size :][:text_size][: c.SCHEMA_CAPACITY]
    table = data[_SIZES.size + text_size :][: c.FIELD_TABLE_SIZE]
    request_size = reply_size = 0
    if not table:
        layout = compile_layout(read_schema(text))
        request_size, reply_size, table = layout.request_size, layout.reply_size, b""
        table = layout.pack_table()
    else:
        table, request_size, reply_size = _placed(table[: len(table) // 256 * 256])
    memory = memoryview(bytearray(c.CONTROL_SIZE))
    memory[c.FIELD_TABLE_OFFSET :][: len(table)] = table
    memory[c.SCHEMA_OFFSET :][: len(text)] = text
    write_fields(
        memory,
        {
            "schema_size": text_size,
            "field_count": len(table) // c.ROW_SIZE,
            "fingerprint": fingerprint(text, table),
            "request_size": request_size,
            "reply_size": reply_size,
        },
    )
    take_up(*read_env_block(memory, bytes(memory[: c.HEADER_SIZE]), "here"))


def blocks() -> list[bytes]:
    """Return the golden blocks, with their table and without, and the hostile schemas."""
    found = []
    for control, _ in golden_cases():
        text = schema_text(control)
        found += [_SIZES.pack(len(text), 0) + text + rows for rows in (b"", table_rows(control))]
    found += [_SIZES.pack(len(text), 0) + text for text in hostile()]
    return [*sorted(set(found)), b"", _SIZES.pack(c.SCHEMA_CAPACITY + 1, 0)]


def mutate_block(data: bytes, chance: random.Random) -> bytes:
    """Change the schema by its structure, or any bytes."""
    size = _SIZES.unpack(data[: _SIZES.size].ljust(_SIZES.size, b"\0"))[0]
    text, table = data[_SIZES.size :][:size], data[_SIZES.size + size :]
    if chance.randrange(2):
        text = mutate_json(text, chance)
        return _SIZES.pack(len(text), 0) + text + table
    if table and chance.randrange(2):
        return _SIZES.pack(len(text), 0) + text + mutate_table(bytes(16) + table, chance)[16:]
    return mutate_bytes(data, chance)


SCHEMA = Target("schema", parse_schema, (LayoutError, LayoutMismatchError), schemas, mutate_json)
TABLE = Target("field_table", parse_table, (LayoutMismatchError,), tables, mutate_table)
BLOCK = Target(
    "env_block",
    parse_block,
    # A schema without its table is compiled by us first: then LayoutError is ours to see.
    (ChannelFormatError, LayoutMismatchError, SchemaError, LayoutError),
    blocks,
    mutate_block,
)
