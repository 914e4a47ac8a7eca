"""The file pulled away: somebody truncates a mapped file while two processes use it.

Nobody dies, nobody hangs, no zero is taken for a value, both sides say what happened,
and the next session works.
"""

from __future__ import annotations

import os
import signal
from typing import Any

import pytest

from rlay import atomics
from tests import pulled
from tests.peers import MODES, until

#: Cuts in each story, and lines between two cuts of the sweep; `make truncation` has more of both.
ROUNDS = int(os.environ.get("RLAY_TEST_CUTS", "25"))
STRIDE = max(1, 7500 // ROUNDS)


pytestmark = pytest.mark.one_twin


@pytest.fixture(autouse=True)
def compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the extension can answer a SIGBUS."""
    if atomics.Shield is None:
        pytest.skip("the pure twin guards nothing")
    monkeypatch.setenv("RLAY_ATOMICS", "compiled")


def check(spawn: Any, mode: str, rounds: int, which: str, **settings: Any) -> list[Any]:
    """Play one story; give what the two children said, after they ended well."""
    shared = {key: settings[key] for key in ("fast", "body") if key in settings}
    host = spawn(pulled.host, mode, **shared)
    agent = spawn(pulled.agent, mode, rounds, which, **settings)
    assert agent.wait() == 0, agent.output()
    assert host.wait() == 0, host.output()
    return [*agent.said(), *host.said()]


def problems(said: list[Any], rounds: int) -> list[Any]:
    """Return everything that should not have been said."""
    wrong = [words for words in said if words[0].startswith("wrong")]
    cuts = [words for words in said if words[0] == "cut"]
    wrong += [cut for cut in cuts if cut[1] != "ChannelFormatError" or "truncated" not in cut[2]]
    if len(cuts) != rounds:
        wrong.append(["cuts", len(cuts), rounds])
    return wrong


@pytest.mark.parametrize("which", ["data", "control"])
@pytest.mark.parametrize("fast", [True, False], ids=["compiled step", "long way"])
@pytest.mark.parametrize("mode", MODES)
def test_a_cut_at_any_moment_is_an_error_for_both(
    mode: str, fast: bool, which: str, spawn: Any
) -> None:
    said = check(spawn, mode, ROUNDS, which, fast=fast)
    assert problems(said, ROUNDS) == []
    assert sum(words[1] for words in said if words[0] == "steps") > ROUNDS


@pytest.mark.parametrize("settings", [{"copy": False}, {"body": True}], ids=["views", "bodies"])
@pytest.mark.parametrize("mode", MODES)
def test_views_and_bodies_are_cut_too(mode: str, settings: dict[str, Any], spawn: Any) -> None:
    said = check(spawn, mode, 10, "data", **settings)
    assert problems(said, 10) == []


@pytest.mark.leaves_files
@pytest.mark.parametrize("fast", [True, False], ids=["compiled step", "long way"])
@pytest.mark.parametrize("mode", MODES)
def test_zeros_would_be_noticed(mode: str, fast: bool, spawn: Any) -> None:
    """With a guard that nobody asks, the same story tells of a wrong value."""
    host = spawn(pulled.host, mode, fast=fast, broken="nobody asks")
    agent = spawn(pulled.agent, mode, 1, "observation", fast=fast, broken="nobody asks")
    assert agent.wait() == 3, agent.output()
    host.signal(signal.SIGKILL)
    host.wait()
    wrong = problems(agent.said(), 0)
    assert wrong
    assert wrong[0][:2] == ["wrong observation", 0]


@pytest.mark.leaves_files
@pytest.mark.parametrize("mode", MODES)
def test_without_the_guard_a_cut_kills(mode: str, spawn: Any) -> None:
    """Unless a wait sees the size of the file first, which is a matter of luck."""
    codes = []
    while -signal.SIGBUS not in codes and len(codes) < 20:
        host = spawn(pulled.host, mode, broken="no guard")
        agent = spawn(pulled.agent, mode, 1, "observation", broken="no guard")
        died = until(lambda pair=(host, agent): [c for c in pair if c.poll() is not None], "one")
        codes.append(died[0].poll())
        for child in (host, agent):
            if child.poll() is None:
                child.signal(signal.SIGKILL)
                child.wait()
    assert codes[-1] == -signal.SIGBUS


@pytest.mark.parametrize("copy", [True, False], ids=["copies", "views"])
@pytest.mark.parametrize("which", ["data", "control"])
def test_lanes_are_cut(which: str, copy: bool, spawn: Any) -> None:
    hosts = [spawn(pulled.vector_host, f"pulled-{n}") for n in range(2)]
    agent = spawn(pulled.vector_agent, 8, which, copy=copy, seed=1)
    assert agent.wait() == 0, agent.output()
    assert [host.wait() for host in hosts] == [0, 0], [host.output() for host in hosts]
    assert problems(agent.said(), 8) == []
    assert agent.said()[-1] == ["whole"]


@pytest.mark.parametrize("mode", MODES)
def test_a_view_may_outlive_its_file(mode: str, spawn: Any) -> None:
    host = spawn(pulled.host, mode, closes=2)
    holder = spawn(pulled.view_holder, mode)
    assert holder.wait() == 0, holder.output()
    assert host.wait() == 0, host.output()
    said = holder.said()
    assert problems([words for words in said if words[0] == "cut"], 1) == []
    assert ["in the session", 0] in said
    assert ["afterwards", 0, 0] in said
    assert ["in the child", 0] in said


@pytest.mark.parametrize("left", [0, 0x200])
@pytest.mark.parametrize("mode", MODES)
def test_a_cut_at_any_line_of_an_attach(mode: str, left: int, spawn: Any) -> None:
    child = spawn(pulled.attach_sweep, mode, left, 7, STRIDE)
    assert child.wait() == 0, child.output()
    outcomes = {words[0] for words in child.said()}
    assert "ChannelFormatError" in outcomes
    assert outcomes <= {"ChannelFormatError", "whole", "steps", "afterwards"}, child.output()
