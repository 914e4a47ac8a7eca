"""The arguments of ``rlay bench``, and a run from beginning to end."""

from __future__ import annotations

import argparse
import datetime
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rlay.errors import ToolError
from rlay.tools.bench import (
    breakdown,
    crowd,
    death,
    endings,
    goals,
    idle,
    image,
    imports,
    machine,
    plot,
    step,
    table,
    vector,
)
from rlay.tools.bench.plan import GROUPS, Plan, plan_for
from rlay.tools.bench.results import Results
from rlay.tools.bench.stage import Stage

_MEASURES: dict[str, Callable[[Stage, Plan, Results], None]] = {
    "step": step.measure,
    "image": image.measure,
    "vector": vector.measure,
    "crowd": crowd.measure,
    "idle": idle.measure,
    "death": death.measure,
    "import": imports.measure,
}


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a positive number")
    return number


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.epilog = "example: rlay bench --quick --plot bench.png"
    parser.add_argument("--quick", action="store_true", help="under a minute instead of several")
    parser.add_argument("--json", action="store_true", help="write one JSON object, not tables")
    parser.add_argument("--plot", metavar="FILE.png", type=Path, help="draw the medians")
    parser.add_argument(
        "--only",
        metavar="GROUP",
        action="append",
        choices=GROUPS,
        help=f"one of {', '.join(GROUPS)}; may be given again",
    )
    parser.add_argument(
        "--rounds", metavar="N", type=_positive, help="turns of each contender (default: 25)"
    )
    parser.add_argument(
        "--steps", metavar="N", type=_positive, help="steps of a turn (default: chosen by time)"
    )


def measure(plan: Plan, groups: list[str]) -> tuple[Results, dict[str, Any]]:
    """Measure the groups; return what was found, and the machine."""
    results, facts = Results(), machine.describe()
    seconds: dict[str, float] = {}
    with endings.in_order(), Stage() as stage:
        for group in groups:
            sys.stderr.write(f"rlay bench: {group} ...\n")
            sys.stderr.flush()
            begin = time.monotonic()
            with stage.scene():
                _MEASURES[group](stage, plan, results)
            seconds[group] = round(time.monotonic() - begin, 1)
    return results, {**facts, "load_after": machine.load_average(), "seconds": seconds}


def document(
    results: Results, facts: dict[str, Any], ratios: list[dict[str, Any]], *, quick: bool
) -> dict[str, Any]:
    """Return the JSON object."""
    return {
        "bench": 1,
        "when": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "quick": quick,
        "machine": facts,
        "method": machine.METHOD,
        "rows": [row.to_dict() for row in results.rows.values()],
        "missing": results.missing,
        "breakdown": breakdown.explain(results),
        "ratios": ratios,
    }


def run(arguments: argparse.Namespace) -> int:
    """Measure, and show what was found."""
    if arguments.plot is not None:
        plot.check(arguments.plot)
    plan = plan_for(quick=arguments.quick, rounds=arguments.rounds, steps=arguments.steps)
    chosen = [group for group in GROUPS if not arguments.only or group in arguments.only]
    results, facts = measure(plan, chosen)
    if not results.rows:
        raise ToolError(f"nothing could be measured: {results.missing}")
    ratios = [
        ratio
        for ratio in goals.judge(results)
        if any(row.partition(":")[0] in chosen for row in ratio["rows"])
    ]
    if arguments.json:
        made = document(results, facts, ratios, quick=arguments.quick)
        sys.stdout.write(json.dumps(made, indent=1, allow_nan=False) + "\n")
    else:
        shown = table.text(results, ratios, machine.sentences(facts), machine.METHOD)
        sys.stdout.write(shown)
    if arguments.plot is not None:
        plot.draw(results, machine.sentences(facts), arguments.plot)
    return 0
