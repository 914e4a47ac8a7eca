"""Links that are swapped while rlay opens are never followed."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import rlay
from rlay.channel import files
from tests.c_programs import Compile
from tests.faults import plants, sweep
from tests.faults.plants import FILES, PLANTS

pytestmark = [
    pytest.mark.one_twin,
    pytest.mark.skipif(sys.platform != "linux", reason="users, links and devices of Linux"),
    pytest.mark.timeout(120),
]


ROUNDS = 2000


@contextlib.contextmanager
def swapping(path: Path, precious: Path) -> Iterator[None]:
    """Let a process put a file, a link, a FIFO, a directory and nothing at the path, in turn.

    No hard link: how many names a file has is true for a moment only.
    """
    child = os.fork()
    if child == 0:
        try:
            turns = [plant for plant in PLANTS if plant.name in ("link", "fifo", "directory")]
            parent = os.getppid()
            while os.getppid() == parent:
                for plant in turns:
                    plant.make(path, precious)
                    plants.remove(path)
                    # As a server publishes: complete, and by a rename.
                    fresh = path.with_name("fresh")
                    fresh.touch(0o600)
                    fresh.write_bytes(bytes(4096))
                    fresh.rename(path)
                    path.unlink()
        finally:
            os._exit(0)
    try:
        yield
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        for name in (path, path.with_name("fresh")):
            plants.remove(name)


def open_often(path: Path, forbidden: int) -> dict[str, int]:
    """Open many times what is at the path; count how that went, and openings of an inode."""
    counts = {"opened": 0, "refused": 0, "followed": 0}
    for _ in range(ROUNDS):
        try:
            descriptor = files.open_existing(path)
        except (FileNotFoundError, rlay.ChannelError):
            counts["refused"] += 1
            continue
        counts["opened"] += 1
        counts["followed"] += os.fstat(descriptor).st_ino == forbidden
        os.close(descriptor)
    return counts


def race(path: Path, look: Callable[[Path, int], dict[str, int]]) -> dict[str, int]:
    """Open while somebody swaps; no opening may block, and none may reach the precious file."""
    precious = path.with_name("precious")
    precious.write_bytes(plants.PRECIOUS)
    precious.chmod(0o600)
    try:
        with swapping(path, precious):
            counts = look(path, precious.stat().st_ino)
        assert precious.read_bytes() == plants.PRECIOUS
        assert stat.S_IMODE(precious.stat().st_mode) == 0o600
    finally:
        precious.unlink()
    return counts


def opener(program: Path) -> Callable[[Path, int], dict[str, int]]:
    def look(_: Path, forbidden: int) -> dict[str, int]:
        command = [program, str(10 * ROUNDS), str(forbidden)]
        done = subprocess.run(command, check=True, capture_output=True, timeout=60)
        counts: dict[str, int] = json.loads(done.stdout)
        return counts

    return look


def test_swapped_links_are_never_followed(channel_root: Path) -> None:
    counts = race(channel_root / FILES[0], open_often)
    assert counts["followed"] == 0
    assert counts["refused"] > 0


def test_swapped_links_are_never_followed_in_c(channel_root: Path, compile_gnu: Compile) -> None:
    counts = race(channel_root / FILES[0], opener(compile_gnu(sweep.HERE / "opener.c")))
    assert counts["followed"] == 0
    assert counts["refused"] > 0


def test_the_race_finds_a_version_that_follows(
    channel_root: Path, monkeypatch: pytest.MonkeyPatch, compile_gnu: Compile
) -> None:
    def until_followed(look: Callable[[Path, int], dict[str, int]]) -> bool:
        return any(race(channel_root / FILES[0], look)["followed"] for _ in range(20))

    change = ("O_RDWR | O_NOFOLLOW", "O_RDWR")
    assert until_followed(opener(compile_gnu(sweep.HERE / "opener.c", change=change)))
    monkeypatch.setattr(files, "_NOFOLLOW", os.O_CLOEXEC)
    assert until_followed(open_often)
