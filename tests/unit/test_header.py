from __future__ import annotations

import struct

import pytest

from rlay.errors import ChannelFormatError, ProtocolVersionError
from rlay.protocol import constants as c
from rlay.protocol.constants import Role, Side
from rlay.protocol.header import (
    HEADER,
    HELLO,
    Hello,
    check_identity,
    check_peer,
    read_field,
    read_hello,
    write_fields,
)

IDENTITY = {
    "magic": c.MAGIC,
    "endian_tag": c.ENDIAN_TAG,
    "header_size": c.HEADER_SIZE,
    "control_size": c.CONTROL_SIZE,
    "generation": 0xFEDCBA9876543210,
}
HELLO_OF_ALL = Hello(Role.AGENT, 2**64 - 1, 1, 2**16 - 1, 2**32 - 1, "lib 1", "höst")


@pytest.fixture
def memory() -> memoryview:
    memory = memoryview(bytearray(c.HEADER_SIZE))
    write_fields(memory, IDENTITY)
    return memory


def test_identity(memory: memoryview) -> None:
    assert check_identity(bytes(memory), c.CONTROL_SIZE, "here") == 0xFEDCBA9876543210


@pytest.mark.parametrize(
    ("field", "value", "shown", "expected"),
    [
        ("magic", b"\x89RLAY\n\n\x1a", "89524c41590a0a1a", "89524c41590d0a1a"),
        ("endian_tag", 0x04030201, "0x4030201", "0x1020304"),
        ("header_size", 8192, "0x2000", "0x1000"),
        ("control_size", 0, "0x0", "0x40000"),
        ("generation", 0, 0, "a random number"),
    ],
)
def test_identity_names_the_field_and_both_values(
    memory: memoryview, field: str, value: object, shown: object, expected: str
) -> None:
    write_fields(memory, {field: value})
    with pytest.raises(ChannelFormatError, match="here") as caught:
        check_identity(bytes(memory), c.CONTROL_SIZE, "here")
    error = caught.value
    assert (error.field, error.found, error.expected) == (field, shown, expected)


@pytest.mark.parametrize("size", [0, 4096, c.CONTROL_SIZE - 1, c.CONTROL_SIZE + 1])
def test_identity_of_a_file_of_another_size(memory: memoryview, size: int) -> None:
    with pytest.raises(ChannelFormatError, match=f"file size is {size}, expected 262144"):
        check_identity(bytes(memory), size, "here")


def test_identity_of_a_page_cut_short(memory: memoryview) -> None:
    with pytest.raises(ChannelFormatError, match="file size"):
        check_identity(bytes(memory[:100]), c.CONTROL_SIZE, "here")


@pytest.mark.parametrize("field", [f for f in HEADER.values() if f.type in ("u16", "u32", "u64")])
def test_numbers_are_little_endian_at_their_offset(memory: memoryview, field: object) -> None:
    field = HEADER[field.name]  # type: ignore[attr-defined]
    value = 0x0807060504030201 & (1 << 8 * field.size) - 1
    write_fields(memory, {field.name: value})
    stored = bytes(memory[field.offset : field.offset + field.size])
    assert stored == bytes(range(1, field.size + 1))
    assert read_field(bytes(memory), field.name) == value


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("", ""),
        ("no room", "no room"),
        ("x" * 223, "x" * 223),
        ("x" * 224, "x" * 223),
        ("x" * 222 + "ß", "x" * 222),
        ("x" * 221 + "€uro", "x" * 221),
        ("a\ud800b", "a?b"),
    ],
)
def test_text_is_cut_between_characters_and_ends_with_nul(
    memory: memoryview, text: str, found: str
) -> None:
    write_fields(memory, {"welcome_text": "y" * 223})
    write_fields(memory, {"welcome_text": text})
    assert read_field(bytes(memory), "welcome_text") == found
    field = HEADER["welcome_text"]
    stored = bytes(memory[field.offset : field.offset + field.size])
    assert stored == found.encode().ljust(field.size, b"\0")


@pytest.mark.parametrize(
    ("stored", "found"),
    [(b"\xff" * 224, "\N{REPLACEMENT CHARACTER}" * 224), (b"a\0b" + bytes(221), "a")],
)
def test_hostile_text(memory: memoryview, stored: bytes, found: str) -> None:
    start = HEADER["welcome_text"].offset
    memory[start : start + 224] = stored
    assert read_field(bytes(memory), "welcome_text") == found


