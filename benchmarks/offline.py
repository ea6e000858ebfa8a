"""What labels are for: policies learned from one recording of mixed quality, with and without rewards.

    python benchmarks/offline.py
    python benchmarks/offline.py --seeds 3
    python benchmarks/offline.py --table

Cart-pole, task ``upright``, from any starting angle. Each seed records episodes of its own: a scripted swing-up with
two levels of noise, a script that makes the pole hang, random actions, and random actions that are held. Every way of
learning gets the same rows. VLM labels are the ``clip`` reward of ``mini`` for the task's sentence; row t is judged by
frame t + 1. True labels are the cosine of the angle, the environment's own reward. True success decides the table.

One JSON a seed is kept in ``benchmarks/results/offline``, way by way: an interrupted run goes on where it was.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from scipy import stats

from vlmreward.agents.bc import BCSettings
from vlmreward.agents.evaluation import proportion, run_episodes
from vlmreward.agents.iql import IQLSettings
from vlmreward.agents.offline_agent import Minibatches, OfflinePolicy, OfflineSettings, build_agent
from vlmreward.agents.offline_data import measure_scales, read_offline_data, settle_shape
from vlmreward.cli.arguments import parse_arguments
from vlmreward.cli.compose import compose
from vlmreward.cli.run_folder import describe_machine, write_json
from vlmreward.cli.settings import TrainSettings, resolve
from vlmreward.data.dataset import Transitions
from vlmreward.encoders import make_encoder
from vlmreward.envs.classic.cartpole_policies import hang, swing_up
from vlmreward.rewards import make_reward_from_config
from vlmreward.testing.datasets import ArrayDataset, ArrayEpisode
from vlmreward.types import FrameBatch

RESULTS = Path(__file__).parent / "results" / "offline"
ROWS = 100  # of an episode: 200 steps of the environment, two an action
MIX = {"expert, 10 % random": 24, "expert, 50 % random": 36, "hanging": 30, "random": 30, "random, held": 30}
HIDDEN = (128, 128)
EVALUATED, FIRST_SEED = 100, 50_000  # episodes of each policy, and the seed of the first

Act = Callable[[np.ndarray, np.random.Generator], int]


def noisy(policy: Callable[[np.ndarray], int], share: float) -> Act:
    """Return a policy that acts at random now and then."""
    return lambda obs, rng: int(rng.integers(3)) if rng.random() < share else policy(obs)


class Held:
    """Draws an action and holds it for 5 to 25 steps."""

    def __init__(self) -> None:
        self._left, self._action = 0, 0

    def __call__(self, obs: np.ndarray, rng: np.random.Generator) -> int:
        """Return an action."""
        if self._left == 0:
            self._left, self._action = int(rng.integers(5, 26)), int(rng.integers(3))
        self._left -= 1
        return self._action


def make_policy(kind: str) -> Act:
    """Return one of the policies that record."""
    if kind == "random, held":
        return Held()
    made: dict[str, Act] = {
        "expert, 10 % random": noisy(swing_up, 0.1),
        "expert, 50 % random": noisy(swing_up, 0.5),
        "hanging": noisy(hang, 0.1),
        "random": lambda obs, rng: int(rng.integers(3)),
    }
    return made[kind]


@dataclass
class Recorded:
    """One episode: observations, actions, true rewards, outcome, pictures after each action."""

    kind: str
    observation: np.ndarray
    action: np.ndarray
    reward: np.ndarray
    success: bool
    frames: np.ndarray


def record(env: gym.Env, seed: int) -> list[Recorded]:
    """Record the episodes of a seed, in an order of chance."""
    rng = np.random.default_rng(seed)
    kinds = rng.permutation([kind for kind, count in MIX.items() for _ in range(count)]).tolist()
    episodes = []
    for number, kind in enumerate(kinds):
        policy = make_policy(kind)
        obs, _ = env.reset(seed=1000 * (seed + 1) + number)
        seen, acts, rewards, frames, success = [obs], [], [], [], False
        for _ in range(ROWS):
            acts.append(policy(seen[-1], rng))
            obs, reward, _, _, info = env.step(acts[-1])
            seen.append(obs)
            rewards.append(float(reward))
            frames.append(env.render())
            success = bool(info["success"])
        episodes.append(
            Recorded(kind, np.array(seen), np.array(acts), np.array(rewards), success, np.stack(frames))  # type: ignore[arg-type]
        )
    return episodes


def score(settings: TrainSettings, episodes: Sequence[Recorded]) -> list[np.ndarray]:
    """Return the reward model's label of every row."""
    encoder = make_encoder("mini", "cpu", precision="fp32")
    prompts: dict[str, Any] = {"goal": list(settings.goal), "baseline": list(settings.baseline)}
    model, _ = make_reward_from_config(settings.reward, encoder, **prompts)
    labels = []
    for number, episode in enumerate(episodes):
        embeddings = np.concatenate([encoder.encode_images(part) for part in np.array_split(episode.frames, 2)])
        batch = FrameBatch(
            episode=np.full(ROWS, number),
            step=np.arange(1, ROWS + 1),
            embeddings=embeddings,
            instruction=settings.goal[0],
        )
        labels.append(model.compute_reward(batch).reward)
    return labels


