"""Bad input gets a clear error: files, hellos, schemas, calls out of order, values that lie."""

from __future__ import annotations

import contextlib
import errno
import os
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gymnasium import spaces

import rlay
from rlay import server
from rlay.channel import files
from rlay.channel.channel import Channel
from rlay.protocol.constants import CONTROL_SIZE, Role
from rlay.protocol.header import HEADER, HELLO, write_fields
from tests.peers import BACKENDS, FACES, MODES, WATCHDOG, Task, hosted, serving, until
from tests.toys import Counter, Mishap, Rooms

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


# Spaces.


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    ("expected", "difference"),
    [
        ({"action_space": spaces.Discrete(5)}, f"action/n: found {1 << 62}, expected 5"),
        ({"action_space": spaces.MultiBinary(2)}, "action/type"),
        (
            {"observation_space": spaces.Box(-(2**63), 2**63 - 1, (4,), np.int64)},
            "observation/shape/0: found 3, expected 4",
        ),
        (
            {"observation_space": spaces.Sequence(spaces.Discrete(2))},
            "observation_space: found Box.*expected Sequence",
        ),
        ({"render_mode": "human"}, "render_mode: found None, expected 'human'"),
    ],
)
def test_other_spaces_than_expected(mode: str, expected: dict[str, Any], difference: str) -> None:
    with serving_once_rejected(mode) as told:
        if mode == "ClientEnv":
            with pytest.raises(rlay.LayoutMismatchError, match=difference):
                rlay.ClientEnv(CHANNEL, attach_timeout=WATCHDOG, **expected)
            return
        task = Task(rlay.ServerEnv, CHANNEL, attach_timeout=0.5, **expected)
        # The game hears it in full; the server waits for a better one.
        with pytest.raises(rlay.LayoutMismatchError, match=difference):
            told()
        with pytest.raises(rlay.ChannelTimeoutError) as caught:
            task.result()
        assert isinstance(caught.value.__cause__, rlay.LayoutMismatchError)


@contextlib.contextmanager
def serving_once_rejected(mode: str) -> Iterator[Callable[[], Any]]:
    """Offer a Counter; in ServerEnv mode gives a function that attaches it."""
    if mode == "ClientEnv":
        with serving(mode, Counter(), CHANNEL):
            yield lambda: None
    else:
        with contextlib.closing(rlay.ClientBackend(CHANNEL, Counter())) as backend:
            yield backend.next_request


@pytest.mark.parametrize("mode", MODES)
def test_the_expected_spaces_are_accepted(mode: str) -> None:
    toy = Counter(render_mode="ansi")
    face = {
        "observation_space": toy.observation_space,
        "action_space": toy.action_space,
        "render_mode": "ansi",
    }
    with hosted(mode, toy, CHANNEL, face=face) as env:
        assert env.observation_space == toy.observation_space
        assert env.action_space == toy.action_space
        assert env.render_mode == "ansi"
        assert env.metadata["render_modes"] == ["rgb_array", "ansi"]


@pytest.mark.parametrize("mode", MODES)
def test_another_environment_after_reattach(mode: str) -> None:
    first, second = Counter(), Rooms()
    with contextlib.ExitStack() as stack:
        with serving(mode, first, CHANNEL) as backend:
            env = FACES[mode](CHANNEL, timeout=WATCHDOG, attach_timeout=WATCHDOG)
            stack.callback(env.close)
            env.reset()
            env._session.end()
        backend.close()
        if mode == "ClientEnv":
            stack.enter_context(serving(mode, second, CHANNEL))
            with pytest.raises(rlay.LayoutMismatchError, match="another than before: groups/0"):
                env.reset()
        else:
            other = stack.enter_context(contextlib.closing(rlay.ClientBackend(CHANNEL, second)))
            task = Task(env.reset)
            with pytest.raises(rlay.LayoutMismatchError, match="another than before: groups/0"):
                other.next_request()
            other.close()
            with serving(mode, Counter(), CHANNEL):
                assert task.result()[0].tolist() == [1, 0, -1]
                env.close()


# Calls out of order, values that do not fit.


@pytest.mark.parametrize("mode", MODES)
def test_calls_out_of_order_send_nothing(mode: str) -> None:
    with hosted(mode, Counter(), CHANNEL) as env:
        with pytest.raises(rlay.LocalProtocolError, match=r"STEP is not allowed.*reset\(\) first"):
            env.step(0)
        with pytest.raises(rlay.LocalProtocolError, match="nothing is pending"):
            env.wait()
        env.reset()
        assert env.step(1)[1] == 1.0
        with pytest.raises(rlay.LocalProtocolError, match="nothing is pending"):
            env.wait()
        env.close()
        with pytest.raises(rlay.LocalProtocolError, match="closed"):
            env.step(0)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("action", [1.5, 2**63, -(2**63) - 1, [1, 2], "1", None, float("nan")])
