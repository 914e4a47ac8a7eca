"""One worker of a ``VectorEnv``: the agent's end of one channel, and its process if we started it.

Errors that pass through here name the worker's lanes as the ``VectorEnv`` numbers them.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from typing import Any

import gymnasium
import numpy as np

from rlay.atomics import Guard
from rlay.client import MemClient
from rlay.envs.launch import Launcher
from rlay.errors import (
    ChannelTimeoutError,
    LayoutError,
    LayoutMismatchError,
    PeerClosedError,
    PeerLostError,
    RemoteError,
    RemoteProtocolError,
    RlayError,
)
from rlay.protocol.constants import Bye, Command, Feature, Role
from rlay.protocol.lane_codecs import ALL, Which
from rlay.protocol.lanes import LaneReply
from rlay.protocol.schema import Schema, first_difference
from rlay.session import Session


class Worker:
    """One channel with lanes, as the agent sees it.

    Attributes:
        session: with the environment's side, once attached.
        count: its lanes.
        first: the number of its lane 0 among all lanes.
        where: its lanes among all lanes.
        fresh: bool [count]: never reset in this session, or left undefined by an error.
        last: the newest reply to a RESET or STEP.
    """

    session: Session

    def __init__(
        self,
        index: int,
        channel: str,
        launcher: Launcher | None,
        accepts: Callable[[Schema], None],
        wait: str | None = None,
        guard: Guard | None = None,
    ) -> None:
        """Open the endpoint; ``attach`` comes later, so that all processes start at once."""
        self.index, self.channel, self.launcher = index, channel, launcher
        self.count = self.first = 0
        self.where = ALL
        self.fresh = np.ones(0, np.bool_)
        self.last: LaneReply | None = None
        self._endpoint = MemClient(
            channel,
            Role.AGENT,
            features=Feature.RENDER | Feature.CALL,
            accepts=accepts,
            starting=self._starting,
            wait=wait,
            guard=guard,
        )

    def start(self) -> None:
        """Start the process, if it is ours and not running; returns at once."""
        if self.launcher:
            self.launcher.start()

    def _starting(self) -> None:
        if self.launcher and not self.launcher.running():
            lost = PeerLostError(f"{self} ended before it attached")
            raise self.launcher.explain(lost)

    def attach(self, timeout: float | None, first: int) -> None:
        """Attach; ``first`` is the number of our lane 0.

        Raises:
            PeerLostError: the process ended before it attached.
            ChannelNotFoundError, ChannelBusyError: as of ``MemClient.attach``.
        """
        self.session = self._endpoint.open_session(timeout)
        self.session.compile_steps(Role.AGENT)
        self.first, self.count = first, self.session.schema.groups[0].lanes
        self.where = slice(first, first + self.count)
        self.fresh = np.ones(self.count, np.bool_)
        self.last = None

    def __str__(self) -> str:
        """Name the lanes and the worker."""
        if not self.count:
            return f"worker {self.index}"
        last = self.first + self.count - 1
        lanes = f"lane {last}" if self.count == 1 else f"lanes {self.first} to {last}"
        return f"{lanes} (worker {self.index})"

    def receive(self, timeout: float | None) -> Any:
        """Wait for the reply to the pending request.

        Raises:
            ChannelTimeoutError: still pending.
            RemoteError, PeerError, RemoteProtocolError: names our lanes.
        """
        try:
            return self.session.receive(timeout)
        except ChannelTimeoutError as late:
            what = f"{late.waited_for} of {self}"
            raise ChannelTimeoutError(what, late.timeout, late.phase) from None
        except RemoteError as error:
            raise self._remote(error) from None
        except PeerClosedError as closed:
            raise PeerClosedError(f"{self}: {closed}", closed.reason) from None
        except PeerLostError as lost:
            named = PeerLostError(
                f"{self}: {lost}", last_command=lost.last_command, idle_for=lost.idle_for
            )
            raise (self.launcher.explain(named) if self.launcher else named) from None
        except RemoteProtocolError as error:
            raise RemoteProtocolError(f"{self}: {error}") from None

    def _remote(self, error: RemoteError) -> RemoteError:
        if error.lane is not None:
            lane: int | None = self.first + error.lane
            return RemoteError(error.type, error.message, error.remote_traceback, lane)
        return RemoteError(error.type, f"{error.message} [{self}]", error.remote_traceback)

    def say_close(self) -> None:
        """Ask the environments to finish, if they can be asked; waits for nothing."""
        with contextlib.suppress(RlayError, AttributeError):
            self.session.send_close()

    def close(self, timeout: float) -> None:
        """Wait for the answer to ``say_close`` and release the channel; twice is fine."""
        # Busy, late or gone: the goodbye that follows needs no turn.
        with contextlib.suppress(RlayError, AttributeError):
            if self.session.pending is Command.CLOSE:
                self.session.receive(timeout)
        self._endpoint.shut()
        # Its record keeps the data file mapped, and the collector may come late to a closed vector.
        self.last = None


class Batch:
    """The results of some lanes, in Gymnasium's form.

    Attributes:
        observations: from ``LaneCodec.empty``.
        rewards: float64 [n].
        terminations: bool [n].
        truncations: bool [n].
        infos: as ``gymnasium.vector.VectorEnv`` makes them.
    """

    def __init__(self, count: int, observations: Any) -> None:
        """Make room for ``count`` lanes."""
        self.count = count
        self.observations = observations
        self.rewards = np.empty(count, np.float64)
        self.terminations = np.empty(count, np.bool_)
        self.truncations = np.empty(count, np.bool_)
        self.infos: dict[str, Any] = {}
        #: Of ``observations``, as ``LaneExchange.copy`` takes them.
        self.arrays: tuple[np.ndarray, ...] | None = None
        self._adder: gymnasium.vector.VectorEnv[Any, Any, Any] | None = None

    def take_reset(self, worker: Worker, reply: LaneReply) -> None:
        """Copy the observations of a worker's lanes, and take the infos.

        Raises:
            RemoteProtocolError: the peer's bytes are no such reply; its session is over.
        """
        where = worker.where
        with _blaming(worker):
            if self.observations is not None:
                reply.record.observation.take(self.observations, where)
            self._take_infos(reply, {}, range(where.start, where.stop))

    def take_step(self, worker: Worker, reply: LaneReply, where: slice, lanes: Which = ALL) -> None:
        """Copy the results of ``lanes``, which are ``where`` here.

        Raises:
            RemoteProtocolError: the peer's bytes are no such reply; its session is over.
        """
        record = reply.record
        if reply.copy is not None and lanes is ALL:
            if self.observations is not None and self.arrays is None:
                self.arrays = record.observation.arrays(self.observations)
            results = (self.rewards, self.terminations, self.truncations)
            if not reply.copy(self.arrays, results, where.start):
                worker.session.check_intact()
            return
        with _blaming(worker):
            if self.observations is not None:
                record.observation.take(self.observations, where, lanes)
            self.rewards[where] = record.reward[lanes]
            self.terminations[where] = record.terminated[lanes] != 0
            self.truncations[where] = record.truncated[lanes] != 0
            finals = record.finals()
            if finals or reply.infos or record.info:
                places: range | dict[int, int] = range(where.start, where.stop)
                if lanes is not ALL:
                    chosen = np.arange(worker.count)[lanes].tolist()
                    places = dict(zip(chosen, places, strict=True))
                self._take_infos(reply, finals, places)

    def _take_infos(
        self, reply: LaneReply, finals: Mapping[int, Any], places: range | dict[int, int]
    ) -> None:
        """Add infos; ``places`` maps a worker's lane to its index here."""
        if isinstance(places, dict) and not places.keys() >= {*reply.infos, *finals}:
            raise RemoteProtocolError("the reply has infos of lanes that did not act")
        for lane in sorted({*reply.infos, *finals}):
            info = reply.infos.get(lane, {})
            if lane in finals:
                info = dict(info)
                final_info = info.pop("final_info", {})
                self._add({"final_obs": finals[lane], "final_info": final_info}, places[lane])
            if info:
                self._add(info, places[lane])
        keys = places if isinstance(places, dict) else range(len(places))
        for key, (present, codec) in reply.record.info.items():
            chosen = [lane for lane in np.flatnonzero(present).tolist() if lane in keys]
            if not chosen:
                continue
            values = codec.read(chosen)
            at = [places[lane] for lane in chosen]
            if codec.whole and isinstance(codec.empty(0), np.ndarray):
                self._add_array(key, np.array(values), at)
                continue
            for value, place in zip(values, at, strict=True):
                self._add({key: value}, place)

    def _add(self, info: dict[str, Any], place: int) -> None:
        if self._adder is None:
            self._adder = gymnasium.vector.VectorEnv()
            self._adder.num_envs = self.count
        try:
            self.infos = self._adder._add_info(self.infos, info, place)
        except Exception as error:
            # Gymnasium raises whatever NumPy does when the lanes' values do not go together.
            raise LayoutError(
                f"info: the values of lane {place} cannot stand beside those of the others "
                f"({type(error).__name__}: {error}); give a key the same type in every lane"
            ) from error

    def _add_array(self, key: str, values: np.ndarray, at: list[int]) -> None:
        if key not in self.infos:
            self.infos[key] = np.zeros((self.count, *values.shape[1:]), values.dtype)
            self.infos[f"_{key}"] = np.zeros(self.count, np.bool_)
        self.infos[key][at] = values
        self.infos[f"_{key}"][at] = True


class _blaming:  # noqa: N801 - reads as a statement
    """Ends the session of a worker whose reply turns out to be malformed, or truncated."""

    __slots__ = ("_worker",)

    def __init__(self, worker: Worker) -> None:
        self._worker = worker

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, error: object, _: object) -> None:
        if error is None or isinstance(error, RemoteProtocolError):
            self._worker.session.check_intact()
        if isinstance(error, RemoteProtocolError):
            self._worker.session.end(Bye.FAILED)


def check_alike(first: Schema, other: Schema, index: int) -> None:
    """Refuse a worker whose lanes cannot stand beside those of worker 0.

    Raises:
        LayoutMismatchError: names the first difference.
    """
    ours, theirs = ({**s.to_dict()["groups"][0], "lanes": 0} for s in (first, other))
    if difference := first_difference(ours, theirs, "groups/0"):
        raise LayoutMismatchError(
            difference, f"worker {index} has other lanes than worker 0: {difference}"
        )