def make_dataset(episodes: Sequence[Recorded], labels: Sequence[np.ndarray], seed: int) -> ArrayDataset:
    """Return the dataset: the true reward is the recorded one, labels are columns.

    ``progress_vlm`` is the label between its 1st and 99th percentile of the whole dataset, for RA-BC; ``shuffled`` has
    the labels in an order of chance, as a control.
    """
    every = np.concatenate(labels)
    low, high = np.percentile(every, [1, 99])
    shuffled = np.random.default_rng(seed).permutation(every).reshape(len(labels), -1)
    ends = np.arange(ROWS) == ROWS - 1
    ones = np.ones(ROWS, np.float32)
    arrays = []
    for episode, label, other in zip(episodes, labels, shuffled, strict=True):
        columns = {
            "reward_vlm": label,
            "progress_vlm": np.clip((label - low) / (high - low), 0, 1).astype(np.float32),
            "shuffled": other.astype(np.float32),
        }
        columns |= {f"{name}_valid": ones for name in list(columns)}
        rows = Transitions(
            episode.observation.astype(np.float32),
            episode.action[:, None].astype(np.float32),
            episode.reward.astype(np.float32),
            np.zeros(ROWS, bool),
            ends,
        )
        arrays.append(ArrayEpisode(rows, columns, episode.success))
    return ArrayDataset(arrays)


@dataclass(frozen=True)
class Way:
    """One way to learn.

    Attributes:
        words: What the table says.
        settings: The agent's hyper-parameters.
        labels: The column it reads; None for the recorded (true) reward, or for none at all.
        updates: Gradient steps.
    """

    words: str
    settings: OfflineSettings
    labels: str | None
    updates: int


