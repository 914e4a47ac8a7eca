"""The environment's side of a channel: hosting a Gymnasium env, or a simulator's own loop.

``ServerBackend`` and ``ClientBackend`` differ only in who owns the channel;
how requests are answered is written here, once.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import gymnasium

from rlay.client import MemClient
from rlay.endpoint import Endpoint
from rlay.env_moves import NOTHING
from rlay.envs.facts import frame_capacity_of, read_facts
from rlay.errors import (
    ChannelFormatError,
    LocalProtocolError,
    PeerError,
    RemoteProtocolError,
)
from rlay.lifetime import alone, close, closed, new_guard
from rlay.protocol.constants import DEFAULT_BODY_CAPACITY, Command, Feature, Role
from rlay.protocol.records import Request
from rlay.protocol.schema import Schema, describe_env
from rlay.protocol.spaces import Capacities
from rlay.server import MemServer
from rlay.session import Session

_log = logging.getLogger("rlay")


class Backend:
    """Base of ``ServerBackend`` and ``ClientBackend``.

    Two ways to use it. Give it a ``gymnasium.Env`` and call ``serve()``. Or give it
    the two spaces, and run your own loop::

        request = backend.next_request()             # the agent's first reset
        while request is not None:
            if request.command is Command.RESET:
                observation = game.restart(request.seed)
            else:
                observation = game.advance(request.action)
            request = backend.decide(observation, game.reward, game.over, False, {})
    """

    _side: ClassVar[type[Endpoint]]

    def __init__(
        self,
        channel: str,
        env: gymnasium.Env[Any, Any] | None = None,
        *,
        observation_space: gymnasium.Space[Any] | None = None,
        action_space: gymnasium.Space[Any] | None = None,
        render: Callable[[], Any] | None = None,
        info_fields: Mapping[str, Any] | None = None,
        capacities: Capacities | None = None,
        request_body: int = DEFAULT_BODY_CAPACITY,
        reply_body: int = DEFAULT_BODY_CAPACITY,
        frame_capacity: int | None = None,
        timeout: float | None = 60.0,
        attach_timeout: float | None = 30.0,
        wait: str | None = None,
    ) -> None:
        """Compile the layout and open the endpoint.

        Args:
            channel: name of the channel.
            env: the environment to host; left out for a loop of your own.
            observation_space: for a loop of your own.
            action_space: for a loop of your own.
            render: for a loop of your own: returns what ``render()`` returns.
            info_fields: info keys that ride in the record at no cost, each with its
                Space or dtype, such as ``{"x_position": "float64"}``; all other info
                is encoded into the body.
            capacities: of Sequence spaces (a count) and Graph spaces (nodes, edges), by
                path, such as ``{"observation/words": 16}``.
            request_body: bytes for reset options and call arguments.
            reply_body: bytes for undeclared info, call results and error texts.
            frame_capacity: bytes for ``rgb_array`` frames; left out, 8 MiB if the
                environment renders them.
            timeout: seconds ``decide()`` and ``next_request()`` wait for the agent; None
                waits as long as it lives.
            attach_timeout: seconds to wait for an agent.
            wait: how to wait for the turn: ``adaptive``, ``spin``, ``backoff`` or
                ``block``; left out, the environment variable RLAY_WAIT, else ``adaptive``.

        Raises:
            LayoutError: the spaces cannot be laid out; names the path.
            ChannelBusyError: the channel is taken.
        """
        if env is not None:
            observation_space, action_space = env.observation_space, env.action_space
            render = env.render
        if observation_space is None or action_space is None:
            raise LocalProtocolError("give an env, or both observation_space and action_space")
        self._prepare(channel, timeout, attach_timeout, wait)
        self._env, self._render = env, render
        if frame_capacity is None:
            frame_capacity = frame_capacity_of(env)
        schema = describe_env(
            observation_space,
            action_space,
            info_fields=info_fields,
            capacities=capacities,
            env=read_facts(env),
            request_body=request_body,
            reply_body=reply_body,
            frame=frame_capacity,
        )
        features = Feature.RENDER if render else Feature.NONE
        if env is not None:
            features |= Feature.CALL
        self._open(schema, features)

    def _prepare(
        self, channel: str, timeout: float | None, attach_timeout: float | None, wait: str | None
    ) -> None:
        """Keep what a session needs, whatever is hosted."""
        self.channel, self._wait = channel, wait
        self.timeout, self.attach_timeout = timeout, attach_timeout
        self._session: Session | None = None
        self.guard = new_guard()

    def _open(self, schema: Schema, features: Feature) -> None:
        """Open this side's endpoint."""
        self._endpoint = self._side(
            self.channel,
            Role.ENV,
            features=features,
            schema=schema,
            wait=self._wait,
            guard=self.guard,
        )

    def _attach(self, timeout: float | None) -> Session:
        """Wait for an agent."""
        return self._endpoint.open_session(timeout)

    # A loop of one's own.

    @alone
    def next_request(self, timeout: float | None = -1.0) -> Request | None:
        """Wait for the agent's next RESET or STEP, attaching first if there is no session.

        Renders are answered on the way. After this call you must answer with
        ``decide()`` or ``fail()``.

        Args:
            timeout: seconds; left out, ``self.timeout``; None, as long as the agent lives.

        Returns:
            The request; None when the agent has asked to close.

        Raises:
            ChannelTimeoutError: none came; call this again, not ``decide()``.
            PeerClosedError, PeerLostError: the agent left; the next call waits for another.
            LocalProtocolError: closed, by another thread perhaps.
        """
        return self._next_request(self.timeout if timeout == -1.0 else timeout)

    def _next_request(self, timeout: float | None) -> Request | None:
        if self._session is None or self._session.ended:
            self._session = self._attach(self.attach_timeout)
        while True:
            request = self._session.next_request(timeout)
            if request.command in (Command.RESET, Command.STEP):
                return request
            self._answer(self._session, request)
            if self._session.ended:
                return None

    @alone
    def decide(
        self,
        observation: Any,
        reward: float = 0.0,
        terminated: bool = False,
        truncated: bool = False,
        info: Mapping[str, Any] | None = None,
    ) -> Request | None:
        """Answer the open request with what came of it, and wait for the next decision.

        Args:
            observation: at this decision step.
            reward: since the last one; not sent with the answer to a RESET.
            terminated: the episode ended by its own rules.
            truncated: the episode was cut short.
            info: anything else.

        Returns:
            The next RESET or STEP; None when the agent has asked to close.

        Raises:
            LocalProtocolError: no request is open: call ``next_request()`` first.
            LayoutError: the record cannot hold these values; the request stays open.
            ChannelTimeoutError: the agent is late; call ``next_request()`` to wait on.
            PeerClosedError, PeerLostError: the agent left.
        """
        session = self._open_request()
        if session.pending is Command.RESET:
            session.reply_reset(observation, info or {})
        else:
            session.reply_step(observation, reward, terminated, truncated, info or {})
        return self._next_request(self.timeout)

    @alone
    def fail(self, error: BaseException) -> Request | None:
        """Answer the open request with an exception, and wait for the next request.

        The agent gets a ``RemoteError``; its next request is a RESET.
        """
        self._open_request().reply_error(error)
        return self._next_request(self.timeout)

    def _open_request(self) -> Session:
        if self._session is None or self._session.pending is None:
            raise LocalProtocolError("no request is open: call next_request() first")
        return self._session

    # Hosting an environment.

    @alone
    def serve(self, *, sessions: int | None = None) -> None:
        """Serve agents one after another with the environment.

        Returns after ``sessions`` of them, or when another thread, or the environment,
        calls ``close()``; None serves until interrupted. An agent that
        leaves or dies ends its session, not this loop. Attaching waits for
        ``attach_timeout``, a request for as long as the agent lives.

        Raises:
            LocalProtocolError: this backend has no environment.
            ChannelTimeoutError, ChannelNotFoundError: no agent came in time.
        """
        if self._env is None:
            raise LocalProtocolError("serve() needs an env; use next_request() and decide()")
        try:
            self._serve(sessions)
        except LocalProtocolError:
            if self.guard.refusal is not closed:
                raise

    def _serve(self, sessions: int | None) -> None:
        served = 0
        while sessions is None or served < sessions:
            self._session = self._attach(self.attach_timeout)
            try:
                self._session.compile_steps(Role.ENV)
                while not self._session.ended:
                    self._answer_steps(self._session)
                    self._answer(self._session, self._session.next_request(None))
            except PeerError as left:
                _log.info("%s", left)
            except (RemoteProtocolError, ChannelFormatError) as error:
                _log.warning("session ended: %s", error)
            served += 1

    def _answer_steps(self, session: Session) -> None:
        """Answer steps for as long as nothing else comes."""
        while True:
            try:
                result = session.answer_steps(self._hosted())
                if result is NOTHING:
                    return
                self._reply_step(session, result)
            except Exception as error:
                if session.ended or session.pending is None:
                    raise
                session.reply_error(error)
            except SystemExit as error:
                session.reply_error(error)
                raise

    def _hosted(self) -> Any:
        """Return what ``answer_steps`` steps."""
        return self._env

    def _reply_step(self, session: Session, result: Any) -> None:
        """Answer a STEP with what ``answer_steps`` could not send."""
        session.reply_step(*result)

    def _answer(self, session: Session, request: Request) -> None:
        """Answer one request; what the environment raises becomes the answer."""
        try:
            self._perform(session, request)
        except Exception as error:
            if session.ended:
                raise
            session.reply_error(error)
        except SystemExit as error:
            session.reply_error(error)
            raise
        if request.command is Command.CLOSE:
            session.end()

    def _perform(self, session: Session, request: Request) -> None:
        command, env = request.command, self._env
        if command is Command.STEP and env is not None:
            observation, reward, terminated, truncated, info = env.step(request.action)
            session.reply_step(observation, reward, terminated, truncated, info)  # type: ignore[arg-type]
        elif command is Command.RESET and env is not None:
            session.reply_reset(*env.reset(seed=request.seed, options=request.options))
        elif command is Command.RENDER and self._render is not None:
            session.reply_frame(self._render())
        elif command is Command.CALL and request.call is not None:
            session.reply_value(self._call(**request.call))
        else:
            session.reply_value()

    def _call(self, op: str, name: str, args: list[Any], kwargs: dict[str, Any]) -> Any:
        env = self._env
        if env is None:
            raise NotImplementedError("this environment takes no calls")
        if name.startswith("_"):
            raise AttributeError(f"{name!r} is private to the environment")
        if op == "set":
            env.set_wrapper_attr(name, args[0])
            return None
        found = env.get_wrapper_attr(name)
        return found(*args, **kwargs) if op == "call" and callable(found) else found

    # Both.

    def close(self) -> None:
        """Say goodbye and release the channel, and close the environment; twice is fine.

        In any thread: ``serve()`` in another one returns, when the environment has finished
        the request it is at.
        """
        close(self.guard, self._finish)

    def _finish(self) -> None:
        self._endpoint.shut()
        if self._env is not None:
            env, self._env = self._env, None
            env.close()

    def __enter__(self) -> Backend:
        """Return self; leaving the block closes it."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close."""
        self.close()


class ServerBackend(Backend):
    """Serves an environment to ``ClientEnv``: this side owns the channel."""

    _side = MemServer


class ClientBackend(Backend):
    """Brings an environment to ``ServerEnv``: the game attaches and asks for decisions."""

    _side = MemClient
