"""The sweep of the C port: a victim made of ``rlay.h`` dies at any machine instruction.

The victim marks regions. For a request or a reply every executed instruction is a point, by
single steps; for the rest every distinct instruction, at its first execution in the region.
"""

from __future__ import annotations

import dataclasses
import functools
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rlay.protocol.constants import CONTROL_SIZE, HEADER_SIZE, Side
from tests.peers import PORT
from tests.sweep import ptrace
from tests.sweep.judge import Verdict
from tests.sweep.points import Point
from tests.sweep.sabotage import NATIVE_FLAG_FIRST
from tests.sweep.slot import Slot
from tests.sweep.stage import Stage
from tests.sweep.story import is_server
from tests.sweep.sweep import CHANNEL, Plan, kill_each
from tests.sweep.truth import read_truth
from tests.sweep.victim import Part

HERE = Path(__file__).parent

#: The regions of native_victim.c: number, name, and whether each execution is a point of its own.
REGIONS = {
    1: ("publish", False),
    2: ("attach", False),
    3: ("reset", False),
    4: ("step", True),
    5: ("take", False),
    6: ("render", False),
    7: ("close", False),
}
#: Kinds of a point, in the place of its file.
EVERY, DISTINCT = "instruction", "address"
#: Where the port hands over, and the first line of a record: the fault swaps them.
_SEND = '    rlay__hand_over(ch);\n    if (is_reply) RLAY_POINT("reply_handed_over");'
_SEQ = "    rlay__put_u64(record + RLAY_PREFIX_SEQ, seq);\n    if (is_reply)"


def available() -> bool:
    """Tell whether a native victim can be built and traced here."""
    return ptrace.supported() and None not in (shutil.which("cc"), shutil.which("nm"))


