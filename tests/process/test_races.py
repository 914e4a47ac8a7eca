"""Many processes at once on one name: one server, one client; the rest are told who has it."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import rlay
from rlay.channel.channel import Channel
from rlay.channel.locks import OsLock
from tests.c_programs import Build, needs_make
from tests.peers import WATCHDOG, Task, until
from tests.toys import Counter

CHANNEL = "races"
#: How many contend, and how often; the winner is killed after each round.
CONTENDERS = 50
ROUNDS = int(os.environ.get("RLAY_TEST_ROUNDS", "2"))


def no_locks() -> None:
    """Break what makes it one winner."""
    OsLock._try = lambda self: True  # type: ignore[method-assign]
    Channel.claimed = lambda self: False  # type: ignore[method-assign]


def tell(log: str, what: Any) -> None:
    descriptor = os.open(log, os.O_WRONLY | os.O_APPEND)
    os.write(descriptor, json.dumps([os.getpid(), *what]).encode() + b"\n")
    os.close(descriptor)


def at_the_gate(gate: str) -> None:
    """Wait for a byte of this FIFO; the test writes one for each who waits."""
    descriptor = os.open(gate, os.O_RDONLY)
    os.read(descriptor, 1)
    os.close(descriptor)


def serve_once() -> Any:
    return rlay.MemServer(CHANNEL, rlay.Role.AGENT, features=rlay.Feature.NONE)


def attach_once() -> Any:
    deadline = time.monotonic() + WATCHDOG
    while True:
        try:
            return rlay.ClientEnv(CHANNEL, attach_timeout=0.3)
        except (rlay.ChannelTimeoutError, rlay.ChannelNotFoundError):
            # A busy machine: nobody has said that the channel is taken.
            if time.monotonic() > deadline:
                raise


def contend(what: str, gates: list[str], log: str, broken: bool = False) -> None:
    """Try once a round, all rounds; whoever wins keeps what it has until it is killed."""
    if broken:
        no_locks()
    won = []
    for number, gate in enumerate(gates):
        tell(log, ["ready", number])
        at_the_gate(gate)
        try:
            won.append({"server": serve_once, "client": attach_once}[what]())
            tell(log, ["won", number])
        except rlay.ChannelBusyError as error:
            tell(log, ["lost", number, str(error), error.owner])
        except BaseException as error:
            tell(log, ["failed", number, repr(error)])
        if won:
            signal.pause()


class Race:
    """The log of one race, and the gates of its rounds."""

    def __init__(self, folder: Path, rounds: int) -> None:
        self.log = folder / "log"
        self.log.touch()
        self.gates = [str(folder / f"gate-{number}") for number in range(rounds)]
        for gate in self.gates:
            os.mkfifo(gate)
        self._open = [os.open(gate, os.O_RDWR) for gate in self.gates]

    def said(self, what: str, number: int) -> list[list[Any]]:
        lines = [json.loads(line) for line in self.log.read_text().split("\n")[:-1]]
        return [line for line in lines if line[1] == what and line[2] == number]

    def outcomes(self, number: int) -> list[list[Any]]:
        return [line for what in ("won", "lost", "failed") for line in self.said(what, number)]

    def go(self, number: int, contenders: int) -> None:
        os.write(self._open[number], b"\n" * contenders)

    def run(self, number: int, contenders: int) -> list[list[Any]]:
        """Let all go at once, and return the outcomes."""
        until(lambda: len(self.said("ready", number)) == contenders, "all are ready")
        self.go(number, contenders)
        until(lambda: len(self.outcomes(number)) == contenders, "all have tried")
        return self.outcomes(number)

    def close(self) -> None:
        for descriptor in self._open:
            os.close(descriptor)


@pytest.fixture
def race(tmp_path: Path) -> Iterator[Race]:
    """A race of all rounds."""
    race = Race(tmp_path, ROUNDS)
    yield race
    race.close()


def problems_of(outcomes: list[list[Any]], words: str) -> list[Any]:
    """Check one round: one winner, and losers that were told in a sentence."""
    winners = [line for line in outcomes if line[1] == "won"]
    wrong: list[Any] = [] if len(winners) == 1 else [f"{len(winners)} winners"]
    wrong += [line for line in outcomes if line[1] == "failed"]
    return wrong + [line for line in outcomes if line[1] == "lost" and words not in line[3]]


def is_another(path: Path, inode: int) -> bool:
    return path.stat().st_ino != inode


def contenders(twin: str) -> int:
    """Return how many contend; a few are enough to see that the other twin does the same."""
    return CONTENDERS if twin == "compiled" or ROUNDS > 2 else 8


def test_many_servers(spawn: Any, race: Race, atomics_twin: str) -> None:
    children = [
        spawn(contend, "server", race.gates, str(race.log)) for _ in range(contenders(atomics_twin))
    ]
    for number in range(ROUNDS):
        outcomes = race.run(number, len(children))
        assert problems_of(outcomes, "already has a live server") == []
        (winner,) = [child for child in children if child.pid == race.said("won", number)[0][0]]
        owners = {line[4] for line in race.said("lost", number)}
        assert all(owner is None or f"process {winner.pid} " in owner for owner in owners), owners
        winner.signal(signal.SIGKILL)
        winner.wait()
        children.remove(winner)
    # The killed one left its file; the next server clears it away.
    rlay.MemServer(CHANNEL, rlay.Role.AGENT, features=rlay.Feature.NONE).close()


def test_many_clients(spawn: Any, race: Race, atomics_twin: str) -> None:
    backend = rlay.ServerBackend(CHANNEL, Counter(), attach_timeout=WATCHDOG)
    task = Task(backend.serve)
    try:
        children = [
            spawn(contend, "client", race.gates, str(race.log))
            for _ in range(contenders(atomics_twin))
        ]
        for number in range(ROUNDS):
            outcomes = race.run(number, len(children))
            assert problems_of(outcomes, "already has a client") == []
            (winner,) = [c for c in children if c.pid == race.said("won", number)[0][0]]
            control = backend._endpoint.paths.control
            fresh = functools.partial(is_another, control, control.stat().st_ino)
            winner.signal(signal.SIGKILL)
            winner.wait()
            children.remove(winner)
            until(fresh, "the server offers a new session")
    finally:
        backend.close()
        task.result()


@pytest.mark.leaves_files
@pytest.mark.parametrize("what", ["server", "client"])
def test_without_locks_there_are_many_winners(what: str, spawn: Any, race: Race) -> None:
    """The checks above see it."""
    with contextlib.ExitStack() as stack:
        if what == "client":
            # Each client finds an unclaimed file, as it believes, and gets a welcome now and then.
            backend = rlay.ServerBackend(CHANNEL, Counter(), attach_timeout=WATCHDOG)
            task = Task(backend.serve)
            stack.callback(task.result)
            stack.callback(backend.close)
        for _ in range(6):
            spawn(contend, what, race.gates, str(race.log), broken=True)
        until(lambda: len(race.said("ready", 0)) == 6, "all are ready")
        race.go(0, 6)
        words = "already has a"
        until(
            lambda: len(race.outcomes(0)) > 1 and problems_of(race.outcomes(0), words), "a report"
        )


# Contenders in C, and both kinds together.


class Games:
    """Programs in C that begin when the gate opens."""

    def __init__(self, program: Path, race: Race, count: int, *arguments: str) -> None:
        self.all = [
            subprocess.Popen(
                ["sh", "-c", 'read go < "$0"; exec "$@"', race.gates[0], str(program), *arguments],
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                text=True,
            )
            for _ in range(count)
        ]

    def alive(self) -> list[Any]:
        return [game for game in self.all if game.poll() is None]

    def problems(self, words: str) -> list[str]:
        """Check that those which have ended were told why."""
        said = {game.pid: game.stderr.read() for game in self.all if game not in self.alive()}
        return [
            said[game.pid]
            for game in self.all
            if game.pid in said and (game.returncode != 3 or words not in said[game.pid])
        ]

    def close(self) -> None:
        for game in self.all:
            game.kill()
            game.wait()
            game.stderr.close()


@needs_make
@pytest.mark.leaves_files
@pytest.mark.parametrize("in_python", [0, CONTENDERS // 2], ids=["c", "mixed"])
def test_many_servers_in_c(in_python: int, spawn: Any, race: Race, build: Build) -> None:
    children = [spawn(contend, "server", race.gates, str(race.log)) for _ in range(in_python)]
    server = ("--side", "server", "--role", "agent", "--channel", CHANNEL, "--timeout", "60")
    games = Games(build("scripted_peer"), race, CONTENDERS - in_python, *server)
    try:
        until(lambda: len(race.said("ready", 0)) == in_python, "all are ready")
        race.go(0, CONTENDERS)
        until(lambda: len(race.outcomes(0)) == in_python, "all children have tried")
        won = race.said("won", 0)
        until(lambda: len(games.alive()) + len(won) <= 1, "all programs but one have ended")
        winners = games.alive()
        assert len(winners) + len(won) == 1
        assert games.problems("has a server already") == []
        lost = race.said("lost", 0)
        assert problems_of([*lost, *(won or [[0, "won", 0]])], "already has a live server") == []
        for child in children:
            if won and child.pid == won[0][0]:
                child.signal(signal.SIGKILL)
                child.wait()
        for game in winners:
            game.kill()
            game.wait()
        # The name is free for the next one, in either language.
        rlay.MemServer(CHANNEL, rlay.Role.AGENT, features=rlay.Feature.NONE).close()
    finally:
        games.close()


@needs_make
@pytest.mark.one_twin
def test_many_clients_in_c(race: Race, build: Build) -> None:
    """One attaches; the others wait for their time-out and say that somebody else has."""
    client = ("--side", "client", "--role", "env", "--channel", CHANNEL, "--timeout", "2")
    with contextlib.closing(
        rlay.MemServer(CHANNEL, rlay.Role.AGENT, features=rlay.Feature.NONE)
    ) as server:
        games = Games(build("scripted_peer"), race, CONTENDERS, *client)
        try:
            race.go(0, CONTENDERS)
            session = server.accept(WATCHDOG)
            (winner,) = [game for game in games.all if game.pid == session.peer.pid]
            until(lambda: set(games.alive()) <= {winner}, "all others have ended")
            games.all.remove(winner)
            assert games.problems("has a client already") == []
            winner.kill()
            winner.wait()
            winner.stderr.close()
            session.end()
            again = Games(build("scripted_peer"), race, 1, *client)
            games.all += again.all
            race.go(0, 1)
            assert server.accept(WATCHDOG).peer.pid == again.all[0].pid
        finally:
            games.close()


@needs_make
@pytest.mark.leaves_files
def test_programs_that_do_not_meet_are_all_winners(
    race: Race, build: Build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The check above sees it."""
    games = []
    for which in ("a", "b"):
        monkeypatch.setenv("RLAY_DIR", str(tmp_path / which))
        server = ("--side", "server", "--role", "agent", "--channel", CHANNEL, "--timeout", "60")
        games.append(Games(build("scripted_peer"), race, 1, *server))
    try:
        race.go(0, 2)
        for which in ("a", "b"):
            path = tmp_path / which / f"{CHANNEL}.rlay"
            until(path.exists, "each has published")
        assert sum(len(game.alive()) for game in games) == 2
    finally:
        for game in games:
            game.close()
