"""One channel of a run: its two peers, what is done to them, and what must come of it.

Theory of operation. A stage is a thread. It disturbs its channel in bursts; after each burst
everything is made whole (stopped processes go on, dead ones are started again) and the
agent must make progress within ``PATIENCE``, or that is a hang. Between any two actions the
stage looks at its processes: who ended without a cause, which call is overdue.
"""

from __future__ import annotations

import collections
import random
import signal
import threading
import time
from pathlib import Path
from typing import Any

from tests.chaos import disturb, watch
from tests.chaos.casting import Cast, Theatre
from tests.chaos.ledger import BEGAN_NS, BORN, EPISODES, STEPS, STOP, Ledger

#: Within this time a channel that is left alone must go on; seconds.
PATIENCE = 60.0
#: How often the stage looks.
TICK = 0.05
#: Steps that count as progress.
PROGRESS = 10
#: How long a stage looks for a data file to catch, seconds.
HUNT = 1.0
#: How many looks at a peer's descriptors say how many there are; it may be between two sessions.
FIRST_LOOKS = 3
#: At least so many bursts, however short the run: descriptors are compared after the first.
ROUNDS = FIRST_LOOKS + 1
#: How long a calm lasts, seconds.
CALM = 2.0
#: Errors that a calm may bring: what was done to files before is noticed late.
LATE_ERRORS = 2


class Peer:
    """One side of a channel, across the restarts of its process."""

    def __init__(self, stage: Stage, role: str) -> None:
        self.stage, self.role = stage, role
        path = stage.theatre.folder / f"{stage.cast.name}.{role}.ledger"
        self.ledger = Ledger(path)
        self.process: Any = None
        self.starts = self.interrupts = 0
        self.killed = self.leaving = False
        self.start_at: float | None = None
        self.go_on_at: float | None = None
        self._overdue = watch.Overdue(stage.margin)
        self._before, self._looks = [0, 0], 0

    def __str__(self) -> str:
        return f"{self.stage.cast.name}.{self.role}"

    def start(self) -> None:
        """Start the process; the ledger goes on."""
        self.start_at = self.go_on_at = None
        self.killed, self.interrupts = False, 0
        for word in (BEGAN_NS, BORN, STOP):
            self.ledger.words[word] = 0
        stage = self.stage
        draw = random.Random(f"{stage.seed}/{self}/{self.starts}")
        self.process = stage.theatre.start(stage.cast, self.role, stage.salt, draw)
        self.starts += 1

    def signal(self, number: signal.Signals) -> bool:
        """Send a signal unless the process has ended."""
        if self.process is None or self.process.poll() is not None:
            return False
        self.process.signal(number)
        return True

    def look(self) -> None:
        """See what became of the process, and do what is due."""
        now = time.monotonic()
        if self.process is None:
            if self.start_at is not None and now >= self.start_at and not self.leaving:
                self.start()
            return
        if self.go_on_at is not None and now >= self.go_on_at:
            self.go_on()
        code = self.process.poll()
        if code is not None:
            self._judge_exit(code)
            self.process = None
            if self.start_at is None:
                self.start_at = now
            return
        late = self._overdue.look(self.ledger, stopped=self.go_on_at is not None)
        if late is not None:
            self.stage.found("hangs", f"{self}: a call is {late:.1f} s past its deadline")
            self.kill()

    def _judge_exit(self, code: int) -> None:
        tail = self.process.output()[-3000:]
        by_ctrl_c = code == -signal.SIGINT or (code == 1 and "KeyboardInterrupt" in tail)
        interrupted = self.interrupts and by_ctrl_c
        asked = code == 0 and (self.ledger.words[STOP] or self.interrupts)
        if not (asked or interrupted or (self.killed and code == -signal.SIGKILL)):
            self.stage.found("unexpected", f"{self} ended with {code}: {tail}")

    def kill(self) -> bool:
        """End the process at once."""
        self.killed = True
        return self.signal(signal.SIGKILL)

    def stop_for(self, seconds: float) -> bool:
        """Stop the process for a while."""
        if not self.signal(signal.SIGSTOP):
            return False
        self.go_on_at = time.monotonic() + seconds
        return True

    def go_on(self) -> None:
        """Let a stopped process go on."""
        if self.go_on_at is not None:
            self.signal(signal.SIGCONT)
            self.go_on_at = None

    def interrupt(self) -> bool:
        """Press Ctrl-C, once the process can take it."""
        if self.process is None or self.ledger.words[BORN] != self.process.pid:
            return False
        self.interrupts += 1
        return self.signal(signal.SIGINT)

    def told(self) -> int:
        """Return how many lines the peer has written."""
        return sum(1 for _ in self.ledger.lines())

    def ask_to_stop(self) -> None:
        """Ask the process to leave as a program does."""
        self.ledger.words[STOP] = 1

    def compare(self) -> None:
        """Compare descriptors and mappings with those of the first looks, all being well."""
        if self.process is None:
            return
        root, pid = str(self.stage.root), self.process.pid
        looks = [watch.held(pid, root)]
        for _ in range(3):
            self.stage.pause(TICK)
            looks.append(watch.held(pid, root))
        if self.process is None or self.process.pid != pid:
            return
        held = [min(column) for column in zip(*looks, strict=True)]
        self._looks += 1
        if self._looks <= FIRST_LOOKS:
            self._before = [max(pair) for pair in zip(held, self._before, strict=True)]
        # Ctrl-C may come between the opening of a file and the line that keeps it.
        elif max(a - b for a, b in zip(held, self._before, strict=True)) > self.interrupts:
            self.stage.found("left", f"{self}: descriptors, mappings {held}, once {self._before}")


