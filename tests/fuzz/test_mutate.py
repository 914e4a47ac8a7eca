"""Pairs that step while their mapped files are changed, and pairs that break their promise."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from tests.fuzz.mutate import BrokenPromiseError, run_pair
from tests.fuzz.mutator import regions

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="needs /proc/PID/mem"),
    # A pair whose files are wrecked may end without finding what it should remove.
    pytest.mark.leaves_files,
    # Two new processes, and what strike_pair gives them to end.
    pytest.mark.timeout(300),
]


@pytest.mark.parametrize(
    ("mode", "kind", "twin"),
    [
        ("ClientEnv", "plain", "compiled"),
        ("ServerEnv", "rich", "pure"),
    ],
)
def test_a_pair_survives_changes(channel_root: Path, mode: str, kind: str, twin: str) -> None:
    strikes, counts = run_pair(channel_root, mode, kind, twin, seed=1, strikes=200)
    assert strikes == 200
    assert counts["step"] > 0
    assert sum(counts[name] for name in counts if name.endswith("Error")) > 0, "no change was felt"


# ---- negative controls -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("broken", "said"),
    [
        (["--broken", "leak"], "IndexError: list index out of range"),
        (["--broken", "late", "--slack", "1"], r"BrokenPromiseError: \w+ took"),
        (["--broken", "hoard"], "BrokenPromiseError: .* made the process grow"),
    ],
    ids=["leak", "late", "hoard"],
)
def test_a_broken_promise_is_reported(channel_root: Path, broken: list[str], said: str) -> None:
    with pytest.raises(BrokenPromiseError, match=said):
        run_pair(channel_root, "ClientEnv", "plain", "compiled", 2, strikes=60_000, broken=broken)


def test_no_process_has_files_elsewhere(channel_root: Path) -> None:
    """The mutator keeps to the channel files of the root it was given."""
    assert regions(os.getpid(), channel_root) == []
