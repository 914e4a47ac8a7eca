"""The control file's first page: identity, hellos, welcome; and the text form of golden files."""

from __future__ import annotations

import random

from rlay.errors import ChannelFormatError, rejection
from rlay.protocol import constants as c
from rlay.protocol.constants import Side
from rlay.protocol.header import HEADER, HELLO, check_identity, check_peer, read_field, read_hello
from tests.fuzz.contract import Target
from tests.fuzz.corpus import golden_cases
from tests.fuzz.mutations import EDGES, mutate_bytes
from tests.spec.golden_text import from_hex, to_hex

#: Offset and size of every field of the page, those of the hellos included.
FIELDS = [(row.offset, row.size) for row in HEADER.values() if row.offset < c.HEADER_SIZE]
FIELDS += [
    (HEADER[f"{side}_hello"].offset + row.offset, row.size)
    for side in ("server", "client")
    for row in HELLO.values()
]


def read_page(data: bytes) -> None:
    """Read the page as both sides do; ``data`` beyond a page makes a file of another size."""
    page = data[: c.HEADER_SIZE].ljust(c.HEADER_SIZE, b"\0")
    size = c.CONTROL_SIZE if len(data) <= c.HEADER_SIZE else len(data)
    check_identity(page, size, "here")
    server, client = (read_hello(page, side, "here") for side in Side)
    assert str(rejection(read_field(page, "welcome_code"), read_field(page, "welcome_text")))
    assert server.describe()
    check_peer(client, server, "here")


def mutate_page(data: bytes, chance: random.Random) -> bytes:
    """Put an edge into a field."""
    if chance.randrange(4) == 0:
        return mutate_bytes(data, chance)
    changed = bytearray(data)
    for _ in range(chance.choice((1, 1, 2))):
        offset, size = chance.choice(FIELDS)
        small = chance.choice(EDGES) % (1 << 8 * min(size, 8))
        text = chance.randbytes(size) if size > 8 else small.to_bytes(size, "little")
        changed[offset : offset + size] = text
    return bytes(changed)


def pages() -> list[bytes]:
    """Return the first pages of all golden files."""
    return [control[: c.HEADER_SIZE] for control, _ in golden_cases()] + [b"", bytes(5000)]


def read_text(data: bytes) -> None:
    """Read the text form of a golden file."""
    from_hex(data.decode("latin-1"))


def texts() -> list[bytes]:
    """Return golden texts, and what a hand may do to them."""
    good = [to_hex(control[: c.HEADER_SIZE]).encode() for control, _ in golden_cases()[:3]]
    bad = [b"", b"size", b"size -1", b"size 9999999999999", b"size 4\nfffffff0: 01 02\n"]
    return good + bad + [b"size 4\n-00001: 01\n", b"size 2\n000000: 01 02 03\n", b"\xff"]


TOKENS = (b"size ", b": ", b"\n", b"ffffff", b"-1", b"99999999999", b"\x85")
HEADER_PAGE = Target("header", read_page, (ChannelFormatError,), pages, mutate_page)
GOLDEN_TEXT = Target(
    "golden_text",
    read_text,
    (ValueError,),
    texts,
    lambda data, chance: mutate_bytes(data, chance, TOKENS),
)
