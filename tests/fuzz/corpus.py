"""The golden files as inputs: every valid and invalid case."""

from __future__ import annotations

import functools

from tests.spec.golden_invalid import Fault, all_faults, apply
from tests.spec.golden_session import Case
from tests.spec.golden_valid import VALID


@functools.cache
def valid_cases() -> dict[str, Case]:
    """Return the valid golden cases by name."""
    return {make.__name__: make() for make in VALID}


@functools.cache
def faults(source: str) -> list[tuple[Fault, list[bytes]]]:
    """Return the invalid cases made of a valid one, with their data files."""
    case = valid_cases()[source]
    made = [fault for fault in all_faults(valid_cases()) if fault.source == source]
    return [(fault, apply(fault, case)[1]) for fault in made]


@functools.cache
def golden_cases() -> list[tuple[bytes, list[bytes]]]:
    """Return control and data files of every case."""
    cases = valid_cases()
    found = [(case.control, case.data) for case in cases.values()]
    return found + [apply(fault, cases[fault.source]) for fault in all_faults(cases)]