class Stage(threading.Thread):
    """Runs one channel until ``until``, then ends it in good order.

    Attributes:
        findings: (category, text) of everything that must not be.
        done: how often each kind of disturbance was done.
    """

    def __init__(
        self,
        cast: Cast,
        theatre: Theatre,
        root: Path,
        *,
        seed: str,
        salt: int,
        until: float,
        patience: float = PATIENCE,
        margin: float = watch.MARGIN,
    ) -> None:
        super().__init__(name=cast.name, daemon=True)
        self.cast, self.theatre, self.root, self.salt = cast, theatre, root, salt
        self.seed, self.draw = seed, random.Random(f"{seed}/{cast.name}")
        #: Inodes of files that the stage put in place of the channel's.
        self.planted: set[tuple[int, int]] = set()
        self.margin = margin
        self._until, self._patience = until, patience
        self.findings: list[tuple[str, str]] = []
        self.done: collections.Counter[str] = collections.Counter()
        roles = ["env", "agent"] if cast.env else ["agent"]
        self.peers = [Peer(self, role) for role in roles]
        self.agent = self.peers[-1]

    def found(self, category: str, text: str) -> None:
        """Note a finding."""
        self.findings.append((category, text))

    def pause(self, seconds: float) -> None:
        """Let time pass, and look."""
        end = time.monotonic() + seconds
        while True:
            for peer in self.peers:
                peer.look()
            left = end - time.monotonic()
            if left <= 0:
                return
            time.sleep(min(left, TICK))

    def run(self) -> None:
        """Disturb, heal and look until the time is over."""
        try:
            self._play()
        except BaseException as error:
            self.found("unexpected", f"the stage of {self.cast.name} fell: {error!r}")
            raise

    def _play(self) -> None:
        order = list(self.peers)
        self.draw.shuffle(order)
        for peer in order:
            peer.start()
            self.pause(self.draw.uniform(0.0, 0.2))
        self._await_progress()
        rounds = 0
        while (time.monotonic() < self._until or rounds < ROUNDS) and not self._is_hopeless():
            rounds += 1
            self._burst()
            self._heal()
            self._await_progress()
            for peer in self.peers:
                peer.compare()
            if self.draw.random() < self.cast.calm:
                self._be_calm()
        self._finish()

    def _is_hopeless(self) -> bool:
        return len(self.findings) >= 3

    def _burst(self) -> None:
        if self.cast.kinds == ():
            return
        kinds = self.cast.kinds if self.cast.kinds is not None else tuple(disturb.WEIGHTS)
        weights = [disturb.WEIGHTS[kind] for kind in kinds]
        for _ in range(self.draw.randint(1, 6)):
            gap = min(1.0, self.draw.expovariate(6.0))
            kind = self.draw.choices(kinds, weights)[0]
            whom, how_long, number = (self.draw.random() for _ in range(3))
            self.pause(gap)
            if kind in disturb.SIGNALS:
                done = self._signal(kind, whom, how_long)
            else:
                done = self._touch_files(kind, whom, int(number * (1 << 53)))
            self._count(kind, done)
        self.pause(1.5 * self.draw.random())

    def _count(self, kind: str, done: bool) -> None:
        if done:
            self.done[kind] += 1

    def _signal(self, kind: str, whom: float, how_long: float) -> bool:
        peer = self.peers[int(whom * len(self.peers))]
        if self.cast.env is None and whom < 0.6 and kind in ("kill", "stop"):
            return self._signal_worker(kind, whom / 0.6, how_long)
        if kind == "kill":
            peer.start_at = time.monotonic() + how_long * 0.5
            return peer.kill()
        if kind == "stop":
            # As long as a time-out, and longer.
            return peer.stop_for(2.5 * how_long * how_long)
        if kind == "restart":
            peer.ask_to_stop()
            return peer.interrupt() if peer.role == "env" else True
        return peer.interrupt()

    def _touch_files(self, kind: str, whom: float, number: int) -> bool:
        """Do something to a file; a data file has a name only while its client attaches."""
        arguments = kind, self.root, self.cast.name, number, self.planted
        if "data" not in kind or self.cast.env is None:
            return disturb.on_files(*arguments)
        peer = self.peers[int(whom * len(self.peers))]
        peer.start_at = time.monotonic()
        self._count("kill", peer.kill())
        end = time.monotonic() + HUNT
        while time.monotonic() < end:
            self.pause(0.0)
            for _ in range(50):
                if disturb.on_files(*arguments):
                    return True
                time.sleep(0.0001)
        return False

    def _signal_worker(self, kind: str, whom: float, how_long: float) -> bool:
        if self.agent.process is None:
            return False
        pairs = [
            (supervisor, worker)
            for supervisor in watch.children(self.agent.process.pid)
            for worker in watch.children(supervisor)
        ]
        if not pairs:
            return False
        parent, worker = pairs[int(whom * len(pairs))]
        if kind == "kill":
            return disturb.strike(worker, signal.SIGKILL, parent)
        if not disturb.strike(worker, signal.SIGSTOP, parent):
            return False
        self.pause(2.5 * how_long * how_long)
        disturb.strike(worker, signal.SIGCONT, parent)
        return True

    def _heal(self) -> None:
        for peer in self.peers:
            peer.go_on()
            if peer.process is None:
                peer.start_at = time.monotonic()
            if not peer.ledger.words[STOP]:
                peer.look()

    def _be_calm(self) -> None:
        """Leave the channel alone: then nobody may lose anybody again and again."""
        before = [peer.told() for peer in self.peers]
        self.pause(CALM)
        for peer, count in zip(self.peers, before, strict=True):
            if peer.told() > count + LATE_ERRORS:
                last = list(peer.ledger.lines())[-1]
                self.found("unexpected", f"{peer}: {peer.told() - count} errors in a calm: {last}")

    def _await_progress(self) -> None:
        words = self.agent.ledger.words
        goal = words[STEPS] + words[EPISODES] + PROGRESS
        end = time.monotonic() + self._patience
        while words[STEPS] + words[EPISODES] < goal:
            if time.monotonic() > end:
                states = ", ".join(f"{peer}: {self._state(peer)}" for peer in self.peers)
                text = f"{self.cast.name} made no progress for {self._patience:g} s ({states})"
                self.found("hangs", text)
                for peer in self.peers:
                    peer.kill()
                self.pause(TICK)
                return
            self.pause(TICK)
            if self._is_hopeless():
                return

    def _state(self, peer: Peer) -> str:
        if peer.process is None:
            return "not running"
        last = list(peer.ledger.lines())[-1:]
        return f"began {peer.ledger.words[BEGAN_NS]}, last line {last}"

    def _finish(self) -> None:
        """End the agent, then the environment: each leaves as a program does."""
        self._heal()
        for peer in reversed(self.peers):
            if peer.process is None:
                continue
            peer.leaving = True
            peer.ask_to_stop()
            if self.findings:
                peer.kill()
            end = time.monotonic() + self._patience
            while peer.process is not None:
                if time.monotonic() > end:
                    self.found("hangs", f"{peer} did not stop within {self._patience:g} s")
                    peer.kill()
                    end += self._patience
                self.pause(TICK)
