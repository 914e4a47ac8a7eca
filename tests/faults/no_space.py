"""File systems of every size, from one page up: no room is an error and never a signal.

Runs in a mount namespace of its own:
``unshare -m python -m tests.faults.no_space FOLDER C-PEER [some] [broken]``; the peer may be "".
Prints what is wrong, a line each, and at last how many file systems it tried.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import gymnasium

import rlay
from rlay.channel import files
from rlay.protocol.schema import describe_env
from tests.faults.plants import begin_in_c

PAGE = 4096
#: Of the control file, and of the data file of the story below.
CONTROL_PAGES, DATA_PAGES = 64, 4
NO_SPACE = "NoSpaceError"


def _story() -> str:
    """Serve and attach in one process; return how it ended."""
    space = gymnasium.spaces.Discrete(2)
    schema = describe_env(space, space, request_body=4096, reply_body=4096, frame=0)
    try:
        server = rlay.MemServer("c", rlay.Role.ENV, features=rlay.Feature.NONE, schema=schema)
    except rlay.RlayError as error:
        return type(error).__name__
    try:
        client = rlay.MemClient("c", rlay.Role.AGENT, features=rlay.Feature.NONE)
        try:
            return _shake_hands(server, client)
        finally:
            client.close()
    except rlay.RlayError as error:
        return type(error).__name__
    finally:
        server.close()


def _shake_hands(server: Any, client: Any) -> str:
    from tests.peers import Task

    accepting = Task(server.accept, 5.0)
    session = client.attach(5.0)
    accepting.result()
    session.send_reset(1, None)
    session.end()
    return "success"


def _in_a_child(root: Path) -> str:
    """Play the story in a child, which a signal may kill; return how it ended."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.write(write, _story().encode())
        finally:
            os._exit(0)
    os.close(write)
    with os.fdopen(read) as pipe:
        told = pipe.read()
    _, status = os.waitpid(child, 0)
    left = [name for name in os.listdir(root) if not name.endswith(".lock")]
    if os.WIFSIGNALED(status):
        return f"signal {os.WTERMSIG(status)}"
    return f"{told}, left behind {left}" if left else told


def try_out(folder: Path, options: str, peer: str) -> list[str]:
    """Mount a file system and play on it; return how the stories ended."""
    subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"mode=0700,{options}", "none", folder], check=True
    )
    try:
        endings = [_in_a_child(folder)]
        if peer:
            code, _ = begin_in_c(Path(peer))("server")
            error = rlay.errors.error_for_code(code) if code >= 0 else None
            endings.append(error.__name__ if error else "success" if code == 0 else "death")
        return endings
    finally:
        subprocess.run(["umount", folder], check=True)


def overcommit() -> None:
    """Break it: reserve nothing."""
    files._reserve = os.ftruncate


def _tells(pages: int) -> bool:
    """Whether something else fails with one page less or more."""
    return min(
        abs(pages - limit) for limit in (1, CONTROL_PAGES, CONTROL_PAGES + DATA_PAGES)
    ) < 2 or (pages > 2 * CONTROL_PAGES + DATA_PAGES)


def main() -> None:
    """Try every size and every number of files."""
    folder, peer = Path(sys.argv[1]), sys.argv[2]
    if "broken" in sys.argv[3:]:
        overcommit()
    folder.mkdir(0o700, exist_ok=True)
    os.environ["RLAY_DIR"] = str(folder)
    most = CONTROL_PAGES + DATA_PAGES + CONTROL_PAGES + 2
    pages = [n for n in range(1, most + 1) if "some" not in sys.argv[3:] or _tells(n)]
    sizes = [(f"size={n * PAGE}", n) for n in pages] + [(f"nr_inodes={n}", n) for n in range(1, 8)]
    endings: dict[str, int] = {}
    for options, number in sizes:
        enough = options.startswith("size") and number == pages[-1]
        for ending in try_out(folder, options, peer):
            endings[ending] = endings.get(ending, 0) + 1
            if ending not in ("success", NO_SPACE) or (enough and ending != "success"):
                print(f"PROBLEM {options}: {ending}")
    print(f"{len(sizes)} file systems: {endings}")


if __name__ == "__main__":
    main()
