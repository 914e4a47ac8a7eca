"""What other users, and odd file systems, can do to a channel: be refused, and nothing else."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import shutil
import signal
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gymnasium
import pytest

import rlay
from rlay import server
from rlay.channel import file_systems, files
from rlay.protocol.schema import describe_env
from tests.faults import plants, sweep
from tests.faults.plants import CHANNEL, GENERATION, IS_ROOT, PLANTS, UNSAFE_PATH, Plant
from tests.peers import ROOT, Task, environment

pytestmark = [
    pytest.mark.one_twin,
    pytest.mark.skipif(sys.platform != "linux", reason="users, links and devices of Linux"),
    pytest.mark.timeout(120),
]
needs_root = pytest.mark.skipif(not IS_ROOT, reason="only root can become another user")
SIDES = ("server", "client")
FILES = (f"{CHANNEL}.rlay", f"{CHANNEL}.server.lock", f"{CHANNEL}.client.lock")
ROUNDS = 2000


@pytest.fixture(scope="session")
def compile_c(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """A function that compiles a program with ``rlay.h``, or with a changed copy of it."""
    if shutil.which("gcc") is None:
        pytest.skip("there is no gcc")

    def compile_one(*sources: Path, change: tuple[str, str] = ("", "")) -> Path:
        folder = tmp_path_factory.mktemp("c")
        header = (sweep.PORT / "rlay.h").read_text()
        assert change[0] in header
        (folder / "rlay.h").write_text(header.replace(*change) if change[0] else header)
        copies = [Path(shutil.copy(source, folder)) for source in sources]
        command = ["gcc", "-std=gnu11", "-O1", "-o", folder / "program", *copies, "-ldl", "-lm"]
        subprocess.run(command, check=True)
        return folder / "program"

    return compile_one


PEER = (sweep.PORT / "scripted_peer.c", sweep.HERE / "planned.c")


@pytest.fixture(scope="session")
def peer(compile_c: Callable[..., Path]) -> Path:
    """A peer in C."""
    return compile_c(*PEER)


@pytest.fixture
def attempts(request: pytest.FixtureRequest) -> dict[str, plants.Attempt]:
    """How to begin in each language."""
    in_c = plants.begin_in_c(request.getfixturevalue("peer"))
    return {"python": plants.begin, "c": in_c}


def can_make(plant: Plant) -> bool:
    return IS_ROOT or not plant.for_root


# ---- what is planted -----------------------------------------------------------------


@pytest.mark.parametrize("plant", PLANTS, ids=lambda plant: plant.name)
@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("language", ["python", "c"])
def test_a_plant_is_refused_and_left_alone(
    language: str,
    name: str,
    plant: Plant,
    attempts: dict[str, plants.Attempt],
    channel_root: Path,
) -> None:
    if not can_make(plant):
        pytest.skip("only root can make this")
    for side in SIDES:
        assert plants.refusal(plant, channel_root / name, attempts[language], side) == []
    # And nothing is held: the channel works once the plant is gone.
    assert attempts[language]("server") == (0, "")


def test_the_check_finds_a_version_that_follows_links(
    channel_root: Path, monkeypatch: pytest.MonkeyPatch, compile_c: Callable[..., Path]
) -> None:
    link = PLANTS[0]
    monkeypatch.setattr(files, "_NOFOLLOW", os.O_CLOEXEC)
    path = channel_root / FILES[1]
    assert plants.refusal(link, path, plants.begin, "server")
    following = compile_c(*PEER, change=("O_RDWR | O_NOFOLLOW", "O_RDWR"))
    assert plants.refusal(link, path, plants.begin_in_c(following), "server")


def test_the_check_finds_a_version_that_truncates(
    channel_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "_NONBLOCK", os.O_TRUNC)
    found = plants.refusal(PLANTS[2], channel_root / FILES[1], plants.begin, "server")
    assert "the precious file was written" in found


def test_the_check_finds_a_version_that_looks_at_nothing(
    channel_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "check_regular", lambda *_: None)
    for plant in PLANTS:
        if can_make(plant):
            found = plants.refusal(plant, channel_root / FILES[1], plants.begin, "client")
            assert found, plant.name


@pytest.mark.parametrize("plant", PLANTS, ids=lambda plant: plant.name)
def test_a_private_name_that_is_taken_is_not_opened(
    plant: Plant, channel_root: Path, monkeypatch: pytest.MonkeyPatch, peer: Path
) -> None:
    """With a generation that is known before, at the names of a control file and a data file."""
    if not can_make(plant):
        pytest.skip("only root can make this")
    precious = channel_root / "precious"
    precious.write_bytes(plants.PRECIOUS)
    # Links and the like are what a killed server might have left: they are removed, unfollowed.
    monkeypatch.setattr(server.secrets, "randbits", lambda _: GENERATION)
    in_c = plants.begin_in_c(peer, PLANNED_GENERATION=f"{GENERATION:x}")
    paths = files.Paths(CHANNEL)
    for path in (paths.private(GENERATION), paths.data(GENERATION)):
        for attempt in (plants.begin, in_c):
            plant.make(path, precious)
            code, text = attempt("server")
            assert (code == 0) != (path.suffix == ".tmp" and path.is_dir()), text
            plants.remove(path)
        # And found there at the very moment: O_EXCL.
        plant.make(path, precious)
        before = plants.snapshot(channel_root)
        with pytest.raises(rlay.ChannelError, match="cannot be created: File exists; "):
            files.create(path, 4096)
        assert plants.snapshot(channel_root) == before
        plants.remove(path)
    assert precious.read_bytes() == plants.PRECIOUS
    precious.unlink()


@pytest.mark.parametrize("plant", PLANTS, ids=lambda plant: plant.name)
@pytest.mark.parametrize("language", ["python", "c"])
def test_a_client_refuses_what_stands_for_the_data_file(
    language: str,
    plant: Plant,
    channel_root: Path,
    attempts: dict[str, plants.Attempt],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if not can_make(plant):
        pytest.skip("only root can make this")
    precious = channel_root / "precious"
    precious.write_bytes(plants.PRECIOUS)
    planted: list[Path] = []
    original = rlay.MemServer._create_data

    def create(self: Any, channel: Any, layout: Any) -> Any:
        data = original(self, channel, layout)
        planted.append(self.paths.data(channel.generation))
        planted[0].unlink()
        plant.make(planted[0], precious)
        return data

    monkeypatch.setattr(rlay.MemServer, "_create_data", create)
    space = gymnasium.spaces.Discrete(2)
    schema = describe_env(space, space, request_body=4096, reply_body=4096, frame=0)
    serving = rlay.MemServer(CHANNEL, rlay.Role.ENV, features=rlay.Feature.NONE, schema=schema)
    try:
        accepting = Task(serving.accept, 30.0)
        if language == "python":
            client = rlay.MemClient(CHANNEL, rlay.Role.AGENT, features=rlay.Feature.NONE)
            with contextlib.closing(client), pytest.raises(rlay.UnsafePathError) as caught:
                client.attach(30.0)
            code, text = caught.value.code, str(caught.value)
        else:
            monkeypatch.setattr(plants, "CHANNEL", CHANNEL)
            code, text = attempts["c"]("client")
        accepting.result()
        assert code == UNSAFE_PATH, text
        assert str(planted[0]) in text
        assert precious.read_bytes() == plants.PRECIOUS
    finally:
        serving.close()
    plants.remove(planted[0])
    precious.unlink()


# ---- links that are swapped while rlay opens -----------------------------------------


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


def test_swapped_links_are_never_followed_in_c(
    channel_root: Path, compile_c: Callable[..., Path]
) -> None:
    counts = race(channel_root / FILES[0], opener(compile_c(sweep.HERE / "opener.c")))
    assert counts["followed"] == 0
    assert counts["refused"] > 0


def test_the_race_finds_a_version_that_follows(
    channel_root: Path, monkeypatch: pytest.MonkeyPatch, compile_c: Callable[..., Path]
) -> None:
    def until_followed(look: Callable[[Path, int], dict[str, int]]) -> bool:
        return any(race(channel_root / FILES[0], look)["followed"] for _ in range(20))

    change = ("O_RDWR | O_NOFOLLOW", "O_RDWR")
    assert until_followed(opener(compile_c(sweep.HERE / "opener.c", change=change)))
    monkeypatch.setattr(files, "_NOFOLLOW", os.O_CLOEXEC)
    assert until_followed(open_often)


# ---- the directory -------------------------------------------------------------------


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
    kind: int, language: str, tmp_path: Path, peer: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = file_systems.REFUSED[kind]
    root = tmp_path / "root"
    monkeypatch.setenv("RLAY_DIR", str(root))
    monkeypatch.setattr(file_systems, "_type_of", lambda _: kind)
    attempt = (
        plants.begin if language == "python" else plants.begin_in_c(peer, PLANNED_TYPE=f"{kind:x}")
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


# ---- other users ---------------------------------------------------------------------


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


# ---- no space, read-only -------------------------------------------------------------


def namespace() -> list[str]:
    """Return a command that gives a command mounts of its own, or skip."""
    for prefix in (["unshare", "-m"], ["unshare", "-Urm"]):
        with contextlib.suppress(FileNotFoundError):
            probe = [*prefix, "mount", "-t", "tmpfs", "none", "/mnt"]
            if subprocess.run(probe, capture_output=True, check=False).returncode == 0:
                return prefix
    pytest.skip("may not mount a file system here, not even in a namespace of its own")


def no_space(folder: Path, peer: Path | str, *how: str) -> str:
    command = [sys.executable, "-m", "tests.faults.no_space", str(folder), str(peer), *how]
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


def test_no_space_is_an_error_at_every_size(tmp_path: Path, peer: Path) -> None:
    told = no_space(tmp_path / "small", peer, "some")
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


def test_a_read_only_file_system_is_refused(tmp_path: Path, peer: Path) -> None:
    folder = tmp_path / "fixed"
    folder.mkdir()
    command = [*namespace(), sys.executable, "-c", READ_ONLY, str(folder), str(peer)]
    done = subprocess.run(
        command, env=environment(), cwd=ROOT, capture_output=True, text=True, check=False
    )
    lines = done.stdout.splitlines()
    assert len(lines) == 8, done.stderr
    for line in lines:
        assert line.startswith(f"{rlay.ChannelError.code} "), line
        assert "Read-only file system; set RLAY_DIR to a directory" in line


def test_every_plant_has_a_name_of_its_own() -> None:
    assert len({plant.name for plant in PLANTS}) == len(PLANTS)
    assert all(dataclasses.is_dataclass(plant) for plant in PLANTS)
