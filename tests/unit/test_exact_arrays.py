"""What a field holds as it is, and what would have to be changed for it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from rlay.errors import LayoutError
from rlay.protocol.exact import exact_array

INT64 = np.iinfo(np.int64)


@pytest.mark.parametrize(
    ("value", "dtype", "expected"),
    [
        (1, "float32", 1.0),
        (0.5, "float32", 0.5),
        (float("nan"), "float32", float("nan")),
        (float("-inf"), "float16", float("-inf")),
        (3.0, "int64", 3),
        (-(2.0**63), "int64", INT64.min),
        (2.0**63, "uint64", 2**63),
        (np.float16(7), "int64", 7),
        (np.float16(7), "uint8", 7),
        (2**53, "float64", 2.0**53),
        (True, "uint8", 1),
        (1, "bool", True),
        (np.int64(255), "uint8", 255),
        (np.array(5, ">i4"), "int32", 5),
        (2**63, "float64", 2.0**63),
        (np.uint64(2**64 - 2048), "float64", 2.0**64 - 2048),
        ([1, 2], "int8", [1, 2]),
    ],
)
def test_what_can_be_held_exactly_is_taken(value: Any, dtype: str, expected: Any) -> None:
    found = exact_array(value, np.dtype(dtype), np.shape(value), "p")
    assert found.dtype == np.dtype(dtype)
    assert np.array_equal(found, expected, equal_nan=np.dtype(dtype).kind == "f")


@pytest.mark.parametrize(
    ("value", "dtype"),
    [
        (0.1, "float32"),
        (1e300, "float32"),
        (2**53 + 1, "float64"),
        (2**63 - 1, "float64"),
        (np.uint64(2**64 - 1), "float64"),
        (70000, "float16"),
        (3.7, "int64"),
        (float("nan"), "int64"),
        (float("inf"), "int64"),
        (2.0**63, "int64"),
        (2.0**64, "uint64"),
        (-1.0, "uint8"),
        (256, "uint8"),
        (-1, "uint8"),
        (-1, "uint64"),
        (2**63, "int64"),
        (np.uint8(255), "int8"),
        (np.int8(-1), "uint16"),
        (2, "bool"),
        (0.5, "bool"),
        (np.float16(7.5), "int64"),
    ],
)
def test_what_would_be_changed_is_refused(value: Any, dtype: str) -> None:
    with pytest.raises(LayoutError) as caught:
        exact_array(value, np.dtype(dtype), (), "observation/x")
    message = str(caught.value)
    assert message.startswith("observation/x: ")
    assert f"cannot be held by {dtype} without changing it" in message
    assert f".astype(numpy.{dtype})" in message


def test_the_value_that_does_not_fit_is_named() -> None:
    with pytest.raises(LayoutError, match=r"p: 0\.1 cannot"):
        exact_array([0.5, 0.1, 0.3], np.dtype("float32"), (3,), "p")
