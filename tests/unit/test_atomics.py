"""rlay.atomics and its two twins: values, checks, waiting and waking."""

from __future__ import annotations

import mmap
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from rlay import _atomics_pure, atomics

SECOND = 1_000_000_000
NEVER = 50 * SECOND  # a wait that only a wake-up can end before pytest's own time-out


@pytest.fixture
def words() -> tuple[atomics.Word, atomics.Word]:
    memory = bytearray(128)
    return atomics.Word(memory, 0), atomics.Word(memory, 64)


def until(condition: Callable[[], bool]) -> None:
    """Wait under pytest's watchdog."""
    while not condition():
        time.sleep(0.001)


@contextmanager
def in_thread(function: Callable[[], object]) -> Iterator[threading.Thread]:
    thread = threading.Thread(target=function, daemon=True)
    thread.start()
    yield thread
    thread.join()


def test_store_and_load_are_little_endian_and_exact() -> None:
    memory = bytearray(16)
    word = atomics.Word(memory, 4)
    for value in (0, 1, 2, 0x01020304, 2**31, 2**32 - 1):
        word.store_release(value)
        assert word.load_acquire() == value
        assert memory == bytes(4) + value.to_bytes(4, "little") + bytes(8)


def test_load_sees_what_others_wrote() -> None:
    memory = bytearray(8)
    word = atomics.Word(memory, 4)
    memory[4] = 2
    assert word.load_acquire() == 2


@pytest.mark.parametrize("make", [bytearray, lambda size: mmap.mmap(-1, size), np.zeros])
def test_any_writable_buffer_will_do(make: Callable[[int], bytearray]) -> None:
    word = atomics.Word(make(4096), 4092)
    word.store_release(7)
    assert word.load_acquire() == 7


@pytest.mark.parametrize("offset", [-4, -1, 13, 16, 2**62])
def test_offset_out_of_bounds(offset: int) -> None:
    with pytest.raises(ValueError, match=rf"offset {offset} is out of bounds.* holds 16"):
        atomics.Word(bytearray(16), offset)


def test_buffer_smaller_than_a_word() -> None:
    with pytest.raises(ValueError, match="out of bounds"):
        atomics.Word(bytearray(3), 0)


@pytest.mark.parametrize("offset", [1, 2, 3, 5])
def test_offset_that_is_not_aligned(offset: int) -> None:
    with pytest.raises(ValueError, match=rf"offset {offset} .*not aligned"):
        atomics.Word(bytearray(16), offset)


def test_alignment_is_of_the_address_not_of_the_offset() -> None:
    shifted = memoryview(bytearray(16))[1:]
    with pytest.raises(ValueError, match="not aligned"):
        atomics.Word(shifted, 0)
    assert atomics.Word(shifted, 3).load_acquire() == 0


@pytest.mark.parametrize("buffer", [bytes(16), memoryview(bytearray(32))[::2]])
def test_buffer_must_be_writable_and_contiguous(buffer: bytearray) -> None:
    with pytest.raises(ValueError, match="writable and contiguous"):
        atomics.Word(buffer, 0)


def test_read_only_map_is_refused() -> None:
    with mmap.mmap(-1, 4096, access=mmap.ACCESS_READ) as memory:
        with pytest.raises(ValueError, match="writable"):
            atomics.Word(memory, 0)


def test_what_is_not_a_buffer_is_a_type_error() -> None:
    with pytest.raises(TypeError):
        atomics.Word("text", 0)  # type: ignore[arg-type]


@pytest.mark.parametrize("value", [-1, 2**32, 2**64, 2**200])
def test_value_beyond_32_bits(words: tuple[atomics.Word, atomics.Word], value: int) -> None:
    word, waiting = words
    with pytest.raises(ValueError, match="32 bits"):
        word.store_release(value)
    with pytest.raises(ValueError, match="32 bits"):
        word.hand_over(value, waiting)
    assert word.load_acquire() == 0


def test_value_that_is_not_an_integer(words: tuple[atomics.Word, atomics.Word]) -> None:
    with pytest.raises(TypeError):
        words[0].store_release(1.5)  # type: ignore[arg-type]


def test_waiting_must_be_a_word(words: tuple[atomics.Word, atomics.Word]) -> None:
    with pytest.raises(TypeError, match="waiting must be a Word"):
        words[0].hand_over(1, 0)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="waiting must be a Word"):
        words[0].wait(1, None, 0, 0)  # type: ignore[arg-type]
    assert words[0].load_acquire() == 0


def test_a_word_holds_its_buffer_until_released() -> None:
    memory = mmap.mmap(-1, 4096)
    word = atomics.Word(memory, 0)
    with pytest.raises(BufferError):
        memory.close()
    word.release()
    memory.close()


