"""``rlay.make``: an environment in a process of its own, as easily as ``gymnasium.make``."""

from __future__ import annotations

import dataclasses
import json
import os
import pickle
import secrets
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import gymnasium

from rlay.envs.client_env import ClientEnv
from rlay.envs.launch import Launcher
from rlay.envs.remote_env import RemoteEnv
from rlay.envs.server_env import ServerEnv
from rlay.errors import LayoutError, LocalProtocolError
from rlay.protocol.spaces import Capacities

Mode = Literal["ClientEnv", "ServerEnv"]
_FACES: dict[str, type[ClientEnv] | type[ServerEnv]] = {
    "ClientEnv": ClientEnv,
    "ServerEnv": ServerEnv,
}


def reference(env: str | Callable[..., gymnasium.Env[Any, Any]]) -> str:
    """Return how another interpreter finds the environment: an id, or module:qualname."""
    if isinstance(env, str):
        return env
    module, name = getattr(env, "__module__", "__main__"), getattr(env, "__qualname__", "<>")
    if module == "__main__" or "<" in name:
        raise LocalProtocolError(
            f"python= needs an environment that the other interpreter can import; {env!r} is "
            "defined in this script: move it into a module, or register an id"
        )
    return f"{module}:{name}"


def write_job(job: Mapping[str, Any], *, portable: bool) -> Callable[[], int]:
    """Return a function that gives a fresh descriptor of the job for each start.

    A pickle never enters the channel: it goes to our own child, under our own interpreter,
    in a file without a name. Another interpreter gets JSON.
    """
    if portable:
        try:
            data = json.dumps(job, allow_nan=False).encode()
        except (TypeError, ValueError) as error:
            raise LayoutError(
                f"with python= every argument must be JSON (a dtype name, not a Space): {error}"
            ) from None
    else:
        import cloudpickle  # only here, and it takes milliseconds

        # Two pickles: the path must be in place before the inner one imports its modules.
        inner = cloudpickle.dumps({key: job[key] for key in ("env", "kwargs", "options")})
        outer = {"mode": job["mode"], "channel": job["channel"], "path": sys.path}
        data = pickle.dumps({**outer, "inner": inner})

    def open_job() -> int:
        descriptor, name = tempfile.mkstemp(prefix="rlay-job-")
        os.unlink(name)
        with os.fdopen(os.dup(descriptor), "wb") as stream:
            stream.write(data)
        os.lseek(descriptor, 0, os.SEEK_SET)
        return descriptor

    return open_job


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
    if (env is None) == (command is None):
        raise LocalProtocolError("give either an environment or command=, not both")
    channel = f"make-{os.getpid()}-{secrets.token_hex(6)}"
    options = {
        "info_fields": info_fields,
        "capacities": capacities,
        "request_body": request_body,
        "reply_body": reply_body,
        "frame_capacity": frame_capacity,
    }
    options = {key: value for key, value in options.items() if value is not None}
    if command is not None:
        if options or kwargs or python:
            given = [*options, *kwargs, *(["python"] if python else [])]
            raise LocalProtocolError(f"{given[0]}= is for Python environments, not for command=")
        launcher = Launcher(command, channel=channel)
    else:
        job = {
            "env": reference(env) if python else env,  # type: ignore[arg-type]
            "kwargs": kwargs,
            "options": {**options, "attach_timeout": attach_timeout, "wait": wait},
            "mode": mode,
            "channel": channel,
        }
        open_job = write_job(job, portable=python is not None)
        form = "json" if python else "pickle"
        program = [python or sys.executable, "-m", "rlay.envs.hosting", form, "{fd}"]
        launcher = Launcher(program, channel=channel, inherit=[open_job])
    try:
        made = _FACES[mode](
            channel,
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
        again = {"env": env, "python": python, "command": command, "mode": mode, **options}
        again = {key: value for key, value in again.items() if value is not None}
        made.spec = dataclasses.replace(
            made.spec, entry_point="rlay:make", kwargs={**again, **kwargs}
        )
    return made
