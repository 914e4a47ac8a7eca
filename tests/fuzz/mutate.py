"""Pairs whose mapped files are changed while they step: ``python -m tests.fuzz.mutate``.

``strike_pair`` is for two processes of any language: it starts them, strikes one of them
until they end, and returns what they said. The processes judge themselves (``victim.py``).
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import itertools
import json
import os
import random
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from tests.fuzz.mutator import Mutator

ROOT = Path(__file__).parents[2]
#: What a process may take to end after its time is over: the slack of its last operation.
_WATCHDOG = 60.0
MODES = {"ClientEnv": ("client", "server"), "ServerEnv": ("server", "client")}


class BrokenPromiseError(AssertionError):
    """A process crashed, hung, or said itself that it broke its promise."""


def strike_pair(
    victims: Sequence[subprocess.Popen[str]],
    root: Path,
    seed: int,
    *,
    strikes: int,
    pause: float = 0.004,
) -> int:
    """Change bytes in the channel files of running processes, then let them end.

    They end when their standard input does; one that ends before that broke its promise.

    Args:
        victims: the processes; each is struck in turn.
        root: the directory of their channels.
        seed: of the changes.
        strikes: how many changes to make, unless a process ends.
        pause: seconds between two changes at most.

    Returns:
        How many changes there were.

    Raises:
        BrokenPromiseError: nothing was mapped for long, or one does not end.
    """
    chance = random.Random(seed)
    mutators: list[Mutator] = []
    made, end = 0, time.monotonic() + _WATCHDOG
    try:
        with contextlib.suppress(OSError):  # one has ended: then there is nothing to strike
            for number, victim in enumerate(victims):
                mutators.append(Mutator(victim.pid, root, seed + number))
        while mutators and made < strikes and all(victim.poll() is None for victim in victims):
            if time.monotonic() > end:
                raise BrokenPromiseError(f"nothing to change was mapped for {_WATCHDOG:g} s")
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                chance.choice(mutators).strike()
            count = sum(mutator.count for mutator in mutators)
            if count > made:
                made, end = count, time.monotonic() + _WATCHDOG
            time.sleep(chance.random() * pause)
    finally:
        for mutator in mutators:
            mutator.close()
    for victim in victims:
        assert victim.stdin is not None
        victim.stdin.close()
    for victim in victims:
        _await_end(victim)
    return made


def _await_ready(victims: Sequence[subprocess.Popen[str]]) -> None:
    """Wait until the agent has stepped, which it says, or one has ended."""
    end, agent = time.monotonic() + _WATCHDOG, victims[0].stdout
    assert agent is not None
    while all(victim.poll() is None for victim in victims):
        if select.select([agent], [], [], 0.05)[0]:
            return
        if time.monotonic() > end:
            raise BrokenPromiseError(f"no step within {_WATCHDOG:g} s")


def _await_end(victim: subprocess.Popen[str]) -> None:
    try:
        victim.wait(_WATCHDOG)
    except subprocess.TimeoutExpired:
        victim.send_signal(signal.SIGUSR1)  # a Python victim writes where it stands
        time.sleep(1.0)
        victim.kill()
        said = victim.stdout.read() if victim.stdout else ""
        raise BrokenPromiseError(f"process {victim.pid} does not end:\n{said[-3000:]}") from None


@contextlib.contextmanager
def _started(commands: Sequence[list[str]], environment: dict[str, str]) -> Iterator[list]:
    """Start processes, and end them all."""
    with contextlib.ExitStack() as stack:
        victims = []
        for command in commands:
            victim = subprocess.Popen(
                command,
                env=environment,
                cwd=ROOT,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
            stack.enter_context(victim)
            stack.callback(victim.kill)
            victims.append(victim)
        yield victims


def run_pair(
    root: Path,
    mode: str,
    kind: str,
    twin: str,
    seed: int,
    *,
    strikes: int,
    broken: Sequence[str] = (),
) -> tuple[int, collections.Counter[str]]:
    """Run two Python victims against each other while they are struck.

    Returns:
        The number of changes, and how often each outcome was.

    Raises:
        BrokenPromiseError: says which side, and what it said.
    """
    agent, env = MODES[mode]
    common = ["--channel", f"mutate{seed}", "--kind", kind, *broken]
    commands = [
        [sys.executable, "-m", "tests.fuzz.victim", "--role", role, "--side", side, *common]
        for role, side in (("agent", agent), ("env", env))
    ]
    environment = {**os.environ, "RLAY_DIR": str(root), "RLAY_ATOMICS": twin}
    environment["PYTHONPATH"] = str(ROOT)
    counts: collections.Counter[str] = collections.Counter()
    with _started(commands, environment) as victims:
        _await_ready(victims)
        made = strike_pair(victims, root, seed, strikes=strikes)
        for victim, role in zip(victims, ("agent", "env"), strict=True):
            said = victim.stdout.read()
            if victim.returncode:
                problem = f"the {role} of {mode} ({kind}, {twin}, seed {seed}) ended with"
                raise BrokenPromiseError(f"{problem} {victim.returncode}:\n{said[-3000:]}")
            counts.update(json.loads(said.splitlines()[-1]))
    return made, counts


def main() -> int:
    """Run all modes, environments and twins in turn, until the time is over."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--strikes", type=int, default=3000, help="changes to one pair")
    parser.add_argument("--seed", type=int, default=None)
    a = parser.parse_args()
    if not Path("/proc/self/mem").exists():
        print("make mutate needs /proc/PID/mem, which only Linux has", file=sys.stderr)
        return 2
    seed = random.SystemRandom().randrange(10**6) if a.seed is None else a.seed
    end, total, counts = time.monotonic() + a.minutes * 60, 0, collections.Counter[str]()
    pairs = itertools.product(MODES, ("plain", "rich"), ("compiled", "pure"))
    root = Path(tempfile.mkdtemp(prefix="rlay-mutate-", dir="/dev/shm"))
    try:
        for number, (mode, kind, twin) in enumerate(itertools.cycle(list(pairs))):
            if time.monotonic() > end:
                break
            strikes, outcomes = run_pair(root, mode, kind, twin, seed + number, strikes=a.strikes)
            total += strikes
            counts.update(outcomes)
            print(
                f"{mode:9} {kind:5} {twin:8} seed {seed + number}: {strikes:6,} changes", flush=True
            )
    except BrokenPromiseError as broken:
        print(broken)
        return 1
    finally:
        shutil.rmtree(root)
    print(f"{number} pairs, {total:,} changes; every operation ended in time as one of:")
    for outcome, count in counts.most_common():
        print(f"  {outcome:24} {count:9,}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