def build(folder: Path, broken: str = "") -> Path:
    """Compile the victim into ``folder``, once; ``broken`` names a fault to put in."""
    program = folder / ("native_victim_broken" if broken == NATIVE_FLAG_FIRST else "native_victim")
    if program.exists():
        return program
    include = PORT
    if broken == NATIVE_FLAG_FIRST:
        include = folder / "broken"
        include.mkdir(exist_ok=True)
        text = (PORT / "rlay.h").read_text()
        if text.count(_SEND) != 1 or text.count(_SEQ) != 1:
            raise AssertionError("rlay.h has changed: the fault cannot be put in")
        text = text.replace(_SEND, _SEND.replace("    rlay__hand_over(ch);\n", ""))
        text = text.replace(_SEQ, "    rlay__hand_over(ch);\n" + _SEQ)
        (include / "rlay.h").write_text(text)
    private = folder / f"{program.name}.{os.getpid()}"
    command = ["cc", "-std=gnu11", "-O2", "-static", "-no-pie"]
    command += ["-I", str(include), str(HERE / "native_victim.c"), "-o", str(private), "-lm"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{program.name} does not compile:\n{done.stderr}")
    os.replace(private, program)
    return program


@functools.cache
def symbol(program: Path, name: str) -> int:
    """Return the address of a function."""
    listing = subprocess.run(["nm", str(program)], check=True, capture_output=True, text=True)
    for line in listing.stdout.splitlines():
        parts = line.split()
        if parts[-1] == name:
            return int(parts[0], 16)
    raise LookupError(f"{program} has no function {name}")


class Executioner:
    """Runs a native victim under ptrace: lists its instructions, or kills it at one."""

    def __init__(self, folder: Path, broken: str = "") -> None:
        """Compile into ``folder`` what is needed: the victim, and the broken one if asked for."""
        self._programs = {fault: build(folder, fault) for fault in {"", broken}}

    def __call__(self, part: Part, slot: Slot) -> int:
        """Play the part; as ``stage.execute_fork``."""
        control = Path(os.environ["RLAY_DIR"]) / f"{part.channel}.rlay"
        deadline = time.monotonic() + 20
        while not is_server(part.face) and not control.exists():
            if time.monotonic() > deadline:
                raise TimeoutError(f"nobody made {control}")
            time.sleep(0.0002)
        program = self._programs[part.broken]
        self._mark = symbol(program, "sweep_mark")
        traced = ptrace.Traced(str(program), part.face, part.channel, str(part.token))
        try:
            if part.point is None:
                slot.put({"lines": self._list(traced)})
            elif self._reach(traced, part.point, stepwise=part.token // 10 % 4 == 0):
                slot.put({**self._testify(traced, part), "died": time.monotonic_ns()})
                return traced.kill()
            return traced.finish()
        except ptrace.EndedError as ended:
            return ended.code

    def _await_mark(self, traced: ptrace.Traced) -> int:
        """Run to the next mark; return its region, negative at the end of one."""
        traced.run_to(self._mark)
        value = traced.argument()
        traced.step()
        return value

    def _list(self, traced: ptrace.Traced) -> list[list[Any]]:
        """Return [region, number of executions, distinct addresses in order] of each region."""
        regions: list[list[Any]] = []
        while len(regions) < len(REGIONS):
            region = self._await_mark(traced)
            count = 0
            distinct: dict[int, None] = {}
            while (at := traced.counter()) != self._mark:
                count += 1
                distinct.setdefault(at)
                traced.step()
            traced.step()
            regions.append([region, count, [at for at in distinct if at < ptrace.END_OF_PROGRAM]])
        return regions

    def _reach(self, traced: ptrace.Traced, point: Point, *, stepwise: bool) -> bool:
        """Go to the point; False when its region ended before.

        Some ways are taken only by who is as slow as in a dry run: each fourth try goes stepwise.
        """
        (wanted,) = (number for number, (name, _) in REGIONS.items() if name == point.phase)
        while self._await_mark(traced) != wanted:
            pass
        if point.file == DISTINCT:
            if traced.counter() == point.line:
                return True
            if not stepwise:
                return traced.run_to(point.line, self._mark) == point.line
            while (at := traced.counter()) not in (point.line, self._mark):
                traced.step()
            return at == point.line
        for _ in range(point.line):
            if traced.counter() == self._mark:
                return False
            traced.step()
        return True

    def _testify(self, traced: ptrace.Traced, part: Part) -> dict[str, Any]:
        name = f"{part.channel}."
        files = [
            (os.path.basename(path), start, end - start) for start, end, path in traced.mappings()
        ]
        # The turn before the records, as read_truth() would: the survivor goes on meanwhile.
        controls = [
            traced.read(start, HEADER_SIZE)
            for file, start, size in files
            if file.startswith(name) and file.endswith(".rlay") and size == CONTROL_SIZE
        ]
        datas = [
            traced.read(start, size)
            for file, start, size in files
            if file.startswith(name) and file.endswith(".data")
        ]
        side = Side.SERVER if is_server(part.face) else Side.CLIENT
        root = Path(os.environ["RLAY_DIR"])
        return dataclasses.asdict(read_truth(side, root, part.channel, controls, datas))


def points_of(stage: Stage, face: str, plan: Plan) -> list[Point]:
    """Return the points of a native victim, by its dry runs."""
    part = Part(face, "plain", False, CHANNEL, 0)
    first = {row[0]: row for row in stage.list_raw(part)}
    second = {row[0]: row for row in stage.list_raw(part)} if plan.stride == 1 else first
    points = []
    for region, (name, each) in REGIONS.items():
        if plan.only and plan.only != name:
            continue
        if each:
            count = min(first[region][1], second[region][1])
            mine = [Point(name, EVERY, number, 1) for number in range(count)]
        else:
            again = set(second[region][2])
            mine = [Point(name, DISTINCT, at, 1) for at in first[region][2] if at in again]
        points += mine[
            region * plan.stride // (len(REGIONS) + 1) % max(1, len(mine)) :: plan.stride
        ]
    return points


def sweep(stage: Stage, face: str, plan: Plan) -> Iterator[Verdict]:
    """Kill the native victim at each point of the plan and yield what came of it."""
    points = points_of(stage, face, plan)
    yield from kill_each(
        stage, [Part(face, "plain", False, CHANNEL, 0, point) for point in points], plan
    )
