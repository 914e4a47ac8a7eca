"""A whole run: all channels at once, then the account of it."""

from __future__ import annotations

import collections
import dataclasses
import os
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.chaos import disturb, watch
from tests.chaos.casting import CASTS, Cast, Theatre, build_c_peer
from tests.chaos.ledger import EPISODES, STEPS, lines_of
from tests.chaos.stage import PATIENCE, Stage

#: What a finding can be; each ends the run with status 1.
CATEGORIES = ("hangs", "wrong values", "unexpected", "left")
#: Findings of a category that are kept of each channel; the rest is counted.
SHOWN = 4
#: A supervisor gives a worker this long before it ends it, and some; seconds.
LEAVING = 15.0


@dataclasses.dataclass
class Account:
    """What a run has seen, by channel and in all."""

    seed: str
    seconds: float
    channels: list[dict[str, Any]]
    findings: dict[str, list[str]]

    @property
    def clean(self) -> bool:
        """Whether nothing was found."""
        return not any(self.findings.values())

    def total(self, key: str) -> Any:
        """Return a number, or a counter, added up over all channels."""
        values = [channel[key] for channel in self.channels]
        if values and isinstance(values[0], dict):
            return dict(
                sum((collections.Counter(value) for value in values), collections.Counter())
            )
        return sum(values)


def _names(stage: Stage) -> tuple[collections.Counter[str], list[tuple[str, str]]]:
    """Return the errors that survivors saw, and findings among what peers told."""
    seen: collections.Counter[str] = collections.Counter()
    found = []
    for peer in stage.peers:
        paths = [peer.ledger.lines_path, peer.ledger.path.with_suffix(".worker.lines")]
        for kind, text in (line for path in paths for line in lines_of(path)):
            if kind == "wrong":
                found.append(("wrong values", f"{peer}: {text}"))
                continue
            name, _, rest = text.partition(" ")
            name = disturb.CODES.get(name, name)
            seen[name] += 1
            if name not in disturb.ALWAYS and not disturb.CAUSES.get(name, set()) & set(stage.done):
                found.append(("unexpected", f"{peer}: {name} {rest}"))
    return seen, found


def _leftovers(root: Path, forge: int, planted: set[tuple[int, int]], leaving: float) -> list[str]:
    """Return processes and files that are still there, but for the files we planted."""
    end = time.monotonic() + leaving
    while True:
        processes = watch.processes_of(str(root))
        processes.pop(forge, None)
        if not processes or time.monotonic() > end:
            break
        time.sleep(0.1)
    for pid in processes:
        watch.end(pid, str(root))
    left = [f"process {pid}: {command}" for pid, command in processes.items()]
    for path in sorted(root.iterdir()):
        found = path.stat()
        if path.suffix != ".lock" and (found.st_dev, found.st_ino) not in planted:
            left.append(f"file {path.name}")
    return left


def run(
    seconds: float,
    seed: str,
    casts: Sequence[Cast] = CASTS,
    *,
    patience: float = PATIENCE,
    margin: float = watch.MARGIN,
    leaving: float = LEAVING,
    tell: Any = lambda text: None,
) -> Account:
    """Run these channels for a time in ``$RLAY_DIR``, which must be empty, and account for it."""
    root = Path(os.environ["RLAY_DIR"])
    begin = time.monotonic()
    built = build_c_peer() if any("c" in (cast.env, cast.agent) for cast in casts) else None
    if built is None:
        casts = [cast for cast in casts if "c" not in (cast.env, cast.agent)]
    with tempfile.TemporaryDirectory(prefix="rlay-chaos-") as folder:
        theatre = Theatre(Path(folder), built[1] if built else None)
        stages: list[Stage] = []
        try:
            until = time.monotonic() + seconds
            stages = [
                Stage(
                    cast,
                    theatre,
                    root,
                    seed=seed,
                    salt=100 + index,
                    until=until,
                    patience=patience,
                    margin=margin,
                )
                for index, cast in enumerate(casts)
            ]
            for stage in stages:
                stage.start()
            while any(stage.is_alive() for stage in stages):
                time.sleep(0.1)
                tell(_progress(stages, until))
            account = _account(seed, begin, stages)
            planted = set().union(*(stage.planted for stage in stages))
            account.findings["left"] += _leftovers(root, theatre.forge.pid, planted, leaving)
        finally:
            theatre.close()
            for stage in stages:
                for peer in stage.peers:
                    peer.ledger.close()
            if built:
                built[0].cleanup()
    return account


def _progress(stages: Sequence[Stage], until: float) -> str:
    steps = sum(stage.agent.ledger.words[STEPS] for stage in stages)
    disturbed = sum(sum(stage.done.values()) for stage in stages)
    found = sum(len(stage.findings) for stage in stages)
    left = max(0.0, until - time.monotonic())
    return f"{left:.0f} s left, {steps} steps, {disturbed} disturbances, {found} findings"


def _account(seed: str, begin: float, stages: Sequence[Stage]) -> Account:
    channels = []
    findings: dict[str, list[str]] = {category: [] for category in CATEGORIES}
    for stage in stages:
        errors, told = _names(stage)
        counts: collections.Counter[str] = collections.Counter()
        for category, text in [*stage.findings, *told]:
            counts[category] += 1
            if counts[category] <= SHOWN:
                findings[category].append(text)
        for category, count in counts.items():
            if count > SHOWN:
                findings[category].append(f"{stage.cast.name}: {count - SHOWN} more")
        words = stage.agent.ledger.words
        channels.append(
            {
                "channel": stage.cast.name,
                "steps": words[STEPS],
                "episodes": words[EPISODES],
                "starts": sum(peer.starts for peer in stage.peers),
                "disturbances": dict(stage.done),
                "errors": dict(errors),
            }
        )
    return Account(seed, time.monotonic() - begin, channels, findings)
