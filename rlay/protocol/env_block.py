"""The env block: schema, field table and sizes, as the env role wrote them (PROTOCOL.md §5)."""

from __future__ import annotations

from rlay.errors import ChannelFormatError, LayoutError, LayoutMismatchError
from rlay.protocol import constants as c
from rlay.protocol.header import read_field, write_fields
from rlay.protocol.layout import Layout, read_table
from rlay.protocol.schema import Schema, compile_layout, fingerprint, read_schema


def write_env_block(memory: memoryview, schema: Schema, layout: Layout) -> None:
    """Write schema and field table into a control file that is not published or handed over yet."""
    text, table = schema.to_json(), layout.pack_table()
    memory[c.FIELD_TABLE_OFFSET : c.FIELD_TABLE_OFFSET + len(table)] = table
    memory[c.SCHEMA_OFFSET : c.SCHEMA_OFFSET + len(text)] = text
    write_fields(
        memory,
        {
            "schema_size": len(text),
            "field_count": len(layout.fields),
            "fingerprint": fingerprint(text, table),
            "request_size": layout.request_size,
            "reply_size": layout.reply_size,
        },
    )


def _bounded(header: bytes, name: str, most: int, where: str) -> int:
    value: int = read_field(header, name)
    if value > most:
        raise ChannelFormatError(where, name, value, f"at most {most}")
    return value


def read_env_block(memory: memoryview, header: bytes, where: str) -> tuple[Schema, Layout]:
    """Read and check the peer's env block.

    Args:
        memory: the mapped control file; table and schema are copied from it once.
        header: the private copy of its header page.
        where: names the file in errors.

    Raises:
        ChannelFormatError: a size cannot be true.
        SchemaError: the schema is malformed.
        LayoutMismatchError: schema, field table and fingerprint do not say the same.
    """
    count = _bounded(header, "field_count", c.MAX_ROWS, where)
    size = _bounded(header, "schema_size", c.SCHEMA_CAPACITY, where)
    table = bytes(memory[c.FIELD_TABLE_OFFSET : c.FIELD_TABLE_OFFSET + count * c.ROW_SIZE])
    text = bytes(memory[c.SCHEMA_OFFSET : c.SCHEMA_OFFSET + size])
    found, expected = read_field(header, "fingerprint"), fingerprint(text, table)
    if found != expected:
        raise LayoutMismatchError(f"{where}: fingerprint is {found:#x}, expected {expected:#x}")
    layout = read_table(table, read_field(header, "request_size"), read_field(header, "reply_size"))
    schema = read_schema(text)
    try:
        ours = compile_layout(schema)
    except LayoutError as error:
        raise LayoutMismatchError(f"the schema cannot be laid out: {error}") from None
    if ours != layout:
        raise LayoutMismatchError(_first_row_that_differs(ours, layout))
    return schema, layout


def _first_row_that_differs(ours: Layout, theirs: Layout) -> str:
    for i, (a, b) in enumerate(zip(ours.fields, theirs.fields, strict=False)):
        if a != b:
            return f"field table row {i} is {b}, the schema gives {a}"
    return f"the field table has {len(theirs.fields)} rows, the schema gives {len(ours.fields)}"
