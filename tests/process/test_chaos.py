"""The short chaos run is clean, and its checks report every kind of broken peer."""

from __future__ import annotations

import pytest

from rlay import atomics
from tests.chaos.broken import FAULTS
from tests.chaos.casting import Cast
from tests.chaos.disturb import WEIGHTS
from tests.chaos.run import CATEGORIES, run

# The peers draw their twins themselves.
pytestmark = [
    pytest.mark.one_twin,
    pytest.mark.leaves_files,
    pytest.mark.timeout(300),
]


@pytest.fixture(autouse=True)
def _twin_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RLAY_ATOMICS", atomics.IMPLEMENTATION)


def test_seconds_of_chaos_are_survived() -> None:
    account = run(4.0, "make test")
    assert account.findings == {category: [] for category in CATEGORIES}
    assert all(channel["steps"] > 0 for channel in account.channels)
    done = account.total("disturbances")
    assert {"kill", "stop", "interrupt"} <= done.keys() <= WEIGHTS.keys()


def test_every_broken_peer_is_reported() -> None:
    """One fault a channel, and one channel that has none."""
    casts = [
        Cast(
            fault.replace(" ", "-"),
            "ServerEnv" if fault == "stuck" else "ClientEnv",
            "python",
            "python",
            (),
            calm=float(fault == "restless"),
            fault=fault,
        )
        for fault in FAULTS
    ]
    sound = Cast("sound", "ClientEnv", "python", "python", (), calm=0.0)
    in_c = Cast("c-shifted", "ClientEnv", "c", "python", (), calm=0.0, fault="shifted")
    account = run(3.0, "faults", [*casts, in_c, sound], patience=5.0, margin=1.0, leaving=2.0)
    for cast in casts:
        category, text = FAULTS[cast.fault or ""]
        named = "" if cast.fault == "leaves a process" else cast.name
        found = [found for found in account.findings[category] if named in found and text in found]
        assert found, f"{cast.fault}: {account.findings}"
    if any(channel["channel"] == "c-shifted" for channel in account.channels):
        assert any("c-shifted" in found for found in account.findings["wrong values"])
