"""The workers of a ``VectorEnv``: asked together, waited for together, ended together.

Theory of operation. ``ask`` sends one request to each worker and gathers the replies.
The worker that was asked last is waited for first: when it has answered, most others
have too, so that we sleep once a step and stay off the cores that the workers need.
What was sent and not gathered is *pending*: after a time-out or Ctrl-C only ``wait`` may
follow, so no reply is ever taken for another's. An error is raised when every worker has
answered, so that it leaves nothing pending.
"""

from __future__ import annotations

import dataclasses
import math
import os
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

from rlay import atomics
from rlay.atomics import Guard
from rlay.channel.wait import SLICE_NS, usable_cores
from rlay.envs.launch import Launcher
from rlay.envs.vector_workers import Worker, check_alike
from rlay.errors import (
    ChannelFormatError,
    ChannelTimeoutError,
    LayoutMismatchError,
    LocalProtocolError,
    PeerError,
    ProtocolError,
    RlayError,
)
from rlay.protocol.lane_codecs import Which
from rlay.protocol.lanes import LaneActions, LaneReply
from rlay.protocol.schema import Schema
from rlay.protocol.turn import State

#: How long ``first_ready`` waits for one worker before it looks at the others, seconds.
_FIRST_NAP, _LONGEST_NAP = 50e-6, 2e-3
#: How long ``close`` waits for all acknowledgements, seconds.
_CLOSE_TIMEOUT = 2.0


@dataclasses.dataclass
class _Gathering:
    """A call whose replies are not all there.

    Attributes:
        left: workers that were asked and have not answered, in order.
        take: takes one worker's reply; may be called again after an interrupt.
        result: makes what the call returns, when all have answered.
        replies: of those that have answered.
        errors: of the workers that failed, by their index.
    """

    left: list[Worker]
    take: Callable[[Worker, Any], None]
    result: Callable[[], Any]
    replies: dict[Worker, Any] = dataclasses.field(default_factory=dict)
    errors: dict[int, Exception] = dataclasses.field(default_factory=dict)


def wait_among(workers: int, wait: str | None) -> str | None:
    """Return how the agent and its workers wait, unless somebody said.

    With as many workers as cores every spin is on a core that another of them needs.
    """
    if wait is None and not os.environ.get("RLAY_WAIT") and workers >= len(usable_cores()):
        return "block"
    return wait


def _names(workers: Sequence[Worker]) -> str:
    return ", ".join(map(str, workers))


