"""Runs one command in a process group of its own and ends the group when the trainer is gone.

Started by ``rlay.envs.launch`` as ``python -I -S supervisor.py ROOT CHANNEL COMMAND...``
and kept to the standard library, so that it starts fast under any interpreter. Its
standard input is a pipe that the trainer holds open: end of file means that the
trainer has closed the environment or is dead, however it died. It exits as the
command did, by the same signal or with the same code.

The channel's name was made for this command, so no later server would clear away what
a killed one left: that is done here, when the group has ended.
"""

from __future__ import annotations

import os
import select
import signal
import sys
import time

#: Seconds the command has to finish by itself, then again after SIGTERM.
GRACE = 1.0


def _signal_group(group: int, number: int) -> None:
    try:
        os.killpg(group, number)
    except ProcessLookupError:
        pass


def _has_exited(child: int) -> bool:
    # WNOWAIT leaves the zombie, so that its process group id cannot be used anew meanwhile.
    flags = os.WEXITED | os.WNOHANG | os.WNOWAIT
    return os.waitid(os.P_PID, child, flags) is not None


def _wait(child: int, wakeup: int, seconds: float | None, watched: int | None) -> bool:
    """Wait for the child's end (True) or for the trainer's, or for the time (False)."""
    deadline = None if seconds is None else time.monotonic() + seconds
    while not _has_exited(child):
        left = None if deadline is None else deadline - time.monotonic()
        if left is not None and left <= 0:
            return False
        sources = [wakeup] if watched is None else [wakeup, watched]
        ready, _, _ = select.select(sources, [], [], left)
        if wakeup in ready:
            os.read(wakeup, 512)
        if watched in ready and not os.read(watched or 0, 512):
            return _has_exited(child)
    return True


def _is_left(entry: str, channel: str) -> bool:
    """Tell whether a file is a session's, by its whole name (PROTOCOL.md §4)."""
    if entry == f"{channel}.rlay":
        return True
    for before, after in ((f"{channel}.", ".data"), (f".{channel}.", ".tmp")):
        digits = entry[len(before) : -len(after)]
        if entry == before + digits + after and len(digits) == 16:
            return not digits.strip("0123456789abcdef")
    return False


def _clean(root: str, channel: str, *, alone: bool) -> None:
    """Remove what a dead server left; the lock files too when the trainer is gone."""
    import fcntl  # not on Windows, where this module must still import

    locks = [os.path.join(root, f"{channel}.{side}.lock") for side in ("server", "client")]
    try:
        descriptor = os.open(locks[0], os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return
    try:
        # Fails while a server lives: the trainer may be one.
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        left = [os.path.join(root, e) for e in os.listdir(root) if _is_left(e, channel)]
        for path in [*left, *(locks if alone else [])]:
            try:
                os.unlink(path)
            except FileNotFoundError:
                pass
    except OSError:
        pass
    finally:
        os.close(descriptor)


def _is_gone(trainer: int) -> bool:
    ready, _, _ = select.select([trainer], [], [], 0)
    return bool(ready) and not os.read(trainer, 512)


def main(root: str, channel: str, command: list[str]) -> int:
    """Run the command; return its exit code, or die of its signal."""
    wakeup, wakeup_writer = os.pipe()
    os.set_blocking(wakeup_writer, False)
    os.set_blocking(wakeup, False)
    signal.set_wakeup_fd(wakeup_writer)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    trainer = os.dup(0)
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    try:
        child = os.posix_spawnp(
            command[0], command, os.environ, setpgroup=0, setsigdef=[signal.SIGCHLD]
        )
    except OSError as error:
        sys.stderr.write(f"{command[0]}: {error.strerror}\n")
        return 127
    if not _wait(child, wakeup, None, trainer) and not _wait(child, wakeup, GRACE, None):
        _signal_group(child, signal.SIGTERM)
        _wait(child, wakeup, GRACE, None)
    _signal_group(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    _clean(root, channel, alone=_is_gone(trainer))
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        if number != signal.SIGKILL:
            signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)
    return os.waitstatus_to_exitcode(status)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2], sys.argv[3:]))
