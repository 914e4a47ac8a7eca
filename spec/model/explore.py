#!/usr/bin/env python3
"""Explore the protocol model: every row of configurations.txt, one at a time, with Spin.

A row is as expected when the search is complete and finds no error, or when a
mutant is caught with the kind of error the row names. Anything else is a
failure: another kind, a search that hit a limit, a model that does not build.
Needs nothing but the standard library, spin and gcc.
"""

from __future__ import annotations

import argparse
import re
import resource
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
NONE = "0 errors"
FORMS = {"safe": [], "live": ["-DPOLL"]}
COMPILE = {"safe": ["-DSAFETY"], "live": ["-DNFAIR=4"]}
#: live: acceptance cycles, under weak fairness.
SEARCH = {"safe": [], "live": ["-a", "-f"]}
#: What pan prints when it stopped before it had seen everything.
INCOMPLETE = ("max search depth too small", "out of memory", "Search not completed", "memory limit")


@dataclass(frozen=True)
class Row:
    """One line of configurations.txt."""

    expected: tuple[str, ...]
    form: str
    quick: bool
    flags: tuple[str, ...]
    what: str

    @property
    def mutant(self) -> bool:
        """Whether a rule is broken in it."""
        return self.expected != (NONE,)


@dataclass(frozen=True)
class Result:
    """What a search found."""

    found: str
    states: int = 0
    seconds: float = 0.0
    megabytes: float = 0.0


@dataclass(frozen=True)
class Limits:
    """Where a search gives up, which makes it incomplete."""

    depth: int
    megabytes: int
    seconds: float


def read_rows(text: str) -> list[Row]:
    """Parse lines ``expected | form | quick or nothing | flags | what``; # begins a comment.

    Raises:
        ValueError: names the line that is none.
    """
    rows = []
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip() or line.startswith("#"):
            continue
        cells = [cell.strip() for cell in line.split("|")]
        if len(cells) != 5 or cells[1] not in FORMS or cells[2] not in ("", "quick"):
            raise ValueError(
                f"line {number}: {line!r} is not `expected | form | quick | flags | what`"
            )
        expected, form, quick, flags, what = cells
        row = Row(tuple(expected.split(" or ")), form, quick == "quick", tuple(flags.split()), what)
        rows.append(row)
    return rows


def error_names(model: str) -> dict[int, str]:
    """Return what the model calls the failures of its MUSTs."""
    defined = re.findall(r"^#define [A-Z_]+ (\d+) +/\* (.+?) \*/$", model, re.MULTILINE)
    return {int(number): name for number, name in defined}


def judge(output: str, names: dict[int, str]) -> str:
    """Say what pan found: the kind of error, ``0 errors``, or why the search is incomplete."""
    errors = re.search(r"errors: (\d+)", output)
    first = re.search(r"^pan:1: (.*) \(at depth", output, re.MULTILINE)
    if errors and errors[1] == "0" and not any(text in output for text in INCOMPLETE):
        return NONE
    if first and (must := re.match(r"assertion violated \((\d+)\*", first[1])):
        return names.get(int(must[1]), first[1])
    if first:
        kinds = {"invalid end state": "hang", "acceptance cycle": "livelock"}
        return kinds.get(first[1], first[1])
    why = next((text for text in INCOMPLETE if text in output), "no result")
    return f"incomplete: {why}"


