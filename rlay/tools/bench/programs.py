"""The C programs of ``ports/reference_c``: built for this run, started, asked, ended."""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from rlay.tools.bench.results import MissingPeerError

CHECKOUT = Path(__file__).parents[3]
PORT = CHECKOUT / "ports" / "reference_c"
_NAMES = ("pingpong", "bench_peer")
_BUILD_TIMEOUT = 120.0
_END_TIMEOUT = 2.0
_LAST_WORDS_TIMEOUT = 0.5


def build(folder: Path) -> None:
    """Build the programs into ``folder``.

    Raises:
        MissingPeerError: no sources, no make, no compiler, or it fails; says which.
    """
    if not (PORT / "bench_peer.c").is_file():
        raise MissingPeerError("the C programs are in a source checkout of rlay, not in a package")
    compiler = os.environ.get("CC", "cc").split()[0]
    for tool in ("make", compiler):
        if shutil.which(tool) is None:
            raise MissingPeerError(f"no {tool} here to build the C programs")
    targets = [str(folder / name) for name in _NAMES]
    done = subprocess.run(
        ["make", "-s", "-C", str(PORT), f"BUILD={folder}", *targets],
        capture_output=True,
        text=True,
        timeout=_BUILD_TIMEOUT,
        check=False,
    )
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if "error" in line] or ["no message"]
        raise MissingPeerError(f"the C programs cannot be built: {lines[0]}")


class Program:
    """A running program that answers lines on stdin with lines on stdout."""

    def __init__(self, command: Sequence[str], variables: Mapping[str, str]) -> None:
        """Start it with these environment variables besides ours."""
        self._name = Path(command[0]).name
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**os.environ, **variables},
            bufsize=0,
        )
        self._rest = b""

    def ask(self, line: str, timeout: float) -> str:
        """Send a line and return the answer.

        Raises:
            MissingPeerError: it ended, or did not answer in time.
        """
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin
        assert stdout
        deadline = time.monotonic() + timeout
        try:
            stdin.write(f"{line}\n".encode())
        except BrokenPipeError:
            raise self._lost("ended") from None
        while b"\n" not in self._rest:
            ready, _, _ = select.select([stdout], [], [], max(0.0, deadline - time.monotonic()))
            if not ready:
                raise self._lost(f"did not answer within {timeout:g} s")
            chunk = os.read(stdout.fileno(), 4096)
            if not chunk:
                raise self._lost("ended")
            self._rest += chunk
        answer, _, self._rest = self._rest.partition(b"\n")
        return answer.decode()

    def _lost(self, how: str) -> MissingPeerError:
        """Return the error, with what the program said last if it is over."""
        said = b""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(_LAST_WORDS_TIMEOUT)
            said = self._process.stderr.read() if self._process.stderr else b""
        text = said.decode(errors="replace").strip()
        return MissingPeerError(f"{self._name} {how}" + (f": {text}" if text else ""))

    def pause(self) -> None:
        """Hold it still; see ``Child.pause``."""
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let it go on."""
        self._process.send_signal(signal.SIGCONT)

    def end(self) -> None:
        """Close its stdin, wait a moment, then make it end."""
        self.resume()
        streams = (self._process.stdin, self._process.stdout, self._process.stderr)
        if self._process.stdin:
            self._process.stdin.close()
        try:
            self._process.wait(_END_TIMEOUT)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        for stream in streams:
            if stream:
                stream.close()
