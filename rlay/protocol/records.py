"""The two records of one exchange: what is written, and what is believed (PROTOCOL.md §7).

A record is compiled once per session over the mapped data file. Writers put
the fields and the body, then the prefix; the caller hands over the turn after
that. Readers copy the prefix first and check the copy against what they expect.
"""

from __future__ import annotations

import dataclasses
import traceback
from collections.abc import Mapping
from typing import Any

import numpy as np

from rlay.errors import (
    BodyTooLargeError,
    LayoutError,
    RemoteError,
    RemoteProtocolError,
)
from rlay.protocol.codecs import Codec, compile_codec
from rlay.protocol.constants import (
    STATUS_OK,
    STATUS_REMOTE,
    Command,
    RecordKind,
)
from rlay.protocol.exact import exact_array
from rlay.protocol.layout import Layout
from rlay.protocol.prefix import Record
from rlay.protocol.schema import Schema

_BOOL = np.dtype(np.bool_)
_FLOAT64 = np.dtype(np.float64)
_CALL_KEYS = {"op": str, "name": str, "args": list, "kwargs": dict}


@dataclasses.dataclass(frozen=True)
class Request:
    """What the agent asks.

    Attributes:
        command: RESET, STEP, RENDER, CALL or CLOSE.
        action: of a STEP.
        seed: of a RESET, or None.
        options: of a RESET, or None.
        call: of a CALL: a dict with ``op``, ``name``, ``args``, ``kwargs``.
    """

    command: Command
    action: Any = None
    seed: int | None = None
    options: dict[Any, Any] | None = None
    call: dict[str, Any] | None = None


class RequestRecord(Record):
    """The agent writes it, the environment reads it."""

    def __init__(
        self, schema: Schema, layout: Layout, data: memoryview, session: int | None = None
    ) -> None:
        """Compile over the mapped data file; ``session`` left out is the one that stands there."""
        super().__init__(RecordKind.REQUEST, schema, layout, data, session)
        self._size = 0
        self._action = compile_codec(schema.groups[0].action, "action", self._field)
        self._seed, self._seeded = self._field("seed"), self._field("seed#present")

    @property
    def value(self) -> Codec:
        """The codec of the action."""
        return self._action

    def write_step(self, seq: int, action: Any) -> None:
        """Write a STEP.

        Raises:
            LayoutError: the record cannot hold exactly this action.
        """
        self._action.write(action)
        self._finish(seq, Command.STEP, STATUS_OK, b"")

    def write_reset(self, seq: int, seed: int | None, options: Mapping[Any, Any] | None) -> None:
        """Write a RESET.

        Raises:
            LayoutError: the seed is no u64, or the options cannot be encoded.
        """
        check_seed(seed)
        body = b"" if options is None else self._encode(options, "options")
        self._seed[()] = seed or 0
        self._seeded[()] = seed is not None
        self._finish(seq, Command.RESET, STATUS_OK, body)

    def write_call(self, seq: int, call: Mapping[str, Any]) -> None:
        """Write a CALL; ``call`` is the map of PROTOCOL.md §7."""
        self._finish(seq, Command.CALL, STATUS_OK, self._encode(call, "call"))

    def write_plain(self, seq: int, command: Command, lane: int | None = None) -> None:
        """Write a RENDER or CLOSE; ``lane`` is for groups with lanes."""
        self._finish(seq, command, STATUS_OK, b"")

    def command(self, seq: int) -> Command:
        """Return the command of the request that must carry ``seq``; ``read`` gets the rest of it.

        Raises:
            RemoteProtocolError: another seq or session, or no command.
        """
        number, status, self._size = self._open(seq)
        if status != STATUS_OK:
            raise RemoteProtocolError(f"the request's status is {status}, expected 0")
        if number not in tuple(Command) or number == Command.READY:
            raise RemoteProtocolError(f"the request's command is {number}, which is none")
        return Command(number)

    def read(self, command: Command, *, copy: bool = True) -> Request:
        """Return the request that ``command`` opened; ``copy=False`` gives views for this turn.

        Raises:
            RemoteProtocolError: the peer's bytes are no such request.
        """
        if command is Command.STEP:
            return Request(command, action=self._action.read(copy=copy))
        size = self._size
        if command is Command.RESET:
            seed = int(self._seed[()]) if self._seeded[()] else None
            options = self._map_body(size, "options") if size else None
            return Request(command, seed=seed, options=options)
        if command is Command.CALL:
            call = self._map_body(size, "call")
            if any(not isinstance(call.get(k), kind) for k, kind in _CALL_KEYS.items()):
                raise RemoteProtocolError(f"the call holds {sorted(map(str, call))}, which is none")
            return Request(command, call=call)
        return Request(command)


