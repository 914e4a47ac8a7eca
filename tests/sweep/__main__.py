"""``python -m tests.sweep``: kill everywhere, count what the survivors saw."""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from rlay import atomics
from tests.sweep import native
from tests.sweep.judge import Verdict
from tests.sweep.sabotage import CONTROLS
from tests.sweep.slot import die_with_parent
from tests.sweep.stage import stage
from tests.sweep.sweep import FACES, HEAD, LEGEND, WAYS, Plan, Totals, sweep

NATIVE = "C"
ALL_WAYS = (*WAYS, NATIVE)
#: So many in a hundred points may be missed, on a machine too busy to reach them.
MISSED = 1


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.sweep", description=__doc__)
    parser.add_argument("--face", choices=FACES, action="append", help="a class; else all")
    parser.add_argument("--way", choices=ALL_WAYS, action="append", help="else all")
    parser.add_argument("--stride", type=int, default=1, help="every so many points")
    parser.add_argument("--only", default="", help="one phase")
    parser.add_argument("--jobs", type=int, default=4, help="how many at a time")
    parser.add_argument("--controls", action="store_true", help="the deliberate faults instead")
    parser.add_argument("--worker", metavar="FOLDER", help="print verdicts as JSON; work there")
    return parser.parse_args()


def units_of(options: argparse.Namespace) -> Iterator[tuple[str, str, Plan]]:
    """Yield (name, class, plan) of each unit of work."""
    if options.controls:
        for fault, control in CONTROLS.items():
            if control.way == NATIVE and not native.available():
                continue
            plan = Plan(control.way, control.stride, control.phase, fault, control.patience)
            yield fault, control.face, plan
        return
    for way in options.way or ALL_WAYS:
        for face in options.face or FACES:
            yield f"{face}, {way}", face, Plan(way, options.stride, options.only)


def work(options: argparse.Namespace) -> None:
    """Do each unit, and print each verdict as a line of JSON."""
    die_with_parent()
    folder = Path(options.worker)
    for name, face, plan in units_of(options):
        if plan.way == "pure" and atomics.IMPLEMENTATION != "pure":
            raise SystemExit("the pure twin is wanted: set RLAY_ATOMICS=pure")
        settings: dict[str, Any] = {}
        if plan.way == NATIVE:
            settings["execute"] = native.Executioner(folder, plan.broken)
        with stage(folder / f"root-{os.getpid()}", **settings) as here:
            play = native.sweep if plan.way == NATIVE else sweep
            for verdict in play(here, face, plan):
                print(json.dumps([name, dataclasses.asdict(verdict)]), flush=True)


def _run_worker(options: argparse.Namespace, folder: str, name: str) -> Iterator[Verdict]:
    face, _, way = name.partition(", ")
    command = [sys.executable, "-m", "tests.sweep", "--worker", folder, "--way", way]
    command += ["--face", face, "--stride", str(options.stride), "--only", options.only]
    twin = "pure" if way == "pure" else "compiled"
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, env={**os.environ, "RLAY_ATOMICS": twin}
    ) as process:
        assert process.stdout
        for line in process.stdout:
            yield Verdict(**json.loads(line)[1])
    if process.returncode:
        raise RuntimeError(f"{' '.join(command)} ended with {process.returncode}")


def _share_out(jobs: int, names: list[str], run: Callable[[str], None]) -> None:
    """Run each name once, ``jobs`` at a time."""
    left, lock = iter(names), threading.Lock()

    def take() -> None:
        while True:
            with lock:
                name = next(left, None)
            if name is None:
                return
            run(name)

    threads = [threading.Thread(target=take) for _ in range(jobs)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def main(options: argparse.Namespace, folder: str) -> int:
    """Run the workers and print the table; 1 when anything was wrong, or much was missed."""
    names = [name for name, _, _ in units_of(options)]
    everything, lock, failed = Totals(), threading.Lock(), []
    start = time.monotonic()

    def run(name: str) -> None:
        totals = Totals()
        try:
            for verdict in _run_worker(options, folder, name):
                totals.add(verdict)
                with lock:
                    everything.add(verdict)
        except (RuntimeError, ValueError) as error:
            failed.append(str(error))
        print(totals.line(name), flush=True)

    print(HEAD, flush=True)
    _share_out(options.jobs, names, run)
    print(everything.line("all"))
    print(f"{time.monotonic() - start:.0f} s, {options.jobs} at a time\n{LEGEND}")
    for verdict in everything.wrong:
        print(f"WRONG {verdict.point}: {'; '.join(verdict.problems)}")
    for verdict in everything.unreached:
        print(f"missed {verdict.point}")
    print(*failed, sep="\n")
    missed = 100 * len(everything.unreached) > MISSED * everything.count
    return 1 if everything.wrong or missed or failed else 0


def controls(options: argparse.Namespace, folder: str) -> int:
    """Play the deliberate faults; 1 when one of them was not reported."""
    command = [sys.executable, "-m", "tests.sweep", "--worker", folder, "--controls"]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    reported = {name: 0 for name, _, _ in units_of(options)}
    for line in done.stdout.splitlines():
        fault, verdict = json.loads(line)
        reported[fault] += any(CONTROLS[fault].says in text for text in verdict["problems"])
    for fault, count in reported.items():
        print(f"{fault:20} reported at {count} points")
    return 0 if all(reported.values()) else 1


if __name__ == "__main__":
    chosen = arguments()
    if chosen.worker:
        work(chosen)
        sys.exit()
    with tempfile.TemporaryDirectory(prefix="rlay-sweep-", dir="/dev/shm") as made:
        sys.exit((controls if chosen.controls else main)(chosen, made))
