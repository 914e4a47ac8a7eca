from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from gymnasium import spaces

from rlay.errors import SchemaError, UnsupportedSpaceError
from rlay.protocol.spaces import (
    capacities_of,
    describe,
    describe_info,
    escape,
    space_from,
    unused_capacities,
    walk,
)

INT64 = np.iinfo(np.int64)
CAPACITIES = {
    "p": 3,
    "p/s": 4,
    "p/*": 2,
    "p/g": (2, 3),
    "p/a~1b~0c": 5,
}
BITS = {"type": "MultiBinary", "shape": [2]}

SPACES: list[spaces.Space[Any]] = [
    spaces.Box(-1, 1, (2, 3), np.float32),
    spaces.Box(np.array([0.1, -np.inf]), np.array([np.inf, 7.5]), dtype=np.float64),
    spaces.Box(-1, 1, (), np.float16),
    spaces.Box(0, 255, (4, 0, 3), np.uint8),
    spaces.Box(INT64.min, INT64.max, (2,), np.int64),
    spaces.Box(0, 2**64 - 1, (), np.uint64),
    spaces.Box(-np.inf, np.inf, (2,), np.int32),
    spaces.Box(np.array([0, -5]), np.array([9, 5]), dtype=np.int16),
    spaces.Box(0, 1, (3,), np.bool_),
    spaces.Discrete(3),
    spaces.Discrete(5, start=-2, dtype=np.int8),
    spaces.Discrete(2, start=2**63 - 3),
    spaces.Discrete(200, start=1, dtype=np.uint8),
    spaces.MultiDiscrete([2, 3]),
    spaces.MultiDiscrete([[2, 3], [4, 5]], dtype=np.uint16, start=[[0, 1], [2, 3]]),
    spaces.MultiBinary(5),
    spaces.MultiBinary((2, 3)),
    spaces.Text(5),
    spaces.Text(5, min_length=0, charset="zaß\N{AUTOMOBILE}"),
    spaces.Dict(
        [("z", spaces.Discrete(2)), ("a/b~c", spaces.MultiBinary(1)), ("", spaces.Text(1))]
    ),
    spaces.Dict(),
    spaces.Tuple((spaces.Discrete(2), spaces.Tuple(()))),
    spaces.OneOf((spaces.Discrete(2), spaces.Box(-1, 1, (1,)))),
    spaces.Sequence(spaces.Box(-1, 1, (2,))),
    spaces.Sequence(spaces.Sequence(spaces.Discrete(2), stack=True)),
    spaces.Dict(g=spaces.Graph(spaces.Box(-1, 1, (2,)), spaces.Discrete(3))),
    spaces.Dict(g=spaces.Graph(spaces.Discrete(3), None)),
]


@pytest.mark.parametrize("space", SPACES, ids=str)
def test_there_and_back(space: spaces.Space[Any]) -> None:
    description = describe(space, "p", CAPACITIES)
    back = space_from(description, "p")
    assert back == space
    assert describe(back, "p", CAPACITIES) == description
    space.seed(7)
    back.seed(7)
    for _ in range(5):
        assert str(back.sample()) == str(space.sample())


def test_dicts_keep_their_order() -> None:
    space = spaces.Dict([("z", spaces.Discrete(2)), ("a", spaces.Discrete(2))])
    assert [*space_from(describe(space, "p", {}), "p").spaces] == ["z", "a"]  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("space", "bounds"),
    [
        (spaces.Box(0, 1, (2,)), (0.0, 1.0)),
        (spaces.Box(np.float32([0, 1]), np.float32([2, 2])), ([0.0, 1.0], 2.0)),
        (spaces.Box(-np.inf, np.inf, ()), ("-inf", "inf")),
        (spaces.Box(np.float32([-np.inf, 1]), 2), (["-inf", 1.0], 2.0)),
        (spaces.Box(-np.inf, 7, (1,), np.int8), ("-inf", 7)),
        (spaces.Box(0, 1, (0,)), ([], [])),
    ],
)
def test_bounds(space: spaces.Box, bounds: tuple[Any, Any]) -> None:
    description = describe(space, "p", {})
    assert (description["low"], description["high"]) == bounds


def test_an_integer_box_without_bounds_stays_one() -> None:
    back = space_from(describe(spaces.Box(-np.inf, 7, (2,), np.int8), "p", {}), "p")
    assert isinstance(back, spaces.Box)
    assert not back.bounded_below.any()
    assert back.bounded_above.all()


