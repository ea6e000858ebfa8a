"""Does a progress critic know more than time, than pixels, and than the similarity of frames to the goal?

    python benchmarks/critic.py                # collect, fit, judge: about 25 minutes on 2 cores
    python benchmarks/critic.py --report       # only print the tables and draw the picture

Held-out episodes are fixed here; how the critic learns was chosen with the true progress of some of the others. Per
task 50 episodes to learn from (FIT) and 42 held-out ones (HELD_OUT), more than half of them failures and regressions,
by scripted policies from fixed seeds. One critic learns from all tasks but ``UNSEEN``; that one it meets with one
demonstration as reference and with none. Its learning never sees the true progress (``<dataset>.truth.npz``), only
pictures, sentences, time and each episode's recorded outcome.

Per task, on all frames of the held-out episodes, with 95 % bootstrap intervals over episodes: Spearman with true
progress, AUROC of "done" with true success, share of episodes in the right outcome class (SE, PSE, FE by the rule of
SARM, applied to the estimate and to true progress), mean final progress of successes less that of failures, and final
progress of successes when asked for another task. Baselines: time index, constant, random, pixel distance (to the
nearest of the final frames of the task's successful demonstrations), and the similarity of frames to the sentence
(``reward=clip``), the last two put between the 1 % and the 99 % quantile of the episodes to learn from, as labels are.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from vlmreward.audit.progress_metrics import OUTCOMES, auroc, outcome, spearman
from vlmreward.cli import collect, fit_critic
from vlmreward.cli.arguments import parse_arguments
from vlmreward.cli.fit_critic import read_episodes, settle_fit_critic
from vlmreward.cli.run_folder import describe_machine, write_json
from vlmreward.data import open_dataset
from vlmreward.encoders import make_encoder
from vlmreward.rewards import make_reward
from vlmreward.rewards.critic_reward import CriticReward
from vlmreward.types import Encoder, FrameBatch

HERE = Path(__file__).parent
RESULT = HERE / "results" / "critic.json"
PICTURE = HERE.parent / "docs" / "images" / "critic.png"

TASKS = (
    *(("tabletop", task) for task in ("push", "lift", "bin", "open_drawer", "close_drawer", "touch", "stack")),
    ("cartpole", "upright"),
)
UNSEEN = ("tabletop", "stack")
FIT = {
    "tabletop": ("expert", "noisy", "near", "failed", "random"),
    "cartpole": ("swing_up", "swing_up@0.3", "hang", "random", "swing_up@0.1"),
}
HELD_OUT = {
    "tabletop": ("expert", "expert@0.5", "noisy", "near", "failed", "failed", "random"),
    "cartpole": ("swing_up", "swing_up@0.3", "swing_up@0.5", "hang", "random", "random", "zero"),
}
FIT_EPISODES, FIT_SEED = 50, 1_000
HELD_EPISODES, HELD_SEED = 42, 80_000
REPLICATES = 1000
FIGURES = {
    "spearman": "Spearman with true progress",
    "done": "AUROC of done",
    "outcome": "outcome class right",
    "gap": "success less failure, end",
    "other": "end, another instruction",
}


@dataclass(frozen=True)
class Held:
    """A held-out episode: embeddings, true progress in [0, 1] and true success of each frame, small pictures."""

    embeddings: np.ndarray
    progress: np.ndarray
    success: np.ndarray
    pictures: np.ndarray


Scores = Sequence[tuple[np.ndarray, np.ndarray]]  # of each episode: progress in [0, 1] and "done", shape (F,) both


def record(env: str, task: str, held: bool, root: Path) -> Path:
    """Record a task's episodes, unless they are there."""
    out = root / f"{env}_{task}{'_held_out' if held else ''}"
    if not out.with_name(f"{out.name}.truth.npz").exists():
        policies = (HELD_OUT if held else FIT)[env]
        count, seed = (HELD_EPISODES, HELD_SEED) if held else (FIT_EPISODES, FIT_SEED)
        arguments = [f"env={env}", f"env.task={task}", f"policy=[{','.join(policies)}]", f"out={out}"]
        collect.main([*arguments, f"episodes={count}", f"seed={seed}"])
    return out


