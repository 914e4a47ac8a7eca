"""What flows through a channel, as canonical JSON, and its compilation (PROTOCOL.md §8, §9)."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from rlay.errors import LayoutError, SchemaError
from rlay.protocol import constants as c
from rlay.protocol.constants import MAX_SCHEMA_DEPTH, RecordKind
from rlay.protocol.descriptions import Description, refuse_unknown
from rlay.protocol.layout import Field, Layout, place
from rlay.protocol.leaves import leaves
from rlay.protocol.spaces import (
    Capacities,
    check_space,
    describe,
    describe_info,
    unused_capacities,
)

if TYPE_CHECKING:
    from gymnasium import Space

_SCHEMA_VERSION = 1
_MAX_BODY = 1 << 30


@dataclasses.dataclass(frozen=True)
class Group:
    """Agents that share spaces.

    Attributes:
        action: description of one lane's action space.
        observation: description of one lane's observation space.
        info: descriptions of the declared info fields, by key.
        lanes: 0 for no leading dimension, else the number of lanes.
        agents: lanes carry an agent_id.
        autoreset: ``disabled``, ``next_step`` or ``same_step``.
        name: of the group.
    """

    action: Description
    observation: Description
    info: Mapping[str, Description] = dataclasses.field(default_factory=dict)
    lanes: int = 0
    agents: bool = False
    autoreset: str = "disabled"
    name: str = "default"


@dataclasses.dataclass(frozen=True)
class EnvFacts:
    """What ``gymnasium.Env`` tells besides its spaces; None where it tells nothing."""

    id: str | None = None
    metadata: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    render_mode: str | None = None
    max_episode_steps: int | None = None
    reward_threshold: float | None = None


@dataclasses.dataclass(frozen=True)
class Schema:
    """Everything the two sides must agree on.

    Attributes:
        groups: one for a plain or a vector environment.
        env: facts about the environment.
        request_body: capacity of the request's body, bytes.
        reply_body: capacity of the reply's body, bytes.
        frame: capacity of the rendered frame, bytes; 0 for no such field.
    """

    groups: tuple[Group, ...]
    env: EnvFacts = EnvFacts()
    request_body: int = c.DEFAULT_BODY_CAPACITY
    reply_body: int = c.DEFAULT_BODY_CAPACITY
    frame: int = 0

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON object of PROTOCOL.md §9."""
        return {
            "schema": _SCHEMA_VERSION,
            "body": {"request": self.request_body, "reply": self.reply_body},
            "env": dataclasses.asdict(self.env),
            "frame": self.frame,
            "groups": [dataclasses.asdict(group) for group in self.groups],
        }

    def to_json(self) -> bytes:
        """Return the canonical JSON.

        Raises:
            LayoutError: it does not fit the control file, or the metadata is no JSON.
        """
        schema = self.to_dict()
        if nesting := _too_deep(schema):
            raise LayoutError(f"schema: {nesting}")
        try:
            data = json.dumps(
                schema,
                ensure_ascii=False,
                sort_keys=True,
                separators=(",", ":"),
                allow_nan=False,
            ).encode()
        except UnicodeEncodeError as error:
            raise LayoutError(f"schema: a key holds a lone surrogate: {error}") from None
        except (TypeError, ValueError) as error:
            raise LayoutError(f"schema: JSON cannot carry the metadata: {error}") from None
        if len(data) > c.SCHEMA_CAPACITY:
            raise LayoutError(
                f"the schema takes {len(data)} bytes and a channel holds {c.SCHEMA_CAPACITY}; "
                "use uniform bounds for large Box spaces"
            )
        return data


def fnv1a(data: bytes, value: int = c.FNV_OFFSET) -> int:
    """Return the 64-bit FNV-1a hash."""
    for byte in data:
        value = ((value ^ byte) * c.FNV_PRIME) & 0xFFFFFFFFFFFFFFFF
    return value


def fingerprint(schema_json: bytes, table: bytes) -> int:
    """Return the hash that guards schema and field table (PROTOCOL.md §9)."""
    return fnv1a(table, fnv1a(schema_json))


