"""The ``rlay`` command: the argument tree and the exit codes.

Exit codes: 0 it worked, 1 what was run failed, 2 wrong usage, 3 the surroundings
do not allow it (no such channel, taken, no space). Each tool is imported only
when it runs.
"""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence

from rlay._version import __version__
from rlay.errors import ChannelError, ChannelTimeoutError, RlayError, ToolError

_TOOLS = {
    "serve": "serve a Gymnasium environment on a channel",
    "inspect": "show a channel's header, hellos, layout and turn",
    "bench": "measure steps, images, vectors, waiting and death on this machine",
    "demo": "train CartPole in another process, then play a game written in C",
}

FAILED, UNAVAILABLE = 1, 3


def _parser(chosen: str | None) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="rlay",
        description="Environments and agents in two processes, through memory-mapped files.",
        epilog="example: rlay serve CartPole-v1 --channel cartpole",
    )
    parser.add_argument("--version", action="version", version=f"rlay {__version__}")
    tools = parser.add_subparsers(dest="tool", required=True, metavar="TOOL")
    for name, purpose in _TOOLS.items():
        tool = tools.add_parser(name, help=purpose, description=purpose[0].upper() + purpose[1:])
        if name == chosen:
            importlib.import_module(f"rlay.tools.{name}").add_arguments(tool)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one tool; return the exit code."""
    argv = sys.argv[1:] if argv is None else argv
    chosen = next((word for word in argv if word in _TOOLS), None)
    try:
        arguments = _parser(chosen).parse_args(argv)
        code: int = importlib.import_module(f"rlay.tools.{arguments.tool}").run(arguments)
        return code
    except (ChannelError, ChannelTimeoutError) as error:
        sys.stderr.write(f"rlay: {error}\n")
        return UNAVAILABLE
    except ToolError as error:
        sys.stderr.write(f"rlay: {error}\n")
        return FAILED
    except RlayError as error:
        sys.stderr.write(f"rlay: {type(error).__name__}: {error}\n")
        return FAILED
    except KeyboardInterrupt:
        return 130
