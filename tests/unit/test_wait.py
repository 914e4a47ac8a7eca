"""rlay.channel.wait: deadlines and spins, against a clock of the test's own."""

from __future__ import annotations

import math

import pytest

import rlay
from rlay.channel import wait
from rlay.channel.wait import SLICE_NS, Adaptive, Deadline


class Clock:
    """A monotonic clock that stands still until it is told."""

    def __init__(self) -> None:
        self.now_ns = 10**18

    def monotonic_ns(self) -> int:
        return self.now_ns


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The clock that deadlines read."""
    clock = Clock()
    monkeypatch.setattr(wait, "time", clock)
    return clock


@pytest.mark.parametrize("timeout", [None, math.inf])
def test_never_comes_in_slices(timeout: float | None, clock: Clock) -> None:
    deadline = Deadline(timeout)
    clock.now_ns += 10**18
    assert deadline.slice_ns() == SLICE_NS
    assert not deadline.passed()


def test_a_deadline_is_absolute(clock: Clock) -> None:
    deadline = Deadline(0.05)
    assert deadline.slice_ns() == SLICE_NS
    clock.now_ns += 40_000_000
    assert deadline.slice_ns() == 10_000_000
    assert not deadline.passed()
    clock.now_ns += 10_000_000
    assert deadline.slice_ns() == 0
    assert deadline.passed()
    clock.now_ns += 10_000_000
    assert deadline.slice_ns() == 0
    assert deadline.timeout == 0.05


def test_zero_has_passed_at_once(clock: Clock) -> None:
    deadline = Deadline(0)
    assert deadline.passed()
    assert deadline.slice_ns() == 0


@pytest.mark.parametrize("timeout", [-1.0, -1e-9, -math.inf, math.nan])
def test_what_is_no_duration_is_refused(timeout: float) -> None:
    with pytest.raises(rlay.LocalProtocolError, match="not a duration"):
        Deadline(timeout)


def test_a_slice_bounds_a_missed_wake_up() -> None:
    """PROTOCOL.md §12 says at most 20 ms."""
    assert SLICE_NS == 20_000_000


def test_the_spin_grows_and_shrinks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wait, "usable_cores", lambda: [0, 1])
    spin = Adaptive()
    begin = spin.spin_ns
    assert begin > 0
    for _ in range(10):
        spin.learn(1000)
    most = spin.spin_ns
    assert begin < most <= 50_000
    for _ in range(40):
        spin.learn(10**9)
    assert spin.spin_ns == 0
    spin.learn(1000)
    assert 0 < spin.spin_ns < begin


def test_one_core_never_spins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wait, "usable_cores", lambda: [0])
    spin = Adaptive()
    for waited in (10, 1000, 10**9, 10):
        assert spin.spin_ns == 0
        spin.learn(waited)


def test_there_is_a_core() -> None:
    assert len(wait.usable_cores()) >= 1


def test_spin_never_sleeps_and_block_never_spins() -> None:
    assert wait.Spin().spin_ns == SLICE_NS
    assert (wait.Block().spin_ns, wait.Block().nap_ns) == (0, 0)
    for strategy in (wait.Spin(), wait.Block()):
        before = strategy.spin_ns
        for waited in (10, 10**9):
            strategy.learn(waited)
        assert strategy.spin_ns == before


def test_the_naps_of_backoff_stay_within_bounds() -> None:
    strategy = wait.Backoff()
    assert strategy.nap_ns == 50_000
    for _ in range(60):
        strategy.lengthen()
    assert strategy.nap_ns == 10_000_000
    strategy.learn(10**9)
    assert strategy.nap_ns == 50_000


@pytest.mark.parametrize("alias", ["adaptive", "spin", "backoff", "block"])
def test_a_strategy_has_an_alias(alias: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert wait.wait_strategy(alias).alias == alias
    monkeypatch.setenv("RLAY_WAIT", alias)
    assert wait.wait_strategy().alias == alias


def test_adaptive_is_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RLAY_WAIT", raising=False)
    assert wait.wait_strategy().alias == "adaptive"


def test_an_unknown_strategy_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(rlay.LocalProtocolError, match=r"wait='yield'.*adaptive.*backoff"):
        wait.wait_strategy("yield")
    monkeypatch.setenv("RLAY_WAIT", "never")
    with pytest.raises(rlay.LocalProtocolError, match="RLAY_WAIT='never'"):
        wait.wait_strategy()


def test_what_was_waited_counts() -> None:
    assert Deadline(10.0, waited_ns=10**10).passed()
    assert not Deadline(60.0, waited_ns=10**9).passed()
    assert Deadline(10.0, waited_ns=10**10).timeout == 10.0
    assert not Deadline(None, waited_ns=10**18).passed()
