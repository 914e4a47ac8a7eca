"""The environment's half of a session: it waits for requests and answers each of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rlay.channel.wait import SLICE_NS
from rlay.conversation import NEEDS_FEATURE, Conversation
from rlay.errors import LocalProtocolError, RemoteProtocolError
from rlay.protocol.constants import Bye, Command
from rlay.protocol.lane_codecs import LaneError
from rlay.protocol.records import Request
from rlay.protocol.turn import Event

#: What ``answer_steps`` returns when no result waits for an answer.
NOTHING = object()


class EnvMoves(Conversation):
    """What the environment may do: ``next_request``, then one answer."""

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
        if command in NEEDS_FEATURE and not self.features & NEEDS_FEATURE[command]:
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
