"""MemClient: the side that attaches to a channel somebody else publishes."""

from __future__ import annotations

import contextlib
import random
import time
from collections.abc import Callable

from rlay.channel import files
from rlay.channel.channel import Channel
from rlay.channel.locks import OsLock
from rlay.channel.wait import Deadline, wait_strategy
from rlay.endpoint import Endpoint
from rlay.errors import (
    ChannelBusyError,
    ChannelFormatError,
    ChannelNotFoundError,
    LocalProtocolError,
    PeerError,
    RlayError,
    rejection,
)
from rlay.lifetime import alone, closed
from rlay.protocol.constants import CONTROL_SIZE, HEADER_SIZE, Bye, Feature, Role, Side, Welcome
from rlay.protocol.env_block import write_env_block
from rlay.protocol.header import (
    check_identity,
    check_peer,
    read_field,
    read_hello,
)
from rlay.protocol.layout import Layout
from rlay.protocol.prefix import check_session
from rlay.session import Session

_FIRST_PAUSE = 0.001
_LONGEST_PAUSE = 0.02


class _NotYetError(Exception):
    """This try could not attach; a later one may."""

    def __init__(self, explain: Callable[[], RlayError]) -> None:
        """``explain`` makes the error to raise when there is no time for another try."""
        super().__init__()
        self.explain = explain


def _not_yet(error: RlayError) -> _NotYetError:
    """Return the failure of a try for a reason that may go away."""
    return _NotYetError(lambda: error)


