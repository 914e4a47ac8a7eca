"""The golden files: made again byte for byte, read back, and refused where they must be."""

from __future__ import annotations

import dataclasses
import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rlay import errors
from rlay.errors import RemoteError, RlayError, rejection
from rlay.protocol import constants as c
from rlay.protocol.constants import Command, Side, Welcome
from rlay.protocol.env_block import read_env_block
from rlay.protocol.header import check_identity, check_peer, read_field, read_hello
from rlay.protocol.lanes import compile_records
from rlay.protocol.layout import Layout
from rlay.protocol.prefix import PREFIX, check_session
from rlay.protocol.records import ReplyRecord, RequestRecord
from tests.spec import make_golden
from tests.spec.golden_invalid import Fault, all_faults, apply
from tests.spec.golden_text import from_hex, plain, to_hex
from tests.spec.golden_valid import VALID

GOLDEN = make_golden.GOLDEN
CASES = {make.__name__: make() for make in VALID}
FAULTS = {fault.name: fault for fault in all_faults(CASES)}

#: Every stage of reading a case, in order; a fault is found in exactly one of them.
Stage = tuple[str, Any]


def read_stages(control: bytes, data: list[bytes]) -> Iterator[Stage]:
    """Read a case as a peer that trusts nothing would; yield each stage with what it found."""
    header = control[: c.HEADER_SIZE]
    yield "identity", check_identity(header, len(control), "golden")
    server = read_hello(header, Side.SERVER, "golden")
    client = read_hello(header, Side.CLIENT, "golden")
    check_peer(client, server, "golden")
    yield "hello", {"server_hello": server, "client_hello": client}
    schema, layout = read_env_block(memoryview(control), header, "golden")
    yield "env_block", (schema, layout)
    if not data:
        return
    memory = memoryview(bytearray(data[0]))
    check_session(memory, layout, read_field(header, "generation"))
    yield "session", layout.data_size
    if schema.groups[0].lanes:
        return
    records = RequestRecord(schema, layout, memory), ReplyRecord(schema, layout, memory)
    for i, snapshot in enumerate(data):
        memory[:] = snapshot
        yield from read_exchange(i + 1, *records)


def read_exchange(seq: int, request: RequestRecord, reply: ReplyRecord) -> Iterator[Stage]:
    command = request.command(seq)
    asked = dataclasses.asdict(request.read(command))
    del asked["command"]
    yield f"request {seq}", (command, asked)
    try:
        size = reply.open(seq, command)
    except RemoteError as error:
        map_ = {"type": error.type, "message": error.message, "traceback": error.remote_traceback}
        yield f"reply {seq}", (c.STATUS_REMOTE, {"error": map_})
        return
    found: dict[str, Any] = {}
    if command is Command.RESET:
        found = dict(zip(("observation", "info"), reply.read_reset(size), strict=True))
    elif command is Command.STEP:
        names = ("observation", "reward", "terminated", "truncated", "info")
        found = dict(zip(names, reply.read_step(size), strict=True))
    elif command is Command.RENDER:
        found = {"frame": reply.read_frame(size)}
    elif command is Command.CALL:
        found = {"value": reply.read_value(size)}
    yield f"reply {seq}", (c.STATUS_OK, found)


def load(folder: str, name: str) -> tuple[dict[str, Any], bytes, list[bytes]]:
    """Return the meaning, the control file and the data files of a case on disk."""
    meaning = json.loads((GOLDEN / folder / f"{name}.json").read_text(encoding="utf-8"))
    control, *data = (
        from_hex((GOLDEN / folder / file).read_text(encoding="ascii"))
        for file in (meaning["files"]["control"], *meaning["files"]["data"])
    )
    return meaning, control, data


def test_the_files_on_disk_are_what_the_generator_makes() -> None:
    made = make_golden.files()
    found = {
        path.relative_to(GOLDEN)
        for folder in ("valid", "invalid")
        for path in (GOLDEN / folder).iterdir()
    }
    assert found == set(made)
    for relative, text in made.items():
        assert (GOLDEN / relative).read_bytes() == text.encode(), f"{relative} differs"


def test_the_generator_is_deterministic() -> None:
    assert make_golden.files() == make_golden.files()


