"""What a vector of environments in other processes is besides its steps.

Attaching, the spaces, calls, frames, waiting for what is pending, and the end.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

import gymnasium
import numpy as np
from gymnasium.envs.registration import EnvSpec
from gymnasium.vector.utils import batch_space

from rlay.envs.facts import spec_id
from rlay.envs.launch import Launcher
from rlay.envs.remote_env import check_spaces
from rlay.envs.vector_backend import AUTORESET
from rlay.envs.vector_pool import Pool
from rlay.envs.vector_workers import Worker
from rlay.errors import LayoutError, LocalProtocolError, RemoteProtocolError
from rlay.lifetime import alone, close, new_guard
from rlay.protocol.lanes import LaneReplyRecord, LaneRequestRecord
from rlay.protocol.schema import Schema, compile_layout
from rlay.protocol.spaces import space_from

Vector = TypeVar("Vector", bound="RemoteVector")


class RemoteVector(gymnasium.vector.VectorEnv[Any, Any, np.ndarray]):
    """Base of ``VectorEnv``.

    Attributes:
        channels: names of the channels.
        lanes: how many lanes each worker has; they are numbered in this order.
        guard: lets in one call at a time, in whatever thread, and ``close()`` always.
    """

    def __init__(
        self,
        channels: str | Sequence[str],
        *,
        timeout: float | None = 60.0,
        attach_timeout: float | None = 30.0,
        copy: bool = True,
        observation_space: gymnasium.Space[Any] | None = None,
        action_space: gymnasium.Space[Any] | None = None,
        launchers: Sequence[Launcher] = (),
        wait: str | None = None,
        cores: Sequence[int | None] = (),
    ) -> None:
        """Attach to every channel, waiting for the servers to appear.

        Args:
            channels: names of the channels, each served by a ``VectorBackend``, or by any
                program that speaks the protocol with lanes.
            timeout: seconds each later call waits; None waits while the workers live.
            attach_timeout: seconds to wait for each server here and after a lost one.
            copy: if False, observations of ``reset`` and ``step`` change with the next
                request: with one worker they are read-only views of the mapped record, with
                more the same arrays each time.
            observation_space: if given, that of each lane must be the same.
            action_space: if given, that of each lane must be the same.
            launchers: of the workers' processes, if this end starts them; one a channel.
            wait: how to wait for the turn; as of ``ClientEnv``. Left out, we do not spin
                when there are as many workers as cores.
            cores: the processor core each worker goes back to, as of ``VectorBackend``; those
                on ours are asked last.

        Raises:
            ChannelNotFoundError: no live server appeared.
            ChannelBusyError: a server has another client.
            LayoutMismatchError: the workers or the spaces are not alike.
            PeerLostError: a process that we started ended before it attached.
        """
        self.channels = (channels,) if isinstance(channels, str) else tuple(channels)
        if not self.channels or (launchers and len(launchers) != len(self.channels)):
            raise LocalProtocolError("give at least one channel, and a launcher for each or none")
        self._copy = copy
        expected = {"observation": observation_space, "action": action_space}
        self.guard = new_guard()
        self._pool = self.guard(
            Pool,
            self.channels,
            launchers,
            timeout=timeout,
            attach_timeout=attach_timeout,
            accepts=lambda schema: check_spaces(schema, expected),
            wait=wait,
            guard=self.guard,
            cores=cores,
        )
        self.lanes = tuple(worker.count for worker in self._workers)
        self.num_envs = sum(self.lanes)
        self._adopt(self._workers[0].session.schema)
        # The lanes that a reset has to come for, with autoreset "disabled".
        self._over = np.zeros(self.num_envs, np.bool_)
        self._kept = None if copy else self._observed.empty(self.num_envs)

    @property
    def _workers(self) -> list[Worker]:
        return self._pool.workers

    def _adopt(self, schema: Schema) -> None:
        group, facts = schema.groups[0], schema.env
        self.single_observation_space = space_from(group.observation, "observation")
        self.single_action_space = space_from(group.action, "action")
        self.observation_space = batch_space(self.single_observation_space, self.num_envs)
        self.action_space = batch_space(self.single_action_space, self.num_envs)
        self._mode = group.autoreset
        self.metadata = {**facts.metadata, "autoreset_mode": AUTORESET[group.autoreset]}
        self.render_mode = facts.render_mode
        self.spec = EnvSpec(
            id=spec_id(facts, self.channels[0]),
            reward_threshold=facts.reward_threshold,
            max_episode_steps=facts.max_episode_steps,
            vector_entry_point="rlay:VectorEnv",
            kwargs={"channels": self.channels},
        )
        # Records in no file: they know what a batch looks like, and try out values.
        layout = compile_layout(schema)
        nowhere = memoryview(bytearray(layout.data_size))
        self._actions = LaneRequestRecord(schema, layout, nowhere).actions
        self._observed = LaneReplyRecord(schema, layout, nowhere).observation

    @property
    def timeout(self) -> float | None:
        """Seconds each call waits; None waits as long as the workers live."""
        return self._pool.timeout

    @timeout.setter
    def timeout(self, seconds: float | None) -> None:
        self._pool.timeout = seconds

    @property
    def np_random_seed(self) -> Any:
        """The seed each lane's generator was made with, as a tuple."""
        return self.get_attr("np_random_seed")

    def _check_idle(self, *, but_for_flying: bool = False) -> None:
        self._pool.check_idle(but_for_flying=but_for_flying)

    @alone
    def wait(self, timeout: float | None = -1.0) -> Any:
        """Go on waiting for the call that timed out or was interrupted.

        Args:
            timeout: seconds; left out, ``self.timeout``; None, as long as the workers live.

        Returns:
            What that call would have returned.

        Raises:
            LocalProtocolError: nothing is pending.
        """
        return self._pool.wait(self.timeout if timeout == -1.0 else timeout)

    def call(self, name: str, *args: Any, **kwargs: Any) -> tuple[Any, ...]:
        """Call a method of every lane, or return its attribute, by public name.

        Arguments and results are carried as MessagePack, like reset options.
        """
        return self._ask_all("call", name, lambda worker: args, kwargs)

    def get_attr(self, name: str) -> tuple[Any, ...]:
        """Return an attribute of every lane; one that can be called is called, as in Gymnasium."""
        return self.call(name)

    def set_attr(self, name: str, values: Any) -> None:
        """Set an attribute of every lane: to one value, or to those of a list or tuple."""
        if not isinstance(values, list | tuple):
            values = [values] * self.num_envs
        if len(values) != self.num_envs:
            raise LayoutError(f"{len(values)} values for {self.num_envs} lanes")
        self._ask_all("set", name, lambda worker: (list(values[worker.where]),), {})

    @alone
    def _ask_all(self, op: str, name: str, args: Any, kwargs: dict[str, Any]) -> tuple[Any, ...]:
        self._check_idle()
        self._check_sessions()
        results: list[list[Any]] = [[] for _ in self._workers]

        def send(worker: Worker) -> None:
            worker.session.send_call(op, name, args(worker), kwargs)

        def take(worker: Worker, values: Any) -> None:
            if not isinstance(values, list) or len(values) != worker.count:
                if op != "set":
                    raise RemoteProtocolError(f"{worker} did not answer with a value a lane")
                values = []
            results[worker.index] = values

        def result() -> tuple[Any, ...]:
            return tuple(value for values in results for value in values)

        answer: tuple[Any, ...] = self._pool.ask(self._workers, send, take, result)
        return answer

    def _check_sessions(self) -> None:
        if lost := [str(worker) for worker in self._workers if worker.session.ended]:
            raise LocalProtocolError(f"{', '.join(lost)}: the session is over; call reset() first")

    @alone
    def render(self) -> tuple[Any, ...]:
        """Return what every lane renders, in order."""
        self._check_idle()
        self._check_sessions()
        return self._render_from(0, [None] * self.num_envs)

    def _render_from(self, lane: int, frames: list[Any]) -> tuple[Any, ...]:
        """Ask each worker for its frame of one lane, then for the rest."""
        workers = [worker for worker in self._workers if worker.count > lane]
        if not workers:
            return tuple(frames)

        def take(worker: Worker, frame: Any) -> None:
            frames[worker.first + lane] = frame

        rendered: tuple[Any, ...] = self._pool.ask(
            workers,
            lambda worker: worker.session.send_render(lane),
            take,
            lambda: self._render_from(lane + 1, frames),
        )
        return rendered

    def close_extras(self, **kwargs: Any) -> None:
        """End the sessions, and the processes if we launched them; in any thread."""
        close(self.guard, self._pool.close)

    def __enter__(self: Vector) -> Vector:
        """Return self; leaving the block closes it."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close."""
        self.close()
