"""Values of all lanes of a group at once, in and out of fields ``[lanes, ...]``.

The same rules as ``codecs.py``: writing is exact, reading trusts nothing. A tree
of codecs is compiled once per space and session. Two forms of many values:

- *a list*, one value per lane, as an environment makes and takes them;
- *a batch*, Gymnasium's form: ``[n, ...]`` arrays in the structure of the space, and a
  tuple of ``n`` values for a space without a fixed shape (Text, OneOf, Sequence, Graph).

Box, Discrete, MultiDiscrete, MultiBinary, and Dict and Tuple of them move as whole
arrays. The other spaces move lane by lane through their codec.
"""

from __future__ import annotations

import abc
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from rlay.errors import LayoutError
from rlay.protocol.codecs import Codec, Fields, compile_codec
from rlay.protocol.descriptions import Description
from rlay.protocol.exact import exact_array
from rlay.protocol.spaces import escape

#: Which of several values or lanes: a slice, or an array of indices.
Which = slice | np.ndarray
ALL = slice(None)


class LaneError(Exception):
    """Carries which lane an exception comes from; its ``__cause__`` is the exception."""

    def __init__(self, lane: int) -> None:
        """Name the lane by its index in the group."""
        self.lane = lane
        super().__init__(f"in lane {lane}")


class LaneCodec(abc.ABC):
    """Writes and reads the values of a space for the lanes of a group.

    Attributes:
        whole: every leaf is one array, so batches need no work per lane.
    """

    whole = True

    @abc.abstractmethod
    def write(self, values: Sequence[Any], lanes: Sequence[int]) -> None:
        """Put a list of values into these lanes (ascending).

        Raises:
            LaneError: a lane cannot hold exactly its value; the cause is a LayoutError.
        """

    @abc.abstractmethod
    def read(self, lanes: Sequence[int]) -> list[Any]:
        """Return the values of these lanes (ascending) as a list, copied out of the record.

        Raises:
            RemoteProtocolError: the peer's bytes are no value of the space.
        """

    @abc.abstractmethod
    def exact(self, batch: Any, count: int) -> Any:
        """Return a batch of ``count`` values with the dtypes and shapes of the record.

        Raises:
            LayoutError: it is no such batch, or would change.
        """

    @abc.abstractmethod
    def put(self, batch: Any, which: Which, lanes: Which) -> None:
        """Put the values ``which`` of an exact batch into ``lanes``.

        Raises:
            LayoutError: a Text, OneOf, Sequence or Graph value does not fit.
        """

    @abc.abstractmethod
    def empty(self, count: int) -> Any:
        """Return an uninitialised batch of ``count`` values for ``take``."""

    @abc.abstractmethod
    def take(self, out: Any, where: slice, lanes: Which = ALL) -> None:
        """Copy ``lanes`` out of the record to ``where`` in a batch made by ``empty``.

        Raises:
            RemoteProtocolError: the peer's bytes are no value of the space.
        """

    def finish(self, out: Any) -> Any:
        """Return a filled batch in Gymnasium's form."""
        return out

    @abc.abstractmethod
    def view(self) -> Any:
        """Return all lanes as a batch whose arrays are read-only views of the record."""

    def columns(self) -> tuple[np.ndarray, ...]:
        """Return the mapped arrays [lanes, ...], if ``whole``."""
        return ()

    def arrays(self, batch: Any) -> tuple[np.ndarray, ...]:
        """Return the arrays of an exact batch in the order of ``columns``, if ``whole``."""
        return ()

    def ordinary(self) -> tuple[np.ndarray, bool] | None:
        """Return the mapped array of all values, and whether each is an integer scalar."""
        return None


class _Arrays(LaneCodec):
    """Box, MultiDiscrete, MultiBinary: one array ``[lanes, ...]``."""

    def __init__(self, path: str, fields: Fields, codec: Codec) -> None:
        self.path, self.mapped, self.one = path, fields(path), codec
        self.count, *shape = self.mapped.shape
        self.shape, self.dtype = tuple(shape), self.mapped.dtype
        self.shapes = [self.shape] * self.count
        # The lanes end to end along the first dimension, so that one call joins all values.
        joined = (self.count * shape[0], *shape[1:]) if shape else ()
        self.rows = self.mapped.reshape(joined) if shape else None

    def _join(self, values: Sequence[Any]) -> bool:
        """Write the values of all lanes in one call, if they are arrays that need no look."""
        try:
            if self.rows is None or [value.shape for value in values] != self.shapes:
                return False
            np.concatenate(values, out=self.rows, casting="no")
        except (AttributeError, TypeError, ValueError):
            return False
        return True

    def write(self, values: Sequence[Any], lanes: Sequence[int]) -> None:
        if len(lanes) != self.count or not self._join(values):
            write_each(self.one, values, lanes)

    def _copy(self, lanes: Which) -> np.ndarray:
        return np.array(self.mapped[lanes])

    def read(self, lanes: Sequence[int]) -> list[Any]:
        return list(self._copy(ALL if len(lanes) == self.count else np.array(lanes, np.intp)))

    def exact(self, batch: Any, count: int) -> Any:
        shape = (count, *self.shape)
        if type(batch) is np.ndarray and batch.dtype == self.dtype and batch.shape == shape:
            return batch
        return exact_array(batch, self.dtype, shape, self.path)

    def put(self, batch: Any, which: Which, lanes: Which) -> None:
        self.mapped[lanes] = batch[which]

    def empty(self, count: int) -> Any:
        return np.empty((count, *self.shape), self.dtype)

    def take(self, out: Any, where: slice, lanes: Which = ALL) -> None:
        out[where] = self.mapped[lanes]

    def view(self) -> Any:
        view = self.mapped[...]
        view.flags.writeable = False
        return view

    def columns(self) -> tuple[np.ndarray, ...]:
        return (self.mapped,)

    def arrays(self, batch: Any) -> tuple[np.ndarray, ...]:
        return (batch,)

    def ordinary(self) -> tuple[np.ndarray, bool] | None:
        return self.mapped, False


