"""The figures rlay wants to reach, as ratios and differences within one run."""

from __future__ import annotations

import dataclasses
import operator
from collections.abc import Callable
from typing import Any

from rlay.tools.bench.image import SHAPES, size_name
from rlay.tools.bench.results import Results, Row

_SMALL, _LARGE = size_name(SHAPES[0]), size_name(SHAPES[-1])
_RELATIONS = {"<=": operator.le, ">=": operator.ge}

#: The upper quartile over the lower one, above which a row counts as noisy.
NOISE = 1.5


@dataclasses.dataclass(frozen=True)
class Goal:
    """One figure: computed from medians (or another statistic of a row) of this run.

    Attributes:
        key: its name in the JSON.
        text: what it says.
        rows: the rows it needs, as ``group:key``.
        formula: of the rows, in their order, for people.
        compute: the same, in Python.
        relation: ``<=`` or ``>=``.
        goal: the bound.
        unit: of the value; empty for a ratio.
        statistic: of the rows.
    """

    key: str
    text: str
    rows: tuple[str, ...]
    formula: str
    compute: Callable[..., float]
    relation: str
    goal: float
    unit: str = ""
    statistic: str = "median"


def _overhead_ratio(one: float, other: float, base: float) -> float:
    # Faster than in-process is noise; without a bound the ratio would be infinite.
    return (one - base) / max(other - base, 1.0)


GOALS = (
    Goal(
        "step_overhead",
        "step overhead, Python env to Python agent",
        ("step:python_python", "step:in_process"),
        "python_python - in_process",
        operator.sub,
        "<=",
        1000.0,
        "ns",
    ),
    Goal(
        "step_overhead_vs_async",
        "step overhead of AsyncVectorEnv(1) / of rlay",
        ("step:async_vector", "step:python_python", "step:in_process"),
        "(async_vector - in_process) / (python_python - in_process)",
        _overhead_ratio,
        ">=",
        100.0,
    ),
    Goal(
        "c_c_vs_ping_pong",
        "C to C / bare ping-pong",
        ("step:c_c", "step:ping_pong"),
        "c_c / ping_pong",
        operator.truediv,
        "<=",
        2.0,
    ),
    Goal(
        "c_python_above_ping_pong",
        "C env to Python agent - bare ping-pong",
        ("step:c_python", "step:ping_pong"),
        "c_python - ping_pong",
        operator.sub,
        "<=",
        800.0,
        "ns",
    ),
    Goal(
        "vector_vs_async",
        "64 lanes in 2 workers / AsyncVectorEnv(64)",
        ("vector:64/rlay_2", "vector:64/async"),
        "64/rlay_2 / 64/async",
        operator.truediv,
        ">=",
        8.0,
    ),
    Goal(
        "vector_vs_sync",
        "64 lanes in 2 workers / SyncVectorEnv(64)",
        ("vector:64/rlay_2", "vector:64/sync"),
        "64/rlay_2 / 64/sync",
        operator.truediv,
        ">=",
        1.6,
    ),
    Goal(
        "workers_8_vs_2",
        "64 lanes in 8 workers / in 2 workers",
        ("vector:64/rlay_8", "vector:64/rlay_2"),
        "64/rlay_8 / 64/rlay_2",
        operator.truediv,
        ">=",
        0.9,
    ),
    Goal(
        "crowd_vs_pipe",
        "four pairs on one core / over pipes",
        ("crowd:rlay", "crowd:pipe"),
        "rlay / pipe",
        operator.truediv,
        ">=",
        0.5,
    ),
    Goal(
        "idle",
        "a waiting endpoint, the worse of env and agent",
        ("idle:env_default", "idle:agent_default"),
        "max(env_default, agent_default)",
        max,
        "<=",
        0.01,
        "of a core",
    ),
    Goal(
        "image_copy_vs_memcpy",
        f"{_LARGE} observation copied, speed / memcpy's",
        (f"image:{_LARGE}/memcpy", f"image:{_LARGE}/c_copy"),
        "memcpy / c_copy",
        operator.truediv,
        ">=",
        0.7,
    ),
    Goal(
        "image_view_size",
        f"view of {_LARGE}, step time / of {_SMALL}",
        (f"image:{_LARGE}/c_view", f"image:{_SMALL}/c_view"),
        f"{_LARGE}/c_view / {_SMALL}/c_view",
        operator.truediv,
        "<=",
        1.2,
    ),
    Goal(
        "death",
        "a killed peer is noticed, worst of all trials",
        ("death:env_in_loop", "death:env_in_step", "death:agent_in_loop"),
        "max of all",
        max,
        "<=",
        100.0,
        "ms",
        "max",
    ),
    Goal(
        "import_time",
        "import rlay, above gymnasium",
        ("import:time",),
        "time",
        float,
        "<=",
        50.0,
        "ms",
    ),
    Goal(
        "import_memory",
        "import rlay, above gymnasium",
        ("import:memory",),
        "memory",
        float,
        "<=",
        6.0,
        "MB",
    ),
)


def _noisy(row: Row) -> bool:
    """Tell whether the rounds differ so much that their median says little."""
    if row.group not in ("step", "image", "vector", "crowd"):
        return False
    return row.percentile(75) > NOISE * row.percentile(25)


def _statistic(goal: Goal, row: Row) -> float:
    return float(max(row.values)) if goal.statistic == "max" else row.median


def judge(results: Results) -> list[dict[str, Any]]:
    """Return every figure with its goal, and whether this run met it; None if not measured."""
    by_name = {f"{row.group}:{row.key}": row for row in results.rows.values()}
    judged = []
    for goal in GOALS:
        rows = {name: by_name[name] for name in goal.rows if name in by_name}
        missing = [name for name in goal.rows if name not in by_name]
        value = None if missing else goal.compute(*(_statistic(goal, row) for row in rows.values()))
        judged.append(
            {
                "key": goal.key,
                "text": goal.text,
                "formula": goal.formula,
                "statistic": goal.statistic,
                "rows": list(goal.rows),
                "value": value,
                "unit": goal.unit,
                "relation": goal.relation,
                "goal": goal.goal,
                "met": None if value is None else _RELATIONS[goal.relation](value, goal.goal),
                "missing": missing,
                "noisy": [name for name, row in rows.items() if _noisy(row)],
            }
        )
    return judged
