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

from rlay.channel.failures import failure
from rlay.channel.files import close, open_lock_file
from rlay.errors import ChannelError, LocalProtocolError

#: A prober holds a lock for microseconds; after this long a busy lock has an owner.
_RETRY_SECONDS = 0.15

#: So often in a row a lock file may turn out to have been replaced since it was opened.
_REPLACEMENTS = 100

#: On POSIX a call straight into C: no signal handler can raise before it has done its work.
_unlock: Callable[[int, int], None] = lambda descriptor, _: unlock_descriptor(descriptor)  # noqa: E731
_UNLOCK = 0
with contextlib.suppress(ImportError):
    import fcntl

    _unlock, _UNLOCK = fcntl.flock, fcntl.LOCK_UN

_open_locks: weakref.WeakSet[OsLock] = weakref.WeakSet()


def forked_endpoint() -> LocalProtocolError:
    """Return the error for an endpoint that a fork has carried into a child."""
    return LocalProtocolError(
        "this endpoint belongs to the parent process; open a channel of your own after fork, "
        "or start processes with spawn"
    )


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
            return os.path.samestat(there, os.fstat(self._descriptor))
        except FileNotFoundError:
            return False
        except OSError as error:
            raise failure(self.path, "cannot be examined", error) from None

    def _try(self) -> bool:
        if self.forked:
            raise forked_endpoint()
        if self._descriptor < 0:
            self._reopen()
        try:
            return lock_descriptor(self._descriptor, blocking=False)
        except OSError as error:
            remedy = "set RLAY_DIR to a directory on a local file system"
            raise failure(self.path, "cannot be locked", error, remedy) from None

    def _unlock(self) -> None:
        try:
            _unlock(self._descriptor, _UNLOCK)
        except OSError:
            # Closing gives it back as well; a probe that kept it would look like a living peer.
            self._reopen()

    def try_acquire(self) -> bool:
        """Take the lock if it is free; on True the caller must ``release`` it."""
        for _ in range(_REPLACEMENTS):
            if not self._try():
                return False
            try:
                if self._is_at_path():
                    self.held = True
                    return True
            except ChannelError:
                self._unlock()
                raise
            # Somebody removed the lock file: the lock that counts is on the new one.
            self._reopen()
        raise self._never_at_path()

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
            self._unlock()

    def is_free(self) -> bool:
        """Probe: tell whether nobody holds the lock, which means that its owner is dead."""
        for _ in range(_REPLACEMENTS):
            if not self._probe():
                return False
            if self._is_at_path():
                return True
            self._reopen()
        raise self._never_at_path()

    def _never_at_path(self) -> ChannelError:
        return ChannelError(
            f"{self.path} is another file each time it is opened; find out who replaces it"
        )

    def _probe(self) -> bool:
        got = None
        try:
            got = self._try()
        finally:
            # Interrupted too: a probe that kept the lock would keep a newcomer out. And at once,
            # for a signal handler can raise at the call of a method.
            if got is not False and self._descriptor >= 0:
                try:
                    _unlock(self._descriptor, _UNLOCK)
                except OSError:
                    self._reopen()
        return got

    def _reopen(self) -> None:
        self._let_go()
        self._descriptor = open_lock_file(self.path)

    def _let_go(self) -> None:
        # Forgotten first: a number closed twice may by then be another file's.
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            close(descriptor)

    def close(self) -> None:
        """Release and close; twice is fine."""
        if not self.forked:
            self.held = False
        self._let_go()

    def __del__(self) -> None:
        """Close with the endpoint it belongs to, or a forgotten one would look alive."""
        if getattr(self, "_descriptor", -1) >= 0:
            self.close()

    def _after_fork(self) -> None:
        self.forked = True
        self._let_go()


def _after_fork_in_child() -> None:
    for lock in list(_open_locks):
        lock._after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
