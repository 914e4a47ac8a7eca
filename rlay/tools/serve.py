"""``rlay serve``: host a Gymnasium environment for agents that attach."""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any

import gymnasium

from rlay.envs.backends import ServerBackend
from rlay.envs.hosting import build
from rlay.errors import ToolError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.epilog = "example: rlay serve CartPole-v1 --channel cartpole"
    parser.add_argument("env", metavar="ENV_ID", help="a registered id, or module:callable")
    parser.add_argument("--channel", metavar="NAME", help="channel name (default: from ENV_ID)")
    parser.add_argument(
        "--kwargs",
        metavar="JSON",
        default="{}",
        help='arguments for the environment, such as \'{"render_mode": "rgb_array"}\'',
    )
    parser.add_argument(
        "--sessions", metavar="N", type=int, help="end after N agents (default: never)"
    )


def _kwargs(text: str) -> dict[str, Any]:
    try:
        kwargs = json.loads(text)
    except ValueError as error:
        raise ToolError(f"--kwargs is not JSON: {error}") from None
    if not isinstance(kwargs, dict):
        raise ToolError(f"--kwargs must be a JSON object, not {text!r}")
    return kwargs


def run(arguments: argparse.Namespace) -> int:
    """Serve until interrupted, or for the given number of agents."""
    name = arguments.channel or arguments.env.rpartition(":")[2].rpartition("/")[2]
    kwargs = _kwargs(arguments.kwargs)
    try:
        env: gymnasium.Env[Any, Any] = build(arguments.env, kwargs)
    except Exception as error:
        raise ToolError(
            f"{arguments.env} cannot be made: {type(error).__name__}: {error}"
        ) from error
    with ServerBackend(name, env, attach_timeout=None) as backend:
        sys.stderr.write(f"serving {arguments.env} on channel {name!r}; Ctrl-C ends it\n")
        sys.stderr.flush()
        backend.serve(sessions=arguments.sessions)
    return 0
