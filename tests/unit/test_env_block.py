from __future__ import annotations

import dataclasses
import struct
from typing import Any

import numpy as np
import pytest
from gymnasium import spaces

from rlay.errors import ChannelFormatError, LayoutMismatchError, SchemaError
from rlay.protocol import constants as c
from rlay.protocol.env_block import read_env_block, write_env_block
from rlay.protocol.header import HEADER, read_field, write_fields
from rlay.protocol.layout import Layout
from rlay.protocol.schema import (
    Schema,
    compile_layout,
    describe_env,
    fingerprint,
)

SCHEMA = describe_env(
    spaces.Dict({"x": spaces.Box(-1, 1, (3,), np.float32), "n": spaces.Discrete(4)}),
    spaces.Discrete(2),
    info_fields={"lap": "int64"},
)
LAYOUT = compile_layout(SCHEMA)


@pytest.fixture
def memory() -> memoryview:
    memory = memoryview(bytearray(c.CONTROL_SIZE))
    write_env_block(memory, SCHEMA, LAYOUT)
    return memory


def read(memory: memoryview) -> tuple[Schema, Layout]:
    return read_env_block(memory, bytes(memory[: c.HEADER_SIZE]), "here")


def sign(memory: memoryview) -> None:
    """Write the fingerprint that goes with what stands in the file."""
    header = bytes(memory[: c.HEADER_SIZE])
    size, count = read_field(header, "schema_size"), read_field(header, "field_count")
    text = bytes(memory[c.SCHEMA_OFFSET : c.SCHEMA_OFFSET + size])
    table = bytes(memory[c.FIELD_TABLE_OFFSET : c.FIELD_TABLE_OFFSET + count * c.ROW_SIZE])
    write_fields(memory, {"fingerprint": fingerprint(text, table)})


def write_schema(memory: memoryview, text: bytes) -> None:
    memory[c.SCHEMA_OFFSET : c.SCHEMA_OFFSET + len(text)] = text
    write_fields(memory, {"schema_size": len(text)})
    sign(memory)


def test_round_trip(memory: memoryview) -> None:
    schema, layout = read(memory)
    assert schema == SCHEMA
    assert layout == LAYOUT


def test_lanes_and_groups_travel() -> None:
    group = SCHEMA.groups[0]
    groups = (
        dataclasses.replace(group, lanes=4, autoreset="same_step"),
        dataclasses.replace(group, lanes=2, agents=True, autoreset="next_step", name="b"),
    )
    schema = Schema(groups)
    memory = memoryview(bytearray(c.CONTROL_SIZE))
    write_env_block(memory, schema, compile_layout(schema))
    assert read(memory) == (schema, compile_layout(schema))


def test_nothing_outside_the_block_is_written(memory: memoryview) -> None:
    blank = bytearray(memory)
    for name in ("schema_size", "field_count", "fingerprint", "request_size", "reply_size"):
        field = HEADER[name]
        blank[field.offset : field.offset + field.size] = bytes(field.size)
    for name in ("field_table", "schema"):
        field = HEADER[name]
        blank[field.offset : field.offset + field.size] = bytes(field.size)
    assert not any(blank)


@pytest.mark.parametrize(
    ("field", "most"), [("field_count", c.MAX_ROWS), ("schema_size", c.SCHEMA_CAPACITY)]
)
@pytest.mark.parametrize("beyond", [1, 2**31])
def test_sizes_are_checked_before_they_are_used(
    memory: memoryview, field: str, most: int, beyond: int
) -> None:
    write_fields(memory, {field: most + beyond})
    with pytest.raises(ChannelFormatError, match=f"here: {field} is .* at most {most}") as caught:
        read(memory)
    assert caught.value.found == most + beyond


@pytest.mark.parametrize("where", [c.SCHEMA_OFFSET + 9, c.FIELD_TABLE_OFFSET + 0xBA])
def test_one_changed_byte_is_noticed(memory: memoryview, where: int) -> None:
    memory[where] ^= 1
    with pytest.raises(LayoutMismatchError, match=r"here: fingerprint is 0x.*, expected 0x"):
        read(memory)


