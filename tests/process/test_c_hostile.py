"""Hostile bytes and races in the reference port in C, and that each check reports a broken port.

The programs are in ``ports/reference_c/fuzz``; ``make fuzz-c`` runs the targets for long.
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.c_programs import header_with, make, needs_make
from tests.peers import ROOT

GOLDEN = ROOT / "spec" / "golden"
#: Nothing is asserted about shorter times.
WATCHDOG = 280.0
#: A broken port is found within a few hundred mutations.
ROUNDS = "20000"

pytestmark = [
    pytest.mark.one_twin,
    pytest.mark.timeout(600),
    pytest.mark.leaves_files,  # a broken port ends in the middle
    pytest.mark.skipif(sys.platform != "linux", reason="the fuzz programs are for Linux"),
    needs_make,
]

Build = Callable[..., Path]


@dataclasses.dataclass(frozen=True)
class Mutant:
    """rlay.h with one check taken out, and the programs that have to notice."""

    name: str
    was: str
    now: str
    noticed_by: tuple[str, ...]


MUTANTS = [
    Mutant(
        "field_count",
        "schema_size > RLAY_SCHEMA_MAX || count > RLAY_FIELDS_MAX",
        "0",
        ("replay_table", "replay_attach"),
    ),
    Mutant(
        "field_offset",
        "ours.offset != field->offset || ours.stride != field->stride",
        "0",
        ("replay_table",),
    ),
    Mutant("body_size", "if (ch->in_size > capacity) return", "if (0) return", ("replay_records",)),
    Mutant(
        "data_file_size",
        "fd >= 0 && (uint64_t)info.st_size != size",
        "0",
        ("replay_attach",),
    ),
    Mutant("lane", "lane < ch->lanes && ", "", ("replay_records",)),
    Mutant("frame", "size <= rlay_field_size(frame) ?", "1 ?", ("replay_records", "hostile")),
    Mutant("error_text", "    rlay__text_clean(ch->error);\n", "", ("replay_attach",)),
    Mutant(
        "messagepack_length",
        "if ((uint64_t)(c->end - c->at) < size) return 0;",
        "",
        ("replay_body",),
    ),
    Mutant(
        "messagepack_end",
        "if ((size_t)(c->end - c->at) < width) return 0;",
        "",
        ("replay_body",),
    ),
    Mutant(
        "body_size_twice",
        "ch->in_size = rlay__get_u32(prefix + RLAY_PREFIX_BODY_SIZE);",
        "ch->in_size = rlay__get_u32(rlay__record(ch, rlay__in_record(ch)) + 0x10);",
        ("once",),
    ),
    Mutant(
        "messagepack_tag_twice",
        "if (!rlay__take_number(c, 1, &tag)) return 0;",
        "if (!rlay__take_number(c, 1, &tag)) return 0;\n    tag = c->at[-1];",
        ("once",),
    ),
]


@pytest.fixture(scope="module")
def build(tmp_path_factory: pytest.TempPathFactory) -> Build:
    """A function that builds one target of the Makefile, of the port or of a broken copy."""

    def build_one(target: str, header: str = "") -> Path:
        folder = tmp_path_factory.mktemp("hostile")
        variables = ["OPTIMISE=-O0"]  # building takes longest
        if header:
            (folder / "rlay.h").write_text(header, encoding="utf-8")
            variables.append(f"HEADER={folder}")
        return make(folder, target, *variables, timeout=WATCHDOG)

    return build_one


def run(*command: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, timeout=WATCHDOG, check=False)


@pytest.fixture(scope="module")
def need(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], None]:
    """A function that skips where the compiler has not the sanitizers."""
    folder = tmp_path_factory.mktemp("need")
    (folder / "empty.c").write_text("int main(void) { return 0; }\n")

    def need_one(sanitizers: str) -> None:
        program = folder / "empty"
        done = run("cc", f"-fsanitize={sanitizers}", folder / "empty.c", "-o", program)
        if done.returncode != 0 or run(program).returncode != 0:
            pytest.skip(f"no programs with -fsanitize={sanitizers} here; install libasan, libtsan")

    return need_one


def cases(*folders: str) -> dict[str, tuple[dict[str, Any], list[Path]]]:
    """The golden cases of these folders: name to meaning and files."""
    found = {}
    for path in sorted(path for folder in folders for path in (GOLDEN / folder).glob("*.json")):
        meaning = json.loads(path.read_text(encoding="utf-8"))
        names = [meaning["files"]["control"], *meaning["files"]["data"]]
        found[path.stem] = meaning, [path.parent / name for name in names]
    return found


@pytest.mark.parametrize("target", ["attach", "body", "records", "table"])
def test_no_bytes_break_a_parser(build: Build, need: Callable[[str], None], target: str) -> None:
    need("address,undefined")
    done = run(build(f"replay_{target}"), GOLDEN, ROUNDS)
    assert done.returncode == 0, done.stderr
    inputs, runs = map(int, re.findall(r"\d+", done.stdout))
    assert inputs > 100
    assert runs == inputs + int(ROUNDS)


@pytest.mark.parametrize(
    ("mutant", "program"),
    [
        pytest.param(mutant, program, id=f"{mutant.name}-{program}")
        for mutant in MUTANTS
        for program in mutant.noticed_by
    ],
)
def test_a_port_without_a_check_is_noticed(
    build: Build, need: Callable[[str], None], mutant: Mutant, program: str
) -> None:
    need("address,undefined")
    arguments = {"hostile": ["200"], "once": cases("valid")["cartpole_two_steps"][1]}
    done = run(
        build(program, header_with((mutant.was, mutant.now))),
        *arguments.get(program, [GOLDEN, ROUNDS]),
    )
    assert done.returncode != 0
    assert re.search("AddressSanitizer|runtime error|contract broken", done.stderr), done.stderr


#: Faults of the JSON or of the values of spaces: this port leaves both to its user.
NOT_SEEN = r"schema_(?!size_)|row_group_wrong|(text|one_of|sequence|inner|graph)_"


@pytest.mark.parametrize(
    ("program", "folders"), [("golden", ["valid", "invalid"]), ("once", ["valid"])]
)
def test_every_golden_case_gets_its_code(
    build: Build, need: Callable[[str], None], program: str, folders: list[str]
) -> None:
    """``once`` counts loads besides: no byte of the files is read twice in one call."""
    need("address,undefined")
    built = build(program)
    for name, (meaning, files) in cases(*folders).items():
        done = run(built, *files)
        assert done.returncode == 0, f"{name}: {done.stderr}"
        codes = [int(line.split()[-1]) for line in done.stdout.splitlines()]
        refused = [code for code in codes if code not in (0, 16)]  # 16: the environment raised
        expected = (
            []
            if re.match(NOT_SEEN, name)
            else [meaning[key] for key in ("code",) if key in meaning]
        )
        assert refused == expected, f"{name}: {done.stdout}"


def test_a_peer_that_writes_all_over_harms_nobody(
    build: Build, need: Callable[[str], None], channel_root: Path
) -> None:
    need("address,undefined")
    done = run(build("hostile"), "2")
    assert done.returncode == 0, done.stderr
    changes, environment, agent = (
        int(n) for n in re.findall(r"(\d+) (?:changes|calls)", done.stdout)
    )
    assert min(changes, environment, agent) > 100, done.stdout
    assert {path.suffix for path in channel_root.iterdir()} == {".lock"}


def test_the_thread_sanitizer_sees_no_race(build: Build, need: Callable[[str], None]) -> None:
    need("thread")
    done = run(build("race"), "2")
    assert done.returncode == 0, done.stderr
    assert "ThreadSanitizer" not in done.stderr
    assert done.stdout.endswith("no session failed\n")


def test_the_thread_sanitizer_sees_a_relaxed_turn(
    build: Build, need: Callable[[str], None]
) -> None:
    need("thread")
    store = "__atomic_store_n((uint32_t *)(void *)at, value, __ATOMIC_RELEASE)"
    program = build("race", header_with((store, store.replace("RELEASE", "RELAXED"))))
    done = run(program, "1")
    assert done.returncode != 0
    assert "WARNING: ThreadSanitizer: data race" in done.stderr


def test_fuzzing_without_clang_says_what_to_install(tmp_path: Path) -> None:
    done = run("make", "-C", ROOT, "fuzz-c", "MINUTES=1", "CLANG=")
    assert done.returncode != 0
    assert "needs clang with libFuzzer; on Debian install clang-14" in done.stderr
    assert not os.listdir(tmp_path)
