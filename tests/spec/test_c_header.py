"""Every number of PROTOCOL.md is in ``rlay.h``, the header of the reference port, too."""

from __future__ import annotations

import pytest

from rlay.protocol import constants as c
from rlay.protocol.constants import RecordKind
from rlay.protocol.header import HEADER
from tests.spec.tables import C_HEADER, TABLES, c_defines, number, spec_values


def expected_in_c() -> dict[str, int]:
    """Return every number of the tables under the name it has in C."""
    expected = {f"RLAY_{name}": value for name, value in spec_values().items()}
    for prefix, table in (
        ("OFF", "header"),
        ("HELLO", "hello"),
        ("PREFIX", "prefix"),
        ("ROW", "row"),
    ):
        for offset, _, _, name, *_ in TABLES[table]:
            expected[f"RLAY_{prefix}_{name.upper()}"] = number(offset)
    for code, name, _ in TABLES["dtype"]:
        expected[f"RLAY_DTYPE_{name.upper()}"] = int(code)
    for code, name, _ in TABLES["errors"]:
        expected[name] = int(code)
    for code, name, _ in TABLES["extensions"]:
        expected[f"RLAY_EXTENSION_{name.upper()}"] = int(code)
    return expected | {
        "RLAY_PROTOCOL_MIN": c.PROTOCOL_VERSION,
        "RLAY_PROTOCOL_MAX": c.PROTOCOL_VERSION,
        "RLAY_ENDIAN_TAG": c.ENDIAN_TAG,
        "RLAY_HEADER_SIZE": c.HEADER_SIZE,
        "RLAY_CONTROL_SIZE": c.CONTROL_SIZE,
        "RLAY_FIELDS_MAX": c.MAX_ROWS,
        "RLAY_SCHEMA_MAX": c.SCHEMA_CAPACITY,
        "RLAY_HELLO_SIZE": HEADER["client_hello"].size,
        "RLAY_ROW_SIZE": c.ROW_SIZE,
        "RLAY_PREFIX_SIZE": c.PREFIX_SIZE,
        "RLAY_PAGE_SIZE": c.RECORD_ALIGNMENT,
        "RLAY_FIELD_NAME_MAX": c.MAX_NAME,
        "RLAY_WELCOME_TEXT_SIZE": HEADER["welcome_text"].size,
        "RLAY_RECORD_REQUEST": RecordKind.REQUEST,
        "RLAY_RECORD_REPLY": RecordKind.REPLY,
        "RLAY_GROUP_NONE": c.WHOLE_RECORD,
        "RLAY_NDIM_MAX": c.MAX_NDIM,
        "RLAY_BODY_MAX": 1 << 30,
        "RLAY_RECORD_MAX": c.MAX_RECORD,
    }


@pytest.mark.parametrize("name", expected_in_c())
def test_c_number(name: str) -> None:
    assert c_defines().get(name) == expected_in_c()[name], f"{name} in {C_HEADER.name}"


def test_c_magic() -> None:
    text = c_defines()["RLAY_MAGIC"]
    assert isinstance(text, str)
    assert text.strip('"').encode().decode("unicode_escape").encode("latin-1") == c.MAGIC


@pytest.mark.parametrize(
    "prefix", ["OFF", "HELLO", "PREFIX", "ROW", "DTYPE", "E", "EXTENSION", "COMMAND", "FEATURE"]
)
def test_c_defines_nothing_else_of_a_table(prefix: str) -> None:
    ours = {name for name in c_defines() if name.startswith(f"RLAY_{prefix}_")}
    assert ours == {name for name in expected_in_c() if name.startswith(f"RLAY_{prefix}_")}


@pytest.mark.parametrize(
    ("name", "prefix"),
    [("header", "OFF"), ("hello", "HELLO"), ("prefix", "PREFIX"), ("row", "ROW")],
)
def test_offsets_are_those_of_the_spec(name: str, prefix: str) -> None:
    rows, defines = TABLES[name], c_defines()
    names = {row[3]: int(row[0], 16) for row in rows}
    assert len(names) == len(rows)
    for field, offset in names.items():
        assert defines[f"RLAY_{prefix}_{field.upper()}"] == offset


def test_values_are_those_of_the_spec() -> None:
    rows, defines = TABLES["values"], c_defines()
    assert rows
    for names, value, _ in rows:
        for name in names.split(" / "):
            assert defines[f"RLAY_{name}"] == int(value)
    for code, name, _ in TABLES["dtype"]:
        assert defines[f"RLAY_DTYPE_{name.upper()}"] == int(code)
    for code, name, _ in TABLES["errors"]:
        assert defines[name] == int(code)
    for code, name, _ in TABLES["extensions"]:
        assert defines[f"RLAY_EXTENSION_{name.upper()}"] == int(code)
