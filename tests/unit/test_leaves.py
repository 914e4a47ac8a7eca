"""Rows of nested spaces; ``spec/test_tables.py`` has each type by itself."""

from __future__ import annotations

from typing import Any

import pytest

from rlay.errors import SchemaError
from rlay.protocol.leaves import leaves, text_bytes

BITS = {"type": "MultiBinary", "shape": [2]}


def sequence(inner: dict[str, Any], capacity: int = 2) -> dict[str, Any]:
    return {"type": "Sequence", "space": inner, "stack": False, "capacity": capacity}


def text(charset: str, most: int = 3) -> dict[str, Any]:
    return {"type": "Text", "charset": charset, "min_length": 0, "max_length": most}


def test_everything_inside_a_sequence_has_its_dimension() -> None:
    graph = {
        "type": "Graph",
        "node": {"type": "Discrete", "dtype": "int8", "n": 2, "start": 0},
        "edge": None,
        "nodes": 5,
        "edges": 6,
    }
    inner = {
        "type": "Dict",
        "spaces": [
            ["t", {"type": "Tuple", "spaces": [text("ab"), sequence(BITS, 7)]}],
            ["o", {"type": "OneOf", "spaces": [BITS]}],
            ["g", graph],
        ],
    }
    assert list(leaves(sequence(inner, 4), "p")) == [
        ("p#length", "uint32", ()),
        ("p/*/t/0#length", "uint32", (4,)),
        ("p/*/t/0", "uint8", (4, 3)),
        ("p/*/t/1#length", "uint32", (4,)),
        ("p/*/t/1/*", "int8", (4, 7, 2)),
        ("p/*/o#index", "uint32", (4,)),
        ("p/*/o/0", "int8", (4, 2)),
        ("p/*/g#nodes", "uint32", (4,)),
        ("p/*/g#edges", "uint32", (4,)),
        ("p/*/g/nodes", "int8", (4, 5)),
        ("p/*/g/edge_links", "int64", (4, 6, 2)),
    ]


@pytest.mark.parametrize(
    ("charset", "size"), [("", 3), ("abc", 3), ("aß", 6), ("a€", 9), ("a\N{AUTOMOBILE}", 12)]
)
def test_text_takes_its_widest_character(charset: str, size: int) -> None:
    assert text_bytes(text(charset)) == size
    assert list(leaves(text(charset), "p"))[1] == ("p", "uint8", (size,))


def test_empty_containers_have_no_rows() -> None:
    assert list(leaves({"type": "Dict", "spaces": []}, "p")) == []
    assert list(leaves({"type": "Tuple", "spaces": []}, "p")) == []


def test_sequences_nest_as_deep_as_dimensions_go() -> None:
    inner: dict[str, Any] = {"type": "Discrete", "dtype": "int8", "n": 2, "start": 0}
    for _ in range(8):
        inner = sequence(inner)
    assert list(leaves(inner, "p"))[-1] == ("p" + "/*" * 8, "int8", (2,) * 8)
    with pytest.raises(SchemaError, match="Sequences nest deeper than 8") as caught:
        list(leaves(sequence(inner), "p"))
    assert caught.value.location == "p" + "/*" * 9
