"""Style and types, as tests: what the linters say is part of the code."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.mark.timeout(300)  # mypy without its cache reads all of NumPy
@pytest.mark.parametrize(
    "command",
    ["ruff check", "ruff format --check", "mypy --strict rlay"],
)
def test_linters_have_nothing_to_say(command: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", *command.split()],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
