"""Rows of the field table, and where each lies in its record (PROTOCOL.md §8).

The rows' names, dtypes, shapes and lanes decide everything else: ``place``
computes offsets, and a table read from the peer is accepted only if it says
the same. So no number from shared memory is ever used as an offset or a size.
"""

from __future__ import annotations

import dataclasses
import math
import struct
from collections.abc import Iterable, Iterator

import numpy as np

from rlay.errors import LayoutError, LayoutMismatchError
from rlay.protocol import constants as c
from rlay.protocol.constants import RecordKind

ROW = struct.Struct("<160s Q Q I B B B x H 6x 8I 32x")
_DTYPE_NAMES = {code: name for name, code in c.DTYPE_CODES.items()}


@dataclasses.dataclass(frozen=True)
class Field:
    """One named array of a record.

    Attributes:
        name: path such as ``observation/camera`` or ``info.lap#present``.
        dtype: NumPy name, little-endian, bool as one byte.
        shape: of one lane.
        record: the record it is in.
        lanes: 0 for no leading dimension, else the number of lanes.
        group: index of its group, or ``WHOLE_RECORD``.
        offset: bytes from the start of the record, once placed.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    record: RecordKind
    lanes: int = 0
    group: int = c.WHOLE_RECORD
    offset: int = 0

    @property
    def stride(self) -> int:
        """Bytes of one lane."""
        return math.prod(self.shape) * np.dtype(self.dtype).itemsize

    @property
    def size(self) -> int:
        """Bytes of all lanes."""
        return self.stride * max(self.lanes, 1)

    @property
    def full_shape(self) -> tuple[int, ...]:
        """The shape with its leading dimension of lanes, if any."""
        return (self.lanes, *self.shape) if self.lanes else self.shape

    def view(self, record: memoryview) -> np.ndarray:
        """Return the field as an array that is the mapped memory of ``record``."""
        array: np.ndarray = np.ndarray(
            self.full_shape, self.dtype, buffer=record, offset=self.offset
        )
        return array

    def pack(self) -> bytes:
        """Return the row's 256 bytes."""
        shape = (*self.shape, *([0] * (c.MAX_NDIM - len(self.shape))))
        return ROW.pack(
            self.name.encode(),
            self.offset,
            self.stride,
            self.lanes,
            self.record,
            c.DTYPE_CODES[self.dtype],
            len(self.shape),
            self.group,
            *shape,
        )


@dataclasses.dataclass(frozen=True)
class Layout:
    """The placed fields of both records.

    Attributes:
        fields: in row order, requests first.
        request_size: bytes of the request record, whole pages.
        reply_size: bytes of the reply record, whole pages.
    """

    fields: tuple[Field, ...]
    request_size: int
    reply_size: int

    @property
    def data_size(self) -> int:
        """Bytes of the data file: both records, and a tail that is in no record."""
        return self.request_size + self.reply_size + c.TAIL_SIZE

    def record_slice(self, record: RecordKind) -> slice:
        """Return where a record lies in the data file."""
        if record is RecordKind.REQUEST:
            return slice(0, self.request_size)
        return slice(self.request_size, self.request_size + self.reply_size)

    def of(self, record: RecordKind) -> Iterator[Field]:
        """Yield the fields of one record in row order."""
        return (field for field in self.fields if field.record is record)

    def find(self, record: RecordKind, name: str, group: int | None = None) -> Field:
        """Return a field by name; names are unique in a record and group.

        Raises:
            KeyError: there is none.
        """
        for field in self.fields:
            if field.record is record and field.name == name and group in (None, field.group):
                return field
        raise KeyError(f"no field {name!r} in the {record.name.lower()} record")

    def pack_table(self) -> bytes:
        """Return the field table as it stands in the control file."""
        return b"".join(field.pack() for field in self.fields)


