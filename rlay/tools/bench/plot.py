"""``--plot``: one picture with a panel for each of the groups step, image and vector."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from rlay.errors import ToolError
from rlay.tools.bench.image import SHAPES, WAYS, size_name
from rlay.tools.bench.results import Results, Row
from rlay.tools.bench.table import duration

_RLAY, _OTHER, _FLOOR = "#1f6f8b", "#b0b7bd", "#e0a030"
_WAY_COLORS = {
    "memcpy": _FLOOR,
    "c_copy": _RLAY,
    "c_view": "#7fb7c9",
    "python_copy": "#4a4e69",
    "python_view": "#9a8c98",
}


def _step(axes: Any, rows: Sequence[Row]) -> None:
    rows = sorted(rows, key=lambda row: -row.median)
    colors = [
        _FLOOR
        if row.key in ("ping_pong", "in_process")
        else _RLAY
        if row.label.startswith("rlay")
        else _OTHER
        for row in rows
    ]
    medians = [row.median for row in rows]
    low = [row.median - row.percentile(25) for row in rows]
    high = [row.percentile(75) - row.median for row in rows]
    places = range(len(rows))
    axes.barh(places, medians, color=colors, xerr=[low, high], error_kw={"ecolor": "#555555"})
    axes.set_yticks(places, [row.label for row in rows], fontsize=9)
    axes.set_xscale("log")
    axes.set_xlim(right=max(medians) * 4)
    for place, row in zip(places, rows, strict=True):
        text = f"  {duration(row.median)}"
        axes.text(row.percentile(75), place, text, va="center", fontsize=8)
    axes.set_xlabel("nanoseconds per step, log scale (bar: median, line: quartiles)")
    axes.set_title("One step of an environment that does nothing")


def _image(axes: Any, rows: Sequence[Row]) -> None:
    sizes = [size_name(shape) for shape in SHAPES]
    by_key = {row.key: row for row in rows}
    for way, label in WAYS.items():
        found = [
            (n, by_key[f"{size}/{way}"].median)
            for n, size in enumerate(sizes)
            if f"{size}/{way}" in by_key
        ]
        if found:
            places, medians = zip(*found, strict=True)
            axes.plot(places, medians, "o-", label=label, color=_WAY_COLORS[way], markersize=4)
    axes.set_xticks(range(len(sizes)), sizes, fontsize=8)
    axes.margins(x=0.08)
    axes.set_yscale("log")
    axes.set_ylabel("nanoseconds per step, log scale")
    axes.set_title("Image observations")
    axes.legend(fontsize=8, frameon=False)


def _vector_bars(axes: Any, rows: Sequence[Row]) -> None:
    places = range(len(rows))
    colors = [_RLAY if row.facts["kind"].startswith("rlay") else _OTHER for row in rows]
    axes.barh(places, [row.median for row in rows], color=colors)
    axes.set_yticks(places, [row.label for row in rows], fontsize=8)
    for place, row in zip(places, rows, strict=True):
        axes.text(row.median, place, f"  {row.median:,.0f}", va="center", fontsize=8)
    axes.set_xlim(right=max(row.median for row in rows) * 1.25)
    axes.set_xlabel("env-steps per second")


def _vector(axes: Any, rows: Sequence[Row]) -> None:
    axes.set_title("CartPole lanes")
    if len({row.facts["lanes"] for row in rows}) == 1:
        _vector_bars(axes, sorted(rows, key=lambda row: row.median))
        return
    for kind in dict.fromkeys(row.facts["kind"] for row in rows):
        mine = [row for row in rows if row.facts["kind"] == kind]
        label = {"sync": "SyncVectorEnv", "async": "AsyncVectorEnv"}.get(
            kind, f"rlay, {kind.removeprefix('rlay_')} workers"
        )
        style = "s--" if kind in ("sync", "async") else "o-"
        lanes = [row.facts["lanes"] for row in mine]
        axes.plot(lanes, [row.median for row in mine], style, label=label, markersize=4)
    lanes = sorted({row.facts["lanes"] for row in rows})
    axes.set_xscale("log", base=2)
    axes.set_xticks(lanes, [str(count) for count in lanes])
    axes.set_yscale("log")
    axes.set_xlabel("lanes")
    axes.set_ylabel("env-steps per second, log scale")
    axes.legend(fontsize=8, frameon=False)


_PANELS: dict[str, Callable[[Any, Sequence[Row]], None]] = {
    "step": _step,
    "image": _image,
    "vector": _vector,
}


def check(path: Path) -> None:
    """Refuse, before anything is measured, a plot that could not be drawn."""
    if not path.parent.is_dir():
        raise ToolError(f"--plot: there is no directory {path.parent}")
    if path.suffix != ".png":
        raise ToolError(f"--plot: {path} must end in .png")
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        raise ToolError("--plot needs matplotlib: pip install 'rlay[demo]'") from None


def draw(results: Results, machine: Sequence[str], path: Path) -> None:
    """Write the picture."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    shown = [(group, results.group(group)) for group in _PANELS if results.group(group)]
    if not shown:
        raise ToolError("--plot: nothing that is plotted was measured (step, image, vector)")
    lower = [group for group, _ in shown if group != "step"]
    rows: list[Any] = [lower] if lower else []
    heights = [3.4] * len(rows)
    if shown[0][0] == "step":
        rows.insert(0, ["step"] * max(1, len(lower)))
        heights.insert(0, 0.27 * len(shown[0][1]) + 1)
    figure = Figure(figsize=(11, sum(heights) + 0.4), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplot_mosaic(rows, height_ratios=heights)
    for group, mine in shown:
        _PANELS[group](panels[group], mine)
        panels[group].spines[["top", "right"]].set_visible(False)
    figure.supxlabel("\n".join(machine[:2]), fontsize=7, color="#555555")
    figure.savefig(path, dpi=120)
