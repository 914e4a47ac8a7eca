"""The protocol model: a short exploration, what its runner reports, and its table of rules."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
MODEL = ROOT / "spec" / "model"
PROTOCOL = (ROOT / "spec" / "PROTOCOL.md").read_text(encoding="utf-8")
SOURCE = (MODEL / "rlay.pml").read_text(encoding="utf-8")

sys.path.insert(0, str(MODEL))
import explore  # noqa: E402  (a script beside the model, not a package)

sys.path.remove(str(MODEL))

ROWS = explore.read_rows((MODEL / "configurations.txt").read_text(encoding="utf-8"))
LIMITS = explore.Limits(depth=100_000, megabytes=1000, seconds=200)

pytestmark = pytest.mark.timeout(240)  # a compiler's run each, on a machine that may be busy

needs_spin = pytest.mark.skipif(
    explore.missing_tools() is not None, reason=explore.missing_tools() or ""
)


def run(tmp_path: Path, rows: str, *options: str) -> subprocess.CompletedProcess[str]:
    """Run the runner over rows of our own."""
    chosen = tmp_path / "rows.txt"
    chosen.write_text(rows, encoding="utf-8")
    return subprocess.run(
        [
            sys.executable,
            str(MODEL / "explore.py"),
            "--rows",
            str(chosen),
            "--depth=100000",
            *options,
        ],
        capture_output=True,
        text=True,
        check=False,
    )


@needs_spin
@pytest.mark.parametrize("row", [row for row in ROWS if row.quick], ids=lambda row: row.what)
def test_a_row_comes_out_as_expected(row: explore.Row) -> None:
    assert explore.explore(row, MODEL / "rlay.pml", LIMITS).found in row.expected


@needs_spin
def test_a_mutant_declared_right_is_unexpected(tmp_path: Path) -> None:
    done = run(tmp_path, "0 errors | safe | quick | M_PROBE_FIRST | wrongly declared\n")
    assert done.returncode == 1
    assert "live client taken for dead" in done.stdout
    assert "**UNEXPECTED**" in done.stdout


@needs_spin
def test_another_kind_of_error_is_unexpected(tmp_path: Path) -> None:
    done = run(tmp_path, "hang | safe | quick | M_PROBE_FIRST | caught, but not by a hang\n")
    assert done.returncode == 1
    assert "1 unexpected" in done.stdout


@needs_spin
def test_a_right_model_declared_a_mutant_is_unexpected(tmp_path: Path) -> None:
    done = run(tmp_path, "hang | safe | quick | KILLS=0 | nothing is broken\n")
    assert done.returncode == 1


@needs_spin
def test_as_expected_is_success(tmp_path: Path) -> None:
    done = run(tmp_path, "0 errors | safe | quick | KILLS=0 | the smallest\n")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 configurations and 0 mutants, 0 unexpected" in done.stdout


@needs_spin
@pytest.mark.parametrize(
    ("limit", "why"),
    [
        (("--depth", "50"), "incomplete: max search depth too small"),
        (("--megabytes", "1"), "incomplete: "),
        (("--seconds", "0.000001"), "incomplete: not done"),
    ],
    ids=["depth", "memory", "time"],
)
def test_an_incomplete_search_is_unexpected(
    tmp_path: Path, limit: tuple[str, str], why: str
) -> None:
    done = run(tmp_path, "0 errors | safe | quick | NC=2 KILLS=1 | cut short\n", *limit)
    assert done.returncode == 1
    assert why in done.stdout


@needs_spin
def test_a_model_that_does_not_build_is_unexpected(tmp_path: Path) -> None:
    broken = tmp_path / "broken.pml"
    broken.write_text("init { nonsense }\n", encoding="utf-8")
    done = run(tmp_path, "0 errors | safe | quick | KILLS=0 | broken\n", "--model", str(broken))
    assert done.returncode == 1
    assert "spin failed" in done.stdout


@needs_spin
def test_a_mutant_that_is_not_in_the_model_is_not_caught(tmp_path: Path) -> None:
    done = run(tmp_path, "hang | safe | quick | M_MISSPELT KILLS=0 | no such rule\n")
    assert done.returncode == 1


@pytest.mark.parametrize("tool", ["spin", "gcc"])
def test_a_missing_tool_is_named_with_its_remedy(
    tool: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        explore.shutil, "which", lambda name: None if name == tool else f"/usr/bin/{name}"
    )
    assert f"apt-get install {tool}" in (explore.missing_tools() or "")
    assert explore.main([]) == 2


def test_no_row_at_all_is_no_success(tmp_path: Path) -> None:
    if explore.missing_tools():
        pytest.skip(explore.missing_tools() or "")
    assert run(tmp_path, "", "--quick").returncode == 2


def test_a_line_that_is_no_row_is_named() -> None:
    with pytest.raises(ValueError, match="line 2: 'hang"):
        explore.read_rows("# comment\nhang | slow | | KILLS=1 | no such form\n")


# What the rows, the model, its README and PROTOCOL.md say of each other.


def mutants_of(text: str) -> set[str]:
    return set(re.findall(r"\bM_[A-Z_]+", text))


def rules(page: str) -> list[tuple[str, str, str]]:
    """Return section, places in the model and mutant of each rule in a table of rules."""
    table = page.split("<!-- table:rules -->", 1)[1].split("\n\n", 2)[1]
    rows = [line.strip("|").split("|") for line in table.splitlines()[2:]]
    return [(cells[0].strip(), cells[2], cells[3]) for cells in rows]


def unknown(page: str, protocol: str, model: str) -> list[str]:
    """Return what a table of rules names and neither the protocol nor the model has."""
    sections = set(re.findall(r"^##+ (\d+(?:\.\d+)?)\.? ", protocol, re.MULTILINE))
    words = set(re.findall(r"\w+", model))
    wrong = []
    for cited, places, mutant in rules(page):
        numbers = re.findall(r"§(\d+(?:\.\d+)?)", cited)
        names = re.findall(r"`(\w+)(?:=\d)?`", places + mutant)
        wrong += [number for number in numbers if number not in sections]
        wrong += [name for name in names if name not in words]
        wrong += [] if numbers and re.findall(r"`(\w+)`", places) else [f"nothing named: {cited}"]
    return wrong


README = (MODEL / "README.md").read_text(encoding="utf-8")


def test_every_mutant_has_a_row_and_a_rule() -> None:
    in_model = mutants_of("\n".join(re.findall(r"^\s*#.*", SOURCE, re.MULTILINE)))
    in_rows = {name for row in ROWS for flag in row.flags for name in mutants_of(flag)}
    in_rules = {name for *_, mutant in rules(README) for name in mutants_of(mutant)}
    assert in_model == in_rows == in_rules
    assert len(in_model) >= 6


def test_a_row_breaks_at_most_one_rule_and_says_so() -> None:
    for row in ROWS:
        broken = mutants_of(" ".join(row.flags))
        assert len(broken) == row.mutant, row


def test_rows_name_kinds_of_error_that_there_are() -> None:
    known = {explore.NONE, "hang", "livelock", *explore.error_names(SOURCE).values()}
    assert {kind for row in ROWS for kind in row.expected} <= known


def test_the_table_of_rules_names_what_there_is() -> None:
    assert unknown(README, PROTOCOL, SOURCE) == []
    assert len(rules(README)) > 20


def test_a_planted_rule_is_found() -> None:
    page = (
        "<!-- table:rules -->\n\n| section | rule | in the model | mutant |\n|---|---|---|---|\n"
        f"| {chr(0xA7)}99 | no such section | `look` | - |\n"
        "| §11 | no such label | `nowhere` | `M_NONE` |\n"
        "| §11 | nothing | - | - |\n"
    )
    assert unknown(page, PROTOCOL, SOURCE) == ["99", "nowhere", "M_NONE", "nothing named: §11"]


def test_the_results_are_those_of_these_rows() -> None:
    """The README's table of results has a row for each of ours, with what it found."""
    shown = re.findall(r"^\| \d+ \| (.+?) \| `(.+?)` \| .+? \| (.+?) \| .* \| ok \|$", README, re.M)
    assert [(what, model) for what, model, _ in shown] == [
        (row.what, " ".join((row.form, *row.flags))) for row in ROWS
    ]
    assert all(found in row.expected for row, (*_, found) in zip(ROWS, shown, strict=True))