class MemClient(Endpoint):
    """Attaches to a channel, and again after a session has ended.

    Making one opens the lock files and attaches to nothing yet.
    Both start orders work: attaching waits for a server to appear. It never holds
    the client lock while it waits, and never probes the server's lock before it
    has claimed a file (§10).
    """

    def _begin(self) -> None:
        """Open the lock files."""
        with contextlib.ExitStack() as undo:
            self._lock = OsLock(self.paths.client_lock)
            undo.callback(self._lock.close)
            self._server_lock = OsLock(self.paths.server_lock)
            undo.pop_all()

    @alone
    def attach(self, timeout: float | None) -> Session:
        """Wait for a server, claim its session and shake hands.

        What ends it: ``timeout`` (seconds; None waits for ever), a signal, an error.

        Raises:
            ChannelNotFoundError: no live server appeared.
            ChannelBusyError: the server has another client; tells who.
            ChannelTimeoutError: the server is alive and did not answer the hello.
            ChannelFormatError, LayoutMismatchError: the two sides do not go together.
            UnsafePathError: something else is at the channel's path.
            LocalProtocolError: the client is closed, or its last session is not over.
        """
        return self.open_session(timeout)

    def open_session(self, timeout: float | None) -> Session:
        """Do what ``attach`` does, for a face that holds the guard."""
        if self._session and not self._session.ended:
            if self._session.begun:
                raise LocalProtocolError("the last session is not over")
            # Ctrl-C came between its making and the caller's hands.
            return self._session
        if self._channel:
            # Ctrl-C came in a handshake or in an ending.
            self._channel.say_bye(Bye.CLOSED)
            self._session_over()
        deadline, pause = Deadline(timeout), _FIRST_PAUSE
        while True:
            if self._starting:
                self._starting()
            try:
                self._session = self._try_attach(deadline)
                return self._session
            except _NotYetError as not_yet:
                if self.guard.stop:
                    raise closed() from None
                if deadline.passed():
                    raise not_yet.explain() from None
            # Jitter, so that waiting clients do not try the lock in step.
            time.sleep(pause * random.uniform(0.5, 1.0))
            pause = min(_LONGEST_PAUSE, pause * 1.5)

    def _not_found(self, why: str) -> ChannelNotFoundError:
        return ChannelNotFoundError(
            f"no server for channel {self.paths.name!r} in {self.paths.root}: {why}; "
            "start the server, or check that both sides use the same name and RLAY_DIR"
        )

    def _claimed(self, channel: Channel) -> _NotYetError:
        """Return why a claimed file cannot be had; who has it is asked at the deadline only."""
        header = channel.header_copy()

        def explain() -> RlayError:
            if self._server_lock.is_free():
                return self._not_found("the file there is a dead server's")
            try:
                owner = read_hello(header, Side.CLIENT, str(self.paths.control)).describe()
            except ChannelFormatError:
                owner = None
            return ChannelBusyError(f"channel {self.paths.name!r} already has a client", owner)

        return _NotYetError(explain)

    def _map(self) -> files.Mapping:
        """Map the control file; one that was truncated will be replaced, if its server lives."""
        try:
            mapping = files.attach(self.paths.control)
        except FileNotFoundError:
            raise _NotYetError(lambda: self._not_found("there is no such file")) from None
        except ChannelFormatError as error:
            raise _not_yet(error) from None
        if mapping.size < CONTROL_SIZE:
            size = mapping.size
            mapping.close()
            where = f"{self.paths.control} was truncated"
            raise _not_yet(ChannelFormatError(where, "file size", size, CONTROL_SIZE))
        return mapping

    def _try_attach(self, deadline: Deadline) -> Session:
        mapping = self._map()
        where = str(self.paths.control)
        try:
            header = bytes(mapping.memory[:HEADER_SIZE])
            if damage := mapping.damage():
                raise _not_yet(damage)
            generation = check_identity(header, mapping.size, where)
            channel = Channel(
                self.paths,
                mapping,
                Side.CLIENT,
                self._server_lock,
                generation,
                wait_strategy(self._wait),
                self.guard,
            )
        except BaseException:
            mapping.close()
            raise
        try:
            return self._claim_and_greet(channel, header, deadline)
        except BaseException as error:
            damage = mapping.damage()
            channel.close()
            self._lock.release()
            if damage and isinstance(error, RlayError):
                # Whatever its zeros looked like; its server publishes another one.
                raise _not_yet(damage) from None
            raise

    def _claim_and_greet(self, channel: Channel, header: bytes, deadline: Deadline) -> Session:
        where = str(self.paths.control)
        if channel.claimed():
            raise self._claimed(channel)
        server = read_hello(header, Side.SERVER, where)
        features = Feature(self._hello.features & server.features)
        agreed = {"protocol": check_peer(self._hello, server, where), "features": int(features)}
        schema, layout = self._offer(channel, header, where)
        if not self._lock.try_acquire():
            raise self._claimed(channel)
        if channel.claimed():
            raise self._claimed(channel)
        channel.claim()
        self._hello.write(channel.mapping.memory, Side.CLIENT)
        if self._schema and self._layout:
            write_env_block(channel.mapping.memory, self._schema, self._layout)
        data: files.Mapping | None = None
        try:
            channel.hand_over()
            channel.await_turn(deadline, "welcome from the server", "GREETED")
            data = self._welcomed(channel, layout, agreed)
            session = Session(
                channel,
                data,
                schema=schema,
                layout=layout,
                features=features,
                peer=server,
                on_end=self._session_over,
            )
            if self.role is Role.ENV:
                channel.hand_over()
        except PeerError:
            channel.say_bye(Bye.CLOSED)
            why = "the server died or left during the handshake"
            raise _NotYetError(lambda: self._not_found(why)) from None
        except BaseException as error:
            if data:
                data.close()
            channel.say_bye(Bye.FAILED if isinstance(error, ChannelFormatError) else Bye.CLOSED)
            raise
        self._channel = channel
        return session

    def _welcomed(self, channel: Channel, layout: Layout, agreed: dict[str, int]) -> files.Mapping:
        """Read the server's answer, compare it with what must have been agreed, map the data."""
        header = channel.header_copy()
        status = read_field(header, "welcome_status")
        where = str(self.paths.control)
        if status == Welcome.REJECTED:
            code, text = read_field(header, "welcome_code"), read_field(header, "welcome_text")
            raise rejection(code, text)
        if status != Welcome.ACCEPTED:
            raise ChannelFormatError(where, "welcome_status", status, "1 or 2")
        for name, ours in (agreed | {"data_size": layout.data_size}).items():
            if (found := read_field(header, name)) != ours:
                raise ChannelFormatError(where, name, found, ours)
        path = self.paths.data(channel.generation)
        try:
            data = files.attach(path)
        except FileNotFoundError:
            # The server died after its welcome, and its successor has cleaned up.
            raise _NotYetError(lambda: self._not_found("its data file is gone")) from None
        try:
            if data.size != layout.data_size:
                raise ChannelFormatError(str(path), "file size", data.size, layout.data_size)
            check_session(data.memory, layout, channel.generation)
        except ChannelFormatError as error:
            found = data.damage() or error
            data.close()
            raise found from None
        # Both sides have it mapped; without a name nothing is left behind, whoever dies.
        files.unlink(path)
        return data

    def _session_over(self) -> None:
        if self._channel:
            self._channel.close()
            self._channel = None
        self._lock.release()

    def shut(self) -> None:
        """Do what ``close`` does, for a face that holds the guard."""
        if self._session:
            self._session.end()
        self._lock.close()
        self._server_lock.close()
