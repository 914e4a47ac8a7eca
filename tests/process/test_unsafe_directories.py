"""A directory that is not ours alone, or on an odd file system, is refused."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import rlay
from rlay.channel import file_systems, files
from tests.faults import plants
from tests.faults.plants import IS_ROOT, SIDES, UNSAFE_PATH

pytestmark = [
    pytest.mark.one_twin,
    pytest.mark.skipif(sys.platform != "linux", reason="users, links and devices of Linux"),
    pytest.mark.timeout(120),
]
needs_root = pytest.mark.skipif(not IS_ROOT, reason="only root can become another user")


def _directory(mode: int, owner: int = -1) -> Callable[[Path], None]:
    def make(path: Path) -> None:
        path.mkdir()
        path.chmod(mode)
        if owner >= 0:
            os.chown(path, owner, owner)

    return make


ROOTS = [
    pytest.param(lambda path: path.symlink_to(path.parent), UNSAFE_PATH, id="link"),
    pytest.param(lambda path: path.touch(0o600), UNSAFE_PATH, id="file"),
    pytest.param(lambda path: os.mkfifo(path, 0o600), UNSAFE_PATH, id="fifo"),
    pytest.param(_directory(0o750), UNSAFE_PATH, id="group"),
    pytest.param(_directory(0o701), UNSAFE_PATH, id="others"),
    pytest.param(_directory(0o1777), UNSAFE_PATH, id="sticky"),
    pytest.param(_directory(0o1770), UNSAFE_PATH, id="sticky-group"),
    pytest.param(_directory(0o700, plants.STRANGER), UNSAFE_PATH, id="foreign", marks=needs_root),
]


@pytest.mark.parametrize("language", ["python", "c"])
@pytest.mark.parametrize(("make", "code"), ROOTS)
def test_an_unsafe_directory_is_refused_and_left_alone(
    make: Callable[[Path], None],
    code: int,
    language: str,
    tmp_path: Path,
    attempts: dict[str, plants.Attempt],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    root = tmp_path / "above" / "root"
    root.parent.mkdir()
    make(root)
    monkeypatch.setenv("RLAY_DIR", str(root))
    before = plants.snapshot(root.parent)
    for side in SIDES:
        found, text = attempts[language](side)
        assert found == code, text
        assert str(root) in text
        assert "; " in text
    assert plants.snapshot(root.parent) == before
    if root.is_dir() and not root.is_symlink():
        assert os.listdir(root) == []


@pytest.mark.parametrize("language", ["python", "c"])
def test_a_directory_that_cannot_be_is_refused(
    language: str,
    tmp_path: Path,
    attempts: dict[str, plants.Attempt],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    missing = tmp_path / "nobody" / "made" / "this"
    file = tmp_path / "file"
    file.touch()
    for root, say in [
        (str(missing), "first"),
        (str(file / "below"), "Not a directory; "),
        ("relative/path", "absolute path"),
        (".", "absolute path"),
        (f"{tmp_path}/{'x' * 300}", "File name too long; "),
    ]:
        monkeypatch.setenv("RLAY_DIR", root)
        for side in SIDES:
            code, text = attempts[language](side)
            assert code in (UNSAFE_PATH, rlay.ChannelError.code), text
            assert say in text
    assert sorted(path.name for path in tmp_path.iterdir() if path.suffix == "") == ["file"]


@pytest.mark.parametrize("language", ["python", "c"])
@pytest.mark.parametrize("kind", sorted(file_systems.REFUSED), ids=file_systems.REFUSED.get)
def test_a_network_file_system_is_refused(
    kind: int, language: str, tmp_path: Path, planned_peer: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = file_systems.REFUSED[kind]
    root = tmp_path / "root"
    monkeypatch.setenv("RLAY_DIR", str(root))
    monkeypatch.setattr(file_systems, "_type_of", lambda _: kind)
    attempt = (
        plants.begin
        if language == "python"
        else plants.begin_in_c(planned_peer, PLANNED_TYPE=f"{kind:x}")
    )
    for side in SIDES:
        code, text = attempt(side)
        assert code == UNSAFE_PATH
        assert f"is on a {name} file system" in text
        assert "set RLAY_DIR" in text
        assert not root.exists()
    monkeypatch.setenv("RLAY_FILE_SYSTEM", "any")
    assert attempt("server") == (0, "")


def test_the_type_of_a_file_system_is_what_the_system_says() -> None:
    assert file_systems._type_of(Path("/proc")) == 0x9FA0  # proc(5)
    assert file_systems._type_of(Path("/nowhere/at/all")) is None


def test_a_fresh_directory_that_keeps_no_permissions_is_removed_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a FAT file system, where every file has the mode of its mount."""
    root = tmp_path / "root"
    monkeypatch.setenv("RLAY_DIR", str(root))
    original = os.mkdir
    monkeypatch.setattr(files.os, "mkdir", lambda p, _: (original(p), os.chmod(p, 0o777)))
    with pytest.raises(rlay.UnsafePathError, match="keeps no permissions; set RLAY_DIR"):
        files.root()
    assert not root.exists()
