"""rlay.make: an environment in a process of its own, ended for certain."""

from __future__ import annotations

import contextlib
import gc
import json
import os
import signal
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import gymnasium
import pytest
from gymnasium.utils.env_checker import check_env

import rlay
from tests.peers import MODES, ROOT, WATCHDOG, environment, say, until
from tests.toys import Counter, Rooms, equal

GAME = Path(__file__).with_name("game.py")

both_modes = pytest.mark.parametrize("mode", MODES)


@pytest.fixture(autouse=True)
def _importable(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the children import rlay and these tests."""
    monkeypatch.setenv("PYTHONPATH", environment()["PYTHONPATH"])


def alive(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def gone(pid: int) -> None:
    until(lambda: not alive(pid), f"process {pid} ends")


def play(env: Any) -> None:
    observation, _ = env.reset(seed=3)
    assert observation.tolist()[1:] == [0, -1]
    for k in range(1, 4):
        observation, reward, *_ = env.step(k)
        assert (observation.tolist()[1:], reward) == ([k, k], float(k))


@both_modes
@pytest.mark.parametrize("how", ["id", "lambda", "callable", "python"])
def test_every_way_to_name_an_environment(mode: str, how: str, channel_root: Path) -> None:
    who = "closure"
    make: dict[str, Any] = {
        "id": ("CartPole-v1", {}),
        "lambda": (lambda: Counter(who=who), {}),
        "callable": (Counter, {"who": "closure"}),
        "python": (Counter, {"who": "closure", "python": sys.executable}),
    }
    named, settings = make[how]
    env = rlay.make(named, mode=mode, **settings)
    try:
        assert isinstance(env, rlay.ClientEnv if mode == "ClientEnv" else rlay.ServerEnv)
        if how == "id":
            here = gymnasium.make("CartPole-v1")
            assert equal(env.reset(seed=1), here.reset(seed=1))
            assert equal(env.step(1)[0], here.step(1)[0])
        else:
            pid = env.call("process_id")
            assert pid != os.getpid()
            assert env.call("who") == "closure"
            play(env)
    finally:
        env.close()
    if how != "id":
        assert not alive(pid)
    assert os.listdir(channel_root) == []


@both_modes
def test_gymnasium_makes_another_from_the_spec(mode: str) -> None:
    """With everything that was said to the first one."""
    settings: dict[str, Any] = {"timeout": None, "attach_timeout": 50.0, "copy": False}
    with contextlib.closing(rlay.make(Counter, mode=mode, wait="block", **settings)) as env:
        assert env.spec is not None
        with contextlib.closing(gymnasium.make(env.spec)) as another:
            again: Any = another.unwrapped
            play(again)
            assert (again.timeout, again.attach_timeout, again._copy) == (None, 50.0, False)
            assert again.spec.kwargs == env.spec.kwargs


@both_modes
def test_a_game_with_a_loop_of_its_own(mode: str, channel_root: Path) -> None:
    env = rlay.make(command=[sys.executable, str(GAME), mode, "{channel}"], mode=mode)
    try:
        pid = env.reset()[1]["pid"]
        for k in range(1, 5):
            observation, reward, *_ = env.step(10 * k)
            assert (observation.tolist(), reward) == ([k, 5 * k * (k + 1)], 10.0 * k)
        with pytest.raises(rlay.PeerLostError, match="exit code 9") as caught:
            env.step(999)
        assert caught.value.exit_code == 9
        assert "the game gives up" in caught.value.stderr_tail
        assert caught.value.last_command == "STEP"
        # reset() starts it again.
        again = env.reset()[1]["pid"]
        assert again != pid
        assert env.step(7)[0].tolist() == [1, 7]
    finally:
        env.close()
    assert not alive(again)
    assert os.listdir(channel_root) == []


@both_modes
@pytest.mark.parametrize(
    ("mishap", "code"), [("os._exit", 8), ("sigkill", -signal.SIGKILL), ("sys.exit", 7)]
)
def test_the_process_ends_in_a_step(mode: str, mishap: str, code: int) -> None:
    env = rlay.make(Counter, mode=mode)
    try:
        env.reset()
        env.set_attr("plan", {"step": mishap})
        if mishap == "sys.exit":
            with pytest.raises(rlay.RemoteError, match="SystemExit: 7"):
                env.step(1)
        else:
            with pytest.raises(rlay.PeerLostError) as caught:
                env.step(1)
            assert caught.value.exit_code == code
        with contextlib.suppress(rlay.PeerError):
            # What exited politely may still be saying goodbye.
            env.reset()
        play(env)
    finally:
        env.close()


@pytest.mark.one_twin
def test_processes_that_die_leave_no_descriptor_with_us(channel_root: Path) -> None:
    gc.collect()
    with contextlib.closing(rlay.make(Counter, timeout=WATCHDOG)) as env:
        held = []
        for _ in range(3):
            env.reset()
            held.append(len(os.listdir("/proc/self/fd")))
            os.kill(env.call("process_id"), signal.SIGKILL)
            with pytest.raises(rlay.PeerLostError):
                env.step(1)
        assert len(set(held)) == 1, held


@both_modes
@pytest.mark.parametrize("python", [None, sys.executable])
def test_a_constructor_that_raises(mode: str, python: str | None, channel_root: Path) -> None:
    with pytest.raises(rlay.PeerLostError, match="before it attached") as caught:
        rlay.make(Counter, mode=mode, plan={"init": "raise"}, python=python)
    assert "Mishap: told to fail in init" in caught.value.stderr_tail
    assert "Traceback" in str(caught.value)
    assert caught.value.exit_code == 1
    assert os.listdir(channel_root) == []


def test_what_cannot_be_started() -> None:
    with pytest.raises(rlay.ChannelNotFoundError, match="no such program"):
        rlay.make(command=["/no/such/game"])
    with pytest.raises(rlay.LocalProtocolError, match="use one of"):
        rlay.make("CartPole-v1", mode="Sideways")  # type: ignore[arg-type]
    with pytest.raises(rlay.LocalProtocolError, match="not both"):
        rlay.make()
    with pytest.raises(rlay.LocalProtocolError, match="not both"):
        rlay.make("CartPole-v1", command=["game"])
    with pytest.raises(rlay.LocalProtocolError, match="for command="):
        rlay.make(command=[sys.executable], width=3)
    with pytest.raises(rlay.LocalProtocolError, match="other interpreter can import"):
        rlay.make(lambda: Counter(), python=sys.executable)
    with pytest.raises(rlay.LayoutError, match="JSON"):
        rlay.make(Counter, python=sys.executable, plan={"x": object()})
    with pytest.raises(rlay.PeerLostError, match="NameNotFound"):
        rlay.make("NoSuchGame-v0")


@both_modes
@pytest.mark.parametrize("make", ["CartPole-v1", Rooms])
def test_the_checker_is_content(mode: str, make: Any) -> None:
    env = rlay.make(make, mode=mode)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", category=UserWarning, module="gymnasium")
            check_env(env, skip_render_check=True)
    finally:
        env.close()


def trainer(mode: str, ending: str) -> None:
    """Make an environment with a grandchild, then end in one way or another; in a child."""
    env = rlay.make(command=[sys.executable, __file__, mode], mode=mode)
    info = env.reset()[1]
    say(["started", info["pid"], info["grandchild"]])
    if ending == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if ending == "close":
        env.close()
    if ending == "forked":
        child = os.fork()
        if child == 0:
            say(["forked", os.getpid()])
            signal.pause()
            os._exit(0)
        os.kill(os.getpid(), signal.SIGKILL)
    # Otherwise the interpreter just ends.


def stubborn(mode: str) -> None:
    """A game that ignores polite requests, with a child that does too."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    sleeper = subprocess.Popen(
        [sys.executable, "-c", "import signal; signal.signal(15, 1); signal.pause()"]
    )
    counter = Counter()
    counter.info = {"pid": os.getpid(), "grandchild": sleeper.pid}
    backend = {"ClientEnv": rlay.ServerBackend, "ServerEnv": rlay.ClientBackend}[mode]
    with contextlib.suppress(rlay.RlayError):
        with backend(os.environ["RLAY_CHANNEL"], counter) as serving:
            serving.serve(sessions=1)
    signal.pause()