def test_an_action_that_does_not_fit(mode: str, action: Any) -> None:
    with hosted(mode, Counter(), CHANNEL) as env:
        env.reset()
        with pytest.raises(rlay.LayoutError, match="action"):
            env.step(action)
        # Nothing was sent.
        observation, reward, *_ = env.step(9)
        assert (observation.tolist(), reward) == ([1, 1, 9], 9.0)


@pytest.mark.parametrize("mode", MODES)
def test_seeds(mode: str) -> None:
    with hosted(mode, Counter(), CHANNEL) as env:
        for seed in (None, 0, 1, 2**63, 2**64 - 1):
            assert env.reset(seed=seed)[1]["seed"] == seed
        for seed in (2**64, 2**100):
            with pytest.raises(rlay.LayoutError, match=r"seed.*0 to 2"):
                env.reset(seed=seed)
        for seed in (-1, 1.5, "1"):
            with pytest.raises(Exception, match=r"(?i)seed"):
                env.reset(seed=seed)  # type: ignore[arg-type]
        assert env.reset(seed=3)[1]["seed"] == 3


@pytest.mark.parametrize("mode", MODES)
def test_options(mode: str) -> None:
    with hosted(mode, Counter(), CHANNEL) as env:
        options = {"level": 3, "array": np.arange(6, dtype="<i2").reshape(2, 3), "deep": [(1, b"")]}
        back = env.reset(options=options)[1]["options"]
        assert list(back) == list(options)
        assert back["array"].dtype == np.int16
        assert back["array"].tolist() == [[0, 1, 2], [3, 4, 5]]
        assert back["deep"] == [(1, b"")]
        assert env.reset()[1]["options"] is None
        with pytest.raises(rlay.LayoutError, match=r"options.*what"):
            env.reset(options={"what": object()})
        with pytest.raises(rlay.BodyTooLargeError, match="request_body") as caught:
            env.reset(options={"small": 1, "huge": bytes(70_000)})
        assert caught.value.key == 'options["huge"]'
        assert caught.value.size > caught.value.capacity == 65536
        assert env.reset(options={})[1]["options"] == {}


@pytest.mark.parametrize("mode", MODES)
def test_a_body_too_large_in_the_environment(mode: str) -> None:
    toy = Counter()
    with hosted(mode, toy, CHANNEL, reply_body=512) as env:
        env.reset()
        toy.info = {"huge": bytes(1000)}
        with pytest.raises(rlay.RemoteError, match=r"BodyTooLargeError.*huge.*reply_body"):
            env.step(1)
        toy.info = {}
        env.reset()
        assert env.step(2)[1] == 2.0
        with pytest.raises(rlay.BodyTooLargeError, match="request_body"):
            env.call("add", bytes(70_000))
        with pytest.raises(rlay.RemoteError, match="BodyTooLargeError"):
            env.call("add", "x" * 600, "y")
        assert env.step(3)[1] == 3.0


@pytest.mark.parametrize("mode", MODES)
def test_a_reply_that_does_not_fit(mode: str) -> None:
    toy = Counter()
    with hosted(mode, toy, CHANNEL) as env:
        env.reset()
        toy.step = lambda action: (np.zeros(4), 0.0, False, False, {})  # type: ignore[method-assign]
        with pytest.raises(rlay.RemoteError, match=r"LayoutError.*shape \(4,\), expected \(3,\)"):
            env.step(1)
        toy.step = lambda action: (np.zeros(3), "a lot", False, False, {})  # type: ignore
        env.reset()
        with pytest.raises(rlay.RemoteError, match="reward"):
            env.step(1)


# The environment fails.


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("method", ["reset", "step", "render"])
def test_the_environment_raises(mode: str, method: str) -> None:
    toy = Counter(render_mode="ansi")
    with hosted(mode, toy, CHANNEL) as env:
        env.reset()
        toy.plan[method] = "raise"
        with pytest.raises(rlay.RemoteError) as caught:
            env.step(1) if method == "step" else getattr(env, method)()
        error = caught.value
        assert (error.type, error.message) == ("Mishap", f"told to fail in {method}")
        assert 'raise Mishap(f"told to fail in {method}")' in error.remote_traceback
        toy.plan.clear()
        env.reset()
        assert env.step(1)[1] == 1.0


