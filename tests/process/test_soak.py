"""Steps and sessions by the thousand leave nothing that grows, and what grows is reported."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from rlay import atomics
from tests.peers import Forge
from tests.soak.peers import LEAKS
from tests.soak.run import Soak, build, run

# The soaks name their twins.
pytestmark = [pytest.mark.one_twin, pytest.mark.timeout(300)]

STEPS, SESSIONS = 10_000, 40
SOUND = [
    Soak("py-py", "ClientEnv", "python", "python", 2 * STEPS, twin=atomics.IMPLEMENTATION),
    Soak("py-py-pure", "ServerEnv", "python", "python", STEPS, twin="pure"),
    Soak("c-c", "ServerEnv", "c", "c", 4 * STEPS),
    Soak("py-c", "ClientEnv", "python", "c", STEPS, twin=atomics.IMPLEMENTATION),
    Soak("sessions", "ClientEnv", "python", "python", 3, SESSIONS, twin=atomics.IMPLEMENTATION),
    Soak("sessions-c", "ServerEnv", "c", "c", 3, SESSIONS),
    Soak("sessions-c-py", "ServerEnv", "c", "python", 3, SESSIONS, twin=atomics.IMPLEMENTATION),
]


@pytest.fixture(scope="module")
def program() -> Iterator[str]:
    """The compiled peer, or an empty name where there is no compiler."""
    built = build()
    yield built[1] if built else ""
    if built:
        built[0].cleanup()


@pytest.fixture(autouse=True)
def _twin_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RLAY_ATOMICS", atomics.IMPLEMENTATION)


@pytest.mark.parametrize("soak", SOUND, ids=lambda soak: soak.name)
def test_nothing_grows(soak: Soak, forge: Forge, program: str) -> None:
    if not program and "c" in (soak.env, soak.agent):
        pytest.skip("there is no C compiler")
    result = run(soak, forge, program)
    assert result.findings == []
    assert result.looks[-1].done >= (soak.sessions if soak.sessions > 1 else soak.steps)


@pytest.mark.leaves_files
@pytest.mark.parametrize("leaky", ["env", "agent"])
@pytest.mark.parametrize("what", LEAKS)
def test_a_leak_is_reported(what: str, leaky: str, forge: Forge) -> None:
    """By the environment in each thousandth step, by the agent in each session."""
    steps, sessions = (4 * STEPS, 1) if leaky == "env" else (3, 20)
    twin = atomics.IMPLEMENTATION
    soak = Soak("leak", "ClientEnv", "python", "python", steps, sessions, twin, what, leaky)
    findings = run(soak, forge).findings
    kind = "files grew" if what == "file" else f"{leaky}: {what}"
    assert any(found.startswith(kind) for found in findings), findings
