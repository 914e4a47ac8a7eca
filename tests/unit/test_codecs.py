from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from gymnasium import spaces

from rlay.errors import LayoutError, RemoteProtocolError
from rlay.protocol import constants as c
from rlay.protocol.codecs import Codec, compile_codec
from rlay.protocol.constants import RecordKind
from rlay.protocol.layout import Field, Layout, place
from rlay.protocol.leaves import leaves
from rlay.protocol.spaces import describe
from tests.spec.golden_text import plain

INT64 = np.iinfo(np.int64)
Graph = spaces.GraphInstance


class Record:
    """A record with one space at ``p``."""

    def __init__(self, space: spaces.Space[Any], **capacities: Any) -> None:
        paths = {
            "p" + path.replace("__", "/*").replace("_", "/"): n for path, n in capacities.items()
        }
        self.description = describe(space, "p", paths)
        self.layout: Layout = place(
            Field(name, dtype, shape, RecordKind.REQUEST)
            for name, dtype, shape in leaves(self.description, "p")
        )
        # Everything undefined is 0xAA, so that nothing relies on zeros.
        self.memory = memoryview(bytearray(b"\xaa" * self.layout.request_size))
        self.codec: Codec = compile_codec(self.description, "p", self.field)

    def field(self, name: str) -> np.ndarray:
        return self.layout.find(RecordKind.REQUEST, name).view(self.memory)

    def round_trip(self, value: Any, *, copy: bool = True) -> Any:
        self.codec.write(value)
        return self.codec.read(copy=copy)


def bits(dtype: str, *values: int) -> np.ndarray:
    size = np.dtype(dtype).itemsize
    return np.frombuffer(b"".join(v.to_bytes(size, "little") for v in values), dtype).copy()


def box(dtype: str, *shape: int) -> spaces.Box:
    kind = np.dtype(dtype)
    if kind.kind == "b":
        return spaces.Box(0, 1, shape, np.bool_)
    high = np.iinfo(kind).max if kind.kind == "u" else np.inf
    return spaces.Box(0 if kind.kind == "u" else -np.inf, high, shape, kind.type)


ODD = {
    "float16": bits("float16", 0x7C01, 0xFE55, 0x8000, 0x0001),
    "float32": bits("float32", 0x7F800001, 0xFFC12345, 0x80000000, 1),
    "float64": bits("float64", 0x7FF0000000000001, 0xFFF8123456789ABC, 1 << 63, 1),
    "bool": np.array([True, False, True, True]),
    **{
        name: np.array([info.min, info.max, 0, 1], name)
        for name in c.DTYPE_CODES
        if np.dtype(name).kind in "iu"
        for info in [np.iinfo(name)]
    },
}


@pytest.mark.parametrize("dtype", c.DTYPE_CODES)
@pytest.mark.parametrize("copy", [True, False])
def test_arrays_to_the_last_bit(dtype: str, copy: bool) -> None:
    value = ODD[dtype]
    assert plain(Record(box(dtype, 4)).round_trip(value, copy=copy)) == plain(value)
    square = np.asfortranarray(value.reshape(2, 2))
    assert plain(Record(box(dtype, 2, 2)).round_trip(square, copy=copy)) == plain(square)


@pytest.mark.parametrize("dtype", c.DTYPE_CODES)
@pytest.mark.parametrize("number", range(4))
def test_scalars_to_the_last_bit(dtype: str, number: int) -> None:
    value = ODD[dtype][number : number + 1].reshape(())
    for copy in (True, False):
        assert plain(Record(box(dtype)).round_trip(value, copy=copy)) == plain(value)
    in_sequence = Record(spaces.Sequence(box(dtype)), **{"": 2}).round_trip([value, value])
    assert plain(in_sequence) == plain((value, value))


