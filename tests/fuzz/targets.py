"""The table of targets: every parser of bytes that a peer may have written."""

from __future__ import annotations

from tests.fuzz.attaching import ACCEPT, ATTACH
from tests.fuzz.bodies import BODY
from tests.fuzz.exchanges import LANES, RECORD
from tests.fuzz.headers import GOLDEN_TEXT, HEADER_PAGE
from tests.fuzz.schemas import BLOCK, SCHEMA, TABLE

TARGETS = {
    target.name: target
    for target in (
        HEADER_PAGE,
        SCHEMA,
        TABLE,
        BLOCK,
        BODY,
        RECORD,
        LANES,
        ATTACH,
        ACCEPT,
        GOLDEN_TEXT,
    )
}
