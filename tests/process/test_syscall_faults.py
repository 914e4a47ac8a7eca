"""Calls to the system that fail once: an error with a sentence or success, and nothing left.

A sample of what ``make faults`` sweeps whole, and broken versions of rlay that it must find.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest

from tests.c_programs import header_with
from tests.faults import broken, sweep
from tests.faults.broken import Broken
from tests.faults.errnos import ERRNOS, MUST_RETRY, TELLING
from tests.faults.story import VICTIMS

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="the shim is for Linux with glibc"),
    pytest.mark.skipif(shutil.which("gcc") is None, reason="there is no gcc to build the shim"),
    pytest.mark.timeout(300),
]

#: Of the cases of a victim in Python, and in C, where they are cheaper, one in so many is played.
EVERY = {"python": 12, "c": 6}
#: Seconds until a control that hangs is given up; nothing else ends it.
SOON_ENOUGH = 4.0


@pytest.fixture(scope="session")
def shim(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The shim, compiled for preloading."""
    return sweep.build_shim(tmp_path_factory.mktemp("shim"))


@pytest.fixture(scope="session")
def story(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The story in C."""
    return sweep.build_story(tmp_path_factory.mktemp("story"))


def check(result: sweep.Result) -> None:
    assert result.problems == []
    # Something failed in most cases, and not all of it was noticed by an error.
    assert result.fired * 2 > result.cases > 10
    assert {"success", "ChannelError"} <= set(result.outcomes)


@pytest.mark.parametrize("victim", VICTIMS)
def test_a_call_that_fails_in_python(victim: str, shim: Path, atomics_twin: str) -> None:
    what = sweep.python_victim(victim, atomics_twin, shim)
    offset = len(victim) + (atomics_twin == "pure")
    check(sweep.sweep_one(*what, every=EVERY["python"], offset=offset))


@pytest.mark.one_twin
@pytest.mark.parametrize("victim", VICTIMS)
def test_a_call_that_fails_in_c(victim: str, story: Path) -> None:
    what = sweep.c_victim(victim, story)
    check(sweep.sweep_one(*what, every=EVERY["c"], offset=len(victim)))


def complain(control: Broken, what: tuple[str, list[str], dict[str, str]]) -> None:
    result = sweep.sweep_one(
        *what,
        only={control.function: (control.error,)},
        watchdog=SOON_ENOUGH if control.complaint == "it hangs" else sweep.WATCHDOG,
        to_the_end=False,
    )
    assert [problem for problem in result.problems if control.complaint in problem]


@pytest.mark.one_twin
@pytest.mark.parametrize("control", broken.PYTHON, ids=lambda control: control.name)
def test_the_sweep_finds_what_is_broken_in_python(control: Broken, shim: Path) -> None:
    complain(control, sweep.python_victim(control.victim, "compiled", shim, control.name))


@pytest.mark.one_twin
@pytest.mark.parametrize("control", broken.C, ids=lambda control: control.name.replace(" ", "-"))
def test_the_sweep_finds_what_is_broken_in_c(
    control: Broken, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RLAY_SIGBUS", "off")  # what was not reserved is to end the process
    (tmp_path / "rlay.h").write_text(header_with(control.change))
    story = sweep.build_story(tmp_path, port=tmp_path)
    complain(control, sweep.c_victim(control.victim, story))


@pytest.mark.one_twin
def test_every_function_has_its_errnos() -> None:
    text = (sweep.HERE / "shim.c").read_text()
    names = text.partition("names[FUNCTIONS] = {")[2].partition("};")[0]
    functions = {name.strip().strip('"') for name in names.split(",")}
    assert functions == set(ERRNOS)
    assert functions >= MUST_RETRY | set(TELLING)
    assert all(len(set(numbers)) == len(numbers) for numbers in ERRNOS.values())
