"""The worked example of PROTOCOL.md §17, from the golden case ``cartpole_two_steps``."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from rlay.protocol import constants as c
from rlay.protocol.constants import Command, RecordKind
from rlay.protocol.header import HEADER, HELLO
from rlay.protocol.layout import Layout
from rlay.protocol.schema import compile_layout
from tests.spec.golden_session import Case
from tests.spec.golden_valid import FIRST, SECOND, THIRD, cartpole_schema


def shown(data: bytes, most: int = 16) -> str:
    """Return bytes as hex, long zeros and long texts cut short."""
    used = data.rstrip(b"\0")
    if len(data) <= most:
        return data.hex(" ")
    if len(used) < len(data) - 3:
        return f"{used.hex(' ')} 00...".strip()
    return data.hex(" ")


def line(base: int, offset: int, data: bytes, name: str, meaning: str) -> str:
    return f"| 0x{base + offset:05X} | {len(data)} | `{shown(data)}` | {name} | {meaning} |"


TABLE_HEAD = ["| offset | size | bytes | field | meaning |", "|---|---|---|---|---|"]


def number(data: bytes) -> int:
    return int.from_bytes(data, "little")


def header_lines(control: bytes) -> Iterator[str]:
    yield from TABLE_HEAD
    names: dict[str, Callable[[bytes], str]] = {
        "magic": lambda _: "`\\x89RLAY\\r\\n\\x1a`",
        "generation": lambda data: f"0x{number(data):016x}",
        "endian_tag": lambda data: f"0x{number(data):08x}",
        "fingerprint": lambda data: f"0x{number(data):016x}",
        "welcome_text": lambda _: "empty: it was accepted",
    }
    for row in HEADER.values():
        data = control[row.offset : row.offset + row.size]
        if row.type == "hello":
            for part in HELLO.values():
                piece = data[part.offset : part.offset + part.size]
                text = piece.rstrip(b"\0").decode()
                meaning = f"`{text}`" if part.type == "text" else str(number(piece))
                yield line(row.offset, part.offset, piece, f"{row.name}.{part.name}", meaning)
        elif row.type not in ("rows", "json"):
            meaning = names.get(row.name, lambda data: str(number(data)))(data)
            yield line(0, row.offset, data, row.name, meaning)


def row_lines(layout: Layout) -> Iterator[str]:
    yield "| row at | name | offset | stride | lanes | record | dtype | ndim | group | shape |"
    yield "|---|---|---|---|---|---|---|---|---|---|"
    for i, field in enumerate(layout.fields):
        at = c.FIELD_TABLE_OFFSET + i * c.ROW_SIZE
        shape = ", ".join(map(str, field.shape)) or "-"
        yield (
            f"| 0x{at:05X} | `{field.name}` | {field.offset} | {field.stride} | {field.lanes} "
            f"| {field.record:d} | {c.DTYPE_CODES[field.dtype]} | {len(field.shape)} "
            f"| {field.group} | {shape} |"
        )


PREFIX_PARTS = (
    ("seq", 0, 8),
    ("command", 8, 4),
    ("status", 12, 4),
    ("body_size", 16, 4),
    ("session", 24, 8),
)


def record_lines(
    data: bytes, layout: Layout, kind: RecordKind, fields: dict[str, str], body: str = ""
) -> Iterator[str]:
    """Show a record: its prefix and the fields that its command uses."""
    base = layout.record_slice(kind).start
    yield from TABLE_HEAD
    for name, offset, size in PREFIX_PARTS:
        part = data[base + offset : base + offset + size]
        meaning = str(number(part))
        if name == "session":
            meaning = f"0x{number(part):016x}"
        elif name == "command":
            meaning += f", {Command(number(part)).name}"
        yield line(base, offset, part, name, meaning)
    for name, meaning in fields.items():
        field = layout.find(kind, name)
        part = data[base + field.offset : base + field.offset + field.size]
        yield line(base, field.offset, part, name, meaning)
    if body:
        start = base + layout.find(kind, "body").offset
        size = number(data[base + 0x10 : base + 0x14])
        yield line(base, start - base, data[start : start + size], "body", body)


def listed(array: np.ndarray) -> str:
    return ", ".join(str(value) for value in array)


def worked_example(case: Case) -> str:
    """Return the text of PROTOCOL.md §17 between the markers."""
    layout = compile_layout(cartpole_schema())
    text = cartpole_schema().to_json().decode()
    request, reply = RecordKind.REQUEST, RecordKind.REPLY
    flags = {"terminated": "0", "truncated": "0"}
    parts: list[list[str]] = [
        [
            "A client with the role AGENT has attached to a CartPole server, has reset it with "
            "seed 7 and made two steps.",
            "Bytes are in hexadecimal, in the order of the file; `00...` stands for zeros to the "
            "end of the field. Bytes not shown are 0.",
        ],
        ["**The header of the control file**, while the agent holds the turn:"],
        list(header_lines(case.control)),
        [f"**The field table**, from 0x{c.FIELD_TABLE_OFFSET:05X}, one row of 256 bytes each:"],
        list(row_lines(layout)),
        [
            "The row of `action` in bytes: "
            f"`{shown(layout.fields[2].pack()[:0xA0])}` is its name; from 0xA0",
            f"`{layout.fields[2].pack()[0xA0:0xBA].hex(' ')}` are offset, stride, lanes, record, "
            "dtype, ndim, a reserved byte and group. Its shape is empty.",
        ],
        [f"**The schema**, from 0x{c.SCHEMA_OFFSET:05X}, {len(text)} bytes on one line:"],
        ["```", text, "```"],
        ["**Exchange 1, the request**: RESET with a seed. Offsets are of the data file."],
        list(
            record_lines(case.data[0], layout, request, {"seed": "7", "seed#present": "1: a seed"})
        ),
        [
            f"**Exchange 1, the reply**, from 0x{layout.request_size:05X}: the first observation. "
            "`reward`, `terminated` and `truncated` are undefined."
        ],
        list(record_lines(case.data[0], layout, reply, {"observation": listed(FIRST)})),
        ["**Exchange 2, the request**: STEP with action 1. The seed is still there; nobody looks."],
        list(record_lines(case.data[1], layout, request, {"action": "1"})),
        ["**Exchange 2, the reply**:"],
        list(
            record_lines(
                case.data[1],
                layout,
                reply,
                {"reward": "1.0", **flags, "observation": listed(SECOND)},
            )
        ),
        ["**Exchange 3, the request**: STEP with action 0."],
        list(record_lines(case.data[2], layout, request, {"action": "0"})),
        ["**Exchange 3, the reply**: the episode is cut off, and info has an undeclared key."],
        list(
            record_lines(
                case.data[2],
                layout,
                reply,
                {"reward": "1.0", **flags, "truncated": "1", "observation": listed(THIRD)},
                'MessagePack of `{"lives": 3}`',
            )
        ),
    ]
    return "\n\n".join("\n".join(part) for part in parts)
