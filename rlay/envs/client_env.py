"""ClientEnv: the environment lives on the server, the algorithm in this client."""

from __future__ import annotations

from typing import Any

from rlay.client import MemClient
from rlay.envs.remote_env import RemoteEnv
from rlay.protocol.constants import Role


class ClientEnv(RemoteEnv):
    """A ``gymnasium.Env`` that attaches to an environment served by another process.

    Example::

        env = rlay.ClientEnv("cartpole")        # rlay serve CartPole-v1 --channel cartpole
        observation, info = env.reset(seed=0)
        observation, reward, terminated, truncated, info = env.step(1)
    """

    _entry_point = "rlay:ClientEnv"

    def _connect(self, **settings: Any) -> MemClient:
        return MemClient(self.channel, Role.AGENT, **settings)
