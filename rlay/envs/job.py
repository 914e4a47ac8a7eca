"""What a started process is told to host; ``hosting.py`` reads it there."""

from __future__ import annotations

import json
import os
import pickle
import secrets
import sys
import tempfile
from collections.abc import Callable, Mapping
from typing import Any

import gymnasium

from rlay.envs.launch import Launcher
from rlay.errors import LayoutError, LocalProtocolError


def given(**options: Any) -> dict[str, Any]:
    """Return the options that are not None: the others are left to who has the default."""
    return {key: value for key, value in options.items() if value is not None}


def new_channel() -> str:
    """Return a channel name that nobody else uses."""
    return f"make-{os.getpid()}-{secrets.token_hex(6)}"


def job_launcher(
    env: str | Callable[..., gymnasium.Env[Any, Any]],
    kwargs: Mapping[str, Any],
    options: Mapping[str, Any],
    *,
    mode: str,
    python: str | None,
) -> Launcher:
    """Return the launcher, not started yet, of a process that hosts an environment.

    Args:
        env: a registered id, or a callable.
        kwargs: for the environment.
        options: for its backend.
        mode: ``"ClientEnv"``, ``"ServerEnv"`` or ``"VectorEnv"``: the face that will use it.
        python: another interpreter; see ``make``.

    Raises:
        LocalProtocolError: another interpreter could not find the callable.
        LayoutError: an argument cannot be told to another interpreter.
        ChannelNotFoundError: there is no such interpreter.
    """
    channel, portable = new_channel(), python is not None
    job = {
        "env": _reference(env) if portable else env,
        "kwargs": kwargs,
        "options": options,
        "mode": mode,
        "channel": channel,
    }
    form = "json" if portable else "pickle"
    program = [python or sys.executable, "-m", "rlay.envs.hosting", form, "{fd}"]
    return Launcher(program, channel=channel, inherit=[_write_job(job, portable=portable)])


def _reference(env: str | Callable[..., gymnasium.Env[Any, Any]]) -> str:
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


def _write_job(job: Mapping[str, Any], *, portable: bool) -> Callable[[], int]:
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
