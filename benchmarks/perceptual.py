"""How well does a reward from a few demonstrations rank the progress of episodes it has not seen?

    python benchmarks/perceptual.py              # 15 minutes on two cores, most of them collecting
    python benchmarks/perceptual.py --tasks cartpole stack --episodes 24

Demonstrations and held-out episodes are made by ``vlmreward collect`` with scripted policies, from seeds that share
none. Held out are a quarter each: of the tabletop by the expert, with a trembling hand, stopping before the end, and
failing; of cart-pole swinging up, the same with half of the actions random, hanging, and random. For each number of
demonstrations, with the settings of the reward's page:

- rank correlation with the true progress, mean over episodes, with a 95 % bootstrap interval over them
- the same over the frames of all episodes together, which a time index can't get from rising
- AUROC: how often a success ends with a higher reward than a failure

Beside it, on the same episodes: the time index, the similarity to the nearest last frame of the demonstrations, and the
``clip`` reward for the task's goal in words. An episode of constant progress has no rank correlation and is counted.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from vlmreward.audit.progress_metrics import auroc, spearman
from vlmreward.cli import main as vlmreward
from vlmreward.cli.run_folder import describe_machine
from vlmreward.data import open_dataset
from vlmreward.encoders import make_encoder
from vlmreward.rewards import make_reward
from vlmreward.types import Encoder, FloatArray, FrameBatch

DEMO_SEED, HELD_OUT_SEED = 1_000, 5_000
REPLICATES = 2_000
TASKS = ["cartpole", "stack", "open_drawer", "lift", "push"]
POLICIES = {
    "env=cartpole": {"demos": "[swing_up]", "held_out": "[swing_up,swing_up@0.5,hang,random]"},
    "env=tabletop": {"demos": "[expert]", "held_out": "[expert,noisy,near,failed]"},
}
Score = Callable[[FloatArray], FloatArray]


@dataclass(frozen=True)
class Row:
    """One way to score the held-out episodes of a task.

    Attributes:
        task: Environment and task.
        score: Which.
        demos: Demonstrations that it was made from; 0 for none.
        spearman: Mean over episodes of the rank correlation with true progress.
        interval: Ends of its 95 % interval.
        undefined: Episodes without one: progress or score is constant.
        pooled: Rank correlation over the frames of all episodes.
        auroc: Of last frames, success against failure.
        successes: Of the episodes.
        episodes: How many were held out.
    """

    task: str
    score: str
    demos: int
    spearman: float
    interval: tuple[float, float]
    undefined: int
    pooled: float
    auroc: float
    successes: int
    episodes: int


def record(work: Path, name: str, env: tuple[str, ...], counts: dict[str, int]) -> None:
    """Collect demonstrations and held-out episodes, unless they are there."""
    for part, seed in (("demos", DEMO_SEED), ("held_out", HELD_OUT_SEED)):
        out = work / f"{name}_{part}"
        if not out.with_name(f"{out.name}.truth.npz").exists():
            own = (f"policy={POLICIES[env[0]][part]}", f"episodes={counts[part]}", f"seed={seed}", f"out={out}")
            if vlmreward(["collect", *env, "format=folder", *own]) != 0:
                raise SystemExit(f"{out} could not be collected")


def encode(encoder: Encoder, path: Path) -> list[FloatArray]:
    """Return the embeddings of each episode, shape (T + 1, D)."""
    dataset = open_dataset(path)
    frames = (list(dataset.frames(episode, dataset.cameras[0])) for episode in dataset.episodes)
    return [encoder.encode_images(np.stack(own)) for own in frames]  # type: ignore[arg-type]


def measure(name: str, goal: str, encoder: Encoder, work: Path, numbers: list[int]) -> list[Row]:
    """Return the rows of a task."""
    shown, films = (encode(encoder, work / f"{name}_{part}") for part in ("demos", "held_out"))
    with np.load(work / f"{name}_held_out.truth.npz") as truth:
        episode, progress, success = truth["episode"], truth["progress"], truth["success"]
    true = [progress[episode == number] for number in range(len(films))]
    done = np.array([success[episode == number][-1] == 1 for number in range(len(films))])

    def model(reward: str, **settings: object) -> Score:
        built = make_reward(reward, encoder, **settings)
        return lambda x: built.compute_reward(FrameBatch(np.zeros(len(x), int), np.arange(len(x)), embeddings=x)).reward

    ways: list[tuple[str, int, Score]] = [
        ("time index", 0, lambda x: np.arange(len(x), dtype=np.float32)),
        ("clip", 0, model("clip", goal=goal)),
    ]
    for count in numbers:
        last = np.stack([x[-1] for x in shown[:count]])
        demos = {"demos": work / f"{name}_demos", "episodes": list(range(count))}
        ways += [
            ("nearest last frame", count, lambda x, last=last: (x @ last.T).max(axis=1)),
            ("perceptual", count, model("perceptual", **demos)),
        ]
    return [summarise(name, way, count, [score(x) for x in films], true, done) for way, count, score in ways]


def summarise(
    name: str, way: str, demos: int, scores: list[FloatArray], true: list[np.ndarray], done: np.ndarray
) -> Row:
    """Return the row of one way to score."""
    each = np.array([spearman(score, progress) for score, progress in zip(scores, true, strict=True)])
    known = each[np.isfinite(each)]
    draws = np.random.default_rng(0).choice(known, (REPLICATES, len(known))).mean(axis=1)
    low, high = np.quantile(draws, (0.025, 0.975)).tolist()
    pooled = spearman(np.concatenate(scores), np.concatenate(true))
    ends = auroc(np.array([score[-1] for score in scores]), done)
    lost, successes = len(each) - len(known), int(done.sum())
    return Row(name, way, demos, float(known.mean()), (low, high), lost, pooled, ends, successes, len(each))


def main() -> None:
    """Measure, print a table, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", nargs="+", default=TASKS, help="cartpole, and tasks of the tabletop")
    parser.add_argument("--demos", nargs="+", type=int, default=[1, 3, 10], help="numbers of demonstrations")
    parser.add_argument("--episodes", type=int, default=60, help="held-out episodes of a task")
    parser.add_argument("--encoder", default="mini")
    parser.add_argument("--work", type=Path, default=Path("runs/perceptual"), help="datasets are kept here")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "perceptual.json")
    options = parser.parse_args()
    encoder = make_encoder(options.encoder, "cpu", precision="fp32")
    counts = {"demos": max(options.demos), "held_out": options.episodes}
    options.work.mkdir(parents=True, exist_ok=True)
    rows: list[Row] = []
    for task in options.tasks:
        env = ("env=cartpole",) if task == "cartpole" else ("env=tabletop", f"env.task={task}")
        record(options.work, task, env, counts)
        goal = open_dataset(options.work / f"{task}_demos").episodes[0].instruction
        rows += measure(task, goal, encoder, options.work, options.demos)
    table = Table("task", "score", "demos", "Spearman", "95 %", "undefined", "pooled", "AUROC", "successes")
    for row in rows:
        low, high = row.interval
        cells = (f"{row.spearman:.2f}", f"{low:.2f} to {high:.2f}", str(row.undefined), f"{row.pooled:.2f}")
        ends = (f"{row.auroc:.2f}", f"{row.successes} of {row.episodes}")
        table.add_row(row.task, row.score, str(row.demos or ""), *cells, *ends)
    Console().print(table)
    result = {
        "encoder": encoder.id,
        "seeds": {"demos": DEMO_SEED, "held_out": HELD_OUT_SEED},
        "machine": describe_machine(),
        "rows": [asdict(row) for row in rows],
    }
    options.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
