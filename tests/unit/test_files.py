"""rlay.channel.files: private paths, whole files, clear errors."""

from __future__ import annotations

import errno
import gc
import os
import stat
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import rlay
from rlay.channel import files
from rlay.protocol.constants import CONTROL_SIZE

root_only = pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root can give files away"
)


def make_link(path: Path) -> None:
    path.symlink_to(path.parent / "elsewhere")


def make_foreign(path: Path) -> None:
    path.touch(0o600)
    os.chown(path, 12345, 12345)


def make_open(path: Path) -> None:
    path.touch()
    path.chmod(0o640)


#: What may stand where a file of the channel should, and what the error says.
INTRUDERS = [
    pytest.param(make_link, "symbolic link", id="link"),
    pytest.param(lambda path: os.mkfifo(path, 0o600), "FIFO", id="fifo"),
    pytest.param(lambda path: path.mkdir(0o700), "directory", id="directory"),
    pytest.param(make_open, "open to other users .mode 0640", id="mode"),
    pytest.param(make_foreign, "belongs to user 12345", id="owner", marks=root_only),
]


def remove(path: Path) -> None:
    path.rmdir() if path.is_dir() and not path.is_symlink() else path.unlink()


def begin(side: str) -> None:
    if side == "server":
        rlay.MemServer("c", rlay.Role.AGENT, features=rlay.Feature.NONE)
    else:
        rlay.MemClient("c", rlay.Role.AGENT, features=rlay.Feature.NONE).attach(0.0)


@pytest.mark.parametrize(("make", "problem"), INTRUDERS)
@pytest.mark.parametrize("name", ["c.rlay", "c.server.lock", "c.client.lock"])
@pytest.mark.parametrize("side", ["server", "client"])
def test_an_intruder_is_refused_and_left_alone(
    side: str, name: str, make: Callable[[Path], None], problem: str, channel_root: Path
) -> None:
    path = channel_root / name
    make(path)
    before = os.lstat(path)
    try:
        with pytest.raises(rlay.UnsafePathError, match=problem) as caught:
            begin(side)
        assert caught.value.path == str(path)
        assert os.lstat(path) == before
    finally:
        remove(path)
    # And nothing is held: the channel works once the intruder is gone.
    rlay.MemServer("c", rlay.Role.AGENT, features=rlay.Feature.NONE).close()


