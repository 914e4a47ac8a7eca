"""rlay.channel.locks: one holder, honest probes, removed files, forks."""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import rlay
from rlay.channel import locks
from rlay.channel.locks import OsLock


@pytest.fixture
def path(channel_root: Path) -> Iterator[Path]:
    """The path of a lock file."""
    path = channel_root / "c.server.lock"
    yield path
    path.unlink(missing_ok=True)


@pytest.fixture
def pair(path: Path) -> Iterator[tuple[OsLock, OsLock]]:
    """Two locks on one file: a holder and a prober."""
    holder, prober = OsLock(path), OsLock(path)
    yield holder, prober
    holder.close()
    prober.close()


def test_a_held_lock_is_not_free(pair: tuple[OsLock, OsLock]) -> None:
    holder, prober = pair
    assert prober.is_free()
    assert holder.try_acquire()
    assert holder.held
    assert not prober.is_free()
    assert not prober.try_acquire()
    holder.release()
    assert not holder.held
    assert prober.is_free()
    assert prober.try_acquire()


def test_a_probe_keeps_nothing(pair: tuple[OsLock, OsLock]) -> None:
    holder, prober = pair
    assert prober.is_free()
    assert holder.try_acquire()


def test_closing_releases(pair: tuple[OsLock, OsLock]) -> None:
    holder, prober = pair
    assert holder.acquire()
    holder.close()
    holder.close()
    assert prober.is_free()


def test_acquire_outlasts_a_probe(
    pair: tuple[OsLock, OsLock], monkeypatch: pytest.MonkeyPatch
) -> None:
    holder, prober = pair
    assert prober.try_acquire()
    naps = []

    def sleep(seconds: float) -> None:
        naps.append(seconds)
        if len(naps) == 3:
            prober.release()

    monkeypatch.setattr(locks.time, "sleep", sleep)
    assert holder.acquire()
    assert len(naps) == 3


def test_acquire_gives_up_on_an_owner(
    pair: tuple[OsLock, OsLock], monkeypatch: pytest.MonkeyPatch
) -> None:
    holder, prober = pair
    assert prober.try_acquire()
    clock = iter(range(100))
    monkeypatch.setattr(locks.time, "monotonic", lambda: next(clock) * 0.05)
    monkeypatch.setattr(locks.time, "sleep", lambda _: None)
    assert not holder.acquire()


def test_the_lock_is_flock_on_an_empty_private_file(path: Path) -> None:
    lock = OsLock(path)
    assert lock.try_acquire()
    assert (path.stat().st_size, path.stat().st_mode & 0o777) == (0, 0o600)
    with path.open("rb+") as other:
        with pytest.raises(BlockingIOError):
            fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
        lock.release()
        fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
        assert not lock.is_free()
    lock.close()
    assert path.exists()


def test_a_removed_lock_file_is_found_out(path: Path, pair: tuple[OsLock, OsLock]) -> None:
    holder, prober = pair
    path.unlink()
    # Whoever locks now locks the file at the path, and whoever probes finds that one.
    assert holder.try_acquire()
    assert path.exists()
    assert not prober.is_free()
    # Removed again, it hides its holder from newcomers, until the holder looks after it.
    path.unlink()
    newcomer = OsLock(path)
    assert newcomer.is_free()
    assert holder.keep()
    assert not newcomer.is_free()
    newcomer.close()


def test_keep_tells_when_another_took_over(
    path: Path, pair: tuple[OsLock, OsLock], monkeypatch: pytest.MonkeyPatch
) -> None:
    holder, _ = pair
    assert holder.try_acquire()
    assert holder.keep()
    path.unlink()
    other = OsLock(path)
    assert other.try_acquire()
    monkeypatch.setattr(locks, "_RETRY_SECONDS", 0.0)
    assert not holder.keep()
    assert not holder.held
    other.close()
    assert holder.keep()


