"""``rlay.make_vec``: many environments in a few processes, as easily as ``gymnasium.make_vec``."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import gymnasium
from gymnasium.vector import AutoresetMode

from rlay.channel.wait import usable_cores
from rlay.envs.job import given, job_launcher
from rlay.envs.vector_env import VectorEnv
from rlay.envs.vector_pool import wait_among
from rlay.errors import LocalProtocolError
from rlay.protocol.spaces import Capacities


def split(lanes: int, workers: int) -> list[int]:
    """Return how many lanes each worker gets: sizes differ by one at most."""
    size, rest = divmod(lanes, workers)
    return [size + (worker < rest) for worker in range(workers)]


def homes(workers: int) -> list[int | None]:
    """Return the core each worker goes back to; None where there are cores to spare.

    With fewer workers than cores the system finds an idle one by itself; and other
    programs that do as we do would choose the same.
    """
    cores = usable_cores()
    if workers < len(cores) or len(cores) == 1:
        return [None] * workers
    return [cores[worker % len(cores)] for worker in range(workers)]


def make_vec(
    env: str | Callable[..., gymnasium.Env[Any, Any]],
    num_envs: int,
    *,
    workers: int | None = None,
    autoreset_mode: str | AutoresetMode = AutoresetMode.NEXT_STEP,
    python: str | None = None,
    timeout: float | None = 60.0,
    attach_timeout: float = 60.0,
    copy: bool = True,
    info_fields: Mapping[str, Any] | None = None,
    capacities: Capacities | None = None,
    request_body: int | None = None,
    reply_body: int | None = None,
    frame_capacity: int | None = None,
    wait: str | None = None,
    **kwargs: Any,
) -> VectorEnv:
    """Start environments in worker processes and attach to them as one vector.

    The processes end when the vector is closed, when this process exits, and when it is
    killed. If one dies, the call that notices raises ``PeerLostError`` with its lanes, its
    exit code and the end of its stderr, and the next ``reset()`` starts it again.

    Args:
        env: a registered id such as ``"CartPole-v1"``, or a callable that returns an
            environment. Lambdas and local functions are fine without ``python``.
        num_envs: how many lanes.
        workers: how many processes share them evenly; left out, one for each usable core.
        autoreset_mode: when a lane whose episode ended is reset, as in Gymnasium.
        python: another interpreter to run them; see ``make``.
        timeout: seconds each call waits; None waits as long as the workers live.
        attach_timeout: seconds each process has to start and attach.
        copy: see ``VectorEnv``.
        info_fields: info keys that ride in the record and cost no encoding, each with its
            Space or dtype; see ``VectorBackend``.
        capacities: see ``VectorBackend``.
        request_body: see ``VectorBackend``.
        reply_body: see ``VectorBackend``.
        frame_capacity: see ``VectorBackend``.
        wait: how both sides wait for the turn; as of ``ClientEnv``. Left out, nobody
            spins when there are more workers than cores, and we do not when there are as many.
        **kwargs: for each environment.

    Raises:
        PeerLostError: a process ended before it attached, for instance because an
            environment's constructor raised; says how.
        ChannelNotFoundError: no such program, or it did not attach in time.
    """
    if num_envs < 1 or (workers is not None and not 1 <= workers <= num_envs):
        raise LocalProtocolError(
            f"num_envs={num_envs}, workers={workers}: give at least one lane to each worker"
        )
    mode = AutoresetMode(autoreset_mode)
    options = given(
        info_fields=info_fields,
        capacities=capacities,
        request_body=request_body,
        reply_body=reply_body,
        frame_capacity=frame_capacity,
    )
    sizes = split(num_envs, workers or min(num_envs, len(usable_cores())))
    cores = homes(len(sizes))
    hosting = {
        **options,
        "attach_timeout": attach_timeout,
        "autoreset_mode": mode.value,
        # A worker that has a core of its own may spin there while we, who have none, sleep.
        "wait": wait if len(sizes) == len(usable_cores()) else wait_among(len(sizes), wait),
    }
    launchers = [
        job_launcher(
            env, kwargs, {**hosting, "lanes": lanes, "core": core}, mode="VectorEnv", python=python
        )
        for lanes, core in zip(sizes, cores, strict=True)
    ]
    made = VectorEnv(
        [launcher.channel for launcher in launchers],
        timeout=timeout,
        attach_timeout=attach_timeout,
        copy=copy,
        launchers=launchers,
        wait=wait,
        cores=cores,
    )
    if made.spec is not None:
        waiting = {"timeout": timeout, "attach_timeout": attach_timeout, "copy": copy}
        again = given(
            env=env,
            num_envs=num_envs,
            workers=workers,
            python=python,
            wait=wait,
            autoreset_mode=mode.value,
        )
        made.spec = dataclasses.replace(
            made.spec,
            vector_entry_point="rlay:make_vec",
            kwargs={**waiting, **again, **options, **kwargs},
        )
    return made
