"""How good are the labels? Rollouts of mixed quality, labelled by every reward model and held against what is true.

    python benchmarks/label_quality.py --jobs 2     # 8 tasks; those whose JSON is there are not done again
    python benchmarks/label_quality.py --report     # only print the tables for the documentation, and draw the picture

For every task of the tabletop and for the cart-pole: `vlmreward collect` records episodes whose policies take turns
(MIXES), from fixed seeds, the tabletop in the split `unseen`; `vlmreward label` labels them with `mini` and each file
of configs/reward, for the task's own sentence. A reward of several goals gets the task in two sentences. Row t, judged
by frame t + 1, is held against the true progress and success of frame t + 1; an episode's end is its last row.
Intervals are 95 % percentile bootstraps over episodes. On the same rows stand the labels for another instruction, that
of the environment's next task, and baselines that need no encoder; "near success" is the pixel distance to a goal
picture, the mean of the success frames of the other episodes. What labelling refuses is listed with the reason.
"""

from __future__ import annotations

import argparse
import io
import json
import tempfile
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import redirect_stdout
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table

from vlmreward.audit.bootstrap import draw_counts, estimate, select_metrics
from vlmreward.audit.gallery import Gallery
from vlmreward.audit.metrics import Metric
from vlmreward.audit.pixels import thumbnails
from vlmreward.audit.rollouts import spearman_within
from vlmreward.audit.sample import make_sample
from vlmreward.audit.table import MetricTable, make_table
from vlmreward.cli import collect, label
from vlmreward.cli.arguments import parse_arguments
from vlmreward.cli.compose import compose
from vlmreward.cli.groups import list_groups
from vlmreward.cli.run_folder import describe_machine, write_json
from vlmreward.data import open_dataset
from vlmreward.data.dataset import EpisodeDataset
from vlmreward.data.labels import EpisodeLabels
from vlmreward.encoders import make_encoder
from vlmreward.envs.classic.cartpole import CartPoleEnv
from vlmreward.envs.mujoco.tabletop.tasks import TASKS, instructions
from vlmreward.errors import ConfigError
from vlmreward.labelling.stored_labels import RESULT, list_runs, open_labels

HERE = Path(__file__).parent
RESULTS = HERE / "results" / "label_quality"
PICTURE = HERE.parent / "docs" / "images" / "label_quality.png"

SEED = 60_000  # of the first episode; of the bootstrap and the random baseline too
EPISODES = 140
MIXES = {
    "tabletop": ("expert", "expert@0.2", "expert@0.5", "noisy", "near", "failed", "random"),
    "cartpole": ("swing_up", "swing_up@0.1", "swing_up@0.3", "swing_up@0.5", "hang", "random", "zero"),
}
SENTENCES = {
    "tabletop": {task: instructions(task)[:2] for task in TASKS},
    "cartpole": {
        "upright": (CartPoleEnv.TASKS["upright"].goal, "the pole points straight up"),
        "hanging": (CartPoleEnv.TASKS["hanging"].goal, "the pole points straight down"),
    },
}
BASELINE = {"tabletop": TASKS["push"].baseline, "cartpole": CartPoleEnv.TASKS["upright"].baseline}
OTHER = ", other instruction"
FIGURES = {
    "spearman_progress": "Spearman of reward and true progress, all rows",
    "spearman_within": "Spearman within episodes, mean",
    "auroc": "AUROC of reward and true success, all rows",
    "auroc_end": "AUROC of the last reward and the outcome, episodes",
}
WITHIN = Metric(
    "spearman_within", partial(spearman_within, label="progress"), ("rollouts", "progress"), "higher",
    "in every episode the score or progress is constant",
)  # fmt: skip


@dataclass(frozen=True)
class Subject:
    """A task of an environment."""

    env: str
    task: str

    @property
    def name(self) -> str:
        """Return the name of its result."""
        return f"{self.env}_{self.task}"

    @property
    def other(self) -> str:
        """Return the environment's next task, whose instruction is the other one."""
        tasks = list(SENTENCES[self.env])
        return tasks[(tasks.index(self.task) + 1) % len(tasks)]


SUBJECTS = (*(Subject("tabletop", task) for task in TASKS), Subject("cartpole", "upright"))


