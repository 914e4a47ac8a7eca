"""The guard among other handlers of SIGBUS: each order, in processes of their own."""

from __future__ import annotations

import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from tests.peers import WATCHDOG, environment

_atomics = pytest.importorskip("rlay._atomics", reason="the pure twin guards nothing")

pytestmark = [
    pytest.mark.one_twin,
]

#: What each script can use: ``ours`` and ``foreign`` are mappings of cut files, one guarded.
PRELUDE = """
import faulthandler, importlib.util, mmap, os, resource, signal, sys, tempfile, threading
# The extension alone: the rest of rlay takes longer than all that is done here.
spec = importlib.util.spec_from_file_location("rlay._atomics", sys.argv[2])
atomics = importlib.util.module_from_spec(spec)
spec.loader.exec_module(atomics)
resource.setrlimit(resource.RLIMIT_CORE, (0, 0))

class Mapped:
    def __init__(self, guarded, pages=4):
        with tempfile.TemporaryFile(dir=sys.argv[1]) as file:
            self.size = pages * 4096
            file.write(b"x" * self.size)
            file.flush()
            self.fd = os.dup(file.fileno())
            self.map = mmap.mmap(file.fileno(), self.size)
        self.shield = atomics.Shield(self.map) if guarded else None

    def cut(self, left=0):
        os.ftruncate(self.fd, left)
        return self

def survive(mapped=None):
    mapped = mapped or Mapped(True)
    assert not mapped.shield.lost and mapped.map[0:1] == b"x"
    mapped.cut()
    assert mapped.map[0:1] == mapped.map[mapped.size - 1:] == b"\\0"
    assert mapped.shield.lost
    print("survived", flush=True)

def die():
    Mapped(False).cut().map[0:1]
    print("nothing happened", flush=True)

def doze():
    "One sleep in a wait, which puts the guard back on top."
    word, waiting = (atomics.Word(bytearray(4), 0) for _ in range(2))
    word.wait(1, waiting, 0, 1_000_000)
"""

REPORT = "Fatal Python error: Bus error"
BUS = -signal.SIGBUS


def run(script: str, folder: Path) -> tuple[int, str, str]:
    """Run a script; return how it ended, what it printed, and what it complained of."""
    done = subprocess.run(
        [sys.executable, "-c", PRELUDE + textwrap.dedent(script), str(folder), _atomics.__file__],
        env={**environment(), "RLAY_ATOMICS": "compiled", "PYTHONFAULTHANDLER": ""},
        capture_output=True,
        text=True,
        timeout=WATCHDOG,
        check=False,
    )
    return done.returncode, done.stdout, done.stderr


