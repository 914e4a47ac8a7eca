"""Group ``crowd``: four pairs of processes on one core, where every spin keeps the peer away."""

from __future__ import annotations

import mmap
import multiprocessing
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rlay.channel.wait import usable_cores
from rlay.envs.client_env import ClientEnv
from rlay.errors import RlayError
from rlay.tools.bench import peers
from rlay.tools.bench.envs import NoOpEnv
from rlay.tools.bench.peers import Child
from rlay.tools.bench.plan import Plan
from rlay.tools.bench.results import MissingPeerError, Results, Row
from rlay.tools.bench.stage import Stage

GROUP = "crowd"
PAIRS = 4
LABELS = {
    "rlay": f"rlay, {PAIRS} pairs on one core",
    "pipe": f"multiprocessing Pipe, pickle, {PAIRS} pairs on one core",
}
_SETTLE_SECONDS = 0.02
_CACHE_LINE = 64


def on_core(core: int, function: Callable[..., None], *args: Any) -> None:
    """Call a function on one core; runs in a child, before rlay looks how many there are."""
    os.sched_setaffinity(0, {core})
    function(*args)


def _count(step: Callable[[int], Any], path: str, index: int) -> None:
    """Step until killed; the number of steps stands in a file."""
    with open(path, "r+b") as file:
        steps = memoryview(mmap.mmap(file.fileno(), 0)).cast("Q")
    at = index * _CACHE_LINE // 8
    while True:
        step(1)
        steps[at] += 1


def play_rlay(channel: str, path: str, index: int) -> None:
    """Step through rlay; runs in a child."""
    env = ClientEnv(channel, attach_timeout=peers.START_TIMEOUT)
    env.reset()
    _count(env.step, path, index)


def play_pipe(connection: Any, path: str, index: int) -> None:
    """Step through a multiprocessing pipe; runs in a child."""
    connection.recv()

    def step(action: int) -> Any:
        connection.send(action)
        return connection.recv()

    _count(step, path, index)


class _Crowd:
    """The pairs of one contender, held still but for their turn."""

    def __init__(self, stage: Stage, key: str) -> None:
        descriptor, self._path = tempfile.mkstemp(dir=stage.root)
        os.truncate(descriptor, PAIRS * _CACHE_LINE)
        os.close(descriptor)
        core = usable_cores()[-1]
        self.children: list[Child] = []
        for index in range(PAIRS):
            for function, *args in self._pair(stage, key, index):
                self.children.append(stage.child(on_core, core, function, *args))
        stage.at_end(self._kill)
        end = time.monotonic() + peers.START_TIMEOUT
        while 0 in self.steps():
            if time.monotonic() > end:
                raise MissingPeerError("the pairs did not start")
            time.sleep(_SETTLE_SECONDS)
        self.pause()
        self.values: list[float] = []
        self.shares: list[float] = []

    def _pair(self, stage: Stage, key: str, index: int) -> list[tuple[Any, ...]]:
        if key == "pipe":
            ours, theirs = multiprocessing.Pipe()
            stage.at_end(ours.close)
            stage.at_end(theirs.close)
            return [
                (peers.serve_pipe, theirs, NoOpEnv),
                (play_pipe, ours, self._path, index),
            ]
        channel = stage.channel()
        return [(peers.serve, channel, NoOpEnv), (play_rlay, channel, self._path, index)]

    def steps(self) -> list[int]:
        """Return how many steps each pair has taken."""
        numbers = memoryview(Path(self._path).read_bytes()).cast("Q")
        return numbers.tolist()[:: _CACHE_LINE // 8]

    def _kill(self) -> None:
        # The agents would play on for ever, and sixteen that are asked nicely take their time.
        for child in self.children:
            child.kill()

    def pause(self) -> None:
        """Hold all processes still."""
        for child in self.children:
            child.pause()

    def turn(self, seconds: float) -> None:
        """Let them go for a while; keep the steps of all in a second, and the slowest's share."""
        for child in self.children:
            child.resume()
        time.sleep(_SETTLE_SECONDS)
        before, begin = self.steps(), time.perf_counter()
        time.sleep(seconds)
        after, spent = self.steps(), time.perf_counter() - begin
        self.pause()
        taken = [now - then for now, then in zip(after, before, strict=True)]
        self.values.append(sum(taken) / spent)
        self.shares.append(min(taken) * PAIRS / max(1, sum(taken)))


def measure(stage: Stage, plan: Plan, results: Results) -> None:
    """Measure the group."""
    crowds: dict[str, _Crowd] = {}
    for key in LABELS:
        try:
            if not hasattr(os, "sched_setaffinity"):
                raise MissingPeerError("processes cannot be kept on one core here")
            crowds[key] = _Crowd(stage, key)
        except (MissingPeerError, RlayError, OSError) as error:
            results.miss(GROUP, key, str(error))
    for _ in range(plan.crowd_rounds):
        for crowd in crowds.values():
            crowd.turn(plan.crowd_seconds)
    for key, crowd in crowds.items():
        facts = {"pairs": PAIRS, "slowest_of_mean": min(crowd.shares)}
        results.add(Row(GROUP, key, LABELS[key], "steps/s", crowd.values, facts))
