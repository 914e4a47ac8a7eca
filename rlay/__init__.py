"""rlay: the shortest way between a game or simulator and reinforcement learning.

An environment and an agent in two processes, through memory-mapped files::

    env = rlay.make("CartPole-v1")
    observation, info = env.reset(seed=0)
    observation, reward, terminated, truncated, info = env.step(1)
    env.close()
"""

from rlay._version import __version__
from rlay.client import MemClient
from rlay.envs.backends import ClientBackend, ServerBackend
from rlay.envs.client_env import ClientEnv
from rlay.envs.make import make
from rlay.envs.make_vec import make_vec
from rlay.envs.server_env import ServerEnv
from rlay.envs.vector_backend import VectorBackend
from rlay.envs.vector_env import VectorEnv
from rlay.errors import (
    BodyTooLargeError,
    ChannelBusyError,
    ChannelError,
    ChannelFormatError,
    ChannelNotFoundError,
    ChannelTimeoutError,
    LayoutError,
    LayoutMismatchError,
    LocalProtocolError,
    NoSpaceError,
    PeerClosedError,
    PeerError,
    PeerLostError,
    ProtocolError,
    ProtocolVersionError,
    RemoteError,
    RemoteProtocolError,
    RlayError,
    RlayWarning,
    SchemaError,
    ToolError,
    UnsafePathError,
    UnsupportedSpaceError,
)
from rlay.protocol.constants import Command, Feature, Role, Side
from rlay.protocol.records import Request
from rlay.protocol.schema import Schema, describe_env
from rlay.server import MemServer
from rlay.session import Session

__all__ = [
    "BodyTooLargeError",
    "ChannelBusyError",
    "ChannelError",
    "ChannelFormatError",
    "ChannelNotFoundError",
    "ChannelTimeoutError",
    "ClientBackend",
    "ClientEnv",
    "Command",
    "Feature",
    "LayoutError",
    "LayoutMismatchError",
    "LocalProtocolError",
    "MemClient",
    "MemServer",
    "NoSpaceError",
    "PeerClosedError",
    "PeerError",
    "PeerLostError",
    "ProtocolError",
    "ProtocolVersionError",
    "RemoteError",
    "RemoteProtocolError",
    "Request",
    "RlayError",
    "RlayWarning",
    "Role",
    "Schema",
    "SchemaError",
    "ServerBackend",
    "ServerEnv",
    "Session",
    "Side",
    "ToolError",
    "UnsafePathError",
    "UnsupportedSpaceError",
    "VectorBackend",
    "VectorEnv",
    "__version__",
    "describe_env",
    "make",
    "make_vec",
]
