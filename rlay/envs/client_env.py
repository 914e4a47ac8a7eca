"""ClientEnv: the environment lives on the server, the algorithm in this client."""

from __future__ import annotations

from typing import Any

import gymnasium

from rlay.client import MemClient
from rlay.envs.launch import Launcher
from rlay.envs.remote_env import AGENT_FEATURES, RemoteEnv
from rlay.protocol.constants import Role
from rlay.session import Session


class ClientEnv(RemoteEnv):
    """A ``gymnasium.Env`` that attaches to an environment served by another process.

    Example::

        env = rlay.ClientEnv("cartpole")        # rlay serve CartPole-v1 --channel cartpole
        observation, info = env.reset(seed=0)
        observation, reward, terminated, truncated, info = env.step(1)
    """

    _entry_point = "rlay:ClientEnv"

    def __init__(
        self,
        channel: str,
        *,
        timeout: float | None = 60.0,
        attach_timeout: float | None = 30.0,
        copy: bool = True,
        render_mode: str | None = None,
        observation_space: gymnasium.Space[Any] | None = None,
        action_space: gymnasium.Space[Any] | None = None,
        launcher: Launcher | None = None,
        wait: str | None = None,
    ) -> None:
        """Attach, waiting for the server to appear.

        Args:
            channel: name of the channel.
            timeout: seconds each later call waits; None waits while the server lives.
            attach_timeout: seconds to wait for a server here and after a lost one.
            copy: if False, observations are read-only views into the mapped record that
                change with the next request: copy what you keep.
            render_mode: if given, the server's must be the same.
            observation_space: if given, the server's must be the same.
            action_space: if given, the server's must be the same.
            launcher: of the process that serves the channel, if this end starts it.
            wait: how to wait for the turn: ``adaptive``, ``spin``, ``backoff`` or
                ``block``; left out, the environment variable RLAY_WAIT, else ``adaptive``.

        Raises:
            ChannelNotFoundError: no live server appeared.
            ChannelBusyError: the server has another client.
            LayoutMismatchError: the spaces are not the ones expected.
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
        self._endpoint = MemClient(
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
        return self._endpoint.attach(timeout)

    def _release(self) -> None:
        self._endpoint.close()
