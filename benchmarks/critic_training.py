"""Does a critic guide an agent to a sparse reward better than the similarity of frames, and than nothing?

    python benchmarks/critic.py             # first: records demonstrations and fits the critic
    python benchmarks/critic_training.py    # 4 rewards x seeds 0 to 2; runs whose JSON is there are not made again
    python benchmarks/critic_training.py --table

The task is the tabletop's ``close_drawer``; its own reward is sparse, 1 in a step with success. ``sparse`` learns from
that alone. ``critic`` and ``similarity potential`` add the difference of potentials, of the fitted critic
(``reward=critic``) and of the cosine (``reward=potential``); ``similarity`` learns from the cosine in place of the
sparse reward (``reward=clip``). All else is the environment's default, with the same number of steps; success is true
success, in 100 episodes of the split ``unseen``. Writes one JSON a run, and a picture of the learning curves.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

sys.path.append(str(Path(__file__).parent))  # PYTHONSAFEPATH keeps a script's own folder out

from text_goals import command, curve, success

HERE = Path(__file__).parent
FOLDER = HERE / "results" / "critic_training"
PICTURE = HERE.parent / "docs" / "images" / "critic_training.png"
CRITIC = Path("runs/critic_study/critic_all/critic.safetensors")
TASK, STEPS, SEEDS = "close_drawer", 150_000, (0, 1, 2)
WAYS: dict[str, tuple[str, ...]] = {
    "critic": ("reward=critic", "reward.of.path={critic}"),
    "similarity_potential": ("reward=potential",),
    "similarity": ("reward=clip",),
    "sparse": ("reward=clip", "reward.combine=env"),
}


def study_run(way: str, seed: int, critic: Path, folder: Path, threads: int) -> None:
    """Train and evaluate one agent, and write its JSON."""
    target = folder / f"{way}__seed{seed}.json"
    if target.exists():
        return
    with tempfile.TemporaryDirectory() as scratch:
        run, out = Path(scratch) / "run", Path(scratch) / "evaluation.json"
        asked = ("env=tabletop", f"env.task={TASK}", "env.kwargs.reward=sparse", f"total_timesteps={STEPS}")
        settings = (setting.format(critic=critic) for setting in WAYS[way])
        command(
            "train",
            *asked,
            *settings,
            f"seed={seed}",
            f"run_dir={run}",
            "audit=off",
            "eval.episodes=1",
            threads=threads,
        )
        evaluate = ("episodes=100", "score=false", "env.kwargs.split=unseen")
        command("evaluate", f"run={run}", *evaluate, f"out={out}", threads=threads)
        trained = json.loads((run / "result.json").read_text())
        keys = ("env", "goal", "encoder", "reward", "agent", "seed", "versions", "timesteps", "cpus", "threads")
        result = {key: trained[key] for key in (*keys, "git_commit", "wall_seconds")}
        result["curve"], result["success"] = curve(run / "metrics.jsonl"), success(out)
    folder.mkdir(parents=True, exist_ok=True)
    target.write_text(json.dumps(result, indent=2) + "\n")


def read(folder: Path) -> dict[str, list[dict]]:
    """Return the results there are, by way, in the order of seeds."""
    return {way: [json.loads(p.read_text()) for p in sorted(folder.glob(f"{way}__seed*.json"))] for way in WAYS}


def print_table(found: dict[str, list[dict]]) -> None:
    """Print true success of each agent."""
    print("| reward | true success, each seed | mean |\n|---|---|---|")
    for way, results in found.items():
        rates = [r["success"]["rate"] for r in results]
        if rates:
            print(f"| {way.replace('_', ' ')} | {', '.join(f'{r:.2f}' for r in rates)} | {np.mean(rates):.2f} |")


def draw(found: dict[str, list[dict]], path: Path) -> None:
    """Draw success while learning: the mean over seeds, and each seed thinly."""
    figure = Figure(figsize=(7, 4), layout="constrained")
    axis = figure.subplots()
    for number, (way, results) in enumerate(found.items()):
        curves = [(r["curve"]["step"], r["curve"]["rollout/success_rate"]) for r in results]
        for steps, rates in curves:
            axis.plot(steps, rates, color=f"C{number}", lw=0.6, alpha=0.5)
        if curves:
            grid = np.linspace(0, STEPS, 60)
            mean = np.mean([np.interp(grid, steps, np.array(rates, float)) for steps, rates in curves], axis=0)
            axis.plot(grid, mean, color=f"C{number}", lw=2, label=way.replace("_", " "))
    axis.set(xlabel="actions", ylabel="true success of training episodes", ylim=(-0.02, 1.02))
    axis.grid(alpha=0.3)
    axis.legend()
    FigureCanvasAgg(figure)
    figure.savefig(path, dpi=90)


def main() -> None:
    """Run what is missing, print the table and draw the curves."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--critic", type=Path, default=CRITIC, help="file of vlmreward fit-critic")
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS)
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS), help="which rewards")
    parser.add_argument("--threads", type=int, default=2, help="torch threads of a run")
    parser.add_argument("--out", type=Path, default=FOLDER, help="folder of the results")
    parser.add_argument("--picture", type=Path, default=PICTURE)
    parser.add_argument("--table", action="store_true", help="print the results there are")
    options = parser.parse_args()
    if not options.table:
        for seed in options.seeds:  # all rewards of a seed first: a study that is stopped is still a comparison
            for way in options.ways:
                study_run(way, seed, options.critic, options.out, options.threads)
    found = read(options.out)
    print_table(found)
    draw(found, options.picture)


if __name__ == "__main__":
    main()
