"""The child that is killed: it plays its part, and dies at its point by its own SIGKILL."""

from __future__ import annotations

import dataclasses
import gc
import os
import signal
import sys
import time
import traceback
from pathlib import Path
from typing import Any

import rlay
from rlay import atomics
from rlay.channel import files
from rlay.protocol.constants import CONTROL_SIZE, Side
from tests.sweep import sabotage
from tests.sweep.points import Line, Point, Tracer
from tests.sweep.slot import Slot, die_with_parent
from tests.sweep.story import Oracle, is_agent, is_server, play_agent, play_game
from tests.sweep.truth import Memory, read_truth

#: How the victim plays; each way executes other lines.
#:   plain: the peer is prompt.  early: the peer comes late.  slow: the peer dawdles.
#:   loop: an environment with a loop of its own.  leave: it leaves without CLOSE.
VARIANTS = ("plain", "early", "slow", "loop", "leave")


@dataclasses.dataclass(frozen=True)
class Part:
    """What one victim does.

    Attributes:
        face: the class it plays.
        variant: one of VARIANTS.
        exchange: whether it takes the compiled step, where there is one.
        channel: its name.
        token: of an environment, or the seed of an agent.
        point: where it dies; None lists its lines in the slot instead.
        broken: what it does wrong on purpose (``sabotage.py``), or nothing.
    """

    face: str
    variant: str
    exchange: bool
    channel: str
    token: int
    point: Point | None = None
    broken: str = ""


def variants_of(face: str) -> tuple[str, ...]:
    """Return the ways in which this class can be played."""
    if is_agent(face):
        return tuple(variant for variant in VARIANTS if variant != "loop")
    return VARIANTS


class _Witness:
    """Keeps every mapping of this process, so that the truth can be read after it was closed."""

    def __init__(self, part: Part) -> None:
        self._part = part
        self._controls: list[Memory] = []
        self._datas: list[Memory] = []
        original = files.Mapping.__init__

        def opened(mapping: Any, *args: Any, **kwargs: Any) -> None:
            original(mapping, *args, **kwargs)
            kind = self._controls if mapping.size == CONTROL_SIZE else self._datas
            kind.append(mapping._map)

        files.Mapping.__init__ = opened  # type: ignore[method-assign,assignment]

    def testify(self) -> dict[str, Any]:
        side = Side.SERVER if is_server(self._part.face) else Side.CLIENT
        root = Path(os.environ["RLAY_DIR"])
        truth = read_truth(side, root, self._part.channel, self._controls, self._datas)
        return dataclasses.asdict(truth)


def _play(part: Part, tracer: Tracer) -> None:
    leave = part.variant == "leave"
    if is_agent(part.face):
        env = getattr(rlay, part.face)(part.channel, timeout=20.0, attach_timeout=20.0)
        play_agent(env, part.token, [], phase=tracer.set_phase, leave=leave)
        return
    oracle = Oracle(part.token, tracer.set_phase)
    face = getattr(rlay, part.face)
    if part.variant in ("loop", "leave"):
        spaces = {"observation_space": oracle.observation_space}
        spaces["action_space"] = oracle.action_space
        backend = face(part.channel, render=oracle.render, frame_capacity=72, **spaces)
        play_game(backend, oracle, leave=leave)
    else:
        backend = face(part.channel, oracle, frame_capacity=72, attach_timeout=20.0)
        backend.serve(sessions=1)
    tracer.set_phase("close")
    backend.close()


def _await_server(part: Part) -> None:
    """Come second, unless the story is about coming first."""
    control = Path(os.environ["RLAY_DIR"]) / f"{part.channel}.rlay"
    deadline = time.monotonic() + 20
    while not is_server(part.face) and part.variant != "early" and not control.exists():
        if time.monotonic() > deadline:
            raise TimeoutError(f"nobody made {control}")
        time.sleep(0.0002)


def _watch(part: Part, slot: Slot) -> Tracer:
    """Return the tracer that lists the lines, or that kills this process at its point."""
    witness = _Witness(part)
    lines: list[Line] = []
    if part.point is None:

        def note(line: Line) -> None:
            lines.append(line)

        tracer = Tracer(note)
        tracer.lines = lines  # type: ignore[attr-defined]
        return tracer
    target, left = Line(*part.point[:3]), part.point.occurrence

    def maybe_die(line: Line) -> None:
        nonlocal left
        if line == target:
            left -= 1
            if not left:
                slot.put({**witness.testify(), "died": time.monotonic_ns()})
                os.kill(os.getpid(), signal.SIGKILL)

    return Tracer(maybe_die, only=target.file)


def be_victim(part: Part, slot: Slot) -> None:
    """Play; never returns. The exit code is 0 when the point was not reached."""
    code = 1
    try:
        die_with_parent()
        gc.disable()
        gc.freeze()
        if not part.exchange:
            atomics.Exchange = None
        sabotage.break_victim(part.broken)
        tracer = _watch(part, slot)
        _await_server(part)
        tracer.start()
        _play(part, tracer)
        tracer.stop()
        if part.point is None:
            slot.put({"lines": tracer.lines})  # type: ignore[attr-defined]
        code = 0
    except BaseException:
        sys.settrace(None)
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)
