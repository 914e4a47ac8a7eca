"""Sequence numbers are equal or not, and 64 bits wide: sessions that begin shortly before 2**32.

No session reaches 2**32 in a test, so each side is told where to begin: in Python by a patched
constructor, in C by a copy of ``rlay.h`` with another first number.
"""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np
import pytest

import rlay
from rlay import session as session_module
from rlay.protocol import prefix
from tests.c_programs import header_with, needs_make
from tests.peers import BACKENDS, FACES, MODES, PATIENT, PORT, ROOT, WATCHDOG, Task, environment

CHANNEL = "sequence"
WRAPS = {"2**31": 2**31, "2**32": 2**32, "2**63": 2**63}
#: So many exchanges lie before the wrap.
BEFORE = 5


class Plain(gymnasium.Env[np.ndarray, Any]):
    """Its steps are ordinary, so the compiled path takes them where there is one."""

    observation_space = gymnasium.spaces.Box(0, 2**40, (2,), np.int64)
    action_space = gymnasium.spaces.Discrete(1000)

    def __init__(self) -> None:
        self.steps = 0

    def reset(self, *, seed: Any = None, options: Any = None) -> tuple[np.ndarray, dict[str, Any]]:
        self.steps = 0
        return np.zeros(2, np.int64), {}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        self.steps += 1
        return np.array([self.steps, action]), float(action), False, False, {}


