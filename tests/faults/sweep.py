"""Every system call of create, attach, step and close fails once, with each errno it can return.

``make faults`` runs this: ``python -m tests.faults.sweep [--every N]``. A dry run counts the calls;
then each (function, call, errno) is played by ``story.py`` (Python, both twins) and ``story.c``.
A case that brings no answer in time is a hang: its process is ended, and the sweep goes on.
"""

from __future__ import annotations

import argparse
import collections
import dataclasses
import errno
import json
import os
import queue
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rlay.errors import error_for_code
from tests.faults.errnos import ERRNOS
from tests.faults.judgement import Case, judge
from tests.faults.story import VICTIMS
from tests.peers import PORT, environment

HERE = Path(__file__).parent
TWINS = ("compiled", "pure")
#: Seconds without an answer after which a case hangs: well above the deadlines of the story.
WATCHDOG = 40.0
#: Calls of one kind in a row that are one as good as the other: the turns of a session.
_ENOUGH_TURNS = 6

#: Counts the calls, and lets all of them pass.
_DRY: Case = ("", 0, errno.EIO)


@dataclasses.dataclass
class Result:
    """What came of the cases of one victim."""

    title: str
    calls: dict[str, int] = dataclasses.field(default_factory=dict)
    cases: int = 0
    fired: int = 0
    outcomes: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)
    problems: list[str] = dataclasses.field(default_factory=list)

    def add(self, case: Case, facts: dict[str, Any] | str) -> None:
        """Count one case by its facts, or by why there are none."""
        function, number, error = case
        where = f"{self.title}: {function} {number} with {errno.errorcode[error]}"
        self.cases += 1
        if isinstance(facts, str):
            self.fired += 1
            self.problems.append(f"{where}: {facts}")
            return
        self.fired += facts["fired"]
        self.outcomes[facts["outcome"]] += facts["fired"]
        self.problems += [f"{where} ({facts['where']}): {text}" for text in judge(case, facts)]


