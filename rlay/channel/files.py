"""The channel's directory and files: safe paths, creation, publication (PROTOCOL.md §4).

Rules of this file. Nothing is opened that could be a link or a device. Nothing
that exists is truncated, resized or written anew: a new session is a new inode.
Space is reserved before a file is visible, so a full file system is an error
here and not a SIGBUS later.
"""

from __future__ import annotations

import contextlib
import errno
import mmap
import os
import pathlib
import re
import stat
import tempfile
from collections.abc import Iterator

from rlay.errors import (
    ChannelError,
    ChannelFormatError,
    LocalProtocolError,
    NoSpaceError,
    UnsafePathError,
)

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_NOFOLLOW = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0)
_NONBLOCK = getattr(os, "O_NONBLOCK", 0)


def root() -> pathlib.Path:
    """Return the directory that holds this user's channels, made private.

    Raises:
        UnsafePathError: it is a link, no directory, another user's, or open to others.
    """
    if chosen := os.environ.get("RLAY_DIR"):
        path = pathlib.Path(chosen)
    elif hasattr(os, "getuid") and os.path.isdir("/dev/shm"):
        path = pathlib.Path(f"/dev/shm/rlay-{os.getuid()}")
    else:
        import getpass  # only where there is no /dev/shm: it takes milliseconds

        path = pathlib.Path(tempfile.gettempdir()) / f"rlay-{getpass.getuser()}"
    remedy = "set RLAY_DIR to a private directory of your own"
    try:
        with contextlib.suppress(FileExistsError):
            os.makedirs(path, mode=0o700)
        found = os.lstat(path)
    except OSError as error:
        raise UnsafePathError(path, f"cannot be used: {error.strerror}", remedy) from None
    if not stat.S_ISDIR(found.st_mode):
        raise UnsafePathError(path, "is not a directory", remedy)
    _check_owner(path, found, remedy)
    if hasattr(os, "getuid") and found.st_mode & 0o077:
        raise UnsafePathError(
            path, f"is open to other users (mode {stat.S_IMODE(found.st_mode):04o})", "chmod 700 it"
        )
    return path


def _check_owner(path: object, found: os.stat_result, remedy: str) -> None:
    if hasattr(os, "geteuid") and found.st_uid != os.geteuid():
        raise UnsafePathError(path, f"belongs to user {found.st_uid}, not to you", remedy)


class Paths:
    """Where the files of one channel are."""

    def __init__(self, name: str) -> None:
        """Check the name and the root.

        Raises:
            ChannelError: the name could be a path or is too long.
            UnsafePathError: the root is not private.
        """
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise ChannelError(
                f"channel name {name!r}: use 1 to 64 letters, digits, '.', '_' or '-', "
                "beginning with a letter or digit"
            )
        self.name = name
        self.root = root()
        self.control = self.root / f"{name}.rlay"
        self.server_lock = self.root / f"{name}.server.lock"
        self.client_lock = self.root / f"{name}.client.lock"

    def data(self, generation: int) -> pathlib.Path:
        """Return the path of a session's data file."""
        return self.root / f"{self.name}.{generation:016x}.data"

    def private(self, generation: int) -> pathlib.Path:
        """Return the path under which a control file is built."""
        return self.root / f".{self.name}.{generation:016x}.tmp"

    def stale(self) -> Iterator[pathlib.Path]:
        """Yield what killed servers left; only the holder of the server lock may remove it."""
        name = re.escape(self.name)
        left = re.compile(rf"\.{name}\.[0-9a-f]{{16}}\.tmp|{name}\.[0-9a-f]{{16}}\.data")
        for entry in sorted(os.listdir(self.root)):
            if left.fullmatch(entry):
                yield self.root / entry


def check_regular(path: object, found: os.stat_result) -> None:
    """Refuse anything but a private regular file of this user.

    Raises:
        UnsafePathError: names the path, the problem and the remedy.
    """
    remedy = "remove it, if you know where it came from"
    if not stat.S_ISREG(found.st_mode):
        kind = {
            stat.S_IFLNK: "a symbolic link",
            stat.S_IFDIR: "a directory",
            stat.S_IFIFO: "a FIFO",
        }.get(stat.S_IFMT(found.st_mode), "a special file")
        raise UnsafePathError(path, f"is {kind}, not a regular file", remedy)
    _check_owner(path, found, remedy)
    if hasattr(os, "getuid") and found.st_mode & 0o077:
        mode = stat.S_IMODE(found.st_mode)
        raise UnsafePathError(path, f"is open to other users (mode {mode:04o})", remedy)


