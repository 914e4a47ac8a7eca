"""Where a run happens: a private channel directory, and everything that must end with it."""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gymnasium

from rlay.channel import files
from rlay.channel import wait as waiting
from rlay.envs.client_env import ClientEnv
from rlay.tools.bench import endings, programs
from rlay.tools.bench.contenders import Contender, python_steps
from rlay.tools.bench.peers import START_TIMEOUT, Child, serve
from rlay.tools.bench.programs import Program
from rlay.tools.bench.results import MissingPeerError

#: Chooses the wait strategy of an endpoint that is opened while it is set.
WAIT_VARIABLE = "RLAY_WAIT"
_KNOWN_STRATEGIES = ("adaptive", "block", "backoff", "spin")


def strategies() -> dict[str, str | None]:
    """Return the named wait strategies: None, or why one cannot be measured."""
    registry = getattr(waiting, "STRATEGIES", None)
    if registry is None:
        why = "this version of rlay has one wait strategy, without a name"
        return dict.fromkeys(_KNOWN_STRATEGIES, why)
    return dict.fromkeys(registry, None)


@contextlib.contextmanager
def variables(**chosen: str | None) -> Iterator[None]:
    """Set environment variables for the block; None leaves one as it is."""
    wanted = {name: value for name, value in chosen.items() if value is not None}
    before = {name: os.environ.get(name) for name in wanted}
    os.environ.update(wanted)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


class Stage:
    """Starts the other processes and ends them, in any case, when its block ends."""

    def __init__(self) -> None:
        """Make the private directory; inside it channels cannot meet anybody else's."""
        self._stack = contextlib.ExitStack()
        self._numbers = itertools.count(1)
        self._programs: Path | MissingPeerError | None = None
        with endings.held():
            self.root = Path(tempfile.mkdtemp(prefix="bench-", dir=files.root()))
            self._stack.callback(shutil.rmtree, self.root, ignore_errors=True)
        self._stack.enter_context(variables(RLAY_DIR=str(self.root)))

    def __enter__(self) -> Stage:
        """Return self."""
        return self

    def __exit__(self, *_: object) -> None:
        """End everything."""
        self._stack.close()

    @contextlib.contextmanager
    def scene(self) -> Iterator[None]:
        """End what was started in this block when it ends."""
        outer, self._stack = self._stack, contextlib.ExitStack()
        try:
            yield
        finally:
            try:
                self._stack.close()
            finally:
                self._stack = outer

    def at_end(self, function: Callable[..., Any], *args: Any) -> None:
        """Call this when the scene ends; the last comes first."""
        self._stack.callback(function, *args)

    def channel(self) -> str:
        """Return a new channel name."""
        return f"bench-{next(self._numbers)}"

    def child(self, function: Callable[..., None], *args: Any, wait: str | None = None) -> Child:
        """Start a Python child."""
        settings = {"RLAY_DIR": str(self.root)}
        if wait is not None:
            settings[WAIT_VARIABLE] = wait
        with endings.held():
            child = Child(settings, function, *args)
            self.at_end(child.end)
        return child

    def program(self, name: str, *args: str, wait: str | None = None) -> Program:
        """Start a C program, building all of them first if need be.

        Raises:
            MissingPeerError: it cannot be built.
        """
        if self._programs is None:
            folder = Path(tempfile.mkdtemp(prefix="build-", dir=self.root))
            try:
                programs.build(folder)
                self._programs = folder
            except MissingPeerError as error:
                self._programs = error
        if isinstance(self._programs, MissingPeerError):
            raise self._programs
        settings = {} if wait is None else {WAIT_VARIABLE: wait}
        with endings.held():
            program = Program([str(self._programs / name), *args], settings)
            self.at_end(program.end)
        return program

    def attach(
        self, channel: str, server: Child | Program, *, wait: str | None = None, copy: bool = True
    ) -> ClientEnv:
        """Attach an agent to a child that serves, and reset once."""
        with variables(**{WAIT_VARIABLE: wait}):
            env = ClientEnv(channel, attach_timeout=START_TIMEOUT, copy=copy)
        self.at_end(env.close)
        self.at_end(server.resume)
        env.reset()
        return env

    def python_env(
        self,
        make: Callable[..., gymnasium.Env[Any, Any]],
        *args: Any,
        wait: str | None = None,
        copy: bool = True,
    ) -> Contender:
        """Return the contender: an environment in a Python child, an agent here."""
        channel = self.channel()
        child = self.child(serve, channel, make, *args, wait=wait)
        env = self.attach(channel, child, wait=wait, copy=copy)
        return Contender(python_steps(env.step, 1), [child])

    def c_env(self, *shape: str, wait: str | None = None, copy: bool = True) -> Contender:
        """Return the contender: an environment in C, an agent here."""
        channel = self.channel()
        program = self.program("bench_peer", "env", channel, *shape, wait=wait)
        env = self.attach(channel, program, wait=wait, copy=copy)
        return Contender(python_steps(env.step, 1), [program])