def _round_up(value: int, alignment: int) -> int:
    return -(-value // alignment) * alignment


def _check_row(field: Field) -> None:
    try:
        size = len(field.name.encode())
    except UnicodeEncodeError:
        raise LayoutError(
            f"field name {field.name!r} holds a lone surrogate; rename the key"
        ) from None
    if size > c.MAX_NAME:
        raise LayoutError(
            f"field name {field.name!r} takes more than {c.MAX_NAME} bytes; shorten the keys"
        )
    if "\0" in field.name:
        raise LayoutError(f"field name {field.name!r} holds a NUL; rename the key")
    if len(field.shape) > c.MAX_NDIM:
        raise LayoutError(
            f"{field.name}: {len(field.shape)} dimensions, at most {c.MAX_NDIM} fit a field; "
            "flatten the space"
        )
    if any(n >= 1 << 32 for n in (*field.shape, field.lanes)) or field.size > c.MAX_RECORD:
        raise LayoutError(f"{field.name}: shape {field.full_shape} is too large for a record")


def place(rows: Iterable[Field]) -> Layout:
    """Give every row its offset, by the numbered steps of PROTOCOL.md §8.

    Raises:
        LayoutError: too many rows, a name too long, too many dimensions, a name twice.
    """
    cursor = dict.fromkeys(RecordKind, c.PREFIX_SIZE)
    placed: list[Field] = []
    seen: set[tuple[RecordKind, int, str]] = set()
    for row in rows:
        _check_row(row)
        key = (row.record, row.group, row.name)
        if key in seen:
            raise LayoutError(f"two fields are called {row.name!r}; rename one of the keys")
        seen.add(key)
        itemsize = np.dtype(row.dtype).itemsize
        alignment = c.ARRAY_ALIGNMENT if row.size >= c.ARRAY_ALIGNMENT else itemsize
        offset = _round_up(cursor[row.record], alignment)
        placed.append(dataclasses.replace(row, offset=offset))
        cursor[row.record] = offset + row.size
        if cursor[row.record] > c.MAX_RECORD:
            raise LayoutError(
                f"{row.name}: the {row.record.name.lower()} record would be larger than "
                f"{c.MAX_RECORD} bytes; make the spaces or the lanes fewer"
            )
    if len(placed) > c.MAX_ROWS:
        raise LayoutError(
            f"the spaces make {len(placed)} fields and a channel holds {c.MAX_ROWS}; "
            "join small entries into arrays"
        )
    sizes = {kind: _round_up(end, c.RECORD_ALIGNMENT) for kind, end in cursor.items()}
    return Layout(tuple(placed), sizes[RecordKind.REQUEST], sizes[RecordKind.REPLY])


def _parse_row(data: bytes, number: int) -> tuple[Field, int, int]:
    """Return a row as (field without offset, offset found, stride found)."""
    name, offset, stride, lanes, record, dtype, ndim, group, *shape = ROW.unpack(data)
    where = f"field table row {number}"
    if dtype not in _DTYPE_NAMES:
        raise LayoutMismatchError(f"{where}: dtype code {dtype} is unknown")
    if record not in tuple(RecordKind):
        raise LayoutMismatchError(f"{where}: record {record}, expected 1 or 2")
    if ndim > c.MAX_NDIM:
        raise LayoutMismatchError(f"{where}: {ndim} dimensions, at most {c.MAX_NDIM}")
    try:
        text = name.split(b"\0", 1)[0].decode()
    except UnicodeDecodeError:
        raise LayoutMismatchError(f"{where}: the name is not UTF-8") from None
    kind = RecordKind(record)
    field = Field(text, _DTYPE_NAMES[dtype], tuple(shape[:ndim]), kind, lanes, group)
    return field, offset, stride


def read_table(copy: bytes, request_size: int, reply_size: int) -> Layout:
    """Recompute a layout from a private copy of the peer's table and compare.

    Args:
        copy: ``field_count`` rows of 256 bytes.
        request_size: as the peer's header says.
        reply_size: as the peer's header says.

    Raises:
        LayoutMismatchError: names the first row or size that differs.
    """
    found = [
        _parse_row(copy[i : i + c.ROW_SIZE], i // c.ROW_SIZE)
        for i in range(0, len(copy), c.ROW_SIZE)
    ]
    try:
        layout = place(field for field, _, _ in found)
    except LayoutError as error:
        raise LayoutMismatchError(f"field table: {error}") from None
    for ours, (_, offset, stride) in zip(layout.fields, found, strict=True):
        if (offset, stride) != (ours.offset, ours.stride):
            raise LayoutMismatchError(
                f"field {ours.name!r}: offset {offset} and stride {stride}, "
                f"expected {ours.offset} and {ours.stride}"
            )
    if (request_size, reply_size) != (layout.request_size, layout.reply_size):
        raise LayoutMismatchError(
            f"record sizes {request_size} and {reply_size}, "
            f"expected {layout.request_size} and {layout.reply_size}"
        )
    return layout