@dataclass(frozen=True)
class Rows:
    """N rows of a dataset and what is true of the frame that each is judged by.

    Attributes:
        episode: int64, shape (N,).
        frame: Number of the frame in its episode, int64, shape (N,): 1 for the first row.
        progress: float64, shape (N,).
        success: bool, shape (N,).
    """

    episode: np.ndarray
    frame: np.ndarray
    progress: np.ndarray
    success: np.ndarray

    @property
    def ends(self) -> np.ndarray:
        """Return which rows are the last of their episode, bool, shape (N,)."""
        return np.append(self.episode[1:] != self.episode[:-1], True)


def read_rows(truth: Mapping[str, np.ndarray]) -> Rows:
    """Return the rows of a truth file: all of its frames but the first of each episode, which no row is judged by."""
    judged = truth["frame"] > 0
    return Rows(
        truth["episode"][judged], truth["frame"][judged], truth["progress"][judged], truth["success"][judged] == 1
    )


def reward_of_rows(labels: Sequence[EpisodeLabels]) -> np.ndarray:
    """Return the rewards of all rows, float64, shape (N,); NaN where a label is invalid."""
    return np.concatenate([np.where(one.valid, one.reward, np.nan) for one in labels]).astype(np.float64)


def label_rows(
    dataset: EpisodeDataset, jobs: Path, reward: str, baseline: str, goals: Sequence[str]
) -> tuple[np.ndarray, Mapping[str, Any]]:
    """Label a dataset; its pictures are encoded the first time.

    Args:
        dataset: What is labelled; nothing is written into it.
        jobs: Folder of the labelling jobs.
        reward: A file of configs/reward.
        baseline: The scene in words.
        goals: In words; none for each episode's own task.

    Returns:
        The reward of every row, shape (N,), and the run's ``result.json``.

    Raises:
        ConfigError: Labelling does not take this reward.
    """
    before = set(list_runs(jobs))
    asked = [f"dataset={dataset.root}", f"run_dir={jobs}", "write=false", "force=true", "threads=1"]
    with redirect_stdout(io.StringIO()):
        label.main([*asked, f"reward={reward}", f"baseline={baseline}", *(f"goal={goal}" for goal in goals)])
    (run,) = set(list_runs(jobs)) - before
    return reward_of_rows(list(open_labels(run, dataset))), json.loads((run / RESULT).read_text())


def baselines(dataset: EpisodeDataset, rows: Rows) -> dict[str, np.ndarray]:
    """Return an audit's baselines on the frames that rows are judged by, each of shape (N,)."""
    (camera,) = dataset.cameras
    thumbs = [thumbnails(np.stack(list(dataset.frames(episode, camera))[1:])) for episode in dataset.episodes]
    gallery = Gallery(
        {}, rows.episode, rows.frame, (), rows.success, rows.progress, np.concatenate(thumbs), pictures=(), refused=0
    )
    return gallery.baselines(SEED)


def measure(scores: Mapping[str, np.ndarray], rows: Rows) -> MetricTable:
    """Hold scores, each of shape (N,), against what is true.

    Args:
        scores: By name.
        rows: What is true of the same rows.
    """
    table = np.column_stack(list(scores.values()))
    sample = make_sample(table, success=rows.success, progress=rows.progress, group=rows.episode, step=rows.frame)
    counts = draw_counts(sample.groups, seed=SEED)
    found = estimate(sample, [*select_metrics(sample, ["auroc", "spearman_progress"]), WITHIN], counts)
    ends = rows.ends
    last = make_sample(table[ends], success=rows.success[ends], group=rows.episode[ends])
    found["auroc_end"] = estimate(last, select_metrics(last, ["auroc"]), counts)["auroc"]
    return make_table(list(scores), sample, found)