ANY: list[tuple[spaces.Space[Any], dict[str, Any], list[Any]]] = [
    (box("float32", 0, 3), {}, [np.zeros((0, 3), np.float32)]),
    (spaces.Discrete(3), {}, [np.int64(2)]),
    (spaces.Discrete(5, start=-2, dtype=np.int8), {}, [np.int8(-2), np.int8(2)]),
    (spaces.Discrete(2, start=INT64.max - 2), {}, [np.int64(INT64.max - 1)]),
    (spaces.Discrete(9, dtype=np.uint64), {}, [np.uint64(8)]),
    (spaces.MultiDiscrete([[2, 3]], dtype=np.int16), {}, [np.array([[1, 2]], np.int16)]),
    (spaces.MultiBinary(3), {}, [np.array([1, 0, 1], np.int8)]),
    (
        spaces.Text(6, min_length=0, charset="aß€\N{AUTOMOBILE}"),
        {},
        ["", "a", "ß€", "\N{AUTOMOBILE}" * 6],
    ),
    (spaces.Text(2, min_length=0, charset=""), {}, [""]),
    (
        spaces.Dict([("z", spaces.Discrete(2)), ("a/b~", box("int8", 1)), ("", spaces.Dict())]),
        {},
        [{"z": np.int64(1), "a/b~": np.array([-128], np.int8), "": {}}],
    ),
    (spaces.Tuple((spaces.Discrete(2), spaces.Tuple(()))), {}, [(np.int64(1), ())]),
    (
        spaces.OneOf((spaces.Discrete(2), box("float32", 2))),
        {},
        [(np.int64(0), np.int64(1)), (np.int64(1), ODD["float32"][:2])],
    ),
    (
        spaces.Sequence(spaces.Discrete(9)),
        {"": 3},
        [(), (np.int64(8),), tuple(np.arange(3))],
    ),
    (
        spaces.Sequence(spaces.Sequence(spaces.Text(2))),
        {"": 2, "__": 3},
        [(), ((), ()), (("a", "bc", "d"), ("e",))],
    ),
    (
        spaces.Sequence(box("float32", 2), stack=True),
        {"": 2},
        [np.zeros((0, 2), np.float32), ODD["float32"].reshape(2, 2)],
    ),
    (
        spaces.Sequence(spaces.Dict(x=box("int8", 1), n=spaces.Discrete(3)), stack=True),
        {"": 3},
        [{"n": np.array([2, 0]), "x": np.array([[1], [-1]], np.int8)}],
    ),
    (
        spaces.Graph(box("float32", 2), spaces.Discrete(3)),
        {"": (2, 3)},
        [
            Graph(np.zeros((0, 2), np.float32), None, None),
            Graph(
                ODD["float32"].reshape(2, 2),
                np.array([2, 0, 1]),
                np.array([[0, 1], [1, 0], [1, 1]]),
            ),
            Graph(ODD["float32"].reshape(2, 2)[:1], np.zeros(0, int), np.zeros((0, 2), int)),
        ],
    ),
    (
        spaces.Graph(spaces.Discrete(4), None),
        {"": (3, 1)},
        [Graph(np.array([3, 1]), None, np.array([[1, 0]])), Graph(np.array([3]), None, None)],
    ),
    (
        spaces.Sequence(spaces.Graph(box("int8", 1), box("float64"))),
        {"": 2, "__": (2, 2)},
        [
            (
                Graph(np.array([[5]], np.int8), None, None),
                Graph(
                    np.array([[1], [2]], np.int8), ODD["float64"][:2], np.array([[0, 1], [1, 0]])
                ),
            )
        ],
    ),
    (
        spaces.Sequence(spaces.OneOf((spaces.Discrete(2), spaces.MultiBinary(2)))),
        {"": 2},
        [((np.int64(1), np.array([0, 1], np.int8)), (np.int64(0), np.int64(1)))],
    ),
]


@pytest.mark.parametrize(("space", "capacities", "values"), ANY, ids=lambda x: str(x)[:40])
@pytest.mark.parametrize("copy", [True, False])
def test_values_of_every_space(
    space: spaces.Space[Any], capacities: dict[str, Any], values: list[Any], copy: bool
) -> None:
    record = Record(space, **capacities)
    for value in (*values, *reversed(values)):
        assert plain(record.round_trip(value, copy=copy)) == plain(value)


def test_a_copy_is_ones_own_and_a_view_is_not() -> None:
    for dtype in ("int16", "bool"):
        record = Record(box(dtype, 2))
        record.codec.write(np.zeros(2, dtype))
        mine, view = record.codec.read(), record.codec.read(copy=False)
        record.codec.write(np.ones(2, dtype))
        assert mine.tolist() == [0, 0]
        assert view.tolist() == [1, 1]
        assert mine.flags.writeable
        assert mine.flags.owndata or dtype == "bool"
        with pytest.raises(ValueError, match="read-only"):
            view[0] = 0
        record.codec.write(np.zeros(2, dtype))


def test_any_byte_but_zero_is_true() -> None:
    record = Record(box("bool", 3))
    record.field("p").view(np.uint8)[:] = 0, 2, 255
    assert record.codec.read().view(np.uint8).tolist() == [0, 1, 1]


# ---- refusals ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ([1.0], r"shape \(1,\), expected \(2,\)"),
        ([[1.0, 2.0]], r"shape \(1, 2\), expected \(2,\)"),
        (1.0, r"shape \(\), expected \(2,\)"),
        ([[1.0], [1.0, 2.0]], "inhomogeneous"),
        (["a", "b"], "is not an array of float32"),
        ("ab", "str 'ab' is not an array of float32"),
        (None, "NoneType None is not an array"),
        ([1j, 2j], "is not an array of float32"),
        ([2**64, -1], "is not an array of float32"),
        ({"a": 1}, "dict .* is not an array"),
    ],
)
def test_what_is_no_array_of_the_space(value: Any, text: str) -> None:
    with pytest.raises(LayoutError, match=f"^p: .*{text}"):
        Record(box("float32", 2)).codec.write(value)


