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

import contextlib
import functools
import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from gymnasium import spaces

from rlay.errors import LayoutError, SchemaError, UnsupportedSpaceError
from rlay.protocol.constants import DTYPE_CODES
from rlay.protocol.descriptions import Description, check_description

#: Path of a Sequence to its capacity, of a Graph to (nodes, edges).
Capacities = Mapping[str, int | tuple[int, int]]


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
    dtype = np.dtype(object)
    # NumPy would take anything with a dtype for one, and None for float64.
    if isinstance(declared, str | type | np.dtype):
        with contextlib.suppress(TypeError, ValueError):
            dtype = np.dtype(declared)
    if dtype.name not in DTYPE_CODES:
        raise LayoutError(
            f"{path}: {declared!r:.80} is neither a Space nor one of {[*DTYPE_CODES]}; "
            f"write info_fields={{{key!r}: 'float64'}} for a number"
        )
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


def _box(d: Description) -> spaces.Space[Any]:
    dtype, shape = np.dtype(d["dtype"]), tuple(d["shape"])
    low, below = _bounds(d, "low", shape, dtype)
    high, above = _bounds(d, "high", shape, dtype)
    box = spaces.Box(low, high, shape, dtype.type)
    if dtype.kind in "iu":
        box.bounded_below, box.bounded_above = below, above
    return box


def _multi_binary(d: Description) -> spaces.Space[Any]:
    shape = tuple(d["shape"])
    # Gymnasium takes MultiBinary(5) and MultiBinary((5,)) for different spaces; 5 is the usual one.
    return spaces.MultiBinary(shape[0] if len(shape) == 1 else shape)


def _discrete(d: Description) -> spaces.Space[Any]:
    # Older versions of Gymnasium know no other dtype, and no argument for it.
    dtype: dict[str, Any] = {}
    if d["dtype"] != "int64":
        dtype["dtype"] = np.dtype(d["dtype"]).type
    discrete: spaces.Space[Any] = spaces.Discrete(d["n"], start=d["start"], **dtype)
    return discrete


def _multi_discrete(d: Description) -> spaces.Space[Any]:
    nvec, start = (np.array(d[key], np.int64).reshape(d["shape"]) for key in ("nvec", "start"))
    return spaces.MultiDiscrete(nvec, dtype=np.dtype(d["dtype"]).type, start=start)


def _text(d: Description) -> spaces.Space[Any]:
    return spaces.Text(d["max_length"], min_length=d["min_length"], charset=d["charset"])


def _graph(d: Description) -> spaces.Space[Any]:
    edge = None if d["edge"] is None else _build(d["edge"])
    node: Any = _build(d["node"])
    return spaces.Graph(node, edge)


def _all(d: Description) -> list[spaces.Space[Any]]:
    return [_build(inner) for inner in d["spaces"]]


_BUILDERS: dict[str, Callable[[Description], spaces.Space[Any]]] = {
    "Box": _box,
    "Discrete": _discrete,
    "MultiDiscrete": _multi_discrete,
    "MultiBinary": _multi_binary,
    "Text": _text,
    "Dict": lambda d: spaces.Dict([(key, _build(inner)) for key, inner in d["spaces"]]),
    "Tuple": lambda d: spaces.Tuple(_all(d)),
    "OneOf": lambda d: spaces.OneOf(_all(d)),
    "Sequence": lambda d: spaces.Sequence(_build(d["space"]), stack=d["stack"]),
    "Graph": _graph,
}


def _build(description: Description) -> spaces.Space[Any]:
    return _BUILDERS[description["type"]](description)


def space_from(description: Any, location: str) -> spaces.Space[Any]:
    """Build the space a description stands for.

    Args:
        description: from a schema, possibly written by a hostile peer.
        location: where it stands in the schema, for the error.

    Raises:
        SchemaError: it is no description of a space.
    """
    check_description(description, location)
    return _judged(description, location)


def check_space(description: Any, location: str) -> None:
    """Check all that ``space_from`` checks, in memory that does not depend on the space's size.

    Raises:
        SchemaError: it is no description of a space.
    """
    check_description(description, location)
    _judged(_small(description), location)


def _judged(description: Description, location: str) -> spaces.Space[Any]:
    try:
        return _build(description)
    except Exception as error:
        # Gymnasium validates with many exception types; whichever it is, the schema is at fault.
        problem = f"no valid {description['type']}: {type(error).__name__}: {error}"
        raise SchemaError(location, problem) from None


def _small(d: Description) -> Description:
    """Return a description that Gymnasium judges alike: one bound goes for any number of elements.

    Where there is a list of bounds, the space is as large as the text that describes it.
    """
    kind = d["type"]
    if kind == "Box":
        uniform = not isinstance(d["low"], list) and not isinstance(d["high"], list)
        return {**d, "shape": []} if uniform else d
    if kind == "Dict":
        return {**d, "spaces": [[key, _small(inner)] for key, inner in d["spaces"]]}
    if kind in ("Tuple", "OneOf"):
        return {**d, "spaces": [_small(inner) for inner in d["spaces"]]}
    if kind == "Sequence":
        return {**d, "space": _small(d["space"])}
    if kind == "Graph":
        return {**d, "node": _small(d["node"]), "edge": d["edge"] and _small(d["edge"])}
    return d


def capacities_of(description: Description, path: str) -> dict[str, int | tuple[int, int]]:
    """Return the declared capacities of a description, by path."""
    found: dict[str, int | tuple[int, int]] = {}
    for where, inner in walk(description, path):
        if inner["type"] == "Sequence":
            found[where] = inner["capacity"]
        elif inner["type"] == "Graph":
            found[where] = (inner["nodes"], inner["edges"])
    return found
