from __future__ import annotations

import dataclasses
import json
from typing import Any

import numpy as np
import pytest
from gymnasium import spaces

from rlay.errors import LayoutError, SchemaError, UnsupportedSpaceError
from rlay.protocol import constants as c
from rlay.protocol.constants import RecordKind
from rlay.protocol.schema import (
    EnvFacts,
    Group,
    Schema,
    compile_layout,
    describe_env,
    fingerprint,
    first_difference,
    fnv1a,
    read_schema,
)
from rlay.protocol.spaces import describe_info

BOX = spaces.Box(-1, 1, (4,), np.float32)
TWO = spaces.Discrete(2)
SCHEMA = describe_env(BOX, TWO, info_fields={"z": "float64", "a": BOX}, frame=12)


def names(schema: Schema, record: RecordKind) -> list[tuple[str, int]]:
    return [(f.name, f.group) for f in compile_layout(schema).of(record)]


# ---- describing ----------------------------------------------------------------------


def test_rows_of_a_plain_environment() -> None:
    whole = c.WHOLE_RECORD
    assert names(SCHEMA, RecordKind.REQUEST) == [
        ("seed", whole),
        ("seed#present", whole),
        ("action", 0),
        ("body", whole),
    ]
    assert names(SCHEMA, RecordKind.REPLY) == [
        ("reward", 0),
        ("terminated", 0),
        ("truncated", 0),
        ("observation", 0),
        ("info.a#present", 0),
        ("info.a", 0),
        ("info.z#present", 0),
        ("info.z", 0),
        ("frame#shape", whole),
        ("frame", whole),
        ("body", whole),
    ]


def lanes_schema() -> Schema:
    plain = describe_env(BOX, TWO).groups[0]
    return Schema(
        (
            dataclasses.replace(plain, lanes=4, autoreset="same_step"),
            dataclasses.replace(plain, lanes=2, agents=True, name="others"),
            dataclasses.replace(plain, agents=True, autoreset="next_step", name="one"),
        )
    )


def test_rows_of_lanes_and_several_groups() -> None:
    schema = lanes_schema()
    whole = c.WHOLE_RECORD
    assert names(schema, RecordKind.REQUEST)[2:] == [
        *((name, 0) for name in ("action", "mask", "lane_seed", "lane_seed#present")),
        *((name, 1) for name in ("action", "mask", "lane_seed", "lane_seed#present")),
        ("action", 2),
        ("body", whole),
    ]
    assert names(schema, RecordKind.REPLY) == [
        *((name, 0) for name in ("reward", "terminated", "truncated")),
        ("observation", 0),
        *((name, 0) for name in ("final_observation#present", "final_observation")),
        *((name, 1) for name in ("reward", "terminated", "truncated", "agent_id", "observation")),
        *((name, 2) for name in ("reward", "terminated", "truncated", "agent_id", "observation")),
        ("body", whole),
    ]
    layout = compile_layout(schema)
    for field in layout.fields:
        lanes = {0: 4, 1: 2}.get(field.group, 0)
        assert field.lanes == lanes
        assert field.full_shape == ((lanes, *field.shape) if lanes else field.shape)
    assert layout.find(RecordKind.REPLY, "final_observation").full_shape == (4, 4)
    assert layout.find(RecordKind.REPLY, "agent_id", 1).dtype == "uint64"
    assert read_schema(schema.to_json()) == schema


@pytest.mark.parametrize(
    ("declared", "expected"),
    [
        ("int64", ("Box", "int64", [])),
        (np.float32, ("Box", "float32", [])),
        (np.dtype(">u2"), ("Box", "uint16", [])),
        (bool, ("Box", "bool", [])),
        (spaces.Box(0, 1, (2,)), ("Box", "float32", [2])),
    ],
)
def test_declared_info(declared: Any, expected: tuple[str, str, list[int]]) -> None:
    d = describe_info("x", declared, {})
    assert (d["type"], d["dtype"], d["shape"]) == expected


@pytest.mark.parametrize("declared", ["no type", "complex64", object, str, "i4,f4", 3])
def test_info_that_is_neither_space_nor_dtype(declared: Any) -> None:
    with pytest.raises(LayoutError, match=r"info\.x: .* is neither a Space nor one of"):
        describe_info("x", declared, {})


def test_info_of_spaces_with_capacity() -> None:
    words = spaces.Sequence(spaces.Text(3))
    with pytest.raises(UnsupportedSpaceError) as caught:
        describe_env(BOX, TWO, info_fields={"words": words})
    assert caught.value.path == "info.words"
    schema = describe_env(BOX, TWO, info_fields={"words": words}, capacities={"info.words": 3})
    assert schema.groups[0].info["words"]["capacity"] == 3


@pytest.mark.parametrize(
    "path", ["words", "observation", "observation/words", "info.x/y", "actions", "action/*"]
)
def test_capacities_that_name_nothing(path: str) -> None:
    with pytest.raises(LayoutError, match="names no Sequence or Graph space") as caught:
        describe_env(BOX, TWO, info_fields={"x": BOX}, capacities={path: 3})
    assert f"capacities[{path!r}]" in str(caught.value)


@pytest.mark.parametrize("name", ["request_body", "reply_body", "frame"])
@pytest.mark.parametrize("value", [-1, (1 << 30) + 1])
def test_capacities_of_bodies_and_frames(name: str, value: int) -> None:
    with pytest.raises(LayoutError, match=f"{name}={value} is not between 0 and"):
        describe_env(BOX, TWO, **{name: value})  # type: ignore[arg-type]
    assert describe_env(BOX, TWO, **{name: 1 << 30})  # type: ignore[arg-type]


def test_info_keys_are_strings() -> None:
    with pytest.raises(LayoutError, match="info field 3 is not a string"):
        describe_env(BOX, TWO, info_fields={3: "int64"})  # type: ignore[dict-item]


