"""Environments with short episodes, vectors of them in this process, and how results compare."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv

import rlay
from tests.peers import WATCHDOG, Task
from tests.toys import Counter

MODES = list(AutoresetMode)

#: Name to (observation space, action space).
SPACES: dict[str, Callable[[], tuple[spaces.Space[Any], spaces.Space[Any]]]] = {
    "box": lambda: (spaces.Box(-1, 1, (3,), np.float32), spaces.Box(-2, 2, (2,), np.float64)),
    "scalar": lambda: (spaces.Box(-1, 1, (), np.float16), spaces.Box(0, 9, (), np.int64)),
    "flags": lambda: (spaces.Box(0, 1, (2, 2), np.bool_), spaces.Box(0, 1, (1,), np.bool_)),
    "discrete": lambda: (spaces.Discrete(9, start=-4), spaces.Discrete(3, dtype=np.int8)),
    "multi": lambda: (spaces.MultiBinary(5), spaces.MultiDiscrete([3, 4])),
    "image": lambda: (spaces.Box(0, 255, (6, 5, 3), np.uint8), spaces.Discrete(4)),
    "dict": lambda: (
        spaces.Dict(
            {
                "eye": spaces.Box(0, 255, (4, 4), np.uint8),
                "self": spaces.Dict({"hp": spaces.Discrete(7), "on": spaces.MultiBinary(2)}),
            }
        ),
        spaces.Dict({"go": spaces.Discrete(4), "by": spaces.Box(0, 1, (1,), np.float32)}),
    ),
    "tuple": lambda: (
        spaces.Tuple((spaces.Discrete(3), spaces.Box(-1, 1, (2,), np.float64))),
        spaces.Tuple((spaces.MultiDiscrete([2, 2]), spaces.Discrete(5))),
    ),
    "text": lambda: (
        spaces.Dict({"say": spaces.Text(5), "to": spaces.Discrete(3)}),
        spaces.Tuple((spaces.Text(4, charset="aé"), spaces.OneOf([spaces.Discrete(2)] * 2))),
    ),
}


class Wander(gymnasium.Env[Any, Any]):
    """Random observations, episode lengths and infos, all from the seed and the actions."""

    def __init__(self, space: str = "box") -> None:
        self.observation_space, self.action_space = SPACES[space]()
        self._left = 0

    def _look(self) -> Any:
        self.observation_space.seed(int(self.np_random.integers(1 << 31)))
        return self.observation_space.sample()

    def _info(self) -> dict[str, Any]:
        kinds: list[dict[str, Any]] = [
            {},
            {"lap": np.int64(self._left), "name": f"n{self._left}"},
            {"lap": np.int64(-1), "score": 0.5, "won": True},
            {"nested": {"place": np.arange(3.0), "deep": {"n": self._left}}},
        ]
        return kinds[self.np_random.integers(len(kinds))]

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self._left = int(self.np_random.integers(1, 5))
        if options:
            return self._look(), {"options": options["level"], **self._info()}
        return self._look(), self._info()

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self._left -= 1
        reward = float(len(repr(action))) + self.np_random.random()
        coin = bool(self.np_random.integers(2))
        over = self._left <= 0
        return self._look(), reward, over and coin, over and not coin, self._info()


def same(left: Any, right: Any) -> bool:
    """Tell whether two results are equal in type, dtype, shape and every value."""
    if isinstance(left, dict):
        return (
            isinstance(right, dict)
            and left.keys() == right.keys()
            and all(same(left[key], right[key]) for key in left)
        )
    if isinstance(left, tuple | list):
        return (
            type(left) is type(right)
            and len(left) == len(right)
            and all(same(a, b) for a, b in zip(left, right, strict=True))
        )
    if isinstance(left, np.ndarray) and left.dtype == object:
        return left.shape == right.shape and same(left.tolist(), right.tolist())
    if isinstance(left, np.ndarray | np.generic):
        left, right = np.asarray(left), np.asarray(right)
        alike = (left.dtype, left.shape) == (right.dtype, right.shape)
        return alike and left.tobytes() == right.tobytes()
    return bool(type(left) is type(right) and left == right)


def _serve(backend: Any) -> None:
    with contextlib.suppress(rlay.ChannelTimeoutError):
        backend.serve(sessions=1)


@contextlib.contextmanager
def serving(sizes: list[int], make: Callable[[], Any], **settings: Any) -> Iterator[list[str]]:
    """Serve lanes from a thread for each worker; gives the channels."""
    backends: list[Any] = []
    tasks = []
    try:
        for worker, lanes in enumerate(sizes):
            backends.append(
                rlay.VectorBackend(f"lanes-{worker}", make, lanes, attach_timeout=0.5, **settings)
            )
            tasks.append(Task(_serve, backends[-1]))
        yield [backend.channel for backend in backends]
    finally:
        for backend in backends:
            for env in backend._lanes.envs:
                getattr(env, "release", _NoRelease).set()
        try:
            for task in tasks:
                task.result()
        finally:
            for backend in backends:
                backend.close()


class _NoRelease:
    @staticmethod
    def set() -> None:
        pass


@contextlib.contextmanager
def vector(
    sizes: list[int],
    make: Callable[[], Any],
    *,
    face: dict[str, Any] | None = None,
    **settings: Any,
) -> Iterator[rlay.VectorEnv]:
    """Attach to lanes served in this process; ``sizes`` says how many each worker has."""
    with serving(sizes, make, **settings) as channels:
        envs = rlay.VectorEnv(channels, **{"timeout": WATCHDOG, **(face or {})})
        try:
            yield envs
        finally:
            envs.close()


def sync(count: int, make: Callable[[], Any], mode: AutoresetMode) -> SyncVectorEnv[Any, Any]:
    """Return what a ``VectorEnv`` has to equal."""
    return SyncVectorEnv([make] * count, autoreset_mode=mode)


class Fickle(Counter):
    """A counter; the method and the place of its mishaps are attributes that can be set."""

    def mishap(self, method: str, what: str) -> None:
        self.plan[method] = what

    def forget(self) -> None:
        self.plan.clear()


class Counters:
    """Makes counters and keeps them; ``[lane]`` is one."""

    def __init__(self, **kwargs: Any) -> None:
        self.made: list[Counter] = []
        self.kwargs = kwargs

    def __call__(self) -> Counter:
        self.made.append(Counter(who=f"lane {len(self.made)}", **self.kwargs))
        return self.made[-1]

    def __getitem__(self, lane: int) -> Counter:
        return self.made[lane]


def check_steps(envs: Any, *actions: int) -> None:
    """Step with lane + action, and check that each result is that of its action."""
    for action in actions:
        batch = np.arange(envs.num_envs) + action
        observations, rewards, _, _, infos = envs.step(batch)
        assert observations[:, 2].tolist() == batch.tolist()
        assert rewards.tolist() == batch.tolist()
        assert infos["echo"].tolist() == batch.tolist()