def test_deallocation_releases() -> None:
    memory = mmap.mmap(-1, 4096)
    word = atomics.Word(memory, 0)
    del word
    memory.close()


def test_a_refused_construction_holds_nothing() -> None:
    memory = mmap.mmap(-1, 4096)
    for offset in (1, -1, 4093):
        with pytest.raises(ValueError, match="offset"):
            atomics.Word(memory, offset)
    memory.close()


def test_use_after_release(words: tuple[atomics.Word, atomics.Word]) -> None:
    word, waiting = words
    word.release()
    word.release()
    uses: list[Callable[[], object]] = [
        word.load_acquire,
        word.wake,
        lambda: word.store_release(1),
        lambda: word.hand_over(1, waiting),
        lambda: word.wait(1, waiting, 0, 0),
        lambda: waiting.wait(1, word, 0, 0),
        lambda: waiting.hand_over(1, word),
    ]
    for use in uses:
        with pytest.raises(ValueError, match="released"):
            use()
    assert waiting.load_acquire() == 0


def test_wait_returns_at_once_when_the_word_is_as_wanted(
    words: tuple[atomics.Word, atomics.Word],
) -> None:
    word, waiting = words
    word.store_release(2)
    assert word.wait(2, waiting, NEVER, NEVER) == 2


@pytest.mark.parametrize("timeout", [0, -1, 1, 2_000_000])
@pytest.mark.parametrize("spin", [0, 10_000])
def test_wait_ends_at_its_time_out(
    words: tuple[atomics.Word, atomics.Word], spin: int, timeout: int
) -> None:
    word, waiting = words
    start = time.monotonic_ns()
    assert word.wait(2, waiting, spin, timeout) == 0
    assert time.monotonic_ns() - start >= timeout
    assert waiting.load_acquire() == 0


@pytest.mark.parametrize("value", [2, 9])
@pytest.mark.parametrize("spin", [0, NEVER])
def test_hand_over_ends_a_wait(
    words: tuple[atomics.Word, atomics.Word], spin: int, value: int
) -> None:
    """Also when the value is not the one that was wanted: the caller decides what it means."""
    word, waiting = words
    results: list[int] = []
    with in_thread(lambda: results.append(word.wait(2, waiting, spin, NEVER))):
        if spin == 0 and atomics.IMPLEMENTATION == "compiled":
            until(lambda: waiting.load_acquire() == 1)
        word.hand_over(value, waiting)
    assert results == [value]
    assert waiting.load_acquire() == 0


def test_ping_pong_between_two_threads() -> None:
    """Every hand-over of a thousand arrives, with what was written before it."""
    memory = bytearray(256)
    turn, mine, theirs = (atomics.Word(memory, offset) for offset in (0, 64, 128))
    payload = [0]

    def answer() -> None:
        for _ in range(1000):
            while turn.wait(2, theirs, 0, NEVER) != 2:
                pass
            payload[0] += 1
            turn.hand_over(1, mine)

    with in_thread(answer):
        for count in range(1, 1001):
            turn.hand_over(2, theirs)
            while turn.wait(1, mine, 0, NEVER) != 1:
                pass
            assert payload[0] == count


def test_wake_ends_a_wait_without_a_change(words: tuple[atomics.Word, atomics.Word]) -> None:
    word, waiting = words
    word.wake()  # nobody waits: harmless
    if atomics.IMPLEMENTATION == "pure":
        pytest.skip("a pure waiter sleeps in naps; the end of the slice is its wake-up")
    results: list[int] = []
    with in_thread(lambda: results.append(word.wait(2, waiting, 0, NEVER))) as thread:
        while thread.is_alive():  # one wake may come between `waiting = 1` and the sleep
            word.wake()
            time.sleep(0.001)
    assert results == [0]


@pytest.mark.skipif(sys.platform != "linux", reason="the pure twin wakes by futex, on Linux only")
def test_the_pure_twin_wakes_a_compiled_waiter() -> None:
    compiled = pytest.importorskip("rlay._atomics")
    memory = bytearray(128)
    word, waiting = compiled.Word(memory, 0), compiled.Word(memory, 64)
    pure, pure_waiting = _atomics_pure.Word(memory, 0), _atomics_pure.Word(memory, 64)
    results: list[int] = []
    with in_thread(lambda: results.append(word.wait(2, waiting, 0, NEVER))):
        until(lambda: bool(waiting.load_acquire() == 1))
        pure.hand_over(2, pure_waiting)  # type: ignore[arg-type]
    assert results == [2]


