"""The body: the bounded free-form value at the end of a record (PROTOCOL.md §14).

One MessagePack value. Reset options, undeclared info, call arguments and errors travel in
it, exactly: what MessagePack has no type for is an extension.

Encoding is in two steps. A dict of plain values goes straight to msgspec. Anything else is
first rewritten into a tree that msgspec can encode exactly, and whatever cannot be is
refused with the path of its key. msgspec alone would turn sets and tuples into lists.

Decoding is for bytes from an untrusted peer: it ends in a value that ``encode_body`` would
accept, or in :class:`RemoteProtocolError`. Sizes are compared before anything is allocated.
"""

from __future__ import annotations

import json
import math
import re
import struct
from typing import Any

import msgspec
import numpy as np

from rlay.errors import BodyTooLargeError, LayoutError, RemoteProtocolError

__all__ = ["MAX_DEPTH", "decode_body", "encode_body"]

#: Containers inside one another, the outermost included.
MAX_DEPTH = 64

_ARRAY, _SCALAR, _TUPLE, _INTEGER, _COMPLEX = 1, 2, 3, 4, 5

_PLAIN = frozenset({type(None), bool, int, float, str})
_LEAVES = _PLAIN | {bytes, complex, np.ndarray}

# Every dtype an array or a scalar may have on the wire, and no other that NumPy would parse:
# no objects, no structures, no float of a width that depends on the machine.
_DTYPE = re.compile(
    r"\|[biu]1|<[iu][248]|<f[248]|<c(8|16)|\|S\d{1,9}|<U\d{1,9}"
    r"|<[mM]8(\[([1-9]\d{0,8})?(Y|M|W|D|h|m|s|ms|us|ns|ps|fs|as)\])?"
)
_MAX_CODE_POINT = 0x10FFFF
#: NumPy has arrays of at most 64 dimensions; older versions take 32.
_MAX_NDIM = 64

_HINTS: dict[type, str] = {
    set: "convert it to a list",
    frozenset: "convert it to a list",
    bytearray: "convert it to bytes",
    memoryview: "convert it to bytes",
}

_encoder = msgspec.msgpack.Encoder()


def encode_body(value: Any, *, capacity: int, what: str, setting: str) -> bytes:
    """Encode one free-form value.

    Args:
        value: None, bool, int, float, complex, str, bytes, NumPy arrays and scalars, and
            lists, tuples and dicts (keys: str or int) of these. None is ``b""``.
        capacity: bytes the record has for a body.
        what: root of the paths in errors, such as ``info``.
        setting: the setting that decides ``capacity``, for the error.

    Raises:
        LayoutError: something in the value has no exact encoding; names its path.
        BodyTooLargeError: the encoded value does not fit.
    """
    if value is None:
        return b""
    data = _encode_plain(value) if type(value) is dict else None
    if data is None:
        data = _encoder.encode(_rewrite(value, what, 0))
    if len(data) > capacity:
        raise BodyTooLargeError(_largest(value, what), len(data), capacity, setting)
    return data


def decode_body(data: bytes) -> Any:
    """Decode the bytes of a body; ``b""`` is None.

    Arrays are writable and own their memory.

    Raises:
        RemoteProtocolError: the bytes are no body.
    """
    if not data:
        return None
    try:
        value = _decoder.decode(data)
        _check(value, 0)
    except (
        msgspec.MsgspecError,
        ValueError,  # includes UnicodeDecodeError, and what NumPy says of impossible shapes
        TypeError,  # an unhashable key inside a key
        RecursionError,
    ) as error:
        raise RemoteProtocolError(f"the peer wrote a malformed body: {error}") from error
    return value


# ---- encoding ----------------------------------------------------------------------


def _encode_plain(value: dict[Any, Any]) -> bytes | None:
    """Encode a dict of plain values under string keys; None if it is not one."""
    for key, item in value.items():
        if type(key) is not str or type(item) not in _PLAIN:
            return None
    try:
        return _encoder.encode(value)
    except (OverflowError, UnicodeEncodeError):  # an integer beyond 64 bits, a surrogate
        return None


