"""The other processes: functions that run in a child, and children that end for certain.

Children are forked by ``multiprocessing``'s fork server, which has everything
imported: they start in milliseconds and nothing is measured while they import.
"""

from __future__ import annotations

import contextlib
import ctypes
import multiprocessing
import os
import pickle
import signal
import socket
import struct
import sys
from collections.abc import Callable, Mapping
from multiprocessing import forkserver
from multiprocessing.connection import Connection
from typing import Any

import gymnasium

from rlay.envs.backends import ServerBackend
from rlay.envs.client_env import ClientEnv
from rlay.errors import ChannelError, ChannelTimeoutError, PeerError

#: Seconds a child has to start, to answer, and to end by itself.
START_TIMEOUT = 20.0
END_TIMEOUT = 2.0

_PR_SET_PDEATHSIG = 1
_LENGTH = struct.Struct("<I")

#: ``fork`` would copy this process's channels into every child.
METHOD = "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"


def receive_pickle(stream: Any) -> Any:
    """Read one length-prefixed pickle; None at the end of the stream."""
    head = stream.read(_LENGTH.size)
    if len(head) < _LENGTH.size:
        return None
    return pickle.loads(stream.read(*_LENGTH.unpack(head)))


def send_pickle(connection: socket.socket, value: Any) -> None:
    """Send one length-prefixed pickle."""
    data = pickle.dumps(value, pickle.HIGHEST_PROTOCOL)
    connection.sendall(_LENGTH.pack(len(data)) + data)


# What a child runs.


def serve(channel: str, make: Callable[..., gymnasium.Env[Any, Any]], *args: Any) -> None:
    """Serve one agent through rlay."""
    with ServerBackend(channel, make(*args), attach_timeout=START_TIMEOUT) as backend:
        backend.serve(sessions=1)


def serve_pipe(connection: Connection, make: Callable[..., gymnasium.Env[Any, Any]]) -> None:
    """Serve through a multiprocessing pipe."""
    env = make()
    env.reset()
    connection.send("ready")
    with contextlib.suppress(EOFError):
        while True:
            connection.send(env.step(connection.recv()))


def serve_tcp(port: int, make: Callable[..., gymnasium.Env[Any, Any]]) -> None:
    """Serve pickles over TCP loopback."""
    env = make()
    env.reset()
    with socket.create_connection(("127.0.0.1", port), START_TIMEOUT) as connection:
        connection.settimeout(None)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        stream = connection.makefile("rb")
        send_pickle(connection, "ready")
        while (action := receive_pickle(stream)) is not None:
            send_pickle(connection, env.step(action))


def play(channel: str) -> None:
    """Step through rlay until killed."""
    env = ClientEnv(channel, attach_timeout=START_TIMEOUT)
    env.reset()
    while True:
        env.step(1)


def _die_with_parent() -> None:
    """End with the fork server, and it with the bench: a stopped process notices nothing itself."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    # The server lives while anybody holds this descriptor, and every child gets a copy.
    alive = getattr(getattr(forkserver, "_forkserver", None), "_forkserver_alive_fd", None)
    if alive is not None:
        os.close(alive)


def _run(
    variables: Mapping[str, str], function: Callable[..., None], args: tuple[Any, ...]
) -> None:
    # Ctrl-C reaches the whole group; the parent ends us in good order.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _die_with_parent()
    os.environ.update(variables)
    with contextlib.suppress(PeerError, ChannelError, ChannelTimeoutError, ConnectionError):
        function(*args)


class Child:
    """A child process of the fork server, which can be held still while others are measured."""

    def __init__(
        self, variables: Mapping[str, str], function: Callable[..., None], *args: Any
    ) -> None:
        """Start ``function`` with these environment variables."""
        context: Any = multiprocessing.get_context(METHOD)
        if METHOD == "forkserver":
            context.set_forkserver_preload([__name__, "rlay.tools.bench.envs"])
        self._process = context.Process(
            target=_run, args=(dict(variables), function, args), daemon=True
        )
        self._process.start()
        self.pid: int = self._process.pid

    def kill(self) -> None:
        """Kill it, without a goodbye."""
        self._process.kill()

    def pause(self) -> None:
        """Hold it still: a waiting contender may spin, and would disturb the others."""
        if hasattr(signal, "SIGSTOP") and self._process.is_alive():
            self._send(signal.SIGSTOP)

    def resume(self) -> None:
        """Let it go on."""
        if hasattr(signal, "SIGCONT") and self._process.is_alive():
            self._send(signal.SIGCONT)

    def _send(self, number: int) -> None:
        # The fork server may have seen its end before is_alive() has.
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, number)

    def end(self) -> None:
        """Wait a moment for its end, then make it end."""
        self.resume()
        self._process.join(END_TIMEOUT)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()
        self._process.close()