class _Flags(_Arrays):
    """A bool Box: any byte but 0 reads as True, so no invalid bool enters NumPy."""

    def _copy(self, lanes: Which) -> np.ndarray:
        return np.asarray(self.mapped.view(np.uint8)[lanes] != 0)

    def take(self, out: Any, where: slice, lanes: Which = ALL) -> None:
        out[where] = self._copy(lanes)


class _Discretes(_Arrays):
    """One integer per lane."""

    def _join(self, values: Sequence[Any]) -> bool:
        kinds = set(map(type, values))
        if kinds != {self.dtype.type} and (kinds != {int} or self.dtype != np.int64):
            return False
        try:
            self.mapped[:] = values
        except OverflowError:
            return False
        return True

    def ordinary(self) -> tuple[np.ndarray, bool] | None:
        return self.mapped, True

    def exact(self, batch: Any, count: int) -> Any:
        if type(batch) is not np.ndarray or batch.dtype.kind == "f":
            batch = np.asarray(batch)
            if batch.dtype.kind not in "biu":
                raise LayoutError(f"{self.path}: {batch!r:.80} are no integers")
        return super().exact(batch, count)


class _Each(LaneCodec):
    """Text, OneOf, Sequence, Graph: lane by lane."""

    whole = False

    def __init__(self, path: str, count: int, codec: Codec) -> None:
        self.path, self.count, self.one = path, count, codec

    def write(self, values: Sequence[Any], lanes: Sequence[int]) -> None:
        write_each(self.one, values, lanes)

    def read(self, lanes: Iterable[int]) -> list[Any]:
        return [self.one.read((lane,)) for lane in lanes]

    def exact(self, batch: Any, count: int) -> Any:
        if not isinstance(batch, tuple | list) or len(batch) != count:
            raise LayoutError(f"{self.path}: {batch!r:.80} is not a tuple of {count} values")
        return batch

    def put(self, batch: Any, which: Which, lanes: Which) -> None:
        chosen = np.arange(len(batch))[which]
        for i, lane in zip(chosen, np.arange(self.count)[lanes], strict=True):
            self.one.write(batch[i], (int(lane),))

    def empty(self, count: int) -> Any:
        return [None] * count

    def take(self, out: Any, where: slice, lanes: Which = ALL) -> None:
        out[where] = self.read(int(lane) for lane in np.arange(self.count)[lanes])

    def finish(self, out: Any) -> Any:
        return tuple(out)

    def view(self) -> Any:
        return tuple(self.read(range(self.count)))


