"""Contenders, and how they take turns: A B C, A B C, ...

A contender is anything that can take a number of steps and say how long they
took. All contenders of a comparison are alive at once and take short turns, so
that whatever else this machine does meets them all alike.
"""

from __future__ import annotations

import dataclasses
import gc
import itertools
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from rlay.errors import RlayError
from rlay.tools.bench.programs import Program
from rlay.tools.bench.results import MissingPeerError, Results

#: A turn that takes this many times its share ends early: a spin on one core takes milliseconds.
_PATIENCE = 2
_WARM_UP_NS = 20_000_000
_MOST_STEPS = 2_000_000
#: Steps between two looks at the clock.
_CHUNK = 64


class Helper(Protocol):
    """A process of a contender, held still while it is not its turn."""

    def pause(self) -> None:
        """Hold it still."""

    def resume(self) -> None:
        """Let it go on."""


class Runner(Protocol):
    """Takes steps: at most ``steps``, for about ``limit_ns``."""

    def __call__(self, steps: int, limit_ns: int, /) -> tuple[int, int]:
        """Return how many were taken, and the nanoseconds."""


@dataclasses.dataclass(frozen=True)
class Contender:
    """Takes steps with ``run``; its ``helpers`` are its other processes."""

    run: Runner
    helpers: Sequence[Helper] = ()


def python_steps(step: Callable[[Any], Any], action: Any) -> Runner:
    """Return a runner that calls ``step(action)``."""

    def run(steps: int, limit_ns: int, /) -> tuple[int, int]:
        done, chunk = 0, max(1, min(_CHUNK, steps // 8))
        begin = now = time.perf_counter_ns()
        while done < steps and now - begin < limit_ns:
            count = min(chunk, steps - done)
            for _ in itertools.repeat(None, count):
                step(action)
            done += count
            now = time.perf_counter_ns()
        return done, now - begin

    return run


def program_steps(program: Program) -> Runner:
    """Return a runner that lets a C program take the steps and look at its own clock."""

    def run(steps: int, limit_ns: int, /) -> tuple[int, int]:
        answer = program.ask(f"{steps} {limit_ns}", timeout=30.0 + 2e-9 * limit_ns)
        done, spent = answer.split()
        return int(done), int(spent)

    return run


def open_contenders(
    results: Results, group: str, recipes: Mapping[str, Callable[[], Contender]]
) -> dict[str, Contender]:
    """Make the contenders; the ones that cannot be made are noted as missing."""
    contenders = {}
    for key, make in recipes.items():
        try:
            contenders[key] = make()
            _each(contenders[key].helpers, "pause")
        except (MissingPeerError, RlayError, OSError) as error:
            results.miss(group, key, _why(error))
    return contenders


def _why(error: Exception) -> str:
    return str(error) if isinstance(error, MissingPeerError) else f"{type(error).__name__}: {error}"


def _each(helpers: Sequence[Helper], action: str) -> None:
    for helper in helpers:
        getattr(helper, action)()


def _warm_up(contender: Contender, sample_ns: int, steps: int | None) -> int:
    """Run for a moment and return how many steps a turn should have."""
    done, spent = contender.run(steps or _MOST_STEPS, min(_WARM_UP_NS, sample_ns))
    per_step = spent / max(done, 1)
    return steps or max(1, min(_MOST_STEPS, int(sample_ns / max(per_step, 1e-3))))


@dataclasses.dataclass
class Turns:
    """What one contender's turns gave: nanoseconds per step, and steps per turn."""

    steps: int = 0
    per_step_ns: list[float] = dataclasses.field(default_factory=list)


def interleave(
    results: Results,
    group: str,
    contenders: Mapping[str, Contender],
    *,
    rounds: int,
    sample_ns: int,
    steps: int | None = None,
) -> dict[str, Turns]:
    """Let the contenders take turns, ``rounds`` times; who fails on the way is noted as missing."""
    turns: dict[str, Turns] = {key: Turns() for key in contenders}
    for number in range(rounds + 1):
        for key in list(turns):
            contender, mine = contenders[key], turns[key]
            _each(contender.helpers, "resume")
            collecting = gc.isenabled()
            gc.disable()
            try:
                if number == 0:
                    mine.steps = _warm_up(contender, sample_ns, steps)
                else:
                    # The first steps after a pause meet a cold cache and a sleeping peer.
                    contender.run(min(mine.steps, _CHUNK), sample_ns)
                    done, spent = contender.run(mine.steps, _PATIENCE * sample_ns)
                    mine.per_step_ns.append(spent / done)
            except (MissingPeerError, RlayError, OSError, EOFError) as error:
                results.miss(group, key, f"failed in round {number}: {_why(error)}")
                del turns[key]
            finally:
                if collecting:
                    gc.enable()
                _each(contender.helpers, "pause")
    return turns
