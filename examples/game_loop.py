"""A game with a loop of its own that asks an agent in another process what to do.

It needs the agent, in either order::

    python examples/game_loop.py        # this one: the game
    python examples/game_agent.py       # in another terminal: the agent

A ball falls, a paddle moves left or right to catch it. The game runs at its own
pace, here four frames between two decisions, and ends when the agent leaves.
"""

import random

import gymnasium
import numpy as np

import rlay

FRAMES_PER_DECISION = 4
MOVES = {0: -0.02, 1: 0.0, 2: +0.02}  # per frame, of a court from 0 to 1


class Catch:
    """The game; it knows nothing of rlay."""

    def restart(self, seed: int | None) -> None:
        """Drop a new ball; without a seed, chance goes on."""
        if seed is not None:
            random.seed(seed)
        self.paddle, self.ball_x, self.ball_y = 0.5, random.random(), 1.0

    def frame(self, move: float) -> None:
        """Advance by one frame."""
        self.paddle = min(max(self.paddle + move, 0.0), 1.0)
        self.ball_y -= 0.02

    def seen(self) -> np.ndarray:
        """Return what the agent sees."""
        return np.array([self.paddle, self.ball_x, self.ball_y], np.float32)


def main() -> None:
    """Play until the agent leaves."""
    game, balls, caught = Catch(), 0, 0
    with rlay.ClientBackend(
        "game",
        observation_space=gymnasium.spaces.Box(-1.0, 1.0, (3,), np.float32),
        action_space=gymnasium.spaces.Discrete(3),
    ) as backend:
        print("game: waiting for an agent on channel 'game'", flush=True)
        request = backend.next_request()  # the agent's first reset
        while request is not None:
            reward, over = 0.0, False
            if request.command is rlay.Command.RESET:
                game.restart(request.seed)
            else:
                for _ in range(FRAMES_PER_DECISION):
                    game.frame(MOVES[int(request.action)])
                over = game.ball_y <= 0.0
                if over:
                    reward = float(abs(game.paddle - game.ball_x) < 0.1)
                    balls, caught = balls + 1, caught + int(reward)
            # The result of the last action goes out, the next action comes back.
            request = backend.decide(game.seen(), reward, over)
    print(f"game: the agent left after {balls} balls, {caught} caught")


if __name__ == "__main__":
    main()
