"""What the figures depend on: the machine, the versions, the load; and the method."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
import subprocess
import sys
from typing import Any

from rlay import atomics
from rlay._version import __version__
from rlay.tools.bench.stage import WAIT_VARIABLE, strategies

METHOD = (
    "All contenders of a comparison are alive in the same run and take short turns, A B C, A B C "
    "and so on, so that whatever else the machine does meets them all alike; the processes that "
    "rlay bench starts for a contender are stopped while it is not its turn, and workers of "
    "vector environments wait. The steps of a turn are chosen in a warm-up so that it takes its "
    "share of time, or given with --steps; the cost of a step is the turn's time divided by its "
    "steps. Reported are the median over the rounds and their spread. Only the crowd is pinned, no "
    "priority raised, and Python's garbage collector is off during a turn. The environment does "
    "nothing and returns a constant observation; the overhead of a step is its time less that of "
    "the same environment called in-process. C programs look at their own clock; the floor is a "
    "spin without any waiting in the kernel. In the image group the C environment leaves the "
    "picture in the mapped record, as a game does that renders into it, and the Python "
    "environment copies it there. A figure is met or not in this run, and noisy if the upper "
    "quartile of one of its rows is over 1.5 times the lower: then close what else runs, and run "
    "it again."
)


def _cpu_model() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:
            for line in lines:
                if line.startswith("model name"):
                    return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _virtual() -> bool | None:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as text:
            return " hypervisor" in text.read()
    except OSError:
        return None


def _compiler() -> str | None:
    compiler = os.environ.get("CC", "cc").split()[0]
    if shutil.which(compiler) is None:
        return None
    done = subprocess.run([compiler, "--version"], capture_output=True, text=True, check=False)
    return (done.stdout.splitlines() or [compiler])[0]


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def load_average() -> list[float] | None:
    """Return the load of the last 1, 5 and 15 minutes, where the system tells."""
    return list(os.getloadavg()) if hasattr(os, "getloadavg") else None


def describe() -> dict[str, Any]:
    """Return the facts."""
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {
        "processor": _cpu_model(),
        "architecture": platform.machine(),
        "virtual": _virtual(),
        "cores": os.cpu_count(),
        "usable_cores": usable,
        "system": platform.system(),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "implementation": sys.implementation.name,
        "rlay": __version__,
        "atomics": atomics.IMPLEMENTATION,
        "wait_variable": os.environ.get(WAIT_VARIABLE),
        "wait_strategies": [name for name, why in strategies().items() if why is None],
        "gymnasium": _version("gymnasium"),
        "numpy": _version("numpy"),
        "compiler": _compiler(),
        "load_before": load_average(),
    }


def sentences(machine: dict[str, Any]) -> list[str]:
    """Return the facts for people."""
    virtual = ", virtual" if machine["virtual"] else ""
    core = "yes" if machine["atomics"] == "compiled" else "no, its pure twin"
    loads = [machine["load_before"], machine.get("load_after")]
    load = " -> ".join(" ".join(f"{value:.2f}" for value in one) for one in loads if one)
    waits = ", ".join(machine["wait_strategies"]) or "one, without a name"
    if machine["wait_variable"]:
        waits += f"; {WAIT_VARIABLE}={machine['wait_variable']}"
    return [
        f"{machine['processor']}, {machine['usable_cores']} of {machine['cores']} cores usable"
        f"{virtual}; {machine['system']} {machine['kernel']}; load {load or 'unknown'}",
        f"rlay {machine['rlay']}, compiled core: {core}; wait strategies: {waits}",
        f"Python {machine['python']}, NumPy {machine['numpy']}, Gymnasium {machine['gymnasium']}, "
        f"C compiler: {machine['compiler'] or 'none'}",
    ]