#: script, exit code, lines of output, how often faulthandler reports; -1 means at least once.
CASES = {
    "alone": ("survive(); survive(); die()", BUS, ["survived", "survived"], 0),
    "alone, signal sent": ("survive(); os.kill(os.getpid(), 7)", BUS, ["survived"], 0),
    "before anything": ("die()", BUS, [], 0),
    "faulthandler before": ("faulthandler.enable(); survive(); die()", BUS, ["survived"], 1),
    "faulthandler after, straight away": (
        "m = Mapped(True); faulthandler.enable(); survive(m); survive(); print('goes on')",
        0,
        ["survived", "survived", "goes on"],
        -1,
    ),
    "faulthandler after, then a mapping": (
        "survive(); faulthandler.enable(); survive(); die()",
        BUS,
        ["survived", "survived"],
        -1,
    ),
    "faulthandler after, then a sleep": (
        "m = Mapped(True); faulthandler.enable(); doze(); survive(m); die()",
        BUS,
        ["survived"],
        -1,
    ),
    "faulthandler after, no sleep": (
        "survive(); faulthandler.enable(); die()",
        BUS,
        ["survived"],
        -1,
    ),
    "faulthandler off and on": (
        """
        faulthandler.enable(); m = Mapped(True); faulthandler.disable()
        survive(); survive(m); faulthandler.enable(); survive(); faulthandler.disable(); survive()
        die()
        """,
        BUS,
        ["survived"] * 4,
        0,
    ),
    "a handler in Python before": (
        """
        signal.signal(signal.SIGBUS, lambda *a: print("handled", flush=True))
        survive(); os.kill(os.getpid(), signal.SIGBUS); survive()
        """,
        0,
        ["survived", "handled", "survived"],
        0,
    ),
    "a handler in Python after": (
        """
        m = Mapped(True)
        signal.signal(signal.SIGBUS, lambda *a: print("handled", flush=True))
        doze(); survive(m); os.kill(os.getpid(), signal.SIGBUS)
        os.kill(os.getpid(), signal.SIGBUS); survive()
        """,
        0,
        ["survived", "handled", "handled", "survived"],
        0,
    ),
    "a handler in Python, and a fault": (
        "signal.signal(signal.SIGBUS, print); survive(); die()",
        BUS,
        ["survived"],
        0,
    ),
    "ignored before": (
        """
        signal.signal(signal.SIGBUS, signal.SIG_IGN)
        survive(); os.kill(os.getpid(), signal.SIGBUS); survive(); die()
        """,
        BUS,
        ["survived", "survived"],
        0,
    ),
    "ignored after": (
        """
        m = Mapped(True)
        signal.signal(signal.SIGBUS, signal.SIG_IGN); doze()
        survive(m); os.kill(os.getpid(), signal.SIGBUS); survive(); die()
        """,
        BUS,
        ["survived", "survived"],
        0,
    ),
    "another thread": (
        """
        for _ in range(20):
            thread = threading.Thread(target=survive); thread.start(); thread.join()
        die()
        """,
        BUS,
        ["survived"] * 20,
        0,
    ),
    "a child": (
        """
        m = Mapped(True)
        child = os.fork()
        m.cut()
        assert m.map[0:1] == b"\\0" and m.shield.lost
        if child == 0:
            os._exit(5)
        survive()
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 5
        """,
        0,
        ["survived"],
        0,
    ),
    "a released guard": (
        "m = Mapped(True); m.shield.release(); m.shield.release(); m.cut(); m.map[0:1]",
        BUS,
        [],
        0,
    ),
    "lost, then released": (
        "m = Mapped(True); survive(m); m.shield.release(); assert m.shield.lost; survive(); die()",
        BUS,
        ["survived"] * 2,
        0,
    ),
    "a cut page": (
        """
        m = Mapped(True); m.cut(2 * 4096 + 5)
        assert m.map[2 * 4096:2 * 4096 + 8] == b"x" * 5 + bytes(3)
        assert m.shield.lost
        assert m.map[0:4096] == b"x" * 4096 and m.map[3 * 4096:] == bytes(4096)
        """,
        0,
        [],
        0,
    ),
    "many": (
        """
        mapped = [Mapped(True, 1) for _ in range(1024)]
        for m in mapped[::100]: survive(m)
        del m, mapped
        for _ in range(3000): atomics.Shield(mmap.mmap(-1, 4096))
        survive()
        more = [atomics.Shield(bytearray(1)) for _ in range(1024)]
        assert not any(guard.lost for guard in more)
        late = Mapped(True)
        assert not late.shield.lost
        late.cut(); late.map[0:1]
        """,
        BUS,
        ["survived"] * 12,
        0,
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_it_plays_well_with_others(name: str, tmp_path: Path) -> None:
    script, code, lines, reports = CASES[name]
    found, out, err = run(script, tmp_path)
    assert (found, out.splitlines()) == (code, lines), err
    count = err.count(REPORT)
    assert count >= 1 if reports < 0 else count == reports, err
    assert "AssertionError" not in err


def test_the_cases_would_notice(tmp_path: Path) -> None:
    """Without a guard, the first survival is a death."""
    script = "m = Mapped(False); m.shield = atomics.Shield(bytearray(1)); survive(m)"
    assert run(script, tmp_path)[:2] == (BUS, "")