class Odd(spaces.Space[Any]):
    """A space nobody knows."""


class Registered(Odd):
    """A space that a user has registered."""


describe.register(
    Registered, lambda space, path, capacities: describe(spaces.Discrete(7), path, {})
)


def test_a_space_of_ones_own() -> None:
    assert describe(Registered(), "p", {})["n"] == 7
    nested = spaces.Tuple((Registered(),))
    assert describe(nested, "p", {})["spaces"][0]["type"] == "Discrete"


GRAPH = spaces.Graph(spaces.Box(-1, 1, (2,)), None)
BAD_NODE = spaces.Graph(spaces.Box(-1, 1, (2,)), None)
BAD_NODE.node_space = spaces.MultiBinary(2)
BAD_EDGE = spaces.Graph(spaces.Box(-1, 1, (2,)), spaces.Discrete(2))
BAD_EDGE.edge_space = spaces.Text(2)
BAD_KEY = spaces.Dict()
BAD_KEY.spaces[3] = spaces.Discrete(2)  # type: ignore[index]
COMPLEX = spaces.Box(0, 1, (1,))
COMPLEX.dtype = np.dtype(np.complex64)


@pytest.mark.parametrize(
    ("space", "capacities", "path", "text"),
    [
        (Odd(), {}, "p", "unknown type; register it with .*describe.register"),
        (spaces.Dict({"a/b": Odd()}), {}, "p/a~1b", "unknown type"),
        (spaces.Tuple((spaces.Discrete(2), Odd())), {}, "p/1", "Odd space cannot be laid out"),
        (spaces.Sequence(spaces.Discrete(2)), {}, "p", r"declare one: capacities={'p': 16}"),
        (spaces.Sequence(Odd()), {"p": 2}, "p/*", "unknown type"),
        (
            spaces.OneOf([spaces.Sequence(spaces.Discrete(2))]),
            {},
            "p/0",
            r"capacities={'p/0': 16}",
        ),
        (GRAPH, {}, "p", r"capacities={'p': \(10, 90\)}"),
        (spaces.Sequence(spaces.Discrete(2)), {"p": -1}, "p", "capacity -1 is not a count"),
        (spaces.Sequence(spaces.Discrete(2)), {"p": True}, "p", "capacity True is not a count"),
        (spaces.Sequence(spaces.Discrete(2)), {"p": (1, 2)}, "p", r"capacity \(1, 2\) is not"),
        (GRAPH, {"p": 3}, "p", r"capacity 3 is not \(nodes, edges\)"),
        (GRAPH, {"p": (3,)}, "p", "is not .nodes, edges."),
        (GRAPH, {"p": (3, -1)}, "p", "is not .nodes, edges."),
        (GRAPH, {"p": (1.5, 2)}, "p", "is not .nodes, edges."),
        (GRAPH, {"p": ("a", 2)}, "p", "is not .nodes, edges."),
        (BAD_NODE, {"p": (1, 1)}, "p/nodes", "a Graph holds Box or Discrete"),
        (BAD_EDGE, {"p": (1, 1)}, "p/edges", "a Graph holds Box or Discrete"),
        (BAD_KEY, {}, "p", "key 3 is not a string"),
        (COMPLEX, {}, "p", "dtype complex64 is not one of"),
        (spaces.Text(2, charset="a\ud800"), {}, "p", "charset holds a lone surrogate"),
    ],
)
def test_what_cannot_be_laid_out(
    space: spaces.Space[Any], capacities: dict[str, Any], path: str, text: str
) -> None:
    with pytest.raises(UnsupportedSpaceError, match=text) as caught:
        describe(space, "p", capacities)
    assert caught.value.path == path
    assert str(caught.value).startswith(f"{path}: ")


@pytest.mark.parametrize(
    ("key", "path"), [("a/b", "a~1b"), ("a~b", "a~0b"), ("~1", "~01"), ("", "")]
)
def test_keys_are_escaped_as_in_json_pointers(key: str, path: str) -> None:
    assert escape(key) == path


def nested() -> dict[str, Any]:
    inner = spaces.Sequence(spaces.Tuple((spaces.Sequence(spaces.Discrete(2)),)))
    space = spaces.Dict(
        {"s": inner, "o": spaces.OneOf([GRAPH]), "x/y": spaces.Sequence(spaces.Discrete(2))}
    )
    capacities = {"p/s": 4, "p/s/*/0": 5, "p/o/0": (1, 2), "p/x~1y": 6}
    assert capacities_of(describe(space, "p", capacities), "p") == capacities
    return describe(space, "p", capacities)


