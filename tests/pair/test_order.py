"""The order of operations on files, locks and shared words, as the protocol model has it."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import rlay
from rlay.channel import files
from rlay.channel.channel import Channel
from rlay.channel.locks import OsLock
from rlay.protocol.constants import Side
from tests.peers import FACES, MODES, WATCHDOG, Task, serving
from tests.toys import Counter

CHANNEL = "order"

Operation = tuple[str, str]


class Log:
    """What each side did, in its order; a side is told by what it acts on."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.done: list[Operation] = []
        self._writing = threading.Lock()
        self._monkeypatch = monkeypatch
        for name in ("claimed", "claim", "hand_over", "say_bye"):
            self._watch(Channel, name, lambda channel: channel.side.name)
        for name in ("try_acquire", "is_free", "release", "close"):
            self._watch(OsLock, name, lambda lock: lock.path.suffixes[-2][1:].upper())
        self._watch(files, "unlink", lambda path: "ANY", lambda path: f"unlink {path.suffix}")
        self._watch(files, "attach", lambda path: "CLIENT", lambda path: f"map {path.suffix}")
        self._watch(os, "replace", lambda old: "SERVER", lambda old: "publish")

    def _watch(
        self,
        owner: Any,
        name: str,
        side: Callable[[Any], str],
        said: Callable[[Any], str] | None = None,
    ) -> None:
        original = getattr(owner, name)

        def watched(*args: Any, **kwargs: Any) -> Any:
            # A store is noted before it is made and a look after it, so that the order is right
            # whatever the other side's thread does in between.
            what = said(args[0]) if said else name
            looks = name in ("claimed", "try_acquire", "is_free")
            gives_back_nothing = isinstance(args[0], OsLock) and not args[0].held
            if not looks and not gives_back_nothing:
                self._add(side(args[0]), what)
            result = original(*args, **kwargs)
            if looks:
                self._add(side(args[0]), f"{what} {result}")
            return result

        self._monkeypatch.setattr(owner, name, watched)

    def _add(self, side: str, what: str) -> None:
        with self._writing:
            self.done.append((side, what))


def at(done: list[Operation], *wanted: Operation) -> list[int]:
    return [index for index, operation in enumerate(done) if operation in wanted]


def violations(done: list[Operation]) -> list[str]:
    """Return the rules of PROTOCOL.md §6.2, §10, §11 and §15 that one session's log breaks."""
    claims = at(done, ("CLIENT", "claim"))
    if len(claims) != 1:
        return [f"{len(claims)} claims"]
    before, after = done[: claims[0]], done[claims[0] + 1 :]
    locked = at(before, ("CLIENT", "try_acquire True"))
    looked = at(before, ("CLIENT", "claimed False"))
    wrong = []
    if not locked or not looked or not looked[0] < locked[-1]:
        wrong.append("the client locks before it has read the claim")
    if not locked or not looked or not locked[-1] < looked[-1]:
        wrong.append("the client does not read the claim again under its lock")
    if at(before, ("SERVER", "is_free True"), ("SERVER", "is_free False")):
        wrong.append("the client probes before it has claimed")
    if at(before, ("CLIENT", "is_free True"), ("CLIENT", "is_free False")):
        wrong.append("the server probes an unclaimed file")
    if at(before, ("CLIENT", "hand_over")):
        wrong.append("the client hands over before it has claimed")
    mapped, removed = at(after, ("CLIENT", "map .data")), at(after, ("ANY", "unlink .data"))
    if not mapped or not removed or removed[0] < mapped[0]:
        wrong.append("the data file is unlinked before it is mapped")
    for side, ends in (("CLIENT", ["release", "close"]), ("SERVER", ["publish", "close"])):
        byes, handed = at(after, (side, "say_bye")), at(after, (side, "hand_over"))
        ended = at(after, *((side, end) for end in ends))
        if not byes or not handed or byes[0] < handed[-1]:
            wrong.append(f"{side} says bye before its last hand-over")
        if not byes or not ended or ended[0] < byes[0]:
            wrong.append(f"{side} lets go before its goodbye")
    unlinked, unlocked = at(after, ("ANY", "unlink .rlay")), at(after, ("SERVER", "close"))
    if not unlinked or not unlocked or unlocked[-1] < unlinked[-1]:
        wrong.append("the control file is unlinked after unlocking")
    return wrong


def one_session(mode: str) -> None:
    with serving(mode, Counter(), CHANNEL):
        settings = {"timeout": WATCHDOG, "attach_timeout": WATCHDOG}
        with contextlib.closing(FACES[mode](CHANNEL, **settings)) as env:
            env.reset()
            env.step(1)


@pytest.mark.parametrize("mode", MODES)
def test_a_session_keeps_the_order(
    mode: str, monkeypatch: pytest.MonkeyPatch, channel_root: Path
) -> None:
    log = Log(monkeypatch)
    one_session(mode)
    assert violations(log.done) == []


RIGHT: list[Operation] = [
    ("SERVER", "try_acquire True"),
    ("SERVER", "publish"),
    ("CLIENT", "claimed False"),
    ("CLIENT", "try_acquire True"),
    ("CLIENT", "claimed False"),
    ("CLIENT", "claim"),
    ("CLIENT", "hand_over"),
    ("SERVER", "hand_over"),
    ("CLIENT", "map .data"),
    ("ANY", "unlink .data"),
    ("CLIENT", "say_bye"),
    ("CLIENT", "release"),
    ("SERVER", "say_bye"),
    ("SERVER", "publish"),
    ("ANY", "unlink .rlay"),
    ("SERVER", "close"),
]


@pytest.mark.parametrize(
    ("first", "second", "said"),
    [
        (2, 3, "the client locks before it has read the claim"),
        (3, 4, "the client does not read the claim again under its lock"),
        (5, 6, "the client hands over before it has claimed"),
        (8, 9, "the data file is unlinked before it is mapped"),
        (7, 12, "SERVER says bye before its last hand-over"),
        (6, 10, "CLIENT says bye before its last hand-over"),
        (10, 11, "CLIENT lets go before its goodbye"),
        (12, 13, "SERVER lets go before its goodbye"),
        (14, 15, "the control file is unlinked after unlocking"),
    ],
)
def test_a_swap_is_noticed(first: int, second: int, said: str) -> None:
    assert violations(RIGHT) == []
    swapped = list(RIGHT)
    if said.startswith("the client locks"):
        del swapped[first]
        swapped[second - 1 : second + 1] = [RIGHT[second], RIGHT[first]]
    else:
        swapped[first], swapped[second] = swapped[second], swapped[first]
    assert said in violations(swapped)


def test_a_server_that_probes_too_early_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    claimed = Channel.claimed

    def probe_first(channel: Channel) -> bool:
        if channel.side is Side.SERVER:
            channel._peer_lock.is_free()
        return claimed(channel)

    monkeypatch.setattr(Channel, "claimed", probe_first)
    log = Log(monkeypatch)
    with contextlib.closing(rlay.ServerBackend(CHANNEL, Counter())) as backend:
        with pytest.raises(rlay.ChannelTimeoutError):
            backend._endpoint.accept(0.0)
        serve = Task(backend.serve, sessions=1)
        with contextlib.closing(rlay.ClientEnv(CHANNEL, attach_timeout=WATCHDOG)) as env:
            env.reset()
        serve.result()
    assert "the server probes an unclaimed file" in violations(log.done)
