"""The process ``rlay.make`` and ``rlay.make_vec`` start: builds and serves for one session.

Run as ``python -m rlay.envs.hosting FORM FD``: the job is read from descriptor
FD, as a pickle from our own parent under the same interpreter, or as JSON.
"""

from __future__ import annotations

import functools
import importlib
import json
import os
import pickle
import sys
from collections.abc import Mapping
from typing import Any

import gymnasium

from rlay.envs.backends import Backend, ClientBackend, ServerBackend
from rlay.envs.vector_backend import VectorBackend
from rlay.errors import LocalProtocolError, PeerError

_BACKENDS = {"ClientEnv": ServerBackend, "ServerEnv": ClientBackend}


def build(env: Any, kwargs: Mapping[str, Any]) -> gymnasium.Env[Any, Any]:
    """Build an environment from an id, ``module:qualname``, or a callable.

    ``module:Name-v0`` is Gymnasium's way to import the module that registers an id.

    Raises:
        LocalProtocolError: the callable returned something else.
    """
    if isinstance(env, str):
        module, _, name = env.partition(":")
        if not name or env in gymnasium.registry or "-v" in name:
            return gymnasium.make(env, **kwargs)
        env = importlib.import_module(module)
        for part in name.split("."):
            env = getattr(env, part)
    made = env(**kwargs)
    if not isinstance(made, gymnasium.Env):
        raise LocalProtocolError(f"{env!r} returned {type(made).__name__}, not a gymnasium.Env")
    return made


def read_job(form: str, descriptor: int) -> dict[str, Any]:
    """Read the job; its sender is the parent, never a peer."""
    with os.fdopen(descriptor, "rb") as stream:
        if form == "json":
            job: dict[str, Any] = json.load(stream)
            capacities = job["options"].get("capacities", {})
            for path, capacity in capacities.items():
                capacities[path] = tuple(capacity) if isinstance(capacity, list) else capacity
            return job
        job = pickle.load(stream)
    sys.path.extend(entry for entry in job["path"] if entry not in sys.path)
    return {**job, **pickle.loads(job["inner"])}


def open_backend(job: Mapping[str, Any]) -> Backend:
    """Build what the job asks for: one environment, or the lanes of a vector."""
    factory = functools.partial(build, job["env"], job["kwargs"])
    if job["mode"] == "VectorEnv":
        return VectorBackend(job["channel"], factory, **job["options"])
    return _BACKENDS[job["mode"]](job["channel"], factory(), **job["options"])


def main(form: str, descriptor: int) -> None:
    """Serve one session, then close the environment and return."""
    with open_backend(read_job(form, descriptor)) as backend:
        try:
            backend.serve(sessions=1)
        except PeerError:
            # The agent left or died: there is nobody to tell.
            pass


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