def test_the_header_is_read_from_the_copy(memory: memoryview) -> None:
    header = bytes(memory[: c.HEADER_SIZE])
    memory[: c.HEADER_SIZE] = b"\xff" * c.HEADER_SIZE
    assert read_env_block(memory, header, "here") == (SCHEMA, LAYOUT)


@pytest.mark.parametrize("text", [b"", b"[]", b"{", SCHEMA.to_json() + b" x", b"\xff"])
def test_a_malformed_schema(memory: memoryview, text: bytes) -> None:
    write_schema(memory, text)
    with pytest.raises(SchemaError):
        read(memory)


def test_a_schema_that_gives_another_row(memory: memoryview) -> None:
    write_schema(memory, SCHEMA.to_json().replace(b'"float32"', b'"float64"'))
    with pytest.raises(LayoutMismatchError) as caught:
        read(memory)
    assert "field table row 8 is" in caught.value.first_difference
    assert "'float32'" in caught.value.first_difference
    assert "'float64'" in caught.value.first_difference


def test_a_schema_that_gives_more_rows(memory: memoryview) -> None:
    more = SCHEMA.to_json().replace(
        b'"info":{', b'"info":{"zap":{"shape":[1],"type":"MultiBinary"},'
    )
    write_schema(memory, more)
    with pytest.raises(LayoutMismatchError, match=r"field table row|rows"):
        read(memory)


def test_a_table_cut_short_at_its_end(memory: memoryview) -> None:
    write_fields(memory, {"field_count": len(LAYOUT.fields) - 1})
    sign(memory)
    with pytest.raises(LayoutMismatchError, match=r"record sizes|has 12 rows"):
        read(memory)


def test_fewer_rows_of_the_same_record_sizes() -> None:
    schema = dataclasses.replace(SCHEMA, reply_body=0)
    layout = compile_layout(schema)
    memory = memoryview(bytearray(c.CONTROL_SIZE))
    write_env_block(memory, schema, layout)
    write_fields(memory, {"field_count": len(layout.fields) - 1})
    sign(memory)
    with pytest.raises(
        LayoutMismatchError,
        match=f"has {len(layout.fields) - 1} rows, the schema gives {len(layout.fields)}",
    ):
        read(memory)


@pytest.mark.parametrize(
    "space",
    [
        {"type": "Box", "dtype": "int8", "shape": [1] * 9, "low": 0, "high": 1},
        {"type": "Text", "charset": "a", "min_length": 0, "max_length": 2**32 - 64},
        {"type": "Dict", "spaces": [["k" * 150, {"type": "MultiBinary", "shape": [1]}]]},
        {"type": "Dict", "spaces": [["k\0", {"type": "MultiBinary", "shape": [1]}]]},
        {"type": "Tuple", "spaces": [{"type": "MultiBinary", "shape": [1]}] * 300},
    ],
    ids=["dimensions", "size", "name", "nul", "rows"],
)
def test_a_schema_that_cannot_be_laid_out(memory: memoryview, space: dict[str, Any]) -> None:
    group = dataclasses.replace(SCHEMA.groups[0], observation=space)
    write_schema(memory, dataclasses.replace(SCHEMA, groups=(group,)).to_json())
    with pytest.raises(LayoutMismatchError, match="the schema cannot be laid out"):
        read(memory)


def test_a_lone_surrogate_from_the_peer(memory: memoryview) -> None:
    write_schema(memory, SCHEMA.to_json().replace(b'"x"', b'"\\ud800"'))
    with pytest.raises(SchemaError, match="surrogates not allowed"):
        read(memory)


def test_record_sizes_in_the_header(memory: memoryview) -> None:
    struct.pack_into("<Q", memory, HEADER["request_size"].offset, 2**64 - 1)
    with pytest.raises(LayoutMismatchError, match="record sizes 18446744073709551615"):
        read(memory)
