"""The body over random values and random bytes."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from rlay.errors import RemoteProtocolError
from rlay.protocol.body import decode_body, encode_body
from tests.unit.test_body import HOSTILE, identical

dtypes = st.one_of(
    hnp.boolean_dtypes(),
    hnp.integer_dtypes(endianness="?"),
    hnp.unsigned_integer_dtypes(endianness="?"),
    hnp.floating_dtypes(endianness="?", sizes=(16, 32, 64)),
    hnp.complex_number_dtypes(endianness="?", sizes=(64, 128)),
    hnp.byte_string_dtypes(min_len=1, max_len=5),
    hnp.unicode_string_dtypes(endianness="?", min_len=1, max_len=5),
    hnp.datetime64_dtypes(endianness="?"),
    hnp.timedelta64_dtypes(endianness="?"),
)
arrays = hnp.arrays(dtypes, hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4))
text = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
leaves = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.integers(-(2**200), 2**200),
    st.floats(),
    st.complex_numbers(),
    text,
    st.binary(max_size=8),
    arrays,
    arrays.filter(lambda array: array.size > 0).map(lambda array: array.ravel()[0]),
)
keys = st.one_of(text, st.integers(-(2**63), 2**64 - 1))
values = st.recursive(
    leaves,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.lists(inner, max_size=4).map(tuple),
        st.dictionaries(keys, inner, max_size=4),
    ),
    max_leaves=12,
)


def encode(value: Any) -> bytes:
    return encode_body(value, capacity=1 << 30, what="info", setting="body_capacity")


@given(values)
def test_round_trip(value: Any) -> None:
    assert identical(value, decode_body(encode(value)))


def decodes_or_is_refused(data: bytes) -> None:
    """Whatever is accepted can be encoded again, and is then the same value."""
    try:
        value = decode_body(data)
    except RemoteProtocolError:
        return
    assert identical(value, decode_body(encode(value)))
    repr(value)


@given(st.binary(max_size=64))
def test_any_bytes(data: bytes) -> None:
    decodes_or_is_refused(data)


@given(st.integers(-3, 7), st.binary(max_size=32))
def test_any_extension(code: int, data: bytes) -> None:
    decodes_or_is_refused(msgspec.msgpack.encode(msgspec.msgpack.Ext(code, data)))


wire_names = st.one_of(
    dtypes.map(lambda dtype: np.dtype(dtype).str),
    st.from_regex(r"[<>|=]?[a-zA-Z?]\d{0,3}(\[\d{0,3}[a-zA-Z]{1,2}\])?"),
)
dimensions = st.one_of(st.integers(-1, 4), st.integers())


@given(
    st.sampled_from([1, 2]),
    wire_names,
    st.lists(dimensions, max_size=4).filter(lambda s: all(-(2**63) <= n < 2**64 for n in s)),
    st.binary(max_size=64),
)
def test_any_array(code: int, name: str, shape: list[int], data: bytes) -> None:
    items = [name, shape, data] if code == 1 else [name, data]
    inner = msgspec.msgpack.encode(items)
    decodes_or_is_refused(msgspec.msgpack.encode(msgspec.msgpack.Ext(code, inner)))


@given(values, st.data())
def test_a_good_body_with_one_byte_changed(value: Any, data: st.DataObject) -> None:
    body = bytearray(encode(value))
    if body:
        body[data.draw(st.integers(0, len(body) - 1))] = data.draw(st.integers(0, 255))
    decodes_or_is_refused(bytes(body))


@given(st.sampled_from(sorted(HOSTILE.values())), st.data())
def test_a_bad_body_with_one_byte_changed(bad: bytes, data: st.DataObject) -> None:
    body = bytearray(bad[:256])
    body[data.draw(st.integers(0, len(body) - 1))] = data.draw(st.integers(0, 255))
    decodes_or_is_refused(bytes(body))
