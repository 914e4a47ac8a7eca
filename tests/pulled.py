"""What children do in the truncation tests: play on while an outsider cuts a mapped file.

Every element of every value is the number of its step, so one zero among them is seen. A
story is a number of sessions, each of which is cut at a random moment and must end with
``ChannelFormatError``; after it the same two processes attach anew.
"""

from __future__ import annotations

import contextlib
import os
import random
import resource
import sys
import threading
import time
from typing import Any

import gymnasium
import numpy as np

import rlay
from rlay import atomics, conversation
from rlay.channel import files
from rlay.protocol.constants import TAIL_SIZE
from tests.peers import BACKENDS, FACES, PATIENT, WATCHDOG, say
from tests.toys import Counter

#: Five pages: a cut may take some of them and leave the others.
WIDTH = 2500
LANES = 3


class Wide(gymnasium.Env[np.ndarray, Any]):
    """Answers the action k with nothing but k, and wants k + 1 next."""

    def __init__(self, *, body: bool = False) -> None:
        self.observation_space = gymnasium.spaces.Box(-(2**63), 2**63 - 1, (WIDTH,), np.int64)
        self.action_space = gymnasium.spaces.Box(-(2**63), 2**63 - 1, (WIDTH,), np.int64)
        self._last = 0
        self._body = body

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        self._last = 0
        return np.full(WIDTH, -1), {}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        self._last += 1
        if not (action == self._last).all():
            say(["wrong action", int(action.min()), self._last])
        info = {"echo": action.copy()} if self._body else {}
        return np.full(WIDTH, self._last), float(self._last), False, False, info


def mapped_file(mapping: files.Mapping) -> str:
    """Return a path by which this process can open a mapped file, unlinked or not."""
    for descriptor in os.listdir("/proc/self/fd"):
        path = f"/proc/self/fd/{descriptor}"
        with contextlib.suppress(OSError):
            found = os.stat(path)
            if (found.st_dev, found.st_ino) == mapping.inode:
                return path
    raise AssertionError(f"{mapping.path} is not mapped here")


def _size(whole: int) -> int:
    """Choose what is left, with a cut through what is used: that is noticed in the same step."""
    used = whole - TAIL_SIZE
    return random.choice((0, 1, 100, 4096, random.randrange(used), used - 1))


class Outsider(threading.Thread):
    """Cuts one file of a session after a while.

    ``which`` is ``control``, ``data``, or ``observation``: the data file, inside that field.
    """

    def __init__(self, session: Any, which: str) -> None:
        super().__init__(daemon=True)
        mapping = session._channel.mapping if which == "control" else session._data
        self.path = mapped_file(mapping)
        inside = session.layout.request_size + 8192
        self.left = inside if which == "observation" else _size(mapping.size)
        self._delay = random.expovariate(1 / 0.005)
        self.start()

    def run(self) -> None:
        time.sleep(self._delay)
        with contextlib.suppress(OSError):
            os.truncate(self.path, self.left)


def break_checks(what: str) -> None:
    """Leave out what the tests are about, to see them fail."""
    if what == "no guard":
        os.environ["RLAY_SIGBUS"] = "off"
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if what == "nobody asks":
        files.Mapping.damage = lambda self, quick=False: None  # type: ignore[assignment]
        compiled = conversation.compile_exchange

        def compile_blindly(channel: Any, *args: Any, **kwargs: Any) -> Any:
            memories = [mapping._map for mapping in channel.files]
            for memory in memories:
                memory.shield.release()
            exchange = compiled(channel, *args, **kwargs)
            for memory in memories:
                memory.shield = atomics.Shield(memory)  # type: ignore[misc]
            return exchange

        conversation.compile_exchange = compile_blindly  # type: ignore[assignment]


def host(
    mode: str, *, fast: bool = True, body: bool = False, broken: str = "", closes: int = 1
) -> None:
    """Serve until so many sessions were closed well."""
    break_checks(broken)
    if not fast:
        atomics.Exchange = None
    with BACKENDS[mode]("pulled", Wide(body=body), **PATIENT) as backend:
        while closes:
            backend.serve(sessions=1)
            closes -= backend._session._command is rlay.Command.CLOSE


def _done() -> str:
    return os.path.join(os.environ["RLAY_DIR"], "done.lock")


def play(env: Any, which: str | None, *, copy: bool = True, body: bool = False) -> int:
    """Step and check every value, until something is raised; return after 100 steps without cut."""
    observation, _ = env.reset()
    if copy and not (observation == -1).all():
        say(["wrong observation", int(observation.min()), -1])
    outsider = Outsider(env._session, which) if which else None
    number = 0
    try:
        while outsider or number < 100:
            number += 1
            observation, reward, terminated, truncated, info = env.step(np.full(WIDTH, number))
            # Of a view only the beginning of its life is promised.
            good = not copy or bool((observation == number).all())
            good = good and (reward, terminated, truncated) == (number, False, False)
            good = good and (not body or bool((info["echo"] == number).all()))
            if not good:
                say(["wrong observation", int(observation.min()), number])
                raise SystemExit(3)
    finally:
        if outsider:
            outsider.join()
        say(["steps", number])
    return number


def agent(
    mode: str,
    rounds: int,
    which: str,
    *,
    seed: int = 0,
    fast: bool = True,
    copy: bool = True,
    body: bool = False,
    broken: str = "",
) -> None:
    """Play sessions that are cut, then one that is not."""
    random.seed(seed)
    break_checks(broken)
    if not fast:
        atomics.Exchange = None
    env = FACES[mode]("pulled", copy=copy, **PATIENT)
    for _ in range(rounds):
        try:
            play(env, which, copy=copy, body=body)
        except rlay.RlayError as error:
            say(["cut", type(error).__name__, str(error)])
    say(["whole", play(env, None, copy=copy, body=body)])
    with open(_done(), "w"):
        pass
    env.close()


