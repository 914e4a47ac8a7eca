"""What is noticed without a fault, and so by both twins: waits look at the size of the files."""

from __future__ import annotations

import contextlib
import os
import signal
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest

import rlay
from rlay import atomics
from rlay.protocol import constants
from rlay.protocol.constants import CONTROL_SIZE
from tests import pulled
from tests.peers import MODES, hosted, serving, until


class Narrow(pulled.Wide):
    """A few numbers, so that both records are single pages."""

    def __init__(self) -> None:
        super().__init__()
        self.action_space = gymnasium.spaces.Discrete(1 << 62)
        self.observation_space = gymnasium.spaces.Box(-(2**63), 2**63 - 1, (3,), np.int64)

    def reset(self, **_: Any) -> tuple[np.ndarray, dict[str, Any]]:  # type: ignore[override]
        return np.full(3, -1), {}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        return np.full(3, action), float(action), False, False, {}


@pytest.mark.leaves_files
@pytest.mark.parametrize("mode", MODES)
def test_a_cut_while_the_agent_waits(
    mode: str, spawn: Any, tmp_path: Path, atomics_twin: str
) -> None:
    gate = str(tmp_path / "gate")
    host = spawn(pulled.waiting_host, mode, gate)
    agent = spawn(pulled.waiting_agent, mode, "data", gate)
    said = until(agent.said, "the agent was cut")
    assert said[0][:2] == ["cut", "ChannelFormatError"]
    assert "was truncated while it was in use" in said[0][2]
    assert ".data" in said[0][2]
    if atomics_twin == "pure":
        # The host may write its reply where nothing is left.
        assert host.wait() in (0, -signal.SIGBUS)
        return
    assert agent.wait() == 0, agent.output()
    assert agent.said()[-1] == ["whole", 7.0]
    assert host.wait() == 0, host.output()


def test_an_idle_server_publishes_anew(channel_root: Path) -> None:
    path = channel_root / "pair.rlay"
    with serving("ClientEnv", Narrow()):
        before = path.stat().st_ino
        # The header stays, so that the pure twin lives to see it.
        os.truncate(path, 8192)
        until(lambda: path.stat().st_ino != before, "another file")
        assert path.stat().st_size == CONTROL_SIZE
        env = rlay.ClientEnv("pair")
        env.reset()
        assert env.step(5)[1] == 5.0
        env.close()


@pytest.mark.leaves_files
def test_a_file_that_stays_short_is_named(channel_root: Path) -> None:
    for size in (0, 8192):
        path = channel_root / "short.rlay"
        path.touch(0o600)
        os.truncate(path, size)
        with pytest.raises(rlay.ChannelFormatError, match=r"short\.rlay"):
            rlay.ClientEnv("short", attach_timeout=0.1)


@pytest.mark.parametrize("mode", MODES)
def test_growth_is_harmless(mode: str) -> None:
    with hosted(mode, Narrow()) as env:
        env.reset()
        paths = {pulled.mapped_file(m): m.size for m in env._session._channel.files}
        for path, size in paths.items():
            os.truncate(path, size + 12345)
        for number in range(1, 50):
            assert env.step(number)[0].tolist() == [number] * 3
        # A client that looks for the next session would refuse the control file as it is.
        for path, size in paths.items():
            os.truncate(path, size)
        assert env.step(50)[1] == 50.0


SMALL = {"request_body": 64, "reply_body": 64}


def cut_the_last_record(env: Any) -> Any:
    """Take 100 bytes from the reply record, which is a page; step."""
    env.reset()
    assert env.step(1)[1] == 1.0
    os.truncate(pulled.mapped_file(env._session._data), 8092)
    return env.step(2)[0].tolist()


@pytest.mark.parametrize("mode", MODES)
def test_a_cut_within_a_page(mode: str) -> None:
    """The rest of the page is zeros without a fault: the tail of the file tells."""
    with hosted(mode, Narrow(), **SMALL) as env:
        with pytest.raises(rlay.ChannelFormatError, match="file size is 8092, expected 73728"):
            cut_the_last_record(env)
        env.reset()
        assert env.step(9)[1] == 9.0


def test_without_a_tail_nothing_would_tell(monkeypatch: pytest.MonkeyPatch) -> None:
    if atomics.Shield is None:
        pytest.skip("the pure twin always looks at the size")
    monkeypatch.setattr(constants, "TAIL_SIZE", 0)
    with hosted("ClientEnv", Narrow(), **SMALL) as env:
        assert cut_the_last_record(env) == [2, 2, 2]


@pytest.mark.parametrize("mode", MODES)
def test_a_cut_through_the_tail_changes_no_value(mode: str) -> None:
    with hosted(mode, Narrow(), **SMALL) as env:
        env.reset()
        data = env._session._data
        os.truncate(pulled.mapped_file(data), data.size - 100)
        # Who waits for long looks at the size of the file, and says so.
        with contextlib.suppress(rlay.ChannelFormatError, rlay.PeerClosedError):
            for number in range(1, 50):
                assert env.step(number)[0].tolist() == [number] * 3


def test_the_switch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RLAY_SIGBUS", "maybe")
    with pytest.raises(rlay.LocalProtocolError, match="RLAY_SIGBUS='maybe': use on or off"):
        rlay.ServerBackend("pair", Narrow())
