"""The fixture that runs this folder on both twins does so: a suite that ran on one would pass."""

from __future__ import annotations

import os
import subprocess
import sys

from rlay import atomics


def test_the_twin_is_the_one_in_use(atomics_twin: str, request: object) -> None:
    assert atomics_twin in str(request)
    assert atomics.IMPLEMENTATION == atomics_twin
    assert (
        atomics.Word.__module__
        == {
            "compiled": "rlay._atomics",
            "pure": "rlay._atomics_pure",
        }[atomics_twin]
    )
    assert (atomics.Exchange is None) == (atomics_twin == "pure")


def test_the_twin_is_the_one_children_use() -> None:
    program = "from rlay import atomics; print(atomics.IMPLEMENTATION)"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == atomics.IMPLEMENTATION == os.environ["RLAY_ATOMICS"]
