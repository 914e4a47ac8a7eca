"""rlay.channel.channel: one waiting side against words that the test writes by hand."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

import rlay
from rlay.channel import files
from rlay.channel.channel import Channel
from rlay.channel.locks import OsLock
from rlay.channel.wait import SLICE_NS, STRATEGIES, Deadline, wait_strategy
from rlay.lifetime import new_guard
from rlay.protocol.constants import CONTROL_SIZE, Bye, Side
from rlay.protocol.header import HEADER

SERVER, CLIENT = Side.SERVER, Side.CLIENT


class Ends:
    """Both ends of one control file, each with the lock it probes, and the locks held."""

    def __init__(self, alias: str | None = None) -> None:
        self.paths = files.Paths("unit")
        mapping = files.create(self.paths.control, CONTROL_SIZE)
        self.locks = {
            SERVER: OsLock(self.paths.server_lock),
            CLIENT: OsLock(self.paths.client_lock),
        }
        self.probes = {
            SERVER: OsLock(self.paths.client_lock),
            CLIENT: OsLock(self.paths.server_lock),
        }
        for lock in self.locks.values():
            assert lock.try_acquire()
        mappings = {SERVER: mapping, CLIENT: files.attach(self.paths.control)}
        self.ends = {
            side: Channel(
                self.paths,
                mappings[side],
                side,
                self.probes[side],
                7,
                wait_strategy(alias),
                new_guard(),
            )
            for side in Side
        }

    def __getitem__(self, side: Side) -> Channel:
        return self.ends[side]

    def word(self, name: str) -> int:
        offset = HEADER[name].offset
        return int.from_bytes(self[SERVER].mapping.memory[offset : offset + 4], "little")

    def put(self, name: str, value: int) -> None:
        offset = HEADER[name].offset
        self[SERVER].mapping.memory[offset : offset + 4] = value.to_bytes(4, "little")

    def close(self) -> None:
        for end in self.ends.values():
            end.close()
            end.close()
        for lock in (*self.locks.values(), *self.probes.values()):
            lock.close()
        files.unlink(self.paths.control)


@pytest.fixture(params=list(STRATEGIES))
def ends(request: pytest.FixtureRequest) -> Iterator[Ends]:
    """Both ends of a channel, alive, however they wait."""
    ends = Ends(request.param)
    yield ends
    ends.close()


both_sides = pytest.mark.parametrize("side", list(Side))


@both_sides
def test_the_turn_goes_back_and_forth(side: Side, ends: Ends) -> None:
    ours, theirs = ends[side], ends[side.peer]
    assert not ours.our_turn()
    theirs.hand_over()
    assert ends.word("turn") == side
    assert ours.our_turn()
    assert not theirs.our_turn()
    ours.await_turn(Deadline(0.0), "reply", "test")
    ours.hand_over()
    assert theirs.our_turn()


@both_sides
def test_a_time_out_is_no_loss(side: Side, ends: Ends) -> None:
    for timeout in (0.0, 0.001, 0.03):
        with pytest.raises(rlay.ChannelTimeoutError, match="no reply within") as caught:
            ends[side].await_turn(Deadline(timeout), "reply", "STEPPING")
        assert (caught.value.waited_for, caught.value.phase) == ("reply", "STEPPING")
        assert caught.value.timeout == timeout
        assert ends.word(f"{side.name.lower()}_waiting") == 0
    ends[side.peer].hand_over()
    ends[side].await_turn(Deadline(0.0), "reply", "STEPPING")


@both_sides
def test_a_free_lock_is_a_loss(side: Side, ends: Ends) -> None:
    assert ends[side].lost_peer() is None
    ends.locks[side.peer].release()
    with pytest.raises(rlay.PeerLostError, match=r"its lock is free.*attaches again") as caught:
        ends[side].await_turn(Deadline(None), "reply", "test")
    assert caught.value.idle_for is not None
    # The probe kept nothing: the peer can come back.
    assert ends.locks[side.peer].try_acquire()


@both_sides
@pytest.mark.parametrize("bye", [Bye.CLOSED, Bye.FAILED])
def test_a_bye_is_a_goodbye_though_the_lock_is_free(side: Side, bye: Bye, ends: Ends) -> None:
    ends[side.peer].say_bye(bye)
    ends.locks[side.peer].release()
    with pytest.raises(rlay.PeerClosedError) as caught:
        ends[side].await_turn(Deadline(None), "reply", "test")
    assert caught.value.reason == bye.name.lower()
    text = "gave up" if bye is Bye.FAILED else "closed the session"
    assert text in str(caught.value)


@both_sides
def test_a_goodbye_just_before_the_probe_is_no_loss(
    side: Side, ends: Ends, monkeypatch: pytest.MonkeyPatch
) -> None:
    def leave_and_probe() -> bool:
        ends[side.peer].say_bye(Bye.CLOSED)
        ends.locks[side.peer].release()
        return OsLock.is_free(ends.probes[side])

    monkeypatch.setattr(ends.probes[side], "is_free", leave_and_probe)
    assert isinstance(ends[side].lost_peer(), rlay.PeerClosedError)


@both_sides
@pytest.mark.parametrize("bye", [Bye.NONE, Bye.CLOSED])
def test_a_reply_before_the_end_is_taken(
    side: Side, bye: Bye, ends: Ends, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The hand-over comes after the slice and before the probe: a second look finds it."""
    ours, theirs = ends[side], ends[side.peer]

    def slice_that_misses(_: Deadline) -> bool:
        theirs.hand_over()
        theirs.say_bye(bye)
        ends.locks[side.peer].release()
        return False

    monkeypatch.setattr(ours, "wait_slice", slice_that_misses)
    ours.await_turn(Deadline(None), "reply", "test")
    assert ours.our_turn()


