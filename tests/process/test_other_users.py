"""What other users can do to a channel: be refused, and nothing else."""

from __future__ import annotations

import json
import os
import stat
import sys
from pathlib import Path

import pytest

import rlay
from rlay.channel import files
from tests.faults import plants
from tests.faults.plants import CHANNEL, FILES, IS_ROOT, SIDES, UNSAFE_PATH

pytestmark = [
    pytest.mark.one_twin,
    pytest.mark.skipif(sys.platform != "linux", reason="users, links and devices of Linux"),
    pytest.mark.timeout(120),
]
needs_root = pytest.mark.skipif(not IS_ROOT, reason="only root can become another user")


def _as_stranger(attempt: plants.Attempt, side: str) -> tuple[int, str]:
    """Begin as another user, in a child."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.setgroups([])
            os.setresgid(plants.STRANGER, plants.STRANGER, plants.STRANGER)
            os.setresuid(plants.STRANGER, plants.STRANGER, plants.STRANGER)
            os.write(write, json.dumps(attempt(side)).encode())
        except BaseException as error:
            os.write(write, json.dumps([-1, repr(error)]).encode())
        finally:
            os._exit(0)
    os.close(write)
    with os.fdopen(read) as pipe:
        code, text = json.loads(pipe.read())
    os.waitpid(child, 0)
    return code, text


@needs_root
def test_another_user_gets_nothing(channel_root: Path) -> None:
    serving = rlay.MemServer(CHANNEL, rlay.Role.AGENT, features=rlay.Feature.NONE)
    try:
        before = plants.snapshot(channel_root)
        for side in SIDES:
            code, text = _as_stranger(plants.begin, side)
            assert code == UNSAFE_PATH, text
            assert "belongs to user 0, not to you" in text

        def steal(name: str) -> tuple[int, str]:
            for act in (os.listdir, lambda path: open(path / name, "rb")):
                with pytest.raises(PermissionError):
                    act(channel_root)
            return 0, "nothing"

        for name in FILES:
            assert _as_stranger(steal, name) == (0, "nothing")
        assert plants.snapshot(channel_root) == before
    finally:
        serving.close()


@pytest.mark.parametrize("side", SIDES)
def test_what_belongs_to_another_user_is_refused(
    side: str, channel_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same without another user: the system says that we are somebody else."""
    us = os.geteuid()
    monkeypatch.setattr(files.os, "geteuid", lambda: us + 1)
    code, text = plants.begin(side)
    assert (code, os.listdir(channel_root)) == (UNSAFE_PATH, [])
    assert f"{channel_root} belongs to user {us}, not to you; set RLAY_DIR" in text
    # And a foreign file in a directory of ours.
    (channel_root / FILES[1]).touch(0o600)
    foreign = os.fstat

    def fstat(descriptor: int) -> os.stat_result:
        found = list(foreign(descriptor))
        found[stat.ST_UID] = us + 1
        return os.stat_result(found)

    monkeypatch.setattr(files.os, "geteuid", lambda: us)
    monkeypatch.setattr(files.os, "fstat", fstat)
    code, text = plants.begin(side)
    assert code == UNSAFE_PATH
    assert f"belongs to user {us + 1}, not to you; remove it" in text
