"""One session over an attached channel: requests and replies, by role.

Whoever owns the file, the agent sends requests and the environment answers
them; this class is that conversation. Both endpoints make it: ``MemServer``
after a client's hello, ``MemClient`` after a server's welcome.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, cast

from rlay._version import __version__
from rlay.channel.channel import Channel
from rlay.channel.files import Mapping as FileMapping
from rlay.channel.files import forked_endpoint
from rlay.channel.wait import SLICE_NS, Deadline
from rlay.errors import (
    ChannelFormatError,
    LocalProtocolError,
    PeerError,
    PeerLostError,
    RemoteError,
    RemoteProtocolError,
)
from rlay.exchange import compile_exchange
from rlay.lifetime import orphan_in_child
from rlay.protocol.constants import Bye, Command, Feature, Role
from rlay.protocol.header import Hello
from rlay.protocol.lane_codecs import LaneError
from rlay.protocol.lanes import LaneActions, LaneReply, LaneReplyRecord, compile_records
from rlay.protocol.layout import Layout
from rlay.protocol.records import PREFIX, Request
from rlay.protocol.schema import Schema
from rlay.protocol.turn import Event, State, TurnMachine

if TYPE_CHECKING:
    from rlay._atomics import Exchange, LaneExchange

_NEEDS_FEATURE = {Command.RENDER: Feature.RENDER, Command.CALL: Feature.CALL}


#: What ``answer_steps`` returns when no result waits for an answer.
NOTHING = object()


def our_hello(role: Role, features: Feature) -> Hello:
    """Return the hello of this process."""
    return Hello(
        role=role,
        features=features,
        pid=os.getpid(),
        library=f"rlay-python {__version__}",
        host=platform.node(),
    )


class Session:
    """The conversation of one agent and one environment.

    Attributes:
        schema: what flows.
        layout: where it lies.
        features: bits both sides offer.
        peer: the other side's hello.
        exchange: the compiled path for ordinary steps, where there is one.
    """

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

    # The agent's half.

    def send_reset(self, seed: int | None, options: Mapping[str, Any] | None) -> None:
        """Ask for a new episode.

        Raises:
            LocalProtocolError: a request is pending, or the session is over.
            LayoutError: seed or options cannot be carried exactly; nothing was sent.
        """
        self._check(Command.RESET)
        self._request.write_reset(self._answered_seq + 1, seed, options)
        self._sent(Command.RESET)

    def send_step(self, action: Any) -> None:
        """Send an action.

        Raises:
            LocalProtocolError: before reset, while a request is pending, after the end.
            LayoutError: the record cannot hold exactly this action; nothing was sent.
        """
        self._check(Command.STEP)
        self._request.write_step(self._answered_seq + 1, action)
        self._sent(Command.STEP)

    def post_step(self, actions: LaneActions, arrays: tuple[Any, ...], first: int) -> None:
        """Send the actions of all lanes, by the compiled path if there is one.

        Args:
            actions: as for ``send_step``.
            arrays: the same batch as ``LaneCodec.arrays``.
            first: which of the batch is for our lane 0.
        """
        exchange = self._lane_exchange
        if exchange is None or exchange.post(arrays, first) is NotImplemented:
            self.send_step(actions)

    def landed(self, slice_ns: int) -> LaneReply | None:
        """Wait for a slice for the reply to ``post_step``.

        Returns:
            The reply if it came and is ordinary; else ``receive`` gets the rest.
        """
        exchange = self._lane_exchange
        landed = False if exchange is None else exchange.landed(slice_ns)
        if landed is None:
            self._waited_ns = slice_ns
        return self._plain_reply if landed else None

    def send_render(self, lane: int | None = None) -> None:
        """Ask for a frame, in a group with lanes of this lane."""
        self._check_offered(Command.RENDER)
        self._request.write_plain(self._answered_seq + 1, Command.RENDER, lane)
        self._sent(Command.RENDER)

    def send_call(self, op: str, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Ask to ``call`` a method, or to ``get`` or ``set`` an attribute, of the environment."""
        self._check_offered(Command.CALL)
        call = {"op": op, "name": name, "args": list(args), "kwargs": kwargs}
        self._request.write_call(self._answered_seq + 1, call)
        self._sent(Command.CALL)

    def send_close(self) -> None:
        """Ask the environment to finish; its reply ends the session."""
        self._check(Command.CLOSE)
        self._request.write_plain(self._answered_seq + 1, Command.CLOSE)
        self._sent(Command.CLOSE)

    def take_over_step(self, how: Any, action: Any, slice_ns: int) -> None:
        """Go on where the compiled path gave up; ``receive`` must follow.

        Args:
            how: what ``Exchange.step`` says: NotImplemented when nothing was sent, None
                when no reply came within ``slice_ns``, True when it is there.
            action: for a step that was not sent.
            slice_ns: how long the compiled path has waited.
        """
        if how is NotImplemented:
            self.send_step(action)
        elif how is None:
            self._waited_ns = slice_ns

    def _check(self, command: Command) -> None:
        self._take_over()
        self._machine.check(command)

    def _check_offered(self, command: Command) -> None:
        self._check(command)
        if not self.features & _NEEDS_FEATURE[command]:
            raise LocalProtocolError(
                f"the environment ({self.peer.describe()}) does not offer {command.name}"
            )

    def _sent(self, command: Command) -> None:
        # Ctrl-C may come between any two of these lines. Before ``we`` nothing was sent and all
        # can be done again; after it the request is pending, and receive() sees to the rest.
        self.check_intact()
        self._command, self._seq = command, self._answered_seq + 1
        self._handed_over = False
        self._machine.we(command)
        self._channel.hand_over()
        self._handed_over = True

    def _finish_sending(self) -> None:
        """Hand over the pending request if an interrupt came before that, and only then."""
        if self._channel.our_turn():
            # Our turn before we gave it away, or after the reply came: its seq tells.
            answered = PREFIX.unpack_from(self._data.memory, self.layout.request_size)[0]
            if answered != self._seq:
                self._channel.hand_over()
        self._handed_over = True

    def ready(self) -> bool:
        """Look once whether the reply to the pending request is there; waits for nothing."""
        return self._channel.our_turn()

    def receive(self, timeout: float | None, *, copy: bool = True) -> Any:
        """Wait for the reply to the pending request and return it.

        Returns:
            For RESET ``(observation, info)``; for STEP ``(observation, reward,
            terminated, truncated, info)``; for RENDER the frame; for CALL the result;
            for CLOSE None. With ``copy=False`` arrays are views that live until the
            next request is sent.

        Raises:
            ChannelTimeoutError: still pending; receive again.
            RemoteError: the environment raised; the session goes on.
            PeerError, RemoteProtocolError: the session is over.
            ChannelFormatError: a file was truncated; the session is over.
        """
        if self.pending is None:
            raise LocalProtocolError("nothing is pending: send a request first")
        if not self._handed_over:
            self._finish_sending()
        self._await_turn(timeout, f"reply to {self._command.name}")
        try:
            size = self._reply.open(self._seq, self._command)
            value = self._read(size, copy=copy)
        except RemoteError:
            self.check_intact()
            self._answered_seq = self._seq
            self._machine.they(Event.ERROR)
            self._arm()
            raise
        except RemoteProtocolError:
            self.check_intact()
            self.end(Bye.FAILED)
            raise
        self.check_intact()
        # Signals come at calls. From the last one on there is none before our caller has the
        # value: interrupted before, the reply is pending and can be received again.
        following, exchange = self._machine.following(Event.OK), self.exchange
        self._answered_seq = self._seq
        self._machine.state = following
        if exchange is not None:
            exchange.seq, exchange.armed = self._seq, following is State.IN_EPISODE
        return value

    def _read(self, size: int, *, copy: bool) -> Any:
        if self._command is Command.STEP:
            return self._reply.read_step(size, copy=copy)
        if self._command is Command.RESET:
            return self._reply.read_reset(size, copy=copy)
        if self._command is Command.RENDER:
            return self._reply.read_frame(size, copy=copy)
        return self._reply.read_value(size)

    # The environment's half.

    def next_request(self, timeout: float | None) -> Request:
        """Wait for the agent's next request.

        After this call you must answer with one of the ``reply_...`` methods.

        Raises:
            ChannelTimeoutError: none came; wait again.
            PeerError, RemoteProtocolError: the session is over.
            ChannelFormatError: a file was truncated; the session is over.
        """
        if self.pending is not None:
            raise LocalProtocolError(f"{self.pending.name} is open: answer it first")
        self._take_over()
        self._await_turn(timeout, "request")
        try:
            command = self._request.command(self._seq + 1)
            self._check_we_offered(command)
            request = self._request.read(command)
            self.check_intact()
            self._machine.they(command)
        except RemoteProtocolError:
            self.check_intact()
            self.end(Bye.FAILED)
            raise
        self._seq += 1
        self._command = command
        self._arm()
        return request

    def answer_steps(self, env: Any) -> Any:
        """Answer STEPs with ``env.step(action)`` by the compiled path, while they are ordinary.

        Args:
            env: the environment; with lanes what ``LaneExchange.serve`` takes.

        Returns:
            A result of ``step`` that is not ordinary: pass it to ``reply_step``; with lanes
            a list of them. NOTHING when ``next_request`` must take over: another request
            came, or none for a while.

        Raises:
            Exception: whatever ``step`` raised, with lanes as a LaneError; then STEP is
                pending and wants an answer.
            RemoteProtocolError: the peer's bytes are no action; the session is over.
            ChannelFormatError: a file was truncated; the session is over.
        """
        self._catch_up()
        exchange = self.exchange
        if exchange is None or not exchange.armed:
            return NOTHING
        exchange.calling = False
        try:
            result = exchange.serve(env, SLICE_NS)
            self._waited_ns = SLICE_NS if result is None else 0
        except Exception as error:
            if not exchange.calling and isinstance(error, RemoteProtocolError):
                self.check_intact()
                self.end(Bye.FAILED)
            if exchange.calling and self._lane_exchange is not None:
                raise LaneError(self._lane_exchange.lane) from error
            raise
        if exchange.calling:
            return result
        self.check_intact()
        return NOTHING

    def _check_we_offered(self, command: Command) -> None:
        if command in _NEEDS_FEATURE and not self.features & _NEEDS_FEATURE[command]:
            raise RemoteProtocolError(f"the agent sent {command.name}, which was not agreed")

    def _check_answers(self, command: Command) -> None:
        pending_command = self.pending
        if pending_command is not command:
            pending = f"{pending_command.name} is" if pending_command else "nothing is"
            raise LocalProtocolError(f"cannot answer {command.name}: {pending} pending")

    def reply_reset(self, observation: Any, info: Mapping[str, Any]) -> None:
        """Answer a RESET.

        Raises:
            LayoutError: the record cannot hold these values; the request stays open.
        """
        self._check_answers(Command.RESET)
        self._reply.write_reset(self._seq, observation, info)
        self._answered(Event.OK)

    def reply_step(
        self,
        observation: Any,
        reward: float,
        terminated: bool,
        truncated: bool,
        info: Mapping[str, Any],
    ) -> None:
        """Answer a STEP.

        Raises:
            LayoutError: the record cannot hold these values; the request stays open.
        """
        self._check_answers(Command.STEP)
        self._reply.write_step(self._seq, observation, reward, terminated, truncated, info)
        self._answered(Event.OK)

    def reply_frame(self, frame: Any) -> None:
        """Answer a RENDER."""
        self._check_answers(Command.RENDER)
        self._reply.write_frame(self._seq, frame)
        self._answered(Event.OK)

    def reply_value(self, value: Any = None) -> None:
        """Answer a CALL, or a CLOSE without a value; a CLOSE ends the session."""
        self._check_answers(self.pending or self._command)
        self._reply.write_value(self._seq, self._command, value)
        self._answered(Event.OK)

    def reply_error(self, error: BaseException) -> None:
        """Answer whatever is pending with an exception of the environment's."""
        self._check_answers(self.pending or self._command)
        self._reply.write_error(self._seq, self._command, error)
        self._answered(Event.ERROR)

    def _answered(self, event: Event) -> None:
        self.check_intact()
        self._machine.we(event)
        self._arm()
        self._channel.hand_over()

    # Both.

    def _await_turn(self, timeout: float | None, waited_for: str) -> None:
        if self.ended:
            self._check(Command.STEP)
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
