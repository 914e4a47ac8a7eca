"""Interpreters that end, and objects that are forgotten, with everything still open."""

from __future__ import annotations

import contextlib
import gc
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

import rlay
from tests.peers import BACKENDS, FACES, MODES, PATIENT, WATCHDOG, Task, environment, until
from tests.toys import Counter

CHANNEL = "shutdown"

pytestmark = pytest.mark.parametrize("mode", MODES)

_BEGIN = """
import atexit, gc, os, sys, threading
import numpy as np
{before}
import rlay
from tests.peers import BACKENDS, FACES
from tests.toys import Counter
settings = dict(timeout=30.0, attach_timeout=30.0)
"""
_AGENT = _BEGIN + "env = FACES[mode]('shutdown', **settings)\nenv.reset()\nenv.step(1)\n"
_HOST = _BEGIN + (
    "backend = BACKENDS[mode]('shutdown', Counter(), **settings)\n"
    "thread = threading.Thread(target=backend.serve, daemon=True)\nthread.start()\n"
    "input()\n"
)

#: An agent that does this after a step, and how its environment's session ends.
AGENTS = {
    "nothing": ("", rlay.PeerClosedError),
    "in a cycle": (
        "cycle = [env]; cycle.append(cycle); env.me = env; del env",
        rlay.PeerClosedError,
    ),
    "deleted": (
        "del env; gc.collect(); print('deleted', flush=True); input()",
        rlay.PeerClosedError,
    ),
    "in a cycle, collected": (
        "env.me = env; del env; gc.collect(); print('deleted', flush=True); input()",
        rlay.PeerClosedError,
    ),
    "a last step in atexit": ("atexit.register(env.step, 2)", rlay.PeerClosedError),
    "a daemon thread that waits": (
        "threading.Thread(target=env.wait, daemon=True).start() if env.timeout == 0 else None\n"
        "env.timeout = 0.05\n"
        "try:\n    env.step(666)\nexcept rlay.ChannelTimeoutError:\n    pass\n"
        "def wait():\n"
        "    try:\n        env.wait(None)\n"
        "    except rlay.LocalProtocolError as error:\n        assert 'closed' in str(error)\n"
        "threading.Thread(target=wait, daemon=True).start()\n"
        "while not env.guard.owner: pass",
        rlay.PeerClosedError,
    ),
    "views that live on": (
        "env.close()\n"
        "env = FACES[mode]('shutdown', copy=False, **settings)\n"
        "first = env.reset()[0]\n"
        "view = env.step(7)[0]\n"
        "assert view.tolist() == [2, 1, 7], view\n"
        "kept = memoryview(view)\n"
        "env.close(); del env; gc.collect()\n"
        "assert view.tolist() == [2, 1, 7] and kept.tolist() == [2, 1, 7]",
        rlay.PeerClosedError,
    ),
    "os._exit": ("os._exit(0)", rlay.PeerLostError),
    "os.abort": ("sys.stderr.flush(); os.kill(os.getpid(), 9)", rlay.PeerLostError),
}

#: A host that does this while it serves in a daemon thread, and how its agent's session ends.
HOSTS = {
    "nothing": ("", rlay.PeerClosedError),
    "closed": ("backend.close(); thread.join(); assert backend._env is None", rlay.PeerClosedError),
    "closed twice": ("atexit.register(backend.close); backend.close()", rlay.PeerClosedError),
    "sys.exit": ("sys.exit(0)", rlay.PeerClosedError),
    "os._exit": ("os._exit(0)", rlay.PeerLostError),
}


class Gate(Counter):
    """Hangs in the step that is told to."""

    def step(self, action: Any) -> Any:
        if action == 666:
            self.plan["step"] = "block"
        return super().step(action)


@contextlib.contextmanager
def program(text: str, mode: str, before: str = "") -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, "-c", f"mode = {mode!r}\n" + text.replace("{before}", before)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(),
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def noise_of(process: subprocess.Popen[str]) -> list[Any]:
    """Wait for the end; return what is wrong with it."""
    _, said = process.communicate("\n", timeout=WATCHDOG)
    return [part for part in (said, process.returncode) if part not in ("", 0, -9)]


def ending_of(backend: Any) -> type[BaseException] | None:
    """Serve one agent by hand; return how it left."""
    session = backend._attach(WATCHDOG)
    try:
        while not session.ended:
            backend._answer(session, session.next_request(WATCHDOG))
    except rlay.PeerError as error:
        return type(error)
    return None


@pytest.mark.leaves_files
@pytest.mark.parametrize("what", AGENTS)
def test_an_agent_that_ends(mode: str, what: str) -> None:
    text, expected = AGENTS[what]
    toy = Gate()
    backend = BACKENDS[mode](CHANNEL, toy, **PATIENT)
    with contextlib.closing(backend), program(_AGENT + text, mode) as agent:
        if what == "views that live on":
            assert ending_of(backend) is None
            assert ending_of(backend) is None
            assert noise_of(agent) == []
            return
        task = Task(ending_of, backend)
        if "input()" in text:
            # The goodbye is there while the process lives.
            assert task.result() is expected
            assert agent.poll() is None
            assert noise_of(agent) == []
            return
        if "666" in text:
            until(toy.entered.is_set, "the environment hangs")
            assert noise_of(agent) == []
            toy.release.set()
            assert task.result() is expected
            return
        assert task.result() is expected
        assert noise_of(agent) == []


@pytest.mark.leaves_files
@pytest.mark.parametrize("what", HOSTS)
def test_a_host_that_ends(mode: str, what: str) -> None:
    text, expected = HOSTS[what]
    with program(_HOST + text, mode) as host:
        with contextlib.closing(FACES[mode](CHANNEL, **PATIENT)) as env:
            env.reset()
            assert env.step(1)[1] == 1.0
            assert noise_of(host) == []
            with pytest.raises(expected):
                env.step(2)


def test_a_forgotten_endpoint_leaves_nothing(mode: str, channel_root: Any) -> None:
    """The fixture looks for files, too."""
    toy = Counter()
    backend = BACKENDS[mode](CHANNEL, toy, **PATIENT)
    task = Task(backend.serve, sessions=1)
    env = FACES[mode](CHANNEL, **PATIENT)
    env.reset()
    del env
    gc.collect()
    task.result()
    del backend, task
    gc.collect()
    assert [path.suffix for path in channel_root.iterdir()] == [".lock", ".lock"]


def test_an_atexit_handler_that_comes_too_late_is_told(mode: str) -> None:
    """Registered before rlay, it runs after rlay has closed everything; and noise is noticed."""
    late = "atexit.register(lambda: env.step(2))"
    backend = BACKENDS[mode](CHANNEL, Counter(), **PATIENT)
    with contextlib.closing(backend), program(_AGENT, mode, before=late) as agent:
        assert ending_of(backend) is rlay.PeerClosedError
        (said,) = noise_of(agent)
        assert "LocalProtocolError: this endpoint is closed" in said


@pytest.mark.leaves_files
def test_without_the_goodbye_at_exit_a_peer_is_lost(mode: str) -> None:
    """The checks above see the difference."""
    text = "from rlay import lifetime\natexit.unregister(lifetime._close_all)\n"
    text += "for e in lifetime._open_endpoints: e.close = lambda: None\nkept = [env]"
    backend = BACKENDS[mode](CHANNEL, Counter(), **PATIENT)
    with contextlib.closing(backend), program(_AGENT + text, mode) as agent:
        assert ending_of(backend) is rlay.PeerLostError
        assert noise_of(agent) == []
