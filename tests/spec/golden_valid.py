"""The valid golden cases: sessions with values written by hand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from gymnasium import spaces

from rlay.errors import LayoutMismatchError
from rlay.protocol.constants import Bye, Feature, Role, Side, Welcome
from rlay.protocol.schema import EnvFacts, Schema, describe_env
from tests.spec.golden_lanes import vector_env, vector_lanes
from tests.spec.golden_session import Case, PlainSession, f32


def cartpole_schema() -> Schema:
    high = f32(4.8, np.inf, 0.41887903, np.inf)
    env = EnvFacts(
        id="CartPole-v1",
        metadata={"render_modes": ["human", "rgb_array"], "render_fps": 50},
        max_episode_steps=500,
        reward_threshold=475.0,
    )
    return describe_env(spaces.Box(-high, high), spaces.Discrete(2), env=env)


FIRST = f32(0.01369617, -0.02302133, -0.04590265, -0.04834723)
SECOND = f32(0.01323574, 0.17272775, -0.04686959, -0.3551522)
THIRD = f32(0.0166903, -0.02170456, -0.05397264, -0.07758987)


def cartpole_two_steps() -> Case:
    about = "CartPole in ClientEnv mode: a reset with seed 7, then two steps."
    session = PlainSession("cartpole_two_steps", about, cartpole_schema())
    session.reset(FIRST, {}, seed=7)
    session.step(np.int64(1), SECOND, 1.0, {})
    session.step(np.int64(0), THIRD, 1.0, {"lives": 3}, truncated=True)
    return session.finish()


def error_reply() -> Case:
    about = "The environment raises in a step: status 16, and a map that says what."
    session = PlainSession("error_reply", about, cartpole_schema())
    session.reset(FIRST, {}, seed=None, options={})
    session.failing_step(
        np.int64(1),
        {
            "type": "ZeroDivisionError",
            "message": "division by zero in the Größe of a cart",
            "traceback": "Traceback (most recent call last):\n  ...\nZeroDivisionError\n",
        },
    )
    return session.finish()


def server_env_mode() -> Case:
    about = "ServerEnv mode: the server is the AGENT, the client is the ENV and brings the schema."
    session = PlainSession("server_env_mode", about, cartpole_schema(), server=Role.AGENT)
    session.reset(FIRST, {"level": "first"}, seed=2**64 - 1)
    session.step(np.int64(1), SECOND, -0.5, {}, terminated=True)
    return session.finish()


def rejected_hello() -> Case:
    about = (
        "ServerEnv mode: the server expected other spaces and rejects the client, then says bye."
    )
    session = PlainSession("rejected_hello", about, cartpole_schema(), server=Role.AGENT)
    session.welcome = {
        "welcome_status": int(Welcome.REJECTED),
        "welcome_code": LayoutMismatchError.code,
        "protocol": 0,
        "features": 0,
        "data_size": 0,
        "welcome_text": "observation/shape/0: found 4, expected 8",
    }
    session.words |= {"turn": int(Side.CLIENT), "server_bye": int(Bye.CLOSED)}
    return session.finish()


def dict_image() -> Case:
    int64 = np.iinfo(np.int64)
    observation = spaces.Dict(
        {
            "camera": spaces.Box(0, 255, (4, 4, 3), np.uint8),
            "ticks": spaces.Box(int64.min, int64.max, (2,), np.int64),
        }
    )
    schema = describe_env(
        observation,
        spaces.Box(-1, 1, (2,), np.float64),
        info_fields={"lap": "int64", "best": "float64"},
        env=EnvFacts(render_mode="rgb_array"),
        request_body=256,
        reply_body=512,
        frame=64,
    )
    about = (
        "A Dict with a uint8 image and the limits of int64, declared info, options, "
        "a frame in its field, a call."
    )
    features = int(Feature.RENDER | Feature.CALL)
    session = PlainSession("dict_image", about, schema, features=features)
    image = np.arange(48, dtype=np.uint8).reshape(4, 4, 3)
    ticks = np.array([int64.min, int64.max])
    session.reset(
        {"camera": image, "ticks": ticks}, {"lap": np.int64(-1)}, seed=0, options={"level": 3}
    )
    session.step(
        np.array([-1.0, 0.1]),
        {"camera": 255 - image, "ticks": ticks[::-1].copy()},
        float("-inf"),
        {
            "lap": np.int64(2),
            "best": np.float64(0.1),
            "path": np.arange(3, dtype=np.int16),
            "where": ("left", 2**70, 1 - 2j, None),
        },
    )
    session.render(image)
    call = {"op": "call", "name": "add", "args": [1, 2.5], "kwargs": {"key": b"\x00\xff"}}
    session.call(call, [np.float32(3.5), True])
    return session.finish()


def bits(dtype: str, *values: int) -> np.ndarray:
    """Return floats by their bits, so that no processor can touch a NaN."""
    size = np.dtype(dtype).itemsize
    return np.frombuffer(b"".join(v.to_bytes(size, "little") for v in values), dtype).copy()


def all_spaces() -> Case:
    uint64 = np.iinfo(np.uint64)
    # Pairs keep their order; Gymnasium would sort a dict.
    entries: dict[str, Any] = {
        "half": spaces.Box(-np.inf, np.inf, (3,), np.float16),
        "single": spaces.Box(-np.inf, np.inf, (2, 2), np.float32),
        "double": spaces.Box(-np.inf, np.inf, (), np.float64),
        "flags": spaces.Box(0, 1, (3,), np.bool_),
        "huge": spaces.Box(0, uint64.max, (1,), np.uint64),
        "nothing": spaces.Box(0, 1, (0, 3), np.float32),
        "mission": spaces.Text(6, min_length=0, charset="abcäß€🚗"),
        "a/b~c": spaces.Dict({"": spaces.Discrete(3)}),
        "either": spaces.OneOf([spaces.Discrete(2, dtype=np.int8), spaces.MultiBinary(4)]),
        "items": spaces.Sequence(
            spaces.Tuple((spaces.Text(2), spaces.Sequence(spaces.Discrete(9))))
        ),
        "stacked": spaces.Sequence(spaces.Box(-1, 1, (2,), np.float32), stack=True),
        "graph": spaces.Graph(spaces.Box(-1, 1, (2,), np.float32), spaces.Discrete(5)),
        "links": spaces.Graph(spaces.Discrete(4), None),
    }
    observation = spaces.Dict(list(entries.items()))
    action = spaces.Tuple(
        (
            spaces.Discrete(5, start=-2, dtype=np.int16),
            spaces.MultiDiscrete([[2, 3], [4, 5]], start=[[0, -1], [7, 0]]),
            spaces.MultiBinary((2, 2)),
        )
    )
    schema = describe_env(
        observation,
        action,
        capacities={
            "observation/items": 3,
            "observation/items/*/1": 2,
            "observation/stacked": 4,
            "observation/graph": (3, 4),
            "observation/links": (2, 0),
        },
        request_body=64,
        reply_body=64,
    )
    about = (
        "Every space type, nested, with values at the edges: NaN payloads (quiet and signalling), "
        "-0.0, limits, empty arrays, UTF-8 of 1 to 4 bytes, counts of 0 and at capacity."
    )
    session = PlainSession("all_spaces", about, schema)
    full = {
        "half": bits("float16", 0x8000, 0x7C01, 0xFE55),
        "single": bits("float32", 0x7FA00001, 0xFFC12345, 0x80000000, 1).reshape(2, 2),
        "double": bits("float64", 0x7FF0000000000001).reshape(()),
        "flags": np.array([True, False, True]),
        "huge": np.array([uint64.max], np.uint64),
        "nothing": np.zeros((0, 3), np.float32),
        "mission": "aä€🚗ßc",
        "a/b~c": {"": np.int64(2)},
        "either": (np.int64(1), np.array([1, 0, 0, 1], np.int8)),
        "items": (
            ("ab", (np.int64(8), np.int64(0))),
            ("z", ()),
            ("Q9", (np.int64(7),)),
        ),
        "stacked": f32(0.5, -0.5, 1, -1, 0, 0.25, -0.25, 0.125).reshape(4, 2),
        "graph": spaces.GraphInstance(
            f32(1, -1, 0.5, 0).reshape(2, 2),
            np.array([4, 0, 2], np.int64),
            np.array([[0, 1], [1, 0], [1, 1]], np.int64),
        ),
        "links": spaces.GraphInstance(np.array([3, 1], np.int64), None, np.zeros((0, 2), np.int64)),
    }
    empty = full | {
        "mission": "",
        "either": (np.int64(0), np.int8(1)),
        "items": (),
        "stacked": np.zeros((0, 2), np.float32),
        "graph": spaces.GraphInstance(np.zeros((0, 2), np.float32), None, None),
        "links": spaces.GraphInstance(np.zeros((0,), np.int64), None, None),
    }
    session.reset(full, {}, seed=None)
    moves = (np.int16(-2), np.array([[1, 1], [10, 4]]), np.array([[0, 1], [1, 1]], np.int8))
    session.step(moves, empty, -0.0, {})
    return session.finish()


VALID: tuple[Callable[[], Case], ...] = (
    cartpole_two_steps,
    dict_image,
    all_spaces,
    server_env_mode,
    rejected_hello,
    vector_lanes,
    vector_env,
    error_reply,
)
