"""The points of a Python victim: the lines of ``rlay/`` that it executes, by phase.

A point is (phase, file, line, which occurrence in that phase). One dry run lists the lines; in
the sweep the victim stops at one of them, before the line is executed.
"""

from __future__ import annotations

import collections
import os
import sys
from collections.abc import Callable, Iterable
from types import CodeType, FrameType
from typing import Any, NamedTuple

import rlay

HOME = os.path.dirname(os.path.abspath(rlay.__file__)) + os.sep

PHASES = ("publish", "attach", "handshake", "reset", "step", "render", "close")

#: Functions that begin a phase by themselves; the story names the others.
_BEGIN = {
    ("server.py", "_begin"): "publish",
    ("server.py", "accept"): "attach",
    ("server.py", "_greet"): "handshake",
    ("client.py", "_begin"): "attach",
    ("client.py", "attach"): "attach",
    ("client.py", "_claim_and_greet"): "handshake",
    ("agent_moves.py", "send_close"): "close",
    ("env_moves.py", "reply_value"): "close",
}


class Line(NamedTuple):
    """A line in a phase."""

    phase: str
    file: str
    line: int


class Point(NamedTuple):
    """An occurrence of a line in a phase: where a victim is killed."""

    phase: str
    file: str
    line: int
    occurrence: int

    def __str__(self) -> str:
        return f"{self.phase} {self.file}:{self.line} #{self.occurrence}"


class Tracer:
    """Calls ``visit`` with each line of ``rlay/`` just before this thread executes it."""

    def __init__(self, visit: Callable[[Line], None], only: str | None = None) -> None:
        """``only`` is the one file to look at, relative to ``rlay/``; None looks at all."""
        self.phase = PHASES[0]
        self._visit, self._only = visit, only
        self._files: dict[CodeType, str | None] = {}

    def set_phase(self, phase: str) -> None:
        self.phase = phase

    def start(self) -> None:
        sys.settrace(self._on_call)

    def stop(self) -> None:
        sys.settrace(None)

    def _file_of(self, code: CodeType) -> str | None:
        path = code.co_filename
        return path[len(HOME) :] if path.startswith(HOME) else None

    def _on_call(self, frame: FrameType, event: str, argument: Any) -> Any:
        code = frame.f_code
        try:
            file = self._files[code]
        except KeyError:
            file = self._files[code] = self._file_of(code)
        if file is None:
            return None
        begins = _BEGIN.get((file, code.co_name))
        if begins:
            self.phase = begins
        if self._only is not None and file != self._only:
            return None

        def on_line(frame: FrameType, event: str, argument: Any) -> Any:
            if event == "line":
                self._visit(Line(self.phase, file, frame.f_lineno))
            return on_line

        return on_line


def list_points(runs: list[list[Line]], *, last: bool) -> list[Point]:
    """Return the points that every dry run reached: each line's first, and ``last``, occurrence."""
    counts = [collections.Counter(run) for run in runs]
    points = []
    for line in dict.fromkeys(runs[0]):
        least = min(count[line] for count in counts)
        if least:
            points.append(Point(*line, 1))
            if last and least > 1:
                points.append(Point(*line, least))
    return points


def lines_of(points: Iterable[Point]) -> set[Line]:
    """Return the lines these points stand on."""
    return {Line(*point[:3]) for point in points}