def test_hex_text_stands_for_the_same_bytes() -> None:
    data = bytes(40) + b"\1" + bytes(23) + b"\xff" * 3
    assert from_hex(to_hex(data)) == data
    assert to_hex(bytes(64)) == "size 64\n"


@pytest.mark.parametrize("name", CASES)
def test_a_valid_case_has_its_meaning(name: str) -> None:
    meaning, control, data = load("valid", name)
    stages = dict(read_stages(control, data))
    header = control[: c.HEADER_SIZE]
    assert f"{stages['identity']:016x}" == meaning["generation"]
    for side, ours in stages["hello"].items():
        assert dataclasses.asdict(ours) == meaning[side]
    schema, layout = stages["env_block"]
    assert json.loads(schema.to_json()) == meaning["schema"]
    for field, value in meaning["env_block"].items():
        found = read_field(header, field)
        assert (f"{found:016x}" if field == "fingerprint" else found) == value
    for field, value in {**meaning["welcome"], **meaning["words"]}.items():
        assert read_field(header, field) == value
    assert len(data) == len(meaning["exchanges"])
    for exchange, snapshot in zip(meaning["exchanges"], data, strict=True):
        if schema.groups[0].lanes:
            check_fields(exchange, snapshot, layout)
        else:
            check_exchange(exchange, stages)


def check_exchange(exchange: dict[str, Any], stages: dict[str, Any]) -> None:
    command, asked = stages[f"request {exchange['seq']}"]
    assert command.name == exchange["command"]
    for key, value in exchange["request"].items():
        assert plain(asked.pop(key)) == value
    assert set(asked.values()) == {None}
    status, found = stages[f"reply {exchange['seq']}"]
    assert status == exchange["status"]
    assert {key: plain(value) for key, value in found.items()} == exchange["reply"]


def check_fields(exchange: dict[str, Any], snapshot: bytes, layout: Layout) -> None:
    for record in c.RecordKind:
        memory = memoryview(snapshot)[layout.record_slice(record)]
        seq, command, status, body_size, _ = PREFIX.unpack_from(memory)
        assert (seq, Command(command).name) == (exchange["seq"], exchange["command"])
        assert status == (exchange["status"] if record is c.RecordKind.REPLY else 0)
        for name, value in exchange[record.name.lower()].items():
            field = name.partition(":")[2] or name
            view = layout.find(record, field, group_of(name)).view(memory)
            assert plain(view[:body_size] if name == "body" else view) == value
        assert body_size == 0 or "body" in exchange[record.name.lower()]


def group_of(name: str) -> int | None:
    """Return the group that ``GROUP:NAME`` names, or None."""
    group, colon, _ = name.partition(":")
    return int(group) if colon else None


def test_the_records_of_lanes_read_the_vector_case() -> None:
    _, control, data = load("valid", "vector_env")
    schema, layout = dict(read_stages(control, data))["env_block"]
    memory = memoryview(bytearray(data[0]))
    request, reply = compile_records(schema, layout, memory)
    asked = request.read(request.command(1))
    assert (list(asked.seeds), asked.options) == ([7, None, 2**64 - 1], {"level": 2})
    assert reply.read_reset(reply.open(1, Command.RESET)).infos == {2: {"map": "a"}}
    memory[:] = data[1]
    assert [int(action) for action in request.read(Command.STEP).actions] == [0, 1, 2]
    found = reply.read_step(reply.open(2, Command.STEP))
    assert found.infos == {0: {"fuel": 0.5}, 1: {"final_info": {"lap": 3, "won": True}}}
    assert {lane: value.tolist() for lane, value in reply.finals().items()} == {1: [0.75, 0.875]}
    assert reply.terminated.tolist() == [0, 1, 0]
    memory[:] = data[2]
    asked = request.read(Command.STEP)
    assert (list(asked.lanes), [int(action) for action in asked.actions]) == ([2], [1])
    assert reply.observation.read([0, 1, 2])[2].tolist() == [0.5, 0.625]
    assert reply.observation.read([1])[0].tolist() == [-0.25, -0.375]
    memory[:] = data[3]
    with pytest.raises(RemoteError, match="lane 1 raised ValueError: no") as caught:
        reply.open(4, Command.STEP)
    assert caught.value.lane == 1


