"""Signals during every wait: handlers run, the wait goes on, and the same reply still arrives."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import rlay
from rlay.channel.channel import Channel
from rlay.channel.wait import Deadline
from tests.peers import BACKENDS, FACES, MODES, PATIENT, WATCHDOG, Task, say, until
from tests.toys import Counter

CHANNEL = "signals"
#: A signal every so many seconds.
EVERY = 0.001
#: So many arrive in each wait before the peer goes on.
STORM = 30

pytestmark = pytest.mark.parametrize("mode", MODES)


class Storm:
    """Counts the signals that a timer and a thread send to this process."""

    def __init__(self) -> None:
        self.count = 0
        self._over = threading.Event()
        for number in (signal.SIGALRM, signal.SIGUSR1, signal.SIGCHLD):
            signal.signal(number, self._handle)
        signal.setitimer(signal.ITIMER_REAL, EVERY, EVERY)
        self._thread = threading.Thread(target=self._send, daemon=True)
        self._thread.start()

    def _handle(self, number: int, frame: Any) -> None:
        self.count += 1

    def _send(self) -> None:
        while not self._over.wait(EVERY):
            for number in (signal.SIGUSR1, signal.SIGCHLD):
                signal.pthread_kill(threading.main_thread().ident or 0, number)

    def end(self) -> None:
        signal.setitimer(signal.ITIMER_REAL, 0)
        self._over.set()
        self._thread.join()


def opens(path: str, storm: Storm) -> None:
    """Open the gate from a thread when the storm has raged for a while."""
    until_count = storm.count + STORM

    def wait() -> None:
        while storm.count < until_count:
            time.sleep(EVERY)
        Path(path).touch()

    threading.Thread(target=wait, daemon=True).start()


def stormy_agent(mode: str, gates: str) -> None:
    """Go through every wait of an agent in a storm; runs in a child."""
    storm = Storm()
    opens(f"{gates}/attach", storm)
    env = FACES[mode](CHANNEL, **PATIENT)
    for name, call in {
        "reset": lambda: env.reset(seed=4)[1]["seed"],
        "step": lambda: env.step(5)[0].tolist(),
        "render": env.render,
        "wait": lambda: waited(env),
    }.items():
        before = storm.count
        opens(f"{gates}/{name}", storm)
        say([name, call()])
        say([f"signals in {name}", storm.count - before >= STORM])
    env.close()
    storm.end()
    say("closed")


def waited(env: Any) -> Any:
    env.timeout = 0.01
    with contextlib.suppress(rlay.ChannelTimeoutError):
        # The gate may open in these ten milliseconds.
        return env.step(6)[0].tolist()
    return env.wait(WATCHDOG)[0].tolist()


class Gated(Counter):
    """Each call waits for a file of its own."""

    def __init__(self, gates: Path) -> None:
        super().__init__(render_mode="ansi")
        names = iter(["reset", "step", "render", "wait"])
        self._names, self._gates = names, gates

    def _meet(self, method: str) -> None:
        if method in ("reset", "step", "render"):
            gate = self._gates / next(self._names)
            until(gate.exists, f"{gate} opens")


def test_every_wait_of_an_agent_in_a_storm(mode: str, spawn: Any, tmp_path: Path) -> None:
    agent = spawn(stormy_agent, mode, str(tmp_path))
    until((tmp_path / "attach").exists, "the agent waits for its server, or its game")
    with contextlib.closing(BACKENDS[mode](CHANNEL, Gated(tmp_path), **PATIENT)) as backend:
        task = Task(backend.serve, sessions=1)
        assert agent.wait() == 0, agent.output()
        task.result()
    said = agent.said()
    assert [line for line in said if line[0] in ("reset", "step", "render", "wait")] == [
        ["reset", 4],
        ["step", [1, 1, 5]],
        ["render", "step 1"],
        ["wait", [1, 2, 6]],
    ]
    assert [line[1] for line in said if line[0].startswith("signals")] == [True] * 4
    assert said[-1] == "closed"


def stormy_host(mode: str, gate: str) -> None:
    """Serve in a storm: idle before the agent, between its steps, and in loops; in a child."""
    storm = Storm()
    opens(gate, storm)
    with BACKENDS[mode](CHANNEL, Counter(), **PATIENT) as backend:
        backend.serve(sessions=1)
    say(["signals", storm.count > STORM])
    storm.end()


def test_a_host_in_a_storm(mode: str, spawn: Any, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    host = spawn(stormy_host, mode, str(gate))
    until(gate.exists, "the host idles in the storm")
    env = FACES[mode](CHANNEL, **PATIENT)
    env.reset()
    for k in range(1, 50):
        assert env.step(k)[0].tolist() == [1, k, k]
    time.sleep(STORM * EVERY)  # the wait under the storm is what this is about
    assert env.step(77)[1] == 77.0
    env.close()
    assert host.wait() == 0, host.output()
    assert host.said() == [["signals", True]]


# A deadline is an instant: signals do not move it.


def late_agent(mode: str, broken: bool) -> None:
    """Time out in a storm; runs in a child."""
    if broken:
        wait_slice = Channel.wait_slice

        def forgetful(self: Channel, deadline: Deadline) -> bool:
            # The whole time-out again after every wake-up.
            deadline._at_ns = Deadline(deadline.timeout)._at_ns
            return wait_slice(self, deadline)

        Channel.wait_slice = forgetful  # type: ignore[method-assign]
    env = FACES[mode](CHANNEL, **PATIENT)
    env.reset()
    storm = Storm()
    env.timeout = 1.0 if broken else 0.2
    say("waits")
    try:
        env.step(1)
    except rlay.ChannelTimeoutError:
        say("late")
    storm.end()
    env.close()


@pytest.mark.leaves_files
@pytest.mark.parametrize("broken", [False, True], ids=["", "forgetful"])
def test_a_storm_does_not_move_the_deadline(mode: str, broken: bool, spawn: Any) -> None:
    """And a wait that begins anew after each signal is found out."""
    toy = Counter(plan={"step": "block"})
    with contextlib.closing(BACKENDS[mode](CHANNEL, toy, **PATIENT)) as backend:
        task = Task(backend.serve, sessions=1)
        agent = spawn(late_agent, mode, broken)
        agent.await_saying("waits")
        until(toy.entered.is_set, "the environment hangs")
        if broken:
            # Three time-outs long nothing happens.
            end = time.monotonic() + 3.0
            while time.monotonic() < end:
                assert agent.said() == ["waits"]
                time.sleep(0.05)
            agent.signal(signal.SIGKILL)
        else:
            agent.await_saying("late")
        toy.release.set()
        agent.wait()
        with contextlib.suppress(rlay.PeerError):
            task.result()


# Handlers that use what they interrupt, and handlers that raise.


class Raised(Exception):  # noqa: N818 - a signal is no error
    """What a handler raises."""


@contextlib.contextmanager
def handling(handler: Callable[..., Any]) -> Iterator[Callable[[], None]]:
    """Handle SIGUSR1 in this thread; gives what sends it."""
    before = signal.signal(signal.SIGUSR1, handler)
    us = threading.main_thread().ident or 0
    try:
        yield lambda: signal.pthread_kill(us, signal.SIGUSR1)
    finally:
        signal.signal(signal.SIGUSR1, before)


def reentering_agent(mode: str, gates: str, unguarded: bool) -> None:
    """Use the endpoint in a handler that interrupts its wait; runs in a child.

    The first call that is let in ends the process.
    """
    env = FACES[mode](CHANNEL, **PATIENT)
    env.reset()
    if unguarded:
        env.guard = lambda function, *arguments: function(*arguments)

    def handler(number: int, frame: Any) -> None:
        for name in ("step", "wait", "reset", "render"):
            env.timeout = 0.05
            try:
                getattr(env, name)(*([1] if name == "step" else []))
                refused = False
            except rlay.RlayError as error:
                refused = "in use" in str(error)
            say([name, refused])
            if not refused:
                os._exit(3)
        Path(gates, "go").touch()

    with handling(handler):
        say("waits")
        say(env.step(5)[0].tolist())
    say(env.step(6)[0].tolist())
    env.close()


@pytest.mark.leaves_files
@pytest.mark.parametrize("unguarded", [False, True], ids=["", "unguarded"])
def test_a_handler_may_not_use_what_it_interrupts(
    mode: str, unguarded: bool, spawn: Any, tmp_path: Path
) -> None:
    """And one that is let in is found out."""
    toy = Counter(plan={"step": f"until {tmp_path / 'go'}"})
    with contextlib.closing(BACKENDS[mode](CHANNEL, toy, **PATIENT)) as backend:
        task = Task(backend.serve, sessions=1)
        agent = spawn(reentering_agent, mode, str(tmp_path), unguarded)
        agent.await_saying("waits")
        until((tmp_path / "go.entered").exists, "the environment waits")
        agent.signal(signal.SIGUSR1)
        if unguarded:
            assert agent.wait() == 3, agent.output()
            (tmp_path / "go").touch()
            with contextlib.suppress(rlay.PeerError):
                task.result()
            assert [name for name, refused in agent.said()[1:] if not refused] != []
            return
        assert agent.wait() == 0, agent.output()
        task.result()
    assert agent.said() == [
        "waits",
        *([name, True] for name in ("step", "wait", "reset", "render")),
        [1, 1, 5],
        [1, 2, 6],
    ]


def closing_agent(mode: str) -> None:
    """Close and exit in a handler, as one does for SIGTERM; runs in a child."""
    env = FACES[mode](CHANNEL, **PATIENT)
    env.reset()

    def handler(number: int, frame: Any) -> None:
        env.close()
        say("closed")
        raise SystemExit(5)

    with handling(handler):
        say("waits")
        env.step(5)


def test_a_handler_may_close_what_it_interrupts(mode: str, spawn: Any) -> None:
    toy = Counter()
    with contextlib.closing(BACKENDS[mode](CHANNEL, toy, **PATIENT)) as backend:
        attaching = Task(backend._attach, WATCHDOG)
        agent = spawn(closing_agent, mode)
        session = attaching.result()
        backend._answer(session, session.next_request(WATCHDOG))
        session.next_request(WATCHDOG)
        agent.signal(signal.SIGUSR1)
        assert agent.wait() == 5, agent.output()
        session.reply_step(np.zeros(3, np.int64), 0.0, False, False, {})
        with pytest.raises(rlay.PeerClosedError):
            session.next_request(WATCHDOG)
    assert agent.said() == ["waits", "closed"]


def interrupted_agent(mode: str, count: int, stale: bool) -> None:
    """Be interrupted anywhere in fast steps, and lose no result; runs in a child.

    A stale one gets the result of the step before from ``wait()``.
    """
    interrupts = 0
    armed = False

    def handler(number: int, frame: Any) -> None:
        nonlocal interrupts
        if armed:
            interrupts += 1
            raise Raised

    env = FACES[mode](CHANNEL, **PATIENT)
    env.reset()
    signal.signal(signal.SIGALRM, handler)
    signal.setitimer(signal.ITIMER_REAL, 0.0007, 0.0007)
    action = lost = 0
    result = env.step(action)
    while interrupts < count:
        action += 1
        before, result = result, None
        try:
            armed = True
            result = env.step(action)
            armed = False
        except Raised:
            armed = False
            if result is None:
                try:
                    result = env.wait()
                    result = before if stale else result
                except rlay.LocalProtocolError:
                    lost += 1  # not sent, or interrupted in the last nanoseconds
        if result is not None:
            assert (result[0].tolist()[2], result[1]) == (action, action), (action, result)
    signal.setitimer(signal.ITIMER_REAL, 0)
    say([interrupts, lost, env.step(3)[0].tolist()[2]])
    env.close()


@pytest.mark.leaves_files
@pytest.mark.parametrize("stale", [False, True], ids=["", "stale"])
def test_no_result_is_taken_for_another(mode: str, stale: bool, spawn: Any) -> None:
    """And one that is taken for another is found out."""
    with contextlib.closing(BACKENDS[mode](CHANNEL, Counter(), **PATIENT)) as backend:
        task = Task(backend.serve, sessions=1)
        agent = spawn(interrupted_agent, mode, 2000 if stale else 60, stale)
        status = agent.wait()
        if stale:
            assert status == 1, agent.output()
            assert "AssertionError" in agent.output()
            return
        assert status == 0, agent.output()
        task.result()
    assert agent.said()[0][2] == 3
