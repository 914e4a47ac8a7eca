"""``rlay.atomics.Guard``: one call at a time, whatever ends it."""

from __future__ import annotations

import gc
import threading
import weakref
from typing import Any

import pytest

from rlay import atomics


class InUse(Exception):  # noqa: N818 - a name for the test
    pass


class Refused(Exception):  # noqa: N818 - a name for the test
    pass


@pytest.fixture
def guard() -> Any:
    """A guard that nobody holds."""
    return atomics.Guard(InUse)


def free(guard: Any) -> bool:
    try:
        return guard(lambda: True)  # type: ignore[no-any-return]
    except InUse:
        return False


def test_it_passes_arguments_and_results(guard: Any) -> None:
    assert guard(divmod, 7, 2) == (3, 1)
    assert guard(dict, [("a", 1)], b=2) == {"a": 1, "b": 2}
    assert guard(lambda: guard.owner) == threading.get_ident()
    assert guard.owner == 0
    with pytest.raises(TypeError):
        guard()


def test_a_second_call_is_refused_in_this_thread_and_in_others(guard: Any) -> None:
    found: list[bool] = []

    def outer() -> None:
        found.append(free(guard))
        thread = threading.Thread(target=lambda: found.append(free(guard)))
        thread.start()
        thread.join()
        found.append(guard.settle())

    guard(outer)
    assert found == [False, False, False]
    assert free(guard)


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit, GeneratorExit])
def test_an_exception_gives_it_back(guard: Any, error: type[BaseException]) -> None:
    def fail() -> None:
        raise error

    with pytest.raises(error):
        guard(fail)
    assert free(guard)


def test_refusal_is_for_new_calls_and_for_ever(guard: Any) -> None:
    def refuse() -> str:
        guard.refusal = Refused
        return "done"

    assert guard(refuse) == "done"
    for _ in range(2):
        with pytest.raises(Refused):
            guard(print)


def test_after_runs_once_at_the_end_of_the_call(guard: Any) -> None:
    done: list[Any] = []

    def outer() -> str:
        guard.refusal, guard.stop = Refused, True
        guard.after = lambda: done.append((guard.owner, guard.stop))
        assert not guard.settle()
        assert done == []
        return "result"

    assert guard(outer) == "result"
    assert done == [(threading.get_ident(), False)]
    assert guard.settle()
    assert len(done) == 1
    assert guard.owner == 0


def test_settle_runs_it_when_nobody_is_in(guard: Any) -> None:
    done: list[int] = []
    guard.refusal = Refused
    guard.after = lambda: done.append(guard.owner)
    assert guard.settle()
    assert guard.settle()
    assert done == [threading.get_ident()]


def test_what_goes_wrong_afterwards_is_told(guard: Any) -> None:
    def fail() -> None:
        raise KeyError("afterwards")

    guard.after = fail
    with pytest.raises(KeyError, match="afterwards"):
        guard(print)
    guard.after = fail
    with pytest.raises(KeyError, match="afterwards"):
        guard.settle()
    assert free(guard)


def test_a_child_of_fork_gets_it_free_and_refusing(guard: Any) -> None:
    done: list[int] = []

    def outer() -> None:
        guard.after = lambda: done.append(1)
        guard.orphan(Refused)
        assert guard.owner == 0

    guard(outer)
    assert done == []
    assert guard.stop
    with pytest.raises(Refused):
        guard(print)


def test_a_cycle_through_it_is_collected() -> None:
    class Face:
        def close(self) -> None:
            pass

    face: Any = Face()
    face.guard = atomics.Guard(InUse)
    face.guard.after = face.close
    seen = weakref.ref(face)
    del face
    gc.collect()
    assert seen() is None


def test_many_threads_are_never_in_together(guard: Any) -> None:
    """A call that lets other threads run would otherwise see them inside."""
    inside: list[int] = []
    worst = [0]

    def work() -> None:
        inside.append(1)
        worst[0] = max(worst[0], len(inside))
        for _ in range(50):
            threading.Event().is_set()
        inside.pop()

    def hammer(enter: Any) -> None:
        for _ in range(300):
            try:
                enter(work)
            except InUse:
                pass

    def race(enter: Any) -> int:
        worst[0] = 0
        threads = [threading.Thread(target=hammer, args=[enter]) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return worst[0]

    assert race(guard) == 1
    # The check can fail: with a barrier inside and no guard, two are in together.
    barrier = threading.Barrier(2, timeout=10)

    def meet() -> None:
        inside.append(1)
        barrier.wait()
        worst[0] = max(worst[0], len(inside))
        barrier.wait()
        inside.pop()

    threads = [threading.Thread(target=meet) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert worst[0] == 2
