"""Deliberately broken versions of rlay: for each, the sweep has to complain.

Python is patched in the victim's process; C is compiled from a changed copy of ``rlay.h``.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import os
import pathlib
import time
from typing import Any

from rlay.channel import files


def leaks_a_descriptor() -> None:
    """Keep the descriptor when the mapping fails."""

    def init(self: Any, path: Any, descriptor: int, *, writable: bool = True) -> None:
        self.path = path
        found = os.fstat(descriptor)
        self.inode, self.size = (found.st_dev, found.st_ino), found.st_size
        try:
            self._map = files._Memory(descriptor, self.size)
        except OSError as error:
            raise files.failure(path, "cannot be mapped", error) from None
        os.close(descriptor)
        self.memory = memoryview(self._map)

    files.Mapping.__init__ = init  # type: ignore[method-assign]


def leaves_the_temporary_file() -> None:
    """Remove nothing of what could not be published."""
    original = files.unlink
    files.unlink = lambda path: None if path.suffix == ".tmp" else original(path)


def swallows_enospc() -> None:
    """Take a full file system for success."""
    original = files._reserve

    def reserve(descriptor: int, size: int) -> None:
        with contextlib.suppress(OSError):
            original(descriptor, size)

    files._reserve = reserve


def lets_the_system_speak() -> None:
    """Raise what the system said, as it is."""

    def check(path: pathlib.Path) -> None:
        with contextlib.suppress(FileNotFoundError):
            files.check_regular(path, os.lstat(path))

    files.check_replaceable = check


def waits_for_ever() -> None:
    """Try again to open, whatever the reason, and for ever."""
    original = os.open

    def patient(path: Any, flags: int, mode: int = 0o777, **more: Any) -> int:
        failed = False
        while True:
            try:
                descriptor = original(path, flags, mode, **more)
                if not failed:
                    return descriptor
                os.close(descriptor)
            except InterruptedError:
                failed = True
            except OSError as error:
                if error.errno != errno.EMFILE:
                    raise
                failed = True
            time.sleep(0.01)

    files.os.open = patient  # type: ignore[assignment]


@dataclasses.dataclass(frozen=True)
class Broken:
    """What is broken, which case shows it, and what the judgement must say of it.

    Attributes:
        name: a function above for Python; for C what is broken.
        victim: who plays.
        function: that fails.
        error: with which errno.
        complaint: a part of what the judgement says.
        change: for C: a text of ``rlay.h``, and what stands there instead.
    """

    name: str
    victim: str
    function: str
    error: int
    complaint: str
    change: tuple[str, str] = ("", "")


PYTHON = (
    Broken("leaks_a_descriptor", "ClientEnv", "mmap", errno.ENOMEM, "descriptors are still open"),
    Broken("leaves_the_temporary_file", "ServerEnv", "rename", errno.EACCES, "left behind"),
    Broken("swallows_enospc", "ServerEnv", "fallocate", errno.ENOSPC, "ENOSPC became"),
    Broken("lets_the_system_speak", "ServerEnv", "stat", errno.EACCES, "is no error of rlay"),
    Broken("waits_for_ever", "ClientEnv", "open", errno.EMFILE, "it hangs"),
)

_CLOSE_AFTER_MAP = """    close(fd);
    return at == MAP_FAILED ? NULL : (uint8_t *)at;
"""
_UNLINK_AFTER_RENAME = """        result = rlay__fail_errno(ch, "publish", path.text);
        unlinkat(ch->directory, tmp.text, 0);
"""
_UNDER_EINTR = """    while (errno == EINTR);
#endif
    if (errno == 0) return fd;
"""
_LOOPING = """    while (0);
    while (errno == EINTR) rlay__sleep_ns(1000000);
"""
_OPEN_AGAIN = """    while (fd < 0 && errno == EINTR);
    return fd;
"""
C = (
    Broken(
        *("leaks a descriptor", "ClientEnv", "mmap", errno.ENOMEM, "descriptors are still open"),
        (
            _CLOSE_AFTER_MAP,
            _CLOSE_AFTER_MAP.replace("close(fd)", "if (at != MAP_FAILED) close(fd)"),
        ),
    ),
    Broken(
        *("leaves the temporary file", "ServerEnv", "rename", errno.EACCES, "left behind"),
        (_UNLINK_AFTER_RENAME, _UNLINK_AFTER_RENAME.splitlines(keepends=True)[0]),
    ),
    Broken(
        *("swallows ENOSPC", "ServerEnv", "fallocate", errno.ENOSPC, "ended with code -7"),
        (_UNDER_EINTR, _UNDER_EINTR.replace("errno == 0", "errno == 0 || errno == ENOSPC")),
    ),
    Broken(
        *("gives up on EINTR", "ClientEnv", "open", errno.EINTR, "EINTR was not tried again"),
        (_OPEN_AGAIN, "    while (0);\n    return fd;\n"),
    ),
    Broken(
        *("loops for ever on EINTR", "ServerEnv", "fallocate", errno.EINTR, "it hangs"),
        (_UNDER_EINTR, _LOOPING + _UNDER_EINTR.partition("\n")[2]),
    ),
    Broken(
        *("blames the peer", "ClientEnv", "mmap", errno.ENOMEM, "which does not name it"),
        (
            "    if (result < 0) return rlay__session_end(ch, RLAY_BYE_CLOSED), result;",
            "    if (result < 0) valid = 0;",
        ),
    ),
)
