"""The shortest example: an environment in another process. Run: ``python examples/hello.py``."""

import rlay

env = rlay.make("CartPole-v1")  # starts a process for it; close() ends that process
observation, info = env.reset(seed=0)
score, over = 0.0, False
while not over:
    action = int(observation[2] > 0)  # push to where the pole leans
    observation, reward, terminated, truncated, info = env.step(action)
    score, over = score + reward, terminated or truncated
env.close()
print(f"The pole stood for {score:.0f} steps.")
