"""``make soak``: step and attach for long, print what both sides hold; status 1 if it grows."""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import shutil
import sys
import tempfile

from rlay import atomics
from tests.peers import Forge
from tests.soak.run import Result, Soak, build, run

#: The whole soak; ``--share`` runs a part of each.
SOAKS = (
    Soak("c-c", "ClientEnv", "c", "c", 100_000_000),
    Soak("c-c-game", "ServerEnv", "c", "c", 10_000_000),
    Soak("python-python", "ClientEnv", "python", "python", 10_000_000),
    Soak("python-python-game", "ServerEnv", "python", "python", 2_000_000),
    Soak("python-c", "ClientEnv", "python", "c", 2_000_000),
    Soak("c-python", "ClientEnv", "c", "python", 2_000_000),
    Soak("pure", "ClientEnv", "python", "python", 200_000, twin="pure"),
    Soak("sessions", "ClientEnv", "python", "python", 3, 10_000),
    Soak("sessions-game", "ServerEnv", "python", "python", 3, 10_000),
    Soak("sessions-pure", "ClientEnv", "python", "python", 3, 1_000, twin="pure"),
    Soak("sessions-python-c", "ClientEnv", "python", "c", 3, 10_000),
    Soak("sessions-c-python", "ClientEnv", "c", "python", 3, 10_000),
    Soak("sessions-c-c", "ServerEnv", "c", "c", 3, 10_000),
)


def show(result: Result) -> str:
    """Return one result as text."""
    lines = [f"{result.soak.name}: {'; '.join(result.findings) or 'no growth'}"]
    unit = "sessions" if result.soak.sessions > 1 else "steps"
    for look in result.looks:
        sides = [
            f"{side} {held.memory} KiB, {held.descriptors} descriptors, {held.threads} threads"
            for side, held in (("env", look.env), ("agent", look.agent))
        ]
        lines.append(
            f"  {look.done:>11,} {unit}, {look.seconds:7.1f} s: {'; '.join(sides)}; "
            f"{look.files} files"
        )
    return "\n".join(lines)


def main() -> int:
    """Run as the command line says."""
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__)
    parser.add_argument("--share", type=float, default=1.0, help="of all counts, such as 0.01")
    parser.add_argument("--only", default="", help="names, with commas between")
    parser.add_argument("--json", action="store_true", help="print JSON instead of text")
    arguments = parser.parse_args()
    only = set(filter(None, arguments.only.split(",")))
    parent = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    os.environ["RLAY_DIR"] = root = tempfile.mkdtemp(prefix="rlay-soak-", dir=parent)
    os.environ["RLAY_ATOMICS"] = twin = atomics.IMPLEMENTATION
    results = []
    built = build()
    forge = Forge()
    try:
        for soak in SOAKS:
            if (only and soak.name not in only) or (not built and "c" in (soak.env, soak.agent)):
                continue
            what = "sessions" if soak.sessions > 1 else "steps"
            if soak.twin != "pure":
                soak = dataclasses.replace(soak, twin=twin)
            share = max(10, int(getattr(soak, what) * arguments.share))
            results.append(
                run(dataclasses.replace(soak, **{what: share}), forge, built[1] if built else "")
            )
            if not arguments.json:
                print(show(results[-1]), flush=True)
    finally:
        forge.close()
        if built:
            built[0].cleanup()
        shutil.rmtree(root, ignore_errors=True)
    if arguments.json:
        print(json.dumps([dataclasses.asdict(result) for result in results], indent=1))
    return 1 if any(result.findings for result in results) else 0


if __name__ == "__main__":
    sys.exit(main())