def test_capacities_come_back() -> None:
    assert nested()["type"] == "Dict"


def test_walk_goes_top_down() -> None:
    assert [path for path, _ in walk(nested(), "p")] == [
        *("p", "p/o", "p/o/0", "p/s", "p/s/*", "p/s/*/0", "p/s/*/0/*", "p/x~1y", "p/x~1y/*")
    ]


def test_capacities_that_name_nothing() -> None:
    stray = {"p/s": 1, "p/o": 2, "p/x/y": 3, "p": 4, "q": 5}
    assert unused_capacities(nested(), "p", stray) == ["p/o", "p/x/y", "p"]


BOX = {"type": "Box", "dtype": "float32", "shape": [2], "low": 0, "high": 1}
DISCRETE = {"type": "Discrete", "dtype": "int64", "n": 2, "start": 0}
MULTI = {"type": "MultiDiscrete", "dtype": "int64", "shape": [2], "nvec": [2, 3], "start": [0, 0]}
TEXT = {"type": "Text", "charset": "ab", "min_length": 0, "max_length": 3}
SEQUENCE = {"type": "Sequence", "space": BITS, "stack": False, "capacity": 2}
GRAPHIC = {"type": "Graph", "node": DISCRETE, "edge": None, "nodes": 1, "edges": 2}
TOO_MANY = 2**31


