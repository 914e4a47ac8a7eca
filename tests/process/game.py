"""A small game with a loop of its own, started by ``rlay.make(command=...)``."""

import os
import sys

import numpy as np
from gymnasium import spaces

import rlay

BACKENDS = {"ClientEnv": rlay.ServerBackend, "ServerEnv": rlay.ClientBackend}


def main(mode: str, channel: str) -> None:
    assert channel == os.environ["RLAY_CHANNEL"]
    backend = BACKENDS[mode](
        channel,
        observation_space=spaces.Box(-(2**40), 2**40, (2,), np.int64),
        action_space=spaces.Discrete(1 << 40),
    )
    with backend:
        total = steps = 0
        request = backend.next_request()
        while request is not None:
            if request.command is rlay.Command.RESET:
                total = steps = 0
                request = backend.decide(np.array([0, 0]), info={"pid": os.getpid()})
            elif request.action == 999:
                sys.stderr.write("the game gives up\n")
                sys.stderr.flush()
                os._exit(9)
            else:
                steps += 1
                total += int(request.action)
                request = backend.decide(np.array([steps, total]), float(request.action))


if __name__ == "__main__":
    main(*sys.argv[1:])