@pytest.mark.parametrize(
    ("make", "problem"),
    [
        pytest.param(make_link, "not a directory", id="link"),
        pytest.param(lambda path: path.touch(0o600), "not a directory", id="file"),
        pytest.param(lambda path: os.mkfifo(path, 0o600), "not a directory", id="fifo"),
        pytest.param(
            lambda path: (path.mkdir(), path.chmod(0o755)), "mode 0755.*chmod 700", id="mode"
        ),
        pytest.param(
            lambda path: (path.mkdir(0o700), os.chown(path, 12345, 12345)),
            "belongs to user 12345",
            id="owner",
            marks=root_only,
        ),
    ],
)
def test_an_unsafe_root_is_refused(
    make: Callable[[Path], None], problem: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "root"
    make(path)
    monkeypatch.setenv("RLAY_DIR", str(path))
    with pytest.raises(rlay.UnsafePathError, match=problem) as caught:
        files.root()
    assert caught.value.path == str(path)


def test_a_missing_root_is_made_private(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "new"
    monkeypatch.setenv("RLAY_DIR", str(path))
    before = os.umask(0)
    try:
        assert files.root() == path
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o700
    assert files.root() == path


def test_an_empty_setting_means_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[tuple[str, int]] = []
    private = os.stat_result([stat.S_IFDIR | 0o700, 0, 0, 1, os.geteuid(), *[0] * 5])
    with monkeypatch.context() as patch:
        patch.setenv("RLAY_DIR", "")
        patch.setattr(files.os, "mkdir", lambda path, mode: made.append((str(path), mode)))
        patch.setattr(files, "check_file_system", lambda _: None)
        patch.setattr(files.os, "lstat", lambda _: private)
        patch.setattr(files.os.path, "isdir", lambda path: path == "/dev/shm")
        shared = files.root()
        patch.setattr(files.os.path, "isdir", lambda path: False)
        patch.setattr(files.tempfile, "gettempdir", lambda: "/somewhere")
        patch.setattr("getpass.getuser", lambda: "me")
        temporary = files.root()
    assert str(shared) == f"/dev/shm/rlay-{os.getuid()}"
    assert str(temporary) == "/somewhere/rlay-me"
    assert made == [(str(shared), 0o700), (str(temporary), 0o700)]


@pytest.mark.parametrize("name", ["a", "A.b_c-d", "9", "x" * 64, "a..b"])
def test_good_names(name: str, channel_root: Path) -> None:
    paths = files.Paths(name)
    assert paths.control == channel_root / f"{name}.rlay"
    assert paths.data(0xAB) == channel_root / f"{name}.00000000000000ab.data"
    assert paths.private(0xAB) == channel_root / f".{name}.00000000000000ab.tmp"


@pytest.mark.parametrize(
    "name", ["", ".", "..", ".a", "-a", "_a", "a/b", "../a", "a\n", "a\0", "ä", "x" * 65, 7, None]
)
def test_bad_names_touch_no_file(name: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RLAY_DIR", "/nowhere/at/all")
    with pytest.raises(rlay.ChannelError, match="letters, digits"):
        files.Paths(name)  # type: ignore[arg-type]


def test_stale_files_are_matched_as_a_whole(channel_root: Path) -> None:
    digits = "0123456789abcdef"
    mine = {f".a.b.{digits}.tmp", f"a.b.{digits}.data"}
    others = {
        f"a.{digits}.data",
        f"a.b.c.{digits}.data",
        f"axb.{digits}.data",
        f"a.b.{digits}.data.x",
        f"a.b.{digits[:15]}.data",
        f"a.b.{digits.upper()}.data",
        f"a.b.{digits}.tmp",
        f".a.b.{digits}.data",
        f"a.b.{digits}.data\n",
        "a.b.rlay",
    }
    for name in mine | others:
        (channel_root / name).touch()
    assert {path.name for path in files.Paths("a.b").stale()} == mine
    for name in mine | others:
        (channel_root / name).unlink()


def test_create_gives_a_private_file_of_zeros(channel_root: Path) -> None:
    path = channel_root / "new"
    mapping = files.create(path, 8192)
    try:
        found = path.stat()
        assert (found.st_size, stat.S_IMODE(found.st_mode)) == (8192, 0o600)
        assert found.st_blocks * 512 >= 8192  # reserved, so no SIGBUS later
        assert bytes(mapping.memory) == bytes(8192)
        mapping.memory[8191] = 7
        assert path.read_bytes()[8191] == 7
        assert mapping.is_at(path)
        with pytest.raises(rlay.ChannelError, match="cannot be created"):
            files.create(path, 8192)
        assert path.read_bytes()[8191] == 7
    finally:
        mapping.close()
        mapping.close()
        path.unlink()
    assert not mapping.is_at(path)


@pytest.mark.parametrize(
    ("number", "error"),
    [
        (errno.ENOSPC, rlay.NoSpaceError),
        (errno.EDQUOT, rlay.NoSpaceError),
        (errno.EFBIG, rlay.NoSpaceError),
        (errno.EIO, rlay.ChannelError),
    ],
)
def test_no_space_leaves_nothing(
    number: int, error: type[Exception], channel_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(files.os, "posix_fallocate", full)
    gc.collect()  # what other tests have left does not go in between
    before = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0
    with pytest.raises(error) as caught:
        files.create(channel_root / "big", 4096)
    if error is rlay.NoSpaceError:
        assert caught.value.needed == 4096  # type: ignore[attr-defined]
        assert "RLAY_DIR" in str(caught.value)
    assert os.listdir(channel_root) == []
    if before:
        assert len(os.listdir("/proc/self/fd")) == before


@pytest.mark.parametrize("left", [0, 100, 4096, 3 * 4096])
def test_a_file_that_is_cut_while_it_is_made(
    left: int, channel_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reserve = files._reserve

    def reserve_and_cut(descriptor: int, size: int) -> None:
        reserve(descriptor, size)
        os.ftruncate(descriptor, left)

    monkeypatch.setattr(files, "_reserve", reserve_and_cut)
    with pytest.raises(rlay.ChannelFormatError):
        files.create(channel_root / "cut", 2 * 4096)
    assert os.listdir(channel_root) == []


@pytest.fixture
def tiny_file_system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A mounted file system of 288 KiB: room for a control file and no more."""
    path = tmp_path / "tiny"
    path.mkdir(0o700)
    options = "size=288k,mode=0700"
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(path)],
        capture_output=True,
        check=False,
    )
    if done.returncode != 0:
        pytest.skip("may not mount a file system here")
    monkeypatch.setenv("RLAY_DIR", str(path))
    try:
        yield path
    finally:
        subprocess.run(["umount", str(path)], check=True)


def test_a_full_file_system_is_an_error_and_not_a_signal(tiny_file_system: Path) -> None:
    filler = tiny_file_system / "filler"
    filler.write_bytes(bytes(100_000))
    with pytest.raises(rlay.NoSpaceError, match=r"\.tmp: no space for 262144 bytes") as caught:
        rlay.MemServer("full", rlay.Role.AGENT, features=rlay.Feature.NONE)
    assert caught.value.needed == CONTROL_SIZE
    assert [p for p in os.listdir(tiny_file_system) if not p.endswith(".lock")] == ["filler"]
    filler.unlink()
    # The lock was released: now it works.
    rlay.MemServer("full", rlay.Role.AGENT, features=rlay.Feature.NONE).close()


@pytest.mark.parametrize("size", [0, 1, 4096])
def test_attach_maps_what_is_there(size: int, channel_root: Path) -> None:
    path = channel_root / "file"
    path.touch(0o600)
    path.write_bytes(bytes(size))
    if size == 0:
        with pytest.raises(rlay.ChannelFormatError, match="mapping is refused"):
            files.attach(path)
    else:
        mapping = files.attach(path, writable=False)
        assert mapping.size == size
        assert mapping.memory.readonly
        mapping.close()
    path.unlink()
    with pytest.raises(FileNotFoundError):
        files.attach(path)


def test_a_view_outlives_close(channel_root: Path) -> None:
    mapping = files.create(channel_root / "viewed", 4096)
    view = mapping.memory[:8]
    mapping.close()
    assert bytes(view) == bytes(8)
    view.release()
    mapping.close()
    files.unlink(channel_root / "viewed")
    files.unlink(channel_root / "viewed")


def test_a_replaced_file_is_noticed(channel_root: Path) -> None:
    path, other = channel_root / "one", channel_root / "two"
    mapping = files.create(path, 4096)
    files.create(other, 4096).close()
    os.replace(other, path)
    assert not mapping.is_at(path)
    mapping.close()
    path.unlink()


def test_looking_needs_no_right_to_write(monkeypatch: pytest.MonkeyPatch) -> None:
    """``rlay inspect`` opens read-only, so it can change nothing."""
    paths = files.Paths("unit")
    files.create(paths.control, 8192).close()
    flags: list[int] = []
    original = os.open
    monkeypatch.setattr(files.os, "open", lambda p, f, *a: flags.append(f) or original(p, f, *a))
    files.attach(paths.control, writable=False).close()
    files.attach(paths.control).close()
    monkeypatch.undo()
    files.unlink(paths.control)
    assert [flag & os.O_ACCMODE for flag in flags] == [os.O_RDONLY, os.O_RDWR]
