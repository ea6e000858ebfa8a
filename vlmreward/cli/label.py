"""``vlmreward label``: write reward, success and progress into a dataset of recorded episodes."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from vlmreward.cli.arguments import parse_arguments
from vlmreward.cli.compose import refuse_words
from vlmreward.errors import DatasetError

if TYPE_CHECKING:
    from vlmreward.audit.report_card import ReportCard
    from vlmreward.cli.label_settings import LabelSettings
    from vlmreward.data.dataset import EpisodeDataset, Problem
    from vlmreward.data.labels import Change, LabelWriter, Provenance
    from vlmreward.labelling.labelling import Counts, Labeller
    from vlmreward.labelling.plan import Plan
    from vlmreward.labelling.scoring import LabelScorer
    from vlmreward.labelling.work_folder import WorkFolder
    from vlmreward.types import Encoder

SAMPLE_EPISODES = 20
"""Whole episodes of the report card, where the dataset has as many."""


@dataclass(frozen=True)
class Job:
    """The parts of a labelling run.

    Attributes:
        dataset: Opened.
        plan: Its shards.
        folder: Their journal.
        labeller: Labels them.
        scorer: For the goals asked for.
        control: For goals that are not the episodes' own.
        provenance: Of the labels.
    """

    dataset: EpisodeDataset
    plan: Plan
    folder: WorkFolder
    labeller: Labeller
    scorer: LabelScorer
    control: LabelScorer
    provenance: Provenance


def main(argv: Sequence[str]) -> int:
    """Run the command and return the exit code.

    Args:
        argv: The arguments after the command's name.

    Raises:
        VlmRewardError: A setting is wrong, the dataset can't be read or written, the labels are no good, ...
    """
    arguments = parse_arguments(argv)
    refuse_words("label", arguments)
    from vlmreward.cli.label_settings import settle_label

    settings = settle_label(arguments)
    options = settings.options
    if "cfg" in arguments.flags:
        print(yaml.safe_dump(dict(options), sort_keys=False, allow_unicode=True), end="")
        return 0
    from vlmreward.data import open_dataset

    dataset = open_dataset(settings.dataset)
    if options["undo"]:
        for change in make_writer(dataset, {**options, "overwrite": True}).undo():
            print(f"{change.what}: {change.path}")
        return 0
    writer = make_writer(dataset, options) if options["write"] else None
    if "dry_run" in arguments.flags:
        if writer is not None:
            writer.is_written("")  # of what run labels would be is not known without the encoder: any are in the way
        _print_problems(dataset, settings.dataset)
        _print_plan(dataset, writer.plan() if writer else ())
        return 0

    from vlmreward.cli.problems import count_left_out, refuse_left_out
    from vlmreward.labelling.stored_labels import StoredLabels

    job = build_job(settings, dataset)
    if writer is not None and writer.is_written(job.provenance.run):
        print(f"{options['name']} is there already, from this very run ({job.provenance.run}): nothing was changed")
        return 0
    problems = _print_problems(dataset, settings.dataset)
    refuse_left_out(dataset, problems, options["max_invalid"], settings.dataset)
    began = time.perf_counter()
    card, counts = label(job, options)
    seconds = time.perf_counter() - began
    labels = StoredLabels(job.folder, job.plan, dataset.episodes, job.provenance)
    _write_result(job, settings, card, counts, count_left_out(problems), seconds)
    for line in describe_counts(counts, seconds):
        print(line)
    if counts.invalid > options["max_invalid"] * counts.frames:
        raise DatasetError(
            f"{counts.invalid} of {counts.frames} frames have no label (max_invalid={options['max_invalid']:g}; most "
            f"often: {max(counts.reasons, key=lambda why: counts.reasons[why])}), and nothing was written: mend the "
            "dataset or allow more"
        )
    if writer is not None:
        changes = writer.plan()
        writer.write(labels)
        for change in changes:
            print(f"{change.what}: {change.path}")
    print(f"result: {job.folder.labels / 'result.json'}")
    return 0


def make_writer(dataset: EpisodeDataset, options: Mapping[str, Any]) -> LabelWriter:
    """Return what writes labels into a dataset or beside it.

    Raises:
        VlmRewardError: The name is taken, or the dataset can't be written.
    """
    from vlmreward.data import find_format

    label_writer = find_format(dataset.format).label
    return label_writer(dataset, options["name"], filler=options["filler"], overwrite=options["overwrite"])


def build_job(settings: LabelSettings, dataset: EpisodeDataset) -> Job:
    """Load the encoder, open its store, encode the prompts, and lay out the work.

    Raises:
        VlmRewardError: Weights are missing, a prompt is bad, an episode has no task, ...
    """
    from vlmreward import __version__
    from vlmreward.cli.build import set_threads
    from vlmreward.cli.embedded_dataset import embed_dataset
    from vlmreward.data.labels import Provenance
    from vlmreward.encoders import make_encoder_from_config
    from vlmreward.labelling.labelling import Labeller
    from vlmreward.labelling.scoring import goals_of
    from vlmreward.labelling.work_folder import WorkFolder

    options = settings.options
    goals = goals_of(dataset.episodes, " / ".join(settings.goal) or None)
    set_threads(options["threads"])
    encoder: Encoder = make_encoder_from_config(settings.encoder, device=options["device"])
    job = embed_dataset(dataset, options, encoder, settings.encoder)
    described = {key: getattr(encoder, key, None) for key in ("id", "precision", "runtime")}
    what = [job.layout, described, options["cache_dtype"], options["encode_batch"], settings.reward, settings.goal]
    what += [settings.baseline, goals, __version__]
    run = hashlib.blake2b(json.dumps(what, sort_keys=True).encode(), digest_size=8).hexdigest()
    folder = WorkFolder(job.path, job.layout, run)
    folder.begin()
    scorer, control = make_scorers(settings, encoder, goals)
    name = " ".join(str(value) for value in described.values() if value)
    provenance = Provenance(
        run, name, encoder.licence, settings.reward, " / ".join(settings.goal), job.camera, str(__version__)
    )
    labeller = Labeller(
        job.plan,
        folder,
        job.store,
        job.engine,
        lambda index, start: dataset.frames(dataset.episodes[index], job.camera, start),
    )
    return Job(dataset, job.plan, folder, labeller, scorer, control, provenance)


def make_scorers(settings: LabelSettings, encoder: Encoder, goals: Sequence[str]) -> tuple[LabelScorer, LabelScorer]:
    """Return what scores episodes for their goals, and for goals that are not theirs."""
    import warnings

    from vlmreward.cli.audit_parts import UNRELATED
    from vlmreward.labelling.scoring import LabelScorer
    from vlmreward.rewards import for_other_goals, make_reward_from_config
    from vlmreward.types import RewardModel

    asked = " / ".join(settings.goal)

    def build(goal: str, config: Mapping[str, Any] = settings.reward) -> RewardModel:
        prompts: dict[str, Any] = {"goal": list(settings.goal) if goal == asked else [goal]}
        if goal != asked and "parts" in settings.reward:  # a reward of several goals gets as many others
            more = [prompt for prompt in UNRELATED if prompt != goal]
            prompts["goal"] += more[: max(0, len(settings.goal) - 1)]
        if settings.baseline:
            prompts["baseline"] = list(settings.baseline)
        return make_reward_from_config(config, encoder, **prompts)[0]

    others = list(dict.fromkeys(goals))
    if len(others) == 1:
        others += [prompt for prompt in UNRELATED if prompt != others[0]][:1]
    following = dict(zip(others, others[1:] + others[:1], strict=True))

    def build_control(goal: str) -> RewardModel:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the other goal may well be outside of the encoder's domain
            return build(goal, for_other_goals(settings.reward))

    return LabelScorer(build, goals), LabelScorer(build_control, [following[goal] for goal in goals])


def label(job: Job, options: Mapping[str, Any]) -> tuple[ReportCard, Counts]:
    """Label the dataset: first what the report card needs, and the rest unless that speaks against it.

    Raises:
        DatasetError: The report card speaks against these labels, and the user doesn't force them.
    """
    from vlmreward.agents.progress import Progress
    from vlmreward.labelling.labelling import Counts

    counts = Counts()
    sample = job.plan.sample(options["sample"], SAMPLE_EPISODES, options["seed"])
    with Progress("sample", sum(len(job.plan.shards[n]) for n in sample), unit="frames") as progress:
        job.labeller.encode(sample, progress.advance, counts)
    card = judge_sample(job, job.plan.whole_episodes(sample), options["seed"])
    for line in describe_card(card):
        print(line)
    if card.refusal is not None and not options["force"]:
        raise DatasetError(
            f"these labels would be refused: {card.refusal}; nothing was written: another goal, camera, reward or "
            "encoder may do better, and force=true writes them all the same"
        )
    with Progress("labelling", job.plan.total, unit="frames") as progress:
        job.labeller.run(job.scorer, progress.advance, counts)
    return card, counts


def judge_sample(job: Job, episodes: Sequence[int], seed: int) -> ReportCard:
    """Return the report card of whole episodes."""
    from vlmreward.audit.report_card import ScoredEpisode, report_card

    return report_card(
        [
            ScoredEpisode(
                job.labeller.score_episode(i, job.scorer).reward,
                job.labeller.score_episode(i, job.control).reward,
                job.dataset.episodes[i].success,
            )
            for i in episodes
        ],
        seed,
    )


def describe_card(card: ReportCard) -> list[str]:
    """Return a report card as lines of text."""
    from vlmreward.audit.report_card import LEAST_EPISODES

    outcomes = "" if card.successes is None else f", {card.successes} of them successful"
    intervals = " (95 % intervals over episodes)" if card.is_enough else ""
    lines = [
        f"report card of {card.episodes} episodes{outcomes}{intervals}",
        f"  rewards rise along episodes  {card.rise}   time itself 1, a constant 0",
        f"  for another instruction      {card.rise_of_control}   beyond it {card.rise_beyond_control}",
    ]
    if card.separation is not None:
        lines += [
            f"  successes end higher         {card.separation}   a constant 0.5",
            f"  for another instruction      {card.separation_of_control}   lengths alone {card.separation_by_length}",
        ]
    if not card.is_enough:
        lines.append(
            f"  too few episodes to judge: at least {LEAST_EPISODES} are needed; labels are not refused for this"
        )
    return lines


def describe_counts(counts: Counts, seconds: float) -> list[str]:
    """Return what was done as lines of text."""
    lines = [f"{counts.frames} frames labelled in {seconds:.1f} s, {counts.decoded} of them decoded in this run"]
    for why, count in sorted(counts.reasons.items(), key=lambda item: -item[1]):
        lines.append(f"  {count} frames have no label: {why}")
    return lines


def _print_problems(dataset: EpisodeDataset, path: str) -> Sequence[Problem]:
    from vlmreward.cli.problems import describe_problems

    problems = dataset.problems()
    for line in describe_problems(dataset, problems, path):
        print(line)
    return problems


def _print_plan(dataset: EpisodeDataset, changes: Sequence[Change]) -> None:
    frames = sum(episode.frames for episode in dataset.episodes)
    print(f"{len(dataset.episodes)} episodes, {frames} frames to score")
    for change in changes:
        print(f"{change.what}: {change.path} ({change.rows} rows, {change.size:,} bytes)")
    print("nothing was changed")


def _write_result(
    job: Job, settings: LabelSettings, card: ReportCard, counts: Counts, left_out: int, seconds: float
) -> Path:
    from vlmreward.cli.results import describe_judge
    from vlmreward.cli.run_folder import describe_machine, write_json

    path = job.folder.labels / "result.json"
    options = {k: v for k, v in settings.options.items() if k not in ("encoder", "reward", "goal", "baseline")}
    about = {
        "command": "label",
        "dataset": str(job.dataset.root),
        "format": job.dataset.format,
        "layout": job.folder.layout,
        "provenance": asdict(job.provenance),
        "report_card": card.to_json(),
        **describe_judge(job.scorer.model),
        "frames": counts.frames,
        "decoded": counts.decoded,
        "invalid": counts.invalid,
        "reasons": counts.reasons,
        "episodes_left_out": left_out,
        "seconds": round(seconds, 2),
        "settings": {**options, "goal": list(settings.goal), "baseline": list(settings.baseline)},
        **describe_machine(),
    }
    write_json(path, about)
    return path