def tuples(*inner: spaces.Space[Any]) -> spaces.Tuple:
    return spaces.Tuple(inner)


WRONG: list[tuple[spaces.Space[Any], dict[str, Any], Any, str]] = [
    (spaces.Discrete(3), {}, 3.7, "p: 3.7 is no integer"),
    (spaces.Discrete(3), {}, np.float32(1), "p: .* is no integer"),
    (spaces.Discrete(3), {}, "1", "p: '1' is no integer"),
    (spaces.Discrete(3), {}, None, "p: None is no integer"),
    (spaces.Discrete(3), {}, [1], r"p: \[1\] is no integer"),
    (spaces.Discrete(3), {}, 2**63, "p: 9223372036854775808 cannot be held by int64"),
    (spaces.Discrete(3, dtype=np.uint8), {}, -1, "p: -1 cannot be held by uint8"),
    (spaces.MultiDiscrete([2, 2]), {}, [0, 0.5], "p: 0.5 cannot be held by int64"),
    (spaces.MultiBinary(2), {}, [0, 300], "p: 300 cannot be held by int8"),
    (spaces.Text(2), {}, b"ab", "p: b'ab' is not a str"),
    (spaces.Text(2), {}, "abc", "p: 'abc' takes 3 bytes and .* allow 2"),
    (spaces.Text(2), {}, "\ud800", "p: '.ud800' holds a lone surrogate"),
    (spaces.Dict(a=spaces.Discrete(2)), {}, [1], r"p: \[1\] is not a dict"),
    (spaces.Dict(a=spaces.Discrete(2)), {}, {}, r"p: the keys .* missing \['a'\], unknown \[\]"),
    (spaces.Dict(a=spaces.Discrete(2)), {}, {"a": 1, 2: 3}, r"missing \[\], unknown \['2'\]"),
    (spaces.Dict({"x/y": spaces.Discrete(2)}), {}, {"x/y": "z"}, "p/x~1y: 'z' is no integer"),
    (tuples(spaces.Discrete(2)), {}, 3, "p: 3 is not a tuple of 1 values"),
    (tuples(spaces.Discrete(2)), {}, (1, 1), r"p: \(1, 1\) is not a tuple of 1 values"),
    (tuples(spaces.Discrete(2), box("int8", 1)), {}, (1, [300]), "p/1: 300 cannot be held"),
    (spaces.OneOf([spaces.Discrete(2)]), {}, 1, r"p: 1 is not \(index, value\)"),
    (spaces.OneOf([spaces.Discrete(2)]), {}, (1, 1), "p: 1 is no index below 1"),
    (spaces.OneOf([spaces.Discrete(2)]), {}, (-1, 1), "p: -1 is no index below 1"),
    (spaces.OneOf([spaces.Discrete(2)]), {}, ("0", 1), "p: '0' is no index below 1"),
    (spaces.OneOf([spaces.Discrete(2)]), {}, (0, 0.5), "p/0: 0.5 is no integer"),
    (spaces.Sequence(spaces.Discrete(2)), {"": 2}, 3, "p: 3 is not a sequence"),
    (
        spaces.Sequence(spaces.Discrete(2)),
        {"": 2},
        [0, 1, 0],
        "p: 3 elements, declared capacity 2; raise it: capacities={'p': 3}",
    ),
    (spaces.Sequence(spaces.Discrete(2)), {"": 2}, [0, 0.5], r"p/\*: 0.5 is no integer"),
    (
        spaces.Sequence(spaces.Dict(a=spaces.Discrete(2)), stack=True),
        {"": 2},
        {"b": [0]},
        "p: .* is not a sequence",
    ),
    (spaces.Sequence(box("int8", 1), stack=True), {"": 2}, 7, "p: 7 is not a sequence"),
    (spaces.Graph(box("int8", 1), None), {"": (1, 1)}, 3, "p: 3 is not a GraphInstance"),
    (spaces.Graph(box("int8", 1), None), {"": (1, 1)}, (1, 2), "p: .* is not a GraphInstance"),
    (
        spaces.Graph(box("int8", 1), None),
        {"": (1, 1)},
        Graph(None, None, None),
        "p/nodes: None is not an array",
    ),
    (
        spaces.Graph(box("int8", 1), None),
        {"": (1, 1)},
        Graph([[1], [2]], None, None),
        "p: 2 nodes, declared capacity 1",
    ),
    (
        spaces.Graph(box("int8", 1), None),
        {"": (1, 1)},
        Graph([[1]], None, [[0, 0], [0, 0]]),
        "p: 2 edges, declared capacity 1",
    ),
    (
        spaces.Graph(box("int8", 1), None),
        {"": (1, 1)},
        Graph([[1, 2]], None, None),
        r"p/nodes: shape \(1, 2\), expected \(1, 1\)",
    ),
    (
        spaces.Graph(box("int8", 1), None),
        {"": (1, 1)},
        Graph([[1]], [0], None),
        "p: edges without edge_links",
    ),
    (
        spaces.Graph(box("int8", 1), None),
        {"": (1, 1)},
        Graph([[1]], [0], [[0, 0]]),
        "p: edges, but the space has none",
    ),
    (
        spaces.Graph(box("int8", 1), spaces.Discrete(2)),
        {"": (1, 1)},
        Graph([[1]], None, [[0, 0]]),
        "p/edges: NoneType None is not an array",
    ),
]


