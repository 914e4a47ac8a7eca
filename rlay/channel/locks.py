"""The two locks: held by a living side, released by the kernel when it dies (PROTOCOL.md §11).

Theory of operation. Each side holds an OS lock on its own lock file for as long
as it lives. The peer finds out by trying to take it: a probe that succeeds means
that nobody holds it. A probe therefore holds the lock for a moment, so everyone
who wants a lock tries again for a while before calling it busy.

The descriptors are opened here and nowhere mapped, because Python's ``mmap``
duplicates the descriptor it is given and would keep the lock. A forked child
closes them, or a dead parent would look alive.
"""

from __future__ import annotations

import contextlib
import os
import pathlib
import random
import time
import weakref
from collections.abc import Callable

from filelock import lock_descriptor, unlock_descriptor

from rlay.channel.files import forked_endpoint, open_lock_file
from rlay.errors import ChannelError

#: A prober holds a lock for microseconds; after this long a busy lock has an owner.
_RETRY_SECONDS = 0.15

#: On POSIX a call straight into C: no signal handler can raise before it has done its work.
_unlock: Callable[[int, int], None] = lambda descriptor, _: unlock_descriptor(descriptor)  # noqa: E731
_UNLOCK = 0
with contextlib.suppress(ImportError):
    import fcntl

    _unlock, _UNLOCK = fcntl.flock, fcntl.LOCK_UN

_open_locks: weakref.WeakSet[OsLock] = weakref.WeakSet()


class OsLock:
    """One lock file, kept open: to hold the lock, or to probe who does."""

    def __init__(self, path: pathlib.Path) -> None:
        """Open the lock file, creating it if missing."""
        self.path = path
        self.held = False
        self.forked = False
        self._descriptor = open_lock_file(path)
        _open_locks.add(self)

    def _is_at_path(self) -> bool:
        try:
            there = os.stat(self.path, follow_symlinks=False)
        except OSError:
            return False
        return os.path.samestat(there, os.fstat(self._descriptor))

    def _try(self) -> bool:
        if self.forked:
            raise forked_endpoint()
        try:
            return lock_descriptor(self._descriptor, blocking=False)
        except OSError as error:
            raise ChannelError(
                f"{self.path} cannot be locked: {error.strerror}; "
                "set RLAY_DIR to a directory on a local file system"
            ) from None

    def try_acquire(self) -> bool:
        """Take the lock if it is free; on True the caller must ``release`` it."""
        if not self._try():
            return False
        if not self._is_at_path():
            # Somebody removed the lock file: the lock that counts is on the new one.
            self._reopen()
            return self.try_acquire()
        self.held = True
        return True

    def acquire(self) -> bool:
        """Take the lock, trying for a moment because probes hold it briefly."""
        deadline = time.monotonic() + _RETRY_SECONDS
        while not self.try_acquire():
            if time.monotonic() > deadline:
                return False
            time.sleep(random.uniform(0.0005, 0.003))
        return True

    def keep(self) -> bool:
        """Make sure that what we hold still is the lock at the path; False if another has it."""
        if self.held and self._is_at_path():
            return True
        self.held = False
        self._reopen()
        return self.acquire()

    def release(self) -> None:
        """Give the lock back; that it is not held is fine."""
        if self._descriptor >= 0 and not self.forked:
            # Whatever `held` says: an interrupt may have come between the lock and that.
            self.held = False
            _unlock(self._descriptor, _UNLOCK)

    def is_free(self) -> bool:
        """Probe: tell whether nobody holds the lock, which means that its owner is dead."""
        try:
            if not self._try():
                return False
        finally:
            # Interrupted too: a probe that kept the lock would keep a newcomer out.
            if not self.forked:
                _unlock(self._descriptor, _UNLOCK)
        if self._is_at_path():
            return True
        self._reopen()
        return self.is_free()

    def _reopen(self) -> None:
        # In this order: failing to open leaves the old descriptor, and never a stale number.
        old, self._descriptor = self._descriptor, open_lock_file(self.path)
        os.close(old)

    def close(self) -> None:
        """Release and close; twice is fine."""
        if self._descriptor >= 0 and not self.forked:
            self.held = False
            os.close(self._descriptor)
        self._descriptor = -1

    def __del__(self) -> None:
        """Close with the endpoint it belongs to, or a forgotten one would look alive."""
        if getattr(self, "_descriptor", -1) >= 0:
            self.close()

    def _after_fork(self) -> None:
        self.forked = True
        if self._descriptor >= 0:
            with contextlib.suppress(OSError):
                os.close(self._descriptor)
            self._descriptor = -1


def _after_fork_in_child() -> None:
    for lock in list(_open_locks):
        lock._after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
