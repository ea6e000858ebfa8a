"""Train on text goals with ``mini``, and measure every agent on every goal by the true state. Writes one JSON a run.

    python benchmarks/text_goals.py cartpole         # 4 goals; 5 seeds of the first, one of the others; matrix
    python benchmarks/text_goals.py mountaincar      # 5 seeds
    python benchmarks/text_goals.py humanoid         # one pose, and the same with the hand-written reward
    python benchmarks/text_goals.py humanoid --total-timesteps 600000   # twice as long; results in a folder of its own
    python benchmarks/text_goals.py cartpole --table # only print what there is

Every run is a `vlmreward train` with the environment's defaults, then `vlmreward evaluate` of 100 episodes (1000 of a
trivial policy, whose rates are small). Runs whose JSON is there are not made again, so the study can be stopped at any
time.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

HERE = Path(__file__).parent


@dataclass(frozen=True)
class Study:
    """What is trained and measured in one environment.

    Attributes:
        id: Gymnasium id, whose tasks have the text goals.
        tasks: The goals that are crossed; the first is trained with all seeds, the others with seed 0.
        seeds: Seeds of the first goal.
        starts: Evaluations by name, as environment arguments; the agents are crossed on the first.
        policies: Trivial policies that are measured on every goal.
        env_reward: Whether the first goal is also trained on the environment's hand-written reward (seed 0).
    """

    id: str
    tasks: tuple[str, ...]
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    starts: dict[str, tuple[str, ...]] = field(default_factory=lambda: {"default": ()})
    policies: tuple[str, ...] = ("random", "zero")
    env_reward: bool = False

    def runs(self) -> list[tuple[str, int, str]]:
        """Return (task, seed, reward) of every run."""
        main, *others = self.tasks
        hand_written = [(main, 0, "env")] if self.env_reward else []
        return [(main, seed, "vlm") for seed in self.seeds] + [(task, 0, "vlm") for task in others] + hand_written


STUDIES = {
    "cartpole": Study(
        "vlmreward/CartPole-v0",
        ("upright", "hanging", "left", "right"),
        starts={"any": ("env.kwargs.start=any",), "upright": ("env.kwargs.start=upright",)},
    ),
    "mountaincar": Study("vlmreward/MountainCar-v0", ("top",)),
    "humanoid": Study(
        "vlmreward/Humanoid-v0", ("lotus",), seeds=(0, 1), policies=("random", "zero", "hold"), env_reward=True
    ),
}


def command(*arguments: str, threads: int) -> None:
    """Run one vlmreward command; a failure ends the study."""
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "OMP_WAIT_POLICY": "PASSIVE"}
    subprocess.run([sys.executable, "-m", "vlmreward.cli", *arguments], check=True, env=environment)


def success(path: Path) -> dict[str, Any]:
    """Return rate, interval and count of an evaluation."""
    return json.loads(path.read_text())["evaluation"]["success"]


def goal_of(env: str, task: str) -> str:
    """Return the text goal of a task."""
    from vlmreward.cli.environments import find_tasks

    return find_tasks(STUDIES[env].id)[task].goal


def curve(path: Path, points: int = 40) -> dict[str, list[Any]]:
    """Return at most so many points of a run's learning curve, the first and the last among them."""
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    lines = [line for line in lines if line.get("rollout/vlm_return") is not None]
    chosen = sorted({round(i * (len(lines) - 1) / (points - 1)) for i in range(points)})
    keys = ("step", "rollout/vlm_return", "rollout/env_return", "rollout/success_rate")
    return {key: [round(lines[i][key], 4) for i in chosen] for key in keys}


