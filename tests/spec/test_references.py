"""Every section that code and page cite is a heading of PROTOCOL.md."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
PROTOCOL = ROOT / "spec" / "PROTOCOL.md"
SUFFIXES = {".py", ".pyi", ".c", ".h", ".md", ".cs", ".lua", ".gd", ".js", ".ts", ".rs"}
CITED = re.compile(r"(?:§|\b[Ss]ection )(\d+(?:\.\d+)?)")


def headings(page: str) -> set[str]:
    return set(re.findall(r"^##+ (\d+(?:\.\d+)?)\.? ", page, re.MULTILINE))


def citations(text: str, sections: set[str]) -> list[str]:
    """Return what is cited and does not exist."""
    return [number for number in CITED.findall(text) if number not in sections]


def sources() -> Iterator[Path]:
    yield PROTOCOL
    yield ROOT / "spec" / "golden" / "README.md"
    for folder in ("rlay", "ports", "examples", "tests/spec"):
        for path in sorted((ROOT / folder).rglob("*")):
            if path.suffix in SUFFIXES and "build" not in path.parts:
                yield path


@pytest.mark.parametrize("path", list(sources()), ids=lambda path: str(path.relative_to(ROOT)))
def test_cited_sections_exist(path: Path) -> None:
    if path == Path(__file__):
        return
    wrong = citations(path.read_text(encoding="utf-8"), headings(PROTOCOL.read_text("utf-8")))
    assert wrong == []


def test_something_is_cited() -> None:
    texts = [path.read_text(encoding="utf-8") for path in sources()]
    assert sum(len(CITED.findall(text)) for text in texts) > 100


def test_a_planted_citation_is_found() -> None:
    page = "## 1. Rationale\n### 1.2 More\n"
    assert citations("see §1, §1.2 and section 1, but not §1.3 or §2", headings(page)) == [
        "1.3",
        "2",
    ]
