"""The compiled step: one call for what nearly every step is (``rlay._atomics.Exchange``).

A session works without it. With it, a step whose action, observation, reward and
flags are ordinary costs one call into C on either side; anything else (a time-out,
an error, info, a value that needs converting) comes back here as "not ordinary"
and goes the session's long way, which alone decides and explains. Lanes have the
same in ``LaneExchange``: a few calls for all of them.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

from rlay import atomics
from rlay.channel.channel import Channel
from rlay.protocol.constants import Command, RecordKind, Role
from rlay.protocol.header import HEADER
from rlay.protocol.lanes import LaneReplyRecord, LaneRequestRecord
from rlay.protocol.layout import Layout
from rlay.protocol.records import ReplyRecord, RequestRecord

if TYPE_CHECKING:
    from rlay._atomics import Exchange


def compile_exchange(
    channel: Channel,
    layout: Layout,
    request: RequestRecord,
    reply: ReplyRecord,
    role: Role,
    *,
    copy: bool,
) -> Exchange | None:
    """Compile the ordinary step of one session for one role.

    Args:
        channel: of the session.
        layout: of its records.
        request: the agent's record.
        reply: the environment's record.
        role: ours.
        copy: whether the agent's observations are copies or views.

    Returns:
        None where the extension was not built, and for lanes some of whose values have no
        fixed shape.
    """
    if atomics.Exchange is None or atomics.LaneExchange is None:
        return None
    agent = role is Role.AGENT
    turns = _turns(channel, layout, request, reply, agent=agent)
    if isinstance(request, LaneRequestRecord) and isinstance(reply, LaneReplyRecord):
        columns = _columns(request, reply, agent=agent)
        return atomics.LaneExchange(columns, **turns) if columns else None
    ours, theirs = (request, reply) if agent else (reply, request)
    field = ours.value.ordinary()
    array, integer = field if field else (None, False)
    return atomics.Exchange(
        written=array,
        integer=integer,
        write=ours.value.write,
        read=theirs.value.reader(copy=copy or not agent),
        plain_info=not reply.declares_info,
        **turns,
    )


def _columns(
    request: LaneRequestRecord, reply: LaneReplyRecord, *, agent: bool
) -> tuple[Any, ...] | None:
    """Return what ``LaneExchange`` moves, or None if not all of it are arrays."""
    if not request.actions.whole or (agent and not reply.observation.whole):
        return None
    column = reply.observation.ordinary()
    observation, integer = column if column else (None, False)
    absent = [present for present, _ in reply.info.values()]
    if reply.final is not None:
        absent.append(reply.final_present)
    return (
        request.count,
        agent,
        (request.mask,),
        (reply.reward, reply.terminated, reply.truncated),
        request.actions.columns() if agent else (observation,) if column else (),
        integer and not agent,
        reply.observation.columns() if agent else (),
        tuple(absent),
    )


def _turns(
    channel: Channel, layout: Layout, request: RequestRecord, reply: ReplyRecord, *, agent: bool
) -> dict[str, Any]:
    """Return what a compiled step of one environment or of lanes has to know of the turn."""
    ours, theirs = (request, reply) if agent else (reply, request)
    us, them = channel.side.name.lower(), channel.side.peer.name.lower()
    words = [HEADER[name].offset for name in ("turn", f"{us}_waiting", f"{them}_waiting")]
    flags = [
        layout.find(RecordKind.REPLY, name).offset for name in ("reward", "terminated", "truncated")
    ]
    turns = {
        "control": channel.mapping.memory,
        "ours": ours.memory,
        "theirs": theirs.memory,
        "cells": (words[0], words[1], words[2]),
        "turns": (int(channel.side), int(channel.side.peer)),
        "step": int(Command.STEP),
        "session": channel.generation,
        "agent": agent,
        "reply_at": (flags[0], flags[1], flags[2]),
        "spin_ns": channel.strategy.spin_ns,
        "longest_spin_ns": channel.strategy.longest_spin_ns,
        "nap_ns": channel.strategy.nap_ns,
        "guard": channel.guard,
    }
    if isinstance(request, LaneRequestRecord):
        every = range(request.count)
        turns |= {"written": None, "integer": False, "write": None, "plain_info": True}
        turns["read"] = functools.partial(request.actions.read, every)
    return turns
