"""The agent's half of a session: it sends requests and receives their replies."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rlay.conversation import NEEDS_FEATURE, Conversation
from rlay.errors import LocalProtocolError, RemoteError, RemoteProtocolError
from rlay.protocol.constants import Bye, Command
from rlay.protocol.lanes import LaneActions, LaneReply
from rlay.protocol.prefix import PREFIX
from rlay.protocol.turn import Event, State


class AgentMoves(Conversation):
    """What the agent may do: one request at a time, then ``receive``."""

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

    def _check_offered(self, command: Command) -> None:
        self._check(command)
        if not self.features & NEEDS_FEATURE[command]:
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