@pytest.mark.parametrize("side", Side)
def test_hello_round_trip(memory: memoryview, side: Side) -> None:
    HELLO_OF_ALL.write(memory, side)
    copy = bytes(memory)
    assert read_hello(copy, side, "here") == HELLO_OF_ALL
    start = HEADER[f"{side.name.lower()}_hello"].offset
    peer = HEADER[f"{side.peer.name.lower()}_hello"].offset
    assert copy[start : start + 5] == b"\x01\x00\xff\xff\x02"
    assert copy[peer : peer + 128] == bytes(128)


def test_hello_leaves_reserved_bytes_zero(memory: memoryview) -> None:
    HELLO_OF_ALL.write(memory, Side.CLIENT)
    hello = bytearray(memory[0x100:0x180])
    for field in HELLO.values():
        hello[field.offset : field.offset + field.size] = bytes(field.size)
    assert not any(hello)


def test_hello_defaults_to_our_version() -> None:
    hello = Hello(Role.ENV)
    assert hello.protocol_min == hello.protocol_max == c.PROTOCOL_VERSION
    assert hello.describe() == "an unnamed library, process 0 on ?"
    assert HELLO_OF_ALL.describe() == "lib 1, process 4294967295 on höst"


@pytest.mark.parametrize("role", [0, 3, 255])
@pytest.mark.parametrize("side", Side)
def test_a_role_that_is_none(memory: memoryview, role: int, side: Side) -> None:
    HELLO_OF_ALL.write(memory, side)
    memory[HEADER[f"{side.name.lower()}_hello"].offset + HELLO["role"].offset] = role
    with pytest.raises(ChannelFormatError, match=f"{side.name.lower()}_hello.role is {role}"):
        read_hello(bytes(memory), side, "here")


@pytest.mark.parametrize(("low", "high"), [(0, 1), (2, 1), (0, 0), (65535, 1)])
def test_a_version_range_that_is_none(memory: memoryview, low: int, high: int) -> None:
    HELLO_OF_ALL.write(memory, Side.SERVER)
    struct.pack_into("<HH", memory, HEADER["server_hello"].offset, low, high)
    with pytest.raises(ChannelFormatError, match=f"protocol range is {low}..{high}") as caught:
        read_hello(bytes(memory), Side.SERVER, "here")
    assert not isinstance(caught.value, ProtocolVersionError)


def versions(role: Role, low: int, high: int) -> Hello:
    return Hello(role, protocol_min=low, protocol_max=high)


@pytest.mark.parametrize(
    ("ours", "theirs", "version"),
    [((1, 1), (1, 1), 1), ((1, 3), (2, 5), 3), ((2, 5), (1, 3), 3), ((1, 9), (9, 9), 9)],
)
def test_the_lower_of_the_two_maxima(
    ours: tuple[int, int], theirs: tuple[int, int], version: int
) -> None:
    found = check_peer(versions(Role.ENV, *ours), versions(Role.AGENT, *theirs), "here")
    assert found == version


@pytest.mark.parametrize(("ours", "theirs"), [((1, 1), (2, 3)), ((2, 3), (1, 1))])
def test_no_version_in_common(ours: tuple[int, int], theirs: tuple[int, int]) -> None:
    # The same role on both sides is not what is reported then.
    with pytest.raises(ProtocolVersionError, match="update the older") as caught:
        check_peer(versions(Role.ENV, *ours), versions(Role.ENV, *theirs), "here")
    assert caught.value.found == f"{theirs[0]} to {theirs[1]}"
    assert f"{ours[0]} to {ours[1]}" in str(caught.value)


@pytest.mark.parametrize("role", Role)
def test_two_sides_of_one_role(role: Role) -> None:
    with pytest.raises(ChannelFormatError, match=f"this side is {role.name}") as caught:
        check_peer(Hello(role), Hello(role, library="game 2"), "here")
    assert caught.value.found == role.name
    assert role.peer.name in str(caught.value)
    assert "game 2" in str(caught.value)


def test_unknown_feature_bits_are_kept(memory: memoryview) -> None:
    Hello(Role.ENV, features=1 << 63).write(memory, Side.SERVER)
    assert read_hello(bytes(memory), Side.SERVER, "here").features == 1 << 63
