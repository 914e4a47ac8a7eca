"""Random nested spaces through schema, layout and codecs."""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium import spaces
from hypothesis import given, settings
from hypothesis import strategies as st

from rlay.protocol import constants as c
from rlay.protocol.codecs import compile_codec
from rlay.protocol.constants import RecordKind
from rlay.protocol.env_block import read_env_block, write_env_block
from rlay.protocol.layout import read_table
from rlay.protocol.schema import Schema, compile_layout, describe_env, fingerprint, read_schema
from rlay.protocol.spaces import capacities_of, escape, space_from
from tests.spec.golden_text import plain

few = settings(max_examples=60)
INTEGERS = [name for name in c.DTYPE_CODES if np.dtype(name).kind in "iu"]

#: A space, and the capacities of its parts relative to its own path.
Sized = tuple[spaces.Space[Any], dict[str, Any]]

shapes = st.lists(st.integers(0, 3), max_size=3).map(tuple)


@st.composite
def boxes(draw: st.DrawFn) -> Sized:
    dtype = np.dtype(draw(st.sampled_from(list(c.DTYPE_CODES))))
    shape = draw(shapes)
    if dtype.kind == "f":
        low, high = draw(st.sampled_from([(-1.0, 1.0), (-np.inf, np.inf), (0.0, np.inf)]))
    elif dtype.kind == "b":
        low, high = 0, 1
    else:
        # Gymnasium cannot sample up to the limits of 64 bits; unit/test_codecs.py goes there.
        least, most = max(np.iinfo(dtype).min, -(2**40)), min(np.iinfo(dtype).max, 2**40)
        low, high = draw(st.sampled_from([(0, 1), (least, most), (0, most)]))
    return spaces.Box(low, high, shape, dtype.type), {}


@st.composite
def discretes(draw: st.DrawFn) -> Sized:
    dtype = np.dtype(draw(st.sampled_from(INTEGERS)))
    start = draw(st.sampled_from([0, 1, max(-3, int(np.iinfo(dtype).min))]))
    return spaces.Discrete(draw(st.integers(1, 100)), start=start, dtype=dtype.type), {}


@st.composite
def multi_discretes(draw: st.DrawFn) -> Sized:
    nvec = draw(st.lists(st.integers(1, 9), min_size=1, max_size=4))
    start = [draw(st.integers(0, 5)) for _ in nvec]
    dtype = np.dtype(draw(st.sampled_from(INTEGERS)))
    return spaces.MultiDiscrete(nvec, dtype=dtype.type, start=start), {}


texts = st.builds(
    lambda most, charset: (spaces.Text(most, min_length=0, charset=charset), {}),
    st.integers(1, 4),
    st.sampled_from(["a", "zab", "aß€", "\N{AUTOMOBILE}\0 "]),
)
binaries = st.lists(st.integers(1, 3), min_size=1, max_size=2).map(
    lambda shape: (spaces.MultiBinary(shape if len(shape) > 1 else shape[0]), {})
)


@st.composite
def graphs(draw: st.DrawFn) -> Sized:
    inner = st.one_of(boxes(), discretes())
    node, edge = draw(inner)[0], draw(st.none() | inner.map(lambda sized: sized[0]))
    return spaces.Graph(node, edge), {"": (draw(st.integers(10, 12)), draw(st.integers(50, 60)))}


def below(prefix: str, capacities: dict[str, Any]) -> dict[str, Any]:
    return {f"/{prefix}{path}": value for path, value in capacities.items()}


