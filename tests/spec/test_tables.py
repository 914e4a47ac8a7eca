"""Every number of PROTOCOL.md and of the Python code is the same number."""

from __future__ import annotations

import dataclasses
import re
import struct
from typing import Any

import numpy as np
import pytest

from rlay import errors
from rlay.channel import file_systems
from rlay.errors import RlayError, error_for_code
from rlay.protocol import body
from rlay.protocol import constants as c
from rlay.protocol.constants import Bye, Command, Feature, RecordKind, Role, Side, Welcome
from rlay.protocol.header import HEADER, HELLO, HeaderField, check_identity
from rlay.protocol.layout import ROW
from rlay.protocol.leaves import leaves
from rlay.protocol.prefix import PREFIX
from rlay.protocol.schema import Schema, compile_layout
from rlay.protocol.spaces import space_from
from rlay.protocol.turn import TABLE
from tests.spec.golden_valid import cartpole_schema
from tests.spec.tables import C_HEADER, PAGE, TABLES, Row, cells, number, spec_values

KNOWN = "header hello values states prefix row dtype leaves crash errors extensions filesystems"


def test_each_table_is_known_and_has_rows() -> None:
    assert {name: bool(rows) for name, rows in TABLES.items()} == dict.fromkeys(KNOWN.split(), True)
    assert len(re.findall("<!-- table:", PAGE)) == len(TABLES)


# ---- the control file ----------------------------------------------------------------


def layout_of(rows: list[Row]) -> dict[str, tuple[int, int, str]]:
    return {name: (number(offset), int(size), kind) for offset, size, kind, name, *_ in rows}


def as_layout(fields: dict[str, HeaderField]) -> dict[str, tuple[int, int, str]]:
    return {name: (row.offset, row.size, row.type) for name, row in fields.items()}


def test_header() -> None:
    assert as_layout(HEADER) == layout_of(TABLES["header"])
    assert {name: row.writer for name, row in HEADER.items()} == {
        name: writer for _, _, _, name, writer, _ in TABLES["header"]
    }
    assert list(HEADER) == [row[3] for row in TABLES["header"]]


def test_hello() -> None:
    assert as_layout(HELLO) == layout_of(TABLES["hello"])


@pytest.mark.parametrize("fields", [HEADER, HELLO], ids=["header", "hello"])
def test_fields_are_aligned_and_disjoint(fields: dict[str, HeaderField]) -> None:
    sizes = {"u8": 1, "u16": 2, "u32": 4, "u64": 8}
    end = 0
    for row in fields.values():
        assert row.offset >= end, row.name
        end = row.offset + row.size
        if row.type in sizes:
            assert row.size == sizes[row.type]
            assert row.offset % row.size == 0, row.name
    assert end <= (128 if fields is HELLO else c.CONTROL_SIZE)


