"""Attaching to nobody, to somebody else, or to bytes that lie: a clear error."""

from __future__ import annotations

import contextlib
import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import rlay
from rlay import server
from rlay.channel import files
from rlay.channel.channel import Channel
from rlay.protocol.constants import CONTROL_SIZE, Role
from rlay.protocol.header import HEADER, HELLO, write_fields
from tests.peers import MODES, WATCHDOG, Task, hosted, serving
from tests.toys import Counter

CHANNEL = "bad"
NOW = {"attach_timeout": 0.0}


def offset(name: str) -> int:
    side, _, part = name.partition(".")
    return HEADER[side].offset + (HELLO[part].offset if part else 0)


def overwrite(path: Path, name: str, value: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(offset(name))
        file.write(value)


@pytest.fixture
def published(channel_root: Path) -> Iterator[Path]:
    """The control file of a server with a Counter that nobody attends to."""
    with contextlib.closing(rlay.ServerBackend(CHANNEL, Counter())):
        yield channel_root / f"{CHANNEL}.rlay"


# Nobody there, or somebody else.


def test_no_server() -> None:
    with pytest.raises(rlay.ChannelNotFoundError, match=r"no server for channel 'bad'.*RLAY_DIR"):
        rlay.ClientEnv(CHANNEL, **NOW)
    with contextlib.closing(rlay.ClientBackend(CHANNEL, Counter(), **NOW)) as backend:
        with pytest.raises(rlay.ChannelNotFoundError, match="start the server"):
            backend.next_request()
        with pytest.raises(FileNotFoundError):
            backend.serve(sessions=1)


def test_no_client() -> None:
    with pytest.raises(rlay.ChannelTimeoutError, match="no client on channel 'bad' within 0 s"):
        rlay.ServerEnv(CHANNEL, **NOW)


@pytest.mark.parametrize("claimed", [False, True])
def test_a_dead_servers_file(claimed: bool, published: Path) -> None:
    """A file without a living server is as good as none, and says so."""
    content = bytearray(published.read_bytes())
    if claimed:
        content[offset("claim")] = 1
    other = published.with_name("dead.rlay")
    other.touch(0o600)
    other.write_bytes(content)
    try:
        with pytest.raises(rlay.ChannelNotFoundError, match=r"no server for channel 'dead'"):
            rlay.ClientEnv("dead", attach_timeout=0.1)
    finally:
        other.unlink()


def test_two_servers_for_one_name(published: Path) -> None:
    before = published.stat().st_ino
    for make in (
        lambda: rlay.ServerBackend(CHANNEL, Counter()),
        lambda: rlay.ServerEnv(CHANNEL, **NOW),
    ):
        with pytest.raises(rlay.ChannelBusyError, match="already has a live server") as caught:
            make()
        assert f"process {os.getpid()} on" in str(caught.value.owner)
        assert str(caught.value.owner) in str(caught.value)
    assert published.stat().st_ino == before


@pytest.mark.parametrize("mode", MODES)
def test_two_clients_for_one_server(mode: str) -> None:
    with hosted(mode, Counter(), CHANNEL) as env:
        if mode == "ClientEnv":
            with pytest.raises(rlay.ChannelBusyError, match="already has a client") as caught:
                rlay.ClientEnv(CHANNEL, **NOW)
        else:
            with contextlib.closing(rlay.ClientBackend(CHANNEL, Counter(), **NOW)) as second:
                with pytest.raises(rlay.ChannelBusyError, match="already has a client") as caught:
                    second.next_request()
        assert f"process {os.getpid()} on" in str(caught.value.owner)
        # Nobody was disturbed.
        env.reset()
        assert env.step(5)[1] == 5.0


def test_a_living_server_that_does_not_answer(published: Path) -> None:
    with pytest.raises(rlay.ChannelTimeoutError, match="welcome from the server"):
        rlay.ClientEnv(CHANNEL, attach_timeout=0.05)


def test_roles_that_do_not_complement(published: Path) -> None:
    with contextlib.closing(rlay.ClientBackend(CHANNEL, Counter(), **NOW)) as backend:
        with pytest.raises(rlay.ChannelFormatError, match="ServerEnv with ClientBackend") as caught:
            backend.next_request()
    assert (caught.value.found, "AGENT" in str(caught.value.expected)) == ("ENV", True)
    assert published.read_bytes()[offset("claim")] == 0


def test_describing_an_owner_of_nonsense(channel_root: Path) -> None:
    paths = files.Paths(CHANNEL)
    assert server.describe_owner(paths, rlay.Side.SERVER) is None
    paths.control.touch(0o600)
    assert server.describe_owner(paths, rlay.Side.SERVER) is None
    paths.control.write_bytes(bytes(100))
    assert server.describe_owner(paths, rlay.Side.SERVER) is None
    paths.control.unlink()


# A control file that lies.

LIES: list[Any] = [
    ("magic", b"\x89PNG\r\n\x1a\n", rlay.ChannelFormatError, "magic"),
    ("endian_tag", bytes([1, 2, 3, 4]), rlay.ChannelFormatError, "endian_tag is 0x4030201"),
    ("header_size", struct.pack("<I", 8192), rlay.ChannelFormatError, "header_size is 0x2000"),
    ("control_size", struct.pack("<Q", 1 << 62), rlay.ChannelFormatError, "control_size"),
    ("generation", bytes(8), rlay.ChannelFormatError, "generation is 0"),
    ("server_hello.role", b"\x07", rlay.ChannelFormatError, "role is 7, expected 1 or 2"),
    ("server_hello.protocol_min", b"\x00\x00", rlay.ChannelFormatError, "protocol range is 0..1"),
    ("server_hello", b"\x05\x00\x09\x00", rlay.ProtocolVersionError, "is 5 to 9, expected 1 to 1"),
    ("schema_size", struct.pack("<I", 192513), rlay.ChannelFormatError, "schema_size is 192513"),
    ("schema_size", b"\xff\xff\xff\xff", rlay.ChannelFormatError, "at most 192512"),
    ("field_count", struct.pack("<I", 257), rlay.ChannelFormatError, "at most 256"),
    ("fingerprint", bytes(8), rlay.LayoutMismatchError, "fingerprint is 0x0, expected 0x"),
    ("schema", b"[", rlay.LayoutMismatchError, "fingerprint"),
    ("field_table", b"sneaky", rlay.LayoutMismatchError, "fingerprint"),
    ("request_size", struct.pack("<Q", 1 << 63), rlay.LayoutMismatchError, f"sizes {1 << 63} and"),
    ("reply_size", bytes(8), rlay.LayoutMismatchError, "and 0, expected"),
]


@pytest.mark.parametrize(
    ("name", "value", "error", "text"), LIES, ids=[f"{n}-{t[:12]}" for n, _, _, t in LIES]
)
def test_a_lying_header_is_refused_before_it_is_claimed(
    name: str, value: bytes, error: type[Exception], text: str, published: Path
) -> None:
    overwrite(published, name, value)
    with pytest.raises(error, match=text):
        rlay.ClientEnv(CHANNEL, **NOW)
    assert published.read_bytes()[offset("claim")] == 0


@pytest.mark.parametrize("size", [0, 1, 4095, 4096, CONTROL_SIZE - 1, CONTROL_SIZE + 1])
def test_a_file_of_another_size(size: int, channel_root: Path) -> None:
    path = channel_root / f"{CHANNEL}.rlay"
    path.touch(0o600)
    path.write_bytes(bytes(size))
    with pytest.raises(rlay.ChannelFormatError) as caught:
        rlay.ClientEnv(CHANNEL, **NOW)
    assert str(path) in str(caught.value)
    assert caught.value.field == ("file size" if size else "mapping")
    path.unlink()


def spoil_hello(monkeypatch: pytest.MonkeyPatch, name: str, value: bytes) -> None:
    """Make a client write ``value`` over a field just before it hands over its hello."""
    hand_over = Channel.hand_over

    def spoil(channel: Channel) -> None:
        if channel.side is rlay.Side.CLIENT:
            start = offset(name)
            channel.mapping.memory[start : start + len(value)] = value
        hand_over(channel)

    monkeypatch.setattr(Channel, "hand_over", spoil)


@pytest.mark.parametrize(
    ("name", "value", "error", "text"),
    [
        ("client_hello.role", b"\x09", rlay.ChannelFormatError, "role is 9"),
        ("client_hello.role", b"\x02", rlay.ChannelFormatError, "expected ENV"),
        ("client_hello", b"\x02\x00\x02\x00", rlay.ProtocolVersionError, "is 2 to 2"),
        ("schema_size", b"\xff\xff\xff\xff", rlay.ChannelFormatError, "at most 192512"),
        ("fingerprint", bytes(8), rlay.LayoutMismatchError, "fingerprint is 0x0"),
        ("request_size", bytes(8), rlay.LayoutMismatchError, "record sizes 0 and"),
    ],
)
def test_a_lying_client_is_rejected_and_told(
    name: str,
    value: bytes,
    error: type[Exception],
    text: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    task = Task(rlay.ServerEnv, CHANNEL, timeout=WATCHDOG, attach_timeout=WATCHDOG)
    with contextlib.closing(rlay.ClientBackend(CHANNEL, Counter())) as backend:
        with monkeypatch.context() as patch:
            spoil_hello(patch, name, value)
            with pytest.raises(error, match=f"rejected this client.*{text}"):
                backend.next_request()
    # The server goes on, and takes an honest client.
    with contextlib.closing(rlay.ClientBackend(CHANNEL, Counter())) as backend:
        serve = Task(backend.serve, sessions=1)
        env = task.result()
        env.reset()
        assert env.step(3)[1] == 3.0
        env.close()
        serve.result()


@pytest.mark.parametrize(
    ("name", "value"), [("protocol", 2), ("features", 1 << 40), ("data_size", 1 << 20)]
)
def test_a_lying_welcome_is_refused(name: str, value: int, monkeypatch: pytest.MonkeyPatch) -> None:
    hand_over = Channel.hand_over

    def spoil(channel: Channel) -> None:
        if channel.side is rlay.Side.SERVER:
            write_fields(channel.mapping.memory, {name: value})
        hand_over(channel)

    monkeypatch.setattr(Channel, "hand_over", spoil)
    with (
        serving("ClientEnv", Counter(), CHANNEL),
        pytest.raises(rlay.ChannelFormatError, match=f"{name} is {value}, expected"),
    ):
        rlay.ClientEnv(CHANNEL, attach_timeout=WATCHDOG)


def test_the_last_rejection_is_the_cause_of_a_time_out() -> None:
    endpoint = rlay.MemServer(CHANNEL, Role.AGENT, features=rlay.Feature.NONE, accepts=refuse)
    with contextlib.closing(endpoint):
        with contextlib.closing(rlay.ClientBackend(CHANNEL, Counter())) as backend:
            task = Task(backend.next_request)
            while not task.done():
                with pytest.raises(rlay.ChannelTimeoutError):
                    endpoint.accept(0.05)
            with pytest.raises(rlay.LayoutMismatchError, match="not this one"):
                task.result()
        with pytest.raises(rlay.ChannelTimeoutError) as caught:
            endpoint.accept(0.0)
        assert isinstance(caught.value.__cause__, rlay.LayoutMismatchError)


def refuse(_: rlay.Schema) -> None:
    raise rlay.LayoutMismatchError("not this one")
