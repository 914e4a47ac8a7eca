"""The agent's face of a channel: a ``gymnasium.Env`` whose environment is in another process.

``ClientEnv`` and ``ServerEnv`` differ only in who owns the channel; everything
an agent does is written here, once.
"""

from __future__ import annotations

import abc
from collections.abc import Mapping
from typing import Any, ClassVar

import gymnasium
from gymnasium.envs.registration import EnvSpec

from rlay.channel.wait import Deadline
from rlay.endpoint import Endpoint
from rlay.envs.facts import spec_id
from rlay.envs.launch import Launcher
from rlay.errors import (
    LayoutMismatchError,
    PeerLostError,
    RlayError,
    UnsupportedSpaceError,
)
from rlay.lifetime import alone, close, new_guard
from rlay.protocol.constants import Feature, Role
from rlay.protocol.schema import Schema, first_difference
from rlay.protocol.spaces import capacities_of, describe, space_from

#: How long ``close()`` waits for the environment's acknowledgement, seconds.
_CLOSE_TIMEOUT = 2.0


def check_spaces(schema: Schema, expected: Mapping[str, Any]) -> None:
    """Compare a schema's spaces with the ones an agent was told to expect.

    Args:
        schema: the environment's.
        expected: ``observation`` and ``action`` spaces; None expects nothing.

    Raises:
        LayoutMismatchError: names the first difference, with both values.
    """
    for name, space in expected.items():
        if space is None:
            continue
        theirs = getattr(schema.groups[0], name)
        try:
            ours = describe(space, name, capacities_of(theirs, name))
        except UnsupportedSpaceError:
            # A Sequence or Graph where theirs has none: there is no capacity to compare.
            raise LayoutMismatchError(
                f"{name}_space: found {space_from(theirs, name)}, expected {space}"
            ) from None
        if difference := first_difference(ours, theirs, name):
            raise LayoutMismatchError(difference)