def _rewrite(value: Any, path: str, depth: int) -> Any:
    """Return an equivalent that msgspec encodes exactly."""
    kind = type(value)
    if kind is str:
        return _text(value, path)
    if kind is int:
        return _integer(value)
    if kind in _PLAIN or kind is bytes:
        return value
    if kind is complex:
        return msgspec.msgpack.Ext(_COMPLEX, struct.pack("<dd", value.real, value.imag))
    if kind is np.ndarray:
        return _array(value, path)
    if isinstance(value, np.generic):
        return _scalar(value, path)
    if depth == MAX_DEPTH:
        raise LayoutError(
            f"{_shorten(path)}: nested deeper than {MAX_DEPTH} levels, or contains itself"
        )
    if kind is dict:
        return {
            _key(key, path): _rewrite(item, _below(path, key), depth + 1)
            for key, item in value.items()
        }
    if kind is list or kind is tuple:
        items = [_rewrite(item, f"{path}[{i}]", depth + 1) for i, item in enumerate(value)]
        return items if kind is list else msgspec.msgpack.Ext(_TUPLE, _encoder.encode(items))
    raise _refusal(path, f"object of type {kind.__name__}", _HINTS.get(kind, _default_hint(value)))


def _default_hint(value: object) -> str:
    for base in (dict, list, tuple, np.ndarray, str, bytes, int, float):
        if isinstance(value, base):
            article = "an" if base is int else "a"
            return f"convert it to {article} {base.__name__}"
    return "convert it to numbers, text, bytes, arrays, or lists and dicts of these"


def _refusal(path: str, thing: str, hint: str) -> LayoutError:
    return LayoutError(f"{path}: {thing} cannot be encoded; {hint}")


def _text(value: str, path: str) -> str:
    try:
        value.encode()
    except UnicodeEncodeError:
        raise _refusal(
            path, "text with a lone surrogate", 'convert it to bytes with errors="surrogateescape"'
        ) from None
    return value


def _integer(value: int) -> Any:
    if -(2**63) <= value < 2**64:
        return value
    size = (value if value >= 0 else ~value).bit_length() // 8 + 1
    return msgspec.msgpack.Ext(_INTEGER, value.to_bytes(size, "little", signed=True))


def _key(key: object, path: str) -> object:
    if type(key) is str:
        return _text(key, _below(path, key))
    if type(key) is not int:
        raise _refusal(
            path, f"a key of type {type(key).__name__} ({key!r})", "use keys of type str or int"
        )
    if not -(2**63) <= key < 2**64:
        raise _refusal(path, "an integer key beyond 64 bits", "use its text as the key")
    return key


def _wire_dtype(dtype: np.dtype[Any], path: str) -> np.dtype[Any]:
    if dtype.kind not in "biufcSUMm":
        raise _refusal(
            path, f"array of dtype {dtype}", "convert it to numbers, or to lists and dicts"
        )
    little = dtype.newbyteorder("<")
    if not _DTYPE.fullmatch(little.str):
        raise _refusal(path, f"array of dtype {dtype}", "convert it to 64 bits per number")
    return little


def _array(value: np.ndarray[Any, Any], path: str) -> Any:
    dtype = _wire_dtype(value.dtype, path)
    if dtype.itemsize == 0:
        raise _refusal(path, f"array of dtype {dtype}", f"convert it to {dtype.kind}1")
    if dtype.kind == "b":
        value = value.view(np.uint8) != 0  # a mask seen as bool may hold 255
    data = value.astype(dtype, copy=False).tobytes()
    return msgspec.msgpack.Ext(_ARRAY, _encoder.encode([dtype.str, value.shape, data]))


def _scalar(value: np.generic, path: str) -> Any:
    dtype = _wire_dtype(value.dtype, path)
    if isinstance(value, np.str_):
        data = value.encode("utf-32-le", "surrogatepass")
    else:  # not through an array for bytes either: that drops trailing zeros
        data = bytes(value) if isinstance(value, np.bytes_) else value.astype(dtype).tobytes()
    return msgspec.msgpack.Ext(_SCALAR, _encoder.encode([dtype.str, data]))


def _below(path: str, key: object) -> str:
    return f"{path}[{json.dumps(key) if type(key) is str else repr(key)}]"