def test_release_during_a_wait_takes_effect_when_it_ends() -> None:
    if atomics.IMPLEMENTATION == "pure":
        pytest.skip("a pure waiter meets the released word at its next look")
    memory = mmap.mmap(-1, 4096)
    word, waiting, other = (atomics.Word(memory, offset) for offset in (0, 64, 0))
    results: list[int] = []
    with in_thread(lambda: results.append(word.wait(2, waiting, 0, NEVER))):
        until(lambda: waiting.load_acquire() == 1)
        word.release()
        with pytest.raises(ValueError, match="released"):
            word.load_acquire()
        other.hand_over(2, waiting)
    assert results == [2]
    waiting.release()
    other.release()
    memory.close()


@pytest.mark.parametrize("spin", [0, 20_000])
def test_ctrl_c_ends_a_wait(words: tuple[atomics.Word, atomics.Word], spin: int) -> None:
    word, waiting = words
    stop = threading.Event()

    def interrupt() -> None:
        # Again and again: a signal just before the sleep is only seen when the sleep ends.
        while not stop.wait(0.005):
            os.kill(os.getpid(), signal.SIGUSR1)

    def handler(*_: object) -> None:
        if not stop.is_set():
            stop.set()
            raise KeyboardInterrupt

    before = signal.signal(signal.SIGUSR1, handler)
    try:
        with in_thread(interrupt):
            with pytest.raises(KeyboardInterrupt):
                word.wait(2, waiting, spin, NEVER)
    finally:
        stop.set()
        signal.signal(signal.SIGUSR1, before)
    assert waiting.load_acquire() == 0


def test_a_signal_whose_handler_returns_does_not_end_a_wait(
    words: tuple[atomics.Word, atomics.Word],
) -> None:
    word, waiting = words
    seen: list[int] = []

    def interrupt() -> None:
        while len(seen) < 3:
            os.kill(os.getpid(), signal.SIGUSR1)
            time.sleep(0.005)
        word.hand_over(2, waiting)

    before = signal.signal(signal.SIGUSR1, lambda number, _: seen.append(number))
    try:
        with in_thread(interrupt):
            assert word.wait(2, waiting, 0, NEVER) == 2
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert len(seen) >= 3


PEER = """
import mmap, sys
from rlay import atomics
with open(sys.argv[1], "r+b") as file:
    memory = mmap.mmap(file.fileno(), 0)
turn, mine, theirs = (atomics.Word(memory, offset) for offset in (0, 64, 128))
for _ in range(100):
    while turn.wait(2, mine, 0, 50 * 10**9) != 2:
        pass
    memory[192] += 1
    turn.hand_over(1, theirs)
print(atomics.IMPLEMENTATION)
"""


def test_two_processes_take_turns_through_a_file(tmp_path: Path, atomics_twin: str) -> None:
    path = tmp_path / "memory"
    path.write_bytes(bytes(4096))
    with open(path, "r+b") as file:
        memory = mmap.mmap(file.fileno(), 0)
    turn, theirs, mine = words = [atomics.Word(memory, offset) for offset in (0, 64, 128)]
    with subprocess.Popen(
        [sys.executable, "-c", PEER, str(path)], stdout=subprocess.PIPE, text=True
    ) as peer:
        for count in range(1, 101):
            turn.hand_over(2, theirs)
            while turn.wait(1, mine, 0, NEVER) != 1:
                pass
            assert memory[192] == count
        assert peer.communicate()[0].strip() == atomics_twin
    assert peer.returncode == 0
    for word in words:
        word.release()
    memory.close()


def import_atomics(**environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", "from rlay import atomics; print(atomics.IMPLEMENTATION)"],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_environment_variable_chooses_the_twin(atomics_twin: str) -> None:
    assert import_atomics(RLAY_ATOMICS=atomics_twin).stdout.strip() == atomics_twin
    assert import_atomics(RLAY_ATOMICS="").stdout.strip() in ("compiled", "pure")


def test_a_wrong_environment_variable_is_an_error() -> None:
    assert "RLAY_ATOMICS is 'fast', expected" in import_atomics(RLAY_ATOMICS="fast").stderr


def test_the_pure_twin_refuses_other_processors() -> None:
    code = "import platform; platform.machine = lambda: 'aarch64'\nimport rlay._atomics_pure\n"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "ImportError: rlay needs its compiled extension on aarch64" in done.stderr
    assert "RLAY_BUILD_EXTENSION=yes" in done.stderr


def test_the_twins_have_the_same_names() -> None:
    compiled = pytest.importorskip("rlay._atomics")
    public = {name for name in dir(compiled.Word) if not name.startswith("_")}
    assert public == {name for name in dir(_atomics_pure.Word) if not name.startswith("_")}
