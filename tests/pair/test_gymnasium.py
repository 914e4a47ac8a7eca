"""ClientEnv and ServerEnv are Gymnasium environments, whatever the spaces."""

from __future__ import annotations

import warnings
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

import rlay
from tests.peers import MODES, hosted
from tests.toys import ECHO_CAPACITIES, Counter, Echo, Rooms, equal

pytestmark = pytest.mark.parametrize("mode", MODES)


@pytest.mark.parametrize("make", ["CartPole-v1", "Pendulum-v1", Rooms])
def test_the_checker_is_content(mode: str, make: Any) -> None:
    inner = gymnasium.make(make) if isinstance(make, str) else make()
    with hosted(mode, inner) as env:
        with warnings.catch_warnings():
            # Gymnasium's advice about the spaces, which are the environment's.
            warnings.filterwarnings("ignore", category=UserWarning, module="gymnasium")
            # What needs a second environment like this one is checked with rlay.make.
            check_env(env, skip_render_check=True, skip_close_check=True)


def test_the_facts_arrive(mode: str) -> None:
    inner = gymnasium.make("CartPole-v1", render_mode="rgb_array")
    with hosted(mode, inner) as env:
        assert env.spec.id == "CartPole-v1"
        assert env.spec.max_episode_steps == 500
        assert env.spec.reward_threshold == 475.0
        assert env.metadata["render_modes"] == inner.metadata["render_modes"]
        assert env.metadata["render_fps"] == inner.metadata["render_fps"]
        assert env.observation_space == inner.observation_space
        assert env.action_space == inner.action_space
        assert isinstance(env, gymnasium.Env)
        env.reset(seed=0)
        inside = inner.render()
        assert equal(env.render(), inside)


def alike(value: dict[str, Any]) -> dict[str, Any]:
    """Give a Graph's edge links one dtype; Gymnasium's own samples vary in it."""
    net = value["net"]
    if net.edge_links is not None:
        net = net._replace(edge_links=net.edge_links.astype(np.int64))
    return {**value, "net": net}


def test_spaces_without_a_fixed_size(mode: str) -> None:
    inner = Echo()
    with hosted(mode, inner, capacities=ECHO_CAPACITIES) as env:
        env.action_space.seed(1)
        expected = inner.reset(seed=5)[0]
        assert repr(alike(env.reset(seed=5)[0])) == repr(alike(expected))
        for _ in range(100):
            action = env.action_space.sample()
            observation, *_ = env.step(action)
            assert repr(alike(observation)) == repr(alike(action))
            assert env.observation_space.contains(observation)
        action["words"] = tuple(np.int64(1) for _ in range(ECHO_CAPACITIES["action/words"] + 1))
        with pytest.raises(rlay.LayoutError, match=r"action/words.*capacity"):
            env.step(action)


def test_info_declared_and_not(mode: str) -> None:
    toy = Counter()
    toy.info = {"x": np.float32(0.1), "flag": np.bool_(True), "note": "ä", "grid": np.eye(2)}
    fields = {"x": "float32", "flag": "bool", "grid": gymnasium.spaces.Box(0, 1, (2, 2), float)}
    with hosted(mode, toy, info_fields=fields) as env:
        for info in (env.reset()[1], env.step(1)[4]):
            assert {"x", "flag", "note", "grid"} <= set(info)
            assert (type(info["x"]), info["x"]) == (np.float32, np.float32(0.1))
            assert info["flag"]
            assert info["note"] == "ä"
            assert equal(info["grid"], np.eye(2))
        toy.info = {"note": 1}
        info = env.step(2)[4]
        assert info == {"echo": 2, "note": 1}


def test_views_without_copies(mode: str) -> None:
    """They are read-only, change with the next exchange, and outlive the environment."""
    with hosted(mode, Counter(), face={"copy": False}) as env:
        view, _ = env.reset()
        assert view.tolist() == [1, 0, -1]
        assert not view.flags.writeable
        with pytest.raises(ValueError, match="read-only"):
            view[0] = 9
        again, *_ = env.step(5)
        assert np.shares_memory(view, again)
        assert view.tolist() == again.tolist() == [1, 1, 5]
    # Still mapped, though everything is closed.
    assert view.tolist() == [1, 1, 5]


def test_copies_stay_as_they_are(mode: str) -> None:
    with hosted(mode, Counter()) as env:
        first, _ = env.reset()
        env.step(5)
        assert first.tolist() == [1, 0, -1]
        first[0] = 9


def test_render_images(mode: str) -> None:
    toy = Counter(render_mode="rgb_array", width=4)
    with hosted(mode, toy, frame_capacity=24, reply_body=300) as env:
        env.reset()
        env.step(1)
        frame = env.render()
        assert equal(frame, np.full((2, 4, 3), 1, np.uint8))
        env.step(2)
        assert frame[0, 0, 0] == 1
        # A frame that its field does not hold goes into the body, if that holds it.
        for width in (5, 40, 1):
            toy.width = width
            assert equal(env.render(), np.full((2, width, 3), 2, np.uint8))
        toy.width = 100
        with pytest.raises(rlay.RemoteError, match="BodyTooLargeError: frame"):
            env.render()
        assert env.step(3)[1] == 3.0


@pytest.mark.parametrize(("render_mode", "expected"), [("ansi", "step 0"), (None, None)])
def test_render_other_things(mode: str, render_mode: str | None, expected: str | None) -> None:
    with hosted(mode, Counter(render_mode=render_mode)) as env:
        env.reset()
        assert env.render_mode == render_mode
        assert env.render() == expected


def test_calls_and_attributes(mode: str) -> None:
    toy = Counter(who="me")
    with hosted(mode, toy) as env:
        assert env.call("add", 2, 3) == 5
        assert env.call("add", 2) == 3
        assert env.call("add", left=2, right=2**63) == 2 + 2**63
        assert env.call("who") == "me"
        env.set_attr("who", "you")
        assert toy.who == "you"
        for private in ("_steps", "__class__"):
            with pytest.raises(rlay.RemoteError, match="private"):
                env.call(private)
            with pytest.raises(rlay.RemoteError, match="private"):
                env.set_attr(private, 1)
        with pytest.raises(rlay.RemoteError, match="AttributeError"):
            env.call("nothing_of_that_name")
        env.reset()
        assert env.step(3)[1] == 3.0


def test_wrappers_go_around_it(mode: str) -> None:
    with hosted(mode, gymnasium.make("CartPole-v1")) as env:
        wrapped = gymnasium.wrappers.RecordEpisodeStatistics(
            gymnasium.wrappers.TimeLimit(env, max_episode_steps=3)
        )
        wrapped.reset(seed=1)
        for k in range(3):
            *_, truncated, info = wrapped.step(k % 2)
        assert truncated
        assert info["episode"]["l"] == 3
