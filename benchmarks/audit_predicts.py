"""Does the audit predict training? Audit the variants of data/audit_variants.yaml, train each, compare. One JSON a run.

    python benchmarks/audit_predicts.py --jobs 2     # 16 variants x 2 seeds, about 40 minutes on two cores
    python benchmarks/audit_predicts.py --alone      # seconds of one run of each environment with the machine to itself
    python benchmarks/audit_predicts.py --table      # only print what there is, and draw the picture

Every variant is `vlmreward audit` with its defaults, and two `vlmreward train` that are shorter than the environment's
own setting (STEPS: under three minutes alone on two cores), judged by the true success in 100 episodes. Runs
whose JSON is there are not made again, so the study can be stopped at any time.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).parent))  # PYTHONSAFEPATH keeps a script's own folder out

import numpy as np
import yaml
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from scipy.stats import spearmanr
from text_goals import command, success

HERE = Path(__file__).parent
VARIANTS = HERE / "data" / "audit_variants.yaml"
FOLDER = HERE / "results" / "audit_predicts"
PICTURE = HERE.parent / "docs" / "images" / "audit_predicts.png"

SEEDS = (0, 1)
STEPS = {"cartpole": 60_800, "mountaincar": 72_000}
"""Actions of a run."""

MOST_SECONDS = 180
"""Of a run with the machine to itself."""

SCORE = "audit_score"
REPLICATES = 10_000


@dataclass(frozen=True)
class Variant:
    """One way of rewarding one task.

    Attributes:
        env: Name of the environment.
        task: Its task, whose true success is measured.
        goal: The prompt.
        alpha: Share of the projection on goal - baseline.
    """

    env: str
    task: str
    goal: str
    alpha: float

    @property
    def settings(self) -> tuple[str, ...]:
        """Return the variant as settings of a command."""
        return (f"env={self.env}", f"env.task={self.task}", f"goal={self.goal}", f"reward.alpha={self.alpha}")

    def path(self, kind: str) -> Path:
        """Return where a result of the variant is kept."""
        words = "_".join("".join(c if c.isalnum() else " " for c in self.goal).split())
        return FOLDER / f"{self.env}__{words}__alpha{self.alpha:g}__{kind}.json"


def audit(variant: Variant) -> None:
    """Audit one variant and write its figures."""
    target = variant.path("audit")
    if target.exists():
        return
    with tempfile.TemporaryDirectory() as out:
        command("audit", *variant.settings, "landscapes=false", f"out={out}", threads=1)
        found = json.loads((Path(out) / "audit.json").read_text())
    (view,) = found["views"]
    (sweep,) = (s for s in view["sweeps"] if not s["name"].startswith("baseline:"))
    keys = ("subject", "task", "goal", "baseline", "encoders", "seed", "versions", "git_commit")
    kept = {key: found[key] for key in keys} | {key: view[key] for key in ("frames", "success_frames")}
    write(target, kept | {"metrics": sweep["metrics"]})


def train(variant: Variant, seed: int) -> None:
    """Train one agent, measure its true success, and write both."""
    target = variant.path(f"seed{seed}")
    if target.exists():
        return
    with tempfile.TemporaryDirectory() as scratch:
        run, out = Path(scratch) / "run", Path(scratch) / "evaluation.json"
        steps = f"total_timesteps={STEPS[variant.env]}"
        own = ("audit=off", "eval.episodes=1", steps, f"seed={seed}", f"run_dir={run}")
        command("train", *variant.settings, *own, threads=1)
        command("evaluate", f"run={run}", "episodes=100", "score=false", f"out={out}", threads=1)
        trained = json.loads((run / "result.json").read_text())
        keys = ("env", "goal", "encoder", "reward", "agent", "seed", "timesteps", "wall_seconds", "cpus", "threads")
        result = {key: trained[key] for key in (*keys, "versions", "git_commit")}
        write(target, result | {"success": success(out)})


def time_alone(variants: list[Variant]) -> None:
    """Train the first variant of each environment again, with nothing beside it, and keep the seconds."""
    seconds: dict[str, Any] = {}
    for env in STEPS:
        variant = next(v for v in variants if v.env == env)
        with tempfile.TemporaryDirectory() as scratch:
            run, steps = Path(scratch) / "run", f"total_timesteps={STEPS[env]}"
            own = ("audit=off", "eval.episodes=1", steps, "seed=0", f"run_dir={run}")
            command("train", *variant.settings, *own, threads=os.cpu_count() or 1)
            trained = json.loads((run / "result.json").read_text())
        seconds[env] = {key: trained[key] for key in ("timesteps", "wall_seconds", "cpus", "threads", "git_commit")}
    write(FOLDER / "alone.json", seconds)


def write(path: Path, content: dict[str, Any]) -> None:
    """Write one result whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_suffix(".tmp")
    draft.write_text(json.dumps(content, indent=2) + "\n")
    draft.replace(path)