def vector_host(channel: str) -> None:
    """Serve lanes until the agent closes well."""
    with rlay.VectorBackend(channel, Wide, LANES, **PATIENT) as backend:
        while True:
            backend.serve(sessions=1)
            if backend._session._command is rlay.Command.CLOSE:
                return


def vector_agent(rounds: int, which: str, *, copy: bool, seed: int) -> None:
    """Play lanes: sessions that are cut, then one that is not."""
    random.seed(seed)
    envs = rlay.VectorEnv(["pulled-0", "pulled-1"], copy=copy, **PATIENT)
    for number in range(rounds + 1):
        outsider = None
        try:
            observations, _ = envs.reset()
            cut = number < rounds
            outsider = Outsider(envs._workers[number % 2].session, which) if cut else None
            for step in range(1, 1 << 30 if cut else 50):
                actions = np.full((2 * LANES, WIDTH), step)
                if step % 3:
                    observations, rewards, *_ = envs.step(actions)
                else:
                    envs.send(actions)
                    left = 2 * LANES
                    while left:
                        observations, rewards, *_ = envs.recv()
                        left -= len(rewards)
                if not (observations == step).all() or not (rewards == step).all():
                    say(["wrong observation", int(observations.min()), step])
        except rlay.RlayError as error:
            say(["cut", type(error).__name__, str(error)])
        finally:
            if outsider:
                outsider.join()
        # What the other worker sent is of the old story: begin anew with both.
        while envs._pool._flying or envs._pool._late_errors:
            with contextlib.suppress(rlay.RlayError):
                envs.recv()
    say(["whole"])
    envs.close()


def waiting_host(mode: str, gate: str) -> None:
    """Answer one step only after the gate is there, and then a whole session."""
    with BACKENDS[mode]("pulled", Counter(plan={"step": f"until {gate}"}), **PATIENT) as backend:
        backend.serve(sessions=2)


def waiting_agent(mode: str, which: str, gate: str) -> None:
    """Be cut in the wait for a reply."""
    env = FACES[mode]("pulled", **PATIENT)
    env.reset()
    Outsider(env._session, which)
    try:
        env.step(1)
        say(["step", "was answered"])
    except rlay.RlayError as error:
        say(["cut", type(error).__name__, str(error)])
    with open(gate, "w"):
        pass
    env.reset()
    say(["whole", env.step(7)[1]])
    env.close()


def view_holder(mode: str) -> None:
    """Read a view of a file that is cut, after everything else has ended; fork, too."""
    env = FACES[mode]("pulled", copy=False, **PATIENT)
    env.reset()
    view = env.step(np.full(WIDTH, 1))[0]
    path = mapped_file(env._session._data)
    os.truncate(path, 0)
    say(["in the session", int(view.sum())])
    try:
        env.step(np.full(WIDTH, 2))
    except rlay.ChannelFormatError as error:
        say(["cut", type(error).__name__, str(error)])
    env.reset()
    other = env.step(np.full(WIDTH, 1))[0]
    path = mapped_file(env._session._data)
    # Whoever truncates after the session has ended finds the guard still there.
    descriptor = os.open(path, os.O_RDWR)
    env.close()
    child = os.fork()
    os.ftruncate(descriptor, 0)
    total = int(other.sum())
    if child == 0:
        os._exit(total)
    say(["afterwards", int(view.sum()), total])
    say(["in the child", os.waitpid(child, 0)[1]])
    # The host waits for one session more.
    last = FACES[mode]("pulled", **PATIENT)
    say(["whole", play(last, None)])
    last.close()


class _Cutter:
    """Truncates a file when a thread comes to its n-th line of rlay."""

    def __init__(self, path: str, left: int, line: int, ours: bool) -> None:
        self._path, self._left, self._to_go = path, left, line
        self._here = threading.get_ident() if ours else None
        self.cut = False

    def __call__(self, frame: Any, event: str, _: Any) -> Any:
        if "/rlay/" not in frame.f_code.co_filename or self.cut:
            return None
        if event == "line":
            self._to_go -= 1
            if self._to_go == 0:
                self.cut = True
                with contextlib.suppress(OSError):
                    os.truncate(self._path, self._left)
        return self


def attach_sweep(mode: str, left: int, first: int, stride: int) -> None:
    """Attach, again and again, with the control file cut at each n-th line of the attach."""
    path = os.path.join(os.environ["RLAY_DIR"], "pulled.rlay")
    stop = threading.Event()
    backend = BACKENDS[mode]("pulled", Wide(), attach_timeout=0.2)

    def serve() -> None:
        while not stop.is_set():
            with contextlib.suppress(rlay.ChannelError, rlay.ChannelTimeoutError):
                backend.serve(sessions=1)

    thread = threading.Thread(target=serve)
    thread.start()
    for line in range(first, 1 << 30, stride):
        cutter = _Cutter(path, left, line, True)
        sys.settrace(cutter)
        env = None
        try:
            env = FACES[mode]("pulled", timeout=WATCHDOG, attach_timeout=WATCHDOG)
            env.reset()
            number = env.step(np.full(WIDTH, 1))[1]
            outcome = "whole" if number == 1.0 else "wrong value"
        except rlay.RlayError as error:
            outcome = type(error).__name__
        finally:
            sys.settrace(None)
            if env is not None:
                env.close()
        say([outcome, line])
        if not cutter.cut:
            break
        env = FACES[mode]("pulled", timeout=WATCHDOG, attach_timeout=WATCHDOG)
        say(["afterwards", play(env, None)])
        env.close()
    stop.set()
    thread.join()
    backend.close()
