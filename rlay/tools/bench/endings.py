"""Ctrl-C and SIGTERM: they end a run as an exception does, but never between a start and its end.

A process is started, then its end is noted. A signal between the two would leave it behind.
"""

from __future__ import annotations

import contextlib
import signal
import sys
import threading
from collections.abc import Iterator
from typing import Any

_NUMBERS = (signal.SIGINT, signal.SIGTERM)


class _Endings:
    """The signals that came, and whether they may be acted on."""

    def __init__(self) -> None:
        self.held = 0
        self.came: int | None = None

    def handle(self, number: int, _frame: Any) -> None:
        self.came = number
        self.act()

    def act(self) -> None:
        if self.held or self.came is None:
            return
        number, self.came = self.came, None
        if number == signal.SIGINT:
            raise KeyboardInterrupt
        sys.exit(128 + number)


_endings = _Endings()


@contextlib.contextmanager
def in_order() -> Iterator[None]:
    """Let both signals end the block as an exception; elsewhere they do what they did."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, _endings.handle) for number in _NUMBERS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def held() -> Iterator[None]:
    """Let a signal that comes in this block act when the block is over."""
    _endings.held += 1
    try:
        yield
    finally:
        _endings.held -= 1
    _endings.act()