def study_run(env: str, task: str, seed: int, reward: str, steps: int | None, folder: Path, threads: int) -> None:
    """Train one agent, evaluate it on every goal and start, and write its JSON."""
    target = folder / f"{task}__seed{seed}{'' if reward == 'vlm' else '__env_reward'}.json"
    if target.exists():
        return
    study = STUDIES[env]
    settings = [] if reward == "vlm" else ["reward.combine=env"]
    settings += [] if steps is None else [f"total_timesteps={steps}"]
    with tempfile.TemporaryDirectory() as scratch:
        run = Path(scratch) / "run"
        goal = f"goal={goal_of(env, task)}"
        command("train", f"env={env}", goal, f"seed={seed}", f"run_dir={run}", *settings, threads=threads)
        trained = json.loads((run / "result.json").read_text())
        keys = ("env", "goal", "encoder", "reward", "agent", "seed", "versions", "timesteps", "cpus", "threads")
        result = {key: trained[key] for key in (*keys, "git_commit")}
        config = yaml.safe_load((run / "config.yaml").read_text())
        result |= {key: config[key] for key in ("n_envs", "normalise_obs", "encode_batch")}
        result |= {"wall_seconds": trained["wall_seconds"], "phase_seconds": trained["phase_seconds"]}
        result["curve"] = curve(run / "metrics.jsonl")
        result["success"] = {}
        for other in study.tasks:
            for name, start in study.starts.items():
                if name != next(iter(study.starts)) and other != task:
                    continue
                out = Path(scratch) / "evaluation.json"
                asked = (f"goal={goal_of(env, other)}", "episodes=100", f"score={str(other == task).lower()}")
                command("evaluate", f"run={run}", *asked, f"out={out}", *start, threads=threads)
                result["success"].setdefault(other, {})[name] = success(out)
                if other == task:
                    result.setdefault("vlm_return", {})[name] = json.loads(out.read_text())["evaluation"]["vlm_return"]
    folder.mkdir(parents=True, exist_ok=True)
    target.write_text(json.dumps(result, indent=2) + "\n")


def study_trivial(env: str, folder: Path) -> None:
    """Measure the trivial policies on every goal."""
    target = folder / "trivial.json"
    if target.exists():
        return
    study = STUDIES[env]
    table: dict[str, Any] = {}
    versions: dict[str, str] = {}
    with tempfile.TemporaryDirectory() as scratch:
        out = Path(scratch) / "evaluation.json"
        for policy in study.policies:
            for task in study.tasks:
                for name, settings in study.starts.items():
                    asked = (f"env.task={task}", f"policy={policy}", "episodes=1000", "score=false", f"out={out}")
                    command("evaluate", f"env={env}", *asked, *settings, threads=1)
                    table.setdefault(policy, {}).setdefault(task, {})[name] = success(out)
                    versions = json.loads(out.read_text())["versions"]
    folder.mkdir(parents=True, exist_ok=True)
    target.write_text(json.dumps({"versions": versions, "success": table}, indent=2) + "\n")


def print_table(env: str, folder: Path) -> None:
    """Print the matrix of success: rows are agents, columns are goals."""
    study = STUDIES[env]
    first, *others = study.starts
    rows: dict[str, dict[str, Any]] = {}
    for path in sorted(folder.glob("*__seed*.json")):
        rows[path.stem] = json.loads(path.read_text())["success"]
    if (folder / "trivial.json").exists():
        rows |= json.loads((folder / "trivial.json").read_text())["success"]
    print(f"| agent | {' | '.join(study.tasks)} |" + "".join(f" own goal, start {s} |" for s in others))
    print("|---" * (len(study.tasks) + len(study.starts)) + "|")
    for name, row in rows.items():
        cells = [f"{row[t][first]['rate']:.2f}" for t in study.tasks]
        own = name.split("__")[0] if "__" in name else study.tasks[0]
        cells += [f"{row[own][s]['rate']:.2f}" for s in others]
        print(f"| {name} | {' | '.join(cells)} |")


def main() -> None:
    """Run what is missing, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("env", choices=sorted(STUDIES))
    parser.add_argument("--jobs", type=int, default=1, help="runs at the same time, one torch thread each if above 1")
    parser.add_argument("--total-timesteps", type=int, help="other than the environment's own")
    parser.add_argument("--table", action="store_true", help="print the results there are")
    arguments = parser.parse_args()
    folder, steps = HERE / "results" / arguments.env, arguments.total_timesteps
    if not arguments.table:
        study_trivial(arguments.env, folder)
    folder = folder / f"{steps}_actions" if steps else folder
    if not arguments.table:
        threads = 2 if arguments.jobs == 1 else 1
        with ThreadPoolExecutor(arguments.jobs) as pool:
            jobs = [
                pool.submit(study_run, arguments.env, *run, steps, folder, threads)
                for run in STUDIES[arguments.env].runs()
            ]
            for job in jobs:
                job.result()
    print_table(arguments.env, folder)


if __name__ == "__main__":
    main()