@pytest.mark.parametrize("mode", MODES)
def test_the_environment_exits(mode: str) -> None:
    toy = Counter(plan={"step": "sys.exit"})
    backend = BACKENDS[mode](CHANNEL, toy)
    task = Task(lambda: backend.__enter__().serve(sessions=1) or backend.close())
    env = FACES[mode](CHANNEL, timeout=WATCHDOG, attach_timeout=WATCHDOG)
    env.reset()
    with pytest.raises(rlay.RemoteError, match="SystemExit: 7"):
        env.step(1)
    with pytest.raises(SystemExit):
        task.result()
    backend.close()
    with pytest.raises(rlay.PeerClosedError):
        env.reset()
    env.close()


def test_an_error_without_words() -> None:
    class Mute(Mishap):
        def __str__(self) -> str:
            raise RuntimeError("not even that")

    def fail(_: Any) -> Any:
        raise Mute

    toy = Counter()
    with hosted("ClientEnv", toy, CHANNEL) as env:
        env.reset()
        toy.step = fail  # type: ignore[method-assign]
        with pytest.raises(rlay.RemoteError) as caught:
            env.step(1)
        assert caught.value.type == "Mute"
        env.reset()


# No room.


@pytest.mark.parametrize("mode", MODES)
def test_no_room_for_the_data_file(mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    original = os.posix_fallocate
    full = True

    def fallocate(descriptor: int, start: int, size: int) -> None:
        if full and size != CONTROL_SIZE:
            raise OSError(errno.ENOSPC, "No space left on device")
        original(descriptor, start, size)

    monkeypatch.setattr(files.os, "posix_fallocate", fallocate)
    if mode == "ClientEnv":
        with serving(mode, Counter(), CHANNEL):
            with pytest.raises(rlay.NoSpaceError, match=r"rejected this client.*no space for"):
                rlay.ClientEnv(CHANNEL, attach_timeout=WATCHDOG)
            full = False
            with contextlib.closing(rlay.ClientEnv(CHANNEL, attach_timeout=WATCHDOG)) as env:
                env.reset()
        return
    task = Task(rlay.ServerEnv, CHANNEL, attach_timeout=WATCHDOG)
    with contextlib.closing(rlay.ClientBackend(CHANNEL, Counter())) as backend:
        with pytest.raises(rlay.NoSpaceError, match="no space for"):
            backend.next_request()
        full = False
        serve = Task(backend.serve, sessions=1)
        env = task.result()
        env.reset()
        env.close()
        serve.result()


def test_no_room_for_the_next_control_file(monkeypatch: pytest.MonkeyPatch) -> None:
    """The session's end is not spoiled by it; the next accept reports it, and then recovers."""
    endpoint = rlay.MemServer(CHANNEL, Role.AGENT, features=rlay.Feature.NONE)
    with (
        contextlib.closing(endpoint),
        contextlib.closing(rlay.ClientBackend(CHANNEL, Counter())) as backend,
    ):
        task = Task(backend.next_request)
        session = endpoint.accept(WATCHDOG)

        def full(*_: object) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        with monkeypatch.context() as patch:
            patch.setattr(files.os, "posix_fallocate", full)
            session.end()
            with pytest.raises(rlay.PeerClosedError):
                task.result()
            with pytest.raises(rlay.NoSpaceError):
                endpoint.accept(0.0)
        with pytest.raises(rlay.ChannelTimeoutError):
            endpoint.accept(0.0)
        until(lambda: os.path.exists(endpoint.paths.control), "it is published again")


def test_describing_an_owner_of_nonsense(channel_root: Path) -> None:
    paths = files.Paths(CHANNEL)
    assert server.describe_owner(paths, rlay.Side.SERVER) is None
    paths.control.touch(0o600)
    assert server.describe_owner(paths, rlay.Side.SERVER) is None
    paths.control.write_bytes(bytes(100))
    assert server.describe_owner(paths, rlay.Side.SERVER) is None
    paths.control.unlink()


@pytest.mark.parametrize("mode", MODES)
def test_backends_want_an_env_or_spaces(mode: str) -> None:
    with pytest.raises(rlay.LocalProtocolError, match="give an env, or both"):
        BACKENDS[mode](CHANNEL)
    toy = Counter()
    settings = {"observation_space": toy.observation_space, "action_space": toy.action_space}
    with contextlib.closing(BACKENDS[mode](CHANNEL, **settings)) as backend:
        with pytest.raises(rlay.LocalProtocolError, match="needs an env"):
            backend.serve()
        with pytest.raises(rlay.LocalProtocolError, match="no request is open"):
            backend.decide(np.zeros(3))
        with pytest.raises(rlay.LocalProtocolError, match="no request is open"):
            backend.fail(ValueError())
