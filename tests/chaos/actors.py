"""The Python peers: an environment's host and agents, written as a user's programs would be.

Each runs in a process of its own until it is told to stop, and answers every error as the
documentation says: attach again with ``reset()`` after a lost peer, ``wait()`` after a
time-out. What comes is compared with the model; what is raised is told to the monitor.
"""

from __future__ import annotations

import contextlib
import logging
import os
import random
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import rlay
from tests.chaos import broken, ledger
from tests.chaos.ledger import Ledger
from tests.chaos.world import Model, World, difference
from tests.peers import BACKENDS, FACES, use_twin

#: Seconds a call may take beside what it waits for: ``close`` asks the environment first.
CLOSE = 2.0
#: ``make_vec`` starts processes; ending one that hangs takes the supervisor's patience.
START, END = 60.0, 12.0
#: How often an agent waits on after a time-out before it gives up and attaches anew.
PATIENCE = 3
#: The phases in which a time-out leaves nothing pending.
ATTACHING = ("PUBLISHED", "GREETED", "WELCOMED")
LANES, WORKERS = 4, 2

Place = dict[str, Any]


class _Heard(logging.Handler):
    """Counts the errors that ``serve()`` survives and logs."""

    def __init__(self, told: Ledger) -> None:
        super().__init__()
        self._told = told

    def emit(self, record: logging.LogRecord) -> None:
        for error in record.args or ():
            if isinstance(error, rlay.RlayError):
                self._told.tell("error", f"{type(error).__name__} serving: {error}")


def _told_by(place: Place) -> Ledger:
    use_twin(place["twin"])
    told = Ledger(Path(place["ledger"]))
    told.words[ledger.BORN] = os.getpid()
    logger = logging.getLogger("rlay")
    logger.setLevel(logging.INFO)
    logger.addHandler(_Heard(told))
    return told


def host(place: Place) -> None:
    """Serve agents until told to stop, with ``serve()`` or a loop of our own."""
    told = _told_by(place)
    world = broken.world(place, told) or World(place["salt"], lambda text: told.tell("wrong", text))
    settings: dict[str, Any] = {"timeout": place["timeout"], "attach_timeout": place["attach"]}
    spaces = {"observation_space": world.observation_space, "action_space": world.action_space}
    while not told.words[ledger.STOP]:
        try:
            if place["loop"]:
                backend = BACKENDS[place["mode"]](place["channel"], **spaces, **settings)
            else:
                backend = BACKENDS[place["mode"]](place["channel"], world, **settings)
            with contextlib.closing(backend):
                while not told.words[ledger.STOP]:
                    _serve_one(backend, world, told, own_loop=place["loop"])
        except rlay.RlayError as error:
            told.tell("error", f"{type(error).__name__} hosting: {error}")
            time.sleep(0.01)
    broken.at_the_end(place)


def _serve_one(backend: Any, world: World, told: Ledger, *, own_loop: bool) -> None:
    try:
        if own_loop:
            _drive(backend, world, told)
        else:
            backend.serve(sessions=1)
    except (rlay.ChannelTimeoutError, rlay.ChannelNotFoundError):
        pass  # nobody came: look whether we shall stop, and wait on
    told.add(ledger.SESSIONS)


def _drive(backend: Any, world: World, told: Ledger) -> None:
    """Be a game with a loop of its own, for one session."""
    request = backend.next_request(None)
    while request is not None:
        try:
            if request.command is rlay.Command.RESET:
                result = world.reset(seed=request.seed, options=request.options)
                request = backend.decide(result[0], info=result[1])
            else:
                try:
                    results = world.step(request.action)
                except ValueError as error:
                    request = backend.fail(error)
                else:
                    request = backend.decide(*results)
        except rlay.ChannelTimeoutError as late:
            told.tell("error", f"ChannelTimeoutError deciding: {late}")
            request = backend.next_request(None)


