"""Group ``image``: observations from 84x84x4 to 1080p RGB, copied and as views, beside memcpy."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable

import numpy as np

from rlay.tools.bench.contenders import Contender, interleave, open_contenders, python_steps
from rlay.tools.bench.envs import PictureEnv
from rlay.tools.bench.plan import Plan
from rlay.tools.bench.results import Results, Row
from rlay.tools.bench.stage import Stage

GROUP = "image"
SHAPES = ((84, 84, 4), (210, 160, 3), (480, 640, 3), (1080, 1920, 3))
WAYS = {
    "memcpy": "memcpy (np.copyto)",
    "c_copy": "C env in place, copy",
    "c_view": "C env in place, view",
    "python_copy": "Python env, copy",
    "python_view": "Python env, view",
}


def size_name(shape: tuple[int, ...]) -> str:
    """Return ``84x84x4``."""
    return "x".join(map(str, shape))


def memcpy(shape: tuple[int, ...]) -> Contender:
    """Return a plain copy of the same size."""
    source, target = np.full(shape, 127, np.uint8), np.zeros(shape, np.uint8)
    return Contender(python_steps(lambda _: np.copyto(target, source), None))


def _recipes(stage: Stage, shape: tuple[int, ...]) -> dict[str, Callable[[], Contender]]:
    size = size_name(shape)
    c_env = functools.partial(stage.c_env, "u8", *map(str, shape))
    python_env = functools.partial(stage.python_env, PictureEnv, shape)
    return {
        f"{size}/memcpy": functools.partial(memcpy, shape),
        f"{size}/c_copy": functools.partial(c_env, copy=True),
        f"{size}/c_view": functools.partial(c_env, copy=False),
        f"{size}/python_copy": functools.partial(python_env, copy=True),
        f"{size}/python_view": functools.partial(python_env, copy=False),
    }


def _measure_size(stage: Stage, plan: Plan, results: Results, shape: tuple[int, ...]) -> None:
    turns = interleave(
        results,
        GROUP,
        open_contenders(results, GROUP, _recipes(stage, shape)),
        rounds=plan.image_rounds,
        sample_ns=plan.sample_ns,
        steps=plan.steps,
    )
    size, count = size_name(shape), math.prod(shape)
    plain = turns.get(f"{size}/memcpy")
    for key, mine in turns.items():
        median, way = float(np.median(mine.per_step_ns)), key.rpartition("/")[2]
        copied = way != "c_view"  # the one way that moves no pixel has no speed
        compared = float(np.median(plain.per_step_ns)) / median if plain and copied else None
        facts = {
            "steps_per_round": mine.steps,
            "size": size,
            "bytes": count,
            "mb_per_s": count / median * 1e3 if copied else None,
            "memcpy_ratio": compared,
        }
        label = f"{size}, {WAYS[way]}"
        results.add(Row(GROUP, key, label, "ns/step", mine.per_step_ns, facts))


def measure(stage: Stage, plan: Plan, results: Results) -> None:
    """Measure the group, one size after another."""
    for shape in SHAPES:
        with stage.scene():
            _measure_size(stage, plan, results, shape)
