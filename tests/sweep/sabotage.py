"""Negative controls: what a broken victim or a broken survivor does, so that the judge must speak.

Each name is a fault that the sweep exists to find. ``make test`` runs the sweep with each of
them, and asserts that it is reported.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import time
from collections.abc import Iterator
from typing import Any
from unittest import mock

import rlay
from rlay.channel import files
from rlay.channel.channel import Channel
from rlay.envs.remote_env import RemoteEnv
from rlay.protocol.constants import STATUS_OK, Command
from rlay.protocol.turn import Event
from rlay.session import Session


@dataclasses.dataclass(frozen=True)
class Control:
    """How to show that a fault is found: which victim, in which phase, every how many points.

    Attributes:
        face: the victim's class.
        phase: of the points.
        stride: every so many of them.
        says: what the judge must say at one point at least.
        patience: of each call, seconds.
        way: of the sweep.
    """

    face: str
    phase: str
    stride: int
    says: str
    patience: float = 5.0
    way: str = "words"


#: A fault of the C port, which ``native.py`` compiles.
NATIVE_FLAG_FIRST = "native flag first"


CONTROLS = {
    "flag first": Control("ServerBackend", "step", 24, "a wrong value from the victim"),
    "no probe": Control("ServerBackend", "step", 120, "ChannelTimeoutError", 0.5),
    "wrong error": Control("ClientEnv", "step", 120, "ChannelTimeoutError"),
    "death first": Control("ClientBackend", "reset", 20, "the survivor saw"),
    "stale reply": Control("ServerBackend", "close", 60, "a wrong value from the victim"),
    "descriptor left": Control("ServerBackend", "render", 60, "descriptors are open"),
    "file left": Control("ClientEnv", "reset", 60, "files are left"),
    "process left": Control("ServerEnv", "reset", 60, "processes are left"),
    NATIVE_FLAG_FIRST: Control("ClientEnv", "step", 12, "RemoteProtocolError", way="C"),
}


def _reply_flag_first(self: Session, observation: Any, *rest: Any) -> None:
    """Hand over a reply with its prefix before its observation is written."""
    reply = self._reply
    reply._reward[()] = rest[0]  # type: ignore[union-attr]
    reply._finish(self._seq, Command.STEP, STATUS_OK, reply._write_info(rest[3]))  # type: ignore[union-attr]
    self._machine.we(Event.OK)
    self._channel.hand_over()
    reply._observation.write(observation)  # type: ignore[union-attr]


def break_victim(fault: str) -> None:
    """Break this process, a victim, if the fault is one of a victim's."""
    if fault == "flag first":
        Session.reply_step = _reply_flag_first  # type: ignore[method-assign,assignment]


def _stale_step(original: Any) -> Any:
    last: list[Any] = []

    def step(self: RemoteEnv, action: Any) -> Any:
        result = original(self, action)
        last.append(result)
        return last[-2] if len(last) > 1 else result

    return step


def _leaving_close(original: Any) -> Any:
    def close(self: files.Mapping) -> None:
        if self.path.suffix == ".data":
            os.dup(0)
        original(self)

    return close


def _leaving_unlink(original: Any) -> Any:
    def unlink(path: Any) -> None:
        if path.suffix != ".rlay":
            original(path)

    return unlink


def _forking_close(original: Any) -> Any:
    def close(self: Channel) -> None:
        original(self)
        if os.fork() == 0:
            os._exit(0)

    return close


def _lost_as_timeout(original: Any) -> Any:
    def await_turn(self: Channel, *args: Any, **kwargs: Any) -> None:
        try:
            original(self, *args, **kwargs)
        except rlay.PeerLostError:
            raise rlay.ChannelTimeoutError("the peer", 1.0, "STEPPING") from None

    return await_turn


def _death_first(original: Any) -> Any:
    """Return an ``await_turn`` that believes in death before it has looked at the turn."""

    def await_turn(
        self: Channel, deadline: Any, waited_for: str, *args: Any, **kwargs: Any
    ) -> None:
        patience = time.monotonic() + 0.3
        while waited_for == "reply to RESET" and time.monotonic() < patience:
            if gone := self.lost_peer():
                raise gone
            if not self.our_turn():
                patience = time.monotonic() + 0.3
            time.sleep(0.001)
        original(self, deadline, waited_for, *args, **kwargs)

    return await_turn


_PATCHES = {
    "no probe": (Channel, "lost_peer", lambda _: lambda self, probe=True: None),
    "death first": (Channel, "await_turn", _death_first),
    "stale reply": (RemoteEnv, "step", _stale_step),
    "descriptor left": (files.Mapping, "close", _leaving_close),
    "file left": (files, "unlink", _leaving_unlink),
    "process left": (Channel, "close", _forking_close),
    "wrong error": (Channel, "await_turn", _lost_as_timeout),
}


@contextlib.contextmanager
def broken_survivor(fault: str) -> Iterator[None]:
    """Break this process, the survivor, within the block."""
    if fault not in _PATCHES:
        yield
        return
    owner, name, make = _PATCHES[fault]
    with mock.patch.object(owner, name, make(getattr(owner, name))):
        yield