def describe_env(
    observation_space: Space[Any],
    action_space: Space[Any],
    *,
    info_fields: Mapping[str, Any] | None = None,
    capacities: Capacities | None = None,
    env: EnvFacts | None = None,
    request_body: int = c.DEFAULT_BODY_CAPACITY,
    reply_body: int = c.DEFAULT_BODY_CAPACITY,
    frame: int = 0,
    lanes: int = 0,
    autoreset: str = "disabled",
) -> Schema:
    """Return the schema of an environment, or of a vector of them: one group.

    Args:
        observation_space: of the environment.
        action_space: of the environment.
        info_fields: info keys that ride in the record, each a Space or a dtype.
        capacities: of Sequence spaces (a count) and Graph spaces (nodes, edges), by path.
        env: what else is known of the environment.
        request_body: capacity in bytes for options and call arguments.
        reply_body: capacity in bytes for undeclared info, call results and errors.
        frame: capacity in bytes for ``rgb_array`` frames; 0 if there are none.
        lanes: 0 for one environment without a leading dimension, else how many.
        autoreset: ``disabled``, ``next_step`` or ``same_step``; the latter two with lanes.

    Raises:
        UnsupportedSpaceError: names the path of the space.
        LayoutError: a declaration makes no sense.
    """
    capacities = capacities or {}
    info = {}
    for key, declared in (info_fields or {}).items():
        if not isinstance(key, str):
            raise LayoutError(f"info field {key!r} is not a string")
        info[key] = describe_info(key, declared, capacities)
    group = Group(
        action=describe(action_space, "action", capacities),
        observation=describe(observation_space, "observation", capacities),
        info=info,
        lanes=lanes,
        autoreset=autoreset,
    )
    described = {"action": group.action, "observation": group.observation}
    described |= {f"info.{key}": d for key, d in info.items()}
    known = [p for p in capacities if any(p == d or p.startswith(f"{d}/") for d in described)]
    stray = [p for p in capacities if p not in known]
    stray += [p for path, d in described.items() for p in unused_capacities(d, path, capacities)]
    if stray:
        raise LayoutError(f"capacities[{stray[0]!r}] names no Sequence or Graph space")
    schema = Schema((group,), env or EnvFacts(), request_body, reply_body, frame)
    for name in ("request_body", "reply_body", "frame"):
        if not 0 <= getattr(schema, name) <= _MAX_BODY:
            raise LayoutError(f"{name}={getattr(schema, name)} is not between 0 and {_MAX_BODY}")
    return schema


def _rows(schema: Schema) -> Iterator[Field]:
    request, reply = RecordKind.REQUEST, RecordKind.REPLY
    yield Field("seed", "uint64", (), request)
    yield Field("seed#present", "uint8", (), request)
    for index, group in enumerate(schema.groups):
        for name, dtype, shape in leaves(group.action, "action"):
            yield Field(name, dtype, shape, request, group.lanes, index)
        if group.lanes:
            yield Field("mask", "uint8", (), request, group.lanes, index)
            yield Field("lane_seed", "uint64", (), request, group.lanes, index)
            yield Field("lane_seed#present", "uint8", (), request, group.lanes, index)
    yield Field("body", "uint8", (schema.request_body,), request)
    for index, group in enumerate(schema.groups):
        for name, dtype, shape in _reply_leaves(group):
            yield Field(name, dtype, shape, reply, group.lanes, index)
    if schema.frame:
        yield Field("frame#shape", "uint32", (3,), reply)
        yield Field("frame", "uint8", (schema.frame,), reply)
    yield Field("body", "uint8", (schema.reply_body,), reply)


def _reply_leaves(group: Group) -> Iterator[tuple[str, str, tuple[int, ...]]]:
    yield "reward", "float64", ()
    yield "terminated", "uint8", ()
    yield "truncated", "uint8", ()
    if group.agents:
        yield "agent_id", "uint64", ()
    yield from leaves(group.observation, "observation")
    for key in sorted(group.info):
        yield f"info.{key}#present", "uint8", ()
        yield from leaves(group.info[key], f"info.{key}")
    if group.autoreset == "same_step":
        yield "final_observation#present", "uint8", ()
        yield from leaves(group.observation, "final_observation")


def compile_layout(schema: Schema) -> Layout:
    """Compile a schema into placed fields.

    Raises:
        LayoutError: too many fields, a name too long, too many dimensions.
    """
    return place(_rows(schema))


_CHECKS: dict[str, tuple[type, ...]] = {
    "lanes": (int,),
    "agents": (bool,),
    "autoreset": (str,),
    "name": (str,),
}


def _require(found: Any, location: str, *kinds: type) -> Any:
    if not isinstance(found, kinds) or (isinstance(found, bool) and bool not in kinds):
        names = " or ".join("null" if k is type(None) else k.__name__ for k in kinds)
        raise SchemaError(location, f"{found!r:.80} is not {names}")
    return found


def _size(found: Any, location: str) -> int:
    value: int = _require(found, location, int)
    if not 0 <= value <= _MAX_BODY:
        raise SchemaError(location, f"{value} is not between 0 and {_MAX_BODY}")
    return value


def _member(mapping: Any, key: str, location: str) -> Any:
    _require(mapping, location, dict)
    if key not in mapping:
        raise SchemaError(location, f"{key!r} is missing")
    return mapping[key]