def build_shim(folder: Path) -> Path:
    """Compile ``shim.c`` for preloading."""
    shim = folder / "shim.so"
    flags = ["-std=gnu11", "-O1", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC"]
    subprocess.run(["gcc", *flags, "-o", shim, HERE / "shim.c", "-ldl"], check=True)
    return shim


def build_story(folder: Path, port: Path = PORT) -> Path:
    """Compile ``story.c`` with the shim in it, and the ``rlay.h`` of ``port``."""
    story = folder / "story"
    flags = ["-std=gnu11", "-O1", "-g", "-Wall", "-Wextra", "-Werror", f"-I{port}"]
    sources = [HERE / "story.c", HERE / "shim.c"]
    subprocess.run(["gcc", *flags, "-o", story, *sources, "-ldl", "-lm"], check=True)
    return story


class Player:
    """A process that plays cases; started again after it hung or died."""

    def __init__(self, command: list[str], variables: dict[str, str], watchdog: float) -> None:
        self._command, self._watchdog = command, watchdog
        self._variables = {**environment(), **variables}
        self._process: subprocess.Popen[str] | None = None
        self._lines: queue.Queue[str] = queue.Queue()

    def play(self, case: Case, watchdog: float | None = None) -> dict[str, Any] | str:
        """Return the facts, or why there are none."""
        if self._process is None:
            self._start()
        process = self._process
        assert process
        assert process.stdin
        try:
            process.stdin.write(json.dumps(case) + "\n")
            process.stdin.flush()
            line = self._lines.get(timeout=watchdog or self._watchdog)
        except BrokenPipeError:
            line = ""
        except queue.Empty:
            self.close()
            return "no answer within the watchdog's time: it hangs"
        if not line:
            code = process.wait(WATCHDOG)
            self.close()
            return f"the process ended with code {code}"
        facts: dict[str, Any] = json.loads(line)
        if "code" in facts:  # of C
            error = error_for_code(facts["code"])
            facts["outcome"] = error.__name__ if error else "success"
        return facts

    def _start(self) -> None:
        self._lines = queue.Queue()
        self._process = subprocess.Popen(
            self._command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=self._variables,
            text=True,
            bufsize=1,
        )
        threading.Thread(target=self._read, args=(self._process, self._lines), daemon=True).start()

    @staticmethod
    def _read(process: subprocess.Popen[str], lines: queue.Queue[str]) -> None:
        assert process.stdout
        with process.stdout:
            for line in process.stdout:
                lines.put(line)
        lines.put("")

    def close(self) -> None:
        """End the process."""
        process, self._process = self._process, None
        if process:
            process.kill()
            assert process.stdin
            process.stdin.close()
            process.wait()


def cases_of(calls: dict[str, int], only: dict[str, tuple[int, ...]] | None = None) -> list[Case]:
    """Return every (function, call, errno) for these numbers of calls."""
    return [
        (function, number, error)
        for function, count in sorted(calls.items())
        for number in range(1, min(count, _ENOUGH_TURNS if function == "futex" else count) + 1)
        for error in (only or ERRNOS).get(function, ())
    ]


def sweep_one(
    title: str,
    command: list[str],
    variables: dict[str, str],
    *,
    every: int = 1,
    offset: int = 0,
    only: dict[str, tuple[int, ...]] | None = None,
    watchdog: float = WATCHDOG,
    to_the_end: bool = True,
) -> Result:
    """Play the cases of one victim, or each ``every``-th of them.

    Args:
        title: of the victim.
        command: that plays it.
        variables: of its environment.
        every: distance of the cases that are played.
        offset: of the first one.
        only: errnos by function, instead of all of them.
        watchdog: seconds until a case without an answer hangs.
        to_the_end: go on after the first problem.
    """
    result = Result(title)
    with tempfile.TemporaryDirectory(dir=os.environ.get("RLAY_DIR")) as folder:
        os.chmod(folder, 0o700)
        player = Player(command, {**variables, "RLAY_DIR": folder}, watchdog)
        try:
            dry = player.play(_DRY, WATCHDOG)
            if isinstance(dry, str) or judge(_DRY, dry):
                result.problems.append(f"{title}: the dry run failed: {dry}")
                return result
            result.calls = dry["counts"]
            cases = cases_of(result.calls, only)
            for case in cases[offset % every :: every]:
                result.add(case, player.play(case))
                if result.problems and not to_the_end:
                    break
        finally:
            player.close()
    return result


def python_victim(victim: str, twin: str, shim: Path, broken: str = "") -> tuple[Any, ...]:
    """Return title, command and environment of a victim in Python."""
    command = [sys.executable, "-m", "tests.faults.story", victim, *filter(None, [broken])]
    variables = {"LD_PRELOAD": str(shim), "RLAY_ATOMICS": twin}
    return f"{victim} ({twin})", command, variables


def c_victim(victim: str, story: Path) -> tuple[Any, ...]:
    """Return title, command and environment of a victim in C."""
    return f"{victim} (C)", [str(story), victim], {}


def every_victim(folder: Path) -> Iterator[tuple[Any, ...]]:
    """Yield title, command and environment of each victim."""
    shim, story = build_shim(folder), build_story(folder)
    for victim in VICTIMS:
        yield from (python_victim(victim, twin, shim) for twin in TWINS)
        yield c_victim(victim, story)


def main() -> int:
    """Sweep everything and print the counts."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--every", type=int, default=1, help="play every N-th case only")
    every = parser.parse_args().every
    total, fired, problems, start = 0, 0, 0, time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        for title, command, variables in every_victim(Path(folder)):
            result = sweep_one(title, command, variables, every=every)
            calls = sum(result.calls.values())
            outcomes = ", ".join(f"{n} {name}" for name, n in result.outcomes.most_common())
            print(
                f"{title}: {calls} calls, {result.cases} cases, {result.fired} failed: {outcomes}"
            )
            for problem in result.problems:
                print(f"  PROBLEM {problem}")
            total, fired = total + result.cases, fired + result.fired
            problems += len(result.problems)
    seconds = time.monotonic() - start
    print(f"{total} cases, {fired} calls failed, {problems} problems, {seconds:.0f} s")
    return 1 if problems else 0


if __name__ == "__main__":
    raise SystemExit(main())