def study(subject: Subject, episodes: int, settings: Mapping[str, Any], target: Path) -> None:
    """Record, label and measure one task, and write its JSON."""
    marks = [time.process_time()]
    with tempfile.TemporaryDirectory() as scratch:
        out, jobs = Path(scratch) / "rollouts", Path(scratch) / "jobs"
        split = ["env.kwargs.split=unseen"] if subject.env == "tabletop" else []
        asked = [f"env={subject.env}", f"env.task={subject.task}", f"policy=[{','.join(MIXES[subject.env])}]"]
        collect.main([*asked, *split, f"episodes={episodes}", f"seed={SEED}", "format=folder", f"out={out}"])
        marks.append(time.process_time())
        dataset = open_dataset(out)
        with np.load(out.with_name(f"{out.name}.truth.npz")) as truth:
            rows, acted = read_rows(truth), truth["policy"].tolist()
        sentences, baseline = SENTENCES[subject.env], BASELINE[subject.env]
        own: dict[str, np.ndarray] = {}
        other: dict[str, np.ndarray] = {}
        cards, refused = {}, {}
        for reward in list_groups()["reward"]:
            several = "parts" in compose("label", parse_arguments([f"reward={reward}"]))["reward"]
            goals = sentences[subject.task] if several else ()
            try:
                own[reward], result = label_rows(dataset, jobs, reward, baseline, goals)
            except ConfigError as e:
                refused[reward] = str(e)
                continue
            cards[reward] = result["report_card"]
            goals = sentences[subject.other][: 2 if several else 1]
            other[f"{reward}{OTHER}"] = label_rows(dataset, jobs, reward, baseline, goals)[0]
        marks.append(time.process_time())
        table = measure(own | other | baselines(dataset, rows), rows)
    marks.append(time.process_time())
    spent = dict(zip(("record", "label", "measure"), np.diff(marks).round(1).tolist(), strict=True))
    outcomes = rows.success[rows.ends]
    write_json(
        target,
        {
            **settings,
            "env": subject.env,
            "task": subject.task,
            "sentences": list(sentences[subject.task]),
            "other_sentences": list(sentences[subject.other]),
            "rows": len(rows.frame),
            "success_rows": int(rows.success.sum()),
            "policies": {
                name: {
                    "episodes": acted.count(name),
                    "successes": int(outcomes[[one == name for one in acted]].sum()),
                }
                for name in dict.fromkeys(acted)
            },
            "not_labelled": refused,
            "report_cards": cards,
            **table.to_json(),
            "cpu_seconds": spent,
            **describe_machine(),
        },
    )


def is_done(target: Path, settings: Mapping[str, Any]) -> bool:
    """Return whether a result is there that was made with the same settings."""
    found = json.loads(target.read_text()) if target.is_file() else {}
    return all(found.get(name) == value for name, value in settings.items())


def words(figure: Mapping[str, float | None]) -> str:
    """Return a figure as ``.71 (.60 to .80)``."""
    value, low, high = (figure[end] for end in ("value", "low", "high"))
    if value is None:
        return "–"

    def short(number: float) -> str:
        return f"{round(number, 2) + 0.0:.2f}".replace("0.", ".", 1)  # -.00 is .00

    return short(value) if low is None or high is None else f"{short(value)} ({short(low)} to {short(high)})"


def title(found: Mapping[str, Any]) -> str:
    """Return what a task is called in tables."""
    return found["task"] if found["env"] == "tabletop" else f"{found['env']}, {found['task']}"


def figures_by_sweep(found: Mapping[str, Any]) -> dict[str, Mapping[str, Mapping[str, float | None]]]:
    """Return the figures of a result by who scored: the rewards, the rewards for the other instruction, baselines."""
    return {sweep["name"]: sweep["metrics"] for sweep in found["sweeps"]}


def print_table(found: Mapping[str, Any], console: Console) -> None:
    """Print all figures of one task."""
    episodes = sum(policy["episodes"] for policy in found["policies"].values())
    reached = sum(policy["successes"] for policy in found["policies"].values())
    table = Table(title=f"{title(found)}: {episodes} episodes, {reached} successful, {found['rows']} rows")
    table.add_column("who scores")
    for head in FIGURES:
        table.add_column(head, justify="right")
    for name, figures in figures_by_sweep(found).items():
        table.add_row(name, *(words(figures[figure]) for figure in FIGURES))
    console.print(table)
    for name, why in found["not_labelled"].items():
        console.print(f"not labelled: {name}: {why}", highlight=False)


