"""rlay.protocol.body: exact round trips, refusals that name the key, hostile bytes."""

from __future__ import annotations

import struct
from collections import OrderedDict
from enum import IntEnum
from typing import Any

import msgspec
import numpy as np
import pytest

from rlay.errors import BodyTooLargeError, LayoutError, RemoteProtocolError
from rlay.protocol.body import MAX_DEPTH, decode_body, encode_body

pack = msgspec.msgpack.encode


def encode(value: Any, capacity: int = 1 << 20) -> bytes:
    return encode_body(value, capacity=capacity, what="info", setting="body_capacity")


def identical(left: Any, right: Any) -> bool:
    """Equal in type, structure and bits."""
    if type(left) is not type(right):
        return False
    if isinstance(left, (list, tuple)):
        return len(left) == len(right) and all(map(identical, left, right))
    if isinstance(left, dict):
        return list(left) == list(right) and all(identical(left[k], right[k]) for k in left)
    if isinstance(left, np.ndarray):
        return (
            left.dtype.newbyteorder("<") == right.dtype
            and left.shape == right.shape
            and left.astype(right.dtype).tobytes() == right.tobytes()
        )
    if isinstance(left, (np.str_, np.bytes_)):
        return bool(left == right)
    if isinstance(left, np.generic):
        return left.dtype == right.dtype and left.tobytes() == right.tobytes()
    if isinstance(left, float):
        return struct.pack("<d", left) == struct.pack("<d", right)
    if isinstance(left, complex):
        return identical([left.real, left.imag], [right.real, right.imag])
    return bool(left == right)


