"""The twin of ``rlay._atomics`` in plain Python, for x86-64 without a compiler.

Same class, same names; :mod:`rlay.atomics` describes the operations. Where it is weaker:

- It relies on the processor: x86-64 makes every aligned 4-byte load an acquire load and
  every store a release store, and CPython's memoryview moves the four bytes in one
  instruction. Other processors reorder more, so importing this module there is an error.
- A waiter sleeps in naps of 50 us to 1 ms instead of in the kernel's wait queue. Nobody
  can wake it, so it never sets its waiting word; ``wait`` returns after a change or the
  time-out, and a goodbye without a change is seen when the slice ends.
- The spin takes turns with other threads of the process through ``sleep(0)``.
- It guards nothing: Python cannot answer a SIGBUS, so a truncated file ends the process
  unless its size is looked at first.

It does wake a compiled peer that sleeps on a futex (Linux; elsewhere nobody does).
"""

from __future__ import annotations

import ctypes
import platform
import sys
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from rlay._types import Buffer

_Result = TypeVar("_Result")

__all__ = ["Guard", "Word", "core"]

if platform.machine() not in ("x86_64", "AMD64"):
    raise ImportError(
        f"rlay needs its compiled extension on {platform.machine()}: plain Python cannot order "
        "memory there. Install a C compiler and the Python headers, then reinstall with "
        "RLAY_BUILD_EXTENSION=yes pip install --force-reinstall --no-deps --no-cache-dir "
        "--no-binary rlay rlay"
    )

_HELD_SPIN_NS = 2_000
_FIRST_NAP = 50e-6
_LONGEST_NAP = 1e-3

_SYS_FUTEX = 202  # of x86-64
_FUTEX_WAKE = 1  # shared: the private flag would not reach another process
_INT_MAX = 2**31 - 1


if sys.platform == "linux":
    _syscall = ctypes.CDLL(None).syscall
    _syscall.restype = ctypes.c_long
    _syscall.argtypes = [
        ctypes.c_long,
        ctypes.c_void_p,
        ctypes.c_int,
        ctypes.c_int,
        ctypes.c_void_p,
        ctypes.c_void_p,
        ctypes.c_int,
    ]

    def _wake_all(address: int) -> None:
        _syscall(_SYS_FUTEX, address, _FUTEX_WAKE, _INT_MAX, None, None, 0)

else:

    def _wake_all(address: int) -> None:
        """Wake nobody: without a futex every sleeper looks again within a millisecond."""


def _full_fence() -> None:
    # Taking a lock is a locked compare-and-swap, which x86-64 never moves a load above.
    # A fresh lock each time: one in common could be held across a fork.
    threading.Lock().acquire()


class Word:
    """An aligned little-endian u32 in a writable buffer; see :mod:`rlay.atomics`."""

    __slots__ = ("_address", "_cell", "_view")

    def __init__(self, buffer: Buffer, offset: int) -> None:
        view = memoryview(buffer)
        if view.readonly or not view.c_contiguous:
            raise ValueError("the buffer must be writable and contiguous")
        if not 0 <= offset <= view.nbytes - 4:
            raise ValueError(
                f"offset {offset} is out of bounds: "
                f"a word takes 4 bytes, the buffer holds {view.nbytes}"
            )
        self._view = view.cast("B")[offset : offset + 4]
        self._address = ctypes.addressof(ctypes.c_char.from_buffer(self._view))
        if self._address % 4:
            raise ValueError(
                f"offset {offset} in a buffer of {view.nbytes} bytes: "
                "the address is not aligned to 4 bytes"
            )
        self._cell = self._view.cast("I")

    def load_acquire(self) -> int:
        # acquire: pairs with store_release and hand_over of the peer (PROTOCOL.md 6, 12)
        return self._cell[0]

    def store_release(self, value: int, /) -> None:
        # release: pairs with load_acquire and wait of the peer (PROTOCOL.md 6, 12)
        try:
            self._cell[0] = value
        except ValueError:
            self._check_open()
            raise ValueError(f"{value} does not fit a word of 32 bits") from None

    def hand_over(self, value: int, waiting: Word, /) -> None:
        if not isinstance(waiting, Word):
            raise TypeError(f"waiting must be a Word, not {type(waiting).__name__}")
        waiting._check_open()
        self.store_release(value)
        # fence: pairs with the fence in the compiled peer's wait (PROTOCOL.md 12)
        _full_fence()
        if waiting._cell[0]:
            _wake_all(self._address)

    def wake(self) -> None:
        self._check_open()
        _wake_all(self._address)

    def wait(self, wanted: int, waiting: Word, spin_ns: int, timeout_ns: int, /) -> int:
        if not isinstance(waiting, Word):
            raise TypeError(f"waiting must be a Word, not {type(waiting).__name__}")
        waiting._check_open()
        first = self.load_acquire()
        if first == wanted or timeout_ns <= 0:
            return first
        start = time.monotonic_ns()
        deadline = start + timeout_ns
        if not self._spin_while(first, start, min(start + spin_ns, deadline)):
            self._sleep_while(first, deadline)
        return self.load_acquire()

    def release(self) -> None:
        self._cell.release()
        self._view.release()

    def _check_open(self) -> None:
        self._cell[0]  # a released memoryview says so

    def _spin_while(self, first: int, start: int, until: int) -> bool:
        while self.load_acquire() == first:
            now = time.monotonic_ns()
            if now >= until:
                return False
            if now - start > _HELD_SPIN_NS:
                time.sleep(0)
        return True

    def _sleep_while(self, first: int, deadline: int) -> None:
        nap = _FIRST_NAP
        while self.load_acquire() == first:
            remaining = deadline - time.monotonic_ns()
            if remaining <= 0:
                return
            time.sleep(min(nap, remaining * 1e-9))
            nap = min(nap * 2, _LONGEST_NAP)


def core() -> int:
    """Return -1: Python does not know the core."""
    return -1


class Guard:
    """One call at a time; see :mod:`rlay.atomics`.

    CPython looks for other threads and for signals at calls and at jumps backward, so none
    comes between looking at the owner and setting it, nor between a call's end and ``finally``.
    """

    __slots__ = ("__weakref__", "_in_use", "after", "owner", "refusal", "stop")

    def __init__(self, in_use: Callable[[], BaseException]) -> None:
        self._in_use = in_use
        self.owner = 0
        self.refusal: Callable[[], BaseException] | None = None
        self.after: Callable[[], Any] | None = None
        self.stop = False

    def __call__(self, function: Callable[..., _Result], /, *args: Any, **kwargs: Any) -> _Result:
        us = threading.get_ident()
        if self.refusal is not None:
            raise self.refusal()
        if self.owner:
            raise self._in_use()
        try:
            self.owner = us
            return function(*args, **kwargs)
        finally:
            if self.after is None:
                self.owner = 0
            else:
                self._finish()

    def _finish(self) -> None:
        try:
            while self.after is not None:
                after, self.after, self.stop = self.after, None, False
                after()
        finally:
            self.owner = 0

    def settle(self) -> bool:
        us = threading.get_ident()
        if self.owner:
            return False
        try:
            self.owner = us
        finally:
            self._finish()
        return True

    def orphan(self, refusal: Callable[[], BaseException], /) -> None:
        self.owner, self.after, self.stop, self.refusal = 0, None, True, refusal
