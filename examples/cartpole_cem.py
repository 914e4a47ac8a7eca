"""Learn CartPole in another process, then play a CartPole written in C: ``rlay demo``.

The cross-entropy method, all of it in this file: draw a population of small networks
from a normal distribution, let each play two episodes, and move the distribution to
the best of them, until its mean plays well. The environment is Gymnasium's, behind
``rlay.make``. Then that policy answers a game in C which attaches and asks for decisions::

    make -C ports/reference_c                       # builds the game
    python examples/cartpole_cem.py --seed 2
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import gymnasium
import numpy as np

import rlay

HIDDEN = 8
WEIGHTS = 4 * HIDDEN + HIDDEN + HIDDEN + 1  # four observations, one hidden layer, one output
GAME = Path(__file__).parents[1] / "ports" / "reference_c" / "build" / "cartpole_env"


@dataclasses.dataclass
class Result:
    """What training has come to so far; ``score`` is the mean policy's last average."""

    weights: np.ndarray
    threshold: float
    generation: int = 0
    episodes: int = 0
    steps: int = 0
    seconds: float = 0.0
    score: float = 0.0
    # For the plot, by the number of episodes until then:
    returns: dict[int, float] = dataclasses.field(default_factory=dict)  # of each candidate
    scores: dict[int, float] = dataclasses.field(default_factory=dict)  # of the mean policy

    @property
    def solved(self) -> bool:
        """Whether the mean policy has reached the threshold."""
        return bool(self.scores) and self.score >= self.threshold


def network(weights: np.ndarray) -> Callable[[np.ndarray], int]:
    """Return the policy: push right if the output is positive."""
    w1, b1, w2, b2 = np.split(weights, [4 * HIDDEN, 5 * HIDDEN, 6 * HIDDEN])
    w1 = w1.reshape(4, HIDDEN)
    return lambda observation: int(np.tanh(observation @ w1 + b1) @ w2 > -b2[0])


def play(
    env: gymnasium.Env, weights: np.ndarray, episodes: int, seed: int | None = None
) -> list[float]:
    """Play; return the return of each episode, which in CartPole is also its length."""
    policy, returns = network(weights), []
    for episode in range(episodes):
        observation, _ = env.reset(seed=seed if episode == 0 else None)
        total, over = 0.0, False
        while not over:
            observation, reward, terminated, truncated, _ = env.step(policy(observation))
            total, over = total + float(reward), terminated or truncated
        returns.append(total)
    return returns


