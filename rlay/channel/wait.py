"""Deadlines, and the strategies of waiting for the turn.

Waiting is each side's private choice (PROTOCOL.md §12): the protocol says only
what must be woken. A wait is cut into slices, so that a dead peer, a deadline
or Ctrl-C is noticed between two of them whatever the strategy.
"""

from __future__ import annotations

import math
import os
import time
from typing import ClassVar

from rlay.errors import LocalProtocolError

#: Longest sleep before the peer is probed; bounds what a missed wake-up costs.
SLICE_NS = 20_000_000


def usable_cores() -> list[int]:
    """Return the numbers of the processors this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


class Deadline:
    """An absolute monotonic instant, or never."""

    __slots__ = ("_at_ns", "timeout")

    def __init__(self, timeout: float | None, *, waited_ns: int = 0) -> None:
        """Start counting: ``timeout`` in seconds, None for never; less what was waited.

        Raises:
            LocalProtocolError: it is negative or not a number.
        """
        if timeout is not None and (math.isnan(timeout) or timeout < 0):
            raise LocalProtocolError(f"timeout={timeout!r} is not a duration in seconds")
        self.timeout = timeout
        never = timeout is None or math.isinf(timeout)
        self._at_ns = (
            None if never else (time.monotonic_ns() - waited_ns + int((timeout or 0.0) * 1e9))
        )

    def slice_ns(self) -> int:
        """Return how long to sleep at most before looking around, in nanoseconds."""
        if self._at_ns is None:
            return SLICE_NS
        return max(0, min(SLICE_NS, self._at_ns - time.monotonic_ns()))

    def passed(self) -> bool:
        """Tell whether it is over."""
        return self._at_ns is not None and time.monotonic_ns() >= self._at_ns


class WaitStrategy:
    """How long to look at the turn word before sleeping, and how to sleep.

    Attributes:
        alias: the name users choose it by.
        spin_ns: how long the next wait looks before it sleeps.
        longest_spin_ns: upper bound that ``learn`` may raise ``spin_ns`` to.
        nap_ns: 0 sleeps until the peer wakes us; otherwise sleeps so long at most, and
            asks for no wake-up.
    """

    alias: ClassVar[str]
    spin_ns: int = 0
    longest_spin_ns: int = 0
    nap_ns: int = 0

    def learn(self, waited_ns: int) -> None:
        """Adjust to how long the last wait took; most strategies do not."""

    def lengthen(self) -> None:
        """Adjust to a sleep that brought nothing; most strategies do not."""


class Spin(WaitStrategy):
    """Never sleeps: the shortest waits, for one whole core. Only with cores to spare."""

    alias = "spin"
    spin_ns = SLICE_NS
    longest_spin_ns = SLICE_NS


class Block(WaitStrategy):
    """Sleeps at once until it is woken: the least processor time, a futex round trip a step."""

    alias = "block"


class Backoff(WaitStrategy):
    """Naps that grow, and no wake-up asked for: where the peer cannot wake, or must not."""

    alias = "backoff"
    _SHORTEST_NAP_NS = 50_000
    #: A side that waits for long wakes up a hundred times a second.
    _LONGEST_NAP_NS = 10_000_000

    def __init__(self) -> None:
        """Begin with the shortest nap."""
        self.nap_ns = self._SHORTEST_NAP_NS

    def lengthen(self) -> None:
        """Nap an eighth longer: doubling would oversleep as long as the wait has lasted."""
        self.nap_ns = min(self._LONGEST_NAP_NS, self.nap_ns * 9 // 8)

    def learn(self, waited_ns: int) -> None:
        """Begin the next wait with the shortest nap again."""
        self.nap_ns = self._SHORTEST_NAP_NS


class Adaptive(WaitStrategy):
    """Spins for microseconds while that pays, and sleeps at once when it does not.

    A wait that ended within the longest useful spin doubles the next spin, any other
    halves it, down to none: with more processes than cores the waits are long, so it
    stops spinning by itself. On a single core it never spins.
    """

    alias = "adaptive"
    #: Spinning longer than a few futex round trips (6-9 microseconds here) burns the core.
    _LONGEST_NS = 50_000
    _SHORTEST_NS = 1_000

    def __init__(self) -> None:
        """Begin with half of the longest spin."""
        self.longest_spin_ns = self._LONGEST_NS if len(usable_cores()) > 1 else 0
        self.spin_ns = self.longest_spin_ns // 2

    def learn(self, waited_ns: int) -> None:
        """Double or halve the spin."""
        if waited_ns < self.longest_spin_ns:
            self.spin_ns = min(self.longest_spin_ns, max(self._SHORTEST_NS, self.spin_ns * 2))
        else:
            self.spin_ns //= 2


STRATEGIES: dict[str, type[WaitStrategy]] = {
    strategy.alias: strategy for strategy in (Adaptive, Spin, Backoff, Block)
}


def wait_strategy(alias: str | None = None) -> WaitStrategy:
    """Return a new strategy by its alias; None takes RLAY_WAIT, else ``adaptive``.

    Raises:
        LocalProtocolError: there is no such strategy; names those there are.
    """
    chosen = alias or os.environ.get("RLAY_WAIT") or Adaptive.alias
    if chosen not in STRATEGIES:
        source = "wait=" if alias else "RLAY_WAIT="
        raise LocalProtocolError(f"{source}{chosen!r}: use one of {sorted(STRATEGIES)}")
    return STRATEGIES[chosen]()