class Agent:
    """Plays episodes of one channel, and checks each value."""

    smooth = False

    def __init__(self, place: Place, told: Ledger) -> None:
        self._place, self._told = place, told
        self._random = random.Random(place["seed"])
        self._timeout, self._attach = place["timeout"], place["attach"]
        self._env: Any = None
        self._models: list[Model] = []
        self._ready = self._unsure = False
        self._waits = 0

    # What differs for a vector.

    def _open(self) -> Any:
        settings = {"timeout": self._timeout, "attach_timeout": self._attach}
        return self._call(
            self._attach, lambda: FACES[self._place["mode"]](self._place["channel"], **settings)
        )

    def _reset(self) -> Any:
        seed = self._random.getrandbits(62)
        self._models = [Model(self._place["salt"], seed)]
        return self._call(self._attach + self._timeout, lambda: self._env.reset(seed=seed))

    def _step(self) -> Any:
        (model,) = self._models
        action = model.action()
        model.step()
        return self._call(self._timeout, lambda: self._env.step(action))

    def _check(self, result: tuple[Any, ...]) -> None:
        (model,) = self._models
        if model.raises and len(result) == 5:
            self._told.tell("wrong", f"step {model.k} of seed {model.seed} did not fail")
        elif wrong := difference(model, result):
            self._told.tell("wrong", wrong)

    def _over(self) -> bool:
        return any(model.terminated or model.truncated for model in self._models)

    def _give_up(self) -> None:
        self._call(self._attach, self._env.reattach)

    # What does not.

    def _call(self, allowed: float, function: Callable[[], Any]) -> Any:
        self._told.begin(allowed)
        try:
            broken.in_a_call(self._place, self._told, self._env)
            return function()
        finally:
            self._told.end()

    def play(self) -> None:
        """Make one call and check what comes of it; open first, settle what is pending first."""
        if self._env is None:
            self._env = self._open()
        if self._unsure:
            result = self._settle()
        elif self._ready:
            result = self._step()
        else:
            result = self._reset()
        if result is None:
            return
        self._check(result)
        self._told.add(ledger.STEPS if len(result) == 5 else ledger.EPISODES)
        self._ready = len(result) == 2 or not self._over()
        self._waits = 0
        if self._random.random() < 0.02:
            time.sleep(self._random.uniform(0.0, 0.004))

    def _settle(self) -> Any:
        """Get the reply that a time-out or Ctrl-C left pending, or give it up."""
        self._waits += 1
        if self._waits > PATIENCE:
            self._ready = self._unsure = False
            self._waits = 0
            self._give_up()
            return None
        try:
            result = self._call(self._timeout, self._env.wait)
        except rlay.LocalProtocolError:
            # The interrupt came when nothing was pending, or took the result with it.
            self._ready = self._unsure = False
            return None
        self._unsure = False
        return result

    def heard(self, error: rlay.RlayError) -> None:
        """Do as the documentation says."""
        told = f"{type(error).__name__} playing: {error}"
        if isinstance(error, rlay.RemoteError):
            self._unsure = self._ready = False
            (model,) = self._models if len(self._models) == 1 else (None,)
            if model and model.raises and f"step {model.k} fails" in error.message:
                return
        elif isinstance(error, rlay.ChannelTimeoutError):
            self._unsure = self._env is not None and error.phase not in ATTACHING
        else:
            self._unsure = False
        self._ready = False
        self._told.tell("error", told)
        time.sleep(self._random.uniform(0.0, 0.005))

    def interrupted(self) -> None:
        """Go on after Ctrl-C: what was asked may be pending."""
        self._told.tell("error", "KeyboardInterrupt playing")
        self._unsure, self._ready = self._env is not None, False

    def close(self) -> None:
        """Leave as a program does."""
        if self._env is not None:
            self._call(CLOSE + END, self._env.close)


class VectorAgent(Agent):
    """Plays lanes in worker processes that ``make_vec`` starts."""

    def _open(self) -> Any:
        salt = self._place["salt"]
        made = self._call(
            START,
            lambda: rlay.make_vec(
                lane_world,
                LANES,
                workers=WORKERS,
                autoreset_mode="Disabled",
                timeout=self._timeout,
                salt=salt,
                ledger_path=self._place["ledger"],
            ),
        )
        return made

    def _reset(self) -> Any:
        seeds = [self._random.getrandbits(62) for _ in range(LANES)]
        self._models = [Model(self._place["salt"], seed) for seed in seeds]
        return self._call(START + self._timeout, lambda: self._env.reset(seed=seeds))

    def _step(self) -> Any:
        import numpy as np

        actions = np.stack([model.action() for model in self._models])
        for model in self._models:
            model.step()
        return self._call(self._timeout, lambda: self._env.step(actions))

    def _check(self, result: tuple[Any, ...]) -> None:
        *columns, infos = result
        for lane, model in enumerate(self._models):
            mine = (columns[0][lane], *(column[lane] for column in columns[1:]), {})
            if infos:
                self._told.tell("wrong", f"infos came: {infos}")
            if wrong := difference(model, mine, smooth=True):
                self._told.tell("wrong", f"lane {lane}: {wrong}")

    def _give_up(self) -> None:
        env, self._env = self._env, None
        self._call(CLOSE + END, env.close)


def lane_world(salt: int, ledger_path: str) -> World:
    """Make one lane; runs in a worker."""
    path = Path(ledger_path).with_suffix(".worker.lines")

    def wrong(text: str) -> None:
        with path.open("a") as lines:
            lines.write(f"wrong {text}\n")

    return World(salt, wrong, smooth=True)


def agent(place: Place) -> None:
    """Play until told to stop; Ctrl-C ends it if the place says so."""
    told = _told_by(place)
    player = (VectorAgent if place["mode"] == "make_vec" else Agent)(place, told)
    try:
        while not told.words[ledger.STOP]:
            try:
                player.play()
            except KeyboardInterrupt:
                if place["ends"]:
                    raise
                player.interrupted()
            except rlay.RlayError as error:
                player.heard(error)
    finally:
        # Ctrl-C here would leave what it interrupts.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        player.close()
        broken.at_the_end(place)