@both_modes
@pytest.mark.one_twin
@pytest.mark.leaves_files
@pytest.mark.parametrize("ending", ["close", "exit", "killed", "forked"])
def test_the_whole_group_ends(mode: str, ending: str, tmp_path: Path) -> None:
    out = tmp_path / "out"
    code = f"from tests.process import test_make; test_make.trainer({mode!r}, {ending!r})"
    forked = None
    with out.open("wb") as stream:
        process = subprocess.Popen(
            [sys.executable, "-c", code], cwd=ROOT, stdout=stream, stderr=stream
        )
    try:
        status = process.wait(WATCHDOG)
        lines = [line for line in out.read_text().split("\n") if line.startswith("\x1e")]
        said = [json.loads(line[1:]) for line in lines]
        assert said, out.read_text()
        assert said[0][0] == "started"
        if ending == "forked":
            until(lambda: "forked" in out.read_text(), "the trainer has forked")
            lines = [line for line in out.read_text().split("\n") if line.startswith("\x1e")]
            forked = json.loads(lines[-1][1:])[1]
        assert status == (-signal.SIGKILL if ending in ("killed", "forked") else 0)
        gone(said[0][1])
        gone(said[0][2])
        if forked is not None:
            assert alive(forked)
    finally:
        process.kill()
        process.wait()
        if forked is not None:
            os.kill(forked, signal.SIGKILL)


