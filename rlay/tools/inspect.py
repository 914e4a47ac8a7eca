"""``rlay inspect``: what stands in a channel's control file right now.

Maps the file read-only, takes no lock, wakes nobody: it can be pointed at a
running session.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from typing import Any

from rlay.channel import files
from rlay.errors import ChannelError, ChannelNotFoundError, LayoutError, printable
from rlay.protocol import constants as c
from rlay.protocol.constants import Bye, Feature, Side, Welcome
from rlay.protocol.env_block import read_env_block
from rlay.protocol.header import check_identity, read_field, read_hello

_TURNS = {c.TURN_IDLE: "idle", Side.SERVER: "server", Side.CLIENT: "client"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.epilog = "example: rlay inspect cartpole --json"
    parser.add_argument("name", metavar="NAME", help="name of the channel")
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def _hello(header: bytes, side: Side, where: str) -> dict[str, Any]:
    hello = read_hello(header, side, where)
    features = [f.name for f in Feature if f and hello.features & f]
    return {**dataclasses.asdict(hello), "role": hello.role.name, "features": features}


def _name(table: Any, value: int) -> str:
    try:
        return str(table(value).name).lower()
    except ValueError:
        return f"{value} (unknown)"


def examine(name: str) -> dict[str, Any]:
    """Return what the control file says.

    Raises:
        ChannelNotFoundError: there is no such file.
        ChannelFormatError: it is no control file.
    """
    paths = files.Paths(name)
    try:
        mapping = files.attach(paths.control, writable=False)
    except FileNotFoundError:
        raise ChannelNotFoundError(
            f"there is no channel {name!r} in {paths.root}; is RLAY_DIR the server's?"
        ) from None
    try:
        header = bytes(mapping.memory[: c.HEADER_SIZE])
        where = str(paths.control)
        generation = check_identity(header, mapping.size, where)
        turn = read_field(header, "turn")
        report: dict[str, Any] = {
            "file": where,
            "generation": f"{generation:016x}",
            "turn": _TURNS.get(turn, f"{turn:#x} (no turn)"),
            "claimed": bool(read_field(header, "claim")),
            "server": _hello(header, Side.SERVER, where),
            "client": None,
            "welcome": None,
        }
        for side in ("server", "client"):
            report[f"{side}_waiting"] = bool(read_field(header, f"{side}_waiting"))
            report[f"{side}_bye"] = _name(Bye, read_field(header, f"{side}_bye"))
        if turn != c.TURN_IDLE:
            report["client"] = _hello(header, Side.CLIENT, where)
        if status := read_field(header, "welcome_status"):
            report["welcome"] = {
                "status": _name(Welcome, status),
                "protocol": read_field(header, "protocol"),
                "data_size": read_field(header, "data_size"),
                "text": read_field(header, "welcome_text"),
            }
        report.update(_layout(mapping.memory, header, where))
        return report
    finally:
        mapping.close()


def _layout(memory: memoryview, header: bytes, where: str) -> dict[str, Any]:
    if read_field(header, "field_count") == 0:
        return {"schema": None, "fields": [], "fingerprint": None}
    try:
        schema, layout = read_env_block(memory, header, where)
    except (ChannelError, LayoutError) as error:
        return {"schema": None, "fields": [], "fingerprint": None, "problem": str(error)}
    rows = [
        {
            "record": field.record.name.lower(),
            "name": field.name,
            "dtype": field.dtype,
            "shape": list(field.full_shape),
            "offset": field.offset,
            "size": field.size,
        }
        for field in layout.fields
    ]
    return {
        "schema": schema.to_dict(),
        "fields": rows,
        "fingerprint": f"{read_field(header, 'fingerprint'):016x}",
        "request_size": layout.request_size,
        "reply_size": layout.reply_size,
    }


def _person(hello: dict[str, Any] | None) -> str:
    if hello is None:
        return "nobody yet"
    offers = "+".join(hello["features"]) or "nothing extra"
    return (
        f"{hello['role']}, {hello['library']}, process {hello['pid']} on {hello['host']}, "
        f"protocol {hello['protocol_min']}-{hello['protocol_max']}, offers {offers}"
    )


def _text(report: dict[str, Any]) -> str:
    welcome = report["welcome"]
    lines = [
        f"file         {report['file']}",
        f"generation   {report['generation']}",
        f"turn         {report['turn']}",
        f"claimed      {'yes' if report['claimed'] else 'no'}",
        f"server       {_person(report['server'])}",
        f"client       {_person(report['client'])}",
        f"welcome      {welcome['status'] + ' ' + welcome['text'] if welcome else 'none yet'}",
        f"goodbyes     server {report['server_bye']}, client {report['client_bye']}",
        f"fingerprint  {report['fingerprint'] or 'no schema yet'}",
    ]
    if "problem" in report:
        lines.append(f"problem      {report['problem']}")
    rows = [("record", "field", "dtype", "shape", "offset", "size")]
    for field in report["fields"]:
        shape = "x".join(map(str, field["shape"])) or "-"
        offset, size = f"{field['offset']:#07x}", str(field["size"])
        rows.append((field["record"], field["name"], field["dtype"], shape, offset, size))
    if len(rows) > 1:
        widths = [max(len(row[i]) for row in rows) for i in range(6)]
        lines.append("")
        lines += [
            "  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip()
            for row in rows
        ]
    return printable("\n".join(lines))


def run(arguments: argparse.Namespace) -> int:
    """Print the report."""
    report = examine(arguments.name)
    sys.stdout.write((json.dumps(report, indent=2) if arguments.json else _text(report)) + "\n")
    return 0
