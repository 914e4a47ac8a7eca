"""Programs in C: how tests compile, start and end them."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.peers import PORT, WATCHDOG

STRICT = ("-std=c11", "-Wall", "-Wextra", "-Wpedantic", "-Werror")
SANITIZE = ("-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all")

needs_cc = pytest.mark.skipif(shutil.which("cc") is None, reason="there is no C compiler")
needs_make = pytest.mark.skipif(
    not (shutil.which("cc") and shutil.which("make")),
    reason="there is no make or no C compiler",
)

#: What the fixtures of these names in tests/process/conftest.py give.
Build = Callable[[str], Path]
Compile = Callable[..., Path]
Start = Callable[..., "subprocess.Popen[str]"]


def make(folder: Path, target: str, *variables: str, timeout: float = 2 * WATCHDOG) -> Path:
    """Build a target of the port's Makefile into ``folder``; the program's path."""
    program = folder / target
    done = subprocess.run(
        ["make", "-C", str(PORT), f"BUILD={folder}", *variables, str(program)],
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return program


def compile_strictly(source: Path, program: Path, *flags: str) -> None:
    """Compile a program that includes ``rlay.h``; the flags may name a folder with another one."""
    command = ["cc", *STRICT, *flags, f"-I{PORT}", str(source), "-o", str(program), "-lm"]
    subprocess.run(command, check=True, timeout=2 * WATCHDOG)


def compile_apart(source: Path, *flags: str) -> tuple[tempfile.TemporaryDirectory[str], str] | None:
    """Compile a program into a directory of its own; None where there is no compiler."""
    if shutil.which("cc") is None:
        return None
    folder = tempfile.TemporaryDirectory(prefix="rlay-c-")
    program = Path(folder.name) / source.stem
    compile_strictly(source, program, "-O2", *flags)
    return folder, str(program)


def header_with(*changes: tuple[str, str]) -> str:
    """Return ``rlay.h`` with these texts, each of which stands there once, exchanged."""
    text = (PORT / "rlay.h").read_text(encoding="utf-8")
    for was, now in changes:
        assert text.count(was) == 1, f"rlay.h has changed: {was}"
        text = text.replace(was, now)
    return text


@contextlib.contextmanager
def starting(*, stderr: int = subprocess.PIPE) -> Iterator[Start]:
    """Give a function that starts a program; whatever still runs at the end is killed."""
    running: list[subprocess.Popen[str]] = []

    def start(program: Path, *arguments: str, **variables: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [str(program), *arguments],
            stdout=subprocess.PIPE,
            stderr=stderr,
            env={**os.environ, **variables},
            text=True,
        )
        running.append(process)
        return process

    try:
        yield start
    finally:
        for process in running:
            if process.poll() is None:
                process.kill()
            process.communicate()


def finish(process: subprocess.Popen[str], code: int = 0) -> str:
    """Wait for a process, check its exit code, and give its output."""
    out, err = process.communicate(timeout=WATCHDOG)
    assert process.returncode == code, f"exit code {process.returncode}: {err or out}"
    return out