def test_fields_of_different_writers_are_on_different_lines() -> None:
    writers: dict[int, set[str]] = {}
    for row in HEADER.values():
        for line in range(row.offset // 128, (row.offset + row.size - 1) // 128 + 1):
            writers.setdefault(line, set()).add(row.writer)
    assert all(len(names) == 1 for names in writers.values())


def test_constants_of_the_header_line() -> None:
    meaning = {row[3]: row[5] for row in TABLES["header"]}
    assert bytes.fromhex(meaning["magic"].strip("`")) == c.MAGIC
    assert number(meaning["endian_tag"]) == c.ENDIAN_TAG
    assert number(meaning["header_size"]) == c.HEADER_SIZE
    assert number(meaning["control_size"]) == c.CONTROL_SIZE
    rows, size = map(int, re.findall(r"\d+", meaning["field_table"]))
    assert (rows, size) == (c.MAX_ROWS, c.ROW_SIZE)
    assert number(meaning["data_size"].split(" + ")[-1]) == c.TAIL_SIZE
    header = bytearray(c.HEADER_SIZE)
    struct.pack_into("<8sIIQQ", header, 0, c.MAGIC, c.ENDIAN_TAG, c.HEADER_SIZE, c.CONTROL_SIZE, 9)
    assert check_identity(bytes(header), c.CONTROL_SIZE, "made by hand") == 9


PYTHON_VALUES: dict[str, int] = {
    **{f"SIDE_{side.name}": side for side in Side},
    **{f"TURN_{side.name}": side for side in Side},
    "TURN_IDLE": c.TURN_IDLE,
    **{f"ROLE_{role.name}": role for role in Role},
    **{f"BYE_{bye.name}": bye for bye in Bye},
    **{f"WELCOME_{welcome.name}": welcome for welcome in Welcome},
    **{f"FEATURE_{f.name}": f for f in (Feature.RENDER, Feature.CALL)},
    **{f"COMMAND_{command.name}": command for command in Command},
}


def test_values() -> None:
    assert {name: int(value) for name, value in PYTHON_VALUES.items()} == spec_values()
    assert len(Feature) == 2


def test_protocol_version() -> None:
    version = re.search(r"^\| protocol version \| (\d+) \|", PAGE, re.MULTILINE)
    assert version is not None
    assert int(version[1]) == c.PROTOCOL_VERSION


def test_fnv() -> None:
    assert f"hash = {c.FNV_OFFSET:#x}" in PAGE
    assert f"* {c.FNV_PRIME:#x}) mod 2^64" in PAGE


# ---- states --------------------------------------------------------------------------


def test_states() -> None:
    ours = [(state.name, who.name.lower(), event.name, to.name) for state, who, event, to in TABLE]
    assert ours == [tuple(row) for row in TABLES["states"]]


# ---- records and rows ----------------------------------------------------------------


def struct_layout(packer: struct.Struct, names: list[str]) -> dict[str, tuple[int, int]]:
    """Find offset and size of each member of a struct by packing one at a time."""
    found: dict[str, tuple[int, int]] = {}
    blank = list(packer.unpack(bytes(packer.size)))
    for i, name in enumerate(names):
        full = list(blank)
        full[i] = b"\xff" * packer.size if isinstance(blank[i], bytes) else 0
        data = None
        for bits in (64, 32, 16, 8):
            if isinstance(blank[i], int):
                full[i] = (1 << bits) - 1
            try:
                data = packer.pack(*full)
            except struct.error:
                continue
            break
        assert data is not None
        first = next(k for k, byte in enumerate(data) if byte)
        found[name] = (first, len(data) - data.count(0))
    return found


def test_prefix() -> None:
    rows = TABLES["prefix"]
    ours = struct_layout(PREFIX, [row[3] for row in rows])
    assert ours == {name: (number(offset), int(size)) for offset, size, _, name, _ in rows}
    assert PREFIX.size == c.PREFIX_SIZE
    assert "`cursor` = 32, the size of the prefix" in PAGE


def test_status() -> None:
    meaning = next(row[4] for row in TABLES["prefix"] if row[3] == "status")
    assert f"in a reply {c.STATUS_OK} OK, or {c.STATUS_REMOTE} (REMOTE)" in meaning
    assert errors.RemoteError.code == c.STATUS_REMOTE


def test_row() -> None:
    rows = TABLES["row"]
    names = [row[3] for row in rows]
    ours = struct_layout(ROW, [*names, *(f"shape[{i}]" for i in range(1, c.MAX_NDIM))])
    spec = {name: (number(offset), int(size)) for offset, size, _, name, _ in rows}
    shape_offset, shape_size = spec.pop("shape")
    assert ours.pop("shape") == (shape_offset, 4)
    for i in range(1, c.MAX_NDIM):
        assert ours.pop(f"shape[{i}]") == (shape_offset + 4 * i, 4)
    assert shape_size == 4 * c.MAX_NDIM
    # The struct has room for 160 bytes, of which the last stays NUL.
    assert spec["name"] == (0, c.MAX_NAME + 1)
    assert ours == spec
    assert ROW.size == c.ROW_SIZE


def test_limits_in_the_meaning_of_a_row() -> None:
    meaning = {row[3]: row[4] for row in TABLES["row"]}
    assert f"at most {c.MAX_NAME} bytes" in meaning["name"]
    assert f"0 to {c.MAX_NDIM}," in meaning["ndim"]
    assert f"{RecordKind.REQUEST:d} request, {RecordKind.REPLY:d} reply" in meaning["record"]
    assert f"0x{c.WHOLE_RECORD:X}: the record as a whole" in meaning["group"]


def test_limits_in_the_text() -> None:
    limits = re.search(r"- Limits: .*", PAGE)
    assert limits is not None
    assert limits[0].startswith(
        f"- Limits: {c.MAX_ROWS} rows, names of {c.MAX_NAME} bytes, {c.MAX_NDIM} dimensions, "
        "dimensions and lanes below 2^32, a record of at most 2^32 bytes "
        "(before rounding up to pages), a body or frame of at most 2^30 bytes;"
    )
    assert c.MAX_RECORD == 1 << 32
    assert c.MAX_EMPTY_ELEMENTS == 1 << 16
    assert "2^16 for the product of the capacities of Sequences around one another" in PAGE
    assert f"Objects and arrays nest at most {c.MAX_SCHEMA_DEPTH} deep." in PAGE
    assert f"`align` = {c.ARRAY_ALIGNMENT} if `size` >= {c.ARRAY_ALIGNMENT}" in PAGE
    assert f"rounded up to a multiple of {c.RECORD_ALIGNMENT}" in PAGE
    assert f"`field_count` <= {c.MAX_ROWS} and `schema_size` <= {c.SCHEMA_CAPACITY}" in PAGE


def test_dtype() -> None:
    spec = {name: (int(code), int(size)) for code, name, size in TABLES["dtype"]}
    ours = {name: (code, np.dtype(name).itemsize) for name, code in c.DTYPE_CODES.items()}
    assert ours == spec


# ---- leaves --------------------------------------------------------------------------

BOX = {"type": "Box", "dtype": "int16", "shape": [5, 6], "low": 0, "high": 1}
DISCRETE = {"type": "Discrete", "dtype": "uint8", "n": 3, "start": 1}
LINKS = ("p/edge_links", "int64", (7, 4, 2))

#: For each space of the table a description, and what the table says of its rows for L = (7,).
LEAVES: dict[str, tuple[str, dict[str, Any], list[tuple[str, str, tuple[int, ...]]]]] = {
    "Box": ("`p` dtype L+shape", BOX, [("p", "int16", (7, 5, 6))]),
    "Discrete": ("`p` dtype L", DISCRETE, [("p", "uint8", (7,))]),
    "MultiDiscrete": (
        "`p` dtype L+shape",
        {"type": "MultiDiscrete", "dtype": "int32", "shape": [2], "nvec": [2, 3], "start": [0, 0]},
        [("p", "int32", (7, 2))],
    ),
    "MultiBinary": (
        "`p` int8 L+shape",
        {"type": "MultiBinary", "shape": [2, 3]},
        [("p", "int8", (7, 2, 3))],
    ),
    "Text": (
        "`p#length` u32 L (bytes), `p` u8 L+(max_length x widest UTF-8 character of the charset)",
        {"type": "Text", "charset": "a€", "min_length": 0, "max_length": 5},
        [("p#length", "uint32", (7,)), ("p", "uint8", (7, 15))],
    ),
    "Dict": (
        "leaves of each space at `p/KEY` in the space's order; "
        "in KEY `~` is written `~0` and `/` `~1` (RFC 6901)",
        {"type": "Dict", "spaces": [["z~/", DISCRETE], ["a", DISCRETE]]},
        [("p/z~0~1", "uint8", (7,)), ("p/a", "uint8", (7,))],
    ),
    "Tuple": (
        "leaves of each space at `p/0`, `p/1`, ...",
        {"type": "Tuple", "spaces": [DISCRETE, BOX]},
        [("p/0", "uint8", (7,)), ("p/1", "int16", (7, 5, 6))],
    ),
    "OneOf": (
        "`p#index` u32 L, then as Tuple",
        {"type": "OneOf", "spaces": [DISCRETE, BOX]},
        [("p#index", "uint32", (7,)), ("p/0", "uint8", (7,)), ("p/1", "int16", (7, 5, 6))],
    ),
    "Sequence": (
        "`p#length` u32 L, leaves of the element space at `p/*` with L+(capacity)",
        {"type": "Sequence", "space": BOX, "stack": False, "capacity": 3},
        [("p#length", "uint32", (7,)), ("p/*", "int16", (7, 3, 5, 6))],
    ),
    "Graph": (
        "`p#nodes` u32 L, `p#edges` u32 L (0xFFFFFFFF: None), "
        "`p/nodes` node dtype L+(nodes)+node shape, "
        "`p/edges` edge dtype L+(edges)+edge shape when the space has edges, "
        "`p/edge_links` int64 L+(edges, 2)",
        {"type": "Graph", "node": BOX, "edge": DISCRETE, "nodes": 3, "edges": 4},
        [
            ("p#nodes", "uint32", (7,)),
            ("p#edges", "uint32", (7,)),
            ("p/nodes", "int16", (7, 3, 5, 6)),
            ("p/edges", "uint8", (7, 4)),
            LINKS,
        ],
    ),
}


def test_leaves_are_in_the_words_of_the_page() -> None:
    assert {name: text for name, (text, _, _) in LEAVES.items()} == dict(TABLES["leaves"])


@pytest.mark.parametrize("space", LEAVES)
def test_leaves(space: str) -> None:
    _, description, rows = LEAVES[space]
    space_from(description, "p")
    assert list(leaves(description, "p", (7,))) == rows


def test_a_graph_without_edges() -> None:
    description = LEAVES["Graph"][1] | {"edge": None}
    assert list(leaves(description, "p", (7,)))[3:] == [LINKS]
    assert f"(0x{c.NO_EDGES:X}: None)" in LEAVES["Graph"][0]


def test_the_example_of_a_layout() -> None:
    shown = []
    for line in PAGE.partition("### 8.5 Example")[2].partition("## 9.")[0].splitlines():
        if line.startswith(("| request", "| reply")):
            record, name, dtype, shape, size, align, offset = (x.strip("`") for x in cells(line))
            dims = () if shape == "-" else (int(shape),)
            assert int(offset) % int(align) == 0
            shown.append((record, name, dtype, dims, int(size), int(offset)))
    assert shown == [
        (f.record.name.lower(), f.name, f.dtype, f.shape, f.size, f.offset)
        for f in compile_layout(cartpole_schema()).fields
    ]


def test_the_order_of_rows_names_every_row() -> None:
    section = PAGE.partition("### 8.2 Order of rows")[2].partition("### 8.3")[0]
    plain = cartpole_schema().groups[0]
    group = dataclasses.replace(
        plain, lanes=2, agents=True, autoreset="same_step", info={"KEY": plain.action}
    )
    fields = compile_layout(Schema((group,), frame=3)).fields
    missing = sorted({field.name for field in fields if f"`{field.name}`" not in section})
    assert missing == []


# ---- errors and extensions -----------------------------------------------------------


def every_error(cls: type[RlayError] = RlayError) -> list[type[RlayError]]:
    return [cls, *(found for sub in cls.__subclasses__() for found in every_error(sub))]


def test_errors() -> None:
    spec = {int(code): name for code, _, name in TABLES["errors"]}
    assert spec.pop(0) == "-"
    assert {code: error_for_code(code).__name__ for code in spec} == spec  # type: ignore[union-attr]
    ours = {cls.code: cls.__name__ for cls in every_error() if cls.code}
    assert ours == spec
    abstract = {cls.__name__ for cls in every_error() if not cls.code}
    assert abstract == {"RlayError", "ProtocolError", "PeerError", "ToolError"}


def test_refused_file_systems() -> None:
    spec = {number(kind): name for kind, name in TABLES["filesystems"]}
    assert file_systems.REFUSED == spec
    block = C_HEADER.read_text().partition("rlay__refused[] = {")[2].partition("};")[0]
    assert {int(kind, 16): name for kind, name in re.findall(r'{(\w+), "(\w+)"}', block)} == spec


def test_codes_that_do_not_end_a_session() -> None:
    text = re.search(r"Fatal to a session are all codes but (.*)\.", PAGE)
    assert text is not None
    named = set(re.findall(r"[A-Z_]+", text[1]))
    assert {f"RLAY_E_{name}" for name in named} <= {row[1] for row in TABLES["errors"]}


def test_extensions() -> None:
    spec = {name: int(code) for code, name, _ in TABLES["extensions"]}
    ours = {name: getattr(body, f"_{name.upper()}") for name in spec}
    assert ours == spec
    assert sorted(ours.values()) == [1, 2, 3, 4, 5]


def test_body_nesting() -> None:
    assert f"it MAY refuse more than {body.MAX_DEPTH} levels" in PAGE
