"""``make_vec``: workers that are started, that die, that hang, and that are gone at the end."""

from __future__ import annotations

import gc
import os
import signal
import sys
import threading
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode, SyncVectorEnv

import rlay
from rlay.channel.wait import usable_cores
from rlay.envs.make_vec import split
from tests.peers import WATCHDOG, until
from tests.toys import Counter
from tests.vector_toys import Fickle, Wander, same

ROOT = str(Path(__file__).parents[2])


@pytest.fixture(autouse=True)
def importable(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the workers import the package and the toys."""
    monkeypatch.setenv("PYTHONPATH", ROOT)


def left_behind(channel_root: Path) -> list[str]:
    return sorted(path.name for path in channel_root.iterdir())


def gone(pid: int) -> bool:
    """Tell whether a process has ended; its parent may not have looked yet."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return True
    return state in "ZX"


def test_a_registered_id_plays_like_sync_vector_env_and_leaves_nothing(channel_root: Path) -> None:
    with rlay.make_vec("CartPole-v1", 5, workers=2, max_episode_steps=9) as envs:
        assert (envs.num_envs, envs.lanes) == (5, (3, 2))
        assert repr(envs) == "VectorEnv(CartPole-v1, num_envs=5)"
        assert envs.metadata["autoreset_mode"] is AutoresetMode.NEXT_STEP
        make = lambda: gymnasium.make("CartPole-v1", max_episode_steps=9)  # noqa: E731
        theirs = SyncVectorEnv([make] * 5)
        assert envs.observation_space == theirs.observation_space
        assert same(envs.reset(seed=1), theirs.reset(seed=1))
        for k in range(30):
            actions = (np.arange(5) + k) // 2 % 2
            assert same(envs.step(actions), theirs.step(actions))
        theirs.close()
        threads = threading.active_count()
    assert left_behind(channel_root) == []
    assert threading.active_count() <= threads


def test_gymnasium_makes_another_from_the_spec() -> None:
    with rlay.make_vec("CartPole-v1", 2, workers=1, timeout=50.0, copy=False) as envs:
        assert envs.spec is not None
        again: Any = gymnasium.make_vec(envs.spec, vectorization_mode="vector_entry_point")
        try:
            assert isinstance(again, rlay.VectorEnv)
            assert (again.num_envs, again.timeout, again._copy) == (2, 50.0, False)
            assert same(envs.reset(seed=1), again.reset(seed=1))
        finally:
            again.close()


def test_a_callable_with_arguments_and_another_interpreter() -> None:
    with rlay.make_vec(
        Wander,
        3,
        python=sys.executable,
        workers=2,
        autoreset_mode="SameStep",
        info_fields={"lap": "int64"},
        space="tuple",
    ) as envs:
        theirs = SyncVectorEnv([lambda: Wander("tuple")] * 3, autoreset_mode="SameStep")
        assert same(envs.reset(seed=8), theirs.reset(seed=8))
        envs.action_space.seed(0)
        for _ in range(8):
            actions = envs.action_space.sample()
            assert same(envs.step(actions), theirs.step(actions))
        theirs.close()


def test_a_dead_worker_is_named_and_a_reset_starts_it_again(channel_root: Path) -> None:
    with rlay.make_vec(lambda: Fickle(), 4, workers=2) as envs:
        envs.reset(seed=0)
        before = envs.call("process_id")
        assert before[0] == before[1] != before[2] == before[3] != os.getpid()
        os.kill(before[2], signal.SIGKILL)
        until(lambda: gone(before[2]), "worker 1 dies")
        with pytest.raises(rlay.PeerLostError, match=r"lanes 2 to 3 \(worker 1\)") as caught:
            envs.step([1, 2, 3, 4])
        assert caught.value.exit_code == -signal.SIGKILL
        assert caught.value.last_command == "STEP"
        for call in (lambda: envs.step([1, 2, 3, 4]), lambda: envs.call("process_id")):
            with pytest.raises(rlay.LocalProtocolError, match=r"reset\(\) first"):
                call()
        mask = np.array([True, False, True, True])
        observations, _ = envs.reset(seed=5, options={"reset_mask": mask})
        assert observations[1, 1] >= 1  # the healthy worker's lane goes on
        after = envs.call("process_id")
        assert after[0] == before[0]
        assert after[2] != before[2]
        observations, *_ = envs.step([5, 6, 7, 8])
        assert observations[:, 2].tolist() == [5, 6, 7, 8]
    for pid in {*before, *after}:
        until(lambda pid=pid: gone(pid), f"{pid} ends")
    assert left_behind(channel_root) == []


def test_an_exit_code_and_the_end_of_stderr_are_told() -> None:
    with rlay.make_vec(lambda: Fickle(), 3, workers=3) as envs:
        envs.reset()
        envs.set_attr("plan", [{}, {"step": "os._exit"}, {}])
        with pytest.raises(rlay.PeerLostError, match=r"lane 1 \(worker 1\)") as caught:
            envs.step([1, 2, 3])
        assert caught.value.exit_code == 8
        envs.reset()
        assert envs.step([1, 2, 3])[1].tolist() == [1.0, 2.0, 3.0]


def test_a_worker_whose_constructor_raises_is_an_error_that_says_so(
    channel_root: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(rlay.PeerLostError, match="worker 0 ended before it attached") as caught:
        rlay.make_vec(Fickle, 2, workers=1, plan={"init": "raise"})
    assert caught.value.exit_code == 1
    assert "told to fail in init" in caught.value.stderr_tail
    assert left_behind(channel_root) == []


def test_the_first_ready_worker_is_received_and_a_hanging_one_does_not_stop_the_end(
    tmp_path: Path, channel_root: Path
) -> None:
    gate = tmp_path / "gate"
    envs = rlay.make_vec(lambda: Fickle(), 2, workers=2, timeout=WATCHDOG)
    try:
        envs.reset()
        pids = envs.call("process_id")
        envs.set_attr("plan", [{"step": f"until {gate}"}, {}])
        envs.send([5, 6])
        assert envs.recv()[4]["env_id"].tolist() == [1]
        envs.send([7], [1])
        assert envs.recv()[0][:, 2].tolist() == [7]
        gate.touch()
        observations, *_, infos = envs.recv()
        assert (infos["env_id"].tolist(), observations[:, 2].tolist()) == ([0], [5])
        envs.set_attr("plan", [{"step": f"until {gate}.never"}, {}])
        envs.timeout = 0.0
        with pytest.raises(rlay.ChannelTimeoutError, match=r"lane 0 \(worker 0\)"):
            envs.step([1, 2])
    finally:
        envs.close()
    for pid in pids:
        until(lambda pid=pid: gone(pid), f"{pid} ends")
    assert left_behind(channel_root) == []


def test_a_worker_killed_in_flight_does_not_take_the_others_results(channel_root: Path) -> None:
    with rlay.make_vec(lambda: Fickle(), 2, workers=2) as envs:
        envs.reset()
        envs.set_attr("plan", [{"step": "sigkill"}, {}])
        envs.send([5, 6])
        lost, seen = [], []
        for _ in range(2):
            try:
                seen += envs.recv()[4]["env_id"].tolist()
            except rlay.PeerLostError as error:
                lost.append(error.exit_code)
        assert (lost, seen) == ([-signal.SIGKILL], [1])
        envs.reset()
        assert envs.step([1, 2])[1].tolist() == [1.0, 2.0]


def test_a_closed_vector_keeps_no_file_open_until_the_collector_comes() -> None:
    gc.collect()
    gc.disable()
    try:
        held = []
        for _ in range(2):
            envs = rlay.make_vec("CartPole-v1", 2, workers=1, timeout=WATCHDOG)
            envs.reset(seed=0)
            envs.close()
            held.append(len(os.listdir("/proc/self/fd")))
    finally:
        gc.enable()
    assert held[0] == held[1]


def test_errors_keep_no_file_open_until_the_collector_comes() -> None:
    """An error of one worker comes with the replies of the others, which must not outlive it."""
    gc.collect()
    held = []
    with rlay.make_vec(Counter, 2, workers=2, timeout=WATCHDOG) as envs:
        gc.disable()
        try:
            for victim in (1, 0, 1):
                envs.reset(seed=0)
                envs.step(np.ones(2, np.int64))
                held.append(len(os.listdir("/proc/self/fd")))
                os.kill(envs.call("process_id")[victim], signal.SIGKILL)
                with pytest.raises(rlay.PeerLostError):
                    envs.step(np.ones(2, np.int64))
        finally:
            gc.enable()
    assert len(set(held)) == 1, held


def test_lanes_are_split_evenly() -> None:
    assert [split(n, w) for n, w in ((5, 2), (4, 4), (7, 3), (1, 1))] == [
        [3, 2],
        [1, 1, 1, 1],
        [3, 2, 2],
        [1],
    ]
    assert len(usable_cores()) >= 1
    for wrong in ({"num_envs": 0}, {"num_envs": 2, "workers": 3}, {"num_envs": 2, "workers": 0}):
        with pytest.raises(rlay.LocalProtocolError, match="at least one lane"):
            rlay.make_vec("CartPole-v1", **wrong)
    with pytest.raises(ValueError, match="Sometimes"):
        rlay.make_vec("CartPole-v1", 1, autoreset_mode="Sometimes")