def test_a_first_bye_stands(ends: Ends) -> None:
    ends[SERVER].say_bye(Bye.FAILED)
    ends[SERVER].say_bye(Bye.CLOSED)
    assert ends.word("server_bye") == Bye.FAILED
    assert ends.word("client_bye") == Bye.NONE
    assert ends.word("turn") == 0


@pytest.mark.parametrize("how", ["removed", "replaced"])
def test_another_file_is_a_dead_server(how: str, ends: Ends) -> None:
    if how == "replaced":
        other = ends.paths.private(1)
        files.create(other, CONTROL_SIZE).close()
        os.replace(other, ends.paths.control)
    else:
        ends.paths.control.unlink()
    with pytest.raises(rlay.PeerLostError, match="replaced or removed"):
        ends[CLIENT].await_turn(Deadline(None), "reply", "test")
    # A server in a session goes on until its client has gone (§11).
    with pytest.raises(rlay.ChannelTimeoutError):
        ends[SERVER].await_turn(Deadline(0.0), "request", "test")


@both_sides
@pytest.mark.parametrize("value", [3, 0x100, 0x101, 0x80000000, 0xFFFFFFFF])
def test_no_turn_is_the_peers_fault(side: Side, value: int, ends: Ends) -> None:
    ends.put("turn", value)
    with pytest.raises(rlay.RemoteProtocolError, match=f"{value:#x}"):
        ends[side].await_turn(Deadline(None), "reply", "test")


def test_a_claim_is_seen(ends: Ends) -> None:
    assert not ends[SERVER].claimed()
    ends[CLIENT].claim()
    assert ends[SERVER].claimed()
    assert ends.word("claim") == 1


def test_saying_bye_after_close_does_nothing(ends: Ends, channel_root: Path) -> None:
    ends[CLIENT].close()
    ends[CLIENT].say_bye(Bye.CLOSED)
    assert ends.word("client_bye") == Bye.NONE


def test_the_header_copy_is_private(ends: Ends) -> None:
    copy = ends[SERVER].header_copy()
    ends[CLIENT].claim()
    assert copy == bytes(4096)


@both_sides
def test_who_has_waited_a_slice_looks_after_the_peer_at_once(side: Side, ends: Ends) -> None:
    ends.locks[side.peer].release()
    waits: list[bool] = []
    ours = ends[side]
    ours.wait_slice = lambda deadline: bool(waits.append(True))  # type: ignore[method-assign]
    with pytest.raises(rlay.PeerLostError):
        ours.await_turn(Deadline(None), "reply", "test", waited_ns=SLICE_NS)
    assert waits == []
    ends[side.peer].hand_over()
    ours.await_turn(Deadline(None), "reply", "test", waited_ns=SLICE_NS)
    assert waits == []
