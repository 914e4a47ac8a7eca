"""Make the golden files of ``spec/golden`` and the worked example of PROTOCOL.md §17.

Run ``python -m tests.spec.make_golden`` in the repository to write them all again. Every
value is fixed, so the same code makes the same bytes. ``spec/golden/README.md`` says
what the files mean.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from rlay.protocol import constants as c
from tests.spec.golden_invalid import Fault, all_faults, apply
from tests.spec.golden_session import Case
from tests.spec.golden_text import to_hex
from tests.spec.golden_valid import VALID, cartpole_two_steps
from tests.spec.worked_example import worked_example

ROOT = Path(__file__).parent.parent.parent
GOLDEN = ROOT / "spec" / "golden"
PROTOCOL = ROOT / "spec" / "PROTOCOL.md"
README = GOLDEN / "README.md"


def files() -> dict[Path, str]:
    """Return every golden file, by its path under ``spec/golden``."""
    cases = {make.__name__: make() for make in VALID}
    made: dict[Path, str] = {}
    for case in cases.values():
        folder = Path("valid")
        made[folder / f"{case.name}.json"] = to_json(case.meaning)
        made[folder / case.meaning["files"]["control"]] = to_hex(case.control)
        for name, data in zip(case.meaning["files"]["data"], case.data, strict=True):
            made[folder / name] = to_hex(data)
    for fault in all_faults(cases):
        made |= faulty_files(fault, cases[fault.source])
    return made


def faulty_files(fault: Fault, case: Case) -> dict[Path, str]:
    """Return the files that differ, and the JSON that names all files of the case."""
    folder = Path("invalid")
    control, data = apply(fault, case)
    names = {"control": case.meaning["files"]["control"]}
    names |= {f"data{i + 1}": name for i, name in enumerate(case.meaning["files"]["data"])}
    changed = {change.file for change in fault.changes} or {"control"}
    made: dict[Path, str] = {}
    for key, name in names.items():
        if key not in changed:
            names[key] = f"../valid/{name}"
            continue
        names[key] = f"{fault.name}.{key}.hex"
        content = control if key == "control" else data[int(key.removeprefix("data")) - 1]
        made[folder / names[key]] = to_hex(content)
    meaning: dict[str, Any] = {
        "about": fault.about,
        "derived_from": fault.source,
        "files": {
            "control": names.pop("control"),
            "data": list(names.values()),
        },
        "fails_at": fault.fails_at,
        "error": fault.error,
        "code": fault.code,
        "changes": [
            {"file": x.file, "offset": x.offset, "was": x.was.hex(" "), "now": x.now.hex(" ")}
            for x in fault.changes
        ],
    }
    if fault.control_size != c.CONTROL_SIZE:
        meaning["control_size"] = {"was": c.CONTROL_SIZE, "now": fault.control_size}
    made[folder / f"{fault.name}.json"] = to_json(meaning)
    return made


def to_json(meaning: dict[str, Any]) -> str:
    return json.dumps(meaning, ensure_ascii=False, indent=1) + "\n"


def list_of_cases() -> str:
    """Return the table of the README."""
    cases = {make.__name__: make() for make in VALID}
    lines = ["| valid | what |", "|---|---|"]
    lines += [f"| `{case.name}` | {case.meaning['about']} |" for case in cases.values()]
    lines += ["", "| invalid | what | fails at | error |", "|---|---|---|---|"]
    lines += [
        f"| `{fault.name}` | {fault.about} | {fault.fails_at} | {fault.error} |"
        for fault in all_faults(cases)
    ]
    return "\n".join(lines)


def between(page: str, marker: str, text: str) -> str:
    """Return the page with this text between ``<!-- marker -->`` and ``<!-- /marker -->``."""
    begin, end = f"<!-- {marker} -->", f"<!-- /{marker} -->"
    before, _, rest = page.partition(begin)
    _, _, after = rest.partition(end)
    return f"{before}{begin}\n\n{text}\n\n{end}{after}"


def pages() -> dict[Path, str]:
    """Return the pages with a generated part, as they should be."""
    protocol, readme = PROTOCOL.read_text(encoding="utf-8"), README.read_text(encoding="utf-8")
    return {
        PROTOCOL: between(protocol, "worked-example", worked_example(cartpole_two_steps())),
        README: between(readme, "cases", list_of_cases()),
    }


def main() -> None:
    """Write all files and the worked example; remove golden files that are made no more."""
    made = files()
    for folder in ("valid", "invalid"):
        (GOLDEN / folder).mkdir(parents=True, exist_ok=True)
        for path in (GOLDEN / folder).iterdir():
            if path.relative_to(GOLDEN) not in made:
                path.unlink()
    for relative, text in made.items():
        (GOLDEN / relative).write_text(text, encoding="utf-8")
    for path, text in pages().items():
        path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
