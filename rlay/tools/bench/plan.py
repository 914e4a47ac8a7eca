"""How much a run measures: quick or full, and what the flags override."""

from __future__ import annotations

import dataclasses

#: The groups, in the order they run and are shown.
GROUPS = ("step", "image", "vector", "crowd", "idle", "death", "import")


@dataclasses.dataclass(frozen=True)
class Plan:
    """The sizes of a run.

    Attributes:
        rounds: how often every contender of a group has its turn.
        sample_ns: how long one turn should take; its steps are chosen by a warm-up.
        steps: steps of one turn, if they are not to be chosen.
        lanes: sub-environments of the vector group.
        workers: worker processes of the vector group.
        vector_rounds: the rounds of the vector group.
        vector_sample_ns: a turn of the vector group.
        image_rounds: the rounds of the image group.
        crowd_seconds: how long each turn of the crowd group takes.
        crowd_rounds: its rounds.
        idle_seconds: how long an endpoint waits while its processor time is taken.
        idle_rounds: how often it does.
        trials: killed peers, for each way to die.
        imports: interpreters started.
    """

    rounds: int = 25
    sample_ns: int = 150_000_000
    steps: int | None = None
    lanes: tuple[int, ...] = (1, 2, 4, 8, 16, 32, 64, 128, 256)
    workers: tuple[int, ...] = (1, 2, 4, 8)
    vector_rounds: int = 7
    vector_sample_ns: int = 300_000_000
    image_rounds: int = 15
    crowd_seconds: float = 1.0
    crowd_rounds: int = 7
    idle_seconds: float = 3.0
    idle_rounds: int = 3
    trials: int = 100
    imports: int = 15


FULL = Plan()
QUICK = Plan(
    rounds=9,
    sample_ns=30_000_000,
    lanes=(64,),
    workers=(1, 2, 8),
    vector_rounds=5,
    vector_sample_ns=120_000_000,
    image_rounds=5,
    crowd_seconds=0.25,
    crowd_rounds=3,
    idle_seconds=0.5,
    idle_rounds=1,
    trials=10,
    imports=5,
)


def plan_for(*, quick: bool, rounds: int | None = None, steps: int | None = None) -> Plan:
    """Return the plan; ``rounds`` and ``steps`` hold for every group that has them."""
    plan = dataclasses.replace(QUICK if quick else FULL, steps=steps)
    if rounds is not None:
        plan = dataclasses.replace(
            plan,
            rounds=rounds,
            image_rounds=rounds,
            vector_rounds=rounds,
            crowd_rounds=min(rounds, plan.crowd_rounds),
            idle_rounds=min(rounds, plan.idle_rounds),
            trials=min(rounds, plan.trials),
            imports=min(rounds, plan.imports),
        )
    return plan