class _Dict(LaneCodec):
    def __init__(self, path: str, codecs: dict[str, LaneCodec]) -> None:
        self.path, self.codecs = path, codecs
        self.whole = all(codec.whole for codec in codecs.values())

    def write(self, values: Sequence[Any], lanes: Sequence[int]) -> None:
        for value, lane in zip(values, lanes, strict=True):
            if not isinstance(value, Mapping) or value.keys() != self.codecs.keys():
                raise LaneError(lane) from self._other(value)
        for key, codec in self.codecs.items():
            codec.write([value[key] for value in values], lanes)

    def _other(self, value: Any) -> LayoutError:
        return LayoutError(f"{self.path}: {value!r:.80} is not a dict of {[*self.codecs]}")

    def read(self, lanes: Sequence[int]) -> list[Any]:
        columns = [codec.read(lanes) for codec in self.codecs.values()]
        keys = list(self.codecs)
        rows = zip(*columns, strict=True) if columns else [()] * len(lanes)
        return [dict(zip(keys, row, strict=True)) for row in rows]

    def exact(self, batch: Any, count: int) -> Any:
        if not isinstance(batch, Mapping) or batch.keys() != self.codecs.keys():
            raise self._other(batch)
        return {key: codec.exact(batch[key], count) for key, codec in self.codecs.items()}

    def put(self, batch: Any, which: Which, lanes: Which) -> None:
        for key, codec in self.codecs.items():
            codec.put(batch[key], which, lanes)

    def empty(self, count: int) -> Any:
        return {key: codec.empty(count) for key, codec in self.codecs.items()}

    def take(self, out: Any, where: slice, lanes: Which = ALL) -> None:
        for key, codec in self.codecs.items():
            codec.take(out[key], where, lanes)

    def finish(self, out: Any) -> Any:
        if self.whole:
            return out
        return {key: codec.finish(out[key]) for key, codec in self.codecs.items()}

    def view(self) -> Any:
        return {key: codec.view() for key, codec in self.codecs.items()}

    def columns(self) -> tuple[np.ndarray, ...]:
        return tuple([one for codec in self.codecs.values() for one in codec.columns()])

    def arrays(self, batch: Any) -> tuple[np.ndarray, ...]:
        return tuple([one for key, c in self.codecs.items() for one in c.arrays(batch[key])])


class _Tuple(LaneCodec):
    def __init__(self, path: str, codecs: list[LaneCodec]) -> None:
        self.path, self.codecs = path, codecs
        self.whole = all(codec.whole for codec in codecs)

    def _other(self, value: Any) -> LayoutError:
        return LayoutError(f"{self.path}: {value!r:.80} is not a tuple of {len(self.codecs)}")

    def write(self, values: Sequence[Any], lanes: Sequence[int]) -> None:
        for value, lane in zip(values, lanes, strict=True):
            if not isinstance(value, tuple | list) or len(value) != len(self.codecs):
                raise LaneError(lane) from self._other(value)
        for i, codec in enumerate(self.codecs):
            codec.write([value[i] for value in values], lanes)

    def read(self, lanes: Sequence[int]) -> list[Any]:
        columns = [codec.read(lanes) for codec in self.codecs]
        return list(zip(*columns, strict=True)) if columns else [()] * len(lanes)

    def exact(self, batch: Any, count: int) -> Any:
        if not isinstance(batch, tuple | list) or len(batch) != len(self.codecs):
            raise self._other(batch)
        return tuple(c.exact(part, count) for c, part in zip(self.codecs, batch, strict=True))

    def put(self, batch: Any, which: Which, lanes: Which) -> None:
        for codec, part in zip(self.codecs, batch, strict=True):
            codec.put(part, which, lanes)

    def empty(self, count: int) -> Any:
        return tuple([codec.empty(count) for codec in self.codecs])

    def take(self, out: Any, where: slice, lanes: Which = ALL) -> None:
        for codec, part in zip(self.codecs, out, strict=True):
            codec.take(part, where, lanes)

    def finish(self, out: Any) -> Any:
        return tuple([c.finish(part) for c, part in zip(self.codecs, out, strict=True)])

    def view(self) -> Any:
        return tuple([codec.view() for codec in self.codecs])

    def columns(self) -> tuple[np.ndarray, ...]:
        return tuple([one for codec in self.codecs for one in codec.columns()])

    def arrays(self, batch: Any) -> tuple[np.ndarray, ...]:
        parts = zip(self.codecs, batch, strict=True)
        return tuple([one for codec, part in parts for one in codec.arrays(part)])


def write_each(codec: Codec, values: Sequence[Any], lanes: Sequence[int]) -> None:
    """Write value by value.

    Raises:
        LaneError: names the lane; the cause is a LayoutError.
    """
    for value, lane in zip(values, lanes, strict=True):
        try:
            codec.write(value, (lane,))
        except LayoutError as error:
            raise LaneError(lane) from error


def compile_lane_codec(
    description: Description, path: str, fields: Fields, count: int
) -> LaneCodec:
    """Compile the codec of a space for a group with lanes.

    Args:
        description: of the space of one lane.
        path: the name its fields begin with.
        fields: returns the mapped array ``[lanes, ...]`` of a field name.
        count: the lanes.
    """
    kind = description["type"]
    if kind == "Dict":
        inner = {
            key: compile_lane_codec(d, f"{path}/{escape(key)}", fields, count)
            for key, d in description["spaces"]
        }
        return _Dict(path, inner)
    if kind == "Tuple":
        items = description["spaces"]
        return _Tuple(
            path,
            [compile_lane_codec(d, f"{path}/{i}", fields, count) for i, d in enumerate(items)],
        )
    one = compile_codec(description, path, fields)
    if kind == "Discrete":
        return _Discretes(path, fields, one)
    if kind in ("Box", "MultiDiscrete", "MultiBinary"):
        flags = description.get("dtype") == "bool"
        return (_Flags if flags else _Arrays)(path, fields, one)
    return _Each(path, count, one)
