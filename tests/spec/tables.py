"""The tables of PROTOCOL.md and the numbers of ``rlay.h``, as texts and numbers."""

from __future__ import annotations

import re

from tests.peers import ROOT

PAGE = (ROOT / "spec" / "PROTOCOL.md").read_text(encoding="utf-8")
C_HEADER = ROOT / "ports" / "reference_c" / "rlay.h"

Row = tuple[str, ...]


def cells(line: str) -> Row:
    """Return the cells of a line of a table; an escaped bar does not separate."""
    parts = re.split(r"(?<!\\)\|", line.strip().strip("|"))
    return tuple(part.strip() for part in parts)


def parse_tables(page: str) -> dict[str, list[Row]]:
    """Return the rows below each ``table:`` comment, without the heading."""
    tables = {}
    for match in re.finditer(r"<!-- table:(\w+) -->\n((?:\|.*\n)+)", page):
        lines = match[2].splitlines()
        tables[match[1]] = [cells(line) for line in lines[2:]]
    return tables


TABLES = parse_tables(PAGE)


def number(text: str) -> int:
    return int(text, 0)


def spec_values() -> dict[str, int]:
    return {
        name: number(value) for names, value, *_ in TABLES["values"] for name in names.split(" / ")
    }


DEFINE = re.compile(r'^#define (RLAY_\w+) +(-?\d\w*|"[^"]*")', re.MULTILINE)


def c_defines() -> dict[str, int | str]:
    """Return the numbers and strings that ``rlay.h`` defines."""
    return {
        name: value if value.startswith('"') else number(value)
        for name, value in DEFINE.findall(C_HEADER.read_text(encoding="utf-8"))
    }
