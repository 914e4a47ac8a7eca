"""How one input becomes another: blindly, or by the structure it has."""

from __future__ import annotations

import contextlib
import json
import random
import struct
from collections.abc import Sequence
from typing import Any

#: Numbers at the edges of types and limits.
EDGES = (0, 1, 2, 7, 8, 9, 31, 32, 63, 64, 65, 127, 128, 255, 256, 257, 4095, 4096, 65535, 65536)
EDGES += (2**30, 2**31 - 1, 2**31, 2**32 - 2, 2**32 - 1, 2**32, 2**40, 2**63 - 1, 2**63, 2**64 - 1)
_LONGEST = 1 << 18


def mutate_bytes(data: bytes, chance: random.Random, tokens: Sequence[bytes] = ()) -> bytes:
    """Change bytes somewhere, one to four times."""
    changed = bytearray(data)
    for _ in range(chance.choice((1, 1, 1, 2, 4))):
        _change(changed, chance, tokens)
    return bytes(changed[:_LONGEST])


def _change(data: bytearray, chance: random.Random, tokens: Sequence[bytes]) -> None:
    at = chance.randrange(len(data) + 1)
    here = slice(at, at + chance.choice((1, 2, 4, 8, 16, 64)))
    kind = chance.randrange(7 if tokens else 6)
    if kind == 0 and data:
        data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
    elif kind == 1:
        data[at : at + 1] = bytes([chance.choice((0, 1, 0x7F, 0x80, 0xC1, 0xFE, 0xFF))])
    elif kind == 2:
        size, form = chance.choice(((2, "H"), (4, "I"), (8, "Q")))
        number = chance.choice(EDGES) % (1 << 8 * size)
        data[at : at + size] = struct.pack(chance.choice("<>") + form, number)
    elif kind == 3:
        del data[here]
    elif kind == 4:
        data[at:at] = data[here] * chance.choice((1, 1, 2, 50))
    elif kind == 5:
        data[here] = chance.randbytes(chance.randrange(9))
    elif kind == 6:
        data[at:at] = chance.choice(tokens) * chance.choice((1, 1, 1, 1, 100))


class _Raw(str):
    """Text that goes into the JSON as it stands."""


_RAW = ("NaN", "Infinity", "-Infinity", "1e999", "-0", "1" * 4000, "1" * 5000, '"\\ud800"', "0.5")
_RAW += ('{"a":1,"a":2}', "[" * 200 + "]" * 200, "[" * 3000, "1e308", "-1e-400", '"\\u0000"', "")
_VALUES: tuple[Any, ...] = (None, True, False, 0.5, "", "x", "inf", "-inf", [], {}, [[]], [None])
_VALUES += ("Box", "Dict", "Tuple", "OneOf", "Sequence", "Graph", "Text", "bool", "int64", "f4")


def _nodes(value: Any) -> list[tuple[Any, Any]]:
    """Return (container, key) of every value in a JSON value."""
    found: list[tuple[Any, Any]] = []
    todo = [value]
    while todo:
        container = todo.pop()
        if not isinstance(container, dict | list):
            continue
        keys = list(container) if isinstance(container, dict) else range(len(container))
        found += [(container, key) for key in keys]
        todo += [container[key] for key in keys]
    return found


def mutate_json(data: bytes, chance: random.Random) -> bytes:
    """Change values of a JSON text; its bytes, if it is none."""
    try:
        value = json.loads(data)
        marked: dict[str, str] = {}
        for _ in range(chance.choice((1, 1, 2, 3))):
            nodes = _nodes(value)
            if not nodes:
                break
            container, key = chance.choice(nodes)
            _change_json(container, key, chance.choice(nodes), chance, marked)
        text = json.dumps(value, separators=(",", ":"), ensure_ascii=False)
        for mark, raw in marked.items():
            text = text.replace(json.dumps(mark), raw)
        return text.encode("utf-8", "surrogatepass")[:_LONGEST]
    except (ValueError, RecursionError):
        return mutate_bytes(data, chance)


def _change_json(
    container: Any,
    key: Any,
    other: tuple[Any, Any],
    chance: random.Random,
    marked: dict[str, str],
) -> None:
    kind = chance.randrange(9)
    if kind == 0:
        del container[key]
    elif kind == 1:
        container[key] = chance.choice(_VALUES)
    elif kind == 2:
        container[key] = chance.choice(EDGES) * chance.choice((1, 1, -1, 10**30))
    elif kind == 3:
        mark = f"\x1a{len(marked)}\x1a"
        marked[mark] = chance.choice(_RAW)
        container[key] = mark
    elif kind == 4:  # through text, so that nothing holds itself
        container[key] = json.loads(json.dumps(other[0][other[1]]))
    elif kind == 5 and isinstance(container, list):
        container[key:key] = [container[key]] * chance.choice((1, 2, 300))
    elif kind == 6:
        inner = container[key]
        for _ in range(chance.choice((1, 3, 9, 60, 200))):
            inner = chance.choice(
                (
                    {"type": "Tuple", "spaces": [inner]},
                    {"type": "Dict", "spaces": [["k", inner]]},
                    {"type": "Sequence", "space": inner, "stack": False, "capacity": 2},
                    {"type": "Sequence", "space": inner, "stack": True, "capacity": 0},
                    {"type": "OneOf", "spaces": [inner, inner]} if kind == 7 else [inner],
                )
            )
        container[key] = inner
    elif kind == 7 and isinstance(container, dict):
        container[f"{key}x"] = container.pop(key)
    elif isinstance(container[key], int | float):
        with contextlib.suppress(OverflowError):  # an integer that no float can hold
            container[key] += chance.choice((-1, 1, 0.5))
    elif isinstance(container[key], list):
        container[key] = container[key] * chance.choice((0, 2, 40))
