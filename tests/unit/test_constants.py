from __future__ import annotations

import numpy as np
import pytest

from rlay.protocol import constants as c
from rlay.protocol.constants import Command, Feature, RecordKind, Role, Side


@pytest.mark.parametrize("kind", [Side, Role])
def test_peer_is_the_other_one(kind: type[Side] | type[Role]) -> None:
    one, other = kind
    assert one.peer is other
    assert other.peer is one


def test_names_of_the_peers() -> None:
    assert Side.SERVER.peer is Side.CLIENT
    assert Role.ENV.peer is Role.AGENT


def test_the_turn_word_tells_the_sides_from_nobody() -> None:
    assert c.TURN_IDLE not in tuple(Side)


def test_the_parts_of_the_control_file_fill_it() -> None:
    assert c.FIELD_TABLE_OFFSET == c.HEADER_SIZE
    assert c.SCHEMA_OFFSET == c.FIELD_TABLE_OFFSET + c.FIELD_TABLE_SIZE
    assert c.CONTROL_SIZE == c.SCHEMA_OFFSET + c.SCHEMA_CAPACITY
    assert c.MAX_ROWS * c.ROW_SIZE == c.FIELD_TABLE_SIZE


def test_dtype_codes_are_unique_and_numpy_knows_the_names() -> None:
    assert len(set(c.DTYPE_CODES.values())) == len(c.DTYPE_CODES)
    assert all(np.dtype(name).name == name for name in c.DTYPE_CODES)


def test_features_are_single_bits() -> None:
    bits = [feature for feature in Feature if feature]
    assert all(bit & (bit - 1) == 0 for bit in bits)
    assert Feature.RENDER | Feature.CALL == 3


def test_zero_is_no_record_and_no_command_with_a_record() -> None:
    assert 0 not in tuple(RecordKind)
    assert Command.READY == 0


def test_magic_shows_damage_by_text_transfer() -> None:
    assert c.MAGIC[0] > 127
    assert b"\r\n" in c.MAGIC
    assert len(c.MAGIC) == 8
