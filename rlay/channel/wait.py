"""Deadlines, and how long to spin before sleeping.

Waiting is each side's private choice (PROTOCOL.md §12): the protocol says only
what must be woken. A wait is cut into slices, so that a dead peer, a deadline
or Ctrl-C is noticed between two of them whatever the strategy.
"""

from __future__ import annotations

import math
import os
import time

from rlay.errors import LocalProtocolError

#: Longest sleep before the peer is probed; bounds what a missed wake-up costs.
SLICE_NS = 20_000_000

#: Spinning longer than a futex round trip (6-9 microseconds here) only burns the core.
_MAX_SPIN_NS = 50_000
_MIN_SPIN_NS = 1_000


def _usable_cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


class Deadline:
    """An absolute monotonic instant, or never."""

    __slots__ = ("_at_ns", "timeout")

    def __init__(self, timeout: float | None) -> None:
        """Start counting: ``timeout`` in seconds, None for never.

        Raises:
            LocalProtocolError: it is negative or not a number.
        """
        if timeout is not None and (math.isnan(timeout) or timeout < 0):
            raise LocalProtocolError(f"timeout={timeout!r} is not a duration in seconds")
        self.timeout = timeout
        never = timeout is None or math.isinf(timeout)
        self._at_ns = None if never else time.monotonic_ns() + int((timeout or 0.0) * 1e9)

    def slice_ns(self) -> int:
        """Return how long to sleep at most before looking around, in nanoseconds."""
        if self._at_ns is None:
            return SLICE_NS
        return max(0, min(SLICE_NS, self._at_ns - time.monotonic_ns()))

    def passed(self) -> bool:
        """Tell whether it is over."""
        return self._at_ns is not None and time.monotonic_ns() >= self._at_ns


class AdaptiveSpin:
    """Spins longer while the peer answers soon, hardly at all while it does not.

    Attributes:
        spin_ns: how long the next wait may spin.
    """

    __slots__ = ("_limit_ns", "spin_ns")

    def __init__(self) -> None:
        """Begin with a short spin, or none on a single core."""
        self._limit_ns = _MAX_SPIN_NS if _usable_cores() > 1 else 0
        self.spin_ns = self._limit_ns // 2

    def learn(self, waited_ns: int) -> None:
        """Adjust to how long the last wait took."""
        if waited_ns < self._limit_ns:
            self.spin_ns = min(self._limit_ns, max(_MIN_SPIN_NS, self.spin_ns * 2))
        else:
            self.spin_ns //= 2