def check_replaceable(path: pathlib.Path) -> None:
    """Check that whatever is at a path we shall rename onto is ours to replace."""
    with contextlib.suppress(FileNotFoundError):
        check_regular(path, os.lstat(path))


def _open(path: pathlib.Path, flags: int) -> int:
    """Open a file of the channel and check what it is; the caller must close it."""
    try:
        descriptor = os.open(path, flags | _NOFOLLOW | _NONBLOCK, 0o600)
    except FileNotFoundError:
        raise
    except OSError as error:
        if os.path.lexists(path):
            check_regular(path, os.lstat(path))
        raise ChannelError(f"{path} cannot be opened: {error.strerror}") from None
    try:
        check_regular(path, os.fstat(descriptor))
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def open_existing(path: pathlib.Path, *, writable: bool = True) -> int:
    """Open a file of the channel, and check what it is.

    Returns:
        A descriptor the caller must close.

    Raises:
        FileNotFoundError: there is none.
        UnsafePathError: it is a link, FIFO, directory, or another user's.
    """
    return _open(path, os.O_RDWR if writable else os.O_RDONLY)


def open_lock_file(path: pathlib.Path) -> int:
    """Open a lock file, creating it if missing; never truncates, never follows a link."""
    try:
        return _open(path, os.O_RDWR | os.O_CREAT)
    except FileNotFoundError as error:
        raise ChannelError(f"{path} cannot be opened: {error.strerror}") from None


class Mapping:
    """A whole file mapped for reading and writing (or reading only)."""

    def __init__(self, path: pathlib.Path, descriptor: int, *, writable: bool = True) -> None:
        """Map the open file and close the descriptor; lock descriptors are always others."""
        self.path = path
        try:
            found = os.fstat(descriptor)
            self.inode = (found.st_dev, found.st_ino)
            self.size = found.st_size
            access = mmap.ACCESS_WRITE if writable else mmap.ACCESS_READ
            try:
                self._map: mmap.mmap | None = mmap.mmap(descriptor, self.size, access=access)
            except (ValueError, OSError) as error:
                raise ChannelFormatError(
                    str(path), "mapping", f"refused ({error})", "a file with contents"
                ) from None
        finally:
            os.close(descriptor)
        self.memory = memoryview(self._map)

    def is_at(self, path: pathlib.Path) -> bool:
        """Tell whether ``path`` still names this file."""
        try:
            found = os.stat(path, follow_symlinks=False)
        except OSError:
            return False
        return (found.st_dev, found.st_ino) == self.inode

    def close(self) -> None:
        """Unmap, or leave that to the last view a caller still holds."""
        with contextlib.suppress(BufferError):
            self.memory.release()
        # Not by mmap.close(): NumPy arrays hold the map without exporting its buffer, so that
        # would pull the memory from under a view.
        self._map = None


def create(path: pathlib.Path, size: int) -> Mapping:
    """Create a private file of ``size`` zero bytes with its space reserved, and map it.

    Raises:
        NoSpaceError: the file system has no room; nothing is left behind.
        ChannelError: it cannot be created.
    """
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | _NOFOLLOW, 0o600)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise NoSpaceError(path, size) from None
        raise ChannelError(f"{path} cannot be created: {error.strerror}") from None
    try:
        _reserve(descriptor, size)
    except OSError as error:
        os.close(descriptor)
        unlink(path)
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise NoSpaceError(path, size) from None
        raise ChannelError(f"{path}: no space can be reserved: {error.strerror}") from None
    try:
        return Mapping(path, descriptor)
    except BaseException:
        unlink(path)
        raise


def _reserve(descriptor: int, size: int) -> None:
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(descriptor, 0, size)
        return
    # Without fallocate, written bytes reserve the space.
    chunk = bytes(1 << 16)
    for start in range(0, size, len(chunk)):
        os.write(descriptor, chunk[: size - start])


def attach(path: pathlib.Path, *, writable: bool = True) -> Mapping:
    """Map an existing file of the channel.

    Raises:
        FileNotFoundError: there is none.
        UnsafePathError: it is not a private regular file of this user.
    """
    return Mapping(path, open_existing(path, writable=writable), writable=writable)


def unlink(path: pathlib.Path) -> None:
    """Remove a name; that it is gone already is fine."""
    with contextlib.suppress(FileNotFoundError, PermissionError):
        os.unlink(path)


def forked_endpoint() -> LocalProtocolError:
    """Return the error for an endpoint that a fork has carried into a child."""
    return LocalProtocolError(
        "this endpoint belongs to the parent process; open a channel of your own after fork, "
        "or start processes with spawn"
    )
