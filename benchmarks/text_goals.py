"""Train on text goals with ``mini``, and measure every agent on every goal by the true state. Writes one JSON a run.

    python benchmarks/text_goals.py cartpole         # 4 goals; 5 seeds of the first, one of the others; matrix
    python benchmarks/text_goals.py mountaincar      # 5 seeds
    python benchmarks/text_goals.py cartpole --table # only print what there is

Every run is a `vlmreward train` with the environment's defaults, then `vlmreward evaluate` of 100 episodes. Runs whose
JSON is there are not made again, so the study can be stopped at any time.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
# environment -> (goal trained with all seeds, all goals that are crossed, further evaluations as environment arguments)
STUDIES: dict[str, tuple[str, tuple[str, ...], dict[str, tuple[str, ...]]]] = {
    "cartpole": (
        "upright",
        ("upright", "hanging", "left", "right"),
        {"any": ("env.kwargs.start=any",), "upright": ("env.kwargs.start=upright",)},
    ),
    "mountaincar": ("top", ("top",), {"default": ()}),
}
SEEDS = range(5)
POLICIES = ("random", "zero")


def command(*arguments: str, threads: int) -> None:
    """Run one vlmreward command; a failure ends the study."""
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "OMP_WAIT_POLICY": "PASSIVE"}
    subprocess.run([sys.executable, "-m", "vlmreward.cli", *arguments], check=True, env=environment)


def success(path: Path) -> dict[str, Any]:
    """Return rate, interval and count of an evaluation."""
    return json.loads(path.read_text())["evaluation"]["success"]


def goal_of(env: str, task: str) -> str:
    """Return the text goal of a task."""
    from vlmreward.envs.classic.cartpole import CartPoleEnv
    from vlmreward.envs.classic.mountaincar import MountainCarEnv

    return {"cartpole": CartPoleEnv, "mountaincar": MountainCarEnv}[env].TASKS[task].goal


def study_run(env: str, task: str, seed: int, folder: Path, threads: int) -> None:
    """Train one agent, evaluate it on every goal and start, and write its JSON."""
    target = folder / f"{task}__seed{seed}.json"
    if target.exists():
        return
    _, tasks, starts = STUDIES[env]
    with tempfile.TemporaryDirectory() as scratch:
        run = Path(scratch) / "run"
        command("train", f"env={env}", f"goal={goal_of(env, task)}", f"seed={seed}", f"run_dir={run}", threads=threads)
        trained = json.loads((run / "result.json").read_text())
        result = {key: trained[key] for key in ("env", "goal", "encoder", "reward", "agent", "seed", "versions")}
        result |= {"wall_seconds": trained["wall_seconds"], "phase_seconds": trained["phase_seconds"]}
        result["success"] = {}
        for other in tasks:
            for name, settings in starts.items():
                if name != next(iter(starts)) and other != task:
                    continue
                out = Path(scratch) / "evaluation.json"
                asked = f"goal={goal_of(env, other)}"
                command(
                    "evaluate",
                    f"run={run}",
                    asked,
                    f"out={out}",
                    "score=false",
                    "episodes=100",
                    *settings,
                    threads=threads,
                )
                result["success"].setdefault(other, {})[name] = success(out)
    folder.mkdir(parents=True, exist_ok=True)
    target.write_text(json.dumps(result, indent=2) + "\n")


def study_trivial(env: str, folder: Path) -> None:
    """Measure random and zero-action policies on every goal."""
    target = folder / "trivial.json"
    if target.exists():
        return
    _, tasks, starts = STUDIES[env]
    table: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as scratch:
        out = Path(scratch) / "evaluation.json"
        for policy in POLICIES:
            for task in tasks:
                for name, settings in starts.items():
                    command(
                        "evaluate",
                        f"env={env}",
                        f"env.task={task}",
                        f"policy={policy}",
                        f"out={out}",
                        "score=false",
                        *settings,
                        threads=1,
                    )
                    table.setdefault(policy, {}).setdefault(task, {})[name] = success(out)
    folder.mkdir(parents=True, exist_ok=True)
    target.write_text(json.dumps(table, indent=2) + "\n")


def print_table(env: str, folder: Path) -> None:
    """Print the matrix of success: rows are agents, columns are goals."""
    main_task, tasks, starts = STUDIES[env]
    first = next(iter(starts))
    rows: dict[str, dict[str, Any]] = {}
    for path in sorted(folder.glob("*__seed*.json")):
        rows[path.stem] = json.loads(path.read_text())["success"]
    if (folder / "trivial.json").exists():
        rows |= json.loads((folder / "trivial.json").read_text())
    print(f"| agent | {' | '.join(tasks)} |" + "".join(f" own goal, start {s} |" for s in list(starts)[1:]))
    print("|---" * (len(tasks) + len(starts)) + "|")
    for name, row in rows.items():
        cells = [f"{row[t][first]['rate']:.2f}" for t in tasks]
        own = name.split("__")[0] if "__" in name else main_task
        cells += [f"{row[own][s]['rate']:.2f}" for s in list(starts)[1:]]
        print(f"| {name} | {' | '.join(cells)} |")


def main() -> None:
    """Run what is missing, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("env", choices=sorted(STUDIES))
    parser.add_argument("--jobs", type=int, default=1, help="runs at the same time, one torch thread each if above 1")
    parser.add_argument("--table", action="store_true", help="print the results there are")
    arguments = parser.parse_args()
    folder = HERE / "results" / arguments.env
    if not arguments.table:
        main_task, tasks, _ = STUDIES[arguments.env]
        study_trivial(arguments.env, folder)
        wanted = [(main_task, seed) for seed in SEEDS] + [(task, 0) for task in tasks if task != main_task]
        threads = 2 if arguments.jobs == 1 else 1
        with ThreadPoolExecutor(arguments.jobs) as pool:
            jobs = [pool.submit(study_run, arguments.env, t, s, folder, threads) for t, s in wanted]
            for job in jobs:
                job.result()
    print_table(arguments.env, folder)


if __name__ == "__main__":
    main()
