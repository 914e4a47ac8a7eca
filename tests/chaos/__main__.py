"""``make chaos``: run all channels for a while, print what was seen; status 1 for a finding."""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import secrets
import shutil
import sys
import tempfile
from typing import Any

from rlay import atomics
from tests.chaos.run import CATEGORIES, Account, run


def _rows(account: Account) -> list[list[Any]]:
    heads = ["steps", "episodes", "starts"]
    rows = [["channel", *heads, "disturbed", "errors"]]
    for channel in account.channels:
        sums = [sum(channel[key].values()) for key in ("disturbances", "errors")]
        rows.append([channel["channel"], *(channel[head] for head in heads), *sums])
    sums = [sum(account.total(key).values()) for key in ("disturbances", "errors")]
    rows.append(["all", *(account.total(head) for head in heads), *sums])
    return rows


def show(account: Account) -> str:
    """Return the account as text."""
    rows = [[str(cell) for cell in row] for row in _rows(account)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join(cell.ljust(w) if i == 0 else cell.rjust(w) for i, (cell, w) in cells)
        for cells in (list(enumerate(zip(row, widths, strict=True))) for row in rows)
    ]
    for key in ("disturbances", "errors"):
        counts = sorted(account.total(key).items())
        lines += ["", f"{key}: " + ", ".join(f"{count} {name}" for name, count in counts)]
    lines.append("")
    for category in CATEGORIES:
        lines.append(f"{category}: {len(account.findings[category])}")
        lines += [f"  {text}" for text in account.findings[category][:20]]
    lines.append(f"seed {account.seed}, {account.seconds:.0f} s")
    return "\n".join(lines)


def main() -> int:
    """Run as the command line says."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--seed", default=None, help="of what is drawn at random; printed")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    arguments = parser.parse_args()
    seed = arguments.seed or secrets.token_hex(4)
    print(f"seed {seed}", file=sys.stderr)
    parent = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    os.environ["RLAY_DIR"] = root = tempfile.mkdtemp(prefix="rlay-chaos-", dir=parent)
    os.environ["RLAY_ATOMICS"] = atomics.IMPLEMENTATION
    told = sys.stderr.isatty()
    try:
        account = run(
            arguments.minutes * 60.0,
            seed,
            tell=lambda text: told and print(f"\r{text:79}", end="", file=sys.stderr),
        )
    finally:
        shutil.rmtree(root, ignore_errors=True)
    print(json.dumps(dataclasses.asdict(account), indent=1) if arguments.json else show(account))
    return 0 if account.clean else 1


if __name__ == "__main__":
    sys.exit(main())