def joined(parts: list[tuple[str, Sized]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, (_, capacities) in parts:
        found |= below(escape(key), capacities)
    return found


keys = st.text(st.sampled_from("ab/~#.ß"), max_size=3)


def containers(inner: st.SearchStrategy[Sized]) -> st.SearchStrategy[Sized]:
    entries = st.dictionaries(keys, inner, max_size=3).map(lambda d: list(d.items()))
    items = st.lists(inner, max_size=3).map(lambda xs: [(str(i), x) for i, x in enumerate(xs)])
    return st.one_of(
        entries.map(lambda d: (spaces.Dict([(k, s) for k, (s, _) in d]), joined(d))),
        items.map(lambda d: (spaces.Tuple([s for _, (s, _) in d]), joined(d))),
        items.filter(bool).map(lambda d: (spaces.OneOf([s for _, (s, _) in d]), joined(d))),
        inner.map(
            # Gymnasium draws lengths from a geometric distribution, so most samples fit.
            lambda sized: (spaces.Sequence(sized[0]), {"": 12, **below("*", sized[1])})
        ),
    )


leaf = st.one_of(boxes(), discretes(), multi_discretes(), texts, binaries)
stacked = leaf.map(lambda sized: (spaces.Sequence(sized[0], stack=True), {"": 12}))
sized_spaces = st.recursive(st.one_of(leaf, graphs(), stacked), containers, max_leaves=5)


def schema_of(sized: Sized) -> Schema:
    space, capacities = sized
    return describe_env(
        space,
        spaces.Discrete(2),
        capacities={f"observation{path}": n for path, n in capacities.items()},
        reply_body=64,
        request_body=64,
    )


def depth_is_fine(sized: Sized) -> bool:
    """Whether the space fits the eight dimensions of a field."""
    try:
        compile_layout(schema_of(sized))
    except ValueError:
        return False
    return True


fitting = sized_spaces.filter(depth_is_fine)


@few
@given(fitting)
def test_fields_are_aligned_disjoint_and_inside_their_record(sized: Sized) -> None:
    layout = compile_layout(schema_of(sized))
    for kind, size in zip(RecordKind, (layout.request_size, layout.reply_size), strict=True):
        end = c.PREFIX_SIZE
        for field in layout.of(kind):
            itemsize = np.dtype(field.dtype).itemsize
            assert field.offset >= end
            assert field.offset % (64 if field.size >= 64 else itemsize) == 0
            assert field.offset - end < 64
            end = field.offset + field.size
        assert end <= size
        assert size % c.RECORD_ALIGNMENT == 0
        assert size - end < c.RECORD_ALIGNMENT


@few
@given(fitting)
def test_schema_and_table_travel(sized: Sized) -> None:
    schema = schema_of(sized)
    layout = compile_layout(schema)
    table, text = layout.pack_table(), schema.to_json()
    assert read_table(table, layout.request_size, layout.reply_size) == layout
    assert read_schema(text) == schema
    assert read_schema(text).to_json() == text
    again = compile_layout(read_schema(text))
    assert fingerprint(text, again.pack_table()) == fingerprint(text, table)
    capacities = {f"observation{path}": n for path, n in sized[1].items()}
    assert capacities_of(schema.groups[0].observation, "observation") == capacities
    memory = memoryview(bytearray(c.CONTROL_SIZE))
    write_env_block(memory, schema, layout)
    assert read_env_block(memory, bytes(memory[: c.HEADER_SIZE]), "here") == (schema, layout)


def even(value: Any) -> Any:
    """Return a value as JSON, in the types of the wire.

    Gymnasium samples some arrays of no dimension as scalars, and edge links as int32.
    """
    if isinstance(value, spaces.GraphInstance) and value.edge_links is not None:
        value = value._replace(edge_links=value.edge_links.astype(np.int64))
    if isinstance(value, tuple) and not isinstance(value, spaces.GraphInstance):
        return [even(item) for item in value]
    if isinstance(value, dict):
        return {key: even(item) for key, item in value.items()}
    return plain(np.asarray(value) if isinstance(value, np.generic) else value)


def fits(space: spaces.Space[Any], value: Any, path: str, capacities: dict[str, Any]) -> bool:
    """Whether every Sequence and Graph in a sample stays within its capacity."""
    if isinstance(space, spaces.Dict):
        return all(
            fits(s, value[k], f"{path}/{escape(k)}", capacities) for k, s in space.spaces.items()
        )
    if isinstance(space, spaces.Tuple):
        parts = enumerate(zip(space.spaces, value, strict=True))
        return all(fits(s, v, f"{path}/{i}", capacities) for i, (s, v) in parts)
    if isinstance(space, spaces.OneOf):
        index, inner = value
        return fits(space.spaces[index], inner, f"{path}/{index}", capacities)
    if isinstance(space, spaces.Sequence):
        if space.stack:
            return len(value) <= capacities[path]
        inside = all(fits(space.feature_space, v, f"{path}/*", capacities) for v in value)
        return inside and len(value) <= capacities[path]
    if isinstance(space, spaces.Graph):
        nodes, edges = capacities[path]
        return len(value.nodes) <= nodes and (
            value.edge_links is None or len(value.edge_links) <= edges
        )
    return True


@few
@given(fitting, st.integers(0, 2**32 - 1), st.binary(min_size=1, max_size=8), st.booleans())
def test_samples_arrive_bit_for_bit(sized: Sized, seed: int, noise: bytes, copy: bool) -> None:
    schema = schema_of(sized)
    space, description = sized[0], schema.groups[0].observation
    layout = compile_layout(schema)
    memory = memoryview(bytearray(noise * (layout.reply_size // len(noise) + 1)))
    codec = compile_codec(
        description,
        "observation",
        lambda name: layout.find(RecordKind.REPLY, name).view(memory),
    )
    rebuilt = space_from(description, "observation")
    assert rebuilt == space
    space.seed(seed)
    rebuilt.seed(seed)
    for _ in range(3):
        value = space.sample()
        assert even(rebuilt.sample()) == even(value)
        if fits(space, value, "", sized[1]):
            codec.write(value)
            assert even(codec.read(copy=copy)) == even(value)
