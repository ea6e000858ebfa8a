"""How fast the tabletop steps and draws on one core, and how often its scripted policies succeed. No training.

    python benchmarks/tabletop.py
    python benchmarks/tabletop.py --only speed

Speed: environments from `gymnasium.make` (time limit, resets when an episode ends), in a process held to one core. What
is timed are steps with 10 physics steps each and, in the second figure, one picture of 64 x 64 after each. Actions come
beforehand: random ones, and those of the expert stacking cubes, where the gripper touches things. Per second of this
process's CPU time and of wall time, the median of the rounds; the bars are 2,000 and 500.

Success: episodes of 150 steps from the seeds 0, 1, ...; true success at the last step with 95 % Wilson intervals. The
expert in every split, the worse policies in the split seen. Writes results/tabletop.json and a picture of the expert.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from PIL import Image

import vlmreward.envs  # noqa: F401  (registers)
from vlmreward.agents.evaluation import proportion
from vlmreward.envs.mujoco.gl import ensure_gl
from vlmreward.envs.mujoco.tabletop.env import TabletopEnv
from vlmreward.envs.mujoco.tabletop.experts import BEHAVIOURS, make_behaviour, make_expert
from vlmreward.envs.mujoco.tabletop.layouts import SPLITS
from vlmreward.envs.mujoco.tabletop.tasks import TASKS

HERE = Path(__file__).parent
BARS = {"without_pictures": 2000, "with_a_picture": 500}
STEPS = 150  # of an episode


def random_actions(rng: np.random.Generator) -> np.ndarray:
    """Return one episode of random actions, float32, shape (STEPS, 4)."""
    return rng.uniform(-1, 1, (STEPS, 4)).astype(np.float32)


def expert_actions(seed: int) -> np.ndarray:
    """Return what the expert does when it stacks cubes from a seed, float32, shape (STEPS, 4)."""
    env = TabletopEnv(task="stack", render_mode=None)
    env.reset(seed=seed)
    policy = make_expert("stack")
    policy.reset(env)
    actions = []
    for _ in range(STEPS):
        actions.append(policy.act(env))
        env.step(actions[-1])
    return np.stack(actions)


def measure_speed(episodes: list[np.ndarray], pictures: bool) -> tuple[float, float]:
    """Return steps per second of CPU time and of wall time."""
    env = gym.make(
        "vlmreward/Tabletop-v0", task="stack", width=64, height=64, render_mode="rgb_array" if pictures else None,
        disable_env_checker=True,
    )  # fmt: skip
    env.reset(seed=0)
    if pictures:
        env.render()  # makes the GL context
    cpu, wall = time.process_time(), time.perf_counter()
    for seed, actions in enumerate(episodes):
        env.reset(seed=seed)
        for action in actions:
            env.step(action)
            if pictures:
                env.render()
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    env.close()
    steps = len(episodes) * STEPS
    return steps / cpu, steps / wall


def speeds(rounds: int) -> dict[str, Any]:
    """Return both speeds with both kinds of actions, rounds interleaved."""
    rng = np.random.default_rng(0)
    episodes = {
        "random actions": [random_actions(rng) for _ in range(10)],
        "expert stacking": [expert_actions(seed) for seed in range(10)],
    }
    found: dict[tuple[str, str], list[tuple[float, float]]] = {}
    for _ in range(rounds):
        for kind, actions in episodes.items():
            for bar in BARS:
                found.setdefault((kind, bar), []).append(measure_speed(actions, bar == "with_a_picture"))
    out: dict[str, Any] = {}
    for (kind, bar), rates in found.items():
        per_cpu, per_wall = ([rate[i] for rate in rates] for i in (0, 1))
        out.setdefault(kind, {})[bar] = {
            "steps_per_cpu_second": round(statistics.median(per_cpu)),
            "range": [round(min(per_cpu)), round(max(per_cpu))],
            "steps_per_wall_second": round(statistics.median(per_wall)),
            "bar": BARS[bar],
        }
    return out


def measure_success(behaviour: str, task: str, split: str, episodes: int) -> dict[str, Any]:
    """Return how often a policy succeeds, how soon, and how far it comes."""
    env = TabletopEnv(task=task, render_mode=None, split=split)
    last, progress, first = [], [], []
    for seed in range(episodes):
        _, info = env.reset(seed=seed)
        policy = make_behaviour(behaviour, task, np.random.default_rng([seed, *behaviour.encode()]))
        policy.reset(env)
        successes = []
        for _ in range(STEPS):
            info = env.step(policy.act(env))[4]
            successes.append(info["success"])
        last.append(successes[-1])
        progress.append(info["progress"])
        if any(successes):
            first.append(successes.index(True) + 1)
    success = proportion(sum(last), episodes)
    return {
        "success": round(success["rate"], 4),
        "interval": [round(success["low"], 4), round(success["high"], 4)],
        "ever": round(len(first) / episodes, 4),
        "steps_to_success_median": statistics.median(first) if first else None,
        "progress_mean": round(float(np.mean(progress)), 4),
    }


def draw_picture(path: Path, size: int = 150) -> None:
    """Draw the expert at every task: a row of fine pictures from the start to success."""
    rows = []
    for task in TASKS:
        env = TabletopEnv(task=task, width=size, height=size, quality="fine")
        env.reset(seed=5)
        policy = make_expert(task)
        policy.reset(env)
        frames, done = [env.render()], False
        while not done and len(frames) <= STEPS:
            done = env.step(policy.act(env))[4]["success"]
            frames.append(env.render())
        env.close()
        rows.append(np.concatenate([frames[i] for i in np.linspace(0, len(frames) - 1, 7).round().astype(int)], axis=1))
    picture = Image.fromarray(np.concatenate(rows)).quantize(160)  # a palette: a third of the bytes
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.save(path, optimize=True)


def main() -> None:
    """Measure, draw and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--episodes", type=int, default=100, help="of each policy, task and split")
    parser.add_argument("--rounds", type=int, default=7, help="of the speed")
    parser.add_argument("--only", choices=("speed", "success", "picture"), help="leave the other parts as they are")
    parser.add_argument("--out", type=Path, default=HERE / "results" / "tabletop.json")
    parser.add_argument("--picture", type=Path, default=HERE.parent / "docs" / "images" / "tabletop.png")
    arguments = parser.parse_args()
    ensure_gl()
    result: dict[str, Any] = json.loads(arguments.out.read_text()) if arguments.out.exists() else {}
    load = round(os.getloadavg()[0], 1)
    if arguments.only in (None, "speed"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})  # and with it the threads that GL starts
        versions = {name: version(name) for name in ("mujoco", "gymnasium", "numpy")}
        result["speed"] = {
            "load_average_at_start": load, "gl": os.environ.get("MUJOCO_GL"), "versions": versions,
            "rounds": arguments.rounds, **speeds(arguments.rounds),
        }  # fmt: skip
        for kind in ("random actions", "expert stacking"):
            for bar, row in result["speed"][kind].items():
                print(f"{kind}, {bar.replace('_', ' ')}: {row['steps_per_cpu_second']} steps per CPU second, "
                      f"{row['steps_per_wall_second']} of wall time (bar {row['bar']})", flush=True)  # fmt: skip
    if arguments.only in (None, "success"):
        result["episodes"] = arguments.episodes
        result["success"] = {}
        for behaviour in BEHAVIOURS:
            for split in SPLITS if behaviour == "expert" else ("seen",):
                rows = {task: measure_success(behaviour, task, split, arguments.episodes) for task in TASKS}
                result["success"].setdefault(behaviour, {})[split] = rows
                cells = [f"{task} {row['success']:.2f} {row['interval']}" for task, row in rows.items()]
                print(f"{behaviour}, {split}: {', '.join(cells)}", flush=True)
    if arguments.only in (None, "picture"):
        draw_picture(arguments.picture)
    arguments.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
