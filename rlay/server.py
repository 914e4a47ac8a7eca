"""MemServer: the side that creates a channel, publishes it and accepts one client at a time."""

from __future__ import annotations

import contextlib
import secrets

from rlay.channel import files
from rlay.channel.channel import Channel
from rlay.channel.locks import OsLock
from rlay.channel.wait import Deadline, wait_strategy
from rlay.endpoint import Endpoint
from rlay.errors import (
    ChannelBusyError,
    ChannelError,
    ChannelFormatError,
    ChannelTimeoutError,
    LocalProtocolError,
    PeerError,
    RemoteProtocolError,
    RlayError,
)
from rlay.lifetime import alone
from rlay.protocol import constants as c
from rlay.protocol.constants import Bye, Feature, Role, Side, Welcome
from rlay.protocol.env_block import write_env_block
from rlay.protocol.header import check_identity, check_peer, read_hello, write_fields
from rlay.protocol.layout import Layout
from rlay.protocol.prefix import stamp_session
from rlay.session import Session


def describe_owner(paths: files.Paths, side: Side) -> str | None:
    """Say who holds a side of the channel as its hello tells, or None."""
    try:
        mapping = files.attach(paths.control, writable=False)
    except (OSError, ChannelError):
        return None
    header = bytes(mapping.memory[: c.HEADER_SIZE])
    size = mapping.size
    mapping.close()
    try:
        check_identity(header, size, str(paths.control))
        return read_hello(header, side, str(paths.control)).describe()
    except ChannelError:
        return None


