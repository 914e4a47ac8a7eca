"""An agent that waits for a game and answers its questions, as a policy server does.

It needs the game, in either order::

    python examples/game_loop.py        # in another terminal: the game
    python examples/game_agent.py       # this one: the agent

The game drives: ``step`` hands it an action and returns at its next decision.
"""

import rlay

BALLS = 20


def main() -> None:
    """Catch some balls, then leave."""
    caught = 0.0
    print("agent: waiting for a game on channel 'game'", flush=True)
    with rlay.ServerEnv("game") as env:  # the game brings the spaces
        print(f"agent: it sees {env.observation_space} and does {env.action_space}")
        for ball in range(BALLS):
            observation, _ = env.reset(seed=1 if ball == 0 else None)
            over = False
            while not over:
                paddle, ball_x, _ = observation
                action = 1 if abs(ball_x - paddle) < 0.05 else 2 if ball_x > paddle else 0
                observation, reward, terminated, truncated, _ = env.step(action)
                caught, over = caught + reward, terminated or truncated
    print(f"agent: {caught:.0f} of {BALLS} balls caught")


if __name__ == "__main__":
    main()
