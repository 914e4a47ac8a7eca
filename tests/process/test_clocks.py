"""Clocks that jump, and two processes whose clocks differ: time is measured, never compared."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import pytest

import rlay
from rlay.channel import wait
from rlay.channel.wait import Deadline
from tests.peers import BACKENDS, MODES, PATIENT, ROOT, WATCHDOG, Task, environment, hang, hosted
from tests.toys import Counter

CHANNEL = "clocks"

both_modes = pytest.mark.parametrize("mode", MODES)


class WallClock:
    """A wall clock that jumps back and forth by days at each look."""

    def __init__(self) -> None:
        self.looks = 0

    def __call__(self) -> float:
        self.looks += 1
        return 1e9 + (-1) ** self.looks * 86_400.0 * self.looks


class WallDeadline(Deadline):
    """The mistake: a deadline by the wall clock."""

    def slice_ns(self) -> int:
        return 1_000_000

    def passed(self) -> bool:
        return time.time() > 1e9


@pytest.fixture
def jumping(monkeypatch: pytest.MonkeyPatch) -> WallClock:
    """Let the wall clock of this process jump."""
    clock = WallClock()
    monkeypatch.setattr(time, "time", clock)
    monkeypatch.setattr(time, "time_ns", lambda: int(clock() * 1e9))
    return clock


def play(mode: str) -> str:
    """Reset, and step an environment that takes a while; say how it went."""
    toy = Counter()
    with hosted(mode, toy, CHANNEL) as env:
        env.reset()
        task = hang(toy, "step", env.step, 5)
        # Some slices go by.
        with contextlib.suppress(rlay.LocalProtocolError):
            for _ in range(3):
                time.sleep(wait.SLICE_NS * 1e-9)
        toy.release.set()
        try:
            return str(task.result()[0].tolist())
        except rlay.RlayError as error:
            return repr(error)


@both_modes
def test_the_wall_clock_does_not_matter(mode: str, jumping: WallClock) -> None:
    assert play(mode) == "[1, 1, 5]"


@both_modes
def test_a_deadline_by_the_wall_clock_is_found_out(
    mode: str, jumping: WallClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The check above sees it."""
    receive = rlay.session.Session.receive

    def impatient(self: Any, timeout: float | None, **kwargs: Any) -> Any:
        with monkeypatch.context() as patch:
            patch.setattr("rlay.conversation.Deadline", WallDeadline)
            return receive(self, timeout, **kwargs)

    toy = Counter(plan={"step": "block"})
    with hosted(mode, toy, CHANNEL) as env:
        env.reset()
        monkeypatch.setattr(rlay.session.Session, "receive", impatient)
        with pytest.raises(rlay.ChannelTimeoutError):
            env.step(5)
        monkeypatch.undo()


_AGENT = """
import time
from rlay.channel import wait
from tests.peers import FACES
BEFORE
env = FACES[MODE]("clocks", timeout=30.0, attach_timeout=30.0)
env.reset()
print([int(env.step(k)[1]) for k in range(1, 6)], flush=True)
env.timeout = 0.0
try:
    env.step(6)
except TimeoutError:
    env.wait(30.0)
env.close()
print(time.monotonic(), flush=True)
"""

#: As seen by one process, the monotonic clock is a month ahead.
_AHEAD = """
for name, unit in (("monotonic", 1), ("monotonic_ns", 10**9)):
    real = getattr(time, name)
    setattr(time, name, lambda real=real, unit=unit: real() + 30 * 86_400 * unit)
"""


def agent(mode: str, before: str = "", prefix: tuple[str, ...] = ()) -> subprocess.Popen[str]:
    text = f"MODE = {mode!r}" + _AGENT.replace("BEFORE", before)
    return subprocess.Popen(
        [*prefix, sys.executable, "-c", text],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(),
        cwd=ROOT,
    )


@contextlib.contextmanager
def serving_one(mode: str) -> Iterator[None]:
    with contextlib.closing(BACKENDS[mode](CHANNEL, Counter(), **PATIENT)) as backend:
        task = Task(backend.serve, sessions=1)
        yield
        task.result()


def check(process: subprocess.Popen[str]) -> None:
    """Let it play; its clock must really be another than ours."""
    try:
        said, problem = process.communicate(timeout=2 * WATCHDOG)
        assert process.returncode == 0, problem
        steps, clock = said.splitlines()
        assert steps == "[1, 2, 3, 4, 5]"
        assert float(clock) > time.monotonic() + 86_400, "the clocks are the same"
    finally:
        process.kill()
        process.communicate()


@both_modes
def test_a_peer_with_a_clock_of_its_own(mode: str) -> None:
    with serving_one(mode):
        check(agent(mode, before=_AHEAD))


def time_namespace() -> tuple[str, ...]:
    """Return how to start a program in a time namespace, or skip."""
    prefix = ("unshare", "--time", "--monotonic", str(30 * 86_400), "--fork")
    try:
        subprocess.run([*prefix, "true"], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("no time namespaces here")
    return prefix


@both_modes
def test_a_peer_in_a_time_namespace(mode: str) -> None:
    """The kernel's clock differs too, which the compiled waits use."""
    prefix = time_namespace()
    with serving_one(mode):
        check(agent(mode, prefix=prefix))


def test_the_same_clock_is_found_out() -> None:
    """Both tests above see a peer whose clock is ours after all."""
    with serving_one("ClientEnv"):
        with pytest.raises(AssertionError, match="the clocks are the same"):
            check(agent("ClientEnv"))


@both_modes
def test_a_suspended_pair_goes_on(mode: str) -> None:
    """Both sides stopped for longer than their time-outs, as by a laptop's lid."""
    process = agent(mode)
    with serving_one(mode):
        process.send_signal(signal.SIGSTOP)
        time.sleep(3 * wait.SLICE_NS * 1e-9)
        process.send_signal(signal.SIGCONT)
        said, problem = process.communicate(timeout=2 * WATCHDOG)
    assert process.returncode == 0, problem
    assert said.splitlines()[0] == "[1, 2, 3, 4, 5]"


def test_a_suspend_does_not_use_up_a_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    """Linux stops the monotonic clock in suspend: what counts is what this clock says."""
    now = 1000
    monkeypatch.setattr(wait.time, "monotonic_ns", lambda: now)
    deadline = Deadline(1.0)
    assert not deadline.passed()
    assert deadline.slice_ns() == wait.SLICE_NS
    now += 10**9 - 1  # awake for a second less a nanosecond, however long asleep
    assert not deadline.passed()
    assert deadline.slice_ns() == 1
    now += 1
    assert deadline.passed()
