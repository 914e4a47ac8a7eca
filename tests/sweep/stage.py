"""One sweeping process: it is the survivor of every kill, and never two things at once.

Its companion, a child, forks the victim, waits for its death, and then plays the successor:
the same class on the same channel. Victims are forks of a process that has everything
imported, so a kill costs a few milliseconds beside the slice in which it is noticed.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import select
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn

import rlay
from tests.sweep import sabotage
from tests.sweep.judge import (
    Report,
    Tokens,
    Verdict,
    children_of,
    descriptors,
    judge,
    judge_remains,
)
from tests.sweep.points import Line, Point
from tests.sweep.slot import Cell, Slot, die_with_parent
from tests.sweep.story import (
    PARTNER,
    Oracle,
    is_agent,
    play_agent,
    requests_of,
    results_of,
    same,
)
from tests.sweep.survivor import Role, survive
from tests.sweep.truth import CLOSED, DONE, LOST, Truth, expected
from tests.sweep.victim import Part, be_victim

#: Every call of the survivor ends by then; in the controls it is shorter.
PATIENCE = 30.0
#: For how long a successor waits for the survivor to notice.
GO = 2.0


@dataclasses.dataclass(frozen=True)
class Job:
    """One kill, as the companion is told of it."""

    part: Part
    tokens: Tokens
    at_once: bool
    patience: float


#: Starts a victim; returns when it has died, with its exit code.
Executioner = Callable[[Part, Slot], int]


def execute_fork(part: Part, slot: Slot) -> int:
    """Fork a Python victim and wait for its end."""
    pid = os.fork()
    if pid == 0:
        be_victim(part, slot)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def _succeed(job: Job) -> str:
    """Play the successor; return what went wrong, or nothing."""
    part, tokens = job.part, job.tokens
    settings: dict[str, Any] = {"attach_timeout": job.patience}
    try:
        if is_agent(part.face):
            seen: list[Any] = []
            env = getattr(rlay, part.face)(part.channel, timeout=job.patience, **settings)
            play_agent(env, tokens.successor, seen)
            right = same(seen, results_of(tokens.survivor, tokens.successor))
        else:
            oracle = Oracle(tokens.successor)
            backend = getattr(rlay, part.face)(
                part.channel, oracle, frame_capacity=72, timeout=job.patience, **settings
            )
            with contextlib.closing(backend):
                backend.serve(sessions=1)
            seen = oracle.seen
            right = same(seen, requests_of(tokens.survivor))
    except rlay.RlayError as error:
        return f"{type(error).__name__}: {error}"
    return "" if right else f"it saw {seen!r:.300}"


class _Lines:
    """Lines over a pipe."""

    def __init__(self) -> None:
        self.reader, self.writer = os.pipe()
        self._rest = b""

    def put(self, value: Any) -> None:
        os.write(self.writer, json.dumps(value).encode() + b"\n")

    def get(self, timeout: float | None = None) -> Any:
        while b"\n" not in self._rest:
            if not select.select([self.reader], [], [], timeout)[0]:
                return None
            data = os.read(self.reader, 1 << 16)
            if not data:
                raise EOFError("the other end is gone")
            self._rest += data
        line, _, self._rest = self._rest.partition(b"\n")
        return json.loads(line)

    def close(self) -> None:
        os.close(self.reader)
        os.close(self.writer)


def _as_job(value: dict[str, Any]) -> Job:
    part = dict(value["part"])
    part["point"] = Point(*part["point"]) if part["point"] else None
    return Job(Part(**part), Tokens(**value["tokens"]), value["at_once"], value["patience"])


class Stage:
    """Survivor and companion, for any number of kills."""

    def __init__(self, root: Path, *, execute: Executioner = execute_fork) -> None:
        """Use ``root``, an empty private directory; ``execute`` makes and ends the victims."""
        self._root, self._execute = root, execute
        self._slot, self._notice = Slot(), Cell()
        self._count = 0
        self._fork_companion()

    def _fork_companion(self) -> None:
        self._jobs, self._reports = _Lines(), _Lines()
        self._companion = os.fork()
        if self._companion == 0:
            self._be_companion()
        os.setpgid(self._companion, self._companion)
        self._descriptors = descriptors()

    def _be_companion(self) -> NoReturn:
        try:
            die_with_parent()
            os.setpgid(0, 0)
            os.close(self._jobs.writer)
            while value := self._jobs.get():
                job = _as_job(value)
                self._slot.clear()
                code = self._execute(job.part, self._slot)
                found = self._slot.get()
                truth = found if found and "died" in found else None
                if truth and not job.at_once:
                    self._await_notice(job, truth)
                successor = _succeed(job)
                self._reports.put({"code": code, "successor": successor, "truth": truth})
        except EOFError:
            pass
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(0)

    def _await_notice(self, job: Job, truth: dict[str, Any]) -> None:
        """Let the survivor notice by itself that the victim is gone, before it has a successor."""
        words = Truth(**{key: value for key, value in truth.items() if key != "died"})
        outcome = expected(words, job.part.face, at_once=False)[0]
        if outcome and outcome[1] in (LOST, CLOSED):
            deadline = time.monotonic() + GO
            while time.monotonic() < deadline:
                if self._notice.value == job.tokens.victim:
                    return
                time.sleep(0.0005)

    def kill(
        self, part: Part, *, at_once: bool = False, patience: float = PATIENCE, broken: str = ""
    ) -> Verdict:
        """Play one story with a victim that dies at its point, and judge what came of it.

        Args:
            part: the victim's; channel and token are given here.
            at_once: the successor starts at the death, not when the survivor has noticed.
            patience: of every call of the survivor and the successor, seconds.
            broken: a fault of ``sabotage.py`` of victim or survivor, or nothing.
        """
        part = dataclasses.replace(part, broken=broken)
        verdict, _ = self._run(part, at_once=at_once, patience=patience)
        return verdict

    def list_raw(self, part: Part) -> list[Any]:
        """Play one story whole; return what the victim tells of its way."""
        verdict, lines = self._run(dataclasses.replace(part, point=None))
        if verdict.problems or verdict.reached:
            raise AssertionError(f"a story without a kill went wrong: {verdict}")
        return lines

    def list_lines(self, part: Part) -> list[Line]:
        """Play one story whole; return the lines the victim executed, in order."""
        return [Line(*line) for line in self.list_raw(part)]

    def _run(
        self, part: Part, *, at_once: bool = False, patience: float = PATIENCE
    ) -> tuple[Verdict, list[Any]]:
        self._count += 1
        first = 1_000_003 * os.getpid() + 10 * self._count
        tokens = Tokens(victim=first, successor=first + 1, survivor=first + 2)
        part = dataclasses.replace(part, token=tokens.victim)
        verdict = Verdict(f"{part.face} {part.variant} {part.point}")
        self._jobs.put(dataclasses.asdict(Job(part, tokens, at_once, patience)))
        role = Role(
            face=PARTNER[part.face],
            channel=part.channel,
            token=tokens.survivor,
            successor=tokens.successor,
            timeout=patience,
            hosted=part.exchange,
            late=part.variant == "early",
            slow=part.variant == "slow",
        )

        def told(ending: str) -> None:
            if ending != DONE:
                self._notice.value = tokens.victim

        lines: list[Any] = []
        try:
            with sabotage.broken_survivor(part.broken), watchdog(3 * patience):
                sessions = survive(role, told)
            if sessions[-1].ending != DONE:
                raise RuntimeError(f"the survivor ended with {sessions[-1].ending}")
            heard = self._reports.get(2 * patience + GO)
            if heard is None:
                raise TimeoutError("the companion does not report")
            report = Report(**heard)
            judge(
                verdict,
                sessions,
                report,
                part.face,
                tokens,
                victim_is_agent=is_agent(part.face),
                at_once=at_once,
            )
            lines = (self._slot.get() or {}).get("lines", []) if report.code == 0 else []
        except Exception as error:
            verdict.problems.append(f"{type(error).__name__}: {error}")
        verdict.problems += judge_remains(self._descriptors, self._root, self._companion)
        if verdict.problems:
            self._recover()
        return verdict, lines

    def close(self) -> None:
        """End the companion."""
        self._end_companion()

    def _end_companion(self) -> None:
        os.killpg(self._companion, signal.SIGKILL)
        os.waitpid(self._companion, 0)
        self._jobs.close()
        self._reports.close()

    def _recover(self) -> None:
        """After something went wrong: begin again from nothing."""
        self._end_companion()
        for stray in children_of(os.getpid()):
            os.kill(stray, signal.SIGKILL)
            os.waitpid(stray, 0)
        for path in self._root.iterdir():
            path.unlink()
        self._fork_companion()


@contextlib.contextmanager
def watchdog(seconds: float) -> Iterator[None]:
    """Raise TimeoutError in the block when it takes longer: something hangs."""

    def bark(*_: object) -> NoReturn:
        raise TimeoutError(f"a call of the survivor hangs: {seconds:g} s are over")

    previous = signal.signal(signal.SIGALRM, bark)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)


@contextlib.contextmanager
def stage(root: Path, **settings: Any) -> Iterator[Stage]:
    """Open a stage over a private directory, which is made, used as RLAY_DIR and removed."""
    root.mkdir(mode=0o700)
    os.environ["RLAY_DIR"] = str(root)
    one = Stage(root, **settings)
    try:
        yield one
    finally:
        one.close()
        shutil.rmtree(root)
