"""VectorEnv: many environments in a few processes, as one ``gymnasium.vector.VectorEnv``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from rlay.envs.remote_vector import RemoteVector
from rlay.envs.vector_arguments import read_ids, read_mask, read_seeds, share_out
from rlay.envs.vector_workers import Batch, Worker
from rlay.errors import LocalProtocolError
from rlay.lifetime import alone
from rlay.protocol.lanes import LaneActions, LaneReply, LaneSeeds

Step = tuple[Any, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]


class VectorEnv(RemoteVector):
    """A ``gymnasium.vector.VectorEnv`` over workers that each host some lanes behind a channel.

    Results equal those of ``SyncVectorEnv``, seed for seed, in every autoreset mode.

    Example::

        envs = rlay.make_vec("CartPole-v1", 64)
        observations, infos = envs.reset(seed=0)
        observations, rewards, terminations, truncations, infos = envs.step(actions)

    Attributes:
        timeout: seconds each call waits; None waits as long as the workers live.
        channels: names of the channels.
        lanes: how many lanes each worker has; they are numbered in this order.
    """

    def _check_started(self) -> None:
        if not self._pool.ready:
            fresh = [i for w in self._workers for i in (np.flatnonzero(w.fresh) + w.first).tolist()]
            if fresh or any(w.session.ended for w in self._workers):
                raise LocalProtocolError(f"call reset() first: lanes {fresh or 'of a lost worker'}")
            self._pool.ready = True

    def _room(self) -> Batch:
        """Return where all lanes' results go; without observations if these are views."""
        if self._copy:
            return Batch(self.num_envs, self._observed.empty(self.num_envs))
        return Batch(self.num_envs, None if len(self._workers) == 1 else self._kept)

    def _observations(self, batch: Batch) -> Any:
        if batch.observations is not None:
            return self._observed.finish(batch.observations)
        last = self._workers[0].last
        return last.record.observation.view() if last else None

    # Reset and step.

    @alone
    def reset(
        self,
        *,
        seed: int | Sequence[int | None] | None = None,
        options: dict[str, Any] | None = None,
    ) -> tuple[Any, dict[str, Any]]:
        """Reset all lanes, or those of ``options["reset_mask"]``; restarts lost workers.

        Args:
            seed: lane *i* gets ``seed + i``; or a list with one for each lane; or None.
            options: handed to every lane that is reset, but for ``reset_mask``, a bool array
                [num_envs].

        Returns:
            observations of all lanes, and infos in Gymnasium's form.

        Raises:
            LocalProtocolError: a call is pending, or a lane outside the mask was never reset.
            LayoutError: a seed or options cannot be carried exactly; nothing was sent.
            RemoteError: a lane raised; names it.
            PeerLostError: a worker vanished; names its lanes, exit code and stderr.
            ChannelTimeoutError: no reply in time; call ``wait()``.
        """
        self._check_idle()
        seeds = read_seeds(seed, self.num_envs)
        mask, options = read_mask(options, self.num_envs)
        if isinstance(seed, int | np.integer):
            super().reset(seed=int(seed))
        self._pool.revive()
        chosen = [w for w in self._workers if mask is None or mask[w.where].any()]
        self._check_rest(mask)
        batch = self._room()

        def send(worker: Worker) -> None:
            part = None if mask is None else mask[worker.where]
            worker.session.send_reset(LaneSeeds(seeds[worker.where], part), options)  # type: ignore[arg-type]

        def take(worker: Worker, reply: LaneReply) -> None:
            worker.last = reply
            part = slice(None) if mask is None else mask[worker.where]
            worker.fresh[part] = False
            self._over[worker.where][part] = False
            batch.take_reset(worker, reply)

        def result() -> tuple[Any, dict[str, Any]]:
            for worker in self._workers:
                if worker not in chosen and worker.last and batch.observations is not None:
                    # Its lanes go on; their observations still lie in its record.
                    record = worker.last.record
                    record.observation.take(batch.observations, worker.where)
                    worker.session.check_intact()
            return self._observations(batch), batch.infos

        answer: tuple[Any, dict[str, Any]] = self._pool.ask(chosen, send, take, result)
        return answer

    def _check_rest(self, mask: np.ndarray | None) -> None:
        """Refuse to leave out a lane that has no episode."""
        if mask is not None:
            fresh = np.concatenate([worker.fresh for worker in self._workers])
            if (left_out := np.flatnonzero(fresh & ~mask)).size:
                raise LocalProtocolError(f"lanes {left_out.tolist()} need a reset too")

    @alone
    def step(self, actions: Any) -> Step:
        """Step every lane.

        Args:
            actions: a batch as of ``action_space``.

        Returns:
            observations, rewards (float64), terminations, truncations (bool), each [num_envs],
            and infos in Gymnasium's form. See ``copy`` for how long observations live.

        Raises:
            LocalProtocolError: before ``reset()``, or while a call is pending.
            LayoutError: the records cannot hold exactly these actions; nothing was sent.
            RemoteError: a lane raised; names it. ``reset()`` that worker's lanes.
            PeerLostError: a worker vanished; names its lanes, exit code and stderr.
            ChannelTimeoutError: no reply in time; call ``wait()``.
        """
        self._check_idle()
        self._check_started()
        if self._mode == "disabled" and self._over.any():
            late = np.flatnonzero(self._over).tolist()
            raise LocalProtocolError(f"the episodes of lanes {late} are over: reset these first")
        exact = self._exact(actions, self.num_envs)
        arrays = self._actions.arrays(exact)
        batch = self._room()

        def send(worker: Worker) -> None:
            worker.session.post_step(LaneActions(exact, worker.where), arrays, worker.first)

        def take(worker: Worker, reply: LaneReply) -> None:
            worker.last, where = reply, worker.where
            batch.take_step(worker, reply, where)
            if self._mode == "disabled":
                self._over[where] = batch.terminations[where] | batch.truncations[where]

        def result() -> Step:
            observations = self._observations(batch)
            return observations, batch.rewards, batch.terminations, batch.truncations, batch.infos

        answer: Step = self._pool.ask(self._pool.in_order(), send, take, result)
        return answer

    def _exact(self, actions: Any, count: int) -> Any:
        codec = self._actions
        exact = codec.exact(actions, count)
        if not codec.whole:
            # Values without a fixed shape are tried out here, so that none fails half way.
            for i in range(count):
                codec.put(exact, slice(i, i + 1), slice(0, 1))
        return exact

    # First ready.

    @alone
    def send(self, actions: Any, env_ids: Any = None) -> None:
        """Send actions without waiting; ``recv()`` gets the results.

        Args:
            actions: a batch of as many actions as lanes.
            env_ids: the lanes they are for; left out, all. A worker takes the actions for
                its lanes at once, and the next ones after its results were received.

        Raises:
            LocalProtocolError: before ``reset()``, or a worker's results are outstanding.
            LayoutError: the records cannot hold exactly these actions; nothing was sent.
        """
        self._check_idle(but_for_flying=True)
        self._check_started()
        ids = read_ids(env_ids, self.num_envs)
        exact = self._exact(actions, ids.size)
        arrays = self._actions.arrays(exact)
        parts = list(share_out(ids, self._workers))
        for worker, which, _ in parts:
            if self._pool.flies(worker):
                raise LocalProtocolError(f"the results of {worker} are outstanding: recv() first")
            if self._mode == "disabled" and self._over[ids[which]].any():
                raise LocalProtocolError(f"episodes of {worker} are over: reset these lanes first")
        for worker, which, lanes in parts:
            first = which.start if isinstance(which, slice) else None
            self._pool.launch(worker, LaneActions(exact, which, lanes), arrays, first)

    @alone
    def recv(self, timeout: float | None = -1.0) -> Step:
        """Return the results of the first workers that are ready, at least one.

        Args:
            timeout: seconds; left out, ``self.timeout``; None, as long as the workers live.

        Returns:
            As of ``step``, for the lanes that are in ``infos["env_id"]`` (int64 [n]) in the
            same order. The arrays are copies.

        Raises:
            LocalProtocolError: nothing was sent.
            ChannelTimeoutError: no reply in time; call ``recv()`` again.
            RemoteError, PeerLostError: names the lanes; the others' results come with the
                next ``recv()``.
        """
        found = self._pool.first_ready(self.timeout if timeout == -1.0 else timeout)
        ids = [np.arange(worker.count)[lanes] + worker.first for worker, lanes, _ in found]
        count = sum(part.size for part in ids)
        batch = Batch(count, self._observed.empty(count))
        start = 0
        for (worker, lanes, reply), part in zip(found, ids, strict=True):
            worker.last = reply
            where = slice(start, start + part.size)
            batch.take_step(worker, reply, where, lanes)
            if self._mode == "disabled":
                self._over[part] = batch.terminations[where] | batch.truncations[where]
            start = where.stop
        infos = {**batch.infos, "env_id": np.concatenate(ids).astype(np.int64)}
        observations = self._observed.finish(batch.observations)
        return observations, batch.rewards, batch.terminations, batch.truncations, infos
