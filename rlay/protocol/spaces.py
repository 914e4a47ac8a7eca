"""Gymnasium spaces as canonical descriptions, and back (PROTOCOL.md §9).

A *description* is the JSON object that stands for a space in the schema.
``describe`` is a ``functools.singledispatch`` over space types. To send a space
class of your own, register how it is described by standard ones::

    @describe.register(MySpace)
    def _(space, path, capacities):
        return describe(space.as_box(), path, capacities)

The peer then sees the standard space, and values are written as its values.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import numpy as np
from gymnasium import spaces

from rlay.errors import LayoutError, SchemaError, UnsupportedSpaceError
from rlay.protocol.constants import DTYPE_CODES

Description = dict[str, Any]
#: Path of a Sequence to its capacity, of a Graph to (nodes, edges).
Capacities = Mapping[str, int | tuple[int, int]]


#: A larger space in a schema is a mistake or an attack, and is not allocated.
_MAX_ELEMENTS = 1 << 30


def escape(key: str) -> str:
    """Escape a Dict key for a path (RFC 6901)."""
    return key.replace("~", "~0").replace("/", "~1")


def _dtype_name(space: spaces.Space[Any], path: str) -> str:
    name = np.dtype(space.dtype).name
    if name not in DTYPE_CODES:
        raise UnsupportedSpaceError(path, space, f"dtype {name} is not one of {[*DTYPE_CODES]}")
    return name


def _number(value: Any, *, bounded: bool = True) -> Any:
    value = value.item()
    if isinstance(value, float) and not np.isfinite(value):
        return "inf" if value > 0 else "-inf"
    if not bounded:
        return "inf" if value > 0 else "-inf"
    return value


def _bound(array: np.ndarray, bounded: np.ndarray) -> Any:
    if array.size and (array == array.flat[0]).all() and (bounded == bounded.flat[0]).all():
        # A camera has millions of elements and one bound.
        return _number(array.flat[0], bounded=bool(bounded.flat[0]))
    pairs = zip(array.ravel(), bounded.ravel(), strict=True)
    return [_number(value, bounded=bool(b)) for value, b in pairs]


@functools.singledispatch
def describe(space: object, path: str, capacities: Capacities) -> Description:
    """Return the description of a space.

    Args:
        space: a ``gymnasium.Space``.
        path: where it stands, such as ``observation/camera``.
        capacities: declared capacities of Sequence and Graph spaces, by path.

    Raises:
        UnsupportedSpaceError: names the path, and what to do.
    """
    raise UnsupportedSpaceError(
        path, space, "unknown type; register it with rlay.protocol.spaces.describe.register"
    )


@describe.register
def _(space: spaces.Box, path: str, capacities: Capacities) -> Description:
    # An integer Box keeps "no bound" in these two arrays only; its low and high are the limits.
    below, above = space.bounded_below, space.bounded_above
    return {
        "type": "Box",
        "dtype": _dtype_name(space, path),
        "shape": list(space.shape),
        "low": _bound(space.low, below),
        "high": _bound(space.high, above),
    }


@describe.register
def _(space: spaces.Discrete, path: str, capacities: Capacities) -> Description:
    return {
        "type": "Discrete",
        "dtype": _dtype_name(space, path),
        "n": int(space.n),
        "start": int(space.start),
    }


@describe.register
def _(space: spaces.MultiDiscrete, path: str, capacities: Capacities) -> Description:
    return {
        "type": "MultiDiscrete",
        "dtype": _dtype_name(space, path),
        "shape": list(space.shape),
        "nvec": [int(n) for n in space.nvec.ravel()],
        "start": [int(n) for n in space.start.ravel()],
    }


@describe.register
def _(space: spaces.MultiBinary, path: str, capacities: Capacities) -> Description:
    return {"type": "MultiBinary", "shape": list(space.shape)}


@describe.register
def _(space: spaces.Text, path: str, capacities: Capacities) -> Description:
    charset = "".join(space.character_list)
    try:
        charset.encode()
    except UnicodeEncodeError:
        reason = "its charset holds a lone surrogate, which UTF-8 cannot carry"
        raise UnsupportedSpaceError(path, space, reason) from None
    return {
        "type": "Text",
        "charset": charset,
        "min_length": space.min_length,
        "max_length": space.max_length,
    }


@describe.register
def _(space: spaces.Dict, path: str, capacities: Capacities) -> Description:
    entries: list[list[Any]] = []
    for key, entry in space.spaces.items():
        if not isinstance(key, str):
            raise UnsupportedSpaceError(path, space, f"key {key!r} is not a string")
        entries.append([key, describe(entry, f"{path}/{escape(key)}", capacities)])
    return {"type": "Dict", "spaces": entries}


@describe.register(spaces.Tuple)
@describe.register(spaces.OneOf)
def _(space: Any, path: str, capacities: Capacities) -> Description:
    entries = [describe(entry, f"{path}/{i}", capacities) for i, entry in enumerate(space.spaces)]
    return {"type": "Tuple" if isinstance(space, spaces.Tuple) else "OneOf", "spaces": entries}


def _declared(space: object, path: str, capacities: Capacities, example: str) -> Any:
    if path not in capacities:
        reason = f"its values have no fixed size; declare one: capacities={{{path!r}: {example}}}"
        raise UnsupportedSpaceError(path, space, reason)
    return capacities[path]


@describe.register
def _(space: spaces.Sequence, path: str, capacities: Capacities) -> Description:
    capacity = _declared(space, path, capacities, "16")
    if type(capacity) is not int or capacity < 0:
        raise UnsupportedSpaceError(path, space, f"capacity {capacity!r} is not a count")
    return {
        "type": "Sequence",
        "space": describe(space.feature_space, f"{path}/*", capacities),
        "stack": bool(space.stack),
        "capacity": capacity,
    }


@describe.register
def _(space: spaces.Graph, path: str, capacities: Capacities) -> Description:
    capacity = _declared(space, path, capacities, "(10, 90)")
    counts = isinstance(capacity, tuple) and [type(n) for n in capacity] == [int, int]
    if not counts or min(capacity) < 0:
        raise UnsupportedSpaceError(path, space, f"capacity {capacity!r} is not (nodes, edges)")
    for part, inner in (("nodes", space.node_space), ("edges", space.edge_space)):
        if inner is not None and not isinstance(inner, spaces.Box | spaces.Discrete):
            raise UnsupportedSpaceError(f"{path}/{part}", inner, "a Graph holds Box or Discrete")
    edge = space.edge_space
    return {
        "type": "Graph",
        "node": describe(space.node_space, f"{path}/nodes", capacities),
        "edge": None if edge is None else describe(edge, f"{path}/edges", capacities),
        "nodes": capacity[0],
        "edges": capacity[1],
    }


def describe_info(key: str, declared: Any, capacities: Capacities) -> Description:
    """Return the description of a declared info field: a space, or a dtype for a scalar."""
    path = f"info.{key}"
    if isinstance(declared, spaces.Space):
        return describe(declared, path, capacities)
    try:
        dtype = np.dtype(declared)
    except TypeError:
        dtype = np.dtype(object)
    if dtype.name not in DTYPE_CODES:
        raise LayoutError(f"{path}: {declared!r} is neither a Space nor one of {[*DTYPE_CODES]}")
    return {"type": "Box", "dtype": dtype.name, "shape": [], "low": "-inf", "high": "inf"}


def unused_capacities(description: Description, path: str, capacities: Capacities) -> list[str]:
    """Return the declared paths under ``path`` that name no Sequence or Graph."""
    used = {p for p, inner in walk(description, path) if inner["type"] in ("Sequence", "Graph")}
    mine = [p for p in capacities if p == path or p.startswith(f"{path}/")]
    return [p for p in mine if p not in used]


def walk(description: Description, path: str) -> list[tuple[str, Description]]:
    """Return every (path, description) from the top down."""
    found = [(path, description)]
    kind = description["type"]
    if kind == "Dict":
        for key, inner in description["spaces"]:
            found += walk(inner, f"{path}/{escape(key)}")
    elif kind in ("Tuple", "OneOf"):
        for i, inner in enumerate(description["spaces"]):
            found += walk(inner, f"{path}/{i}")
    elif kind == "Sequence":
        found += walk(description["space"], f"{path}/*")
    return found


def _bounds(d: Description, name: str, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Any:
    """Return (array of bounds, array of bool: is it bounded)."""
    value = d[name]
    limits: dict[str, float]
    if dtype.kind in "iub":
        highest = 1 if dtype.kind == "b" else np.iinfo(dtype).max
        limits = {"inf": highest, "-inf": 0 if dtype.kind == "b" else np.iinfo(dtype).min}
    else:
        limits = {"inf": math.inf, "-inf": -math.inf}
    if not isinstance(value, list):
        bound = limits[value] if isinstance(value, str) else value
        return np.full(shape, bound, dtype), np.full(shape, not isinstance(value, str))
    finite = np.array([not isinstance(v, str) for v in value], dtype=bool).reshape(shape)
    bounds = [limits[v] if isinstance(v, str) else v for v in value]
    return np.array(bounds, dtype=dtype).reshape(shape), finite


def _count(value: object, location: str) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 1 << 32:
        raise SchemaError(location, f"{value!r} is not a count")
    return value


def _shape(d: Description, location: str) -> tuple[int, ...]:
    shape = tuple(_count(n, f"{location}/shape") for n in d["shape"])
    if math.prod(shape) > _MAX_ELEMENTS:
        raise SchemaError(f"{location}/shape", f"{shape} has more than {_MAX_ELEMENTS} elements")
    return shape


def _box(d: Description, location: str) -> spaces.Space[Any]:
    dtype, shape = np.dtype(d["dtype"]), _shape(d, location)
    low, below = _bounds(d, "low", shape, dtype)
    high, above = _bounds(d, "high", shape, dtype)
    box = spaces.Box(low, high, shape, dtype.type)
    if dtype.kind in "iu":
        box.bounded_below, box.bounded_above = below, above
    return box


def _multi_binary(d: Description, location: str) -> spaces.Space[Any]:
    shape = _shape(d, location)
    # Gymnasium takes MultiBinary(5) and MultiBinary((5,)) for different spaces; 5 is the usual one.
    return spaces.MultiBinary(shape[0] if len(shape) == 1 else shape)


def _discrete(d: Description, location: str) -> spaces.Space[Any]:
    # Older versions of Gymnasium know no other dtype, and no argument for it.
    dtype: dict[str, Any] = {}
    if d["dtype"] != "int64":
        dtype["dtype"] = np.dtype(d["dtype"]).type
    discrete: spaces.Space[Any] = spaces.Discrete(d["n"], start=d["start"], **dtype)
    return discrete


def _multi_discrete(d: Description, location: str) -> spaces.Space[Any]:
    shape = _shape(d, location)
    for name in ("nvec", "start"):
        for i, n in enumerate(d[name]):
            if type(n) is not int:
                raise SchemaError(f"{location}/{name}/{i}", f"{n!r:.80} is not an integer")
    nvec = np.array(d["nvec"], dtype=np.int64).reshape(shape)
    start = np.array(d["start"], dtype=np.int64).reshape(shape)
    return spaces.MultiDiscrete(nvec, dtype=np.dtype(d["dtype"]).type, start=start)


def _text(d: Description, location: str) -> spaces.Space[Any]:
    if not isinstance(d["charset"], str):
        raise SchemaError(f"{location}/charset", f"{d['charset']!r:.80} is not a string")
    return spaces.Text(d["max_length"], min_length=d["min_length"], charset=d["charset"])


def _inner(items: Sequence[Any], location: str) -> list[spaces.Space[Any]]:
    return [space_from(item, f"{location}/spaces/{i}") for i, item in enumerate(items)]


def _dict(d: Description, location: str) -> spaces.Space[Any]:
    keys = [key for key, _ in d["spaces"]]
    for i, key in enumerate(keys):
        if not isinstance(key, str):
            raise SchemaError(f"{location}/spaces/{i}", f"key {key!r:.80} is not a string")
    inner = _inner([item for _, item in d["spaces"]], location)
    return spaces.Dict(list(zip(keys, inner, strict=True)))


def _sequence(d: Description, location: str) -> spaces.Space[Any]:
    _count(d["capacity"], f"{location}/capacity")
    return spaces.Sequence(space_from(d["space"], f"{location}/space"), stack=bool(d["stack"]))


def _graph(d: Description, location: str) -> spaces.Space[Any]:
    for name in ("nodes", "edges"):
        _count(d[name], f"{location}/{name}")
    node = space_from(d["node"], f"{location}/node")
    edge = None if d["edge"] is None else space_from(d["edge"], f"{location}/edge")
    for name, inner in (("node", node), ("edge", edge)):
        if inner is not None and not isinstance(inner, spaces.Box | spaces.Discrete):
            raise SchemaError(f"{location}/{name}", "a Graph holds Box or Discrete")
    return spaces.Graph(node, edge)


_BUILDERS: dict[str, Callable[[Description, str], spaces.Space[Any]]] = {
    "Box": _box,
    "Discrete": _discrete,
    "MultiDiscrete": _multi_discrete,
    "MultiBinary": _multi_binary,
    "Text": _text,
    "Dict": _dict,
    "Tuple": lambda d, at: spaces.Tuple(_inner(d["spaces"], at)),
    "OneOf": lambda d, at: spaces.OneOf(_inner(d["spaces"], at)),
    "Sequence": _sequence,
    "Graph": _graph,
}


_KEYS: dict[str, frozenset[str]] = {
    kind: frozenset({"type", *keys.split()})
    for kind, keys in {
        "Box": "dtype shape low high",
        "Discrete": "dtype n start",
        "MultiDiscrete": "dtype shape nvec start",
        "MultiBinary": "shape",
        "Text": "charset min_length max_length",
        "Dict": "spaces",
        "Tuple": "spaces",
        "OneOf": "spaces",
        "Sequence": "space stack capacity",
        "Graph": "node edge nodes edges",
    }.items()
}


def refuse_unknown(found: Mapping[str, Any], known: Collection[str], location: str) -> None:
    """Refuse keys of a later version: what they mean cannot be guessed (PROTOCOL.md §20).

    Raises:
        SchemaError: names the first one.
    """
    if unknown := sorted(found.keys() - known):
        raise SchemaError(f"{location}/{unknown[0]}".lstrip("/"), "unknown key")


def space_from(description: Any, location: str) -> spaces.Space[Any]:
    """Build the space a description stands for.

    Args:
        description: from a schema, possibly written by a hostile peer.
        location: where it stands in the schema, for the error.

    Raises:
        SchemaError: it is no description of a space.
    """
    kind = description.get("type") if isinstance(description, dict) else None
    if not isinstance(kind, str) or kind not in _BUILDERS:
        raise SchemaError(location, f"{kind!r} is no space type of {sorted(_BUILDERS)}")
    refuse_unknown(description, _KEYS[kind], location)
    if kind not in ("Dict", "Tuple", "OneOf", "Text", "Sequence", "Graph", "MultiBinary"):
        dtype = description.get("dtype")
        if not isinstance(dtype, str) or dtype not in DTYPE_CODES:
            raise SchemaError(f"{location}/dtype", f"{dtype!r} is no dtype of the wire")
    try:
        return _BUILDERS[kind](description, location)
    except LayoutError:
        raise
    except Exception as error:
        # Gymnasium validates with many exception types; whichever it is, the schema is at fault.
        problem = f"no valid {kind}: {type(error).__name__}: {error}"
        raise SchemaError(location, problem) from None


def capacities_of(description: Description, path: str) -> dict[str, int | tuple[int, int]]:
    """Return the declared capacities of a description, by path."""
    found: dict[str, int | tuple[int, int]] = {}
    for where, inner in walk(description, path):
        if inner["type"] == "Sequence":
            found[where] = inner["capacity"]
        elif inner["type"] == "Graph":
            found[where] = (inner["nodes"], inner["edges"])
    return found
