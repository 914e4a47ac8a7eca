"""Sweeping: every point of a class, or a deterministic sample, one kill each, and the totals."""

from __future__ import annotations

import collections
import dataclasses
import statistics
from collections.abc import Iterator
from typing import Any

from tests.sweep.judge import Verdict
from tests.sweep.points import PHASES, list_points
from tests.sweep.stage import PATIENCE, Stage
from tests.sweep.victim import Part, variants_of

#: Which code runs: the compiled words with the session's own lines, the compiled step as
#: well, which hides the lines it replaces, or the pure twin.
WAYS = ("words", "exchange", "pure")
FACES = ("ServerBackend", "ClientEnv", "ServerEnv", "ClientBackend")
CHANNEL = "sweep"
#: A point that a busy machine made the victim miss is tried again so many times.
TRIES = 20
#: What the design promises for the time between a death and its error.
PROMISE_MS = 100.0


@dataclasses.dataclass(frozen=True)
class Plan:
    """What to sweep.

    Attributes:
        way: one of WAYS.
        stride: every so many points of each phase; 1 for all.
        only: a phase, or nothing for all.
        broken: a fault of ``sabotage.py``, or nothing.
        patience: of each call, seconds.
    """

    way: str = "words"
    stride: int = 1
    only: str = ""
    broken: str = ""
    patience: float = PATIENCE


def sample(parts: list[Part], stride: int) -> list[Part]:
    """Return every ``stride``-th part of each phase, and at least one of each."""
    chosen = []
    for number, phase in enumerate(PHASES):
        inside = [part for part in parts if part.point and part.point.phase == phase]
        start = min(number * stride // len(PHASES), len(inside) - 1) if inside else 0
        chosen += inside[start::stride]
    return chosen


def parts_of(stage: Stage, face: str, plan: Plan) -> list[Part]:
    """Return a victim for each point; a line is swept in the first variant that executes it."""
    known: set[tuple[str, str, int]] = set()
    parts: list[Part] = []
    runs = 3 if plan.stride == 1 else 1
    few = plan.broken or (plan.stride > 1 and plan.way != "words")
    for variant in variants_of(face)[: 1 if few else None]:
        exchange = plan.way == "exchange"
        part = Part(face, variant, exchange, CHANNEL, 0)
        lists = [stage.list_lines(part) for _ in range(runs)]
        points = list_points(lists, last=plan.way == "words")
        new = [point for point in points if point[:3] not in known]
        known |= {point[:3] for point in points}
        parts += [dataclasses.replace(part, point=point) for point in new]
    return sample([part for part in parts if plan.only in ("", part.point.phase)], plan.stride)  # type: ignore[union-attr]


def sweep(stage: Stage, face: str, plan: Plan) -> Iterator[Verdict]:
    """Kill the class at each point of the plan and yield what came of it."""
    yield from kill_each(stage, parts_of(stage, face, plan), plan)


def kill_each(stage: Stage, parts: list[Part], plan: Plan) -> Iterator[Verdict]:
    """Play each part until its point is reached, a few times at most."""
    for number, part in enumerate(parts):
        for _ in range(TRIES):
            at_once = number % 2 == 1
            verdict = stage.kill(part, at_once=at_once, patience=plan.patience, broken=plan.broken)
            if verdict.reached or verdict.problems:
                break
        yield verdict


class Totals:
    """Counts and times of many verdicts."""

    def __init__(self) -> None:
        self.outcomes: collections.Counter[str] = collections.Counter()
        self.noticed_ms: list[float] = []
        self.resumed_ms: list[float] = []
        self.wrong: list[Verdict] = []
        self.unreached: list[Verdict] = []
        self.count = 0

    def add(self, verdict: Verdict) -> None:
        self.count += 1
        if verdict.problems:
            self.wrong.append(verdict)
        elif not verdict.reached:
            self.unreached.append(verdict)
        else:
            self.outcomes[verdict.outcome] += 1
        if verdict.noticed_ms is not None:
            self.noticed_ms.append(verdict.noticed_ms)
        if verdict.resumed_ms is not None:
            self.resumed_ms.append(verdict.resumed_ms)

    def late(self) -> int:
        """Return how many deaths took longer to notice than promised."""
        return sum(took > PROMISE_MS for took in self.noticed_ms)

    def line(self, name: str) -> str:
        """Return the totals in one line."""
        cells: list[Any] = [self.count, *(self.outcomes[key] for key in OUTCOMES)]
        cells += [len(self.wrong), len(self.unreached), self.late()]
        row = f"{name:26}" + "".join(f"{cell:8}" for cell in cells)
        for times in (self.noticed_ms, self.resumed_ms):
            row += f"{statistics.median(times):8.1f}{max(times):8.1f}" if times else f"{'-':>16}"
        return row


OUTCOMES = ("lost", "closed", "whole", "no session")
HEAD = (
    f"{'victim':26}{'points':>8}{'lost':>8}{'closed':>8}{'whole':>8}{'none':>8}"
    f"{'wrong':>8}{'missed':>8}{'late':>8}{'notice':>8}{'worst':>8}{'next':>8}{'worst':>8}"
)
LEGEND = """\
points: where the victim was killed. Its survivor saw its loss, its goodbye, the whole story, or
(none) had no session with it. wrong: another error, value or remainder than is right. missed: not
reached in twenty tries. late: noticed after 100 ms. notice: ms from the death to the survivor's
error, median and worst. next: ms from the death to the end of the next pair's whole story, where
there was no session to lose."""
