from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from rlay import cli
from rlay.tools import demo

ROOT = Path(__file__).parents[2]


@pytest.fixture
def example(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An example in place of ours: it writes its arguments into a file and returns 7."""
    path = tmp_path / "example.py"
    path.write_text(
        "import pathlib\n"
        "def main(argv):\n"
        "    pathlib.Path(__file__).with_suffix('.txt').write_text('\\n'.join(argv))\n"
        "    return 7\n"
    )
    monkeypatch.setattr(demo, "EXAMPLE", path)
    return path


@pytest.fixture
def game(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file in place of the built game."""
    path = tmp_path / "ports" / "reference_c" / "build" / "cartpole_env"
    path.parent.mkdir(parents=True)
    path.touch()
    monkeypatch.setattr(demo, "GAME", path)
    return path


def test_the_defaults_are_files_of_this_checkout() -> None:
    assert demo.EXAMPLE == ROOT / "examples" / "cartpole_cem.py"
    assert demo.EXAMPLE.is_file()
    assert (demo.GAME.parents[1] / "cartpole_env.c").is_file()


def test_help_names_every_option() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "rlay", "demo", "--help"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=50,
    )
    assert done.returncode == 0, done.stderr
    assert all(option in done.stdout for option in ("--seed", "--plot", "--game"))


def test_the_example_gets_the_arguments_and_gives_the_exit_code(
    example: Path, game: Path, tmp_path: Path
) -> None:
    curve = tmp_path / "curve.png"
    code = cli.main(["demo", "--seed", "5", "--plot", str(curve), "--game", str(game)])
    assert code == 7
    argv = example.with_suffix(".txt").read_text().splitlines()
    assert argv == ["--seed=5", f"--plot={curve}", f"--game={game}"]


def test_without_the_example_it_says_where_to_get_it(
    example: Path, game: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    example.unlink()
    assert cli.main(["demo", "--game", str(game)]) == cli.FAILED
    error = capsys.readouterr().err
    assert str(example) in error
    assert "`make demo`" in error


def test_without_the_built_game_it_says_how_to_build_it(
    example: Path, game: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    game.unlink()
    assert cli.main(["demo"]) == cli.FAILED
    error = capsys.readouterr().err
    assert f"{game}: run `make demo`" in error
    assert f"`make -C {game.parents[1]}`" in error
    assert not example.with_suffix(".txt").exists()


def test_without_another_game_it_names_that(
    example: Path, game: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    missing = tmp_path / "no-game"
    assert cli.main(["demo", "--game", str(missing)]) == cli.FAILED
    assert f"{missing}: give --game another path" in capsys.readouterr().err
    assert not example.with_suffix(".txt").exists()


def test_a_plot_without_a_directory_is_refused_before_training(
    example: Path, game: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    curve = tmp_path / "nowhere" / "curve.png"
    code = cli.main(["demo", "--game", str(game), "--plot", str(curve)])
    assert code == cli.FAILED
    assert str(curve.parent) in capsys.readouterr().err
    assert not example.with_suffix(".txt").exists()


def test_a_seed_is_no_negative_number(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.main(["demo", "--seed", "-1"])
    assert caught.value.code == 2
    assert "'-1' is no integer from 0 up" in capsys.readouterr().err
