"""``rlay.make``: an environment in a process of its own, as easily as ``gymnasium.make``."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import gymnasium

from rlay.envs.client_env import ClientEnv
from rlay.envs.job import given, job_launcher, new_channel
from rlay.envs.launch import Launcher
from rlay.envs.remote_env import RemoteEnv
from rlay.envs.server_env import ServerEnv
from rlay.errors import LocalProtocolError
from rlay.protocol.spaces import Capacities

Mode = Literal["ClientEnv", "ServerEnv"]
_FACES: dict[str, type[ClientEnv] | type[ServerEnv]] = {
    "ClientEnv": ClientEnv,
    "ServerEnv": ServerEnv,
}


def make(
    env: str | Callable[..., gymnasium.Env[Any, Any]] | None = None,
    *,
    python: str | None = None,
    command: Sequence[str] | None = None,
    mode: Mode = "ClientEnv",
    timeout: float | None = 60.0,
    attach_timeout: float = 60.0,
    copy: bool = True,
    wait: str | None = None,
    info_fields: Mapping[str, Any] | None = None,
    capacities: Capacities | None = None,
    request_body: int | None = None,
    reply_body: int | None = None,
    frame_capacity: int | None = None,
    **kwargs: Any,
) -> RemoteEnv:
    """Start an environment in another process and attach to it.

    The process and all it started end when the environment is closed, when this
    process exits, and when it is killed. If the process dies, the call that notices
    raises ``PeerLostError`` with its exit code and the end of its stderr, and the
    next ``reset()`` starts it again.

    Args:
        env: a registered id such as ``"CartPole-v1"``, or a callable that returns an
            environment. Lambdas and local functions are fine without ``python``.
        python: another interpreter to run it, such as ``"venv/bin/python"``, which has
            rlay installed; the callable must then be importable there.
        command: instead of ``env``, a game to start, such as ``["./game", "--server"]``.
            It finds the channel in the environment variable RLAY_CHANNEL, or where an
            argument says ``{channel}``.
        mode: ``"ClientEnv"``: the started process serves the environment and owns the
            channel. ``"ServerEnv"``: it attaches to ours and asks for decisions.
        timeout: seconds each call waits; None waits as long as the process lives.
        attach_timeout: seconds the process has to start and attach.
        copy: if False, observations are read-only views; see ``ClientEnv``.
        wait: how both ends wait for the turn; see ``ClientEnv``.
        info_fields: see ``ServerBackend``; not with ``command``, like the four below.
        capacities: see ``ServerBackend``.
        request_body: see ``ServerBackend``.
        reply_body: see ``ServerBackend``.
        frame_capacity: see ``ServerBackend``.
        **kwargs: for the environment.

    Raises:
        PeerLostError: the process ended before it attached, for instance because the
            environment's constructor raised; says how.
        ChannelNotFoundError: no such program, or it did not attach in time.
    """
    if mode not in _FACES:
        raise LocalProtocolError(f"mode={mode!r}: use one of {sorted(_FACES)}")
    options = given(
        info_fields=info_fields,
        capacities=capacities,
        request_body=request_body,
        reply_body=reply_body,
        frame_capacity=frame_capacity,
    )
    if env is not None and command is None:
        hosting = {**options, "attach_timeout": attach_timeout, "wait": wait}
        launcher = job_launcher(env, kwargs, hosting, mode=mode, python=python)
    elif command is not None and env is None:
        if python_only := [*options, *kwargs, *given(python=python)]:
            raise LocalProtocolError(
                f"{python_only[0]}= is for Python environments, not for command="
            )
        launcher = Launcher(command, channel=new_channel())
    else:
        raise LocalProtocolError("give either an environment or command=, not both")
    try:
        made = _FACES[mode](
            launcher.channel,
            timeout=timeout,
            attach_timeout=attach_timeout,
            copy=copy,
            wait=wait,
            launcher=launcher,
        )
    except BaseException:
        launcher.stop()
        raise
    if made.spec is not None:
        waiting = {"timeout": timeout, "attach_timeout": attach_timeout, "copy": copy}
        again = given(env=env, python=python, command=command, mode=mode, wait=wait)
        made.spec = dataclasses.replace(
            made.spec, entry_point="rlay:make", kwargs={**waiting, **again, **options, **kwargs}
        )
    return made
