"""Numbers as the record's dtype holds them: exactly, or not at all."""

from __future__ import annotations

from typing import Any

import numpy as np

from rlay.errors import LayoutError


def not_exact(path: str, value: Any, dtype: np.dtype[Any]) -> LayoutError:
    """Return the error for a value that ``dtype`` would change."""
    return LayoutError(
        f"{path}: {value} cannot be held by {dtype} without changing it; "
        f"convert it yourself, with .astype(numpy.{dtype}), if that is what you want"
    )


def exact_array(value: Any, dtype: np.dtype[Any], shape: tuple[int, ...], path: str) -> np.ndarray:
    """Return ``value`` as an array of this dtype and shape, or raise if that would change it.

    Raises:
        LayoutError: wrong shape, not numeric, or not exactly representable.
    """
    try:
        array = np.asarray(value)
    except ValueError as error:
        raise LayoutError(f"{path}: {error}") from None
    if array.dtype.kind not in "biuf":
        kind = type(value).__name__
        raise LayoutError(f"{path}: {kind} {value!r:.80} is not an array of {dtype}")
    if array.shape != shape:
        raise LayoutError(f"{path}: shape {array.shape}, expected {shape}")
    if array.dtype == dtype:
        return array
    with np.errstate(all="ignore"):
        cast = array.astype(dtype)
        back = cast.astype(array.dtype)
    same = (back == array) | ((array != array) & (back != back))
    if array.dtype.kind in "iu" and dtype.kind == "f":
        # A float near the integer limit wraps on the way back; ask exact integers instead.
        pairs = zip(cast.flat, array.flat, strict=True)
        exact = [bool(np.isfinite(f)) and int(f) == int(i) for f, i in pairs]
        same &= np.array(exact, dtype=bool).reshape(shape)
    elif array.dtype.kind == "f" and dtype.kind in "iu":
        info = np.iinfo(dtype)
        with np.errstate(all="ignore"):  # the limits of int64 are infinite as a float16
            same &= (array >= float(info.min)) & (array < float(info.max) + 1.0)
    elif array.dtype.kind in "iu" and dtype.kind in "iu":
        same &= (array < 0) == (cast < 0)
    if not same.all():
        raise not_exact(path, array[~same].flat[0], dtype)
    return cast