class MemServer(Endpoint):
    """Owns a channel: publishes it, accepts clients, republishes after each session.

    Making one takes the channel and publishes it at once, without waiting for a client.
    One control file serves one session. However a session ends, the next client
    finds a fresh file, so nothing stale can be mistaken for an answer.
    """

    def _begin(self) -> None:
        """Take the channel and publish it."""
        self._greeted: Channel | None = None
        self._rejected: RlayError | None = None
        self._closed = False
        with contextlib.ExitStack() as undo:
            self._lock = OsLock(self.paths.server_lock)
            undo.callback(self._lock.close)
            if not self._lock.acquire():
                raise self._busy()
            self._client_lock = OsLock(self.paths.client_lock)
            undo.callback(self._client_lock.close)
            for path in self.paths.stale():
                files.unlink(path)
            self._publish()
            undo.pop_all()

    def _busy(self) -> ChannelBusyError:
        owner = describe_owner(self.paths, Side.SERVER)
        return ChannelBusyError(f"channel {self.paths.name!r} already has a live server", owner)

    def _publish(self) -> None:
        """Put a fresh control file in place (§10); the old one, if any, becomes an orphan.

        If that fails nothing is offered, and neither a file nor the lock says otherwise.
        """
        old = self._channel
        try:
            # If the lock file was removed, another server may have started: only one goes on (§11).
            if not self._lock.keep():
                raise self._busy()
            if old:
                files.unlink(self.paths.data(old.generation))
            self._replace()
        except BaseException:
            self._withdraw()
            self._lock.release()
            raise
        finally:
            if old and old is not self._channel:
                old.close()

    def _replace(self) -> None:
        """Make a control file, put it at its path, and let it be our channel."""
        files.check_replaceable(self.paths.control)
        generation = secrets.randbits(64) or 1
        private = self.paths.private(generation)
        mapping: files.Mapping | None = None
        try:
            mapping = files.create(private, c.CONTROL_SIZE)
            write_fields(
                mapping.memory,
                {
                    "magic": c.MAGIC,
                    "endian_tag": c.ENDIAN_TAG,
                    "header_size": c.HEADER_SIZE,
                    "control_size": c.CONTROL_SIZE,
                    "generation": generation,
                },
            )
            self._hello.write(mapping.memory, Side.SERVER)
            if self._schema and self._layout:
                write_env_block(mapping.memory, self._schema, self._layout)
            files.rename(private, self.paths.control)
            mapping.path = self.paths.control
            self._channel = Channel(
                self.paths,
                mapping,
                Side.SERVER,
                self._client_lock,
                generation,
                wait_strategy(self._wait),
                self.guard,
            )
        except BaseException:
            files.unlink(private)
            if mapping:
                if mapping.is_at(self.paths.control):
                    files.unlink(self.paths.control)
                mapping.close()
            raise

    def _withdraw(self) -> None:
        """Remove our control file from its path, if it still is there, and let go of it."""
        # Only while the lock is held, so that it cannot be a successor's file (§11).
        if self._channel and self._lock.held and self._channel.mapping.is_at(self.paths.control):
            files.unlink(self.paths.control)
        self._retire()

    def _retire(self) -> None:
        if self._channel:
            files.unlink(self.paths.data(self._channel.generation))
            self._channel.close()
            self._channel = None

    @alone
    def accept(self, timeout: float | None) -> Session:
        """Wait for a client and return the session with it.

        What wakes it: a client's hello. What ends it: ``timeout`` (seconds; None waits
        for ever), a signal. A client that dies in its handshake is forgotten.

        Raises:
            ChannelTimeoutError: no client came; a client that was rejected is its cause.
            LocalProtocolError: the server is closed, or its last session is not over.
        """
        return self.open_session(timeout)

    def open_session(self, timeout: float | None) -> Session:
        """Do what ``accept`` does, for a face that holds the guard."""
        if self._session and not self._session.ended:
            if self._session.begun:
                raise LocalProtocolError("the session with the last client is not over")
            # Ctrl-C came between its making and the caller's hands.
            return self._session
        deadline = Deadline(timeout)
        if self._channel and self._channel is self._greeted:
            # Ctrl-C came in a handshake or in an ending; a control file serves one session (§3).
            self._give_up(self._channel)
        while True:
            channel = self._channel
            if channel is None:
                self._publish()
                continue
            if self._starting:
                self._starting()
            if self._wait_for_hello(channel, deadline):
                session = self._greet(channel, deadline)
                if session:
                    self._session = session
                    return session
            elif deadline.passed():
                raise ChannelTimeoutError(
                    f"client on channel {self.paths.name!r}", timeout or 0.0, "PUBLISHED"
                ) from self._rejected

    def _wait_for_hello(self, channel: Channel, deadline: Deadline) -> bool:
        """Wait one slice; return whether a hello is there. Republishes what became useless."""
        try:
            if channel.wait_slice(deadline):
                return True
        except RemoteProtocolError:
            self._give_up(channel)
            return False
        if channel.mapping.damage():
            self._give_up(channel)
            return False
        # The claim is read before the lock is probed, or a live client looks dead (§10).
        if channel.claimed() and channel.lost_peer():
            if not channel.our_turn():
                self._give_up(channel)
        elif not channel.mapping.is_at(self.paths.control):
            self._give_up(channel)
        return False

    def _give_up(self, channel: Channel) -> None:
        channel.say_bye(Bye.CLOSED)
        self._publish()

    def _greet(self, channel: Channel, deadline: Deadline) -> Session | None:
        """Answer a hello; None if the client was rejected or is gone."""
        self._greeted = channel
        where = f"client's hello on channel {self.paths.name!r}"
        header = channel.header_copy()
        try:
            client = read_hello(header, Side.CLIENT, where)
            version = check_peer(self._hello, client, where)
            schema, layout = self._offer(channel, header, where)
            features = Feature(self._hello.features & client.features)
            data = self._create_data(channel, layout)
        except RlayError as error:
            self._reject(channel, error)
            return None
        try:
            write_fields(
                channel.mapping.memory,
                {
                    "welcome_status": Welcome.ACCEPTED,
                    "protocol": version,
                    "features": int(features),
                    "data_size": layout.data_size,
                },
            )
            channel.hand_over()
            if self.role is Role.AGENT:
                channel.await_turn(deadline, "the client's READY", "WELCOMED")
            return Session(
                channel,
                data,
                schema=schema,
                layout=layout,
                features=features,
                peer=client,
                on_end=self._session_over,
            )
        except BaseException as error:
            data.close()
            self._give_up(channel)
            if isinstance(error, PeerError | RemoteProtocolError | ChannelFormatError):
                return None
            raise

    def _create_data(self, channel: Channel, layout: Layout) -> files.Mapping:
        data = files.create(self.paths.data(channel.generation), layout.data_size)
        stamp_session(data.memory, layout, channel.generation)
        return data

    def _reject(self, channel: Channel, error: RlayError) -> None:
        self._rejected = error
        write_fields(
            channel.mapping.memory,
            {
                "welcome_status": Welcome.REJECTED,
                "welcome_code": error.code,
                "welcome_text": str(error),
            },
        )
        channel.hand_over()
        self._give_up(channel)

    def _session_over(self) -> None:
        if not self._closed:
            # The error that ended the session is the news; accept() tries again.
            with contextlib.suppress(ChannelError):
                self._publish()

    def shut(self) -> None:
        """Do what ``close`` does, for a face that holds the guard."""
        if self._closed:
            return
        self._closed = True
        if self._session:
            self._session.end()
        if self._channel:
            self._channel.say_bye(Bye.CLOSED)
        self._withdraw()
        self._client_lock.close()
        self._lock.close()
