"""Every parser keeps its promise for golden files, mutated golden files and any bytes.

The guided fuzzer (``make fuzz-python``) runs the same targets for as long as one likes.
"""

from __future__ import annotations

import importlib.util
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rlay.protocol import body, codecs, schema
from rlay.protocol.constants import Role
from rlay.protocol.header import Hello
from rlay.protocol.spaces import space_from
from tests.fuzz import bodies, contract, headers, run
from tests.fuzz.contract import FindingError, check
from tests.fuzz.mutations import mutate_bytes
from tests.fuzz.targets import TARGETS

#: Targets that make files and endpoints, or build spaces, take longer for each input.
SLOW = {"schema", "env_block", "attach", "accept"}
# A channel root of one test serves all its examples: each uses a name of its own.
common = settings(suppress_health_check=list(HealthCheck))


@pytest.mark.parametrize("name", TARGETS)
def test_golden_and_hostile_seeds(name: str) -> None:
    seeds = TARGETS[name].seeds()
    few = seeds[:: 1 + len(seeds) // (10 if name in SLOW else 20)]
    accepted = [check(TARGETS[name], seed, trace=name not in SLOW) for seed in few]
    assert not all(accepted), "no seed is refused"
    assert any(accepted), "no seed is a value: nothing behind the first check is reached"


@pytest.mark.parametrize("name", TARGETS)
def test_mutated_seeds(name: str) -> None:
    target = TARGETS[name]
    seeds = target.seeds()

    @settings(common, max_examples=10 if name in SLOW else 50)
    @given(st.sampled_from(seeds), st.integers(0, 2**32 - 1), st.integers(1, 3))
    def keeps_its_promise(data: bytes, seed: int, times: int) -> None:
        chance = random.Random(seed)
        for _ in range(times):
            data = target.mutate(data, chance)
        check(target, data, trace=False)

    keeps_its_promise()


@pytest.mark.parametrize("name", TARGETS)
def test_any_bytes(name: str) -> None:
    @settings(common, max_examples=5 if name in SLOW else 30)
    @given(st.binary(max_size=600))
    def keeps_its_promise(data: bytes) -> None:
        check(TARGETS[name], data, trace=False)

    keeps_its_promise()


# ---- negative controls: each check removed, and the checker says so ---------------------


def _hello_without_a_check(copy: bytes, side: Any, where: str) -> Hello:
    return Hello([Role.ENV, Role.AGENT][copy[headers.HEADER["server_hello"].offset + 4] - 1])


def _slow(data: bytes) -> Any:
    end = time.thread_time() + 0.3
    while time.thread_time() < end:
        pass
    return body.decode_body(data)


BROKEN: dict[str, tuple[str, Any, str, Any, str]] = {
    "a count is not checked": ("record", codecs, "_check_count", lambda *_: None, "IndexError"),
    "an index error leaks": ("header", headers, "read_hello", _hello_without_a_check, "IndexError"),
    "spaces are built": ("schema", schema, "check_space", space_from, "bytes of memory"),
    "nesting is not bounded": ("schema", schema, "_too_deep", lambda *_: None, "RecursionError"),
    "keys are not checked": ("body", body, "_check", lambda *_: None, "LayoutError"),
    "time is not bounded": ("body", bodies, "decode_body", _slow, "took 0."),
    "an id is believed": ("attach", None, "spec_id", lambda facts, _: facts.id, "Malformed"),
}


def finding(name: str, text: str) -> str:
    """Return what the checker says of the first of a target's seeds of which it says ``text``."""
    said = [""]
    for seed in reversed(TARGETS[name].seeds()):
        try:
            check(TARGETS[name], seed, trace="bytes" in text)
        except FindingError as found:
            said.append(str(found))
            if text in said[-1]:
                break
    return said[-1]


@pytest.mark.parametrize("fault", BROKEN)
def test_a_broken_parser_is_reported(fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    name, module, attribute, replacement, text = BROKEN[fault]
    if module is None:
        monkeypatch.setattr(f"rlay.envs.remote_env.{attribute}", replacement)
    else:
        monkeypatch.setattr(module, attribute, replacement)
    if "time" in fault:
        monkeypatch.setattr(contract, "MOST_SECONDS", 0.1)
    assert text in finding(name, text)


def test_an_allocation_is_noticed_without_tracing() -> None:
    """The guided fuzzer looks at the size of the process only."""
    kept: list[Any] = []

    def hoard(_: bytes) -> None:
        kept.append(b"\1" * (contract.MOST_BYTES * 4 + resident()))

    target = contract.Target("hoard", hoard, (), list, lambda data, _: data)
    with pytest.raises(FindingError, match="bytes of memory"):
        check(target, b"", trace=False)


def resident() -> int:
    """Return how much the process has shrunk below its largest size."""
    lines = Path("/proc/self/status").read_text().splitlines()
    sizes = {line.split()[0]: int(line.split()[1]) << 10 for line in lines if " kB" in line}
    return sizes["VmHWM:"] - sizes["VmRSS:"]


@pytest.mark.parametrize(
    "mutate", [mutate_bytes, TARGETS["schema"].mutate, TARGETS["attach"].mutate]
)
def test_mutations_repeat(mutate: Callable[[bytes, random.Random], bytes]) -> None:
    """A finding of the run can be made again from its seed."""
    data = TARGETS["schema"].seeds()[0]
    made = [mutate(data, random.Random(seed)) for seed in range(20)]
    assert made == [mutate(data, random.Random(seed)) for seed in range(20)]
    assert any(changed != data for changed in made)


def test_without_atheris_the_runner_says_what_to_do(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(run.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr("sys.argv", ["run"])
    assert run.main() == 2
    assert "pip install atheris" in capsys.readouterr().err


@pytest.mark.skipif(importlib.util.find_spec("atheris") is None, reason="needs atheris")
def test_the_runner_reports_a_finding(capfd: pytest.CaptureFixture[str]) -> None:
    """The negative control of ``make fuzz-python``: a target that breaks its promise."""
    assert run.run(["broken"], 0.1) == 1
    assert "findings in: broken" in capfd.readouterr().out
