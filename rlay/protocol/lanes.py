"""The two records of a group with lanes: a vector of environments behind one channel (§7).

Fields are ``[lanes, ...]`` arrays in the mapped memory, and whole batches are
written and read at once. What differs from one environment without lanes: ``mask``
says which lanes a request concerns, each lane has a seed, a reply's body holds the
infos by lane, and an error may name its lane.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from rlay.errors import LayoutError, LayoutMismatchError, RemoteError, RemoteProtocolError
from rlay.protocol.codecs import Codec, compile_codec
from rlay.protocol.constants import STATUS_OK, Command
from rlay.protocol.exact import exact_array
from rlay.protocol.lane_codecs import (
    ALL,
    LaneCodec,
    LaneError,
    Which,
    compile_lane_codec,
    write_each,
)
from rlay.protocol.layout import Layout
from rlay.protocol.records import ReplyRecord, Request, RequestRecord, check_seed
from rlay.protocol.schema import Schema

_FLOAT64 = np.dtype(np.float64)
_BOOL = np.dtype(np.bool_)
#: What a float64 holds exactly whatever its value.
_EXACT_REWARDS = frozenset({float, np.float64, np.float32, np.float16, bool, np.bool_})
_EXACT_FLAGS = frozenset({bool, np.bool_})


class LaneActions(NamedTuple):
    """What the agent sends with a STEP.

    Attributes:
        batch: actions in Gymnasium's batch form, made exact by ``LaneCodec.exact``.
        which: the ones of the batch that are for this channel.
        lanes: which lanes act, as many.
    """

    batch: Any
    which: Which = ALL
    lanes: Which = ALL


class LaneSeeds(NamedTuple):
    """What the agent sends with a RESET.

    Attributes:
        seeds: one per lane, or None for a lane that draws its own.
        mask: bool [lanes], which lanes to reset; None for all.
    """

    seeds: Sequence[int | None]
    mask: np.ndarray | None = None


@dataclasses.dataclass(frozen=True)
class LaneRequest(Request):
    """What the agent asks of lanes.

    Attributes:
        lanes: the ones it concerns, ascending.
        actions: of a STEP, one for each of ``lanes``.
        seeds: of a RESET, one for each of ``lanes``.
    """

    lanes: Sequence[int] = ()
    actions: Sequence[Any] = ()
    seeds: Sequence[int | None] = ()


class LaneResults(NamedTuple):
    """What the environment answers as the observation of a RESET or STEP.

    Attributes:
        lanes: the ones the request concerned, ascending.
        observations: one for each of them.
        finals: lane to the last observation of an episode that ended in this step; only
            with autoreset ``same_step``.
    """

    lanes: Sequence[int]
    observations: Sequence[Any]
    finals: Mapping[int, Any] = {}


class LaneReply(NamedTuple):
    """An opened reply, which stays in the record until the next request is sent.

    Attributes:
        record: its fields.
        infos: undeclared info by lane; ``final_info`` is a key in it.
        copy: ``LaneExchange.copy`` if the reply is ordinary: no info, nothing final.
    """

    record: LaneReplyRecord
    infos: dict[int, dict[str, Any]]
    copy: Callable[[tuple[Any, ...] | None, tuple[Any, ...], int], bool] | None = None


class LaneRequestRecord(RequestRecord):
    """The agent writes it, the environment reads it.

    Attributes:
        actions: codec of the actions.
        mask: uint8 [lanes], the mapped field; 1 for the lanes that the request concerns.
    """

    lanes = True

    def __init__(
        self, schema: Schema, layout: Layout, data: memoryview, session: int | None = None
    ) -> None:
        """Compile over the mapped data file."""
        super().__init__(schema, layout, data, session)
        group = schema.groups[0]
        self.count = group.lanes
        self.actions = compile_lane_codec(group.action, "action", self._field, group.lanes)
        self.mask = self._field("mask")
        self._lane_seed = self._field("lane_seed")
        self._lane_seeded = self._field("lane_seed#present")
        self._every, self._ones = range(group.lanes), b"\x01" * group.lanes

    def write_step(self, seq: int, action: Any) -> None:
        """Write a STEP; ``action`` is a ``LaneActions``.

        Raises:
            LayoutError: a Text, OneOf, Sequence or Graph value does not fit.
        """
        batch, which, lanes = action
        self.actions.put(batch, which, lanes)
        if lanes is ALL:
            self.mask[:] = 1
        else:
            self.mask[:] = 0
            self.mask[lanes] = 1
        self._finish(seq, Command.STEP, STATUS_OK, b"")

    def write_reset(self, seq: int, seed: Any, options: Mapping[Any, Any] | None) -> None:
        """Write a RESET; ``seed`` is a ``LaneSeeds``.

        Raises:
            LayoutError: a seed is no u64, or the options cannot be encoded.
        """
        seeds, mask = seed
        for one in seeds:
            check_seed(one)
        self._lane_seed[:] = [one or 0 for one in seeds]
        self._lane_seeded[:] = [one is not None for one in seeds]
        self.mask[:] = 1 if mask is None else mask
        super().write_reset(seq, None, options)

    def write_plain(self, seq: int, command: Command, lane: int | None = None) -> None:
        """Write a RENDER of one lane, or a CLOSE."""
        if lane is not None:
            self.mask[:] = 0
            self.mask[lane] = 1
        super().write_plain(seq, command)

    def _lanes(self) -> Sequence[int]:
        mask = self.mask.tobytes()
        if mask == self._ones:
            return self._every
        return [lane for lane in self._every if mask[lane]]

    def read(self, command: Command, *, copy: bool = True) -> Request:
        """Return the request as a ``LaneRequest``; actions are copies.

        Raises:
            RemoteProtocolError: the peer's bytes are no such request.
        """
        if command is Command.STEP:
            lanes = self._lanes()
            return LaneRequest(command, lanes=lanes, actions=self.actions.read(lanes))
        plain = super().read(command)
        lanes = self._lanes()
        if command is not Command.RESET:
            return LaneRequest(command, call=plain.call, lanes=lanes)
        seeds: list[int | None] = self._lane_seed.tolist()
        # Where a lane has no seed of its own, the one for all counts on from it (§7).
        first = plain.seed
        for lane, present in enumerate(self._lane_seeded.tobytes()):
            if not present:
                seeds[lane] = None if first is None else (first + lane) % (1 << 64)
        chosen = [seeds[lane] for lane in lanes]
        return LaneRequest(command, options=plain.options, lanes=lanes, seeds=chosen)


class LaneReplyRecord(ReplyRecord):
    """The environment writes it, the agent reads it.

    Attributes:
        observation: codec of the observations.
        reward: float64 [lanes], the mapped field.
        terminated: uint8 [lanes], the mapped field; not 0 is true.
        truncated: uint8 [lanes], the mapped field; not 0 is true.
        info: declared key to (present uint8 [lanes], codec of its values).
        final: codec of ``final_observation``, with autoreset ``same_step``.
        final_present: uint8 [lanes], the mapped field beside it.
    """

    lanes = True

    def __init__(
        self, schema: Schema, layout: Layout, data: memoryview, session: int | None = None
    ) -> None:
        """Compile over the mapped data file."""
        super().__init__(schema, layout, data, session)
        group = schema.groups[0]
        self.count = group.lanes
        self.observation = self._compile(group.observation, "observation")
        self.reward = self._field("reward")
        self.terminated, self.truncated = self._field("terminated"), self._field("truncated")
        self.info: dict[str, tuple[np.ndarray, LaneCodec]] = {
            key: (self._field(f"info.{key}#present"), self._compile(d, f"info.{key}"))
            for key, d in group.info.items()
        }
        self.final: Codec | None = None
        if group.autoreset == "same_step":
            self.final_present = self._field("final_observation#present")
            self.final = compile_codec(group.observation, "final_observation", self._field)

    def _compile(self, description: dict[str, Any], path: str) -> LaneCodec:
        return compile_lane_codec(description, path, self._field, self.count)

    # The environment's half.

    def write_reset(self, seq: int, observation: Any, info: Mapping[Any, Any]) -> None:
        """Write the reply to a RESET.

        Args:
            seq: of the request.
            observation: a ``LaneResults``.
            info: lane to its info; a lane without info may be left out.

        Raises:
            LaneError: the record cannot hold exactly what a lane has.
            BodyTooLargeError: the infos do not fit.
        """
        lanes, observations, _ = observation
        self.observation.write(observations, lanes)
        self._finish(seq, Command.RESET, STATUS_OK, self._write_infos(info))

    def write_step(
        self,
        seq: int,
        observation: Any,
        reward: Any,
        terminated: Any,
        truncated: Any,
        info: Mapping[Any, Any],
    ) -> None:
        """Write the reply to a STEP.

        Args:
            seq: of the request.
            observation: a ``LaneResults``.
            reward: one for each of its lanes.
            terminated: one for each of its lanes.
            truncated: one for each of its lanes.
            info: lane to its info, with ``final_info`` in it where there is one; a lane
                without info may be left out.

        Raises:
            LaneError: the record cannot hold exactly what a lane has.
            BodyTooLargeError: the infos do not fit.
        """
        lanes, observations, finals = observation
        self.observation.write(observations, lanes)
        some = len(lanes) < self.count
        for name, view, values, kinds, dtype in (
            ("reward", self.reward, reward, _EXACT_REWARDS, _FLOAT64),
            ("terminated", self.terminated, terminated, _EXACT_FLAGS, _BOOL),
            ("truncated", self.truncated, truncated, _EXACT_FLAGS, _BOOL),
        ):
            if not kinds.issuperset(map(type, values)):
                values = _scalars(values, lanes, dtype, name)
            if some:
                view[:] = 0
                view[list(lanes)] = values
            else:
                view[:] = values
        if self.final is not None:
            self.final_present[:] = 0
            for lane, value in finals.items():
                write_each(self.final, [value], [lane])
                self.final_present[lane] = 1
        self._finish(seq, Command.STEP, STATUS_OK, self._write_infos(info))

    def _write_infos(self, infos: Mapping[int, Mapping[str, Any]]) -> bytes:
        """Write declared keys into their fields; return the rest as a body."""
        for present, _ in self.info.values():
            present[:] = 0
        rest: dict[int, dict[str, Any]] = {}
        for lane, info in infos.items():
            if not isinstance(info, Mapping):
                raise LaneError(lane) from LayoutError(f"info: {info!r:.80} is not a dict")
            undeclared = {}
            for key, value in info.items():
                if key in self.info:
                    present, codec = self.info[key]
                    codec.write([value], [lane])
                    present[lane] = 1
                else:
                    undeclared[key] = value
            if undeclared:
                rest[lane] = undeclared
        return self._encode({"infos": rest}, "info") if rest else b""

    def write_error(
        self, seq: int, command: Command, error: BaseException, lane: int | None = None
    ) -> None:
        """Write that the environment raised, and in which lane."""
        if isinstance(error, LaneError) and error.__cause__ is not None:
            lane, error = error.lane, error.__cause__
        super().write_error(seq, command, error, lane)

    # The agent's half.

    def _remote_error(self, fields: dict[Any, Any]) -> RemoteError:
        error = super()._remote_error(fields)
        lane = fields.get("lane")
        if type(lane) is int and 0 <= lane < self.count:
            return RemoteError(error.type, error.message, error.remote_traceback, lane)
        return error

    def read_reset(self, size: int, *, copy: bool = True) -> Any:
        """Return the opened reply as a ``LaneReply``."""
        return LaneReply(self, self._read_infos(size) if size else {})

    def read_step(self, size: int, *, copy: bool = True) -> Any:
        """Return the opened reply as a ``LaneReply``."""
        return LaneReply(self, self._read_infos(size) if size else {})

    def _read_infos(self, size: int) -> dict[int, dict[str, Any]]:
        infos: Any = self._map_body(size, "the reply's body").get("infos", {})
        if not isinstance(infos, dict):
            raise RemoteProtocolError(f"infos is a {type(infos).__name__}, expected a map")
        for lane, info in infos.items():
            if type(lane) is not int or not 0 <= lane < self.count or type(info) is not dict:
                raise RemoteProtocolError(f"infos[{lane!r}] is no map of one of the lanes")
        return infos

    def finals(self) -> dict[int, Any]:
        """Return copies of the final observations of a STEP, by lane.

        Raises:
            RemoteProtocolError: the peer's bytes are no value of the space.
        """
        if self.final is None:
            return {}
        lanes = np.flatnonzero(self.final_present).tolist()
        return {lane: self.final.read((lane,)) for lane in lanes}


def _scalars(values: Any, lanes: Sequence[int], dtype: np.dtype[Any], name: str) -> list[Any]:
    exact = []
    for value, lane in zip(values, lanes, strict=True):
        try:
            exact.append(exact_array(value, dtype, (), name)[()])
        except LayoutError as error:
            raise LaneError(lane) from error
    return exact


def compile_records(
    schema: Schema, layout: Layout, data: memoryview, session: int | None = None
) -> tuple[RequestRecord, ReplyRecord]:
    """Compile the two records of a session over the mapped data file.

    ``session`` left out is the one that stands in the records, as in a golden file.

    Raises:
        LayoutMismatchError: the schema is one that no endpoint here can speak yet.
    """
    if len(schema.groups) != 1 or schema.groups[0].agents:
        raise LayoutMismatchError(
            "the channel carries several groups or agents that come and go; "
            "this endpoint is for one environment, or one vector of them"
        )
    parts = schema, layout, data, session
    if schema.groups[0].lanes:
        return LaneRequestRecord(*parts), LaneReplyRecord(*parts)
    return RequestRecord(*parts), ReplyRecord(*parts)
