"""How far do rewards move? What temperatures, thresholds and scales of shaped rewards have to fit.

    python benchmarks/shaping.py

Episodes of random actions in the classic environments, scored by the ``clip`` reward on ``mini`` for every task's goal:
how far a reward lies from that of its episode's first frame, and how far it moves in one action.
"""

from __future__ import annotations

import argparse
import json
import platform
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path

import gymnasium as gym
import numpy as np
from rich.console import Console
from rich.table import Table

from vlmreward.cli.arguments import parse_arguments
from vlmreward.cli.compose import compose
from vlmreward.cli.environments import find_tasks
from vlmreward.cli.settings import resolve
from vlmreward.encoders import make_encoder
from vlmreward.rewards import make_reward
from vlmreward.rewards.shaping import delta, rewards_at
from vlmreward.types import FrameBatch, Frames


@dataclass(frozen=True)
class Row:
    """One goal.

    Attributes:
        env: Environment.
        task: The task whose goal it is.
        low: Smallest reward.
        high: Largest reward.
        from_reset: Standard deviation of the difference to the reward of the episode's first frame.
        per_action: Standard deviation of the difference to the frame before.
    """

    env: str
    task: str
    low: float
    high: float
    from_reset: float
    per_action: float


def make_pictures(env: gym.Env, episodes: int, actions: int) -> tuple[Frames, np.ndarray, np.ndarray]:
    """Return frames of random episodes, the episode of each and its step in it."""
    frames, episode, step = [], [], []
    for number in range(episodes):
        env.reset(seed=number)
        env.action_space.seed(number)
        for count in range(actions + 1):
            ended = any(env.step(env.action_space.sample())[2:4]) if count else False
            frames.append(env.render())
            episode.append(number)
            step.append(count)
            if ended:
                break
    return np.stack(frames), np.array(episode), np.array(step)


def measure(env_name: str, episodes: int, actions: int) -> list[Row]:
    """Return one row for each goal of an environment."""
    encoder = make_encoder("mini", "cpu", precision="fp32")
    settings, _ = resolve(compose("train", parse_arguments([f"env={env_name}"])))
    env = settings.env.factory()()
    frames, episode, step = make_pictures(env, episodes, actions)
    env.close()
    batch = FrameBatch(episode=episode, step=step, embeddings=encoder.encode_images(frames))
    rows = []
    for task in find_tasks(settings.env.id).values():
        reward = make_reward("clip", encoder, goal=task.goal).compute_reward(batch).reward
        start = rewards_at(reward, episode, step, 0)
        moved = delta(reward, rewards_at(reward, episode, step, step - 1))[step > 0]
        spread = float((reward - start)[step > 0].std())
        rows.append(Row(env_name, task.name, float(reward.min()), float(reward.max()), spread, float(moved.std())))
    return rows


def main() -> None:
    """Measure, print a table, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--episodes", type=int, default=20)
    parser.add_argument("--actions", type=int, default=100, help="of each episode")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "shaping.json")
    options = parser.parse_args()
    rows = [row for env in ("cartpole", "mountaincar") for row in measure(env, options.episodes, options.actions)]
    table = Table("env", "task", "lowest", "highest", "std from reset", "std per action")
    for row in rows:
        numbers = (row.low, row.high, row.from_reset, row.per_action)
        table.add_row(row.env, row.task, *(f"{number:.3f}" for number in numbers))
    Console().print(table)
    result = {
        "command": f"python benchmarks/shaping.py --episodes {options.episodes} --actions {options.actions}",
        "versions": {name: version(name) for name in ("vlmreward", "numpy", "torch", "open-clip-torch")}
        | {"python": platform.python_version()},
        "machine": platform.machine(),
        "rows": [asdict(row) for row in rows],
    }
    options.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
