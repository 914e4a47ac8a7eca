"""What a failed system call on a channel's file means, and what to do about it."""

from __future__ import annotations

import errno
import os

from rlay.errors import ChannelError, NoSpaceError

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)

_OWN = "check whose it is, or set RLAY_DIR to a private directory of your own"
_REMEDIES = {
    errno.EACCES: _OWN,
    errno.EPERM: _OWN,
    errno.EROFS: "set RLAY_DIR to a directory on a file system that you can write to",
    errno.EMFILE: "close some files, or raise the limit with ulimit -n",
    errno.ENFILE: "the whole system is at its limit: end something, or raise fs.file-max",
    errno.ENOMEM: "free some memory, or raise the limit with ulimit -v",
    errno.EINTR: "try again",
}


def failure(
    path: object, what: str, error: OSError, remedy: str | None = None, *, needed: int = 0
) -> ChannelError:
    """Return the error to raise for ``error``.

    Args:
        path: of the file.
        what: could not be done, such as ``cannot be opened``.
        error: what the system said.
        remedy: what to do, if that is known better than from the error's number.
        needed: bytes of space that were asked for.
    """
    if error.errno in _FULL:
        return NoSpaceError(path, needed)
    number = error.errno or 0
    todo = remedy or _REMEDIES.get(
        number, "try again, or set RLAY_DIR to a directory on a local file system"
    )
    return ChannelError(f"{path} {what}: {os.strerror(number)}; {todo}")