def test_info_keys_that_collide() -> None:
    schema = describe_env(BOX, TWO, info_fields={"x": "int8", "x#present": "int8"})
    with pytest.raises(LayoutError, match=r"two fields are called 'info\.x#present'"):
        compile_layout(schema)


@pytest.mark.parametrize("key", ["k" * 154, "\0", "\ud800"])
def test_keys_that_are_no_field_name(key: str) -> None:
    for schema in (
        describe_env(BOX, TWO, info_fields={key: "int8"}),
        describe_env(spaces.Dict({key: TWO}), TWO),
    ):
        with pytest.raises(LayoutError, match="field name"):
            compile_layout(schema)


def test_too_many_dimensions() -> None:
    with pytest.raises(LayoutError, match="observation: 9 dimensions"):
        compile_layout(describe_env(spaces.Box(0, 1, (1,) * 9), TWO))


# ---- canonical JSON ------------------------------------------------------------------


def test_json_is_canonical() -> None:
    text = SCHEMA.to_json()
    assert text == SCHEMA.to_json()
    assert read_schema(text).to_json() == text
    parsed = json.loads(text)
    again = json.dumps(parsed, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    assert again.encode() == text
    assert b"\n" not in text


def test_json_is_utf8_without_needless_escapes() -> None:
    facts = EnvFacts(id='ä"\\\x01\N{AUTOMOBILE}')
    text = describe_env(BOX, TWO, env=facts).to_json()
    assert '"id":"ä\\"\\\\\\u0001\N{AUTOMOBILE}"'.encode() in text
    assert read_schema(text).env == facts


def test_facts_travel() -> None:
    facts = EnvFacts("a/B-v0", {"render_fps": 50, "x": [None, 1.5]}, "human", 500, 475.0)
    assert read_schema(describe_env(BOX, TWO, env=facts).to_json()).env == facts


@pytest.mark.parametrize(
    ("metadata", "text"),
    [
        ({"a": float("nan")}, "JSON cannot carry the metadata"),
        ({"a": object()}, "JSON cannot carry the metadata"),
        ({"a": np.float32(1)}, "JSON cannot carry the metadata"),
        ({"a": 1, 2: 3}, "JSON cannot carry the metadata"),
        ({"a\ud800": 1}, "lone surrogate"),
    ],
)
def test_metadata_that_is_no_json(metadata: dict[Any, Any], text: str) -> None:
    with pytest.raises(LayoutError, match=text):
        describe_env(BOX, TWO, env=EnvFacts(metadata=metadata)).to_json()


def test_a_schema_that_is_too_large() -> None:
    high = np.arange(c.SCHEMA_CAPACITY // 4, dtype=np.float32)
    schema = describe_env(spaces.Box(-1, high, dtype=np.float32), TWO)
    with pytest.raises(LayoutError, match="a channel holds 192512; use uniform bounds"):
        schema.to_json()


def test_fnv1a_as_published() -> None:
    assert fnv1a(b"") == 0xCBF29CE484222325
    assert fnv1a(b"a") == 0xAF63DC4C8601EC8C
    assert fnv1a(b"foobar") == 0x85944171F73967E8
    assert fingerprint(b"foo", b"bar") == fnv1a(b"foobar")
    assert fingerprint(b"bar", b"foo") != fnv1a(b"foobar")


# ---- comparing -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ours", "theirs", "difference"),
    [
        ({"a": 1}, {"a": 1}, None),
        ({"a": [1, (2, 3)]}, {"a": (1, [2, 3])}, None),
        (float("nan"), float("nan"), None),
        ({"a": 1}, {"a": 2}, "p/a: found 2, expected 1"),
        ({"a": 1}, {"a": True}, "p/a: found True, expected 1"),
        ({"a": 1}, {"a": 1.0}, "p/a: found 1.0, expected 1"),
        ({"a": 1, "b": 2}, {"a": 1}, "p/b is missing"),
        ({"a": 1}, {"a": 1, "b": 2}, "p/b is not expected"),
        ([1, 2], [1, 2, 3], "p: found 3 entries, expected 2"),
        ([1, 2], [1, 3], "p/1: found 3, expected 2"),
        ([1], {"a": 1}, "p: found {'a': 1}, expected [1]"),
        (float("nan"), 1.0, "p: found 1.0, expected nan"),
        ({"a": {"b": [0, {"c": "x"}]}}, {"a": {"b": [0, {"c": "y"}]}}, "p/a/b/1/c: found 'y'"),
    ],
)
def test_the_first_difference(ours: Any, theirs: Any, difference: str | None) -> None:
    found = first_difference(ours, theirs, "p")
    assert found == difference or (found is not None and found.startswith(str(difference)))


def test_defaults_of_a_group() -> None:
    group = Group({"type": "MultiBinary", "shape": [1]}, {"type": "MultiBinary", "shape": [1]})
    assert (group.lanes, group.agents, group.autoreset) == (0, False, "disabled")
    assert group.info == {}


@pytest.mark.parametrize(
    "path",
    ["", "body", "env", "groups/0", "groups/0/action", "groups/0/observation"],
    ids=lambda path: path or "top",
)
def test_a_key_of_a_later_version_is_refused(path: str) -> None:
    d = json.loads(describe_env(spaces.Discrete(3), spaces.Box(-1, 1, (2,))).to_json())
    assert read_schema(json.dumps(d).encode())
    found = d
    for key in filter(None, path.split("/")):
        found = found[int(key)] if key.isdigit() else found[key]
    found["later"] = 1
    with pytest.raises(SchemaError, match="unknown key") as caught:
        read_schema(json.dumps(d).encode())
    assert caught.value.location == f"{path}/later".lstrip("/")