def list_ways(updates: int) -> dict[str, Way]:
    """Return the ways that are compared."""
    share = MIX["expert, 10 % random"] / sum(MIX.values())

    def iql(words: str, labels: str | None) -> Way:
        return Way(words, IQLSettings(hidden=HIDDEN, gamma=0.97), labels, updates)

    def bc(words: str, labels: str | None, **settings: Any) -> Way:
        return Way(words, BCSettings(hidden=HIDDEN, **settings), labels, updates // 2)

    return {
        "bc": bc("cloning of everything", None),
        "bc_top_vlm": bc("cloning of the top 16 % of episodes by VLM return", "reward_vlm", episodes="top", top=share),
        "bc_top_true": bc("cloning of the top 16 % of episodes by true return", None, episodes="top", top=share),
        "bc_success": bc("cloning of the episodes that end in true success", None, episodes="success"),
        "rabc_vlm": bc("RA-BC, progress from VLM labels", "progress_vlm", weights="progress"),
        "iql_vlm": iql("IQL, VLM labels", "reward_vlm"),
        "iql_true": iql("IQL, true reward", None),
        "iql_shuffled": iql("IQL, VLM labels in an order of chance (control)", "shuffled"),
    }


def learn(way: Way, dataset: ArrayDataset, envs: Sequence[gym.Env], seed: int) -> dict[str, Any]:
    """Learn in one way and measure the policy."""
    began = time.process_time()
    data = read_offline_data(dataset, way.labels)
    weights = way.settings.weigh(data)
    agent = build_agent(way.settings, settle_shape(data, 3), seed)
    agent.set_scales(measure_scales(data, weights))
    batches = Minibatches(data, weights, agent, way.settings.batch_size, seed, "cpu")
    for update in range(way.updates):
        agent.update(batches.draw(update))
    learned = time.process_time() - began
    policy = OfflinePolicy(agent, envs[0].action_space)
    ended = run_episodes(envs, policy, EVALUATED, FIRST_SEED)
    return {
        "rows": int((weights > 0).sum()),
        "updates": way.updates,
        "success": sum(bool(episode.success[-1]) for episode in ended),
        "episodes": len(ended),
        "true_return": float(np.mean([sum(episode.env_rewards) for episode in ended])),
        "learn_cpu_seconds": round(learned, 1),
    }


def describe(episodes: Sequence[Recorded], labels: Sequence[np.ndarray]) -> dict[str, Any]:
    """Return what was recorded, and how good its labels are."""
    truth, given = np.concatenate([e.reward for e in episodes]), np.concatenate(list(labels))
    success = {kind: [e.success for e in episodes if e.kind == kind] for kind in MIX}
    returns = [(float(e.reward.sum()), float(label.sum())) for e, label in zip(episodes, labels, strict=True)]
    return {
        "rows": len(truth),
        "success": {kind: [sum(found), len(found)] for kind, found in success.items()},
        "spearman_of_rows": float(stats.spearmanr(truth, given).statistic),
        "spearman_of_returns": float(stats.spearmanr(*zip(*returns, strict=True)).statistic),
        "label_std": float(given.std()),
    }


def run_seed(seed: int, updates: int, path: Path, console: Console) -> None:
    """Do what is left of a seed."""
    done: dict[str, Any] = json.loads(path.read_text()) if path.is_file() else {"seed": seed, "ways": {}}
    left = {name: way for name, way in list_ways(updates).items() if name not in done["ways"]}
    if not left:
        return
    settings, _ = resolve(compose("train", parse_arguments(["env=cartpole", "env.task=upright"])))
    envs: list[gym.Env] = [settings.env.factory()() for _ in range(20)]
    began = time.process_time()
    episodes = record(envs[0], seed)
    labels = score(settings, episodes)
    done |= {"data": describe(episodes, labels), "data_cpu_seconds": round(time.process_time() - began, 1)}
    done |= describe_machine()
    dataset = make_dataset(episodes, labels, seed)
    for name, way in left.items():
        done["ways"][name] = learn(way, dataset, envs, seed)
        write_json(path, done)
        found = done["ways"][name]
        console.print(f"seed {seed}: {way.words}: {found['success']} of {found['episodes']}", highlight=False)
    for env in envs:
        env.close()


def interval(values: Sequence[float]) -> tuple[float, float, float]:
    """Return the mean over seeds with its 95 % interval by Student's t."""
    mean = float(np.mean(values))
    if len(values) < 2:
        return mean, float("nan"), float("nan")
    half = float(stats.t.ppf(0.975, len(values) - 1)) * float(np.std(values, ddof=1)) / len(values) ** 0.5
    return mean, mean - half, mean + half


def print_table(folder: Path, updates: int, console: Console) -> None:
    """Print what all seeds say."""
    found = [json.loads(path.read_text()) for path in sorted(folder.glob("seed*.json"))]
    table = Table(title=f"true success of {EVALUATED} episodes a seed, {len(found)} seeds")
    for head in (
        "way",
        "rows",
        "each seed",
        "mean",
        "95 % over seeds (t)",
        "95 % over episodes (Wilson)",
        "true return",
    ):
        table.add_column(head, justify="left" if head == "way" else "right")
    for name, way in list_ways(updates).items():
        ways = [one["ways"][name] for one in found if name in one["ways"]]
        if not ways:
            continue
        mean, low, high = interval([one["success"] / one["episodes"] for one in ways])
        pooled = proportion(sum(one["success"] for one in ways), sum(one["episodes"] for one in ways))
        table.add_row(
            way.words,
            str(round(np.mean([one["rows"] for one in ways]))),
            " ".join(str(one["success"]) for one in ways),
            f"{mean:.2f}",
            f"{max(low, 0):.2f} to {min(high, 1):.2f}",
            f"{pooled['low']:.2f} to {pooled['high']:.2f}",
            f"{np.mean([one['true_return'] for one in ways]):.0f}",
        )
    console.print(table)
    for one in found:
        console.print(f"seed {one['seed']}: {one['data']}", highlight=False)


def main() -> None:
    """Run what is left and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=4, help="seeds, each a recording of its own")
    parser.add_argument("--first", type=int, default=0, help="the first of them")
    parser.add_argument("--updates", type=int, default=10_000, help="gradient steps of IQL; cloning takes half")
    parser.add_argument("--folder", type=Path, default=RESULTS, help="where results are kept")
    parser.add_argument("--table", action="store_true", help="only print the table of the results there are")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    console = Console()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    for seed in range(arguments.first, arguments.first + (0 if arguments.table else arguments.seeds)):
        run_seed(seed, arguments.updates, arguments.folder / f"seed{seed}.json", console)
    print_table(arguments.folder, arguments.updates, console)


if __name__ == "__main__":
    main()