def test_a_rejection_is_its_error() -> None:
    welcome = load("valid", "rejected_hello")[0]["welcome"]
    assert welcome["welcome_status"] == Welcome.REJECTED
    error = rejection(welcome["welcome_code"], welcome["welcome_text"])
    assert type(error) is errors.LayoutMismatchError
    assert "found 4, expected 8" in str(error)


@pytest.mark.parametrize("name", FAULTS)
def test_an_invalid_case_is_refused_for_its_fault(name: str) -> None:
    meaning, control, data = load("invalid", name)
    passed: list[str] = []
    with pytest.raises(RlayError) as caught:
        passed.extend(stage for stage, _ in read_stages(control, data))
    assert type(caught.value).__name__ == meaning["error"]
    assert caught.value.code == meaning["code"]
    assert type(caught.value).code == meaning["code"]


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_is_found_where_it_is_said_to_be(name: str) -> None:
    fault, stages = FAULTS[name], []
    control, data = apply(fault, CASES[fault.source])
    try:
        for stage, _ in read_stages(control, data):
            stages.append(stage)
    except RlayError:
        pass
    every = [stage for stage, _ in read_stages(*case_bytes(fault))]
    assert stages == every[: every.index(fault.fails_at)]


def case_bytes(fault: Fault) -> tuple[bytes, list[bytes]]:
    case = CASES[fault.source]
    return case.control, case.data


@pytest.mark.parametrize("name", FAULTS)
def test_repairing_the_fault_gives_the_valid_case(name: str) -> None:
    """The negative control: nothing but the listed bytes is at fault."""
    meaning, control, data = load("invalid", name)
    files = {"control": bytearray(control)}
    files |= {f"data{i + 1}": bytearray(content) for i, content in enumerate(data)}
    if "control_size" in meaning:
        source = load("valid", meaning["derived_from"])[1]
        assert source.startswith(control)
        files["control"] = bytearray(source)
    for change in meaning["changes"]:
        was, now = bytes.fromhex(change["was"]), bytes.fromhex(change["now"])
        here = slice(change["offset"], change["offset"] + len(was))
        assert files[change["file"]][here] == now
        assert was != now
        files[change["file"]][here] = was
    _, valid_control, valid_data = load("valid", meaning["derived_from"])
    assert bytes(files.pop("control")) == valid_control
    assert [bytes(content) for content in files.values()] == valid_data
    assert [stage for stage, _ in read_stages(valid_control, valid_data)]


def test_the_cartpole_case_has_the_fingerprint_of_the_specification() -> None:
    meaning = load("valid", "cartpole_two_steps")[0]
    page = make_golden.PROTOCOL.read_text(encoding="utf-8")
    assert f"| 0x{meaning['env_block']['fingerprint']} |" in page
    assert meaning["env_block"]["fingerprint"] == "29551c806225bef4"


def test_every_code_a_peer_can_see_has_an_invalid_case() -> None:
    assert {fault.code for fault in FAULTS.values()} == {3, 8, 9, 10, 14}


def test_the_readme_lists_the_cases() -> None:
    assert make_golden.README.read_text(encoding="utf-8") == make_golden.pages()[make_golden.README]


def test_golden_files_are_small() -> None:
    sizes = [path.stat().st_size for path in Path(GOLDEN).rglob("*") if path.is_file()]
    assert max(sizes) < 64 << 10
    assert sum(sizes) < 1 << 20


@pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler here")
def test_the_c_reader_of_the_readme_reads_a_file(tmp_path: Path) -> None:
    readme = make_golden.README.read_text(encoding="utf-8")
    function = readme.partition("```c\n")[2].partition("```")[0]
    main = (
        "int main(int count, char **arguments) { size_t size; (void)count;\n"
        '    unsigned char *data = read_hex(fopen(arguments[1], "r"), &size);\n'
        "    return !data || fwrite(data, 1, size, stdout) != size; }\n"
    )
    source, program = tmp_path / "read.c", tmp_path / "read"
    source.write_text(f"#include <stdio.h>\n#include <stdlib.h>\n{function}{main}")
    subprocess.run(["cc", "-Wall", "-Werror", "-o", program, source], check=True)
    path = GOLDEN / "valid" / "all_spaces.control.hex"
    found = subprocess.run([program, path], capture_output=True, check=True).stdout
    assert found == CASES["all_spaces"].control