@pytest.mark.parametrize(
    ("description", "location"),
    [
        (None, "at"),
        ([], "at"),
        ({}, "at"),
        ({"type": 3}, "at"),
        ({"type": ["Box"]}, "at"),
        ({"type": "box"}, "at"),
        (BOX | {"dtype": "float128"}, "at/dtype"),
        (BOX | {"dtype": "object"}, "at/dtype"),
        (BOX | {"dtype": 7}, "at/dtype"),
        ({"type": "Box"}, "at"),
        ({"type": "Box", "dtype": "int8"}, "at"),
        (BOX | {"shape": [-1]}, "at/shape/0"),
        (BOX | {"shape": [1.0]}, "at/shape/0"),
        (BOX | {"shape": [True]}, "at/shape/0"),
        (BOX | {"shape": ["2"]}, "at/shape/0"),
        (BOX | {"shape": [2**32]}, "at/shape/0"),
        (BOX | {"shape": [TOO_MANY]}, "at"),
        (BOX | {"shape": [2**20, 2**20]}, "at/shape"),
        (BOX | {"shape": 2}, "at/shape"),
        (BOX | {"shape": None}, "at/shape"),
        (BOX | {"low": [0, 0, 0]}, "at/low"),
        (BOX | {"low": "nan"}, "at/low"),
        (BOX | {"low": None}, "at/low"),
        (BOX | {"low": {}}, "at/low"),
        (BOX | {"low": float("nan")}, "at/low"),
        (BOX | {"low": 2}, "at"),
        (BOX | {"low": "inf"}, "at"),
        (BOX | {"high": ["no", 1]}, "at/high/0"),
        (BOX | {"dtype": "uint8", "high": 300}, "at/high"),
        (BOX | {"dtype": "uint8", "low": -1}, "at/low"),
        (DISCRETE | {"n": 0}, "at/n"),
        (DISCRETE | {"n": -2}, "at/n"),
        (DISCRETE | {"n": 2.0}, "at/n"),
        (DISCRETE | {"n": 2**70}, "at/n"),
        (DISCRETE | {"start": "0"}, "at/start"),
        (DISCRETE | {"dtype": "float32"}, "at/dtype"),
        (DISCRETE | {"dtype": "int8", "n": 1000}, "at"),
        (MULTI | {"nvec": [2]}, "at/nvec"),
        (MULTI | {"nvec": [2, 2.7]}, "at/nvec/1"),
        (MULTI | {"nvec": [True, 2]}, "at/nvec/0"),
        (MULTI | {"nvec": ["2", 2]}, "at/nvec/0"),
        (MULTI | {"start": [0, None]}, "at/start/1"),
        (MULTI | {"nvec": [0, 1]}, "at/nvec/0"),
        (MULTI | {"nvec": [2**70, 1]}, "at/nvec/0"),
        (MULTI | {"nvec": 3}, "at/nvec"),
        (MULTI | {"dtype": "bool"}, "at/dtype"),
        ({"type": "MultiBinary"}, "at"),
        ({"type": "MultiBinary", "shape": [0]}, "at"),
        ({"type": "MultiBinary", "shape": [2**16, 2**17]}, "at/shape"),
        (TEXT | {"charset": ["a"]}, "at/charset"),
        (TEXT | {"charset": None}, "at/charset"),
        (BOX | {"dtype": "int8", "low": 0.5}, "at/low"),
        (BOX | {"dtype": "int8", "high": [1, 1.0]}, "at/high/1"),
        (BOX | {"dtype": "int8", "high": True}, "at/high"),
        (BOX | {"dtype": "bool"}, "at/low"),
        (BOX | {"high": 1e39}, "at/high"),
        (BOX | {"high": 10**400}, "at/high"),
        (BOX | {"low": [[0], [0]]}, "at/low/0"),
        (BOX | {"shape": [0, 2**32 - 1, 2**32 - 1]}, "at/shape"),
        (TEXT | {"max_length": 10**4299}, "at/max_length"),
        (TEXT | {"max_length": -1}, "at/max_length"),
        (TEXT | {"max_length": 2.5}, "at/max_length"),
        (TEXT | {"min_length": 4}, "at"),
        ({"type": "Text"}, "at"),
        ({"type": "Dict"}, "at"),
        ({"type": "Dict", "spaces": {"a": BITS}}, "at/spaces"),
        ({"type": "Dict", "spaces": [["a"]]}, "at/spaces/0"),
        ({"type": "Dict", "spaces": [[1, BITS]]}, "at/spaces/0"),
        ({"type": "Dict", "spaces": [["a", BITS], [None, BITS]]}, "at/spaces/1"),
        ({"type": "Dict", "spaces": [["a", {"type": "Bux"}]]}, "at/spaces/0"),
        ({"type": "Dict", "spaces": [["a", BITS], ["a", BITS]]}, "at/spaces/1"),
        ({"type": "Dict", "spaces": [["k" * 160, BITS]]}, "at/spaces/0"),
        ({"type": "Dict", "spaces": [["a", BITS, BITS]]}, "at/spaces/0"),
        ({"type": "Dict", "spaces": ["ab"]}, "at/spaces/0"),
        ({"type": "Tuple", "spaces": ""}, "at/spaces"),
        ({"type": "Tuple", "spaces": [BOX | {"shape": [2**30 - 1]}] * 2}, "at"),
        ({"type": "Tuple", "spaces": 3}, "at/spaces"),
        ({"type": "Tuple", "spaces": [BITS, None]}, "at/spaces/1"),
        ({"type": "OneOf", "spaces": []}, "at"),
        ({"type": "OneOf", "spaces": [BITS, DISCRETE | {"n": 0}]}, "at/spaces/1/n"),
        (SEQUENCE | {"stack": 3}, "at/stack"),
        (SEQUENCE | {"stack": None}, "at/stack"),
        (SEQUENCE | {"capacity": 0, "space": BOX | {"shape": [2**30]}}, "at"),
        (SEQUENCE | {"capacity": -1}, "at/capacity"),
        (SEQUENCE | {"capacity": 2**32}, "at/capacity"),
        (SEQUENCE | {"capacity": 1.5}, "at/capacity"),
        (SEQUENCE | {"space": []}, "at/space"),
        (GRAPHIC | {"nodes": None}, "at/nodes"),
        (GRAPHIC | {"edges": -1}, "at/edges"),
        (GRAPHIC | {"node": BITS}, "at/node"),
        (GRAPHIC | {"node": None}, "at/node"),
        (GRAPHIC | {"edge": TEXT}, "at/edge"),
    ],
)
def test_hostile_descriptions(description: Any, location: str) -> None:
    with pytest.raises(SchemaError) as caught:
        space_from(description, "at")
    assert caught.value.location == location


def test_the_unharmed_descriptions_are_good() -> None:
    for description in (BOX, DISCRETE, MULTI, TEXT, SEQUENCE, GRAPHIC, BITS):
        assert space_from(description, "at")


@pytest.mark.parametrize("dtype", ["bool", "int8", "uint64", "float16", "float64"])
def test_a_scalar_without_bounds_of_every_kind(dtype: str) -> None:
    box = space_from(describe_info("x", dtype, {}), "info.x")
    assert (box.shape, box.dtype) == ((), np.dtype(dtype))
