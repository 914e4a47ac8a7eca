"""Descriptions of spaces as a peer or a person wrote them, checked before anything is built (§9).

A description is JSON from a hostile file, or YAML from a hurried hand. Every member is
checked here for its type and range, and what is wrong is named with its place and the
remedy. Nothing is allocated by a number that was read: a Box of a gigabyte costs as much
to check as one of a byte. What the numbers mean is left to Gymnasium (``spaces.py``).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping
from typing import Any

import numpy as np

from rlay.errors import SchemaError
from rlay.protocol.constants import DTYPE_CODES, MAX_NAME, MAX_RECORD

Description = dict[str, Any]

_INT64 = np.iinfo(np.int64)


def refuse_unknown(found: Mapping[str, Any], known: Collection[str], location: str) -> None:
    """Refuse keys of a later version: what they mean cannot be guessed (PROTOCOL.md §20).

    Raises:
        SchemaError: names the first one.
    """
    if unknown := sorted(map(str, found.keys() - known)):
        raise SchemaError(f"{location}/{unknown[0]}".lstrip("/"), "unknown key")


def check_description(d: Any, location: str) -> int:
    """Check the description of a space, without building it.

    Args:
        d: from a schema, possibly written by a hostile peer.
        location: where it stands in the schema, for the error.

    Returns:
        The bytes that one value takes in a record, with one element in each Sequence and
        Graph: what building the space takes memory for.

    Raises:
        SchemaError: names the member that is wrong, and what it should be.
    """
    kind = d.get("type") if isinstance(d, dict) else None
    if not isinstance(kind, str) or kind not in _KINDS:
        raise SchemaError(location, f"{kind!r:.80} is no space type of {sorted(_KINDS)}")
    check, keys = _KINDS[kind]
    if missing := [key for key in keys if key not in d]:
        raise SchemaError(location, f"{missing[0]!r} is missing; a {kind} has {', '.join(keys)}")
    refuse_unknown(d, {"type", *keys}, location)
    size = check(d, location)
    if size > MAX_RECORD:
        problem = f"a value takes {size} bytes, and a record holds {MAX_RECORD}; make it smaller"
        raise SchemaError(location, problem)
    return size


def _refuse(location: str, found: object, expected: str) -> SchemaError:
    return SchemaError(location, f"{found!r:.80} is not {expected}")


def _integer(value: Any, least: int, most: int, location: str) -> int:
    if type(value) is not int or not least <= value <= most:
        raise _refuse(location, value, f"an integer from {least} to {most}")
    return value


def _count(d: Description, key: str, location: str) -> int:
    return _integer(d[key], 0, (1 << 32) - 1, f"{location}/{key}")


def _list(d: Description, key: str, location: str, example: str) -> list[Any]:
    if not isinstance(d[key], list):
        raise _refuse(f"{location}/{key}", d[key], f"a list; write it as {example}")
    found: list[Any] = d[key]
    return found


def _elements(d: Description, location: str) -> int:
    shape = _list(d, "shape", location, "[84, 84, 3], or [] for a scalar")
    for i, n in enumerate(shape):
        _integer(n, 0, (1 << 32) - 1, f"{location}/shape/{i}")
    # Dimensions of 0 do not count: NumPy would multiply the others, and overflow.
    if math.prod(n for n in shape if n) > MAX_RECORD:
        raise SchemaError(f"{location}/shape", f"{shape!r:.80} has more than {MAX_RECORD} elements")
    return math.prod(shape)


def _dtype(d: Description, location: str, kinds: str = "biuf") -> np.dtype[Any]:
    name = d["dtype"]
    if not isinstance(name, str) or name not in DTYPE_CODES or np.dtype(name).kind not in kinds:
        known = [known for known in DTYPE_CODES if np.dtype(known).kind in kinds]
        raise _refuse(f"{location}/dtype", name, f"a dtype of {known}")
    return np.dtype(name)


def _bounds(d: Description, key: str, elements: int, dtype: np.dtype[Any], location: str) -> None:
    place, value = f"{location}/{key}", d[key]
    if not isinstance(value, list):
        _bound(value, dtype, place)
        return
    if len(value) != elements:
        raise SchemaError(place, f"{len(value)} bounds for {elements} elements; give one for all")
    for i, bound in enumerate(value):
        _bound(bound, dtype, f"{place}/{i}")


def _bound(value: Any, dtype: np.dtype[Any], location: str) -> None:
    if value in ("inf", "-inf"):
        return
    if dtype.kind == "b":
        fits, expected = isinstance(value, bool), "true or false"
    elif dtype.kind == "f":
        most = float(np.finfo(dtype).max)
        # An integer is compared as such: it may be too large for a float.
        fits = type(value) in (int, float) and -most <= value <= most
        expected = f"a number from {-most:g} to {most:g}"
    else:
        info = np.iinfo(dtype)
        fits = type(value) is int and info.min <= value <= info.max
        expected = f"an integer from {info.min} to {info.max}"
    if not fits:
        raise _refuse(location, value, f'a bound for {dtype}: {expected}, "inf" or "-inf"')


def _box(d: Description, location: str) -> int:
    dtype, elements = _dtype(d, location), _elements(d, location)
    for key in ("low", "high"):
        _bounds(d, key, elements, dtype, location)
    return elements * dtype.itemsize


def _discrete(d: Description, location: str) -> int:
    _integer(d["n"], 1, _INT64.max, f"{location}/n")
    _integer(d["start"], _INT64.min, _INT64.max, f"{location}/start")
    return _dtype(d, location, "iu").itemsize


def _multi_discrete(d: Description, location: str) -> int:
    dtype, elements = _dtype(d, location, "iu"), _elements(d, location)
    for key, least in (("nvec", 1), ("start", _INT64.min)):
        values = _list(d, key, location, "[3, 3, 2]")
        if len(values) != elements:
            problem = f"{len(values)} values for {elements} elements; give one for each"
            raise SchemaError(f"{location}/{key}", problem)
        for i, value in enumerate(values):
            _integer(value, least, _INT64.max, f"{location}/{key}/{i}")
    return elements * dtype.itemsize


def _text(d: Description, location: str) -> int:
    if not isinstance(d["charset"], str):
        raise _refuse(f"{location}/charset", d["charset"], "a string of all characters")
    _count(d, "min_length", location)
    return 4 + _count(d, "max_length", location)


def _dict(d: Description, location: str) -> int:
    size, keys = 0, set()
    for i, entry in enumerate(_list(d, "spaces", location, '[["key", {"type": ...}]]')):
        place = f"{location}/spaces/{i}"
        if not isinstance(entry, list) or len(entry) != 2 or not isinstance(entry[0], str):
            raise _refuse(place, entry, 'an entry ["key", {"type": ...}]')
        if len(entry[0]) > MAX_NAME:
            raise SchemaError(place, f"the key is longer than {MAX_NAME} characters; shorten it")
        if entry[0] in keys:
            raise SchemaError(place, f"key {entry[0]!r:.80} stands twice; rename one of them")
        keys.add(entry[0])
        size += check_description(entry[1], place)
    return size


def _tuple(d: Description, location: str) -> int:
    items = _list(d, "spaces", location, '[{"type": ...}]')
    return sum(check_description(item, f"{location}/spaces/{i}") for i, item in enumerate(items))


def _sequence(d: Description, location: str) -> int:
    if not isinstance(d["stack"], bool):
        raise _refuse(f"{location}/stack", d["stack"], "true or false")
    _count(d, "capacity", location)
    return 4 + check_description(d["space"], f"{location}/space")


def _graph(d: Description, location: str) -> int:
    size = 24
    for key in ("nodes", "edges"):
        _count(d, key, location)
    for key in ("node", "edge"):
        if key == "node" or d[key] is not None:
            inner = d[key] if isinstance(d[key], dict) else {}
            if inner.get("type") not in ("Box", "Discrete"):
                raise SchemaError(f"{location}/{key}", "a Graph holds Box or Discrete")
            size += check_description(inner, f"{location}/{key}")
    return size


#: Each type of space: how it is checked, and its members besides ``type``.
_KINDS: dict[str, tuple[Callable[[Description, str], int], tuple[str, ...]]] = {
    "Box": (_box, ("dtype", "shape", "low", "high")),
    "Discrete": (_discrete, ("dtype", "n", "start")),
    "MultiDiscrete": (_multi_discrete, ("dtype", "shape", "nvec", "start")),
    "MultiBinary": (_elements, ("shape",)),
    "Text": (_text, ("charset", "min_length", "max_length")),
    "Dict": (_dict, ("spaces",)),
    "Tuple": (_tuple, ("spaces",)),
    "OneOf": (_tuple, ("spaces",)),
    "Sequence": (_sequence, ("space", "stack", "capacity")),
    "Graph": (_graph, ("node", "edge", "nodes", "edges")),
}
