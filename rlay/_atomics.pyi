from collections.abc import Callable
from typing import Any, TypeVar

from rlay._types import Buffer

_Result = TypeVar("_Result")

class Word:
    def __init__(self, buffer: Buffer, offset: int) -> None: ...
    def load_acquire(self) -> int: ...
    def store_release(self, value: int, /) -> None: ...
    def hand_over(self, value: int, waiting: Word, /) -> None: ...
    def wake(self) -> None: ...
    def wait(self, wanted: int, waiting: Word, spin_ns: int, timeout_ns: int, /) -> int: ...
    def release(self) -> None: ...

class Guard:
    owner: int
    refusal: Callable[[], BaseException] | None
    after: Callable[[], Any] | None
    stop: bool
    def __init__(self, in_use: Callable[[], BaseException]) -> None: ...
    def __call__(
        self, function: Callable[..., _Result], /, *args: Any, **kwargs: Any
    ) -> _Result: ...
    def settle(self) -> bool: ...
    def orphan(self, refusal: Callable[[], BaseException], /) -> None: ...

class Shield:
    @property
    def lost(self) -> bool: ...
    def __init__(self, buffer: Buffer) -> None: ...
    def release(self) -> None: ...

class Exchange:
    seq: int
    armed: bool
    moved: bool
    calling: bool
    spin_ns: int
    def __init__(
        self,
        *,
        control: Buffer,
        ours: Buffer,
        theirs: Buffer,
        cells: tuple[int, int, int],
        turns: tuple[int, int],
        step: int,
        session: int,
        agent: bool,
        written: Any,
        integer: bool,
        write: Callable[[Any], None],
        read: Callable[[], Any],
        reply_at: tuple[int, int, int],
        plain_info: bool,
        spin_ns: int,
        longest_spin_ns: int,
        nap_ns: int,
        guard: Guard,
    ) -> None: ...
    def step(self, action: Any, slice_ns: int, caller: Any = None, /) -> Any: ...
    def serve(self, env: Any, slice_ns: int, /) -> Any: ...
    def release(self) -> None: ...

class LaneExchange(Exchange):
    lane: int
    def __init__(self, columns: tuple[Any, ...], /, **turns: Any) -> None: ...
    def post(self, batch: tuple[Any, ...], first: int, /) -> Any: ...
    def landed(self, slice_ns: int, /) -> bool | None: ...
    def copy(
        self, observations: tuple[Any, ...] | None, results: tuple[Any, ...], first: int, /
    ) -> bool: ...