def test_a_file_system_without_locks_is_named(
    pair: tuple[OsLock, OsLock], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> bool:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(locks, "lock_descriptor", refuse)
    with pytest.raises(rlay.ChannelError, match=r"cannot be locked: No locks.*RLAY_DIR"):
        pair[0].try_acquire()


def test_an_unlock_that_fails_keeps_nothing(
    pair: tuple[OsLock, OsLock], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A probe that kept the lock would look like a living peer."""
    holder, prober = pair

    def refuse(_: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    with monkeypatch.context() as patch:
        patch.setattr(locks, "unlock_descriptor", refuse)
        assert prober.is_free()
        assert holder.try_acquire()
        holder.release()
    assert prober.try_acquire()


def test_a_lock_file_that_cannot_be_opened_again_is_not_closed_twice(
    path: Path, pair: tuple[OsLock, OsLock], monkeypatch: pytest.MonkeyPatch
) -> None:
    """By then its number may be another file's."""
    holder, _ = pair
    path.unlink()

    def refuse(*_: object) -> int:
        raise rlay.ChannelError("told to fail")

    with monkeypatch.context() as patch:
        patch.setattr(locks, "open_lock_file", refuse)
        with pytest.raises(rlay.ChannelError, match="told to fail"):
            holder.try_acquire()
    others = [os.open(os.devnull, os.O_RDONLY) for _ in range(3)]
    try:
        holder.close()
        for descriptor in others:
            os.fstat(descriptor)
    finally:
        for descriptor in others:
            os.close(descriptor)


def test_a_lock_that_cannot_be_looked_after_is_not_kept(
    pair: tuple[OsLock, OsLock], monkeypatch: pytest.MonkeyPatch
) -> None:
    holder, prober = pair

    def refuse(*_: object, **__: object) -> os.stat_result:
        raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))

    with monkeypatch.context() as patch:
        patch.setattr(locks.os, "stat", refuse)
        with pytest.raises(rlay.ChannelError, match="Cannot allocate memory; free some memory"):
            holder.try_acquire()
    assert not holder.held
    assert prober.try_acquire()


def test_a_lock_file_that_is_never_the_one_at_the_path_is_an_error(
    pair: tuple[OsLock, OsLock], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(OsLock, "_is_at_path", lambda _: False)
    for call in (pair[0].try_acquire, pair[1].is_free):
        with pytest.raises(rlay.ChannelError, match="find out who replaces it"):
            call()


def test_a_forked_child_holds_nothing(path: Path, pair: tuple[OsLock, OsLock]) -> None:
    holder, prober = pair
    assert holder.try_acquire()
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            text = ""
            for call in (holder.try_acquire, prober.is_free):
                try:
                    call()
                except rlay.LocalProtocolError as error:
                    text += str(error)
            holder.release()
            holder.close()
            os.write(write, text.encode())
            # The parent closes the other end once it has looked.
            os.close(write)
            os.read(read, 1)
        finally:
            os._exit(0)
    try:
        os.close(write)
        text = b""
        while part := os.read(read, 4096):
            text += part
        assert text.decode().count("belongs to the parent process") == 2
        # The child lives, or is dead; it neither released nor kept the parent's lock.
        assert not prober.is_free()
        holder.release()
        assert prober.is_free()
    finally:
        os.close(read)
        os.waitpid(child, 0)


# Interrupts: a signal handler may raise between any two calls.


def interrupted(lock_descriptor: Any) -> Any:
    """Return a lock function that takes the lock, and then meets Ctrl-C."""

    def lock(*args: Any, **kwargs: Any) -> bool:
        assert lock_descriptor(*args, **kwargs)
        raise KeyboardInterrupt

    return lock


@pytest.mark.parametrize("broken", [False, True], ids=["", "keeps_it"])
def test_an_interrupted_probe_lets_go(
    broken: bool, pair: tuple[OsLock, OsLock], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A probe that does not is found out."""
    holder, prober = pair
    with monkeypatch.context() as patch:
        patch.setattr(locks, "lock_descriptor", interrupted(locks.lock_descriptor))
        if broken:
            patch.setattr(locks, "_unlock", lambda descriptor, operation: None)
        with pytest.raises(KeyboardInterrupt):
            prober.is_free()
    assert holder.try_acquire() is not broken


def test_an_interrupted_lock_is_released(
    pair: tuple[OsLock, OsLock], monkeypatch: pytest.MonkeyPatch
) -> None:
    holder, prober = pair
    with monkeypatch.context() as patch:
        patch.setattr(locks, "lock_descriptor", interrupted(locks.lock_descriptor))
        with pytest.raises(KeyboardInterrupt):
            holder.try_acquire()
    assert not holder.held
    assert not prober.is_free()
    holder.release()
    assert prober.is_free()
