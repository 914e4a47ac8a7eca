"""``rlay demo``: run ``examples/cartpole_cem.py`` of the source checkout."""

from __future__ import annotations

import argparse
import runpy
from pathlib import Path

from rlay.errors import ToolError

CHECKOUT = Path(__file__).parents[2]
EXAMPLE = CHECKOUT / "examples" / "cartpole_cem.py"
GAME = CHECKOUT / "ports" / "reference_c" / "build" / "cartpole_env"
PLOT = Path("cartpole_learning_curve.png")


def _seed(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is no integer from 0 up")
    return int(text)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.epilog = "example: rlay demo --seed 3 --plot curve.png"
    parser.add_argument("--seed", metavar="N", type=_seed, default=1, help="default: 1")
    parser.add_argument(
        "--plot", metavar="PATH", type=Path, default=PLOT, help=f"learning curve (default: {PLOT})"
    )
    parser.add_argument(
        "--game",
        metavar="PATH",
        type=Path,
        default=GAME,
        help="the game to play (default: the CartPole built in ports/reference_c)",
    )


def run(arguments: argparse.Namespace) -> int:
    """Train and play; both are the example's, which anyone can read in one file."""
    if not EXAMPLE.is_file():
        raise ToolError(
            f"the demo needs rlay's source, and there is no {EXAMPLE}: "
            "run `make demo` in a clone of the repository"
        )
    if not arguments.game.is_file():
        build = "run `make demo`" if arguments.game == GAME else "give --game another path"
        raise ToolError(
            f"there is no game at {arguments.game}: {build}, or build it with "
            f"`make -C {GAME.parents[1]}`"
        )
    if not arguments.plot.parent.is_dir():
        raise ToolError(f"--plot: there is no directory {arguments.plot.parent}")
    code: int = runpy.run_path(str(EXAMPLE))["main"](
        [f"--seed={arguments.seed}", f"--plot={arguments.plot}", f"--game={arguments.game}"]
    )
    return code
