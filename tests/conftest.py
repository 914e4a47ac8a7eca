"""What every test gets: a channel directory of its own, and both twins of the atomics."""

from __future__ import annotations

import contextlib
import importlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest

from rlay import atomics

TESTS = Path(__file__).parent
TWINS = {"compiled": "rlay._atomics", "pure": "rlay._atomics_pure"}
FOLDERS_ON_BOTH_TWINS = {"unit", "pair", "process", "property"}
SHARED_MEMORY = Path("/dev/shm")

# Speed is no property to test: this machine may be busy.
hypothesis.settings.register_profile(
    "rlay", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("rlay")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run every test in the folders above once for each twin."""
    folder = metafunc.definition.path.relative_to(TESTS).parts[0]
    once = metafunc.definition.get_closest_marker("one_twin")
    if folder in FOLDERS_ON_BOTH_TWINS and not once:
        metafunc.parametrize("atomics_twin", list(TWINS), indirect=True)


# Autouse, so that it is among the fixtures of every test and the parametrisation takes.
@pytest.fixture(autouse=True)
def atomics_twin(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Use one twin here and in child processes; the name of the twin."""
    twin: str | None = getattr(request, "param", None)
    if twin is None:
        return atomics.IMPLEMENTATION
    try:
        module = importlib.import_module(TWINS[twin])
    except ImportError as error:
        pytest.skip(f"no {twin} atomics here: {error}")
    for name in atomics.__all__:
        monkeypatch.setattr(atomics, name, getattr(module, name, None))
    monkeypatch.setattr(atomics, "IMPLEMENTATION", twin)
    monkeypatch.setenv("RLAY_ATOMICS", twin)
    return twin


@pytest.fixture(autouse=True)
def channel_root(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Iterator[Path]:
    """Keep channels in a private directory, which the test must leave empty but for locks.

    The marker ``leaves_files`` is for tests that kill a process and look at what remains.
    """
    parent = SHARED_MEMORY if os.access(SHARED_MEMORY, os.W_OK) else tmp_path
    root = Path(tempfile.mkdtemp(prefix="rlay-test-", dir=parent))
    monkeypatch.setenv("RLAY_DIR", str(root))
    yield root
    left = sorted(path.name for path in root.rglob("*") if path.suffix != ".lock")
    while root.exists():
        # The supervisor of a killed trainer may be clearing away at the same time.
        with contextlib.suppress(FileNotFoundError):
            shutil.rmtree(root)
    if left and request.node.get_closest_marker("leaves_files") is None:
        pytest.fail(f"the test left files in its channel directory: {', '.join(left)}")