def nested(depth: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(depth - 1):
        value = [value]
    return value


ODD_NAN = struct.unpack("<d", (0x7FF8_0000_DEAD_BEEF).to_bytes(8, "little"))[0]

VALUES = [
    True,
    0,
    -1,
    2**53 + 1,
    2**63 - 1,
    -(2**63),
    2**64 - 1,
    2**64,
    -(2**63) - 1,
    -(2**71),
    2**71 - 1,
    10**400,
    -0.0,
    float("inf"),
    ODD_NAN,
    complex(-0.0, ODD_NAN),
    "",
    "naïve \N{SNOWMAN} \0",
    b"",
    b"\xff\0",
    [],
    (),
    [1, (2, [3, ()]), {"x": None}],
    {"a": 1, "b": 2.5, "c": "d", "e": None, "f": False},
    {"a": {}, 3: [], -(2**63): 1, 2**64 - 1: 2},
    {"big": 2**64},
    {1: "one", "1": "text"},
    np.float64(1.5),
    np.float32("nan"),
    np.float16(-0.0),
    np.bool_(True),
    np.int64(-(2**63)),
    np.uint8(255),
    np.complex64(1 - 2j),
    np.str_("a\0"),
    np.str_(""),
    np.bytes_(b"a\0\0"),
    np.datetime64("2020-01-01T00:00:00", "ms"),
    np.datetime64("NaT"),
    np.timedelta64(3, "25us"),
    np.array(7, np.int16),
    np.zeros((0, 3), np.float32),
    np.zeros((2, 0, 2**20), "S7"),
    np.arange(24, dtype=np.uint64).reshape(2, 3, 4),
    np.arange(24).reshape(4, 6)[::2, ::-3],
    np.arange(6, dtype=np.float32).reshape(2, 3).T,
    np.array([True, False]),
    np.array([1 + 2j, -0.0]),
    np.array(["a", "bc\N{SNOWMAN}", ""]),
    np.array([b"a", b"bcd"]),
    np.array(["2020-01-01", "NaT"], "M8[D]"),
    np.array([1, -1], "m8[10ns]"),
    np.arange(3, dtype=">i4"),
    np.array(["x", "yz"], ">U2"),
    {"lidar": np.ones(5), "pose": (np.float32(1), [np.arange(2)])},
    nested(MAX_DEPTH),
]


@pytest.mark.parametrize("value", VALUES, ids=lambda value: f"{type(value).__name__}")
def test_round_trip(value: Any) -> None:
    assert identical(value, decode_body(encode(value)))


def test_nothing_costs_nothing() -> None:
    assert encode(None, capacity=0) == b""
    assert decode_body(b"") is None


@pytest.mark.parametrize("value", [[], {}])
def test_a_container_that_is_empty_is_not_nothing(value: Any) -> None:
    assert decode_body(encode(value)) == value


def test_arrays_come_back_writable_and_own_their_memory() -> None:
    data = encode({"a": np.arange(4.0), "b": np.zeros((2, 2), np.uint8)})
    for array in decode_body(data).values():
        assert array.flags.owndata
        assert array.flags.writeable
        array += 1
    assert decode_body(data)["a"].tolist() == [0, 1, 2, 3]


def test_bools_that_are_a_view_of_a_mask_arrive_as_bools() -> None:
    mask = np.array([0, 255, 1], np.uint8).view(bool)[::-1]
    assert decode_body(encode(mask)).view(np.uint8).tolist() == [1, 1, 0]


@pytest.mark.parametrize(
    ("value", "data"),
    [
        (np.arange(2, dtype=">i2"), pack(msgspec.msgpack.Ext(1, pack(["<i2", [2], b"\0\0\1\0"])))),
        (np.uint8(3), pack(msgspec.msgpack.Ext(2, pack(["|u1", b"\3"])))),
        ((1, "a"), pack(msgspec.msgpack.Ext(3, pack([1, "a"])))),
        (2**64, pack(msgspec.msgpack.Ext(4, bytes(8) + b"\1"))),
        (-(2**71), pack(msgspec.msgpack.Ext(4, bytes(8) + b"\x80"))),
        (1j, pack(msgspec.msgpack.Ext(5, struct.pack("<dd", 0, 1)))),
    ],
    ids=["array", "scalar", "tuple", "integer", "negative", "complex"],
)
def test_extension_types_are_as_the_specification_says(value: Any, data: bytes) -> None:
    assert encode(value) == data
    assert identical(decode_body(data), decode_body(encode(value)))


class Colour(IntEnum):
    RED = 1


@pytest.mark.parametrize(
    ("value", "path", "text"),
    [
        ({"camera": {"lens": {1}}}, 'info["camera"]["lens"]', "type set .* convert it to a list"),
        ({"a": [0, frozenset()]}, 'info["a"][1]', "type frozenset .* convert it to a list"),
        ({3: (1, object())}, "info[3][1]", "type object"),
        ({'q"\n': print}, r'info["q\"\n"]', "type builtin_function_or_method"),
        (bytearray(2), "info", "type bytearray .* convert it to bytes"),
        ({"a": memoryview(b"")}, 'info["a"]', "type memoryview .* convert it to bytes"),
        ({"a": Colour.RED}, 'info["a"]', "type Colour .* convert it to an int"),
        ({"a": OrderedDict(b=1)}, 'info["a"]', "type OrderedDict .* convert it to a dict"),
        ({"a": np.ma.zeros(3)}, 'info["a"]', "type MaskedArray .* convert it to a ndarray"),
        ({"a": np.array([None])}, 'info["a"]', "dtype object"),
        ({"a": np.zeros(1, "i4,f4")}, 'info["a"]', "dtype "),
        ({"a": np.zeros(1, "V4")}, 'info["a"]', r"dtype \|V4"),
        ({"a": np.zeros(1, "i4,f4")[0]}, 'info["a"]', "dtype "),
        ({"a": np.ndarray((2,), "U0")}, 'info["a"]', "dtype <U0 .* U1"),
        ({"a": "\ud800"}, 'info["a"]', "lone surrogate"),
        ({"\udc80": 1}, r'info["\udc80"]', "lone surrogate"),
        ({"a": {1.5: 0}}, 'info["a"]', r"key of type float \(1.5\)"),
        ({"a": {True: 0}}, 'info["a"]', "key of type bool"),
        ({np.str_("a"): 0}, "info", "key of type str_"),
        ({2**64: 0}, "info", "integer key beyond 64 bits"),
    ],
)
def test_what_cannot_be_encoded_is_named(value: Any, path: str, text: str) -> None:
    with pytest.raises(LayoutError, match=text) as caught:
        encode(value)
    assert str(caught.value).startswith(f"{path}: ")


@pytest.mark.skipif(np.dtype("g").itemsize == 8, reason="long double is a double here")
def test_floats_of_a_machine_dependent_width() -> None:
    for value in (np.longdouble(1), np.zeros(2, np.clongdouble)):
        with pytest.raises(LayoutError, match=r'info\["x"\]: array of dtype .*128|256'):
            encode({"x": value})


def test_nesting_too_deep() -> None:
    with pytest.raises(LayoutError, match=f"nested deeper than {MAX_DEPTH} levels"):
        encode(nested(MAX_DEPTH + 1))
    with pytest.raises(LayoutError, match="nested deeper"):
        encode({"a": nested(100_000)})


def test_a_cycle() -> None:
    value: dict[str, Any] = {"plain": 1}
    value["me"] = (value,)
    with pytest.raises(LayoutError, match="or contains itself"):
        encode(value)


def test_too_large_names_the_largest_key() -> None:
    value = {"small": 1, "picture": np.zeros(1000, np.uint8), "text": "x" * 500}
    size = len(encode(value))
    assert len(encode(value, capacity=size)) == size
    with pytest.raises(BodyTooLargeError, match="raise body_capacity") as caught:
        encode(value, capacity=size - 1)
    assert (caught.value.key, caught.value.size, caught.value.capacity) == (
        'info["picture"]',
        size,
        size - 1,
    )


def test_too_large_without_keys_names_the_root() -> None:
    with pytest.raises(BodyTooLargeError) as caught:
        encode([1, 2, 3], capacity=3)
    assert caught.value.key == "info"


def ext(code: int, *items: Any) -> bytes:
    return pack(msgspec.msgpack.Ext(code, pack(list(items))))


def raw(code: int, data: bytes) -> bytes:
    return pack(msgspec.msgpack.Ext(code, data))


def tuples(depth: int) -> bytes:
    data = pack([])
    for _ in range(depth):
        data = b"\x91" + raw(3, data)
    return data


HOSTILE = {
    "reserved opcode": b"\xc1",
    "truncated": b"\x92\x01",
    "trailing bytes": b"\x01\x01",
    "a list of 4 billion": b"\xdd\xff\xff\xff\xff",
    "a map of 4 billion": b"\xdf\xff\xff\xff\xff",
    "4 billion bytes": b"\xc6\xff\xff\xff\xff",
    "text that is not UTF-8": b"\xa1\xff",
    "a key that is not UTF-8": b"\x81\xa1\xff\x01",
    "deep lists": b"\x91" * 200_000,
    "deep maps": b"\x81\x01" * 200_000,
    "lists one too deep": b"\x91" * MAX_DEPTH + b"\x90",
    "tuples too deep": tuples(MAX_DEPTH),
    "deep tuples": tuples(1500),
    "a list as key": b"\x81\x90\x01",
    "a map as key": b"\x81\x80\x01",
    "a float as key": pack({1.5: 1}),
    "None as key": b"\x81\xc0\x01",
    "bytes as key": b"\x81\xc4\x01a\x01",
    "an array as key": b"\x81" + ext(1, "|u1", [1], b"a") + b"\x01",
    "a scalar as key": b"\x81" + ext(2, "|u1", b"a") + b"\x01",
    "a timestamp": b"\xd6\xff\0\0\0\0",
    "extension 0": raw(0, b""),
    "extension 6": raw(6, b""),
    "extension -2": raw(-2, b""),
    "an integer of nothing": raw(4, b""),
    "a short complex": raw(5, bytes(15)),
    "a long complex": raw(5, bytes(17)),
    "an array of nothing": raw(1, b""),
    "an array that is a map": raw(1, b"\x80"),
    "an array that is a number": raw(1, b"\x01"),
    "an array of two items": ext(1, "<f8", [0]),
    "an array of four items": ext(1, "<f8", [0], b"", 0),
    "a tuple that is a map": raw(3, b"\x80"),
    "a tuple and more": raw(3, b"\x90\x90"),
    "dtype not text": ext(1, 8, [0], b""),
    "dtype object": ext(1, "|O", [1], bytes(8)),
    "dtype O8": ext(1, "O", [1], bytes(8)),
    "dtype of a structure": ext(1, "<i4,<i4", [1], bytes(8)),
    "dtype of a subarray": ext(1, "(2,)<i4", [1], bytes(8)),
    "dtype void": ext(1, "|V8", [1], bytes(8)),
    "dtype big-endian": ext(1, ">i4", [1], bytes(4)),
    "dtype by name": ext(1, "float64", [1], bytes(8)),
    "dtype empty": ext(1, "", [1], bytes(8)),
    "dtype with a line": ext(1, "<f8\n", [1], bytes(8)),
    "dtype long double": ext(1, "<f16", [1], bytes(16)),
    "dtype of no width": ext(1, "<U0", [2**60], b""),
    "dtype of great width": ext(1, "<U999999999", [1], b""),
    "dtype of an odd unit": ext(1, "<M8[parsec]", [1], bytes(8)),
    "dtype of zero seconds": ext(1, "<M8[0s]", [1], bytes(8)),
    "shape not a list": ext(1, "<f8", 1, bytes(8)),
    "shape of bools": ext(1, "<f8", [True], bytes(8)),
    "shape of floats": ext(1, "<f8", [1.0], bytes(8)),
    "shape negative": ext(1, "<f8", [-1], bytes(8)),
    "shape twice negative": ext(1, "<f8", [-1, -1], bytes(8)),
    "shape huge": ext(1, "<f8", [2**40], bytes(8)),
    "shape huge and empty": ext(1, "<f8", [0, 2**62, 2**62], b""),
    "shape beyond 63 bits, and empty": ext(1, "<f8", [0, 2**64 - 1], b""),
    "shape that wraps around": ext(1, "<f8", [2**61], b""),
    "shape of 100 dimensions": ext(1, "<f8", [1] * 100, bytes(8)),
    "too few bytes": ext(1, "<f8", [2], bytes(15)),
    "too many bytes": ext(1, "<f8", [2], bytes(17)),
    "bytes that are text": ext(1, "|S2", [1], "ab"),
    "bytes that are a list": ext(1, "|u1", [1], [1]),
    "a bool of 2": ext(1, "|b1", [2], b"\1\2"),
    "a character beyond Unicode": ext(1, "<U1", [1], b"\0\0\x11\0"),
    "a scalar of one item": ext(2, "<f8"),
    "a scalar too short": ext(2, "<f8", bytes(7)),
    "a scalar too long": ext(2, "<f8", bytes(9)),
    "a scalar object": ext(2, "|O", bytes(8)),
    "a scalar bool of 2": ext(2, "|b1", b"\2"),
    "a scalar beyond Unicode": ext(2, "<U1", b"\0\0\x11\0"),
}


@pytest.mark.parametrize("data", HOSTILE.values(), ids=HOSTILE.keys())
def test_hostile_bytes(data: bytes) -> None:
    with pytest.raises(RemoteProtocolError, match="malformed body"):
        decode_body(data)


def test_the_last_of_two_equal_keys_counts() -> None:
    assert decode_body(b"\x82\x01\x01\x01\x02") == {1: 2}
