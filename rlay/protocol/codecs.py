"""Values of a space, written into and read from the fields of a record.

A codec is compiled once per space and session: it holds the mapped arrays and
knows how one value lies in them. ``write`` is exact: a value that the record's
dtype or shape cannot hold is a ``LayoutError``, never a rounded one. ``read``
trusts no count that it finds: each is read once, checked against the layout,
then used.

``at`` is the position inside enclosing Sequences, empty at the top.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import numpy as np
from gymnasium import spaces
from gymnasium.vector.utils import batch_space, concatenate, create_empty_array, iterate

from rlay.errors import LayoutError, RemoteProtocolError
from rlay.protocol.constants import NO_EDGES
from rlay.protocol.descriptions import Description
from rlay.protocol.exact import exact_array, not_exact
from rlay.protocol.spaces import escape, space_from

At = tuple[Any, ...]
#: Returns the mapped array of a field, by name.
Fields = Callable[[str], np.ndarray]


class Codec(Protocol):
    """Writes and reads one value."""

    def write(self, value: Any, at: At = ()) -> None:
        """Put a value into the record.

        Raises:
            LayoutError: the record cannot hold exactly this value; names the field.
        """

    def ordinary(self) -> tuple[np.ndarray, bool] | None:
        """Return the mapped array of the whole value, and whether it is an integer scalar."""

    def reader(self, *, copy: bool) -> Callable[[], Any]:
        """Return ``read`` at the top as a function without arguments."""

    def read(self, at: At = (), *, copy: bool = True) -> Any:
        """Return the value in the record.

        Args:
            at: position inside enclosing Sequences.
            copy: if False, arrays are read-only views into the mapped record; they
                change with the next exchange.

        Raises:
            RemoteProtocolError: the peer's bytes are no value of the space.
        """


class _Ordinary:
    """What the compiled step asks of a codec (rlay/exchange.py); most leave it at this."""

    def ordinary(self) -> tuple[np.ndarray, bool] | None:
        """Return the mapped array of the whole value, and whether it is an integer scalar."""
        return None

    def reader(self: Any, *, copy: bool) -> Callable[[], Any]:
        """Return ``read`` as a function without arguments."""
        return functools.partial(self.read, copy=copy)


class _Array(_Ordinary):
    """Box, MultiDiscrete, MultiBinary: one array."""

    def __init__(self, path: str, view: np.ndarray, shape: tuple[int, ...]) -> None:
        self.path, self.view, self.shape = path, view, shape
        self.dtype = view.dtype

    def write(self, value: Any, at: At = ()) -> None:
        if type(value) is not np.ndarray or value.dtype != self.dtype or value.shape != self.shape:
            value = exact_array(value, self.dtype, self.shape, self.path)
        self.view[at] = value

    def read(self, at: At = (), *, copy: bool = True) -> Any:
        if copy:
            return np.array(self.view[at])
        view = self.view[(*at, ...)]
        view.flags.writeable = False
        return view

    def ordinary(self) -> tuple[np.ndarray, bool] | None:
        return self.view, False

    def reader(self, *, copy: bool) -> Callable[[], Any]:
        return self.view.copy if copy else functools.partial(self.read, copy=False)


class _Flags(_Array):
    """A bool Box: any byte but 0 reads as True, so no invalid bool enters NumPy."""

    def ordinary(self) -> tuple[np.ndarray, bool] | None:
        return None

    def reader(self, *, copy: bool) -> Callable[[], Any]:
        return functools.partial(self.read, copy=copy)

    def read(self, at: At = (), *, copy: bool = True) -> Any:
        if not copy:
            return super().read(at, copy=False)
        return np.asarray(self.view.view(np.uint8)[at] != 0)


class _Discrete(_Ordinary):
    def __init__(self, path: str, view: np.ndarray) -> None:
        self.path, self.view = path, view
        info = np.iinfo(view.dtype)
        self.low, self.high = info.min, info.max

    def write(self, value: Any, at: At = ()) -> None:
        try:
            number = operator.index(value)
        except TypeError:
            raise LayoutError(
                f"{self.path}: {value!r:.80} is no integer; a Discrete space takes one"
            ) from None
        if not self.low <= number <= self.high:
            raise not_exact(self.path, number, self.view.dtype)
        self.view[at] = number

    def read(self, at: At = (), *, copy: bool = True) -> Any:
        return self.view[at]

    def ordinary(self) -> tuple[np.ndarray, bool] | None:
        return self.view, True

    def reader(self, *, copy: bool) -> Callable[[], Any]:
        return functools.partial(operator.getitem, self.view, ())


def _count(view: np.ndarray, at: At, limit: int, what: str) -> int:
    """Read a count once, and check it."""
    count = int(view[at])
    _check_count(count, limit, what)
    return count


def _check_count(count: int, limit: int, what: str) -> None:
    if count > limit:
        raise RemoteProtocolError(f"{what} is {count}, at most {limit} fit the record")


class _Text(_Ordinary):
    def __init__(self, path: str, fields: Fields) -> None:
        self.path, self.length, self.view = path, fields(f"{path}#length"), fields(path)
        self.capacity = self.view.shape[-1]

    def write(self, value: Any, at: At = ()) -> None:
        if not isinstance(value, str):
            raise LayoutError(f"{self.path}: {value!r:.80} is not a str")
        try:
            data = value.encode()
        except UnicodeEncodeError:
            raise LayoutError(f"{self.path}: {value!r:.80} holds a lone surrogate") from None
        if len(data) > self.capacity:
            raise LayoutError(
                f"{self.path}: {value!r:.80} takes {len(data)} bytes and the space's max_length "
                f"and charset allow {self.capacity}"
            )
        self.view[(*at, slice(len(data)))] = np.frombuffer(data, np.uint8)
        self.length[at] = len(data)

    def read(self, at: At = (), *, copy: bool = True) -> Any:
        size = _count(self.length, at, self.capacity, f"{self.path}#length")
        data = self.view[(*at, slice(size))].tobytes()
        try:
            return data.decode()
        except UnicodeDecodeError:
            raise RemoteProtocolError(f"{self.path}: the peer's text is not UTF-8") from None


class _Dict(_Ordinary):
    def __init__(self, path: str, codecs: dict[str, Codec]) -> None:
        self.path, self.codecs = path, codecs

    def write(self, value: Any, at: At = ()) -> None:
        if not isinstance(value, Mapping):
            raise LayoutError(f"{self.path}: {value!r:.80} is not a dict")
        if value.keys() != self.codecs.keys():
            missing = sorted(self.codecs.keys() - value.keys())
            extra = sorted(map(repr, value.keys() - self.codecs.keys()))
            raise LayoutError(
                f"{self.path}: the keys differ from the space's: missing {missing}, unknown {extra}"
            )
        for key, codec in self.codecs.items():
            codec.write(value[key], at)

    def read(self, at: At = (), *, copy: bool = True) -> Any:
        return {key: codec.read(at, copy=copy) for key, codec in self.codecs.items()}


class _Tuple(_Ordinary):
    def __init__(self, path: str, codecs: list[Codec]) -> None:
        self.path, self.codecs = path, codecs

    def write(self, value: Any, at: At = ()) -> None:
        if not isinstance(value, tuple | list) or len(value) != len(self.codecs):
            raise LayoutError(
                f"{self.path}: {value!r:.80} is not a tuple of {len(self.codecs)} values"
            )
        for codec, item in zip(self.codecs, value, strict=True):
            codec.write(item, at)

    def read(self, at: At = (), *, copy: bool = True) -> Any:
        return tuple([codec.read(at, copy=copy) for codec in self.codecs])


class _OneOf(_Ordinary):
    def __init__(self, path: str, index: np.ndarray, codecs: list[Codec]) -> None:
        self.path, self.index, self.codecs = path, index, codecs

    def write(self, value: Any, at: At = ()) -> None:
        if not isinstance(value, tuple | list) or len(value) != 2:
            raise LayoutError(f"{self.path}: {value!r:.80} is not (index, value)")
        index = value[0]
        if not isinstance(index, int | np.integer) or not 0 <= index < len(self.codecs):
            raise LayoutError(f"{self.path}: {index!r} is no index below {len(self.codecs)}")
        self.codecs[index].write(value[1], at)
        self.index[at] = index

    def read(self, at: At = (), *, copy: bool = True) -> Any:
        index = _count(self.index, at, len(self.codecs) - 1, f"{self.path}#index")
        return np.int64(index), self.codecs[index].read(at, copy=copy)


class _Sequence(_Ordinary):
    def __init__(self, path: str, fields: Fields, element: Codec, description: Description) -> None:
        self.path, self.length, self.element = path, fields(f"{path}#length"), element
        self.capacity = description["capacity"]
        self.stack = description["stack"]
        self.space = space_from(description["space"], f"{path}/*")
        self.batch = batch_space(self.space, 1) if self.stack else None

    def write(self, value: Any, at: At = ()) -> None:
        try:
            items = list(iterate(self.batch, value)) if self.batch is not None else list(value)
        except (TypeError, ValueError, LookupError, AttributeError):
            raise LayoutError(f"{self.path}: {value!r:.80} is not a sequence") from None
        if len(items) > self.capacity:
            raise LayoutError(
                f"{self.path}: {len(items)} elements, declared capacity {self.capacity}; raise it: "
                f"capacities={{{self.path!r}: {len(items)}}}"
            )
        for i, item in enumerate(items):
            self.element.write(item, (*at, i))
        self.length[at] = len(items)

    def read(self, at: At = (), *, copy: bool = True) -> Any:
        length = _count(self.length, at, self.capacity, f"{self.path}#length")
        if not self.stack:
            return tuple([self.element.read((*at, i), copy=copy) for i in range(length)])
        items = [self.element.read((*at, i)) for i in range(length)]
        empty: Any = create_empty_array(self.space, length)
        return concatenate(self.space, items, empty) if items else empty


class _Graph(_Ordinary):
    def __init__(self, path: str, fields: Fields, description: Description) -> None:
        self.path = path
        self.counts = {part: fields(f"{path}#{part}") for part in ("nodes", "edges")}
        self.views = {"nodes": fields(f"{path}/nodes"), "links": fields(f"{path}/edge_links")}
        self.lead = self.counts["nodes"].ndim
        if description["edge"] is not None:
            self.views["edges"] = fields(f"{path}/edges")

    def _put(self, part: str, value: Any, count: int, at: At) -> None:
        view = self.views[part]
        shape = (count, *view.shape[self.lead + 1 :])
        view[(*at, slice(count))] = exact_array(value, view.dtype, shape, f"{self.path}/{part}")

    def _capacity(self, part: str) -> int:
        return int(self.views["nodes" if part == "nodes" else "links"].shape[self.lead])

    def _length(self, part: str, value: Any) -> int:
        try:
            count, capacity = len(value), self._capacity(part)
        except TypeError:
            raise LayoutError(f"{self.path}/{part}: {value!r:.80} is not an array") from None
        if count > capacity:
            raise LayoutError(f"{self.path}: {count} {part}, declared capacity {capacity}")
        return count

    def write(self, value: Any, at: At = ()) -> None:
        try:
            nodes, edges, links = value
        except (TypeError, ValueError):
            raise LayoutError(f"{self.path}: {value!r:.80} is not a GraphInstance") from None
        count = self._length("nodes", nodes)
        self._put("nodes", nodes, count, at)
        self.counts["nodes"][at] = count
        if links is None:
            if edges is not None:
                raise LayoutError(f"{self.path}: edges without edge_links")
            self.counts["edges"][at] = NO_EDGES
            return
        count = self._length("edges", links)
        self._put("links", links, count, at)
        if "edges" in self.views:
            self._put("edges", edges, count, at)
        elif edges is not None:
            raise LayoutError(f"{self.path}: edges, but the space has none")
        self.counts["edges"][at] = count

    def read(self, at: At = (), *, copy: bool = True) -> Any:
        count = _count(self.counts["nodes"], at, self._capacity("nodes"), f"{self.path}#nodes")
        nodes = np.array(self.views["nodes"][(*at, slice(count))])
        count = int(self.counts["edges"][at])
        if count == NO_EDGES:
            return spaces.GraphInstance(nodes, None, None)
        _check_count(count, self._capacity("edges"), f"{self.path}#edges")
        links = np.array(self.views["links"][(*at, slice(count))])
        edges = None
        if "edges" in self.views:
            edges = np.array(self.views["edges"][(*at, slice(count))])
        return spaces.GraphInstance(nodes, edges, links)


def compile_codec(description: Description, path: str, fields: Fields) -> Codec:
    """Compile the codec of a space.

    Args:
        description: of the space.
        path: the name its fields begin with.
        fields: returns the mapped array of a field name.
    """
    kind = description["type"]
    if kind == "Discrete":
        return _Discrete(path, fields(path))
    if kind in ("Box", "MultiDiscrete", "MultiBinary"):
        flags = description.get("dtype") == "bool"
        return (_Flags if flags else _Array)(path, fields(path), tuple(description["shape"]))
    if kind == "Text":
        return _Text(path, fields)
    if kind == "Dict":
        inner = {
            key: compile_codec(d, f"{path}/{escape(key)}", fields)
            for key, d in description["spaces"]
        }
        return _Dict(path, inner)
    if kind in ("Tuple", "OneOf"):
        items = [
            compile_codec(d, f"{path}/{i}", fields) for i, d in enumerate(description["spaces"])
        ]
        if kind == "Tuple":
            return _Tuple(path, items)
        return _OneOf(path, fields(f"{path}#index"), items)
    if kind == "Sequence":
        return _Sequence(
            path, fields, compile_codec(description["space"], f"{path}/*", fields), description
        )
    return _Graph(path, fields, description)
