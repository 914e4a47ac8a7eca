"""The compiled step: one call for what nearly every step is (``rlay._atomics.Exchange``).

A session works without it. With it, a step whose action, observation, reward and
flags are ordinary costs one call into C on either side; anything else (a time-out,
an error, info, a value that needs converting) comes back here as "not ordinary"
and goes the session's long way, which alone decides and explains.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from rlay import atomics
from rlay.channel.channel import Channel
from rlay.protocol.constants import Command, RecordKind, Role
from rlay.protocol.header import HEADER
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
        None where the extension was not built, and for lanes, which move as batches.
    """
    if atomics.Exchange is None or request.lanes:
        return None
    agent = role is Role.AGENT
    ours, theirs = (request, reply) if agent else (reply, request)
    us, them = channel.side.name.lower(), channel.side.peer.name.lower()
    field = ours.value.ordinary()
    array, integer = field if field else (None, False)
    words = [HEADER[name].offset for name in ("turn", f"{us}_waiting", f"{them}_waiting")]
    flags = [
        layout.find(RecordKind.REPLY, name).offset for name in ("reward", "terminated", "truncated")
    ]
    return atomics.Exchange(
        control=channel.mapping.memory,
        ours=ours.memory,
        theirs=theirs.memory,
        cells=(words[0], words[1], words[2]),
        turns=(int(channel.side), int(channel.side.peer)),
        step=int(Command.STEP),
        session=channel.generation,
        agent=agent,
        written=array,
        integer=integer,
        write=ours.value.write,
        read=theirs.value.reader(copy=copy or not agent),
        reply_at=(flags[0], flags[1], flags[2]),
        plain_info=not reply.declares_info,
        spin_ns=channel.strategy.spin_ns,
        longest_spin_ns=channel.strategy.longest_spin_ns,
        nap_ns=channel.strategy.nap_ns,
    )