def _shorten(path: str) -> str:
    return path if len(path) <= 80 else path[:77] + "..."


def _largest(value: Any, what: str) -> str:
    if type(value) is not dict:
        return what
    sizes = {key: len(_encoder.encode(_rewrite(item, what, 1))) for key, item in value.items()}
    return _below(what, max(sizes, key=sizes.__getitem__))


# ---- decoding ----------------------------------------------------------------------


def _extension(code: int, data: memoryview) -> Any:
    if code == _INTEGER:
        if not len(data):
            raise ValueError("an integer of no bytes")
        return int.from_bytes(data, "little", signed=True)
    if code == _COMPLEX:
        if len(data) != 16:
            raise ValueError(f"a complex number of {len(data)} bytes, expected 16")
        return complex(*struct.unpack("<dd", data))
    if code not in (_ARRAY, _SCALAR, _TUPLE):
        raise ValueError(f"extension type {code} is not known")
    items = _decoder.decode(data)
    if type(items) is not list:
        raise ValueError(f"extension type {code} holds no array of items")
    if code == _TUPLE:
        return tuple(items)
    return _decode_array(*items) if code == _ARRAY else _decode_scalar(*items)


_decoder = msgspec.msgpack.Decoder(ext_hook=_extension)


def _parse_dtype(name: object) -> np.dtype[Any]:
    if type(name) is not str or not _DTYPE.fullmatch(name):
        raise ValueError(f"an array of dtype {name!r}")
    return np.dtype(name)


def _decode_array(name: object, shape: object, data: object) -> np.ndarray[Any, Any]:
    dtype = _parse_dtype(name)
    # Before the product: that of many integers beyond 64 bits takes time by the square.
    if type(shape) is not list or len(shape) > _MAX_NDIM:
        raise ValueError(f"an array of shape {shape!r:.80}")
    if any(type(n) is not int or not 0 <= n < 1 << 63 for n in shape):
        raise ValueError("an array with a dimension that is no count")
    if type(data) is not bytes or len(data) != math.prod(shape) * dtype.itemsize:
        raise ValueError(f"an array of dtype {name!r} and shape {shape!r} in the wrong bytes")
    array: np.ndarray[Any, Any] = np.frombuffer(data, dtype).reshape(shape).copy()
    _check_items(array)
    return array


def _decode_scalar(name: object, data: object) -> Any:
    dtype = _parse_dtype(name)
    if type(data) is not bytes or len(data) != dtype.itemsize:
        raise ValueError(f"a scalar of dtype {name!r} in the wrong bytes")
    if dtype.kind == "U":
        return np.str_(data.decode("utf-32-le", "surrogatepass"))
    if dtype.kind == "S":
        return np.bytes_(data)
    array: np.ndarray[Any, Any] = np.frombuffer(data, dtype)
    _check_items(array)
    return array[0]


def _check_items(array: np.ndarray[Any, Any]) -> None:
    """Refuse bytes that NumPy takes without a look and fails on later."""
    if not array.size:
        return
    if array.dtype.kind == "b" and array.view(np.uint8).max() > 1:
        raise ValueError("a bool that is neither 0 nor 1")
    if array.dtype.kind == "U":
        characters = np.frombuffer(array.tobytes(), "<u4")
        if characters.max() > _MAX_CODE_POINT:
            raise ValueError("text with a character beyond Unicode")


def _check(value: Any, depth: int) -> None:
    """Refuse what MessagePack can say and a body cannot, such as a list as a key."""
    kind = type(value)
    if kind in _LEAVES or isinstance(value, np.generic):
        return
    if depth == MAX_DEPTH:
        raise ValueError(f"nested deeper than {MAX_DEPTH} levels")
    if kind is dict:
        for key in value:
            if type(key) is not str and type(key) is not int:
                raise ValueError(f"a key of type {type(key).__name__}")
            if type(key) is int and not -(2**63) <= key < 2**64:
                raise ValueError("an integer key beyond 64 bits")
        value = value.values()
    elif kind is not list and kind is not tuple:
        raise ValueError(f"a value of type {kind.__name__}")
    for item in value:
        _check(item, depth + 1)
