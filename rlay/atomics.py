"""One shared 32-bit word: the only place where two processes race, and may. And its memory's end.

``Word(buffer, offset)`` is an aligned little-endian u32 in a writable buffer. Its memory is
written by another process at any time; its operations carry their memory order in the name.

==================================  =========================================================
``load_acquire()``                  Return the value. What the peer wrote before it stored
                                    this value is visible to every read that follows.
``store_release(value)``            Set the value. What was written before is visible to
                                    whoever reads this value by an acquire load.
``hand_over(value, waiting)``       ``store_release``, full fence, then wake the peer if its
                                    ``waiting`` word is set.
``wake()``                          Wake every waiter and leave the value: for a goodbye.
``wait(wanted, waiting, spin_ns,    Wait until the value is ``wanted``; spin first, then sleep
timeout_ns)``                       in the kernel. Return the value after *any* change,
                                    wake-up or time-out: the caller looks and decides.
``release()``                       Let go of the buffer, so that it can be unmapped. Later
                                    calls raise ValueError; a second release does nothing.
==================================  =========================================================

The contract (PROTOCOL.md §6, §12): write the payload, then ``hand_over``; ``wait``, then read
the payload. A waiter announces itself (``waiting`` = 1, full fence) before it looks for the
last time and sleeps; the side that hands over stores, fences, and only then reads ``waiting``.
So at least one of the two sees the other, and a wake-up that is not needed costs no system
call. If one is missed all the same, the time-out ends the sleep: callers wait in slices.

``Guard(in_use)`` lets one call at a time into an endpoint. It is beside the word because it too
needs what Python cannot promise: no signal handler may raise between taking it and giving it back.

==================================  =========================================================
``guard(function, *args, ...)``     Call the function, as the owner while that lasts. Raise
                                    ``refusal()`` if that is set, ``in_use()`` if another
                                    call is in progress, this thread's own included.
``owner``                           ``threading.get_ident()`` of the owner, or 0.
``refusal``                         Set it and new calls are refused, for ever.
``stop``                            Set it and the owner should end what it waits for.
``after``                           Set it and it is called once, by the owner at the end of
                                    its call or by ``settle``, whichever comes first.
``settle()``                        Call ``after`` if there is no owner; False if there is.
``orphan(refusal)``                 Free and refuse at once, in a forked child.
==================================  =========================================================

What ends a ``wait``: a change of the word, a wake-up, ``timeout_ns``, or a signal handler that
raises (Ctrl-C). It does not notice a dead peer; its caller probes between slices.

``Shield(buffer)`` is for mapped memory whose file somebody may truncate, which is SIGBUS for
whoever touches it. With it such a touch finds zeros, and ``lost`` is true from then on; every
other SIGBUS goes where it went before. Look at ``lost`` after copying values. ``release()`` it
before the memory is unmapped. The pure twin cannot do this: its ``Shield`` is None.

``core()`` is the number of the processor core this thread is on, or -1 where nobody says.

``RLAY_ATOMICS`` chooses the twin: ``compiled``, ``pure``, or unset for compiled where it was
built and pure elsewhere. Callers write ``atomics.Word``, so that tests can exchange it.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

__all__ = ["IMPLEMENTATION", "Exchange", "Guard", "LaneExchange", "Shield", "Word", "core"]

_wish = os.environ.get("RLAY_ATOMICS", "")

#: ``compiled`` or ``pure``.
IMPLEMENTATION: str

if TYPE_CHECKING:
    from rlay._atomics import Exchange as _Exchange
    from rlay._atomics import Guard, Word, core
    from rlay._atomics import LaneExchange as _LaneExchange
    from rlay._atomics import Shield as _Shield

    #: The compiled step (rlay/exchange.py), or None with the pure twin.
    Exchange: type[_Exchange] | None
    #: The same for lanes.
    LaneExchange: type[_LaneExchange] | None
    #: What survives a truncated file, or None with the pure twin.
    Shield: type[_Shield] | None
elif _wish == "compiled":
    from rlay._atomics import Exchange, Guard, LaneExchange, Shield, Word, core

    IMPLEMENTATION = "compiled"
elif _wish == "pure":
    from rlay._atomics_pure import Guard, Word, core

    Exchange = LaneExchange = Shield = None

    IMPLEMENTATION = "pure"
elif _wish:
    raise ImportError(f"RLAY_ATOMICS is {_wish!r}, expected 'compiled', 'pure' or nothing")
else:
    try:
        from rlay._atomics import Exchange, Guard, LaneExchange, Shield, Word, core

        IMPLEMENTATION = "compiled"
    except ModuleNotFoundError:
        from rlay._atomics_pure import Guard, Word, core

        Exchange = LaneExchange = Shield = None
        IMPLEMENTATION = "pure"
