"""The guided fuzzer of the Python half: ``python -m tests.fuzz.run --minutes 5``.

Every target runs in a process of its own, since a run of atheris ends its process. Inputs
begin with the golden files; a part of the mutations knows their structure, the rest is
libFuzzer's, guided by the lines of rlay that an input reaches. The input of a finding is
kept as ``finding-TARGET-...``; ``--again TARGET FILE`` runs it once more.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import importlib.util
import os
import random
import re
import resource
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
NO_ATHERIS = (
    "make fuzz-python needs atheris, which has wheels for some versions of Python on Linux and "
    "macOS only: .venv/bin/pip install atheris; without it, python -m pytest tests/fuzz runs less"
)
#: Executions of all targets together that a run of five minutes has to reach.
EXPECTED = 100_000
#: What a target may take on top of what it has at the start.
_ADDRESS_SPACE = 1 << 30
_LONGEST_INPUT = 1 << 16
BROKEN = "broken"


@contextlib.contextmanager
def _channel_root() -> Iterator[dict[str, str]]:
    parent = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    root = tempfile.mkdtemp(prefix="rlay-fuzz-", dir=parent)
    try:
        yield {**os.environ, "RLAY_DIR": root, "PYTHONPATH": str(ROOT)}
    finally:
        shutil.rmtree(root)


def _address_space() -> int:
    return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()


def _broken(contract: Any) -> Any:
    """Return a target that breaks its promise: the negative control of this runner."""

    def parse(data: bytes) -> None:
        if data[:1] == b"x":
            raise IndexError("a length is not checked")

    return contract.Target(BROKEN, parse, (), lambda: [b"y"], lambda data, _: b"x" + data)


def fuzz_one(name: str, corpus: str, seconds: int) -> None:
    """Be the process of one target; ends with the process."""
    atheris = importlib.import_module("atheris")
    with atheris.instrument_imports(include=["rlay"]):
        targets = importlib.import_module("tests.fuzz.targets")
    contract = importlib.import_module("tests.fuzz.contract")
    target = {**targets.TARGETS, BROKEN: _broken(contract)}[name]
    for number, seed in enumerate(target.seeds()):
        (Path(corpus) / f"seed{number}").write_bytes(seed[:_LONGEST_INPUT])

    def mutate(data: bytes, most: int, seed: int) -> bytes:
        if seed % 2:
            return target.mutate(data, random.Random(seed))[:most]
        return atheris.Mutate(data, most)

    kept = corpus if name == BROKEN else ROOT
    if sys.platform == "linux":
        limit = _address_space() + _ADDRESS_SPACE
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    arguments = [f"-max_total_time={seconds}", f"-max_len={_LONGEST_INPUT}", "-timeout=60"]
    arguments += ["-rss_limit_mb=0", f"-artifact_prefix={kept}/finding-{name}-", "-verbosity=0"]
    atheris.Setup(
        [sys.argv[0], *arguments, "-print_final_stats=1", corpus],
        lambda data: contract.check(target, data, trace=False),
        custom_mutator=mutate,
    )
    atheris.Fuzz()


def again(name: str, path: str) -> int:
    """Run a target on the input of a finding."""
    targets = importlib.import_module("tests.fuzz.targets")
    contract = importlib.import_module("tests.fuzz.contract")
    with _channel_root() as environment:
        os.environ["RLAY_DIR"] = environment["RLAY_DIR"]
        value = contract.check(targets.TARGETS[name], Path(path).read_bytes())
    print("a value" if value else "a declared error")
    return 0


def run(names: list[str], minutes: float) -> int:
    """Run the targets one after another; return the exit status, 1 for a finding."""
    seconds, total, failed = max(1, round(minutes * 60 / len(names))), 0, list[str]()
    for name in names:
        with _channel_root() as environment, tempfile.TemporaryDirectory() as corpus:
            command = [sys.executable, "-m", "tests.fuzz.run", "--one", name, corpus, str(seconds)]
            done = subprocess.run(
                command, env=environment, cwd=ROOT, stderr=subprocess.PIPE, text=True, check=False
            )
            kept = len(list(Path(corpus).iterdir()))
        found = re.search(r"stat::number_of_executed_units:\s*(\d+)", done.stderr)
        count = int(found[1]) if found else 0
        total += count
        print(f"{name:12} {count:9,} executions, {kept} inputs kept", flush=True)
        if done.returncode:
            failed.append(name)
            lines = [x for x in done.stderr.splitlines() if not x.startswith(("INFO:", "WARN"))]
            print("\n".join(lines[-40:]), flush=True)
    print(f"{'all':12} {total:9,} executions, findings in: {', '.join(failed) or 'none'}")
    enough = total >= EXPECTED * min(1.0, minutes / 5)
    if not enough:
        print(f"fewer than {EXPECTED:,} executions in five minutes: too slow to mean much")
    return 1 if failed or not enough else 0


def main() -> int:
    """Parse the arguments."""
    if sys.argv[1:2] == ["--again"]:
        return again(*sys.argv[2:])
    if sys.argv[1:2] == ["--one"]:
        name, corpus, seconds = sys.argv[2:]
        fuzz_one(name, corpus, int(seconds))
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=5.0, help="for all targets together")
    parser.add_argument("targets", nargs="*", help="names of targets; left out, all")
    arguments = parser.parse_args()
    if importlib.util.find_spec("atheris") is None:
        print(NO_ATHERIS, file=sys.stderr)
        return 2
    from tests.fuzz.targets import TARGETS

    if unknown := [name for name in arguments.targets if name not in TARGETS]:
        parser.error(f"no target {unknown[0]!r}; there are {', '.join(TARGETS)}")
    return run(arguments.targets or list(TARGETS), arguments.minutes)


if __name__ == "__main__":
    sys.exit(main())
