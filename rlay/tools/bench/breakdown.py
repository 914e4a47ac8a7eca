"""Where a step's time goes: differences between the rows of group ``step``."""

from __future__ import annotations

from typing import Any

from rlay.tools.bench.results import Results

#: What it is, and the rows: the first less all others.
PARTS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("the cache line, there and back", ("ping_pong",)),
    ("the protocol, both halves in C", ("c_c", "ping_pong")),
    ("the agent in Python instead of C", ("c_python", "c_c")),
    ("the environment in Python instead of C", ("python_python", "c_python", "in_process")),
    ("the environment's own step, and the loop", ("in_process",)),
)
WHOLE = ("the whole step, Python to Python", ("python_python",))


def explain(results: Results) -> list[dict[str, Any]]:
    """Return the parts in nanoseconds; they add up to the whole. None where a row is missing."""
    medians = {row.key: row.median for row in results.group("step")}
    parts = []
    for text, rows in (*PARTS, WHOLE):
        value = None
        if all(row in medians for row in rows):
            value = medians[rows[0]] - sum(medians[row] for row in rows[1:])
        parts.append({"part": text, "formula": " - ".join(rows), "ns": value})
    return parts