def explore(row: Row, model: Path, limits: Limits) -> Result:
    """Build the row's verifier and run it."""
    names = error_names(model.read_text(encoding="utf-8"))
    with tempfile.TemporaryDirectory(prefix="rlay-model-") as folder:
        flags = FORMS[row.form] + [f"-D{flag}" for flag in row.flags if flag != "NOREDUCE"]
        reduce = ["-DNOREDUCE"] if "NOREDUCE" in row.flags else []
        spin = ["spin", *flags, "-a", str(model)]
        memory = f"-DMEMLIM={limits.megabytes}"
        # A quick row takes longer to compile than to search.
        gcc = ["gcc", "-O0" if row.quick else "-O2", "-w", *COMPILE[row.form], *reduce]
        for command in (spin, [*gcc, "-DCOLLAPSE", memory, "-o", "pan", "pan.c"]):
            built = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
            if built.returncode or "Error" in built.stdout:
                return Result(f"{command[0]} failed: {built.stdout}{built.stderr}".strip())
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        try:
            pan = subprocess.run(
                ["./pan", *SEARCH[row.form], f"-m{limits.depth}"],
                cwd=folder,
                capture_output=True,
                text=True,
                check=False,
                timeout=limits.seconds,
            )
        except subprocess.TimeoutExpired:
            return Result(f"incomplete: not done after {limits.seconds:g} s")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    states = re.search(r"^ *([0-9.e+]+) states, stored", pan.stdout, re.MULTILINE)
    used = re.search(r"([0-9.]+)\s+total actual memory usage", pan.stdout)
    return Result(
        judge(pan.stdout + pan.stderr, names),
        int(float(states[1])) if states else 0,
        after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime,
        float(used[1]) if used else 0.0,
    )


def run(rows: list[Row], model: Path, limits: Limits) -> int:
    """Explore rows and print a Markdown table; return how many were unexpected."""
    print("| # | what | model | expected | found | states | time | |")
    print("|---|---|---|---|---|---|---|---|")
    unexpected, results = 0, []
    for number, row in enumerate(rows, 1):
        result = explore(row, model, limits)
        results.append(result)
        as_expected = result.found in row.expected
        unexpected += not as_expected
        verdict = "ok" if as_expected else "**UNEXPECTED**"
        print(
            f"| {number} | {row.what} | `{' '.join((row.form, *row.flags))}` "
            f"| {' or '.join(row.expected)} | {result.found} | {result.states:,} "
            f"| {result.seconds:.1f} s | {verdict} |",
            flush=True,
        )
    mutants = sum(row.mutant for row in rows)
    print(
        f"\n{len(rows) - mutants} configurations and {mutants} mutants, {unexpected} unexpected; "
        f"{sum(result.states for result in results):,} states, "
        f"{sum(result.seconds for result in results):.0f} s of processor time, "
        f"at most {max((result.megabytes for result in results), default=0):.0f} MB"
    )
    return unexpected


def missing_tools() -> str | None:
    """Say what is not installed and how to get it, or None."""
    for tool in ("spin", "gcc"):
        if shutil.which(tool) is None:
            return f"{tool} is not installed, and the model needs it; run `apt-get install {tool}`"
    return None


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; 0 when every row came out as expected."""
    parser = argparse.ArgumentParser(description="Explore the protocol model with Spin.")
    parser.add_argument("--quick", action="store_true", help="only the rows marked quick")
    parser.add_argument("--only", default="", help="only rows whose text matches this expression")
    parser.add_argument("--rows", type=Path, default=HERE / "configurations.txt")
    parser.add_argument("--model", type=Path, default=HERE / "rlay.pml")
    parser.add_argument("--depth", type=int, default=3_000_000, help="longest path explored")
    parser.add_argument("--megabytes", type=int, default=3000, help="memory of one search")
    parser.add_argument("--seconds", type=float, default=1200, help="time of one search")
    options = parser.parse_args(arguments)
    if missing := missing_tools():
        print(missing, file=sys.stderr)
        return 2
    rows = [
        row
        for row in read_rows(options.rows.read_text(encoding="utf-8"))
        if (row.quick or not options.quick)
        and re.search(options.only, " ".join((*row.expected, row.form, *row.flags, row.what)))
    ]
    if not rows:
        print(f"no row of {options.rows} matches; see its fourth and fifth column", file=sys.stderr)
        return 2
    limits = Limits(options.depth, options.megabytes, options.seconds)
    return 1 if run(rows, options.model.resolve(), limits) else 0


if __name__ == "__main__":
    sys.exit(main())