@pytest.fixture
def begin_at(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Let all sessions of this process begin after this number."""
    begin = session_module.Session.__init__

    def patch(number: int) -> None:
        def init(self: Any, *args: Any, **kwargs: Any) -> None:
            begin(self, *args, **kwargs)
            self._seq = self._answered_seq = number

        monkeypatch.setattr(session_module.Session, "__init__", init)

    return patch


@contextlib.contextmanager
def playing(mode: str) -> Any:
    backend = BACKENDS[mode](CHANNEL, Plain(), **PATIENT)
    task = Task(backend.serve, sessions=1)
    with contextlib.closing(backend):
        env = FACES[mode](CHANNEL, **PATIENT)
        env.reset()
        yield env
        env.close()
        task.result()


def play(env: Any) -> None:
    """Step, render and reset across the wrap; every result is that of its action."""
    for k in range(1, 3 * BEFORE):
        observation, reward, *_ = env.step(k)
        assert (observation.tolist(), reward) == ([k, k], k)
    assert env.call("steps") == 3 * BEFORE - 1
    env.reset()
    assert env.step(7)[0].tolist() == [1, 7]


@pytest.mark.parametrize("wrap", WRAPS)
@pytest.mark.parametrize("mode", MODES)
def test_python_steps_across(
    mode: str, wrap: str, begin_at: Callable[[int], None], atomics_twin: str
) -> None:
    begin_at(WRAPS[wrap] - BEFORE)
    with playing(mode) as env:
        play(env)
        session = env._session
        assert session.state.name == "IN_EPISODE"  # which takes over what was compiled
        assert session._seq == WRAPS[wrap] - BEFORE + 3 * BEFORE + 3
        if atomics_twin == "compiled":
            assert session.exchange.seq == session._seq


class ShortPrefix:
    """A packer of prefixes that keeps 32 bits of the number."""

    def pack_into(self, memory: Any, offset: int, seq: int, *rest: int) -> None:
        self._struct.pack_into(memory, offset, seq & 0xFFFFFFFF, *rest)

    def __init__(self) -> None:
        self._struct = prefix.PREFIX

    def __getattr__(self, name: str) -> Any:
        return getattr(self._struct, name)


@pytest.mark.parametrize("mode", MODES)
def test_a_side_with_32_bits_is_found_out(
    mode: str, begin_at: Callable[[int], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The play above sees it, on whichever side it is."""
    monkeypatch.setattr(prefix, "PREFIX", ShortPrefix())
    monkeypatch.setattr("rlay.atomics.Exchange", None)
    begin_at(2**32 - BEFORE)
    with playing(mode) as env, pytest.raises((rlay.RemoteProtocolError, rlay.PeerClosedError)):
        play(env)


# C, and both languages.

_BEGIN_IN_PYTHON = """
import runpy
from rlay.session import Session
begin = Session.__init__
def init(self, *args, **kwargs):
    begin(self, *args, **kwargs)
    self._seq = self._answered_seq = FIRST
Session.__init__ = init
runpy.run_path(SCRIPT, run_name="__main__")
"""


@pytest.fixture(scope="session")
def begun_in_c(tmp_path_factory: pytest.TempPathFactory) -> Callable[[int, bool], str]:
    """A function that builds the scripted peer with another first number, or with 32 bits."""
    folder = tmp_path_factory.mktemp("sequence")

    def build(first: int, short: bool = False) -> str:
        where = folder / f"{first}-{short}"
        if not where.exists():
            where.mkdir()
            changes = [("ch->seq = 0;", f"ch->seq = {first}u;")]
            if short:
                stores = "rlay__put_u64(record + RLAY_PREFIX_SEQ, seq);"
                changes.append((stores, stores.replace("seq);", "(uint32_t)seq);")))
            (where / "rlay.h").write_text(header_with(*changes))
            shutil.copy(PORT / "scripted_peer.c", where)
            subprocess.run(
                ["cc", "-std=c11", "-O1", "-o", where / "peer", where / "scripted_peer.c", "-lm"],
                check=True,
                timeout=2 * WATCHDOG,
            )
        return str(where / "peer")

    return build


def command(language: str, build: Callable[[int, bool], str], first: int) -> list[str]:
    if language == "python":
        text = f"FIRST = {first}\nSCRIPT = {str(ROOT / 'tests/scripted_peer.py')!r}\n"
        return [sys.executable, "-c", text + _BEGIN_IN_PYTHON]
    return [build(first, language == "short_c")]


def pair(
    env: str, agent: str, side: str, build: Callable[[int, bool], str], first: int
) -> tuple[int, list[str]]:
    """Let two programs play the script; return the agent's exit code and its lines."""
    sides = {"agent": side, "env": "server" if side == "client" else "client"}
    options = ["--channel", CHANNEL, "--timeout", "20"]
    processes = {
        role: subprocess.Popen(
            [*command(language, build, first), *options, "--side", sides[role], "--role", role],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment(),
        )
        for role, language in (("env", env), ("agent", agent))
    }
    try:
        lines, _ = processes["agent"].communicate(timeout=2 * WATCHDOG)
        processes["env"].communicate(timeout=2 * WATCHDOG)
        return processes["agent"].returncode, lines.splitlines()
    finally:
        for process in processes.values():
            process.kill()
            process.communicate()


def without_numbers(lines: list[str]) -> list[str]:
    """Return the lines without the number of the exchange, which C prints as it is."""
    return [" ".join([*line.split()[:1], *line.split()[2:]]) for line in lines]


@needs_make
@pytest.mark.parametrize("side", ["client", "server"])
@pytest.mark.parametrize(("env", "agent"), [("c", "c"), ("c", "python"), ("python", "c")])
def test_c_plays_across(
    env: str, agent: str, side: str, begun_in_c: Callable[[int, bool], str], atomics_twin: str
) -> None:
    if (env, agent) == ("c", "c") and atomics_twin == "pure":
        pytest.skip("no Python in it")
    # The script has 37 exchanges.
    code, lines = pair(env, agent, side, begun_in_c, 2**32 - 18)
    assert code == 0
    assert len(lines) > 30
    code, expected = pair("c", "c", side, begun_in_c, 0)
    assert without_numbers(lines) == without_numbers(expected)


@needs_make
@pytest.mark.one_twin
@pytest.mark.parametrize(("env", "agent"), [("short_c", "c"), ("c", "short_c")])
def test_32_bits_in_c_are_found_out(
    env: str, agent: str, begun_in_c: Callable[[int, bool], str]
) -> None:
    """The play above sees it."""
    code, lines = pair(env, agent, "client", begun_in_c, 2**32 - 18)
    assert code != 0
    assert len(lines) < 20