def trainer_whose_child_exits() -> None:
    """Fork, let the child's interpreter end in good order, and go on."""
    env = rlay.make(Counter)
    env.reset()
    child = os.fork()
    if child == 0:
        sys.exit(0)
    os.waitpid(child, 0)
    say(Path(os.environ["RLAY_DIR"], f"{env.channel}.rlay").exists())
    say(env.step(4)[1])
    env.close()


def end_together(mode: str, how: str) -> None:
    """End the environment, or stop it, and be killed before anything can be cleared away."""
    env = rlay.make(Counter, mode=mode, timeout=WATCHDOG)
    env.reset()
    os.kill(env.call("process_id"), getattr(signal, how))
    os.kill(os.getpid(), signal.SIGKILL)


# In ServerEnv mode the channel is the trainer's, so who was killed first leaves it to the other.
@pytest.mark.parametrize(
    ("mode", "how"),
    [("ClientEnv", "SIGKILL"), ("ClientEnv", "SIGSTOP"), ("ServerEnv", "SIGSTOP")],
)
def test_nothing_is_left_when_both_end_at_once(
    mode: str, how: str, spawn: Any, channel_root: Path
) -> None:
    trainer = spawn(end_together, mode, how)
    assert trainer.wait() == -signal.SIGKILL, trainer.output()

    def left() -> list[str]:
        return [path.name for path in channel_root.iterdir() if path.suffix != ".lock"]

    # A command that ended by itself may have ended before the trainer: then locks stay.
    until(lambda: not left(), f"the supervisor clears away {left()}")
    if how == "SIGSTOP":
        until(lambda: not os.listdir(channel_root), "the supervisor removes the lock files")


def test_a_forked_childs_exit_does_not_end_our_environment(channel_root: Path) -> None:
    code = "from tests.process import test_make; test_make.trainer_whose_child_exits()"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, timeout=WATCHDOG, check=False
    )
    assert (done.returncode, done.stdout) == (0, b"\x1etrue\n\x1e4.0\n"), done.stderr.decode()
    assert os.listdir(channel_root) == []


def test_a_forked_childs_close_does_not_end_our_environment() -> None:
    env = rlay.make(Counter)
    try:
        env.reset()
        child = os.fork()
        if child == 0:
            try:
                env.close()
            finally:
                os._exit(0)
        os.waitpid(child, 0)
        assert env.step(4)[1] == 4.0
    finally:
        env.close()


if __name__ == "__main__":
    stubborn(*sys.argv[1:])
