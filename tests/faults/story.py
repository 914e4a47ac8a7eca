"""One story in Python with one failing call in it; runs with ``shim.c`` preloaded.

Four victims: either side in either role. The victim is the main thread; its peer is a thread
that goes on whatever happens, so one process plays thousands of stories. As a program it takes
cases from stdin and answers each with one line; ``sweep.py`` is the other end.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import importlib
import json
import os
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import rlay
from tests.peers import BACKENDS, FACES
from tests.toys import Counter

#: Who is the victim: its class, and the mode it plays in.
VICTIMS = {
    "ClientEnv": "ClientEnv",
    "ServerBackend": "ClientEnv",
    "ServerEnv": "ServerEnv",
    "ClientBackend": "ServerEnv",
}
STEPS = (1, 2)
CHANNEL = "faults"
#: Seconds. Longer than anything here takes, shorter than the watchdog of the sweep.
PATIENCE = 10.0

_shim = ctypes.CDLL(None)


def _counts() -> dict[str, int]:
    _shim.faults_name.restype = ctypes.c_char_p
    counts = {}
    number = 0
    while name := _shim.faults_name(number):
        if calls := _shim.faults_count(number):
            counts[name.decode()] = calls
        number += 1
    return counts


def _play_agent(env: Any, done: list[Any]) -> None:
    observation, _ = env.reset(seed=3)
    done.append(observation.tolist()[1:])
    for action in STEPS:
        observation, reward, _, _, info = env.step(action)
        done.append((observation.tolist()[1:], reward, info["echo"]))


def _play_env(backend: Any, done: list[Any]) -> None:
    game = Counter()
    request = backend.next_request()
    while request is not None:
        if request.command is rlay.Command.RESET:
            done.append(("RESET", request.seed))
            observation, info = game.reset(seed=request.seed)
            request = backend.decide(observation, info=info)
        else:
            done.append(("STEP", int(request.action)))
            request = backend.decide(*game.step(request.action))


EXPECTED: dict[bool, list[Any]] = {
    True: [[0, -1], *(([k, k], float(k), k) for k in STEPS)],
    False: [("RESET", 3), *(("STEP", k) for k in STEPS)],
}


def victim_story(victim: str, done: list[Any]) -> None:
    """Create or attach, play, close: everything of the victim's."""
    settings: dict[str, Any] = {"timeout": PATIENCE, "attach_timeout": PATIENCE}
    mode = VICTIMS[victim]
    if victim in FACES:
        with contextlib.closing(FACES[mode](CHANNEL, **settings)) as env:
            _play_agent(env, done)
    else:
        spaces = Counter()
        settings["observation_space"] = spaces.observation_space
        settings["action_space"] = spaces.action_space
        with contextlib.closing(BACKENDS[mode](CHANNEL, **settings)) as backend:
            _play_env(backend, done)


class _Peers:
    """One peer of the victim after another, in a thread, until told to stop."""

    def __init__(self, victim: str) -> None:
        self._victim = victim
        self._stop = threading.Event()
        self.strange: list[str] = []
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                self._play()
            except rlay.RlayError:
                pass  # the victim's troubles are not ours
            except BaseException as error:
                self.strange.append(f"the peer raised {error!r}")

    def _play(self) -> None:
        mode, settings = VICTIMS[self._victim], {"timeout": PATIENCE, "attach_timeout": PATIENCE}
        if self._victim in FACES:
            with contextlib.closing(BACKENDS[mode](CHANNEL, Counter(), **settings)) as backend:
                while not self._stop.is_set():
                    backend.serve(sessions=1)
        else:
            with contextlib.closing(FACES[mode](CHANNEL, **settings)) as env:
                _play_agent(env, [])

    def close(self) -> None:
        """Tell them to stop; the last one ends with the process, for it may wait for us."""
        self._stop.set()


def _left_in(root: str, *, served: bool) -> list[str]:
    """Return what is in the directory that should not be."""
    fine = {f"{CHANNEL}.server.lock", f"{CHANNEL}.client.lock"}
    fine |= {f"{CHANNEL}.rlay"} if served else set()
    return [name for name in os.listdir(root) if name not in fine]


def _settled(found: Callable[[], Any]) -> Any:
    """Return what ``found`` finds once it finds nothing, or at the end of our patience."""
    deadline = time.monotonic() + PATIENCE / 4
    while (left := found()) and time.monotonic() < deadline:
        time.sleep(0.001)
    return left


def run_case(victim: str, function: str, number: int, error: int, root: str) -> dict[str, Any]:
    """Play the story with call ``number`` of ``function`` failing; return the facts."""
    done: list[Any] = []
    outcome, text = "success", ""
    _shim.faults_where.restype = ctypes.c_char_p
    _shim.faults_begin(root.encode(), function.encode(), number, error, 0)
    try:
        victim_story(victim, done)
    except BaseException as raised:
        outcome, text = type(raised).__name__, str(raised)
        raised.__traceback__ = None
    gc.collect()
    _shim.faults_end()
    fired = bool(_shim.faults_fired())
    expected = EXPECTED[victim in FACES]
    served = victim.startswith("Client")  # by the peer, whose control file may be there
    facts = {
        "fired": fired,
        "where": _shim.faults_where().decode().removeprefix(root),
        "outcome": outcome,
        "text": text,
        "right": done == expected[: len(done)],
        "complete": done == expected,
        "descriptors": _shim.faults_descriptors(),
        "mappings": _shim.faults_mappings(),
        "counts": _counts(),
        # What an unlink that failed has left is not judged, and not waited for.
        "left": [] if function == "unlink" else _settled(lambda: _left_in(root, served=served)),
    }
    facts["again"] = _again(victim) if fired else ""
    facts["left_again"] = _settled(lambda: _left_in(root, served=served))
    return facts


def _again(victim: str) -> str:
    """Play the story once more, with nothing failing; say what was wrong."""
    done: list[Any] = []
    try:
        victim_story(victim, done)
    except BaseException as error:
        return f"{type(error).__name__}: {error}"
    return "" if done == EXPECTED[victim in FACES] else f"the results are {done}"


def main() -> None:
    """Answer cases: ``[function, number, errno]`` a line in, a JSON object a line out."""
    victim = sys.argv[1]
    if len(sys.argv) > 2:
        getattr(importlib.import_module("tests.faults.broken"), sys.argv[2])()
    # A file system of its own would be better; a directory that does not exist yet will do.
    with tempfile.TemporaryDirectory(dir=os.environ["RLAY_DIR"]) as parent:
        root = Path(parent) / "root"
        os.environ["RLAY_DIR"] = str(root)
        with contextlib.closing(_Peers(victim)) as peers:
            _again(victim)
            threads = threading.active_count()
            for line in sys.stdin:
                facts = run_case(victim, *json.loads(line), root=str(root))
                facts["strange"] = [*peers.strange]
                peers.strange.clear()
                if threading.active_count() != threads:
                    facts["strange"].append("a thread was left")
                sys.stdout.write(json.dumps(facts) + "\n")
                sys.stdout.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
