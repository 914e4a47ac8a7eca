"""Outsiders who remove or replace the files of a channel: its server puts them there again."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

import pytest

import rlay
from rlay.channel.locks import OsLock
from rlay.protocol.header import HEADER
from tests.peers import MODES, PATIENT, WATCHDOG, Task, hosted, until
from tests.toys import Counter, play

CHANNEL = "outsiders"

both_modes = pytest.mark.parametrize("mode", MODES)


def put_another(path: Path, how: str) -> None:
    if how == "replaced":
        other = path.with_name("other")
        other.touch(0o600)
        other.write_bytes(path.read_bytes())
        os.replace(other, path)
    else:
        path.unlink()


@pytest.mark.parametrize("how", ["removed", "replaced"])
def test_an_idle_server_publishes_again(how: str, channel_root: Path) -> None:
    path = channel_root / f"{CHANNEL}.rlay"
    with contextlib.closing(rlay.ServerBackend(CHANNEL, Counter(), **PATIENT)) as backend:
        before = path.stat().st_ino
        put_another(path, how)
        serve = Task(backend.serve, sessions=1)
        with contextlib.closing(rlay.ClientEnv(CHANNEL, **PATIENT)) as env:
            assert path.stat().st_ino != before
            play(env)
        serve.result()


def test_a_server_looks_at_its_path_though_a_living_client_has_claimed(channel_root: Path) -> None:
    path = channel_root / f"{CHANNEL}.rlay"
    with contextlib.closing(
        rlay.MemServer(CHANNEL, rlay.Role.AGENT, features=rlay.Feature.NONE)
    ) as server:
        claimer = OsLock(channel_root / f"{CHANNEL}.client.lock")
        assert claimer.try_acquire()
        server._channel.mapping.memory[HEADER["claim"].offset] = 1
        path.unlink()
        accept = Task(server.accept, WATCHDOG)
        until(path.exists, "the next file")
        claimer.close()
        server._starting = _stop
        with pytest.raises(InterruptedError):
            accept.result()


def _stop() -> None:
    raise InterruptedError


@both_modes
@pytest.mark.parametrize("how", ["removed", "replaced"])
def test_a_session_whose_file_goes(mode: str, how: str, channel_root: Path) -> None:
    """The client ends it at its next wait; the server publishes once the client has gone."""
    path = channel_root / f"{CHANNEL}.rlay"
    toy = Counter()
    with hosted(mode, toy, CHANNEL) as env:
        play(env)
        toy.plan["step"] = "block"
        env.timeout = None
        stepping = Task(env.step, 9)
        until(toy.entered.is_set, "the environment is in its step")
        put_another(path, how)
        if mode == "ClientEnv":
            with pytest.raises(rlay.PeerLostError, match="replaced or removed"):
                stepping.result()
            toy.let_go()
        else:
            # The game has the turn: its reply still arrives, and then it finds out.
            toy.let_go()
            assert stepping.result()[1] == 9.0
            until(env._session._channel.lost_peer, "the game has left")
            with pytest.raises(rlay.PeerClosedError):
                env.step(1)
        play(env)


def test_a_server_that_lost_its_lock_file_takes_it_again(channel_root: Path) -> None:
    with contextlib.closing(rlay.ServerBackend(CHANNEL, Counter(), **PATIENT)) as backend:
        for entry in os.listdir(channel_root):
            (channel_root / entry).unlink()
        serve = Task(backend.serve, sessions=1)
        with contextlib.closing(rlay.ClientEnv(CHANNEL, **PATIENT)) as env:
            with pytest.raises(rlay.ChannelBusyError):
                rlay.ServerBackend(CHANNEL, Counter())
            play(env)
        serve.result()


@both_modes
def test_a_lock_file_removed_in_a_session_is_back_with_the_next(
    mode: str, channel_root: Path
) -> None:
    """Or every client that comes later would take the server for dead at each slow step."""
    path = channel_root / f"{CHANNEL}.server.lock"
    with hosted(mode, Counter(), CHANNEL) as env:
        play(env)
        path.unlink()
        env.reattach()
        play(env)
        with contextlib.closing(OsLock(path)) as probe:
            assert not probe.is_free()


def test_a_server_that_lost_everything_to_another_gives_way(channel_root: Path) -> None:
    first = rlay.MemServer(CHANNEL, rlay.Role.AGENT, features=rlay.Feature.NONE)
    for entry in os.listdir(channel_root):
        (channel_root / entry).unlink()
    with contextlib.closing(rlay.ServerBackend(CHANNEL, Counter(), **PATIENT)) as backend:
        with pytest.raises(rlay.ChannelBusyError, match="already has a live server"):
            first.accept(WATCHDOG)
        inode = backend._endpoint.paths.control.stat().st_ino
        first.close()
        # It has not taken the other's file with it.
        assert backend._endpoint.paths.control.stat().st_ino == inode
        serve = Task(backend.serve, sessions=1)
        with contextlib.closing(rlay.ClientEnv(CHANNEL, **PATIENT)) as env:
            play(env)
        serve.result()


def test_a_server_that_lost_its_lock_in_a_session_gives_way(channel_root: Path) -> None:
    path = channel_root / f"{CHANNEL}.rlay"
    with contextlib.closing(rlay.ServerBackend(CHANNEL, Counter(), **PATIENT)) as first:
        serve = Task(first.serve, sessions=1)
        with contextlib.closing(rlay.ClientEnv(CHANNEL, **PATIENT)) as env:
            play(env)
            (channel_root / f"{CHANNEL}.server.lock").unlink()
            with contextlib.closing(rlay.ServerBackend(CHANNEL, Counter())):
                inode = path.stat().st_ino
                env.close()
                serve.result()
                assert path.stat().st_ino == inode