def collect(variants: list[Variant]) -> list[dict[str, Any]]:
    """Return what is known of the variants that were audited and trained."""
    rows = []
    for variant in variants:
        runs = [p for seed in SEEDS if (p := variant.path(f"seed{seed}")).exists()]
        if runs and variant.path("audit").exists():
            found = [json.loads(path.read_text()) for path in runs]
            measured = json.loads(variant.path("audit").read_text())["metrics"][SCORE]
            rows.append(
                {
                    "env": variant.env,
                    "goal": variant.goal,
                    "alpha": variant.alpha,
                    "score": measured["value"],
                    "interval": [measured["low"], measured["high"]],
                    "success": [r["success"]["rate"] for r in found],
                    "wall_seconds": [round(r["wall_seconds"]) for r in found],
                }
            )
    return rows


def agreement(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Return Spearman's correlation of score and mean success, with a bootstrap interval over variants."""
    score = np.array([row["score"] for row in rows])
    reached = np.array([np.mean(row["success"]) for row in rows])
    rng = np.random.default_rng(0)
    drawn = []
    while len(drawn) < REPLICATES:
        chosen = rng.integers(len(rows), size=len(rows))
        if np.ptp(score[chosen]) > 0 and np.ptp(reached[chosen]) > 0:
            drawn.append(spearmanr(score[chosen], reached[chosen]).statistic)
    low, high = np.quantile(drawn, (0.025, 0.975))
    value = spearmanr(score, reached).statistic
    return {"spearman": round(float(value), 3), "low": round(float(low), 3), "high": round(float(high), 3)}


def draw(rows: list[dict[str, Any]], found: dict[str, Any]) -> None:
    """Draw every run as a point."""
    figure = Figure(figsize=(7.2, 4.2), dpi=120, layout="constrained")
    axes = figure.subplots()
    for env, colour in zip(STEPS, ("#1f77b4", "#d95f02"), strict=True):
        points = [(row["score"], s) for row in rows if row["env"] == env for s in row["success"]]
        axes.scatter(*zip(*points, strict=True), color=colour, alpha=0.65, label=env)
    axes.set(xlabel="audit score, before training", ylabel="true success of the trained agent", ylim=(-0.05, 1.05))
    axes.axvline(0, color="#999999", linewidth=0.8, linestyle=":")
    axes.set_title(
        f"{len(rows)} variants, {sum(len(r['success']) for r in rows)} runs: Spearman {found['spearman']:.2f} "
        f"(95 % {found['low']:.2f} to {found['high']:.2f})",
        fontsize=10,
    )
    axes.legend(frameon=False)
    FigureCanvasAgg(figure).print_png(PICTURE)


def report(variants: list[Variant]) -> None:
    """Print the table, write the summary, draw the picture."""
    rows = sorted(collect(variants), key=lambda row: -row["score"])
    print("| env | goal | alpha | audit score | true success, each seed | training, s |\n|---|---|---|---|---|---|")
    for row in rows:
        reached = ", ".join(f"{s:.2f}" for s in row["success"])
        seconds = ", ".join(f"{s}" for s in row["wall_seconds"])
        print(f"| {row['env']} | {row['goal']} | {row['alpha']:g} | {row['score']:.3f} | {reached} | {seconds} |")
    if len(rows) < 3:
        return
    found = {"all": agreement(rows)}
    found |= {env: agreement(own) for env in STEPS if len(own := [r for r in rows if r["env"] == env]) > 2}
    for name, value in found.items():
        print(f"{name}: Spearman {value['spearman']} (95 % {value['low']} to {value['high']})")
    if (alone := FOLDER / "alone.json").exists():
        for env, run in json.loads(alone.read_text()).items():
            print(f"{env}: {run['wall_seconds']:.0f} s with the machine to itself, at most {MOST_SECONDS} asked")
    write(FOLDER / "summary.json", {"spearman": found, "variants": rows})
    draw(rows, found["all"])


def main() -> None:
    """Run what is missing, and report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=1, help="runs at the same time, one torch thread each")
    parser.add_argument("--alone", action="store_true", help="time one run of each environment instead")
    parser.add_argument("--table", action="store_true", help="report the results there are")
    arguments = parser.parse_args()
    variants = [Variant(**row) for row in yaml.safe_load(VARIANTS.read_text())]
    if arguments.alone:
        time_alone(variants)
    elif not arguments.table:
        with ThreadPoolExecutor(arguments.jobs) as pool:
            jobs = [pool.submit(audit, variant) for variant in variants]
            jobs += [pool.submit(train, variant, seed) for seed in SEEDS for variant in variants]
            for job in jobs:
                job.result()
    report(variants)


if __name__ == "__main__":
    main()
