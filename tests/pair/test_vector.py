"""A VectorEnv and its workers in one process: what it gives and what it refuses."""

from __future__ import annotations

import sys
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.vector import AutoresetMode

import rlay
from rlay import atomics
from rlay.envs.make_vec import homes
from rlay.envs.vector_backend import Lanes
from tests.peers import hosted
from tests.toys import Counter, Mishap
from tests.vector_toys import Counters, Wander, check_steps, same, serving, sync, vector


def test_lanes_are_numbered_across_the_channels() -> None:
    with vector([2, 1, 3], Counters()) as envs:
        assert (envs.num_envs, envs.lanes) == (6, (2, 1, 3))
        _, infos = envs.reset(seed=10)
        assert infos["who"].tolist() == [f"lane {i}" for i in range(6)]
        assert infos["seed"].tolist() == [10, 11, 12, 13, 14, 15]
        check_steps(envs, 1, 5, 3)


def test_workers_on_our_core_are_asked_last(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that is woken there takes the core at once, and who was not asked yet waits."""
    with vector([1, 2, 1], Counters(), face={"cores": (0, 1, 0)}) as envs:
        _, infos = envs.reset(seed=10)
        assert infos["seed"].tolist() == [10, 11, 12, 13]
        for core, order in ((0, [1, 0, 2]), (1, [0, 2, 1]), (5, [0, 1, 2]), (-1, [0, 1, 2])):
            monkeypatch.setattr(atomics, "core", lambda core=core: core)
            assert [worker.index for worker in envs._pool.in_order()] == order
            check_steps(envs, core + 2)


@pytest.mark.parametrize(
    ("usable", "workers", "expected"),
    [
        ([0, 1], 2, [0, 1]),
        ([2, 5], 5, [2, 5, 2, 5, 2]),
        ([0, 1, 2], 2, [None, None]),
        ([3], 2, [None, None]),
    ],
)
def test_only_where_no_core_is_to_spare_each_worker_has_one(
    usable: list[int], workers: int, expected: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.modules["rlay.envs.make_vec"], "usable_cores", lambda: usable)
    assert homes(workers) == expected


def test_seeds_as_a_list() -> None:
    with vector([2, 1], Counters()) as envs:
        seeds = [None, 2**63 - 1, 0]
        _, infos = envs.reset(seed=seeds)
        assert infos["seed"].tolist() == seeds
        # Gymnasium's form makes an int64 array of Python integers; the lanes are reset anyway.
        with pytest.raises(rlay.LayoutError, match="lane 0 cannot stand beside"):
            envs.reset(seed=[2**64 - 1, 1, 1])
        assert envs.np_random_seed == (2**64 - 1, 1, 1)
        check_steps(envs, 3)
        envs.reset(seed=4)
        assert envs.np_random_seed == (4, 5, 6)
        assert isinstance(envs.np_random, np.random.Generator)
        for wrong, error in (([1, 2], "2 seeds for 3"), ([1, 2, -1], "-1 is not an integer")):
            with pytest.raises((rlay.LocalProtocolError, rlay.LayoutError), match=error):
                envs.reset(seed=wrong)
        check_steps(envs, 1, 2)


def test_a_reset_of_some_lanes() -> None:
    with vector([2, 2], Counters(), autoreset_mode=AutoresetMode.DISABLED) as envs:
        mask = np.array([True, False, False, False])
        with pytest.raises(rlay.LocalProtocolError, match=r"lanes \[1, 2, 3\] need a reset"):
            envs.reset(options={"reset_mask": mask})
        envs.reset()
        check_steps(envs, 1, 2)
        observations, infos = envs.reset(seed=7, options={"reset_mask": mask, "level": 3})
        assert observations[:, :2].tolist() == [[2, 0], [1, 2], [1, 2], [1, 2]]
        assert infos["_who"].tolist() == [True, False, False, False]
        assert infos["options"]["level"].tolist() == [3, 0, 0, 0]
        for wrong in ([True] * 4, np.ones(3, bool), np.zeros(4, bool), np.ones(4, np.uint8)):
            with pytest.raises(rlay.LocalProtocolError, match="reset_mask"):
                envs.reset(options={"reset_mask": wrong})
        check_steps(envs, 1)


def test_without_autoreset_an_ended_lane_cannot_be_stepped() -> None:
    make = lambda: Wander("discrete")  # noqa: E731 - one name for both vectors
    with vector([2, 1], make, autoreset_mode="Disabled") as envs:
        envs.reset(seed=0)
        envs.action_space.seed(0)
        over = np.zeros(3, bool)
        while not over.any():
            _, _, terminated, truncated, _ = envs.step(envs.action_space.sample())
            over = terminated | truncated
        late = str(np.flatnonzero(over).tolist())
        with pytest.raises(rlay.LocalProtocolError, match=f"lanes .*{late[1:-1]}.* are over"):
            envs.step(envs.action_space.sample())
        envs.reset(options={"reset_mask": over})
        envs.step(envs.action_space.sample())
    lanes = Lanes([make], AutoresetMode.DISABLED)
    lanes.reset([0], [0], None)
    lanes._over[0] = 1
    with pytest.raises(rlay.LocalProtocolError, match="reset these first"):
        lanes.step([0], [0])


def test_an_error_names_the_lane_and_leaves_nothing_pending() -> None:
    make = Counters()
    with vector([2, 2], make) as envs:
        envs.reset()
        check_steps(envs, 1)
        make[3].plan["step"] = "raise"
        with pytest.raises(rlay.RemoteError, match="lane 3 raised Mishap: told to") as caught:
            envs.step([1, 2, 3, 4])
        assert (caught.value.lane, caught.value.type) == (3, "Mishap")
        assert "Mishap" in caught.value.remote_traceback
        make[3].plan.clear()
        with pytest.raises(rlay.LocalProtocolError, match=r"reset\(\) first: lanes \[2, 3\]"):
            envs.step([1, 2, 3, 4])
        mask = np.array([False, False, True, True])
        observations, _ = envs.reset(options={"reset_mask": mask})
        # The healthy worker made the step that failed elsewhere.
        assert observations[:, :2].tolist() == [[1, 2], [1, 2], [2, 0], [2, 0]]
        check_steps(envs, 5, 6)
        make[1].plan["reset"] = "raise"
        with pytest.raises(rlay.RemoteError, match="lane 1 raised"):
            envs.reset()
        make[1].plan.clear()
        envs.reset()
        check_steps(envs, 1)


def test_what_the_record_cannot_hold_is_an_error_of_its_lane() -> None:
    make = Counters()
    with vector([1, 2], make) as envs:
        envs.reset()
        make[2].info = {"thing": object()}
        with pytest.raises(rlay.RemoteError, match="thing"):
            envs.step([1, 2, 3])
        make[2].info = {}
        envs.reset()
        make[2].step = lambda action: (np.zeros(2), 0.0, False, False, {})  # type: ignore[method-assign,assignment]
    lanes = [Wander("box"), Wander("box")]
    lanes[1].step = lambda action: (np.full(3, 0.1), 0.0, False, False, {})  # type: ignore[method-assign,assignment]
    with vector([2], lambda: lanes.pop(0)) as envs:
        envs.reset()
        with pytest.raises(rlay.RemoteError, match=r"lane 1 raised LayoutError: observation: 0\.1"):
            envs.step(np.zeros((2, 2)))


def test_wrong_actions_are_refused_before_anything_is_sent() -> None:
    with vector([2, 1], lambda: Wander("text"), autoreset_mode="SameStep") as envs:
        theirs = sync(3, lambda: Wander("text"), AutoresetMode.SAME_STEP)
        assert same(envs.reset(seed=1), theirs.reset(seed=1))
        good = (("a", "é", "aa"), ((np.int64(0), np.int64(1)),) * 3)
        for wrong in (
            ("a", "é"),
            (("a", "é", "aaaaaaaaa"), good[1]),
            (good[0], ((0, 1), (0, 1), (2, 1))),
            (good[0][:2], good[1]),
        ):
            with pytest.raises(rlay.LayoutError):
                envs.step(wrong)
        assert same(envs.step(good), theirs.step(good))
        theirs.close()
    with vector([1, 1], Counters()) as envs:
        with pytest.raises(rlay.LocalProtocolError, match=r"reset\(\) first"):
            envs.step([1, 2])
        envs.reset()
        for wrong in ([1, 2, 3], [1.0, 2.0], [[1], [2]], ["a", "b"], None):
            with pytest.raises(rlay.LayoutError, match="action"):
                envs.step(wrong)
        check_steps(envs, 1)


def test_a_malformed_reply_ends_that_workers_session(monkeypatch: pytest.MonkeyPatch) -> None:
    with vector([1, 1], lambda: Wander("text")) as envs:
        envs.reset(seed=1)
        reply = envs._workers[1].last
        assert reply is not None

        def malformed(*_: Any) -> None:
            raise rlay.RemoteProtocolError("say#length is 99")

        monkeypatch.setattr(reply.record.observation, "take", malformed)
        with pytest.raises(rlay.RemoteProtocolError, match="99"):
            envs.step(envs.action_space.sample())
        assert [worker.session.ended for worker in envs._workers] == [False, True]
        with pytest.raises(rlay.LocalProtocolError, match=r"reset\(\) first: lanes \[1\]"):
            envs.step(envs.action_space.sample())


def test_wrappers_for_vectors_go_around_it() -> None:
    from gymnasium.wrappers.vector import DictInfoToList, RecordEpisodeStatistics

    make = lambda: Wander("discrete")  # noqa: E731 - one name for both vectors
    ours_in, theirs_in = [], []
    with vector([1, 2], make) as envs:
        ours = DictInfoToList(RecordEpisodeStatistics(envs))
        theirs = DictInfoToList(RecordEpisodeStatistics(sync(3, make, AutoresetMode.NEXT_STEP)))
        for env, infos in ((ours, ours_in), (theirs, theirs_in)):
            env.reset(seed=1)
            for k in range(12):
                for info in env.step(np.full(3, k % 3, np.int8))[-1]:
                    info.get("episode", {}).pop("t", None)
                    infos.append(info)
        theirs.close()
    assert same(ours_in, theirs_in)
    assert any("episode" in info for info in ours_in)


def test_calls_and_attributes() -> None:
    make = Counters()
    with vector([2, 1], make) as envs:
        assert envs.call("add", 2, right=3) == (5, 5, 5)
        assert envs.get_attr("who") == ("lane 0", "lane 1", "lane 2")
        envs.set_attr("width", 4)
        envs.set_attr("who", ["a", "b", "c"])
        assert [(env.width, env.who) for env in make.made] == [(4, "a"), (4, "b"), (4, "c")]
        with pytest.raises(rlay.LayoutError, match="2 values for 3"):
            envs.set_attr("who", ["a", "b"])
        for name, error in (("nothing", "lane 0 raised AttributeError"), ("_meet", "private")):
            with pytest.raises(rlay.RemoteError, match=error):
                envs.call(name)
        envs.reset()
        with pytest.raises(rlay.RemoteError, match="raised AttributeError"):
            envs.call("nothing")
        check_steps(envs, 3)


@pytest.mark.parametrize("mode", ["rgb_array", "ansi"])
def test_frames_of_every_lane(mode: str) -> None:
    with vector([2, 1], Counters(render_mode=mode), frame_capacity=64) as envs:
        assert envs.render_mode == mode
        envs.reset()
        envs.step([1, 2, 3])
        envs.send([7], [1])
        envs.recv()
        frames = envs.render()
        if mode == "ansi":
            assert frames == ("step 1", "step 2", "step 1")
        else:
            assert [frame.max() for frame in frames] == [1, 2, 1]
            assert all(frame.shape == (2, 1, 3) for frame in frames)
        check_steps(envs, 5)


def test_observations_without_a_copy() -> None:
    with vector([2], Counters(), face={"copy": False}) as envs:
        first, _ = envs.reset()
        assert not first.flags.writeable
        second, *_ = envs.step([4, 5])
        assert np.shares_memory(first, second)
        assert first[:, 2].tolist() == [4, 5]
        del first, second
    with vector([1, 1], Counters(), face={"copy": False}) as envs:
        first, _ = envs.reset()
        assert envs.step([4, 5])[0] is first


def test_who_may_not_talk_to_whom() -> None:
    with (
        serving([2], Counters()) as channels,
        pytest.raises(rlay.LayoutMismatchError, match=r"rlay\.VectorEnv is for lanes"),
    ):
        rlay.ClientEnv(channels[0], attach_timeout=5)
    with hosted("ClientEnv", Counter(), "plain") as env:
        env.close()
        with pytest.raises(rlay.LayoutMismatchError, match="not for one vector"):
            rlay.VectorEnv("plain", attach_timeout=5)


def test_workers_and_lanes_must_be_alike() -> None:
    kinds = ["box", "discrete"]
    with (
        serving([1, 1], lambda: Wander(kinds.pop())) as channels,
        pytest.raises(rlay.LayoutMismatchError, match="worker 1 has other lanes than worker 0"),
    ):
        rlay.VectorEnv(channels, attach_timeout=5)
    made: list[Wander] = []

    def mixed() -> Wander:
        made.append(Wander(["box", "discrete"][len(made)]))
        return made[-1]

    with pytest.raises(rlay.LayoutError, match="lane 1: observation_space is"):
        rlay.VectorBackend("mixed", mixed, 2)
    for wrong in ((mixed, None), (mixed, 0), ([mixed], 2), ([], None)):
        with pytest.raises(rlay.LocalProtocolError, match="lanes="):
            rlay.VectorBackend("mixed", *wrong)
    with (
        serving([1], Counters()) as channels,
        pytest.raises(rlay.LayoutMismatchError, match="found"),
    ):
        rlay.VectorEnv(channels, attach_timeout=5, action_space=spaces.Discrete(3))


def test_a_closed_vector_says_so() -> None:
    with vector([1, 1], Counters()) as envs:
        envs.reset()
        with envs:
            check_steps(envs, 1)
        envs.close()
        for call in (envs.reset, lambda: envs.step([1, 2]), lambda: envs.call("add", 1)):
            with pytest.raises(rlay.LocalProtocolError, match="closed"):
                call()


def test_environments_are_closed_though_one_refuses() -> None:
    make = Counters()
    with vector([3], make) as envs:
        envs.reset()
    assert all(env.closed for env in make.made)
    make = Counters()
    lanes = Lanes([make] * 3, AutoresetMode.NEXT_STEP)
    make[0].plan["close"] = make[1].plan["close"] = "raise"
    with pytest.raises(Mishap):
        lanes.close()
    assert all(env.closed for env in make.made)


def test_a_final_observation_in_a_buffer_that_is_used_again() -> None:
    class OneBuffer(gymnasium.Env[Any, Any]):
        observation_space = spaces.Box(-9, 9, (1,), np.float32)
        action_space = spaces.Discrete(2)
        buffer = np.zeros(1, np.float32)

        def reset(self, **_: Any) -> Any:
            self.buffer[:] = 1
            return self.buffer, {}

        def step(self, action: Any) -> Any:
            self.buffer[:] = 2
            return self.buffer, 0.0, True, False, {}

    with vector([1], OneBuffer, autoreset_mode="SameStep") as envs:
        envs.reset()
        observations, *_, infos = envs.step([0])
        assert (observations.tolist(), infos["final_obs"][0].tolist()) == ([[1.0]], [2.0])
        assert infos["final_info"] == {}
        assert infos["_final_info"].tolist() == [True]
