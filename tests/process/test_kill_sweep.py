"""A sample of the kill sweep (``make sweep`` does all of it), and the faults it must report."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from rlay.protocol.constants import Side, Welcome
from tests.peers import ROOT, environment
from tests.sweep import native
from tests.sweep.points import PHASES, Line, Point, list_points
from tests.sweep.sabotage import CONTROLS
from tests.sweep.story import MODES
from tests.sweep.sweep import FACES, sample
from tests.sweep.truth import CLOSED, DONE, LOST, Truth, expected
from tests.sweep.victim import Part

pytestmark = [
    pytest.mark.one_twin,
    pytest.mark.timeout(240),
    pytest.mark.skipif(sys.platform != "linux", reason="the sweep reads /proc"),
]

Run = Callable[..., "list[tuple[str, dict[str, Any]]]"]


@pytest.fixture
def run(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Run]:
    """A function that runs a sweeping process and gives its verdicts; it is ended in any case."""
    running: list[subprocess.Popen[str]] = []

    def run_one(*arguments: str, twin: str = "compiled") -> list[tuple[str, dict[str, Any]]]:
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.sweep", "--worker", str(tmp_path), *arguments],
            cwd=ROOT,
            env={**environment(), "RLAY_ATOMICS": twin},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        running.append(process)
        out, err = process.communicate()
        assert process.returncode == 0, err
        return [tuple(json.loads(line)) for line in out.splitlines()]

    try:
        yield run_one
    finally:
        for process in running:
            process.send_signal(signal.SIGKILL)
            process.communicate()


def check(verdicts: list[tuple[str, dict[str, Any]]], faces: tuple[str, ...]) -> None:
    """Check that nothing was wrong, that nearly all points were reached, and all outcomes seen."""
    wrong = [verdict for _, verdict in verdicts if verdict["problems"]]
    assert not wrong
    assert {name.partition(", ")[0] for name, _ in verdicts} == set(faces)
    reached = [verdict for _, verdict in verdicts if verdict["reached"]]
    # A line that only a slow exchange executes may be missed, by a machine that is just fast.
    assert len(reached) >= 0.9 * len(verdicts)
    outcomes = Counter(verdict["outcome"] for verdict in reached)
    assert {"lost", "whole", "no session"} <= set(outcomes)


@pytest.mark.parametrize("way", ["words", "exchange", "pure"])
def test_python_victims(way: str, run: Run) -> None:
    twin = "pure" if way == "pure" else "compiled"
    if twin == "compiled":
        pytest.importorskip("rlay._atomics")
    faces = [word for face in FACES for word in ("--face", face)]
    check(run("--way", way, *faces, "--stride", "120", twin=twin), FACES)


native_only = pytest.mark.skipif(
    not native.available(), reason="needs Linux on x86-64, a C compiler and nm"
)


@native_only
@pytest.mark.parametrize("mode", ["ClientEnv", "ServerEnv"])
def test_native_victims(mode: str, run: Run) -> None:
    faces = tuple(face for face in FACES if MODES[face] == mode)
    chosen = [word for face in faces for word in ("--face", face)]
    check(run("--way", "C", *chosen, "--stride", "250"), faces)


def test_each_fault_is_reported(run: Run) -> None:
    pytest.importorskip("rlay._atomics")
    reported = {fault: 0 for fault, how in CONTROLS.items() if how.way != "C" or native.available()}
    for fault, verdict in run("--controls"):
        reported[fault] += any(CONTROLS[fault].says in text for text in verdict["problems"])
    assert all(reported.values()), reported


def test_points_are_the_lines_that_every_dry_run_reached() -> None:
    one, two, rare = Line("reset", "a.py", 1), Line("step", "a.py", 1), Line("step", "a.py", 2)
    runs = [[one, two, two, two, rare], [one, two, two]]
    assert list_points(runs, last=True) == [Point(*one, 1), Point(*two, 1), Point(*two, 2)]
    assert list_points(runs, last=False) == [Point(*one, 1), Point(*two, 1)]


def test_a_sample_has_a_point_of_each_phase() -> None:
    points = [Point(phase, "a.py", line, 1) for line in range(3) for phase in PHASES]
    parts = [Part("ClientEnv", "plain", False, "sweep", 0, point) for point in points]
    assert [part.point.phase for part in sample(parts, 100) if part.point] == list(PHASES)
    assert {part.point for part in sample(parts, 1)} == set(points)


_RUNNING = {"mapped": True, "welcome": Welcome.ACCEPTED}


@pytest.mark.parametrize(
    ("victim", "truth", "outcome"),
    [
        ("ServerBackend", Truth(), None),
        ("ServerBackend", Truth(mapped=True, turn=Side.SERVER, named=True), None),
        ("ServerBackend", Truth(**_RUNNING, turn=Side.CLIENT), (0, LOST)),
        ("ServerBackend", Truth(**_RUNNING, turn=Side.SERVER, asked=3, answered=2), (2, LOST)),
        # A reply half written, and one handed over.
        ("ServerBackend", Truth(**_RUNNING, turn=Side.SERVER, asked=3, answered=3), (2, LOST)),
        ("ServerBackend", Truth(**_RUNNING, turn=Side.CLIENT, asked=3, answered=3), (3, LOST)),
        ("ServerBackend", Truth(**_RUNNING, turn=Side.SERVER, asked=3, bye=1), (2, CLOSED)),
        ("ServerBackend", Truth(**_RUNNING, turn=Side.SERVER, asked=6, answered=5), (5, DONE)),
        ("ClientEnv", Truth(mapped=True), None),
        ("ClientEnv", Truth(mapped=True, turn=Side.SERVER), (0, LOST)),
        # A request half written, and one handed over.
        ("ClientEnv", Truth(**_RUNNING, turn=Side.CLIENT, asked=3, answered=2), (2, LOST)),
        ("ClientEnv", Truth(**_RUNNING, turn=Side.SERVER, asked=3, answered=2), (3, LOST)),
        ("ClientEnv", Truth(**_RUNNING, turn=Side.SERVER, asked=6, answered=5), (5, DONE)),
        # Hello and READY both give the server the turn; the data file's name tells them apart.
        ("ServerEnv", Truth(**_RUNNING, turn=Side.SERVER, named=True), None),
        ("ServerEnv", Truth(**_RUNNING, turn=Side.SERVER), (0, LOST)),
        ("ClientBackend", Truth(**_RUNNING, turn=Side.CLIENT, named=True), None),
        ("ClientBackend", Truth(**_RUNNING, turn=Side.CLIENT), None),
        ("ClientBackend", Truth(**_RUNNING, turn=Side.SERVER), (0, LOST)),
    ],
)
def test_what_the_survivor_must_see(victim: str, truth: Truth, outcome: Any) -> None:
    assert expected(truth, victim, at_once=False) == [outcome]