class ReplyRecord(Record):
    """The environment writes it, the agent reads it."""

    def __init__(
        self, schema: Schema, layout: Layout, data: memoryview, session: int | None = None
    ) -> None:
        """Compile over the mapped data file; ``session`` left out is the one that stands there."""
        super().__init__(RecordKind.REPLY, schema, layout, data, session)
        group = schema.groups[0]
        self._observation = compile_codec(group.observation, "observation", self._field)
        self._reward = self._field("reward")
        self._terminated, self._truncated = self._field("terminated"), self._field("truncated")
        self._info: dict[str, tuple[np.ndarray, Codec]] = {
            key: (
                self._field(f"info.{key}#present"),
                compile_codec(description, f"info.{key}", self._field),
            )
            for key, description in group.info.items()
        }
        self._frame = self._field("frame") if schema.frame else None
        self._frame_shape = self._field("frame#shape") if schema.frame else None

    @property
    def value(self) -> Codec:
        """The codec of the observation."""
        return self._observation

    @property
    def declares_info(self) -> bool:
        """Whether some info keys have fields of their own."""
        return bool(self._info)

    def _write_info(self, info: Mapping[str, Any]) -> bytes:
        """Write the declared keys into their fields; return the rest as a body."""
        if not isinstance(info, Mapping):
            raise LayoutError(f"info: {info!r:.80} is not a dict")
        rest: Mapping[str, Any] = info
        for key, (present, codec) in self._info.items():
            present[()] = key in info
            if key in info:
                codec.write(info[key])
        if self._info:
            rest = {key: value for key, value in info.items() if key not in self._info}
        return self._encode(rest, "info") if rest else b""

    def _read_info(self, size: int) -> dict[str, Any]:
        info = self._map_body(size, "info")
        for key, (present, codec) in self._info.items():
            if present[()]:
                value = codec.read()
                info[key] = value[()] if isinstance(value, np.ndarray) and not value.ndim else value
        return info

    def write_reset(self, seq: int, observation: Any, info: Mapping[str, Any]) -> None:
        """Write the reply to a RESET.

        Raises:
            LayoutError: the record cannot hold exactly this observation or info.
        """
        self._observation.write(observation)
        self._finish(seq, Command.RESET, STATUS_OK, self._write_info(info))

    def write_step(
        self,
        seq: int,
        observation: Any,
        reward: Any,
        terminated: Any,
        truncated: Any,
        info: Mapping[str, Any],
    ) -> None:
        """Write the reply to a STEP.

        Raises:
            LayoutError: the record cannot hold exactly these values.
        """
        self._observation.write(observation)
        if type(reward) is not float:
            reward = exact_array(reward, _FLOAT64, (), "reward")
        self._reward[()] = reward
        for name, view, flag in (
            ("terminated", self._terminated, terminated),
            ("truncated", self._truncated, truncated),
        ):
            view[()] = flag if type(flag) is bool else exact_array(flag, _BOOL, (), name)
        self._finish(seq, Command.STEP, STATUS_OK, self._write_info(info))

    def write_frame(self, seq: int, frame: Any) -> None:
        """Write the reply to a RENDER: an image in its field, anything else in the body.

        Raises:
            BodyTooLargeError: the frame fits neither its field nor the body.
            LayoutError: what ``render()`` returned cannot be encoded.
        """
        body = b""
        image = isinstance(frame, np.ndarray) and frame.dtype == np.uint8 and frame.ndim == 3
        room = 0 if self._frame is None else self._frame.size
        fits = image and self._frame is not None and frame.size <= room
        if self._frame is not None and self._frame_shape is not None:
            self._frame_shape[:] = frame.shape if fits else 0
            if fits:
                self._frame[: frame.size] = frame.reshape(-1)
        if frame is not None and not fits:
            try:
                body = self._encode(frame, "frame")
            except BodyTooLargeError:
                if not (image and room):
                    raise
                raise BodyTooLargeError("frame", frame.size, room, "frame_capacity") from None
        self._finish(seq, Command.RENDER, STATUS_OK, body)

    def write_value(self, seq: int, command: Command, value: Any = None) -> None:
        """Write the reply to a CALL, or to a CLOSE without a value."""
        body = b"" if value is None else self._encode(value, "the result")
        self._finish(seq, command, STATUS_OK, body)

    def write_error(
        self, seq: int, command: Command, error: BaseException, lane: int | None = None
    ) -> None:
        """Write that the environment raised; message and traceback are cut to what fits.

        ``lane`` says where, in a group with lanes.
        """
        text = "".join(traceback.format_exception(error))
        try:
            message = str(error)
        except Exception as broken:
            message = f"(its text cannot be had: {type(broken).__name__})"
        for keep in (self._body_capacity, self._body_capacity // 2, self._body_capacity // 8, 0):
            fields: dict[str, Any] = {
                "type": type(error).__name__,
                "message": message,
                "traceback": text,
            }
            if lane is not None:
                fields["lane"] = lane
            for key in ("message", "traceback"):
                data = fields[key].encode("utf-8", "backslashreplace")
                # Of a message the beginning tells most, of a traceback the end.
                part = data[:keep] if key == "message" else data[len(data) - min(keep, len(data)) :]
                fields[key] = part.decode("utf-8", "ignore")
            try:
                body = self._encode(fields, "error")
            except BodyTooLargeError:
                continue
            break
        else:
            body = b""
        self._finish(seq, command, STATUS_REMOTE, body)

    def open(self, seq: int, command: Command) -> int:
        """Check the prefix of the reply to (seq, command); return the size of its body.

        Raises:
            RemoteError: the environment raised.
            RemoteProtocolError: the peer's bytes are no such reply.
        """
        echoed, status, size = self._open(seq)
        if echoed != command:
            raise RemoteProtocolError(f"the reply answers command {echoed}, asked was {command}")
        if status == STATUS_REMOTE:
            raise self._remote_error(self._map_body(size, "error"))
        if status != STATUS_OK:
            raise RemoteProtocolError(f"the reply's status is {status}, expected 0 or 16")
        return size

    def _remote_error(self, fields: dict[Any, Any]) -> RemoteError:
        found = {key: fields.get(key) for key in ("type", "message", "traceback")}
        # Only text is shown: of another value the text may be endless, or raise.
        texts = {key: value for key, value in found.items() if isinstance(value, str)}
        type_, message = texts.get("type", "Exception"), texts.get("message", "")
        return RemoteError(type_, message, texts.get("traceback", ""))

    def read_reset(self, size: int, *, copy: bool = True) -> tuple[Any, dict[str, Any]]:
        """Return (observation, info) of an opened reply."""
        return self._observation.read(copy=copy), self._read_info(size)

    def read_step(
        self, size: int, *, copy: bool = True
    ) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Return (observation, reward, terminated, truncated, info) of an opened reply."""
        return (
            self._observation.read(copy=copy),
            self._reward.item(),
            self._terminated.item() != 0,
            self._truncated.item() != 0,
            self._read_info(size) if size or self._info else {},
        )

    def read_frame(self, size: int, *, copy: bool = True) -> Any:
        """Return what ``render()`` gave: a uint8 image [height, width, channels], or a value."""
        if self._frame is not None and self._frame_shape is not None:
            shape = tuple(int(n) for n in self._frame_shape)
            count = shape[0] * shape[1] * shape[2]
            # With a dimension of 0 the others do not count, and NumPy would multiply them.
            if max(count, *shape) > self._frame.size:
                raise RemoteProtocolError(f"frame of shape {shape} is larger than its field")
            if any(shape):
                image = self._frame[:count].reshape(shape)
                image.flags.writeable = False
                return image.copy() if copy else image
        return self._body(size)

    def read_value(self, size: int) -> Any:
        """Return the result of a CALL."""
        return self._body(size)


def check_seed(seed: Any) -> None:
    """Refuse a seed that is neither None nor a u64.

    Raises:
        LayoutError: it is something else.
    """
    if seed is not None and not (isinstance(seed, int | np.integer) and 0 <= seed < 1 << 64):
        raise LayoutError(f"seed: {seed!r} is not an integer from 0 to 2**64 - 1")
