"""ServerEnv: the policy lives on this server, the game is the client and asks for decisions."""

from __future__ import annotations

from typing import Any

from rlay.envs.remote_env import RemoteEnv
from rlay.protocol.constants import Role
from rlay.server import MemServer


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

    def _connect(self, **settings: Any) -> MemServer:
        return MemServer(self.channel, Role.AGENT, **settings)
