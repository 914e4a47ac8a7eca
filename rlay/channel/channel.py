"""One side's end of one session's control file: the turn, the peer's life, goodbyes.

Theory of operation. A channel object lives as long as one control file. It
waits for the turn in slices; between two of them it looks at the peer's bye
word, probes the peer's lock, and checks the deadline. What each answer means is
written down once, in ``await_turn``. PROTOCOL.md §6, §11 and §12 are its rules.
"""

from __future__ import annotations

import contextlib
import time

from rlay import atomics
from rlay.channel.files import Mapping, Paths
from rlay.channel.locks import OsLock
from rlay.channel.wait import SLICE_NS, Deadline, WaitStrategy
from rlay.errors import (
    ChannelTimeoutError,
    PeerClosedError,
    PeerError,
    PeerLostError,
    RemoteProtocolError,
)
from rlay.protocol.constants import HEADER_SIZE, TURN_IDLE, Bye, Side
from rlay.protocol.header import HEADER

_TURN_VALUES = (TURN_IDLE, Side.SERVER, Side.CLIENT)


class Channel:
    """The shared words of one control file, as seen from one side.

    Attributes:
        side: ours.
        generation: of the control file, and so of the session.
        mapping: the control file.
        files: what a wait looks after: the control file, and the data file once there is one.
        strategy: how this side waits.
        guard: of this side's endpoint; a wait ends when it says so.
    """

    def __init__(
        self,
        paths: Paths,
        mapping: Mapping,
        side: Side,
        peer_lock: OsLock,
        generation: int,
        strategy: WaitStrategy,
        guard: atomics.Guard,
    ) -> None:
        """Take over a mapped control file; ``peer_lock`` is probed, never held."""
        self.paths, self.mapping, self.side, self.generation = paths, mapping, side, generation
        self.files = [mapping]
        self._peer_lock = peer_lock
        self.strategy, self.guard = strategy, guard
        us, them = side.name.lower(), side.peer.name.lower()
        self._turn = self._word("turn")
        self._our_waiting = self._word(f"{us}_waiting")
        if strategy.nap_ns:
            # Who naps asks for no wake-up, so the peer must not see that we wait.
            self._our_waiting = atomics.Word(bytearray(4), 0)
        self._their_waiting = self._word(f"{them}_waiting")
        self._our_bye = self._word(f"{us}_bye")
        self._their_bye = self._word(f"{them}_bye")
        self._claim = self._word("claim")

    def _word(self, name: str) -> atomics.Word:
        return atomics.Word(self.mapping.memory, HEADER[name].offset)

    def header_copy(self) -> bytes:
        """Return a private copy of the header page."""
        return bytes(self.mapping.memory[:HEADER_SIZE])

    def claimed(self) -> bool:
        """Tell whether a client has taken the session."""
        # acquire: pairs with the store_release in claim (§10)
        return self._claim.load_acquire() != 0

    def claim(self) -> None:
        """Take the session; only a client that holds the client lock may."""
        # release: pairs with the load_acquire in claimed (§10)
        self._claim.store_release(1)

    def our_turn(self) -> bool:
        """Look once whether we may write."""
        # acquire: pairs with the release in the peer's hand_over (§6.3)
        return self._turn.load_acquire() == self.side

    def hand_over(self) -> None:
        """Give the turn to the peer; everything written before is visible to it.

        After this call neither record may be touched until the turn is ours again.
        """
        # release: pairs with the acquire load in the peer's wait (§6.3)
        self._turn.hand_over(self.side.peer, self._their_waiting)

    def check_files(self) -> None:
        """Raise ChannelFormatError if somebody truncated a file of the session."""
        for mapping in self.files:
            mapping.check()

    def wait_slice(self, deadline: Deadline) -> bool:
        """Wait one slice at most; return whether the turn is ours.

        What wakes it: the peer's hand-over or goodbye. What ends it: the slice, the
        deadline, a signal. A dead peer is the caller's to notice, by ``lost_peer``.

        Raises:
            LocalProtocolError: another thread closes this endpoint.
            RemoteProtocolError: the turn word holds something that is no turn.
        """
        self._check_wanted()
        # acquire: pairs with the release in the peer's hand_over (§6.3)
        strategy, slice_ns = self.strategy, deadline.slice_ns()
        if strategy.nap_ns:
            slice_ns = min(slice_ns, strategy.nap_ns)
        value = self._turn.wait(self.side, self._our_waiting, strategy.spin_ns, slice_ns)
        if value == self.side:
            return True
        strategy.lengthen()
        if value not in _TURN_VALUES:
            raise RemoteProtocolError(f"the turn word is {value:#x}, which is no turn (§6.1)")
        return False

    def _check_wanted(self) -> None:
        if self.guard.stop and self.guard.refusal:
            raise self.guard.refusal()

    def lost_peer(self, *, probe: bool = True) -> PeerError | None:
        """Return what became of the peer, or None while it lives.

        Its goodbye is always looked at, its lock only with ``probe``.

        The caller must look at the turn once more before it believes this: a reply
        may have been published first (§11).
        """
        if closed := self._closed_peer():
            return closed
        if not probe:
            return None
        replaced = self.side is Side.CLIENT and not self.mapping.is_at(self.paths.control)
        if not replaced and not self._peer_lock.is_free():
            return None
        # Once more: who leaves says so first, and it may have left since we looked (§11).
        return self._closed_peer() or PeerLostError(
            f"the {self.side.peer.name.lower()} of channel {self.paths.name!r} vanished "
            f"({'its file was replaced or removed' if replaced else 'its lock is free'}); "
            "reset() attaches again"
        )

    def _closed_peer(self) -> PeerClosedError | None:
        # acquire: pairs with the store_release in the peer's say_bye (§15)
        bye = self._their_bye.load_acquire()
        if bye == Bye.NONE:
            return None
        reason = "failed" if bye == Bye.FAILED else "closed"
        return PeerClosedError(
            f"the {self.side.peer.name.lower()} of channel {self.paths.name!r} "
            f"{'gave up because of an error' if reason == 'failed' else 'closed the session'}; "
            "reset() attaches again",
            reason,
        )

    def await_turn(
        self, deadline: Deadline, waited_for: str, phase: str, *, waited_ns: int = 0
    ) -> None:
        """Wait until the turn is ours.

        A time-out changes nothing: what we sent stays sent, and waiting again gets
        the reply. So does Ctrl-C.

        Args:
            deadline: ends the wait.
            waited_for: what the turn will bring, for errors.
            phase: of the session, for errors.
            waited_ns: how long somebody has waited for this turn already; after a slice
                the peer is looked after at once.

        Raises:
            ChannelTimeoutError: the deadline passed and the peer is alive.
            PeerClosedError: the peer said goodbye.
            PeerLostError: the peer vanished; noticed within a slice of its death.
            LocalProtocolError: another thread closes this endpoint.
            RemoteProtocolError: the turn word holds something that is no turn.
            ChannelFormatError: a file of the session was truncated.
        """
        self._check_wanted()
        start = time.monotonic_ns() - waited_ns
        next_probe = start + SLICE_NS
        ours = self.our_turn() if waited_ns else self.wait_slice(deadline)
        while not ours:
            now, late = time.monotonic_ns(), deadline.passed()
            # A slice may end early, by a wake-up or a nap; the lock is probed once in 20 ms.
            gone = self.lost_peer(probe=late or now >= next_probe)
            # After that look: a peer that gave up because of a truncated file is not the news.
            self.check_files()
            if gone:
                if self.our_turn():
                    break
                if isinstance(gone, PeerLostError):
                    gone.idle_for = (now - start) / 1e9
                raise gone
            if now >= next_probe:
                next_probe = now + SLICE_NS
            if late:
                raise ChannelTimeoutError(waited_for, deadline.timeout or 0.0, phase)
            ours = self.wait_slice(deadline)
        self.strategy.learn(time.monotonic_ns() - start)

    def say_bye(self, bye: Bye) -> None:
        """Tell the peer that we leave; allowed without the turn, once, as our last write."""
        # release, and after any flag of ours: pairs with the load_acquire in _closed_peer (§15)
        with contextlib.suppress(ValueError):
            if self.mapping.damage():
                return  # the peer finds that, too; and the pure twin must not touch it
            if self._our_bye.load_acquire() == Bye.NONE:
                self._our_bye.store_release(bye)
                self._turn.wake()

    def close(self) -> None:
        """Unmap; twice is fine."""
        for word in (
            self._turn,
            self._our_waiting,
            self._their_waiting,
            self._our_bye,
            self._their_bye,
            self._claim,
        ):
            word.release()
        self.mapping.close()
