"""The little of ptrace that the native sweep needs: Linux on x86-64, one thread."""

from __future__ import annotations

import ctypes
import os
import platform
import signal
import sys

from tests.sweep.slot import die_with_parent

_TRACEME, _PEEKTEXT, _PEEKUSER, _POKETEXT, _POKEUSER = 0, 1, 3, 4, 6
_CONT, _STEP, _DETACH = 7, 9, 17
_RDI, _RIP = 14 * 8, 16 * 8
_NO_RANDOM_ADDRESSES = 0x0040000
_BREAKPOINT = 0xCC
#: A repeated string instruction traps at each byte; without them a copy is a loop of vectors.
_NO_REPEATS = {
    "GLIBC_TUNABLES": "glibc.cpu.x86_rep_movsb_threshold=0x7fffffff:"
    "glibc.cpu.x86_rep_stosb_threshold=0x7fffffff"
}
#: Above this lie the stack and the kernel's vdso.
END_OF_PROGRAM = 0x7000_0000_0000

_libc = ctypes.CDLL(None, use_errno=True)
_libc.ptrace.restype = ctypes.c_long
_libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]


class EndedError(Exception):
    """The traced process has ended."""

    def __init__(self, code: int) -> None:
        super().__init__(f"the traced process ended with {code}")
        self.code = code


def supported() -> bool:
    """Tell whether a process can be traced here."""
    return sys.platform == "linux" and platform.machine() == "x86_64"


class Traced:
    """A child that stops where it is told; begun at the first instruction of its program."""

    def __init__(self, program: str, *arguments: str) -> None:
        self.pid = os.fork()
        if self.pid == 0:
            try:
                die_with_parent()
                _libc.personality(_NO_RANDOM_ADDRESSES)
                _libc.ptrace(_TRACEME, 0, None, None)
                os.execve(program, [program, *arguments], {**os.environ, **_NO_REPEATS})
            finally:
                os._exit(127)
        self._wait()

    def _ptrace(self, what: int, address: int = 0, data: int = 0) -> int:
        return int(_libc.ptrace(what, self.pid, address, data))

    def _wait(self) -> None:
        status = os.waitpid(self.pid, 0)[1]
        if not os.WIFSTOPPED(status):
            raise EndedError(os.waitstatus_to_exitcode(status))

    def counter(self) -> int:
        """Return the address of the next instruction."""
        return self._ptrace(_PEEKUSER, _RIP)

    def argument(self) -> int:
        """Return the first argument of the function that is about to run."""
        return self._ptrace(_PEEKUSER, _RDI)

    def step(self) -> None:
        """Execute one instruction."""
        self._ptrace(_STEP)
        self._wait()

    def run_to(self, *addresses: int) -> int:
        """Run until the instruction at one of the addresses is next; return the address."""
        words = {address: self._ptrace(_PEEKTEXT, address) for address in addresses}
        for address, word in words.items():
            self._ptrace(_POKETEXT, address, (word & ~0xFF) | _BREAKPOINT)
        self._ptrace(_CONT)
        self._wait()
        for address, word in reversed(words.items()):
            self._ptrace(_POKETEXT, address, word & (1 << 64) - 1)
        found = self.counter() - 1
        if found not in words:
            raise RuntimeError(f"stopped at {found + 1:#x}, which is none of the addresses")
        self._ptrace(_POKEUSER, _RIP, found)
        return found

    def read(self, start: int, size: int) -> bytes:
        """Return bytes of its memory."""
        descriptor = os.open(f"/proc/{self.pid}/mem", os.O_RDONLY)
        try:
            return os.pread(descriptor, size, start)
        finally:
            os.close(descriptor)

    def mappings(self) -> list[tuple[int, int, str]]:
        """Return (start, end, path) of the files it has mapped."""
        found = []
        with open(f"/proc/{self.pid}/maps") as lines:
            for line in lines:
                parts = line.split(None, 5)
                if len(parts) == 6:
                    start, _, end = parts[0].partition("-")
                    path = parts[5].strip().removesuffix(" (deleted)")
                    found.append((int(start, 16), int(end, 16), path))
        return found

    def kill(self) -> int:
        """End it by SIGKILL; return its exit code."""
        os.kill(self.pid, signal.SIGKILL)
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])

    def finish(self) -> int:
        """Let it run to its end; return its exit code."""
        self._ptrace(_DETACH)
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
