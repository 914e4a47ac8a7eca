"""The rows each space contributes to a record (PROTOCOL.md §8, table of leaves)."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

from rlay.errors import SchemaError
from rlay.protocol.constants import MAX_EMPTY_ELEMENTS, MAX_NDIM
from rlay.protocol.descriptions import Description, check_description
from rlay.protocol.spaces import escape

Shape = tuple[int, ...]
#: name, dtype, shape
Leaf = tuple[str, str, Shape]


def leaves(description: Description, path: str, lead: Shape = ()) -> Iterator[Leaf]:
    """Yield (name, dtype, shape) of each array a space needs.

    Args:
        description: of the space; already accepted by ``space_from``.
        path: name of its row, or beginning of its rows' names.
        lead: leading dimensions, from the Sequences around it.
    """
    if len(lead) > MAX_NDIM:
        raise SchemaError(path, f"Sequences nest deeper than {MAX_NDIM}")
    return _LEAVES[description["type"]](description, path, lead)


def _array(d: Description, path: str, lead: Shape) -> Iterator[Leaf]:
    yield path, d["dtype"], (*lead, *d["shape"])


def _discrete(d: Description, path: str, lead: Shape) -> Iterator[Leaf]:
    yield path, d["dtype"], lead


def _multi_binary(d: Description, path: str, lead: Shape) -> Iterator[Leaf]:
    yield path, "int8", (*lead, *d["shape"])


def text_bytes(description: Description) -> int:
    """Return the bytes a Text value takes at most: length times the widest character."""
    widest = max((len(char.encode()) for char in description["charset"]), default=1)
    return int(description["max_length"]) * widest


def _text(d: Description, path: str, lead: Shape) -> Iterator[Leaf]:
    yield f"{path}#length", "uint32", lead
    yield path, "uint8", (*lead, text_bytes(d))


def _dict(d: Description, path: str, lead: Shape) -> Iterator[Leaf]:
    for key, inner in d["spaces"]:
        yield from leaves(inner, f"{path}/{escape(key)}", lead)


def _tuple(d: Description, path: str, lead: Shape) -> Iterator[Leaf]:
    for i, inner in enumerate(d["spaces"]):
        yield from leaves(inner, f"{path}/{i}", lead)


def _one_of(d: Description, path: str, lead: Shape) -> Iterator[Leaf]:
    yield f"{path}#index", "uint32", lead
    yield from _tuple(d, path, lead)


def _sequence(d: Description, path: str, lead: Shape) -> Iterator[Leaf]:
    yield f"{path}#length", "uint32", lead
    lead = (*lead, d["capacity"])
    _check_absent(d["space"], path, lead)
    inner = list(leaves(d["space"], f"{path}/*", lead))
    # Elements that take no bytes cost the record nothing, and their reader an object each.
    if math.prod(lead) > MAX_EMPTY_ELEMENTS and not any(math.prod(shape) for _, _, shape in inner):
        raise SchemaError(
            path, f"{math.prod(lead)} elements that take no bytes, at most {MAX_EMPTY_ELEMENTS}"
        )
    yield from inner


def _check_absent(d: Description, path: str, lead: Shape) -> None:
    """Refuse a large space of which the record holds no value: it would be built all the same."""
    if math.prod(lead) == 0 and (size := check_description(d, path)) > MAX_EMPTY_ELEMENTS:
        raise SchemaError(
            path, f"capacity 0 for elements of {size} bytes, at most {MAX_EMPTY_ELEMENTS}"
        )


def _graph(d: Description, path: str, lead: Shape) -> Iterator[Leaf]:
    yield f"{path}#nodes", "uint32", lead
    yield f"{path}#edges", "uint32", lead
    _check_absent(d["node"], path, (*lead, d["nodes"]))
    yield from leaves(d["node"], f"{path}/nodes", (*lead, d["nodes"]))
    if d["edge"] is not None:
        _check_absent(d["edge"], path, (*lead, d["edges"]))
        yield from leaves(d["edge"], f"{path}/edges", (*lead, d["edges"]))
    yield f"{path}/edge_links", "int64", (*lead, d["edges"], 2)


_LEAVES: dict[str, Callable[[Any, str, Shape], Iterator[Leaf]]] = {
    "Box": _array,
    "Discrete": _discrete,
    "MultiDiscrete": _array,
    "MultiBinary": _multi_binary,
    "Text": _text,
    "Dict": _dict,
    "Tuple": _tuple,
    "OneOf": _one_of,
    "Sequence": _sequence,
    "Graph": _graph,
}