@pytest.mark.parametrize(("space", "capacities", "value", "text"), WRONG)
def test_what_is_no_value_of_the_space(
    space: spaces.Space[Any], capacities: dict[str, Any], value: Any, text: str
) -> None:
    with pytest.raises(LayoutError, match=text):
        Record(space, **capacities).codec.write(value)


def test_convenient_values_are_taken() -> None:
    assert Record(spaces.Discrete(3)).round_trip(True) == 1
    assert Record(spaces.Discrete(3)).round_trip(np.array(2)) == 2
    assert Record(box("float32", 2)).round_trip([1, 2]).tolist() == [1, 2]
    assert Record(tuples(spaces.Discrete(3))).round_trip([2]) == (2,)
    assert Record(spaces.OneOf([spaces.Discrete(3)])).round_trip([0, 2]) == (0, 2)
    assert Record(spaces.Sequence(spaces.Discrete(3)), **{"": 3}).round_trip(range(3)) == (0, 1, 2)


# ---- hostile records -----------------------------------------------------------------


def number(value: int) -> Callable[[np.ndarray], None]:
    def put(view: np.ndarray) -> None:
        view[...] = value

    return put


TREE = spaces.Sequence(spaces.Sequence(spaces.Text(2)))
NET = spaces.Graph(box("int8", 1), spaces.Discrete(2))


@pytest.mark.parametrize(
    ("space", "capacities", "value", "field", "bad", "text"),
    [
        (spaces.Text(3), {}, "abc", "p#length", 4, "p#length is 4, at most 3 fit"),
        (spaces.Text(3), {}, "abc", "p#length", 2**32 - 1, "p#length is 4294967295"),
        (spaces.Text(3), {}, "abc", "p", 0xFF, "p: the peer's text is not UTF-8"),
        (spaces.OneOf([spaces.Discrete(2)]), {}, (0, 1), "p#index", 1, "p#index is 1, at most 0"),
        (TREE, {"": 2, "__": 2}, [["a"]], "p#length", 3, "p#length is 3, at most 2"),
        (TREE, {"": 2, "__": 2}, [["a"]], "p/*#length", 9, r"p/\*#length is 9, at most 2"),
        (TREE, {"": 2, "__": 2}, [["a"]], "p/*/*#length", 3, "length is 3, at most 2"),
        (NET, {"": (2, 2)}, Graph([[1]], [1], [[0, 0]]), "p#nodes", 3, "p#nodes is 3, at most 2"),
        (NET, {"": (2, 2)}, Graph([[1]], [1], [[0, 0]]), "p#edges", 3, "p#edges is 3, at most 2"),
        (
            NET,
            {"": (2, 2)},
            Graph([[1]], [1], [[0, 0]]),
            "p#edges",
            2**32 - 2,
            "p#edges is 4294967294",
        ),
    ],
)
@pytest.mark.parametrize("copy", [True, False])
def test_counts_and_text_of_a_hostile_peer(
    space: spaces.Space[Any],
    capacities: dict[str, Any],
    value: Any,
    field: str,
    bad: int,
    text: str,
    copy: bool,
) -> None:
    record = Record(space, **capacities)
    record.codec.write(value)
    record.codec.read(copy=copy)
    number(bad)(record.field(field))
    with pytest.raises(RemoteProtocolError, match=text):
        record.codec.read(copy=copy)


def test_counts_at_capacity_are_good() -> None:
    record = Record(NET, **{"": (2, 2)})
    value = Graph(np.array([[1], [2]], np.int8), np.array([1, 0]), np.array([[0, 1], [1, 0]]))
    assert plain(record.round_trip(value)) == plain(value)
