"""What was measured and what could not be."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np


class MissingPeerError(Exception):
    """A contender cannot be measured here; the text says why."""


@dataclasses.dataclass(frozen=True)
class Row:
    """One contender: a value per round.

    Attributes:
        group: of ``plan.GROUPS``.
        key: unique in the group.
        label: what it is, for people.
        unit: of the values.
        values: one for each round.
        facts: what else belongs to it, such as bytes or lanes.
    """

    group: str
    key: str
    label: str
    unit: str
    values: Sequence[float]
    facts: dict[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def median(self) -> float:
        """The median over the rounds."""
        return float(np.median(self.values))

    def percentile(self, percent: float) -> float:
        """Return a percentile over the rounds."""
        return float(np.percentile(self.values, percent))

    def to_dict(self) -> dict[str, Any]:
        """Return what goes into the JSON."""
        return {
            "group": self.group,
            "key": self.key,
            "label": self.label,
            "unit": self.unit,
            "median": self.median,
            "min": float(min(self.values)),
            "p25": self.percentile(25),
            "p75": self.percentile(75),
            "p90": self.percentile(90),
            "max": float(max(self.values)),
            "rounds": [float(value) for value in self.values],
            **self.facts,
        }


class Results:
    """The rows of a run, and what is missing from it."""

    def __init__(self) -> None:
        """Begin empty."""
        self.rows: dict[tuple[str, str], Row] = {}
        self.missing: list[dict[str, str]] = []

    def add(self, row: Row) -> None:
        """Keep a row."""
        self.rows[row.group, row.key] = row

    def miss(self, group: str, key: str, why: str) -> None:
        """Say that a contender was not measured."""
        self.missing.append({"group": group, "key": key, "why": why})

    def group(self, group: str) -> list[Row]:
        """Return the rows of one group."""
        return [row for row in self.rows.values() if row.group == group]
