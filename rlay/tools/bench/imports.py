"""Group ``import``: what ``import rlay`` takes on top of gymnasium."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from rlay.tools.bench.plan import Plan
from rlay.tools.bench.results import Results, Row

GROUP = "import"
_TIMEOUT = 60.0
_PROBE = """
import gymnasium, gymnasium.vector, json, resource, time
def memory():
    try:
        with open("/proc/self/statm") as pages:
            return int(pages.read().split()[1]) * resource.getpagesize()
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
before, begin = memory(), time.perf_counter()
import rlay
print(json.dumps([(time.perf_counter() - begin) * 1e3, (memory() - before) / 1e6]))
"""


def measure(_stage: object, plan: Plan, results: Results) -> None:
    """Measure the group: a fresh interpreter for each value."""
    with tempfile.TemporaryDirectory(prefix="rlay-bench-") as cache:
        _measure(plan, results, _environment(cache))


def _environment(cache: str) -> dict[str, str]:
    """Return an environment where compiled modules are kept, as for an installed package."""
    paths = [str(Path(__file__).parents[3]), os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    return {**environment, "PYTHONPYCACHEPREFIX": cache}


def _measure(plan: Plan, results: Results, environment: dict[str, str]) -> None:
    values = []
    for _ in range(plan.imports + 1):
        done = subprocess.run(
            [sys.executable, "-c", _PROBE],
            capture_output=True,
            text=True,
            timeout=_TIMEOUT,
            env=environment,
            check=False,
        )
        if done.returncode:
            why = (done.stderr.strip().splitlines() or ["no message"])[-1]
            results.miss(GROUP, "rlay", why)
            return
        values.append(json.loads(done.stdout))
    # The first one compiles the modules.
    times, sizes = zip(*values[1:], strict=True)
    results.add(Row(GROUP, "time", "import rlay, after gymnasium", "ms", times))
    results.add(Row(GROUP, "memory", "import rlay, after gymnasium", "MB", sizes))
