"""What both roles share of a session: where it stands, waiting for the turn, the end.

Theory of operation. Ordinary steps go by the compiled path (``rlay/exchange.py``), which
counts on its own while it is armed; whoever asks where the session stands first catches up
with it. Every wait ends the session if the peer is gone, or a file of it was truncated.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, cast

from rlay.channel.channel import Channel
from rlay.channel.files import Mapping as FileMapping
from rlay.channel.locks import forked_endpoint
from rlay.channel.wait import Deadline
from rlay.errors import ChannelFormatError, PeerError, PeerLostError, RemoteProtocolError
from rlay.exchange import compile_exchange
from rlay.lifetime import orphan_in_child
from rlay.protocol.constants import Bye, Command, Feature, Role
from rlay.protocol.header import Hello
from rlay.protocol.lanes import LaneReply, LaneReplyRecord, compile_records
from rlay.protocol.layout import Layout
from rlay.protocol.schema import Schema
from rlay.protocol.turn import Event, State, TurnMachine

if TYPE_CHECKING:
    from rlay._atomics import Exchange, LaneExchange

#: The feature that both sides must offer before a command may be sent.
NEEDS_FEATURE = {Command.RENDER: Feature.RENDER, Command.CALL: Feature.CALL}


class Conversation:
    """Where a session stands, how it waits and how it ends; attributes as of ``Session``."""

    def __init__(
        self,
        channel: Channel,
        data: FileMapping,
        *,
        schema: Schema,
        layout: Layout,
        features: Feature,
        peer: Hello,
        on_end: Callable[[], None],
    ) -> None:
        """Begin after the handshake; ``on_end`` runs once, when the session is over."""
        self.schema, self.layout, self.features, self.peer = schema, layout, features, peer
        self._channel, self._data, self._on_end = channel, data, on_end
        channel.files.append(data)
        self._request, self._reply = compile_records(
            schema, layout, data.memory, channel.generation
        )
        self._machine = TurnMachine(State.FRESH)
        self._seq = 0
        self._answered_seq = 0
        self._handed_over = True
        self._command = Command.READY
        self._waited_ns = 0
        self.exchange: Exchange | None = None
        self._lane_exchange: LaneExchange | None = None
        self._plain_reply: LaneReply | None = None
        orphan_in_child(self)

    def compile_steps(self, role: Role, *, copy: bool = True) -> None:
        """Take the compiled path for ordinary steps from now on, where it was built.

        Args:
            role: ours.
            copy: as for ``receive``; holds for every observation from here on.
        """
        records = self._request, self._reply
        self.exchange = compile_exchange(self._channel, self.layout, *records, role, copy=copy)
        if self.exchange is not None and isinstance(self._reply, LaneReplyRecord):
            self._lane_exchange = cast("LaneExchange", self.exchange)
            self._plain_reply = LaneReply(self._reply, {}, self._lane_exchange.copy)
        self._arm()

    def _arm(self) -> None:
        """Let the compiled path begin where we are; it works within an episode only."""
        if self.exchange is not None:
            self.exchange.seq = self._seq
            self.exchange.armed = self._machine.state is State.IN_EPISODE

    def _catch_up(self) -> None:
        """Take over what the compiled path did since: whole exchanges, or one half done."""
        exchange = self.exchange
        if exchange is None or not exchange.moved:
            return
        self._seq, self._command, self._handed_over = exchange.seq, Command.STEP, True
        self._answered_seq = exchange.seq if exchange.armed else exchange.seq - 1
        self._machine.state = State.IN_EPISODE if exchange.armed else State.STEPPING
        # Last: interrupted before this line, all of it is done again.
        exchange.moved = False

    def _take_over(self) -> None:
        """Go the long way from here; ``_arm`` gives the compiled path its turn again."""
        self._catch_up()
        if self.exchange is not None:
            self.exchange.armed = False

    @property
    def state(self) -> State:
        """Where the session stands."""
        self._catch_up()
        return self._machine.state

    @property
    def ended(self) -> bool:
        """Whether the session is over."""
        self._catch_up()
        return self._machine.state is State.ENDED

    @property
    def begun(self) -> bool:
        """Whether there has been a request."""
        self._catch_up()
        return self._machine.state is not State.FRESH or self._seq > 0

    @property
    def pending(self) -> Command | None:
        """The agent's request that has no reply yet, or None."""
        self._catch_up()
        busy = (State.RESETTING, State.STEPPING, State.ASKED, State.ASKED_FRESH, State.CLOSING)
        return self._command if self._machine.state in busy else None

    def _check(self, command: Command) -> None:
        self._take_over()
        self._machine.check(command)

    def _await_turn(self, timeout: float | None, waited_for: str) -> None:
        if self.ended:
            self._machine.check(Command.STEP)  # raises what there is to say of it
        try:
            waited_ns, self._waited_ns = self._waited_ns, 0
            deadline = Deadline(timeout, waited_ns=waited_ns)
            phase = self._machine.state.name
            self._channel.await_turn(deadline, waited_for, phase, waited_ns=waited_ns)
        except (RemoteProtocolError, ChannelFormatError):
            self.end(Bye.FAILED)
            raise
        except PeerError as error:
            if isinstance(error, PeerLostError):
                error.last_command = self._command.name
            self.end(Bye.CLOSED)
            raise

    def check_intact(self) -> None:
        """End the session if a file of it was truncated: what was read may have been zeros.

        Every move asks this, after it has copied its values and before it hands anything over.
        Only who reads the records after the move has to ask again.

        Raises:
            ChannelFormatError: names the file; the session is over.
        """
        words = self._channel.mapping
        if damage := self._data.damage(quick=True) or words.damage(quick=True):
            self.end(Bye.FAILED)
            raise damage from None

    def end(self, bye: Bye = Bye.CLOSED) -> None:
        """Say goodbye and let go of the files; twice is fine."""
        if self._on_end is _nothing:
            return
        # Ctrl-C may come between any two of these lines: then end() does all of it again.
        if self.exchange is not None:
            self.exchange.release()
            self.exchange = self._lane_exchange = self._plain_reply = None
        self._machine.end()
        self._channel.say_bye(bye)
        # The records hold views; without them the data file can be unmapped.
        self.__dict__.pop("_request", None)
        self.__dict__.pop("_reply", None)
        self._data.close()
        on_end, self._on_end = self._on_end, _nothing
        on_end()

    def orphan(self) -> None:
        """In a forked child: the session is the parent's, and every move here is refused."""
        self._machine = _ForkedMachine(State.ENDED)
        self.exchange = self._lane_exchange = None
        self._on_end = _nothing


class _ForkedMachine(TurnMachine):
    """What a session has in a forked child."""

    def we(self, event: Event | Command) -> None:
        raise forked_endpoint()

    they = check = we


def _nothing() -> None:
    pass
