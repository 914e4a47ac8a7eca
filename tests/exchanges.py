"""What the compiled exchanges of a test have in common: two records, and no time to lose."""

from __future__ import annotations

from typing import Any

from rlay.lifetime import new_guard
from rlay.protocol.constants import Command, Side
from rlay.protocol.header import HEADER
from rlay.protocol.prefix import PREFIX

STEP, SLICE = int(Command.STEP), 20_000_000


def records(size: int, session: int) -> tuple[bytearray, bytearray]:
    """Return a request and a reply of this session that nobody has written."""
    pair = bytearray(size), bytearray(size)
    for record in pair:
        PREFIX.pack_into(record, 0, 0, 0, 0, 0, session)
    return pair


def settings(pair: Any, side: Side, session: int) -> dict[str, Any]:
    """Return how either kind of exchange is made over the memory of a pair, for one side."""
    agent = side is Side.CLIENT
    us, them = side.name.lower(), side.peer.name.lower()
    return {
        "control": pair.control,
        "ours": pair.request if agent else pair.reply,
        "theirs": pair.reply if agent else pair.request,
        "cells": tuple(HEADER[n].offset for n in ("turn", f"{us}_waiting", f"{them}_waiting")),
        "turns": (int(side), int(side.peer)),
        "step": STEP,
        "session": session,
        "agent": agent,
        "plain_info": True,
        "spin_ns": 0,
        "longest_spin_ns": 0,
        "nap_ns": 0,
        "guard": new_guard(),
    }
