"""The results for a terminal: with rich where it is installed, aligned text elsewhere."""

from __future__ import annotations

import importlib.util
import io
import shutil
import sys
import textwrap
from collections.abc import Sequence
from typing import Any

from rlay.tools.bench import breakdown
from rlay.tools.bench.results import Results, Row

Table = tuple[str, list[str], list[list[str]]]


def duration(nanoseconds: float) -> str:
    """Return ``320 ns``, ``1.85 µs`` or ``12.4 ms``."""
    for size, unit in ((1e9, "s"), (1e6, "ms"), (1e3, "µs")):
        if abs(nanoseconds) >= size:
            return f"{nanoseconds / size:.3g} {unit}"
    return f"{nanoseconds:.3g} ns"


def quantity(value: float, unit: str) -> str:
    """Return a value with its unit, in the form that suits it."""
    if unit in ("ns/step", "ns"):
        return duration(value)
    if unit.endswith("steps/s"):
        return f"{value:,.0f}/s"
    if unit.endswith("of a core"):
        return f"{100 * value:.2f} %"
    return f"{value:.3g} {unit}".rstrip()


def _spread(row: Row) -> list[str]:
    return [quantity(value, row.unit) for value in (row.median, min(row.values))] + [
        quantity(row.percentile(90), row.unit)
    ]


def _step(rows: Sequence[Row]) -> Table:
    lines = [[row.label, *_spread(row), duration(row.facts["overhead"])] for row in rows]
    return "One step", ["", "median", "min", "p90", "overhead"], lines


def _image(rows: Sequence[Row]) -> Table:
    lines = []
    for row in rows:
        speed, ratio = row.facts["mb_per_s"], row.facts["memcpy_ratio"]
        shown = ["" if speed is None else f"{speed:,.0f}", "" if ratio is None else f"{ratio:.2f}"]
        lines.append([row.label, *_spread(row), *shown])
    return "Images", ["", "median", "min", "p90", "MB/s", "of memcpy"], lines


def _vector(rows: Sequence[Row]) -> Table:
    sync = {row.facts["lanes"]: row.median for row in rows if row.facts["kind"] == "sync"}
    lines = []
    for row in rows:
        base = sync.get(row.facts["lanes"])
        lines.append([row.label, *_spread(row), f"{row.median / base:.2f}" if base else ""])
    return "CartPole lanes", ["", "median", "min", "p90", "of Sync"], lines


def _crowd(rows: Sequence[Row]) -> Table:
    lines = [[row.label, *_spread(row), f"{row.facts['slowest_of_mean']:.2f}"] for row in rows]
    return "Crowded", ["", "median", "min", "p90", "slowest / mean"], lines


def _idle(rows: Sequence[Row]) -> Table:
    return "Waiting", ["share of a core", "median", "min", "p90"], _plain_lines(rows)


def _death(rows: Sequence[Row]) -> Table:
    lines = [
        [row.label, *_spread(row), quantity(max(row.values), "ms"), str(len(row.values))]
        for row in rows
    ]
    return "A killed peer is noticed after", ["", "median", "min", "p90", "max", "trials"], lines


def _import(rows: Sequence[Row]) -> Table:
    return "import rlay", ["", "median", "min", "p90"], _plain_lines(rows)


def _plain_lines(rows: Sequence[Row]) -> list[list[str]]:
    return [[row.label, *_spread(row)] for row in rows]


_TABLES = {
    "step": _step,
    "image": _image,
    "vector": _vector,
    "crowd": _crowd,
    "idle": _idle,
    "death": _death,
    "import": _import,
}


def _goals(ratios: Sequence[dict[str, Any]]) -> Table:
    lines = []
    for ratio in ratios:
        if ratio["value"] is None:
            continue
        met = "met" if ratio["met"] else "NOT met"
        if ratio["noisy"]:
            met += ", but noisy"
        goal = f"{ratio['relation']} {quantity(ratio['goal'], ratio['unit'])}"
        lines.append([ratio["text"], quantity(ratio["value"], ratio["unit"]), goal, met])
    return "Figures of this run", ["", "value", "goal", ""], lines


def _parts(results: Results) -> Table:
    lines = [
        [part["part"], part["formula"], duration(part["ns"])]
        for part in breakdown.explain(results)
        if part["ns"] is not None
    ]
    return "Where a step's time goes", ["", "from the medians of", ""], lines


def tables(results: Results, ratios: Sequence[dict[str, Any]]) -> list[Table]:
    """Return title, heads and lines of every table that has lines."""
    made = [make(results.group(group)) for group, make in _TABLES.items()]
    return [table for table in [*made, _parts(results), _goals(ratios)] if table[2]]


def aligned(table: Table) -> str:
    """Return a table as plain text: the first column left, the others right."""
    title, heads, lines = table
    widths = [max(len(cell) for cell in column) for column in zip(heads, *lines, strict=True)]
    out = [title]
    for line in [heads, *lines]:
        first, *others = (
            cell.rjust(width) if number else cell.ljust(width)
            for number, (cell, width) in enumerate(zip(line, widths, strict=True))
        )
        out.append("  ".join(["", first, *others]).rstrip())
    return "\n".join(out)


def _rich(made: Sequence[Table]) -> str:
    from rich.console import Console
    from rich.table import Table as RichTable

    width = max(100, shutil.get_terminal_size().columns)
    terminal = sys.stdout.isatty()
    console = Console(file=io.StringIO(), width=width, force_terminal=terminal, highlight=False)
    for title, heads, lines in made:
        table = RichTable(title=title, title_justify="left", box=None, pad_edge=False)
        for number, head in enumerate(heads):
            table.add_column(head, justify="right" if number else "left", no_wrap=True)
        for line in lines:
            table.add_row(*line)
        console.print(table)
        console.print()
    text: str = console.file.getvalue()  # type: ignore[attr-defined]
    return text.rstrip()


def text(
    results: Results, ratios: Sequence[dict[str, Any]], machine: Sequence[str], method: str
) -> str:
    """Return everything a terminal shows."""
    made = tables(results, ratios)
    if importlib.util.find_spec("rich") is not None:
        shown = _rich(made)
    else:
        shown = "\n\n".join(map(aligned, made))
    missing = [f"  {one['group']} {one['key']}: {one['why']}" for one in results.missing]
    parts = ["\n".join(machine), shown]
    if missing:
        parts.append("\n".join(["Missing", *missing]))
    parts.append(textwrap.fill(f"Method. {method}", 100))
    return "\n\n".join(parts) + "\n"
