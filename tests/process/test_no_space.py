"""No space, or a file system that cannot be written: an error, and nothing left."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import rlay
from tests.peers import ROOT, environment

pytestmark = [
    pytest.mark.one_twin,
    pytest.mark.skipif(sys.platform != "linux", reason="users, links and devices of Linux"),
    pytest.mark.timeout(120),
]


def namespace() -> list[str]:
    """Return a command that gives a command mounts of its own, or skip."""
    for prefix in (["unshare", "-m"], ["unshare", "-Urm"]):
        with contextlib.suppress(FileNotFoundError):
            probe = [*prefix, "mount", "-t", "tmpfs", "none", "/mnt"]
            if subprocess.run(probe, capture_output=True, check=False).returncode == 0:
                return prefix
    pytest.skip("may not mount a file system here, not even in a namespace of its own")


def no_space(folder: Path, program: Path | str, *how: str) -> str:
    command = [sys.executable, "-m", "tests.faults.no_space", str(folder), str(program), *how]
    done = subprocess.run(
        [*namespace(), *command],
        env=environment(),
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_no_space_is_an_error_at_every_size(tmp_path: Path, planned_peer: Path) -> None:
    told = no_space(tmp_path / "small", planned_peer, "some")
    assert "PROBLEM" not in told
    assert "'NoSpaceError'" in told
    assert "'success'" in told


def test_the_check_finds_a_version_that_reserves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RLAY_SIGBUS", "off")
    told = no_space(tmp_path / "small", "", "some", "broken")
    assert f": signal {signal.SIGBUS.value}" in told


READ_ONLY = """
import os, subprocess, sys
folder, peer = sys.argv[1:]
subprocess.run(["mount", "-t", "tmpfs", "-o", "mode=0700", "none", folder], check=True)
os.mkdir(f"{folder}/root", 0o700)
subprocess.run(["mount", "-o", "remount,ro", folder], check=True)
from tests.faults import plants
from pathlib import Path
for root in ("root", "new"):
    os.environ["RLAY_DIR"] = f"{folder}/{root}"
    for side in ("server", "client"):
        for attempt in (plants.begin, plants.begin_in_c(Path(peer))):
            print(*attempt(side))
"""


def test_a_read_only_file_system_is_refused(tmp_path: Path, planned_peer: Path) -> None:
    folder = tmp_path / "fixed"
    folder.mkdir()
    command = [*namespace(), sys.executable, "-c", READ_ONLY, str(folder), str(planned_peer)]
    done = subprocess.run(
        command, env=environment(), cwd=ROOT, capture_output=True, text=True, check=False
    )
    lines = done.stdout.splitlines()
    assert len(lines) == 8, done.stderr
    for line in lines:
        assert line.startswith(f"{rlay.ChannelError.code} "), line
        assert "Read-only file system; set RLAY_DIR to a directory" in line