def unit_progress(env: str, task: str, progress: np.ndarray) -> np.ndarray:
    """Return true progress in [0, 1]; the cart-pole's is a cosine."""
    return (progress + 1) / 2 if env == "cartpole" else progress


def thumbnail(frame: np.ndarray) -> np.ndarray:
    """Return a picture of 16 x 16 mean colours, float32."""
    side = min(frame.shape[:2]) // 16 * 16
    return frame[:side, :side].reshape(16, side // 16, 16, side // 16, 3).mean(axis=(1, 3), dtype=np.float32)


def read_held(env: str, task: str, dataset: Path, encoder: Encoder) -> list[Held]:
    """Read held-out episodes with their truth."""
    settings = settle_fit_critic(parse_arguments([f"dataset={dataset}"]))
    episodes = read_episodes(str(dataset), settings, encoder)
    opened = open_dataset(dataset)
    with np.load(dataset.with_name(f"{dataset.name}.truth.npz")) as truth:
        index, frame, progress, success = (truth[name] for name in ("episode", "frame", "progress", "success"))
    out = []
    for number, episode in enumerate(episodes):
        frames = opened.frames(opened.episodes[number], opened.cameras[0])
        pictures = np.stack([thumbnail(frame) for frame in frames])  # type: ignore[arg-type]
        own = (index == number) & (frame < opened.episodes[number].frames)  # LeRobot keeps none after the last action
        assert own.sum() == len(episode.embeddings) == len(pictures), "no frame is lost in a recording of ours"
        out.append(Held(episode.embeddings, unit_progress(env, task, progress[own]), success[own] == 1, pictures))
    return out


def critic_scores(model: CriticReward, episodes: Sequence[Held]) -> Scores:
    """Return what a critic says."""
    out = []
    for episode in episodes:
        x = episode.embeddings
        batch = FrameBatch(
            np.zeros(len(x), np.int64), np.arange(len(x)), embeddings=x, initial=np.tile(x[0], (len(x), 1))
        )
        scored = model.compute_reward(batch)
        assert scored.success is not None, "a critic says what is done"
        out.append((scored.reward.astype(np.float64), scored.success.astype(np.float64)))
    return out


def scaled(values: Sequence[np.ndarray], like: Sequence[np.ndarray]) -> Scores:
    """Return values between the 1 % and the 99 % quantile of those of the episodes to learn from, as both scores."""
    low, high = np.quantile(np.concatenate(list(like)), (0.01, 0.99))
    out = [np.clip((v - low) / max(high - low, 1e-9), 0, 1) for v in values]
    return [(v, v) for v in out]


def baselines(goal: str, encoder: Encoder, held: Sequence[Held], fit: Sequence[Held]) -> dict[str, Scores]:
    """Return the scores of what needs no critic."""
    rng = np.random.default_rng(0)
    clip = make_reward("clip", encoder, goal=goal)
    ends = np.stack([e.pictures[-1] for e in fit if e.success[-1]]).reshape(-1, 768)

    def similarity(episode: Held) -> np.ndarray:
        rows = np.zeros(len(episode.embeddings), np.int64)
        return clip.compute_reward(FrameBatch(rows, rows, embeddings=episode.embeddings)).reward.astype(np.float64)

    def nearness(episode: Held) -> np.ndarray:
        flat = episode.pictures.reshape(-1, 768)
        return -np.sqrt(((flat[:, None] - ends[None]) ** 2).mean(axis=-1)).min(axis=1).astype(np.float64)

    def both(make: Callable[[int], np.ndarray]) -> Scores:
        values = [make(len(e.embeddings)) for e in held]
        return [(v, v) for v in values]

    return {
        "similarity of frames (clip)": scaled([similarity(e) for e in held], [similarity(e) for e in fit]),
        "pixel distance": scaled([nearness(e) for e in held], [nearness(e) for e in fit]),
        "time index": both(lambda count: np.linspace(0, 1, count)),
        "constant": both(lambda count: np.full(count, 0.5)),
        "random": both(lambda count: rng.random(count)),
    }


def figures(scores: Scores, other: Scores | None, held: Sequence[Held]) -> dict[str, list[float | None]]:
    """Return each figure with its 95 % interval over episodes."""
    rng = np.random.default_rng(0)
    draws = [np.arange(len(held)), *rng.integers(len(held), size=(REPLICATES, len(held)))]
    true_class = np.array([OUTCOMES.index(outcome(e.progress) or "failure") for e in held])
    said_class = np.array([OUTCOMES.index(outcome(p) or "failure") for p, _ in scores])
    ends = np.array([p[-1] for p, _ in scores])
    other_ends = np.array([p[-1] for p, _ in other]) if other is not None else np.full(len(held), np.nan)
    won = np.array([e.success[-1] for e in held])
    found: dict[str, list[float]] = {name: [] for name in FIGURES}
    for rows in draws:
        progress, done = (np.concatenate([scores[i][k] for i in rows]) for k in (0, 1))
        truth = np.concatenate([held[i].progress for i in rows])
        success = np.concatenate([held[i].success for i in rows])
        w = won[rows]
        found["spearman"].append(spearman(progress, truth))
        found["done"].append(auroc(done, success))
        found["outcome"].append(float((said_class[rows] == true_class[rows]).mean()))
        found["gap"].append(float(ends[rows][w].mean() - ends[rows][~w].mean()) if 0 < w.sum() < len(w) else np.nan)
        found["other"].append(float(other_ends[rows][w].mean()) if w.any() else np.nan)
    return {name: _interval(values) for name, values in found.items()}


def _interval(values: Sequence[float]) -> list[float | None]:
    drawn = np.array(values[1:])
    if not np.isfinite(values[0]) or not np.isfinite(drawn).any():
        return [None] * 3
    low, high = np.nanquantile(drawn, (0.025, 0.975))
    return [round(float(v), 3) for v in (values[0], low, high)]


def study(root: Path, out: Path) -> dict[str, Any]:
    """Record, fit and judge."""
    encoder = make_encoder("mini", device="cpu")
    recordings = {key: (record(*key, False, root), record(*key, True, root)) for key in TASKS}
    seen = [key for key in TASKS if key != UNSEEN]
    seconds = {}
    jobs = {"all": seen, "one": [TASKS[1]]}  # the second only for its time: one task, 50 episodes
    for name, keys in jobs.items():
        folder, began = root / f"critic_{name}", time.perf_counter()
        if not (folder / fit_critic.CRITIC).exists():
            fit_critic.main([*(f"dataset={recordings[key][0]}" for key in keys), f"out={folder}", "seed=0"])
            (folder / "seconds.json").write_text(json.dumps(time.perf_counter() - began))
        seconds[name] = round(json.loads((folder / "seconds.json").read_text()), 1)
    path = root / "critic_all" / fit_critic.CRITIC
    result: dict[str, Any] = {"encoder": encoder.id, "unseen": "_".join(UNSEEN), "fit_seconds": seconds, "tasks": {}}
    result["fit"] = json.loads((root / "critic_all" / "result.json").read_text())["held_out"]
    goals = {key: open_dataset(recordings[key][0]).episodes[0].instruction for key in TASKS}
    for number, key in enumerate(TASKS):
        held = read_held(*key, recordings[key][1], encoder)
        fit = read_held(*key, recordings[key][0], encoder)
        demo = next(i for i, e in enumerate(fit) if e.success[-1])
        goal, other = goals[key], goals[TASKS[(number + 1) % len(TASKS)]]
        rows: dict[str, Any] = {}
        for estimate in ("direct", "accumulated", "anchored", "fused"):
            for shown in (False, True):
                name = f"critic, {estimate}{', one demonstration' if shown else ''}"
                reference = {"reference": recordings[key][0], "reference_episode": demo} if shown else {}
                own, mismatched = (
                    critic_scores(CriticReward(encoder, text, path=path, estimate=estimate, **reference), held)  # type: ignore[arg-type]
                    for text in (goal, other)
                )
                rows[name] = figures(own, mismatched, held)
        for name, scores in baselines(goal, encoder, held, fit).items():
            mismatched = baselines(other, encoder, held, fit)[name]
            rows[name] = figures(scores, mismatched, held)
        won = [bool(e.success[-1]) for e in held]
        about = {"held_out": len(held), "failures": len(held) - sum(won)}
        about["regressions"] = sum(float(e.progress.max() - e.progress[-1]) > 0.2 for e in held)
        result["tasks"]["_".join(key)] = {**about, "rows": rows}
        write_json(out, {**result, **describe_machine()})
    return result


def report(result: Mapping[str, Any]) -> None:
    """Print a table for each figure, for the documentation."""
    tasks = result["tasks"]
    heads = [f"{task.split('_', 1)[1]}{' (unseen)' if task == result['unseen'] else ''}" for task in tasks]
    print(f"| | {' | '.join(heads)} |\n|{'---|' * (len(heads) + 1)}")
    print("| episodes; failures |", " | ".join(f"{t['held_out']}; {t['failures']}" for t in tasks.values()), "|")
    for figure, title in FIGURES.items():
        print(f"\n{title[0].upper()}{title[1:]}:\n\n| | {' | '.join(heads)} |\n|{'---|' * (len(heads) + 1)}")
        for name in next(iter(tasks.values()))["rows"]:
            print(f"| {name} | {' | '.join(_cell(task['rows'][name][figure]) for task in tasks.values())} |")


def _cell(value: Sequence[float | None]) -> str:
    return "–" if value[0] is None else f"{value[0]:.2f} ({value[1]:.2f} to {value[2]:.2f})"


def draw(result: Mapping[str, Any], path: Path) -> None:
    """Draw the first two figures of each task, every way of judging as a point with its interval."""
    names = list(next(iter(result["tasks"].values()))["rows"])
    figure = Figure(figsize=(11, 6.5), layout="constrained")
    for axis, what in zip(figure.subplots(1, 2, sharey=True), ("spearman", "done"), strict=True):
        for place, found in enumerate(result["tasks"].values()):
            for offset, name in enumerate(names):
                value = found["rows"][name][what]
                if value[0] is not None:
                    y = -place + 0.36 - 0.72 * offset / (len(names) - 1)
                    colour = f"C{offset}"
                    axis.plot(value[1:], [y, y], color=colour, lw=1)
                    axis.plot(value[0], y, "o", color=colour, ms=4, label=name if place == 0 else None)
        axis.set(title=FIGURES[what], yticks=[-i for i in range(len(result["tasks"]))])
        axis.set_yticklabels([f"{t}{' (unseen)' if t == result['unseen'] else ''}" for t in result["tasks"]])
        axis.grid(axis="x", alpha=0.3)
    figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3, fontsize=8)
    FigureCanvasAgg(figure)
    figure.savefig(path, dpi=90)


def main() -> None:
    """Run the study, or print what is there."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--folder", type=Path, default=Path("runs/critic_study"), help="of recordings and critics, kept"
    )
    parser.add_argument("--report", action="store_true", help="print the tables and draw the picture, measure nothing")
    parser.add_argument("--out", type=Path, default=RESULT)
    parser.add_argument("--picture", type=Path, default=PICTURE)
    options = parser.parse_args()
    result = json.loads(options.out.read_text()) if options.report else study(options.folder, options.out)
    report(result)
    draw(result, options.picture)


if __name__ == "__main__":
    main()
