"""The channel's directory and files: safe paths, creation, publication (PROTOCOL.md §4).

Rules of this file. Nothing is opened that could be a link or a device. Nothing
that exists is truncated, resized or written anew: a new session is a new inode.
Space is reserved before a file is visible, so a full file system is an error
here and not a SIGBUS later.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import pathlib
import re
import stat
import tempfile
from collections.abc import Iterator
from typing import TYPE_CHECKING

from rlay import atomics
from rlay.channel.failures import failure
from rlay.channel.file_systems import check_file_system
from rlay.errors import (
    ChannelError,
    ChannelFormatError,
    LocalProtocolError,
    UnsafePathError,
)

if TYPE_CHECKING:
    from rlay._atomics import Shield

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_NOFOLLOW = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0)
_NONBLOCK = getattr(os, "O_NONBLOCK", 0)


def _chosen_root() -> pathlib.Path:
    if chosen := os.environ.get("RLAY_DIR"):
        return pathlib.Path(chosen)
    if hasattr(os, "geteuid") and os.path.isdir("/dev/shm"):
        return pathlib.Path(f"/dev/shm/rlay-{os.geteuid()}")
    import getpass  # only where there is no /dev/shm: it takes milliseconds

    return pathlib.Path(tempfile.gettempdir()) / f"rlay-{getpass.getuser()}"


def root() -> pathlib.Path:
    """Return the directory that holds this user's channels, made private.

    Raises:
        UnsafePathError: it is a link, no directory, another user's, open to others, or not
            on a local file system.
        ChannelError: it cannot be made.
    """
    path = _chosen_root()
    if not path.is_absolute():
        raise UnsafePathError(
            path,
            "is a relative path, and the two sides may have different working directories",
            "set RLAY_DIR to an absolute path",
        )
    try:
        os.mkdir(path, 0o700)
        made = True
    except FileExistsError:
        made = False
    except FileNotFoundError as error:
        raise failure(path, "cannot be made", error, f"make {path.parent} first") from None
    except OSError as error:
        raise failure(path, "cannot be made", error) from None
    try:
        _check_root(path, made=made)
    except BaseException:
        if made:
            with contextlib.suppress(OSError):
                os.rmdir(path)
        raise
    return path


def _check_root(path: pathlib.Path, *, made: bool) -> None:
    remedy = "set RLAY_DIR to a private directory of your own"
    try:
        found = os.lstat(path)
    except OSError as error:
        raise failure(path, "cannot be examined", error) from None
    if not stat.S_ISDIR(found.st_mode):
        raise UnsafePathError(path, "is not a directory", remedy)
    _check_owner(path, found, remedy)
    if hasattr(os, "getuid") and found.st_mode & 0o077:
        problem = f"is open to other users (mode {stat.S_IMODE(found.st_mode):04o})"
        if made:  # by us, with mode 0700
            problem += ", for its file system keeps no permissions"
        raise UnsafePathError(path, problem, remedy if made else f"chmod 700 it, or {remedy}")
    check_file_system(path)


def _fstat(path: pathlib.Path, descriptor: int) -> os.stat_result:
    try:
        return os.fstat(descriptor)
    except OSError as error:
        raise failure(path, "cannot be examined", error) from None


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
        try:
            entries = sorted(os.listdir(self.root))
        except OSError as error:
            raise failure(self.root, "cannot be listed", error) from None
        for entry in entries:
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
    if found.st_nlink > 1:
        raise UnsafePathError(path, f"has {found.st_nlink} names (hard links)", remedy)


def check_replaceable(path: pathlib.Path) -> None:
    """Check that whatever is at a path we shall rename onto is ours to replace."""
    try:
        found = os.lstat(path)
    except FileNotFoundError:
        return
    except OSError as error:
        raise failure(path, "cannot be examined", error) from None
    check_regular(path, found)


def _open(path: pathlib.Path, flags: int) -> int:
    """Open a file of the channel and check what it is; the caller must close it."""
    try:
        descriptor = os.open(path, flags | _NOFOLLOW | _NONBLOCK, 0o600)
    except FileNotFoundError:
        raise
    except OSError as error:
        with contextlib.suppress(OSError):
            check_regular(path, os.lstat(path))  # knows better why, if that is the reason
        raise failure(path, "cannot be opened", error) from None
    try:
        check_regular(path, _fstat(path, descriptor))
    except BaseException:
        close(descriptor)
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
        raise failure(path, "cannot be opened", error) from None


def close(descriptor: int) -> None:
    """Close; the descriptor is gone whatever the system answers, so this is never repeated."""
    with contextlib.suppress(OSError):
        os.close(descriptor)


def _wants_shield() -> bool:
    """Tell whether a truncated file may be survived; RLAY_SIGBUS=off leaves the signal alone."""
    wish = os.environ.get("RLAY_SIGBUS") or "on"
    if wish not in ("on", "off"):
        raise LocalProtocolError(f"RLAY_SIGBUS={wish!r}: use on or off")
    return wish == "on"


class _Memory(mmap.mmap):
    """Mapped memory, guarded until nobody can touch it any more."""

    shield: Shield | None = None

    def __del__(self) -> None:
        # Before the memory is unmapped: whatever is mapped at its address next is not ours.
        if self.shield is not None:
            self.shield.release()


class Mapping:
    """A whole file mapped for reading and writing (or reading only)."""

    def __init__(self, path: pathlib.Path, descriptor: int, *, writable: bool = True) -> None:
        """Map the open file and close the descriptor; lock descriptors are always others."""
        self.path = path
        try:
            guarded = _wants_shield()
            found = _fstat(path, descriptor)
            self.inode = (found.st_dev, found.st_ino)
            self.size = found.st_size
            access = mmap.ACCESS_WRITE if writable else mmap.ACCESS_READ
            try:
                self._map: _Memory | None = _Memory(descriptor, self.size, access=access)
            except ValueError as error:
                raise ChannelFormatError(
                    str(path), "mapping", f"refused ({error})", "a file with contents"
                ) from None
            except OSError as error:
                raise failure(path, "cannot be mapped", error) from None
        finally:
            close(descriptor)
        self.memory = memoryview(self._map)
        if guarded and atomics.Shield is not None:
            self._map.shield = atomics.Shield(self.memory)

    def damage(self, *, quick: bool = False) -> ChannelFormatError | None:
        """Return what to raise if the file was truncated, or None while it is whole.

        Whoever has copied values asks this before it believes them: of a file that was
        truncated they may be zeros (PROTOCOL.md §19).

        Args:
            quick: without a system call where the memory is guarded; a cut is missed in the
                last page, where no record lies.
        """
        memory = self._map
        if memory is None:
            return None
        lost = memory.shield is not None and memory.shield.lost
        if quick and memory.shield is not None and not lost:
            return None
        try:
            size = memory.size()
        except OSError:
            size = self.size  # the system does not say
        if size >= self.size and not lost:
            return None
        where = f"{self.path} was truncated while it was in use; attach again"
        if size < self.size:
            return ChannelFormatError(where, "file size", size, self.size)
        return ChannelFormatError(where, "contents", "lost", f"{self.size} bytes")

    def check(self) -> None:
        """Raise ChannelFormatError if the file was truncated."""
        if damage := self.damage():
            raise damage

    def is_at(self, path: pathlib.Path) -> bool:
        """Tell whether ``path`` still names this file; True when the system does not say."""
        try:
            found = os.lstat(path)
        except (FileNotFoundError, NotADirectoryError):
            return False
        except OSError:
            return True
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
        ChannelFormatError: somebody changed its size at once.
        ChannelError: it cannot be created.
    """
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | _NOFOLLOW, 0o600)
    except OSError as error:
        raise failure(path, "cannot be created", error, needed=size) from None
    try:
        _reserve(descriptor, size)
    except BaseException as error:
        close(descriptor)
        unlink(path)
        if not isinstance(error, OSError):
            raise
        raise failure(path, "cannot have its space reserved", error, needed=size) from None
    mapping: Mapping | None = None
    try:
        mapping = Mapping(path, descriptor)
        if mapping.size != size:
            raise ChannelFormatError(
                f"{path} was truncated while it was made", "file size", mapping.size, size
            )
        return mapping
    except BaseException:
        if mapping:
            mapping.close()
        unlink(path)
        raise


def _reserve(descriptor: int, size: int) -> None:
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(descriptor, 0, size)
        return
    # Without fallocate, written bytes reserve the space.
    chunk = bytes(1 << 16)
    while size > 0:
        size -= os.write(descriptor, chunk[:size])


def attach(path: pathlib.Path, *, writable: bool = True) -> Mapping:
    """Map an existing file of the channel.

    Raises:
        FileNotFoundError: there is none.
        UnsafePathError: it is not a private regular file of this user.
    """
    return Mapping(path, open_existing(path, writable=writable), writable=writable)


def unlink(path: pathlib.Path) -> None:
    """Remove a name, if that can be done; what stays, the next server removes or replaces."""
    with contextlib.suppress(OSError):
        os.unlink(path)


def rename(private: pathlib.Path, path: pathlib.Path) -> None:
    """Publish a file under its name, in place of what is there.

    Raises:
        ChannelError: it cannot be done.
    """
    try:
        os.replace(private, path)
    except OSError as error:
        raise failure(path, "cannot be published", error) from None