def names_shown(results: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return who scores in any of the results; of the labels for the other instruction only those of ``clip``."""
    names = dict.fromkeys(name for found in results for name in figures_by_sweep(found))
    return [name for name in names if not name.endswith(OTHER) or name == f"clip{OTHER}"]


def markdown(results: Sequence[Mapping[str, Any]]) -> str:
    """Return picture and tables for the documentation: what was recorded, then a table a figure, a column a task."""
    head = [f"| | {' | '.join(title(found) for found in results)} |", "|---" * (len(results) + 1) + "|"]
    ended = [
        [sum(p[key] for p in found["policies"].values()) for key in ("successes", "episodes")] for found in results
    ]
    lines = [f"![labels against what is true](images/{PICTURE.name})", "", *head]
    lines.append(f"| episodes that end in success | {' | '.join(f'{good} of {of}' for good, of in ended)} |")
    shares = [found["success_rows"] / found["rows"] for found in results]
    lines += [f"| rows that show success | {' | '.join(f'{share:.0%}' for share in shares)} |", ""]
    tasks = [figures_by_sweep(found) for found in results]
    for figure, what in FIGURES.items():
        lines += [f"{what[0].upper()}{what[1:]}:", "", *head]
        for name in names_shown(results):
            cells = [words(sweeps[name][figure]) if name in sweeps else "–" for sweeps in tasks]
            lines.append(f"| {name} | {' | '.join(cells)} |")
        lines.append("")
    refused = {name: why for found in results for name, why in found["not_labelled"].items()}
    lines += [f"Not labelled: `{name}` ({why})." for name, why in refused.items()]
    return "\n".join(lines)


def draw(results: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Draw every figure with its interval: a panel each, a row for each task; rewards in colours, the rest black."""
    figure = Figure(figsize=(11, 1.5 + 1.6 * len(results)), dpi=100, layout="constrained")
    names, tasks = names_shown(results), [figures_by_sweep(found) for found in results]
    grid = figure.subplots(2, 2, sharey=True)
    for axes, (metric, what) in zip(grid.ravel(), FIGURES.items(), strict=True):
        low, chance = (0, 0.5) if "auroc" in metric else (-1, 0)
        axes.set_xlim(low - 0.03, 1.03)
        axes.axvline(chance, color="#999999", linewidth=0.8, linestyle=":")
        for number, name in enumerate(names):
            figures = [sweeps[name][metric] if name in sweeps else {"value": None} for sweeps in tasks]
            known = [(i, one) for i, one in enumerate(figures) if one["value"] is not None]
            values = [one["value"] for _, one in known]
            places = [i + 0.8 * number / len(names) - 0.4 for i, _ in known]
            bounded = [(y, one) for y, (_, one) in zip(places, known, strict=True) if one["low"] is not None]
            reward = any(name in found["report_cards"] for found in results)
            colour = f"C{number % 10}" if reward else "black"
            ends = ([one[end] for _, one in bounded] for end in ("low", "high"))
            axes.hlines([y for y, _ in bounded], *ends, color=colour, linewidth=1.2)
            axes.plot(
                values, places, "o" if reward else "sv^<>xD"[number % 7], color=colour, markersize=3.5, label=name
            )
        axes.set_title(what, fontsize=9)
        axes.set_yticks(range(len(results)), [title(found) for found in results])
    grid[0, 0].invert_yaxis()
    handles, labels = grid[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4, fontsize=8, frameon=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    FigureCanvasAgg(figure).print_png(path)


def main() -> None:
    """Do what is left and print it, or report what there is."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = [subject.name for subject in SUBJECTS]
    parser.add_argument("--tasks", nargs="+", choices=names, default=names, help="which tasks")
    parser.add_argument("--episodes", type=int, default=EPISODES, help="of a task, its policies taking turns")
    parser.add_argument("--jobs", type=int, default=1, help="tasks at a time, one thread each")
    parser.add_argument("--folder", type=Path, default=RESULTS, help="where results are kept")
    parser.add_argument("--picture", type=Path, default=PICTURE, help="what --report draws")
    parser.add_argument("--report", action="store_true", help="print tables in Markdown, and draw")
    arguments = parser.parse_args()
    chosen = [
        (subject, arguments.folder / f"{subject.name}.json") for subject in SUBJECTS if subject.name in arguments.tasks
    ]
    if not arguments.report:
        settings = {"encoder": make_encoder("mini", "cpu").id, "rewards": list_groups()["reward"]}
        settings |= {"episodes": arguments.episodes, "seed": SEED}
        arguments.folder.mkdir(parents=True, exist_ok=True)
        left = [(subject, target) for subject, target in chosen if not is_done(target, settings)]
        with ProcessPoolExecutor(arguments.jobs, mp_context=get_context("spawn")) as pool:
            for one in [pool.submit(study, subject, arguments.episodes, settings, target) for subject, target in left]:
                one.result()
    results = [json.loads(target.read_text()) for _, target in chosen if target.is_file()]
    if arguments.report:
        print(markdown(results))
        draw(results, arguments.picture)
        return
    for found in results:
        print_table(found, Console())
    for figure, what in FIGURES.items():
        print(f"{figure}: {what}")


if __name__ == "__main__":
    main()
