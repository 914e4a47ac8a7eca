"""The other side of a test: hosted in a thread, or in a process that may be killed.

``hosted`` serves an environment from a thread and gives the agent's face of it.
``Forge`` makes processes fast: it imports rlay once, and forks for each child.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gymnasium

import rlay
from rlay import atomics

ROOT = Path(__file__).parents[1]
PORT = ROOT / "ports" / "reference_c"
#: The watchdog, seconds. Nothing is asserted about shorter times.
WATCHDOG = 90.0
#: For endpoints: nothing but the watchdog ends their waits.
PATIENT = {"timeout": WATCHDOG, "attach_timeout": WATCHDOG}
MODES = ("ClientEnv", "ServerEnv")
FACES: dict[str, Any] = {"ClientEnv": rlay.ClientEnv, "ServerEnv": rlay.ServerEnv}
BACKENDS: dict[str, Any] = {"ClientEnv": rlay.ServerBackend, "ServerEnv": rlay.ClientBackend}


def until(condition: Callable[[], Any], what: str) -> Any:
    """Wait until the condition is true and return its value; fail after the watchdog."""
    deadline = time.monotonic() + WATCHDOG
    while not (value := condition()):
        if time.monotonic() > deadline:
            raise AssertionError(f"waited {WATCHDOG:g} s in vain: {what}")
        time.sleep(0.002)
    return value


class Task:
    """A function in a thread; ``result`` gives what it returned or raises what it raised."""

    def __init__(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> None:
        self._outcome: list[Any] = []
        self._error: BaseException | None = None
        self._thread = threading.Thread(
            target=self._run, args=(function, args, kwargs), daemon=True
        )
        self._thread.start()

    def _run(self, function: Callable[..., Any], args: Any, kwargs: Any) -> None:
        try:
            self._outcome.append(function(*args, **kwargs))
        except BaseException as error:
            self._error = error

    def done(self) -> bool:
        return not self._thread.is_alive()

    def result(self) -> Any:
        self._thread.join(WATCHDOG)
        assert self.done(), f"a thread still runs after {WATCHDOG:g} s"
        if self._error is not None:
            raise self._error
        return self._outcome[0]


def hang(toy: Any, method: str, call: Callable[..., Any], *args: Any) -> Task:
    """Make a call in a thread, and wait until the toy hangs in this method of it."""
    toy.plan[method] = "block"
    task = Task(call, *args)
    until(toy.entered.is_set, f"the environment hangs in {method}")
    return task


def _serve(backend: Any, stop: threading.Event) -> None:
    """Serve one agent after another until told to stop."""
    backend.attach_timeout = 0.1
    while not stop.is_set():
        with contextlib.suppress(
            rlay.ChannelTimeoutError, rlay.ChannelNotFoundError, rlay.ChannelBusyError
        ):
            backend.serve(sessions=1)


@contextlib.contextmanager
def serving(
    mode: str, env: gymnasium.Env[Any, Any], channel: str = "pair", **settings: Any
) -> Iterator[Any]:
    """Serve ``env`` from a thread for the agents of the block; gives the backend."""
    stop = threading.Event()
    backend = BACKENDS[mode](channel, env, **settings)
    task = Task(_serve, backend, stop)
    try:
        yield backend
    finally:
        stop.set()
        release = getattr(env, "release", None)
        if release is not None:
            release.set()
        try:
            task.result()
        finally:
            backend.close()


@contextlib.contextmanager
def hosted(
    mode: str,
    env: gymnasium.Env[Any, Any],
    channel: str = "pair",
    *,
    face: dict[str, Any] | None = None,
    **settings: Any,
) -> Iterator[Any]:
    """Host ``env`` in a thread; gives its ClientEnv or ServerEnv."""
    with serving(mode, env, channel, **settings):
        remote = FACES[mode](
            channel, **{"timeout": WATCHDOG, "attach_timeout": WATCHDOG, **(face or {})}
        )
        try:
            yield remote
        finally:
            release = getattr(env, "release", None)
            if release is not None:
                release.set()
            remote.close()


def environment() -> dict[str, str]:
    """Return the environment variables of a child that imports rlay and these tests."""
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}


class Child:
    """A process the forge made."""

    def __init__(self, forge: Forge, pid: int, out: Path) -> None:
        self._forge, self.pid, self._out = forge, pid, out
        self._code: int | None = None

    def output(self) -> str:
        return self._out.read_text()

    def said(self) -> list[Any]:
        """Return what the child has told with ``say`` so far."""
        complete = self.output().split("\n")[:-1]
        return [json.loads(line[1:]) for line in complete if line.startswith("\x1e")]

    def await_saying(self, what: Any) -> None:
        def heard() -> bool:
            assert self.poll() is None or what in self.said(), self.output()
            return what in self.said()

        until(heard, f"the child says {what!r}; so far: {self.output()}")

    def poll(self) -> int | None:
        """Return the exit code, negative for a signal, or None while it runs."""
        if self._code is None:
            self._code = self._forge.ask({"poll": self.pid})
        return self._code

    def wait(self) -> int:
        """Return the exit code; a child that goes on saying things may take its time."""
        said, end = -1, 0.0
        while (code := self.poll()) is None:
            if (size := self._out.stat().st_size) != said:
                said, end = size, time.monotonic() + WATCHDOG
            if time.monotonic() > end:
                raise AssertionError(
                    f"process {self.pid} is silent and still runs: {self.output()}"
                )
            time.sleep(0.002)
        return code

    def signal(self, number: int) -> None:
        # Not reaped before poll() has seen its end, so the id is still its own.
        if self.poll() is None:
            os.kill(self.pid, number)


class Forge:
    """Forks children of a single-threaded process that has everything imported."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.peers"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment(),
            start_new_session=True,
        )
        self.pid = self._process.pid
        self._lock = threading.Lock()

    def ask(self, question: dict[str, Any]) -> Any:
        assert self._process.stdin
        assert self._process.stdout
        with self._lock:
            self._process.stdin.write(json.dumps(question).encode() + b"\n")
            self._process.stdin.flush()
            return json.loads(self._process.stdout.readline())

    def start(self, out: Path, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Child:
        """Run an importable function in a new process, which inherits no lock and no thread."""
        variables = {key: os.environ[key] for key in ("RLAY_DIR", "RLAY_ATOMICS")}
        out.touch()
        pid = self.ask(
            {
                "run": [function.__module__, function.__qualname__],
                "args": args,
                "kwargs": kwargs,
                "env": variables,
                "out": str(out),
            }
        )
        return Child(self, pid, out)

    def close(self) -> None:
        """End the forge, which kills the children it still has."""
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.close()
        self._process.wait(WATCHDOG)
        self._process.stdout.close()


def say(what: Any) -> None:
    """Tell the test something, from a child."""
    os.write(1, f"\x1e{json.dumps(what)}\n".encode())


def use_twin(twin: str) -> None:
    """Use this twin of the atomics in this process."""
    names = {"compiled": "rlay._atomics", "pure": "rlay._atomics_pure"}
    module = importlib.import_module(names[twin])
    for name in atomics.__all__:
        setattr(atomics, name, getattr(module, name, None))
    atomics.IMPLEMENTATION = twin


def _run(job: dict[str, Any]) -> None:
    """Be the child: run the job and exit."""
    code = 1
    try:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        descriptor = os.open(job["out"], os.O_WRONLY | os.O_APPEND)
        os.dup2(descriptor, 1)
        os.dup2(descriptor, 2)
        null = os.open(os.devnull, os.O_RDONLY)
        os.dup2(null, 0)
        os.environ.update(job["env"])
        use_twin(job["env"]["RLAY_ATOMICS"])
        module, name = job["run"]
        getattr(importlib.import_module(module), name)(*job["args"], **job["kwargs"])
        code = 0
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else 1
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)


def _forge() -> None:
    children: set[int] = set()
    importlib.import_module("tests.doomed")
    try:
        for line in sys.stdin.buffer:
            question = json.loads(line)
            if "poll" in question:
                pid, status = os.waitpid(question["poll"], os.WNOHANG)
                children.discard(pid)
                answer = os.waitstatus_to_exitcode(status) if pid else None
            else:
                answer = os.fork()
                if answer == 0:
                    _run(question)
                children.add(answer)
            sys.stdout.write(json.dumps(answer) + "\n")
            sys.stdout.flush()
    finally:
        for pid in children:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)


if __name__ == "__main__":
    _forge()
