"""ServerEnv: the policy lives on this server, the game is the client and asks for decisions."""

from __future__ import annotations

from typing import Any

import gymnasium

from rlay.envs.launch import Launcher
from rlay.envs.remote_env import AGENT_FEATURES, RemoteEnv
from rlay.protocol.constants import Role
from rlay.server import MemServer
from rlay.session import Session


class ServerEnv(RemoteEnv):
    """A ``gymnasium.Env`` whose game attaches to us and drives the loop.

    ``step(action)`` hands the action to the game and returns when the game has
    reached its next decision step, with the result of that action.

    Example::

        env = rlay.ServerEnv("cartpole")        # build/cartpole_env --client --channel cartpole
        observation, info = env.reset()
        observation, reward, terminated, truncated, info = env.step(1)
    """

    _entry_point = "rlay:ServerEnv"

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
        """Publish the channel and wait for the game, which brings the spaces.

        Args:
            channel: name of the channel.
            timeout: seconds each later call waits; None waits while the game lives.
            attach_timeout: seconds to wait for a game here and after a lost one.
            copy: if False, observations are read-only views into the mapped record that
                change with the next request: copy what you keep.
            render_mode: if given, the game's must be the same.
            observation_space: if given, the game's must be the same.
            action_space: if given, the game's must be the same.
            launcher: of the game, if this end starts it.
            wait: how to wait for the turn: ``adaptive``, ``spin``, ``backoff`` or
                ``block``; left out, the environment variable RLAY_WAIT, else ``adaptive``.

        Raises:
            ChannelBusyError: another live server has the channel.
            ChannelTimeoutError: no game attached; one that was rejected is its cause.
        """
        super().__init__(
            channel,
            timeout=timeout,
            attach_timeout=attach_timeout,
            copy=copy,
            render_mode=render_mode,
            observation_space=observation_space,
            action_space=action_space,
            launcher=launcher,
            wait=wait,
        )
        self._endpoint = MemServer(
            channel,
            Role.AGENT,
            features=AGENT_FEATURES,
            accepts=self._accepts,
            starting=self._starting,
            wait=wait,
        )
        try:
            self._open(attach_timeout)
        except BaseException:
            self._endpoint.close()
            raise

    def _new_session(self, timeout: float | None) -> Session:
        return self._endpoint.accept(timeout)

    def _release(self) -> None:
        self._endpoint.close()
