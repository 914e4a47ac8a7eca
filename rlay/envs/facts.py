"""What a ``gymnasium.Env`` tells about itself, in the form the schema carries."""

from __future__ import annotations

import enum
import json
import re
import warnings
from typing import Any

import gymnasium
import numpy as np

from rlay.errors import RlayWarning
from rlay.protocol.schema import EnvFacts

#: Room for a 1080p RGB frame (6,220,800 bytes), and some.
DEFAULT_FRAME_CAPACITY = 8 << 20


def _plain(value: Any) -> Any:
    """Return a JSON value for NumPy numbers and enums, which ``json`` does not know."""
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, enum.Enum):
        return value.value
    raise TypeError(type(value).__name__)


def _metadata(env: gymnasium.Env[Any, Any]) -> dict[str, Any]:
    metadata = {}
    for key, value in (env.metadata or {}).items():
        try:
            metadata[str(key)] = json.loads(json.dumps(value, default=_plain, allow_nan=False))
        except (TypeError, ValueError) as error:
            warnings.warn(
                f"metadata[{key!r}] stays with the environment: JSON cannot carry it ({error})",
                RlayWarning,
                stacklevel=4,
            )
    return metadata


def spec_id(facts: EnvFacts, channel: str) -> str:
    """Return the id of an ``EnvSpec``: the environment's own where Gymnasium takes it for one."""
    if facts.id and re.fullmatch(r"([\w:-]+/)?[\w:.-]+-v\d{1,9}", facts.id):
        return facts.id
    return f"rlay/{channel}-v0"


def read_facts(env: gymnasium.Env[Any, Any] | None) -> EnvFacts:
    """Return what the schema says about an environment besides its spaces."""
    if env is None:
        return EnvFacts()
    spec = env.spec
    return EnvFacts(
        id=spec.id if spec else None,
        metadata=_metadata(env),
        render_mode=env.render_mode,
        max_episode_steps=spec.max_episode_steps if spec else None,
        reward_threshold=spec.reward_threshold if spec else None,
    )


def frame_capacity_of(env: gymnasium.Env[Any, Any] | None) -> int:
    """Return the bytes to reserve for frames if nobody said."""
    return DEFAULT_FRAME_CAPACITY if env is not None and env.render_mode == "rgb_array" else 0