class Pool:
    """Attached workers with equal spaces.

    Attributes:
        workers: in the order of their lanes.
        timeout: seconds a call waits; None, as long as the workers live.
        attach_timeout: seconds to wait for a worker at the start and after a loss.
        ready: no lane is waiting for its first reset.
    """

    def __init__(
        self,
        channels: Sequence[str],
        launchers: Sequence[Launcher],
        *,
        timeout: float | None,
        attach_timeout: float | None,
        accepts: Callable[[Schema], None],
        wait: str | None,
        guard: Guard,
        cores: Sequence[int | None] = (),
    ) -> None:
        """Start and attach all workers; ``cores`` as of ``VectorEnv``.

        Raises:
            ChannelNotFoundError, ChannelBusyError, PeerLostError: one did not attach.
            LayoutMismatchError: the workers have different lanes.
        """
        self.timeout, self.attach_timeout = timeout, attach_timeout
        self.ready = False
        self._accepts = accepts
        self._schemas: dict[int, Schema] = {}
        self._gathering: _Gathering | None = None
        self._flying: dict[Worker, Which] = {}
        self._late_errors: list[RlayError] = []
        self.workers: list[Worker] = []
        wait = wait_among(len(channels), wait)
        try:
            for index, channel in enumerate(channels):
                launcher = launchers[index] if launchers else None
                accepter = self._accepter(index)
                self.workers.append(Worker(index, channel, launcher, accepter, wait, guard))
            self.revive()
        except BaseException:
            self.close()
            raise
        self._orders = {
            core: sorted(self.workers, key=lambda worker: cores[worker.index] == core)
            for core in {core for core in cores if core is not None}
        }

    def _accepter(self, index: int) -> Callable[[Schema], None]:
        def accept(schema: Schema) -> None:
            groups = schema.groups
            if len(groups) != 1 or not groups[0].lanes or groups[0].agents:
                raise LayoutMismatchError("the channel is not for one vector of environments")
            known = self._schemas.get(index)
            check_alike(self._schemas.get(0, schema), schema, index)
            if known and known.groups[0].lanes != groups[0].lanes:
                raise LayoutMismatchError(
                    f"worker {index} has {groups[0].lanes} lanes, it had {known.groups[0].lanes}"
                )
            self._accepts(schema)

        return accept

    def revive(self) -> None:
        """Start and attach the workers whose session is over, or not begun."""
        over = [w for w in self.workers if w.index not in self._schemas or w.session.ended]
        for worker in over:
            worker.start()
        for worker in over:
            before = self.workers[worker.index - 1] if worker.index else None
            self.ready = False
            worker.attach(self.attach_timeout, before.first + before.count if before else 0)
            self._schemas[worker.index] = worker.session.schema

    def check_idle(self, *, but_for_flying: bool = False) -> None:
        """Refuse a new request while replies to others are outstanding.

        Raises:
            LocalProtocolError: says what to do first.
        """
        if self._gathering is not None:
            names = _names(self._gathering.left) or "no worker"
            raise LocalProtocolError(f"a call is pending for {names}: call wait(), or close()")
        if (self._flying or self._late_errors) and not but_for_flying:
            names = _names(list(self._flying)) or "no worker"
            raise LocalProtocolError(
                f"sent actions are pending for {names}: call recv() or close()"
            )

    # One request to each worker, all replies.

    def in_order(self) -> Sequence[Worker]:
        """Return all workers as they should be asked: those on our core last.

        One that is woken there takes the core from us at once, and the rest would wait.
        """
        return self._orders.get(atomics.core(), self.workers) if self._orders else self.workers

    def ask(
        self,
        workers: Sequence[Worker],
        send: Callable[[Worker], None],
        take: Callable[[Worker, Any], None],
        result: Callable[[], Any],
    ) -> Any:
        """Send to each of these workers, gather their replies, return ``result()``.

        Raises:
            LocalProtocolError: something is pending.
            LayoutError: a request cannot be carried exactly.
            ChannelTimeoutError: no reply in time; call ``wait``.
            RemoteError, PeerError, RemoteProtocolError: of the first worker that failed.
        """
        gathering = self._gathering = _Gathering(list(workers), take, result)
        sent = 0
        try:
            for worker in workers:
                send(worker)
                sent += 1
        except RlayError as error:
            # Not sent to this one and the rest; who was asked has to be heard.
            del gathering.left[sent:]
            if not sent:
                self._gathering = None
                raise
            gathering.errors[-1] = error
        return self.wait(self.timeout)

    def wait(self, timeout: float | None) -> Any:
        """Gather what is pending; return what that call would have returned."""
        gathering = self._gathering
        if gathering is None:
            raise LocalProtocolError("nothing is pending: call step() or reset() first")
        end = math.inf if timeout is None else time.monotonic() + timeout
        while gathering.left:
            worker = gathering.left[-1]
            left = None if timeout is None else max(0.0, end - time.monotonic())
            try:
                gathering.replies[worker] = self._receive(worker, left)
            except ChannelTimeoutError as late:
                what = f"{late.waited_for.partition(' of lane')[0]} of {_names(gathering.left)}"
                raise ChannelTimeoutError(what, timeout or 0.0, late.phase) from None
            except (PeerError, ProtocolError, ChannelFormatError) as error:
                self._failed(worker)
                gathering.errors[worker.index] = error
            del gathering.left[-1]
        # In the order of the lanes, by which Gymnasium chooses the types of infos.
        for worker in sorted(gathering.replies, key=lambda worker: worker.index):
            try:
                gathering.take(worker, gathering.replies[worker])
            except Exception as error:
                # Malformed, or Gymnasium cannot join the infos of these lanes.
                self._failed(worker)
                gathering.errors[worker.index] = error
        self._gathering = None
        if gathering.errors:
            first = gathering.errors[min(gathering.errors)]
            # The error's traceback holds this frame: without the replies, whose records keep
            # data files mapped, and not in a cycle that only the collector would find.
            gathering.replies.clear()
            gathering.errors.clear()
            try:
                raise first
            finally:
                del first
        return gathering.result()

    def _receive(self, worker: Worker, timeout: float | None) -> Any:
        slice_ns = SLICE_NS if timeout is None else min(SLICE_NS, int(min(timeout, 1.0) * 1e9))
        if reply := worker.session.landed(slice_ns):
            return reply
        if worker.session.pending is None and not worker.session.ended:
            # Ctrl-C came while it was being asked, or when its reply was half taken.
            worker.fresh[:] = True
            raise LocalProtocolError(f"an interrupt cut short the call to {worker}: reset it")
        return worker.receive(timeout)

    def _failed(self, worker: Worker) -> None:
        """Note that lanes without an episode have to be reset before anything else."""
        if worker.session.state is not State.IN_EPISODE:
            worker.fresh[:] = True
        self.ready = False

    # Requests in flight, the first replies.

    def launch(
        self, worker: Worker, actions: LaneActions, arrays: tuple[Any, ...], first: int | None
    ) -> None:
        """Send a STEP to a worker without waiting; ``actions.lanes`` come back with its reply.

        Args:
            worker: to send it to.
            actions: of its lanes.
            arrays: the same batch as ``LaneCodec.arrays``.
            first: which of the batch is for its lane 0, if they are all in a row.
        """
        self._flying[worker] = actions.lanes
        try:
            if first is None:
                worker.session.send_step(actions)
            else:
                worker.session.post_step(actions, arrays, first)
        except RlayError:
            del self._flying[worker]
            raise

    def flies(self, worker: Worker) -> bool:
        """Tell whether a worker has a request in flight."""
        return worker in self._flying

    def first_ready(self, timeout: float | None) -> list[tuple[Worker, Which, LaneReply]]:
        """Wait until a worker in flight has answered; return what all that have answered.

        Returns:
            Worker, the lanes that acted, and the reply of each.

        An error of one worker is kept for the next call if others have answered well.

        Raises:
            LocalProtocolError: nothing is in flight.
            ChannelTimeoutError: nobody answered in time; call again.
            RemoteError, PeerError, RemoteProtocolError: names the lanes.
        """
        if self._late_errors:
            raise self._late_errors.pop(0)
        if not self._flying:
            raise LocalProtocolError("nothing is in flight: call send() first")
        end = math.inf if timeout is None else time.monotonic() + timeout
        nap = _FIRST_NAP
        while True:
            landed = [w for w in self._flying if w.session.ended or w.session.ready()]
            if found := self._collect(landed, 0.0):
                return found
            waits = next(iter(self._flying))
            # The next look waits for another one, so that each one's death is noticed.
            self._flying[waits] = self._flying.pop(waits)
            if found := self._collect([waits], min(nap, max(0.0, end - time.monotonic()))):
                return found
            if time.monotonic() >= end:
                what = f"reply to STEP of any of {_names(list(self._flying))}"
                raise ChannelTimeoutError(what, timeout or 0.0, "STEPPING")
            nap = min(2 * nap, _LONGEST_NAP)

    def _collect(
        self, workers: list[Worker], timeout: float
    ) -> list[tuple[Worker, Which, LaneReply]]:
        found = []
        for worker in workers:
            try:
                reply = self._receive(worker, timeout)
            except ChannelTimeoutError:
                continue
            except (PeerError, ProtocolError, ChannelFormatError) as error:
                self._failed(worker)
                self._late_errors.append(error)
                del self._flying[worker]
                continue
            found.append((worker, self._flying.pop(worker), reply))
        if self._late_errors and not found:
            raise self._late_errors.pop(0)
        return found

    def close(self) -> None:
        """End the sessions and the processes; twice is fine."""
        for worker in self.workers:
            worker.say_close()
        end = time.monotonic() + _CLOSE_TIMEOUT
        for worker in self.workers:
            worker.close(max(0.0, end - time.monotonic()))
        launchers = [worker.launcher for worker in self.workers if worker.launcher]
        # Each may take seconds to end a process that hangs, so all at once.
        threads = [threading.Thread(target=launcher.stop) for launcher in launchers]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
