"""How well the packaged encoder tells the humanoid's eight poses apart, from text alone. No training.

    python benchmarks/humanoid_poses.py

For each task, its own goal prompt scores new pictures in the environment's own look: poses of all eight tasks, and
states that a learning agent gets into (falling, lying, half-way poses), all labelled by the true-state predicates.
Writes results/humanoid_poses.json and a picture of one pose of each task with every goal's reward on it.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import spearmanr

from vlmreward.agents.fit.domain import auroc
from vlmreward.encoders.mini import MiniEncoder
from vlmreward.envs.mujoco.gl import ensure_gl
from vlmreward.envs.mujoco.humanoid.facts import describe
from vlmreward.envs.mujoco.humanoid.poses import sample_pose, start_pose
from vlmreward.envs.mujoco.humanoid.scene import HumanoidScene
from vlmreward.envs.mujoco.humanoid.states import sample_between, sample_random_states
from vlmreward.envs.mujoco.humanoid.tasks import TASKS, facts_distance, holds
from vlmreward.rewards.clip import ClipReward

HERE = Path(__file__).parent
SEED = 2000  # no training or evaluation of the encoder draws from it


def draw_states(each: int) -> np.ndarray:
    """Return qpos of ``each`` poses per task, as many half-way ones, and 4 x ``each`` random states."""
    rng = np.random.default_rng(SEED)
    poses = [sample_pose(task, rng) for task in TASKS for _ in range(each)]
    between = [sample_between(task, rng) for task in TASKS for _ in range(each)]
    return np.stack([*poses, *between, *sample_random_states(rng, 4 * each)])


def measure(encoder: MiniEncoder, states: np.ndarray, embeddings: np.ndarray, start: np.ndarray) -> dict[str, Any]:
    """Return the separation of each task's reward; intervals are 95 % bootstraps over pictures."""
    rng = np.random.default_rng(0)
    facts = [describe(qpos) for qpos in states]
    table: dict[str, Any] = {}
    for name, task in TASKS.items():
        reward = ClipReward(encoder, goal=task.goal)
        r = reward.score_embeddings(embeddings)
        at_start = float(reward.score_embeddings(start)[0])
        done = np.array([holds(name, f) for f in facts])
        distance = np.array([facts_distance(name, f) for f in facts])
        resampled = []
        for _ in range(200):
            rows = rng.integers(len(r), size=len(r))
            if done[rows].any() and not done[rows].all():
                resampled.append(auroc(r[rows][done[rows]], r[rows][~done[rows]]))
        table[name] = {
            "goal": task.goal,
            "done": int(done.sum()),
            "not_done": int((~done).sum()),
            "auroc": round(auroc(r[done], r[~done]), 4),
            "auroc_interval": [round(float(q), 4) for q in np.quantile(resampled, [0.025, 0.975])],
            "spearman_with_closeness": round(float(spearmanr(r, -distance).statistic), 4),
            "gap_in_deviations": round(float((r[done].mean() - r[~done].mean()) / r.std()), 3),
            "above_the_start_pose": round(float((r[done] > at_start).mean()), 4),
        }
    return table


def draw_picture(encoder: MiniEncoder, scene: HumanoidScene, path: Path) -> None:
    """Draw one pose of each task, and the reward of every goal on it, standardised per goal over the eight poses."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    rng = np.random.default_rng(SEED + 1)
    frames = np.stack([scene.render_pose(sample_pose(task, rng)) for task in TASKS])
    embeddings = encoder.encode_images(frames)
    rewards = np.stack([ClipReward(encoder, goal=t.goal).score_embeddings(embeddings) for t in TASKS.values()])
    rewards = (rewards - rewards.mean(axis=1, keepdims=True)) / rewards.std(axis=1, keepdims=True)
    figure = plt.figure(figsize=(13, 5.2))
    grid = figure.add_gridspec(2, len(frames), height_ratios=(1, 1.7))
    for number, name in enumerate(TASKS):
        above = figure.add_subplot(grid[0, number])
        above.imshow(frames[number])
        above.set_title(name.replace("_", " "), fontsize=10)
        above.axis("off")
    below = figure.add_subplot(grid[1, :])
    below.imshow(rewards, cmap="RdYlGn", vmin=-2, vmax=2, aspect="auto")
    for (row, column), value in np.ndenumerate(rewards):
        below.text(column, row, f"{value:.1f}", ha="center", va="center", fontsize=9)
    below.set_yticks(range(len(TASKS)), [f"goal: {name.replace('_', ' ')}" for name in TASKS])
    below.set_xticks([])
    figure.subplots_adjust(left=0.12, right=0.99, top=0.94, bottom=0.02, hspace=0.03, wspace=0.04)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=80)
    plt.close(figure)


def main() -> None:
    """Measure, draw and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--each", type=int, default=150, help="pictures per task")
    parser.add_argument("--out", type=Path, default=HERE / "results" / "humanoid_poses.json")
    parser.add_argument("--picture", type=Path, default=HERE.parent / "docs" / "images" / "humanoid_rewards.png")
    arguments = parser.parse_args()
    ensure_gl()
    encoder = MiniEncoder()
    size = encoder.image_size
    states = draw_states(arguments.each)
    with HumanoidScene(size, size, "fast") as scene:
        frames = np.stack([scene.render_pose(qpos) for qpos in states])
        start = scene.render_pose(start_pose())[None]
        table = measure(encoder, states, encoder.encode_images(frames), encoder.encode_images(start))
        draw_picture(encoder, scene, arguments.picture)
    result = {"encoder": encoder.id, "precision": encoder.precision, "pictures": len(frames), "tasks": table}
    arguments.out.write_text(json.dumps(result, indent=2) + "\n")
    print("| task | AUROC | 95 % | Spearman with closeness | gap, deviations | above the start pose |")
    print("|---|---|---|---|---|---|")
    for name, row in table.items():
        low, high = row["auroc_interval"]
        print(
            f"| {name} | {row['auroc']:.3f} | {low:.3f} to {high:.3f} | {row['spearman_with_closeness']:.3f} "
            f"| {row['gap_in_deviations']:.2f} | {row['above_the_start_pose']:.2f} |"
        )


if __name__ == "__main__":
    main()