def train(
    env: gymnasium.Env,
    *,
    seed: int = 1,
    population: int = 40,
    episodes: int = 20,
    threshold: float = 475.0,
    max_generations: int = 60,
    report: Callable[[Result], None] = lambda result: None,
) -> Result:
    """Run generations until the mean policy averages ``threshold`` over ``episodes``."""
    rng, started = np.random.default_rng(seed), time.perf_counter()
    mean, std = np.zeros(WEIGHTS), np.ones(WEIGHTS)
    result = Result(mean, threshold)
    env.reset(seed=seed)
    while not result.solved and result.generation < max_generations:
        result.generation += 1
        candidates = rng.normal(mean, std, (population, WEIGHTS))
        fitness = []
        for candidate in candidates:
            tried = play(env, candidate, 2)
            fitness.append(np.mean(tried))
            result.episodes, result.steps = result.episodes + 2, result.steps + int(sum(tried))
            result.returns[result.episodes] = float(fitness[-1])
            report(result)
        elite = candidates[np.argsort(fitness)[-max(2, population // 5) :]]
        # The extra noise keeps the distribution from collapsing before it is good.
        mean, std = elite.mean(axis=0), elite.std(axis=0) + 0.15
        tried = play(env, mean, episodes)
        result.episodes, result.steps = result.episodes + episodes, result.steps + int(sum(tried))
        result.weights, result.score = mean, float(np.mean(tried))
        result.scores[result.episodes] = result.score
        report(result)
    result.seconds = time.perf_counter() - started
    return result


@contextlib.contextmanager
def progress(threshold: float) -> Iterator[Callable[[Result], None]]:
    """Give a function that shows how training goes: a bar, or without rich a line."""
    text = "   generation {0.generation:2d}   {0.episodes:4d} episodes   mean policy {0.score:5.1f}"
    try:
        from rich.progress import BarColumn, Progress, TextColumn
    except ImportError:
        yield lambda result: print("\r" + text.format(result), end="", flush=True)
        print()
        return
    bar = BarColumn(18, complete_style="blue", finished_style="green")
    with Progress(TextColumn("{task.description}"), bar, f"of {threshold:g}") as display:
        task = display.add_task("   generation  1", total=threshold)
        yield lambda now: display.update(task, description=text.format(now), completed=now.score)


def plot(result: Result, path: Path) -> None:
    """Draw what every candidate and what the mean policy achieved."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(8, 4.5), layout="constrained")
    dots, curve = result.returns, result.scores
    axes.axhline(result.threshold, color="#c0392b", ls="--", lw=1.2)
    axes.text(1, result.threshold + 6, f"solved: {result.threshold:g}", color="#c0392b")
    axes.plot(dots.keys(), dots.values(), ".", color="#a9b8d0", label="one candidate")
    axes.plot(curve.keys(), curve.values(), "o-", color="#1f4e9c", label="the mean policy")
    axes.set(xlabel="episodes", ylabel="average return", ylim=(0, None), xlim=(0, None))
    axes.set_title("CartPole-v1 in another process: cross-entropy method", loc="left")
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", alpha=0.25)
    axes.legend(loc="upper left", bbox_to_anchor=(0, 0.88), frameon=False)
    figure.savefig(path, dpi=150)
    pyplot.close(figure)


def show(name: str, env: gymnasium.Env, weights: np.ndarray, episodes: int, seed: int) -> None:
    """Play; print the score and the speed."""
    started = time.perf_counter()
    returns = play(env, weights, episodes, seed)
    rate = sum(returns) / (time.perf_counter() - started)
    score = f"{np.mean(returns):.1f} ± {np.std(returns):.1f}"
    print(f"   {name:<42}{score:<14}{rate:9,.0f} steps/s")


def main(argv: Sequence[str] | None = None) -> int:
    """Train, play both games, and plot; return 0 if training has solved the task."""
    parser = argparse.ArgumentParser(
        description="Train CartPole in another process, then play a game written in C.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    curve = Path("cartpole_learning_curve.png")
    parser.add_argument("--seed", type=int, default=1, help="of everything random")
    parser.add_argument("--plot", type=Path, default=curve, help="where the learning curve goes")
    parser.add_argument("--game", type=Path, default=GAME, help="the CartPole written in C")
    parser.add_argument("--population", type=int, default=40, help="candidates in a generation")
    parser.add_argument("--episodes", type=int, default=20, help="played for every score")
    parser.add_argument("--threshold", type=float, default=475.0, help="score that ends training")
    parser.add_argument("--max-generations", type=int, default=60, help="then training gives up")
    args = parser.parse_args(argv)
    if not args.plot.parent.is_dir():
        parser.error(f"--plot: no directory {args.plot.parent}")
    settings = {key: value for key, value in vars(args).items() if key not in ("plot", "game")}

    print("1  Training: the agent in this process, Gymnasium's CartPole-v1 in another.")
    with rlay.make("CartPole-v1") as env:
        with progress(args.threshold) as report:
            result = train(env, report=report, **settings)
        print(
            f"   {'solved' if result.solved else 'not solved'} in {result.seconds:.1f} s: "
            f"{result.episodes:,} episodes, {result.steps:,} steps, "
            f"{result.steps / result.seconds:,.0f} steps/s\n"
        )
        print(
            f"2  Playing {args.episodes} new episodes: "
            "the policy in this process, the games in others."
        )
        test = result.weights, args.episodes, args.seed + 1
        show("Gymnasium's CartPole, which we step", env, *test)
    if args.game.is_file():
        # Here the game drives: it attaches to our channel and asks for each decision.
        command = [str(args.game.resolve()), "--client", "--channel", "{channel}"]
        with rlay.make(command=command, mode="ServerEnv") as env:
            show("CartPole in C, which asks for decisions", env, *test)
    else:
        print(f"   no game at {args.game}: make -C ports/reference_c")
    try:
        plot(result, args.plot)
        print(f"\nLearning curve: {args.plot}")
    except ImportError:
        print("\nNo learning curve: pip install matplotlib")
    return 0 if result.solved else 1


if __name__ == "__main__":
    raise SystemExit(main())
