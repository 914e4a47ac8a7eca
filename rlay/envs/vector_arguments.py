"""What a caller of ``VectorEnv`` may give: seeds, a reset mask, lanes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from rlay.envs.vector_workers import Worker
from rlay.errors import LocalProtocolError
from rlay.protocol.lane_codecs import ALL, Which
from rlay.protocol.records import check_seed


def read_seeds(seed: Any, count: int) -> list[int | None]:
    """Return a seed or None for each lane, by Gymnasium's rule.

    Raises:
        LocalProtocolError: a list of another length.
        LayoutError: a seed is no u64.
    """
    if seed is None:
        return [None] * count
    if isinstance(seed, int | np.integer):
        seed = [int(seed) + lane for lane in range(count)]
    seeds = list(seed)
    if len(seeds) != count:
        raise LocalProtocolError(f"{len(seeds)} seeds for {count} lanes")
    for one in seeds:
        check_seed(one)
    return seeds


def read_mask(options: Any, count: int) -> tuple[np.ndarray | None, Any]:
    """Take ``reset_mask`` out of options; return (bool [count] or None, the other options).

    Raises:
        LocalProtocolError: it is no such mask, or chooses nothing.
    """
    if options is None or "reset_mask" not in options:
        return None, options
    mask = options["reset_mask"]
    if not isinstance(mask, np.ndarray) or mask.dtype != np.bool_:
        kind = getattr(mask, "dtype", type(mask).__name__)
        raise LocalProtocolError(f"options['reset_mask'] is {kind}, expected a bool array")
    if mask.shape != (count,) or not mask.any():
        raise LocalProtocolError(
            f"options['reset_mask'] must have shape {(count,)} and a True in it"
        )
    return mask.copy(), {key: value for key, value in options.items() if key != "reset_mask"}


def read_ids(env_ids: Any, count: int) -> np.ndarray:
    """Return the lanes as indices [n].

    Raises:
        LocalProtocolError: they are not distinct lanes.
    """
    if env_ids is None:
        return np.arange(count)
    ids = np.asarray(env_ids)
    if ids.ndim != 1 or ids.dtype.kind not in "iu" or not ids.size:
        raise LocalProtocolError(f"env_ids {env_ids!r:.80} is no list of lanes")
    if ids.size != np.unique(ids).size or ids.min() < 0 or ids.max() >= count:
        raise LocalProtocolError(f"env_ids {ids.tolist()} are no distinct lanes below {count}")
    return ids.astype(np.intp)


def share_out(ids: np.ndarray, workers: Sequence[Worker]) -> Iterator[tuple[Worker, Which, Which]]:
    """Yield (worker, which of ``ids`` are its lanes, these as its lanes ascending).

    All lanes of a worker in a row are a slice of ``ids``.
    """
    for worker in workers:
        which = np.flatnonzero((ids >= worker.first) & (ids < worker.first + worker.count))
        if which.size:
            which = which[np.argsort(ids[which])]
            lanes = ids[which] - worker.first
            if lanes.size < worker.count:
                yield worker, which, lanes
            elif (np.diff(which) == 1).all():
                yield worker, slice(int(which[0]), int(which[-1]) + 1), ALL
            else:
                yield worker, which, ALL
