from __future__ import annotations

import struct

import numpy as np
import pytest

from rlay.errors import LayoutError, LayoutMismatchError
from rlay.protocol import constants as c
from rlay.protocol.constants import RecordKind
from rlay.protocol.layout import ROW, Field, Layout, place, read_table

REQUEST, REPLY = RecordKind.REQUEST, RecordKind.REPLY


def field(name: str = "a", dtype: str = "uint8", *shape: int, lanes: int = 0) -> Field:
    return Field(name, dtype, shape, REQUEST, lanes, 0)


def read_back(layout: Layout) -> Layout:
    return read_table(layout.pack_table(), layout.request_size, layout.reply_size)


def test_offsets_by_the_numbered_steps() -> None:
    rows = [
        field("byte"),
        field("word", "uint16"),
        field("small", "uint8", 63),
        field("array", "uint8", 64),
        field("double", "float64"),
        field("lanes", "float32", 2, lanes=8),
        field("empty", "float64", 0, 3),
        Field("first of the reply", "int8", (), REPLY),
    ]
    layout = place(rows)
    assert [f.offset for f in layout.fields] == [32, 34, 36, 128, 192, 256, 320, 32]
    assert (layout.request_size, layout.reply_size, layout.data_size) == (4096, 4096, 73728)


@pytest.mark.parametrize(("count", "size"), [(4064, 4096), (4065, 8192), (0, 4096)])
def test_records_are_whole_pages(count: int, size: int) -> None:
    # 4096 - 32 bytes would fit, but large arrays begin at a multiple of 64.
    layout = place([field("a", "uint8", count)])
    end = layout.fields[0].offset + count
    assert layout.request_size == -(-end // 4096) * 4096
    assert layout.request_size in (size, 8192)


def test_sizes_and_shapes_of_lanes() -> None:
    lanes = field("a", "float32", 2, 3, lanes=4)
    assert (lanes.stride, lanes.size, lanes.full_shape) == (24, 96, (4, 2, 3))
    one = field("a", "float32", lanes=1)
    assert (one.stride, one.size, one.full_shape) == (4, 4, (1,))
    plain = field("a", "float32", 2)
    assert (plain.stride, plain.size, plain.full_shape) == (8, 8, (2,))


def test_a_view_is_the_memory() -> None:
    layout = place([field("byte"), field("a", "int16", 2, lanes=3)])
    memory = memoryview(bytearray(layout.request_size))
    view = layout.find(REQUEST, "a").view(memory)
    view[2, 1] = 0x0201
    start = layout.fields[1].offset
    assert bytes(memory[start + 10 : start + 12]) == b"\x01\x02"
    assert view.shape == (3, 2)


def test_records_are_one_behind_the_other() -> None:
    layout = place([field("a", "uint8", 5000), Field("b", "uint8", (), REPLY)])
    assert layout.record_slice(REQUEST) == slice(0, 8192)
    assert layout.record_slice(REPLY) == slice(8192, 8192 + 4096)
    assert [f.name for f in layout.of(REPLY)] == ["b"]


def test_find_by_record_name_and_group() -> None:
    layout = place(
        [field("a"), Field("a", "int8", (), REQUEST, 0, 1), Field("a", "int16", (), REPLY)]
    )
    assert layout.find(REQUEST, "a").dtype == "uint8"
    assert layout.find(REQUEST, "a", 1).dtype == "int8"
    assert layout.find(REPLY, "a").dtype == "int16"
    with pytest.raises(KeyError, match="no field 'b' in the reply record"):
        layout.find(REPLY, "b")
    with pytest.raises(KeyError):
        layout.find(REQUEST, "a", 2)


def test_the_bytes_of_a_row() -> None:
    row = Field("ä", "float16", (2, 3), REPLY, 5, 0x0102, 0x0A).pack()
    assert row[:3] == b"\xc3\xa4\0"
    assert row[0xA0:0xB0] == struct.pack("<QQ", 0x0A, 12)
    assert row[0xB0:0xBA] == b"\x05\0\0\0" + b"\x02\x0a\x02\0" + b"\x02\x01"
    assert row[0xC0:0xC8] == struct.pack("<II", 2, 3)
    assert not any(row[0xC8:])
    assert len(row) == 256


@pytest.mark.parametrize("dtype", c.DTYPE_CODES)
def test_every_dtype_travels(dtype: str) -> None:
    layout = place([field("a", dtype, 3, lanes=2), Field("b", dtype, (), REPLY)])
    assert read_back(layout) == layout


def test_a_table_at_its_limits() -> None:
    rows = [field("n" * 159), field("d", "uint8", *[1] * 8), field("lanes", lanes=2**31)]
    rows += [field("e", "uint8", 0, 2**32 - 1), field("t", "uint8", 2**15, 2**15)]
    rows += [field(f"{i}") for i in range(c.MAX_ROWS - len(rows))]
    layout = place(rows)
    assert len(layout.pack_table()) == c.FIELD_TABLE_SIZE
    assert read_back(layout) == layout


def test_no_rows_at_all() -> None:
    assert place([]) == Layout((), 4096, 4096) == read_table(b"", 4096, 4096)


@pytest.mark.parametrize(
    ("rows", "text"),
    [
        ([field("n" * 160)], "takes more than 159 bytes; shorten the keys"),
        ([field("ß" * 80)], "takes more than 159 bytes"),
        ([field("a\0b")], "holds a NUL; rename the key"),
        ([field("a\ud800")], "lone surrogate; rename the key"),
        ([field("a", "uint8", *[1] * 9)], "a: 9 dimensions, at most 8 .* flatten the space"),
        ([field("a", "uint8", 2**32)], "a: shape .* is too large"),
        ([field("a", "uint8", 0, 2**32)], "a: shape .* is too large"),
        ([field("a", lanes=2**32)], "a: shape .* is too large"),
        ([field("a", "float64", 2**38)], "a: shape .* is too large"),
        ([field("a", "uint8", 2**16, 2**16, lanes=2)], "a: shape .* is too large"),
        ([field("a", "uint8", 2**32 - 32), field("b")], "a: the request record would be larger"),
        ([field("a"), field("a", "int8")], "two fields are called 'a'; rename"),
        ([field(f"{i}") for i in range(257)], "make 257 fields and a channel holds 256"),
    ],
)
def test_what_no_record_can_hold(rows: list[Field], text: str) -> None:
    with pytest.raises(LayoutError, match=text):
        place(rows)


def test_the_same_name_in_other_groups_and_records() -> None:
    rows = [field("a"), Field("a", "int8", (), REQUEST, 0, 1), Field("a", "int8", (), REPLY, 0, 0)]
    assert len(place(rows).fields) == 3


LAYOUT = place([field("a", "int32", 4), field("b", "uint8", 2), Field("c", "bool", (), REPLY)])


def changed(offset: int, data: bytes) -> bytes:
    table = bytearray(LAYOUT.pack_table())
    table[offset : offset + len(data)] = data
    return bytes(table)


@pytest.mark.parametrize(
    ("table", "text"),
    [
        (changed(0xA0, b"\x40"), "field 'a': offset 64 and stride 16, expected 32 and 16"),
        (changed(0xA8, b"\x11"), "field 'a': offset 32 and stride 17, expected 32 and 16"),
        (changed(0xA0, b"\xff" * 16), "field 'a': offset 18446744073709551615"),
        (changed(0xB0, b"\x02"), "field 'b': offset 48 and stride 2, expected 64 and 2"),
        (changed(0xB4, b"\x00"), "row 0: record 0, expected 1 or 2"),
        (changed(0xB4, b"\x03"), "row 0: record 3, expected 1 or 2"),
        (changed(0x1B5, b"\x00"), "row 1: dtype code 0 is unknown"),
        (changed(0x1B5, b"\x0d"), "row 1: dtype code 13 is unknown"),
        (changed(0xB6, b"\x09"), "row 0: 9 dimensions, at most 8"),
        (changed(0x00, b"\xff"), "row 0: the name is not UTF-8"),
        (changed(0x100, b"a"), "field table: two fields are called 'a'"),
        (changed(0xC0, b"\xff" * 4), "field table: a: shape .* too large"),
        (changed(0xB0, b"\xff" * 4), "field table: a: shape .* too large"),
        (changed(0xC0, b"\xe0\xff\xff\x0f"), "field 'a': offset 32 and stride 16, expected 64"),
        (changed(0x00, b"n" * 160), "field table: field name .* more than 159"),
        (changed(0xB6, b"\x08" + bytes(9) + b"\xff" * 32), "field table: a: shape .* too large"),
    ],
)
def test_a_table_that_cannot_be_true(table: bytes, text: str) -> None:
    with pytest.raises(LayoutMismatchError, match=text):
        read_table(table, LAYOUT.request_size, LAYOUT.reply_size)


@pytest.mark.parametrize("sizes", [(0, 4096), (4096, 8192), (2**64 - 1, 0)])
def test_record_sizes_that_cannot_be_true(sizes: tuple[int, int]) -> None:
    with pytest.raises(LayoutMismatchError, match=f"record sizes {sizes[0]} and {sizes[1]}"):
        read_table(LAYOUT.pack_table(), *sizes)


def test_too_many_rows_in_a_table() -> None:
    table = b"".join(field(f"{i}").pack() for i in range(257))
    with pytest.raises(LayoutMismatchError, match="257 fields"):
        read_table(table, 4096, 4096)


def test_reserved_bytes_of_a_row_are_ignored() -> None:
    table = changed(0xB7, b"\xff")
    table = table[:0xE0] + b"\xff" * 32 + table[0x100:]
    assert read_table(table, LAYOUT.request_size, LAYOUT.reply_size) == LAYOUT


def test_numpy_agrees_with_the_row_size() -> None:
    assert ROW.size == c.ROW_SIZE
    assert np.dtype("bool").itemsize == 1
