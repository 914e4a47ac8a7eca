"""Starting an environment or a game in a process of its own, and ending it for certain.

The trainer starts a supervisor, the supervisor the command. The command's whole
process group ends when the environment is closed, when the trainer exits, and,
because the supervisor watches a pipe from it, when the trainer is killed.
"""

from __future__ import annotations

import collections
import contextlib
import os
import shutil
import subprocess
import sys
import threading
import weakref
from collections.abc import Callable, Sequence
from typing import IO, Any

from rlay.channel import files
from rlay.channel.locks import forked_endpoint
from rlay.envs import supervisor
from rlay.errors import ChannelNotFoundError, PeerLostError

_TAIL_LINES = 20
#: A dying process releases its locks before it can be waited for; seconds.
_REAP_TIMEOUT = 2.0


class _StderrTail:
    """Passes a process's stderr on as it comes, and keeps its last lines."""

    def __init__(self, stream: IO[bytes]) -> None:
        self.lines: collections.deque[str] = collections.deque(maxlen=_TAIL_LINES)
        self._stream = stream
        self._thread = threading.Thread(target=self._pump, name="rlay-stderr", daemon=True)
        self._thread.start()

    def _pump(self) -> None:
        with self._stream:
            for line in self._stream:
                text = line.decode("utf-8", "replace")
                self.lines.append(text)
                # The trainer may have closed or replaced its stderr; the tail still counts.
                with contextlib.suppress(Exception):
                    sys.stderr.write(text)

    def text(self) -> str:
        """Return the tail, complete once the process group has ended."""
        self._thread.join(_REAP_TIMEOUT)
        return "".join(self.lines)


class Launcher:
    """Starts one command for one channel, again after it has died, and stops it."""

    def __init__(
        self,
        command: Sequence[str],
        *,
        channel: str,
        inherit: Sequence[Callable[[], int]] = (),
    ) -> None:
        """Check the command; ``start`` runs it.

        Args:
            command: program and arguments; ``{channel}`` becomes the channel's name,
                which the environment variable RLAY_CHANNEL holds too.
            channel: a name nobody else uses; its files are removed at the end.
            inherit: called at each start; returns a descriptor the command inherits,
                whose number replaces ``{fd}``.

        Raises:
            ChannelNotFoundError: there is no such program.
        """
        self.channel = channel
        self._command = [part.replace("{channel}", channel) for part in command]
        if not shutil.which(self._command[0]):
            raise ChannelNotFoundError(
                f"cannot start {self._command[0]!r}: no such program; give its path in command="
            )
        self._inherit = inherit
        self._process: subprocess.Popen[bytes] | None = None
        self._tail: _StderrTail | None = None
        self._finalizer: weakref.finalize[..., Any] | None = None
        self._forked = False
        _launchers.add(self)

    def running(self) -> bool:
        """Tell whether the command is running."""
        return self._process is not None and self._process.poll() is None

    def start(self) -> bool:
        """Start the command unless it is running; tell whether that was needed."""
        if self._forked:
            raise forked_endpoint()
        if self.running():
            return False
        self._let_go()
        descriptors = [make() for make in self._inherit]
        try:
            command = list(self._command)
            for descriptor in descriptors:
                command = [part.replace("{fd}", str(descriptor)) for part in command]
            supervised = [sys.executable, "-I", "-S", supervisor.__file__]
            process = subprocess.Popen(
                [*supervised, str(files.root()), self.channel, *command],
                stdin=subprocess.PIPE,
                stderr=subprocess.PIPE,
                pass_fds=descriptors,
                start_new_session=True,
                env={**os.environ, "RLAY_CHANNEL": self.channel},
            )
        finally:
            for descriptor in descriptors:
                os.close(descriptor)
        self._process = process
        if process.stderr is not None:
            self._tail = _StderrTail(process.stderr)
        # At interpreter exit too; a killed trainer closes the pipe by dying.
        self._finalizer = weakref.finalize(self, _end, process, self.channel)
        return True

    def explain(self, lost: PeerLostError) -> PeerLostError:
        """Add exit code and stderr tail to the loss of our process."""
        if self._process is None:
            return lost
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(_REAP_TIMEOUT)
        code = self._process.returncode
        return PeerLostError(
            str(lost),
            last_command=lost.last_command,
            idle_for=lost.idle_for,
            exit_code=code,
            stderr_tail=self._tail.text() if self._tail and code is not None else "",
        )

    def stop(self) -> None:
        """End the process group: it may finish by itself, then SIGTERM, then SIGKILL."""
        if self._finalizer:
            self._finalizer()
            if self._tail:
                self._tail.text()

    def _after_fork(self) -> None:
        # The process is the parent's, and so is the pipe whose end tells that the parent died.
        self._forked = True
        self._let_go()

    def _let_go(self) -> None:
        """Forget a process that has ended or is the parent's, and close our end of its pipe."""
        if self._finalizer:
            self._finalizer.detach()
        if self._process and self._process.stdin:
            with contextlib.suppress(OSError):
                self._process.stdin.close()
        self._process = self._tail = self._finalizer = None


_launchers: weakref.WeakSet[Launcher] = weakref.WeakSet()


def _after_fork_in_child() -> None:
    for launcher in list(_launchers):
        launcher._after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)


def _end(process: subprocess.Popen[bytes], channel: str) -> None:
    if process.stdin is not None:
        with contextlib.suppress(OSError):
            process.stdin.close()
    try:
        process.wait(3 * supervisor.GRACE + _REAP_TIMEOUT)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    # The name was made for this launch, so its lock files are nobody else's.
    with contextlib.suppress(Exception):
        paths = files.Paths(channel)
        for path in (paths.control, *paths.stale(), paths.server_lock, paths.client_lock):
            files.unlink(path)
