"""What every parser promises about every input, and the check that one run kept it.

A parser takes bytes that a hostile peer wrote. It ends in a value or in one of the errors it
declares, within seconds, and with memory that does not depend on the numbers it read. The
same ``check`` judges the inputs of the guided fuzzer, of Hypothesis, and the golden files.
"""

from __future__ import annotations

import dataclasses
import random
import resource
import time
import tracemalloc
from collections.abc import Callable

#: The processor time one input may take. Ordinary ones take milliseconds.
MOST_SECONDS = 5.0
#: The memory one input may take. The largest are a schema of 192 KB, spaces as large as
#: ``targets`` lets them be built, and what Python makes of them.
MOST_BYTES = 64 << 20

Mutate = Callable[[bytes, random.Random], bytes]


@dataclasses.dataclass(frozen=True)
class Target:
    """One parser.

    Attributes:
        name: of the parser.
        run: parses; returns if the bytes were a value.
        allowed: the errors it declares.
        seeds: valid inputs, and inputs that once were findings.
        mutate: makes another input of one.
    """

    name: str
    run: Callable[[bytes], None]
    allowed: tuple[type[Exception], ...]
    seeds: Callable[[], list[bytes]]
    mutate: Mutate


class FindingError(AssertionError):
    """An input for which a parser broke its promise."""


def largest_size() -> int:
    """Return the bytes of memory this process ever had at once."""
    try:
        # Not ru_maxrss where it can be helped: a new program inherits its parent's there.
        with open("/proc/self/status", encoding="ascii") as status:
            lines = dict(line.split(":", 1) for line in status)
        return int(lines["VmHWM"].split()[0]) << 10
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10


def check(target: Target, data: bytes, *, trace: bool = True) -> bool:
    """Run a parser on one input; return whether the input was a value.

    Args:
        target: the parser.
        data: the input.
        trace: whether to measure every allocation, which takes time; else only what makes
            the process larger than it ever was.

    Raises:
        FindingError: the promise was broken; says how.
    """
    if trace:
        tracemalloc.start()
    largest = largest_size()
    start, accepted = time.thread_time(), False
    try:
        target.run(data)
        accepted = True
    except target.allowed:
        pass
    except Exception as error:
        raise _finding(target, data, f"raised {type(error).__name__}: {error!s:.200}") from error
    finally:
        took = time.thread_time() - start
        peak = largest_size() - largest
        if trace:
            peak = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
    if took > MOST_SECONDS:
        raise _finding(target, data, f"took {took:.1f} s, at most {MOST_SECONDS:g} s")
    if peak > MOST_BYTES:
        raise _finding(target, data, f"took {peak} bytes of memory, at most {MOST_BYTES}")
    return accepted


def _finding(target: Target, data: bytes, what: str) -> FindingError:
    return FindingError(f"{target.name}: {what}; the input is {data[:400]!r} ({len(data)} bytes)")
