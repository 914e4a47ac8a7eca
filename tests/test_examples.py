"""Every example runs as its docstring says, in processes of its own."""

from __future__ import annotations

import os
import re
import runpy
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest

import rlay
from tests import c_programs

ROOT = Path(__file__).parents[1]
EXAMPLES = ROOT / "examples"
#: The watchdog: no process of these tests lives longer.
WATCHDOG = 100.0
TESTED = {"hello.py", "game_loop.py", "game_agent.py", "cartpole_cem.py"}

Start = Callable[..., "subprocess.Popen[str]"]

# Seconds of work on a quiet machine, but this one may be busy.
pytestmark = pytest.mark.timeout(240)


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """A function that starts Python in an empty directory; what still runs at the end is killed."""
    running: list[subprocess.Popen[str]] = []
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))

    def start_one(*arguments: object) -> subprocess.Popen[str]:
        child = subprocess.Popen(
            [sys.executable, *map(str, arguments)],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": path, "PYTHONUTF8": "1", "COLUMNS": "80"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            encoding="utf-8",
        )
        running.append(child)
        return child

    try:
        yield start_one
    finally:
        for child in running:
            child.kill()
            child.communicate()


def finish(child: subprocess.Popen[str], *, code: int = 0) -> str:
    """Wait for the end; return what it printed."""
    out, err = child.communicate(timeout=WATCHDOG)
    assert child.returncode == code, out + err
    assert err == ""
    return out


@pytest.fixture(scope="session")
def game(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The CartPole in C, built in a directory of this test process alone."""
    if not shutil.which("make") or not shutil.which("cc"):
        pytest.skip("there is no make or no C compiler")
    return c_programs.make(tmp_path_factory.mktemp("game"), "cartpole_env", timeout=WATCHDOG)


@pytest.fixture(scope="module")
def cem() -> dict[str, Any]:
    """The names of cartpole_cem.py."""
    return runpy.run_path(str(EXAMPLES / "cartpole_cem.py"))


def is_png(path: Path) -> bool:
    return path.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"


def test_every_example_is_run_here_and_listed() -> None:
    examples = {path.name for path in EXAMPLES.glob("*.py")}
    assert examples == TESTED
    listed = (EXAMPLES / "README.md").read_text()
    assert all(f"examples/{name}" in listed for name in examples)


def test_hello(start: Start) -> None:
    out = finish(start(EXAMPLES / "hello.py"))
    assert re.fullmatch(r"The pole stood for \d+ steps\.\n", out)


@pytest.mark.parametrize("first", ["game_loop.py", "game_agent.py"])
def test_game_and_agent_in_either_order(start: Start, first: str) -> None:
    second = ({"game_loop.py", "game_agent.py"} - {first}).pop()
    children = {first: start(EXAMPLES / first)}
    # It prints this when it begins to wait for the other.
    assert "waiting for" in children[first].stdout.readline()
    children[second] = start(EXAMPLES / second)
    assert "agent: 20 of 20 balls caught" in finish(children["game_agent.py"])
    assert "the agent left after 20 balls, 20 caught" in finish(children["game_loop.py"])


def test_demo_learns_and_plays_the_game_in_c(start: Start, game: Path, tmp_path: Path) -> None:
    out = finish(start("-m", "rlay", "demo", "--game", game))
    assert re.search(r"\n +solved in .* steps/s\n", out)
    scores = re.findall(r"([\d.]+) ± [\d.]+ +[\d,]+ steps/s", out)
    assert len(scores) == 2
    assert all(float(score) > 400 for score in scores)
    assert "asks for decisions" in out
    assert is_png(tmp_path / "cartpole_learning_curve.png")


def test_training_that_gives_up_says_so_and_still_plays(
    start: Start, game: Path, tmp_path: Path
) -> None:
    (tmp_path / "game").symlink_to(game)
    short = ["--population=3", "--episodes=2", "--max-generations=2", "--plot=curve.png"]
    out = finish(start(EXAMPLES / "cartpole_cem.py", *short, "--game=./game"), code=1)
    assert "not solved" in out
    assert len(re.findall(r"± .* steps/s", out)) == 2
    assert is_png(tmp_path / "curve.png")


def test_without_the_game_the_example_says_how_to_build_it(start: Start, tmp_path: Path) -> None:
    short = ["--population=3", "--episodes=2", "--threshold=1", f"--game={tmp_path / 'none'}"]
    out = finish(start(EXAMPLES / "cartpole_cem.py", *short))
    assert "make -C ports/reference_c" in out


def test_without_rich_and_matplotlib_it_still_tells(start: Start, tmp_path: Path) -> None:
    # A module that is None in sys.modules cannot be imported.
    blocker = (
        "import runpy, sys; sys.modules['rich'] = sys.modules['matplotlib'] = None; "
        f"names = runpy.run_path({str(EXAMPLES / 'cartpole_cem.py')!r}); "
        "sys.exit(names['main'](sys.argv[1:]))"
    )
    short = ["--population=3", "--episodes=2", "--threshold=1", f"--game={tmp_path / 'none'}"]
    out = finish(start("-c", blocker, *short))
    assert "generation  1" in out
    assert "pip install matplotlib" in out


def test_the_same_seed_learns_the_same_in_this_process_and_in_another(cem: dict[str, Any]) -> None:
    settings = {"seed": 3, "population": 10, "episodes": 2, "max_generations": 3}
    results = []
    for make in (gymnasium.make, rlay.make):
        with make("CartPole-v1") as env:
            results.append(cem["train"](env, **settings))
    here, there = results
    assert np.array_equal(here.weights, there.weights)
    assert here.returns == there.returns
    assert here.scores == there.scores
    with gymnasium.make("CartPole-v1") as env:
        other = cem["train"](env, **{**settings, "seed": 4})
    assert other.returns != here.returns


def test_result_counts_what_was_played(cem: dict[str, Any]) -> None:
    with gymnasium.make("CartPole-v1") as env:
        counted = gymnasium.wrappers.RecordEpisodeStatistics(env, buffer_length=1000)
        result = cem["train"](counted, population=5, episodes=3, max_generations=2)
        lengths = counted.length_queue
        assert result.generation == 2
        assert result.episodes == len(lengths) == 2 * (5 * 2 + 3)
        assert result.steps == sum(lengths)
        assert list(result.scores) == [13, 26]
        assert result.score == pytest.approx(np.mean(list(lengths)[-3:]))
