"""What somebody may plant where rlay opens a file, and what must not come of it."""

from __future__ import annotations

import dataclasses
import os
import re
import socket
import stat
import subprocess
from collections.abc import Callable
from pathlib import Path

import rlay
from rlay.errors import RlayError
from tests.peers import PORT, environment

CHANNEL = "c"
GENERATION = 0x1122334455667788
UNSAFE_PATH = rlay.UnsafePathError.code
PRECIOUS = b"nobody may touch this"
IS_ROOT = hasattr(os, "geteuid") and os.geteuid() == 0
STRANGER = 12345
SIDES = ("server", "client")
FILES = (f"{CHANNEL}.rlay", f"{CHANNEL}.server.lock", f"{CHANNEL}.client.lock")
#: The sources of a peer in C to which the shim can tell what it meets.
PEER = (PORT / "scripted_peer.c", Path(__file__).with_name("planned.c"))

Attempt = Callable[[str], tuple[int, str]]


@dataclasses.dataclass(frozen=True)
class Plant:
    """Something that is no file of ours.

    Attributes:
        name: of it.
        make: puts it at a path; the other path is a precious file.
        for_root: only root can make it.
    """

    name: str
    make: Callable[[Path, Path], object]
    for_root: bool = False


def _loose(mode: int) -> Callable[[Path, Path], None]:
    def make(path: Path, _: Path) -> None:
        path.touch()
        path.chmod(mode)

    return make


def _socket(path: Path, _: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        # By a short relative name, for the address of a socket holds about 100 bytes.
        descriptor = os.open(path.parent, os.O_RDONLY)
        try:
            listener.bind(f"/proc/self/fd/{descriptor}/{path.name}")
        finally:
            os.close(descriptor)


def _foreign(path: Path, _: Path) -> None:
    path.touch(0o600)
    os.chown(path, STRANGER, STRANGER)


def _device(kind: int, major: int, minor: int) -> Callable[[Path, Path], None]:
    def make(path: Path, _: Path) -> None:
        os.mknod(path, kind | 0o600, os.makedev(major, minor))

    return make


PLANTS = (
    Plant("link", lambda path, precious: path.symlink_to(precious)),
    Plant("dangling-link", lambda path, _: path.symlink_to(path.parent / "nowhere")),
    Plant("hard-link", lambda path, precious: path.hardlink_to(precious)),
    Plant("fifo", lambda path, _: os.mkfifo(path, 0o600)),
    Plant("directory", lambda path, _: path.mkdir(0o700)),
    Plant("socket", _socket),
    Plant("readable-by-a-group", _loose(0o640)),
    Plant("writable-by-all", _loose(0o602)),
    Plant("foreign", _foreign, for_root=True),
    Plant("character-device", _device(stat.S_IFCHR, 1, 3), for_root=True),
    Plant("block-device", _device(stat.S_IFBLK, 7, 250), for_root=True),
)


def snapshot(root: Path) -> dict[str, tuple[int, ...]]:
    """Return what can be told of each name without opening it."""
    found = {}
    for path in root.iterdir():
        status = path.lstat()
        found[path.name] = (
            *(status.st_ino, status.st_mode, status.st_uid, status.st_gid),
            *(status.st_nlink, status.st_size, status.st_mtime_ns, status.st_ctime_ns),
        )
    return found


def begin(side: str) -> tuple[int, str]:
    """Open our side in Python; return code and text of the error, code 0 for none."""
    settings = {"features": rlay.Feature.NONE}
    try:
        if side == "server":
            rlay.MemServer(CHANNEL, rlay.Role.AGENT, **settings).close()  # type: ignore[arg-type]
        else:
            client = rlay.MemClient(CHANNEL, rlay.Role.AGENT, **settings)  # type: ignore[arg-type]
            try:
                client.attach(0.0)
            finally:
                client.close()
    except RlayError as error:
        return error.code, str(error)
    return 0, ""


def begin_in_c(program: Path, **variables: str) -> Attempt:
    """Return what does the same with a C peer."""

    def attempt(side: str) -> tuple[int, str]:
        options = ["--side", side, "--role", "agent", "--channel", CHANNEL, "--timeout", "0.05"]
        done = subprocess.run(
            [program, *options],
            env={**environment(), **variables},
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
        found = re.search(r"error (\d+): (.*)", done.stderr)
        if found is None:
            return (0, "") if done.returncode == 0 else (-1, f"it ended with {done.returncode}")
        # A server that gets no client was ready to take one.
        code = int(found[1])
        return (0, "") if code == rlay.ChannelTimeoutError.code else (code, found[2])

    return attempt


def refusal(plant: Plant, path: Path, attempt: Attempt, side: str) -> list[str]:
    """Plant, try to begin, and return what is wrong with what happened."""
    root = path.parent
    precious = root / "precious"
    precious.write_bytes(PRECIOUS)
    precious.chmod(0o600)
    plant.make(path, precious)
    before = snapshot(root)
    code, text = attempt(side)
    after = snapshot(root)
    problems = []
    if code != UNSAFE_PATH:
        problems.append(f"code {code}: {text or 'it was accepted'}")
    elif str(path) not in text or "; " not in text:
        problems.append(f"the error names no path or no remedy: {text}")
    problems += [f"{name} was changed" for name in before if after.get(name) != before[name]]
    new = [name for name in after if name not in before and not name.endswith(".lock")]
    problems += [f"{name} was left behind" for name in new]
    if precious.read_bytes() != PRECIOUS:
        problems.append("the precious file was written")
    remove(path)
    precious.unlink()
    return problems


def remove(path: Path) -> None:
    """Remove whatever is there."""
    if path.is_dir() and not path.is_symlink():
        path.rmdir()
    else:
        path.unlink(missing_ok=True)
