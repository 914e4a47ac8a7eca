"""The CartPole of the reference port: how it draws the state it begins in."""

from __future__ import annotations

from collections.abc import Iterator


def splitmix64(state: int) -> Iterator[float]:
    """Numbers in [0, 1) as cartpole_env.c draws them."""
    while True:
        state = (state + 0x9E3779B97F4A7C15) % 2**64
        z = state
        z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9 % 2**64
        z = (z ^ z >> 27) * 0x94D049BB133111EB % 2**64
        yield ((z ^ z >> 31) >> 11) * 2.0**-53


def cartpole_start(seed: int) -> list[float]:
    """Return the state in which cartpole_env.c begins an episode."""
    numbers = splitmix64(seed)
    return [-0.05 + (0.05 - -0.05) * next(numbers) for _ in range(4)]
