"""Which errors each function can return: from its man page (Linux man-pages 6.03), and EINTR.

EINTR stands with every function, also where no page names it: file systems in user space
return it from anything. ``MUST_RETRY`` are those whose page does name it.
"""

from __future__ import annotations

import errno as e

#: What the functions of ``shim.c`` may fail with. Left out: EFAULT, EINVAL and EBADF, which
#: only a wrong argument can cause, but where a page gives them another meaning.
ERRNOS: dict[str, tuple[int, ...]] = {
    "open": (
        *(e.EACCES, e.EBUSY, e.EDQUOT, e.EEXIST, e.EINTR, e.EINVAL, e.EISDIR, e.ELOOP, e.EMFILE),
        *(e.ENAMETOOLONG, e.ENFILE, e.ENODEV, e.ENOENT, e.ENOMEM, e.ENOSPC, e.ENOTDIR, e.ENXIO),
        *(e.EOPNOTSUPP, e.EOVERFLOW, e.EPERM, e.EROFS, e.ETXTBSY, e.EWOULDBLOCK, e.EIO, e.ESTALE),
    ),
    "fstat": (e.EINTR, e.EIO, e.ENOMEM, e.EOVERFLOW),
    "stat": (
        *(e.EACCES, e.EINTR, e.EIO, e.ELOOP, e.ENAMETOOLONG, e.ENOENT, e.ENOMEM, e.ENOTDIR),
        e.EOVERFLOW,
    ),
    "mkdir": (
        *(e.EACCES, e.EDQUOT, e.EEXIST, e.EINTR, e.EINVAL, e.ELOOP, e.EMLINK, e.ENAMETOOLONG),
        *(e.ENOENT, e.ENOMEM, e.ENOSPC, e.ENOTDIR, e.EPERM, e.EROFS),
    ),
    "rmdir": (e.EACCES, e.EBUSY, e.EINTR, e.ENOTEMPTY, e.EROFS),
    "fallocate": (
        *(e.EINTR, e.EFBIG, e.EINVAL, e.ENODEV, e.ENOSPC, e.ESPIPE, e.EDQUOT, e.EIO, e.EPERM),
        e.EOPNOTSUPP,
    ),
    "mmap": (e.EACCES, e.EAGAIN, e.EINTR, e.EINVAL, e.ENFILE, e.ENODEV, e.ENOMEM, e.EPERM),
    "munmap": (e.EINTR, e.ENOMEM),
    "dup": (e.EINTR, e.EMFILE, e.ENFILE, e.ENOMEM),
    "flock": (e.EINTR, e.ENOLCK, e.EWOULDBLOCK, e.ENOSYS, e.EOPNOTSUPP, e.EIO),
    "rename": (
        *(e.EACCES, e.EBUSY, e.EDQUOT, e.EINTR, e.EIO, e.EISDIR, e.ELOOP, e.EMLINK, e.ENOENT),
        *(e.ENOMEM, e.ENOSPC, e.ENOTDIR, e.ENOTEMPTY, e.EPERM, e.EROFS, e.EXDEV),
    ),
    "unlink": (
        *(e.EACCES, e.EBUSY, e.EINTR, e.EIO, e.EISDIR, e.ELOOP, e.ENOENT, e.ENOMEM, e.ENOTDIR),
        *(e.EPERM, e.EROFS),
    ),
    "opendir": (e.EACCES, e.EINTR, e.EMFILE, e.ENFILE, e.ENOENT, e.ENOMEM, e.ENOTDIR),
    "readdir": (e.EINTR, e.EIO, e.ENOENT, e.EOVERFLOW),
    "close": (e.EDQUOT, e.EINTR, e.EIO, e.ENOSPC),
    "futex": (*(e.EACCES, e.EAGAIN, e.EINTR, e.EINVAL, e.ENOMEM, e.ENOSYS, e.EPERM, e.ETIMEDOUT),),
    "getrandom": (e.EINTR, e.ENOSYS, e.EPERM),
    "statfs": (
        *(e.EACCES, e.EINTR, e.EIO, e.ELOOP, e.ENAMETOOLONG, e.ENOENT, e.ENOMEM, e.ENOSYS),
        *(e.ENOTDIR, e.EOVERFLOW),
    ),
}

#: Interrupted, these are tried again, and nobody notices.
MUST_RETRY = {"open", "fallocate", "flock", "close", "futex", "getrandom", "statfs"}

#: The errors of a full file system or quota, which have a class of their own.
NO_SPACE = {e.ENOSPC, e.EDQUOT, e.EFBIG}

#: What says that something is not there, is there already, or is held: rlay acts on it, and
#: its error, if there is one, says what that meant.
TELLING = {
    "open": {e.ENOENT},
    "stat": {e.ENOENT, e.ENOTDIR},
    "mkdir": {e.EEXIST},
    "rename": set[int](),
    "flock": {e.EWOULDBLOCK},
}
