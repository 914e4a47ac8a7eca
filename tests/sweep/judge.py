"""What is right after a kill, and what is reported when it is not."""

from __future__ import annotations

import dataclasses
import gc
import os
import signal
from pathlib import Path
from typing import Any

from tests.sweep.story import requests_of, results_of, same
from tests.sweep.survivor import Seen
from tests.sweep.truth import CLOSED, LOST, Truth, expected


@dataclasses.dataclass
class Verdict:
    """Of one kill.

    Attributes:
        point: where.
        reached: whether the victim came to the point and died there.
        problems: what was wrong, a sentence each; empty if all was right.
        outcome: what the survivor saw: a loss, a goodbye, a whole story, or no session.
        noticed_ms: from the death to the survivor's error, if death made one.
        resumed_ms: from the death to the end of the successor's whole story, without a session.
    """

    point: str
    reached: bool = True
    problems: list[str] = dataclasses.field(default_factory=list)
    outcome: str = ""
    noticed_ms: float | None = None
    resumed_ms: float | None = None


@dataclasses.dataclass(frozen=True)
class Report:
    """What the companion tells of victim and successor."""

    code: int
    successor: str
    truth: dict[str, Any] | None


@dataclasses.dataclass(frozen=True)
class Tokens:
    """Who is who: environments by token, agents by seed."""

    victim: int
    successor: int
    survivor: int


def _first_difference(seen: list[Any], right: list[Any]) -> str | None:
    for number, (found, due) in enumerate(zip(seen, right, strict=False)):
        if not same(found, due):
            return f"exchange {number} is {found!r:.200}, expected {due!r:.200}"
    return f"{len(seen)} exchanges" if len(seen) > len(right) else None


def judge_values(sessions: list[Seen], tokens: Tokens, *, victim_is_agent: bool) -> list[str]:
    """Compare every value the survivor got with what its sender must have sent."""

    def right(token: int) -> list[Any]:
        return requests_of(token) if victim_is_agent else results_of(token, tokens.survivor)

    problems = []
    *before, last = sessions
    for session in before:
        if wrong := _first_difference(session.exchanges, right(tokens.victim)):
            problems.append(f"a wrong value from the victim: {wrong}")
    if wrong := _first_difference(last.exchanges, right(tokens.successor)):
        problems.append(f"a wrong value from the successor: {wrong}")
    elif len(last.exchanges) != len(right(tokens.successor)):
        problems.append(f"the story with the successor has {len(last.exchanges)} exchanges")
    return problems


def judge(
    verdict: Verdict,
    sessions: list[Seen],
    report: Report,
    victim: str,
    tokens: Tokens,
    *,
    victim_is_agent: bool,
    at_once: bool,
) -> None:
    """Fill in the verdict from what was seen."""
    verdict.problems += judge_values(sessions, tokens, victim_is_agent=victim_is_agent)
    if report.successor:
        verdict.problems.append(f"the successor failed: {report.successor}")
    found = [(len(session.exchanges), session.ending) for session in sessions[:-1]]
    if report.code == 0:
        verdict.reached = False
        return
    if report.code != -signal.SIGKILL or report.truth is None:
        verdict.problems.append(f"the victim ended with {report.code}, not by SIGKILL")
        return
    died = report.truth["died"]
    truth = Truth(**{key: value for key, value in report.truth.items() if key != "died"})
    allowed = expected(truth, victim, at_once=at_once)
    if found not in [[outcome] if outcome else [] for outcome in allowed]:
        verdict.problems.append(f"the survivor saw {found}, expected one of {allowed}; {truth}")
    if not found:
        verdict.outcome = "no session"
        verdict.resumed_ms = (sessions[-1].at_ns - died) / 1e6
        return
    verdict.outcome = {LOST: "lost", CLOSED: "closed"}.get(found[0][1], "whole")
    if sessions[0].at_ns > died:
        verdict.noticed_ms = (sessions[0].at_ns - died) / 1e6


def descriptors() -> int:
    """Return how many descriptors this process has open."""
    return len(os.listdir("/proc/self/fd"))


def children_of(pid: int) -> list[int]:
    """Return the children of a process, the ended ones that nobody waited for included."""
    text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    return [int(child) for child in text.split()]


def judge_remains(before: int, root: Path, companion: int) -> list[str]:
    """Look for descriptors, files and processes that a story has left."""
    problems = []
    if descriptors() > before:
        gc.collect()
    if (now := descriptors()) != before:
        problems.append(f"{now} descriptors are open, {before} were before")
    if left := sorted(path.name for path in root.iterdir() if path.suffix != ".lock"):
        problems.append(f"files are left: {', '.join(left)}")
    ours = [pid for pid in children_of(os.getpid()) if pid != companion]
    if strangers := ours + children_of(companion):
        problems.append(f"{len(strangers)} processes are left")
    return problems