class RemoteEnv(gymnasium.Env[Any, Any], abc.ABC):
    """Base of ``ClientEnv`` and ``ServerEnv``.

    Attributes:
        timeout: seconds each call waits for the environment; None waits for as long
            as the peer lives.
        channel: name of the channel.
        guard: lets in one call at a time, in whatever thread, and ``close()`` always.
    """

    #: How to make another one like this: ``module:name``.
    _entry_point: ClassVar[str]

    def __init__(
        self,
        channel: str,
        *,
        timeout: float | None = 60.0,
        attach_timeout: float | None = 60.0,
        copy: bool = True,
        render_mode: str | None = None,
        observation_space: gymnasium.Space[Any] | None = None,
        action_space: gymnasium.Space[Any] | None = None,
        launcher: Launcher | None = None,
        wait: str | None = None,
    ) -> None:
        """Attach to the environment, or wait until it attaches; either may start first.

        Args:
            channel: name of the channel.
            timeout: seconds each later call waits; None waits while the peer lives.
            attach_timeout: seconds to wait for the peer, here and after a lost one.
            copy: if False, observations are read-only views into the mapped record that
                change with the next request: copy what you keep.
            render_mode: if given, the environment's must be the same.
            observation_space: if given, the environment's must be the same.
            action_space: if given, the environment's must be the same.
            launcher: of the environment's process, if this end starts it.
            wait: how to wait for the turn: ``adaptive``, ``spin``, ``backoff`` or
                ``block``; left out, the environment variable RLAY_WAIT, else ``adaptive``.

        Raises:
            ChannelBusyError: another process has this side of the channel; tells who.
            ChannelNotFoundError: no live server appeared (``ClientEnv``).
            ChannelTimeoutError: no game attached; one that was rejected is its cause
                (``ServerEnv``).
            LayoutMismatchError: the spaces are not the ones expected.
        """
        self.channel = channel
        self.timeout = timeout
        self.attach_timeout = attach_timeout
        self._copy = copy
        self._launcher = launcher
        self._wanted_render_mode = render_mode
        self._expected = {"observation": observation_space, "action": action_space}
        self._fresh = False
        self._schema: Schema | None = None
        self.guard = new_guard()
        self._endpoint = self._connect(
            features=Feature.RENDER | Feature.CALL,
            accepts=self._accepts,
            starting=self._starting,
            wait=wait,
            guard=self.guard,
        )
        try:
            self.guard(self._open, attach_timeout)
        except BaseException:
            self._endpoint.close()
            raise

    @abc.abstractmethod
    def _connect(self, **settings: Any) -> Endpoint:
        """Open this side's endpoint."""

    @property
    def timeout(self) -> float | None:
        """Seconds each call waits; None waits for as long as the peer lives."""
        return self._timeout

    @timeout.setter
    def timeout(self, seconds: float | None) -> None:
        self._timeout = seconds
        self._slice_ns = Deadline(seconds).slice_ns()

    def _accepts(self, schema: Schema) -> None:
        """Refuse an environment that is not the one expected, or not the one we had."""
        if len(schema.groups) != 1 or schema.groups[0].lanes:
            raise LayoutMismatchError(
                "the channel carries lanes or several groups, and this end is for one "
                "environment; rlay.VectorEnv is for lanes"
            )
        check_spaces(schema, self._expected)
        mode = schema.env.render_mode
        if self._wanted_render_mode not in (None, mode):
            raise LayoutMismatchError(
                f"render_mode: found {mode!r}, expected {self._wanted_render_mode!r}; "
                "the environment's side chooses it"
            )
        if self._schema and (
            difference := first_difference(
                self._schema.to_dict()["groups"], schema.to_dict()["groups"], "groups"
            )
        ):
            raise LayoutMismatchError(
                difference, f"the environment is another than before: {difference}"
            )

    def _starting(self) -> None:
        """Raise if the process we launched is gone before it attached."""
        if self._launcher and not self._launcher.running():
            if not self._fresh:
                # The process of the last session was still on its way out.
                self._fresh = self._launcher.start()
                return
            lost = PeerLostError("the launched environment ended before it attached")
            raise self._launcher.explain(lost)

    def _open(self, timeout: float | None) -> None:
        if self._launcher:
            self._fresh = self._launcher.start()
        self._session = self._endpoint.open_session(timeout)
        self._session.compile_steps(Role.AGENT, copy=self._copy)
        if self._schema is None:
            self._schema = self._session.schema
            self._adopt(self._session.schema)

    def _adopt(self, schema: Schema) -> None:
        group, facts = schema.groups[0], schema.env
        self.observation_space = space_from(group.observation, "observation")
        self.action_space = space_from(group.action, "action")
        self.metadata = {"render_modes": [], **facts.metadata}
        self.render_mode = facts.render_mode
        if self.spec is None:
            self.spec = EnvSpec(
                id=spec_id(facts, self.channel),
                entry_point=self._entry_point,
                reward_threshold=facts.reward_threshold,
                max_episode_steps=facts.max_episode_steps,
                order_enforce=False,
                disable_env_checker=True,
                kwargs={"channel": self.channel},
            )

    def _receive(self, timeout: float | None) -> Any:
        try:
            return self._session.receive(timeout, copy=self._copy)
        except PeerLostError as lost:
            if self._launcher:
                raise self._launcher.explain(lost) from None
            raise

    @alone
    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Start a new episode; attaches again if the last session is over.

        Args:
            seed: from 0 to 2**64 - 1, or None; handed to the environment.
            options: handed to the environment: None, bool, int, float, str, bytes, lists,
                tuples, dicts and NumPy arrays and scalars, as MessagePack (PROTOCOL.md §14).

        Returns:
            The first observation and info.

        Raises:
            LayoutError: seed or options cannot be carried exactly; names the key.
            RemoteError: the environment raised.
            PeerClosedError, PeerLostError: the peer left; reset again to attach again.
            ChannelTimeoutError: no reply in time; call ``wait()``.
        """
        super().reset(seed=seed)
        if self._session.ended:
            self._open(self.attach_timeout)
        self._session.send_reset(seed, options)
        result: tuple[Any, dict[str, Any]] = self._receive(self.timeout)
        return result

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Send an action and return the result of that action.

        In ServerEnv mode this returns when the game has reached its next decision step.

        Returns:
            observation, reward, terminated, truncated, info. With ``copy=False`` the
            arrays of the observation are read-only views into the mapped record, which
            change when the next request is sent.

        Raises:
            LocalProtocolError: before ``reset()``, while another call is pending or in
                progress, or closed.
            LayoutError: the record cannot hold exactly this action; nothing was sent.
            RemoteError: the environment raised; ``reset()`` starts a new episode.
            PeerClosedError, PeerLostError: the peer left; ``reset()`` attaches again.
            ChannelTimeoutError: no reply in time; call ``wait()``.
        """
        exchange = self._session.exchange
        if exchange is None:
            return self.guard(self.finish_step, NotImplemented, action)
        return exchange.step(action, self._slice_ns, self)  # type: ignore[no-any-return]

    def finish_step(self, how: Any, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Be called by ``step``, below the guard, where the compiled path does not get through.

        Args:
            how: as of ``Session.take_over_step``.
            action: of the step.
        """
        self._session.take_over_step(how, action, self._slice_ns)
        return self._receive(self._timeout)  # type: ignore[no-any-return]

    @alone
    def wait(self, timeout: float | None = -1.0) -> Any:
        """Go on waiting for the call that timed out or was interrupted.

        Args:
            timeout: seconds; left out, ``self.timeout``; None, as long as the peer lives.

        Returns:
            What that call would have returned.

        Raises:
            LocalProtocolError: nothing is pending.
        """
        return self._receive(self.timeout if timeout == -1.0 else timeout)

    @alone
    def reattach(self) -> None:
        """Give up whatever is pending and attach anew; ``reset()`` must come next."""
        self._session.end()
        self._open(self.attach_timeout)

    @alone
    def render(self) -> Any:
        """Return what the environment renders.

        Returns:
            For ``rgb_array`` a uint8 array [height, width, 3]; otherwise what the
            environment's ``render()`` returned.

        Raises:
            LocalProtocolError: the environment does not offer rendering.
        """
        self._session.send_render()
        return self._receive(self.timeout)

    def call(self, name: str, *args: Any, **kwargs: Any) -> Any:
        """Call a method of the environment, or return its attribute, by public name.

        Arguments and result are carried as MessagePack, like reset options.
        """
        return self._ask("call", name, args, kwargs)

    def set_attr(self, name: str, value: Any) -> None:
        """Set a public attribute of the environment."""
        self._ask("set", name, (value,), {})

    @alone
    def _ask(self, op: str, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        self._session.send_call(op, name, args, kwargs)
        return self._receive(self.timeout)

    def close(self) -> None:
        """End the session, and the process if we launched it; twice is fine.

        An environment that can be asked is asked first, so that it has finished when
        this returns; one that is busy or dead is told by the goodbye alone. Another
        thread's call that still waits ends with a ``LocalProtocolError``.
        """
        close(self.guard, self._finish)

    def _finish(self) -> None:
        try:
            self._session.send_close()
            self._session.receive(_CLOSE_TIMEOUT)
        except RlayError:
            # Busy, late or gone: the goodbye that follows needs no turn.
            pass
        finally:
            self._endpoint.shut()
            if self._launcher:
                self._launcher.stop()
