"""Schemas of a peer that are wrong: each is refused, and the error says where."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from gymnasium import spaces

from rlay.errors import SchemaError
from rlay.protocol.schema import describe_env, read_schema

BOX = spaces.Box(-1, 1, (4,), np.float32)
TWO = spaces.Discrete(2)
SCHEMA = describe_env(BOX, TWO, info_fields={"z": "float64", "a": BOX}, frame=12)

Mutation = Callable[[dict[str, Any]], None]


def put(path: str, value: Any) -> Mutation:
    def mutate(d: Any) -> None:
        *parents, last = path.split("/")
        for key in parents:
            d = d[int(key) if key.isdecimal() else key]
        d[int(last) if last.isdecimal() else last] = value

    return mutate


def drop(path: str) -> Mutation:
    def mutate(d: Any) -> None:
        *parents, last = path.split("/")
        for key in parents:
            d = d[int(key) if key.isdecimal() else key]
        del d[last]

    return mutate


MUTATIONS: list[tuple[Mutation, str]] = [
    *((drop(key), "") for key in ("schema", "groups", "body", "env", "frame")),
    *((drop(f"body/{key}"), "body") for key in ("request", "reply")),
    *((drop(f"env/{key}"), "env") for key in ("id", "metadata", "render_mode")),
    *((drop(f"env/{key}"), "env") for key in ("max_episode_steps", "reward_threshold")),
    *((drop(f"groups/0/{key}"), "groups/0") for key in ("lanes", "agents", "autoreset", "name")),
    *((drop(f"groups/0/{key}"), "groups/0") for key in ("action", "observation", "info")),
    (put("schema", 2), "schema"),
    (put("schema", "1"), "schema"),
    (put("schema", True), "schema"),
    (put("schema", None), "schema"),
    (put("groups", []), "groups"),
    (put("groups", {}), "groups"),
    (put("groups", "x"), "groups"),
    (put("groups/0", 3), "groups/0"),
    (put("groups/0/lanes", -1), "groups/0/lanes"),
    (put("groups/0/lanes", True), "groups/0/lanes"),
    (put("groups/0/lanes", 1.0), "groups/0/lanes"),
    (put("groups/0/lanes", 2**32), "groups/0/lanes"),
    (put("groups/0/agents", 1), "groups/0/agents"),
    (put("groups/0/autoreset", "always"), "groups/0/autoreset"),
    (put("groups/0/autoreset", None), "groups/0/autoreset"),
    (put("groups/0/name", 7), "groups/0/name"),
    (put("groups/0/info", []), "groups/0/info"),
    (put("groups/0/info/z", []), "groups/0/info/z"),
    (put("groups/0/info/z/dtype", "f8"), "groups/0/info/z/dtype"),
    (put("groups/0/action", None), "groups/0/action"),
    (put("groups/0/action/type", "Diskrete"), "groups/0/action"),
    (put("groups/0/action/n", 0), "groups/0/action/n"),
    (put("groups/0/observation/shape", [2**32]), "groups/0/observation/shape/0"),
    (put("groups/0/observation/shape", [3, 1.5]), "groups/0/observation/shape/1"),
    (put("groups/0/observation/dtype", "float8"), "groups/0/observation/dtype"),
    (put("groups/0/observation/low", 5), "groups/0/observation"),
    (put("body", 3), "body"),
    (put("body/request", -1), "body/request"),
    (put("body/reply", 2**30 + 1), "body/reply"),
    (put("body/reply", "x"), "body/reply"),
    (put("frame", 0.0), "frame"),
    (put("frame", 2**63), "frame"),
    (put("env", []), "env"),
    (put("env/id", 3), "env/id"),
    (put("env/metadata", None), "env/metadata"),
    (put("env/render_mode", {}), "env/render_mode"),
    (put("env/max_episode_steps", 1.5), "env/max_episode_steps"),
    (put("env/reward_threshold", "high"), "env/reward_threshold"),
    (put("env/reward_threshold", True), "env/reward_threshold"),
]


@pytest.mark.parametrize(("mutate", "location"), MUTATIONS)
def test_hostile_schemas(mutate: Mutation, location: str) -> None:
    d = json.loads(SCHEMA.to_json())
    before = copy.deepcopy(d)
    mutate(d)
    assert json.dumps(d) != json.dumps(before)
    with pytest.raises(SchemaError) as caught:
        read_schema(json.dumps(d).encode())
    assert caught.value.location == location
    assert str(caught.value).startswith(f"schema at {location or 'top'}: ")


DEEP = b'{"type":"Tuple","spaces":['


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{",
        b"\xff",
        b"null",
        b"[]",
        b"3",
        b'"x"',
        b"\xef\xbb\xbf{}",
        SCHEMA.to_json() + b"\0",
        SCHEMA.to_json()[:-1],
        SCHEMA.to_json().replace(b'"reward_threshold":null', b'"reward_threshold":NaN'),
        SCHEMA.to_json().replace(b'"reward_threshold":null', b'"reward_threshold":-Infinity'),
        SCHEMA.to_json().replace(b'"reward_threshold":null', b'"reward_threshold":1e999'),
        SCHEMA.to_json().replace(b'"metadata":{}', b'"metadata":{"a":NaN}'),
        SCHEMA.to_json().replace(b'"default"', b'"\\ud800"'),
        b"[" * 100_000,
        b"9" * 10_000,
    ],
)
def test_bytes_that_are_no_schema(data: bytes) -> None:
    assert data != SCHEMA.to_json()
    with pytest.raises(SchemaError) as caught:
        read_schema(data)
    assert caught.value.location == ""


@pytest.mark.parametrize("depth", [300, 900, 3000])
def test_spaces_that_nest_too_deeply(depth: int) -> None:
    action = json.dumps(json.loads(SCHEMA.to_json())["groups"][0]["action"], sort_keys=True)
    action = action.replace(" ", "")
    deep = DEEP * depth + b'{"type":"MultiBinary","shape":[1]}' + b"]}" * depth
    data = SCHEMA.to_json().replace(action.encode(), deep)
    assert data != SCHEMA.to_json()
    with pytest.raises(SchemaError):
        read_schema(data)