def _group_from(d: Any, location: str) -> Group:
    values = {key: _require(_member(d, key, location), f"{location}/{key}", *kinds)
              for key, kinds in _CHECKS.items()}  # fmt: skip
    if values["autoreset"] not in c.AUTORESET_MODES:
        raise SchemaError(f"{location}/autoreset", f"not one of {c.AUTORESET_MODES}")
    if not 0 <= values["lanes"] < 1 << 32:
        raise SchemaError(f"{location}/lanes", f"{values['lanes']} is not a count")
    refuse_unknown(d, {*_CHECKS, "action", "observation", "info"}, location)
    for key in ("action", "observation"):
        values[key] = _member(d, key, location)
        check_space(values[key], f"{location}/{key}")
    values["info"] = _require(_member(d, "info", location), f"{location}/info", dict)
    for key, description in values["info"].items():
        check_space(description, f"{location}/info/{key}")
    return Group(**values)


def _env_from(d: Any) -> EnvFacts:
    none = type(None)
    kinds = {
        "id": (str, none),
        "metadata": (dict,),
        "render_mode": (str, none),
        "max_episode_steps": (int, none),
        "reward_threshold": (int, float, none),
    }
    refuse_unknown(_require(d, "env", dict), kinds, "env")
    return EnvFacts(
        **{k: _require(_member(d, k, "env"), f"env/{k}", *kind) for k, kind in kinds.items()}
    )


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Refuse an object that says two things under one key: which one holds is anybody's guess."""
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise ValueError(f"key {twice!r:.80} stands twice in one object")
    return found


def _too_deep(value: Any, depth: int = 1) -> str | None:
    """Return what is wrong with how deep a JSON value nests, or None."""
    if not isinstance(value, Mapping | list | tuple):
        return None
    if depth > MAX_SCHEMA_DEPTH:
        return f"nested deeper than {MAX_SCHEMA_DEPTH} levels; flatten the spaces or the metadata"
    items = value.values() if isinstance(value, Mapping) else value
    for item in items:
        if found := _too_deep(item, depth + 1):
            return found
    return None


def read_schema(data: bytes) -> Schema:
    """Parse and check the peer's schema, from a private copy.

    Raises:
        SchemaError: names the place and what is wrong there.
    """
    try:
        d = json.loads(data.decode(), object_pairs_hook=_object)
    except (ValueError, RecursionError) as error:
        raise SchemaError("", f"not JSON: {error}") from None
    if nesting := _too_deep(d):
        raise SchemaError("", nesting)
    try:
        # Python's parser lets through what no JSON may hold: NaN, infinities, lone surrogates.
        json.dumps(d, ensure_ascii=False, allow_nan=False).encode()
    except ValueError as error:
        raise SchemaError("", f"not JSON: {error}") from None
    if (version := _require(_member(d, "schema", ""), "schema", int)) != _SCHEMA_VERSION:
        raise SchemaError("schema", f"version {version!r}, expected {_SCHEMA_VERSION}")
    groups = _require(_member(d, "groups", ""), "groups", list)
    if not groups:
        raise SchemaError("groups", "there is no group")
    body = _require(_member(d, "body", ""), "body", dict)
    refuse_unknown(d, ("schema", "groups", "body", "env", "frame"), "")
    refuse_unknown(body, ("request", "reply"), "body")
    return Schema(
        groups=tuple(_group_from(g, f"groups/{i}") for i, g in enumerate(groups)),
        env=_env_from(_member(d, "env", "")),
        request_body=_size(_member(body, "request", "body"), "body/request"),
        reply_body=_size(_member(body, "reply", "body"), "body/reply"),
        frame=_size(_member(d, "frame", ""), "frame"),
    )


def first_difference(ours: Any, theirs: Any, path: str) -> str | None:
    """Return where two JSON values first differ, with both values, or None.

    ``ours`` is called expected, ``theirs`` found.
    """
    if isinstance(ours, Mapping) and isinstance(theirs, Mapping):
        for key in [*ours, *(k for k in theirs if k not in ours)]:
            if key not in ours or key not in theirs:
                state = "missing" if key in ours else "not expected"
                return f"{path}/{key} is {state}"
            if found := first_difference(ours[key], theirs[key], f"{path}/{key}"):
                return found
        return None
    if isinstance(ours, list | tuple) and isinstance(theirs, list | tuple):
        for i, (a, b) in enumerate(zip(ours, theirs, strict=False)):
            if found := first_difference(a, b, f"{path}/{i}"):
                return found
        if len(ours) != len(theirs):
            return f"{path}: found {len(theirs)} entries, expected {len(ours)}"
        return None
    if type(ours) is not type(theirs) or not (ours == theirs or _both_nan(ours, theirs)):
        return f"{path}: found {theirs!r:.80}, expected {ours!r:.80}"
    return None


def _both_nan(a: Any, b: Any) -> bool:
    return isinstance(a, float) and isinstance(b, float) and math.isnan(a) and math.isnan(b)
