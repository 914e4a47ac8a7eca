"""No room for a file of the channel: an error, and work goes on once there is."""

from __future__ import annotations

import contextlib
import errno
import os

import pytest

import rlay
from rlay.channel import files
from rlay.protocol.constants import CONTROL_SIZE, Role
from tests.peers import MODES, WATCHDOG, Task, serving, until
from tests.toys import Counter

CHANNEL = "bad"


@pytest.mark.parametrize("mode", MODES)
def test_no_room_for_the_data_file(mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    original = os.posix_fallocate
    full = True

    def fallocate(descriptor: int, start: int, size: int) -> None:
        if full and size != CONTROL_SIZE:
            raise OSError(errno.ENOSPC, "No space left on device")
        original(descriptor, start, size)

    monkeypatch.setattr(files.os, "posix_fallocate", fallocate)
    if mode == "ClientEnv":
        with serving(mode, Counter(), CHANNEL):
            with pytest.raises(rlay.NoSpaceError, match=r"rejected this client.*no space for"):
                rlay.ClientEnv(CHANNEL, attach_timeout=WATCHDOG)
            full = False
            with contextlib.closing(rlay.ClientEnv(CHANNEL, attach_timeout=WATCHDOG)) as env:
                env.reset()
        return
    task = Task(rlay.ServerEnv, CHANNEL, attach_timeout=WATCHDOG)
    with contextlib.closing(rlay.ClientBackend(CHANNEL, Counter())) as backend:
        with pytest.raises(rlay.NoSpaceError, match="no space for"):
            backend.next_request()
        full = False
        serve = Task(backend.serve, sessions=1)
        env = task.result()
        env.reset()
        env.close()
        serve.result()


def test_no_room_for_the_next_control_file(monkeypatch: pytest.MonkeyPatch) -> None:
    """The session's end is not spoiled by it; the next accept reports it, and then recovers."""
    endpoint = rlay.MemServer(CHANNEL, Role.AGENT, features=rlay.Feature.NONE)
    with (
        contextlib.closing(endpoint),
        contextlib.closing(rlay.ClientBackend(CHANNEL, Counter())) as backend,
    ):
        task = Task(backend.next_request)
        session = endpoint.accept(WATCHDOG)

        def full(*_: object) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        with monkeypatch.context() as patch:
            patch.setattr(files.os, "posix_fallocate", full)
            session.end()
            with pytest.raises(rlay.PeerClosedError):
                task.result()
            with pytest.raises(rlay.NoSpaceError):
                endpoint.accept(0.0)
        with pytest.raises(rlay.ChannelTimeoutError):
            endpoint.accept(0.0)
        until(lambda: os.path.exists(endpoint.paths.control), "it is published again")
