"""The worked example of PROTOCOL.md §17 shows the bytes of the golden case."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest

from rlay.protocol import constants as c
from rlay.protocol.layout import ROW
from tests.spec import make_golden
from tests.spec.golden_text import from_hex

PAGE = make_golden.PROTOCOL.read_text(encoding="utf-8")
SECTION = PAGE.partition("<!-- worked-example -->")[2].partition("<!-- /worked-example -->")[0]
VALID = make_golden.GOLDEN / "valid"
BYTES = re.compile(r"^\| 0x([0-9A-F]{5}) \| (\d+) \| `([0-9a-f .]*)` \| ([^|]+) \|", re.MULTILINE)
ROWS = re.compile(r"^\| 0x([0-9A-F]{5}) \| `([^`]+)` \|([^`]+)\|$", re.MULTILINE)

#: Where a part of the example begins, and the file it shows.
PARTS = (
    ("**The header", "control"),
    ("**Exchange 1, the request", "data1"),
    ("**Exchange 2, the request", "data2"),
    ("**Exchange 3, the request", "data3"),
)


def golden(file: str) -> bytes:
    return from_hex((VALID / f"cartpole_two_steps.{file}.hex").read_text(encoding="ascii"))


def part(title: str) -> str:
    """Return the text from a title to the next part."""
    start = SECTION.index(title)
    later = [SECTION.find(other, start + 1) for other, _ in PARTS]
    return SECTION[start : min((n for n in later if n > 0), default=None)]


def lines_of(title: str) -> Iterator[tuple[int, bytes, str]]:
    """Yield offset, bytes and field of each line of bytes."""
    for offset, size, shown, name in BYTES.findall(part(title)):
        data = bytes.fromhex(shown.removesuffix("00..."))
        yield int(offset, 16), data.ljust(int(size), b"\0"), name


@pytest.mark.parametrize(("title", "file"), PARTS)
def test_each_line_shows_the_bytes_of_the_file(title: str, file: str) -> None:
    data, lines = golden(file), list(lines_of(title))
    assert len(lines) >= 13
    for offset, shown, name in lines:
        assert data[offset : offset + len(shown)] == shown, f"{name} at {offset:#x}"


def test_no_byte_of_the_control_file_is_left_out() -> None:
    data = bytearray(golden("control"))
    for offset, shown, _ in lines_of("**The header"):
        data[offset : offset + len(shown)] = bytes(len(shown))
    rows = ROWS.findall(part("**The header"))
    for at, name, rest in rows:
        offset, stride, lanes, record, dtype, ndim, group, shape = (
            text.strip() for text in rest.split("|")
        )
        dims = [] if shape == "-" else [int(n) for n in shape.split(",")]
        numbers = (int(n) for n in (offset, stride, lanes, record, dtype, ndim, group))
        start = int(at, 16)
        packed = ROW.pack(name.encode(), *numbers, *dims, *[0] * (c.MAX_NDIM - len(dims)))
        assert data[start : start + c.ROW_SIZE] == packed, name
        data[start : start + c.ROW_SIZE] = bytes(c.ROW_SIZE)
    schema = re.search(r"```\n(.*)\n```", SECTION)
    assert schema is not None
    text = schema[1].encode()
    assert data[c.SCHEMA_OFFSET : c.SCHEMA_OFFSET + len(text)] == text
    data[c.SCHEMA_OFFSET : c.SCHEMA_OFFSET + len(text)] = bytes(len(text))
    assert not any(data)
    assert len(rows) == 9


@pytest.mark.parametrize(("title", "file"), PARTS[1:])
def test_both_records_of_each_exchange_are_shown(title: str, file: str) -> None:
    offsets = [offset for offset, _, name in lines_of(title) if name == "seq"]
    assert offsets == [0, 0x11000]


def test_the_section_is_what_the_generator_makes() -> None:
    assert make_golden.pages()[make_golden.PROTOCOL] == PAGE
