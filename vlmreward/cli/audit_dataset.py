"""``vlmreward audit dataset=...``: what rewards make of recorded episodes, all metrics of progress in one table."""

from __future__ import annotations

import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from vlmreward.cli.arguments import Arguments
from vlmreward.cli.audit_settings import describe_choice, names_of
from vlmreward.cli.compose import compose
from vlmreward.cli.goals import as_prompts
from vlmreward.cli.label_settings import choose_camera
from vlmreward.cli.settings import check_cache_dtype
from vlmreward.cli.values import whole
from vlmreward.cli.variants import Combination, spread
from vlmreward.errors import ConfigError, DatasetError

if TYPE_CHECKING:
    from vlmreward.audit.progress_readings import Film, Reading
    from vlmreward.data.dataset import Episode, EpisodeDataset
    from vlmreward.types import Encoder, RewardModel

VARIED = ("reward", "encoder", "baseline")
"""Settings, or groups of them, that give another row of the table."""


@dataclass(frozen=True)
class Row:
    """One reward of the table.

    Attributes:
        name: What differs from the others, in words.
        encoder: Config of the encoder.
        reward: Config of the reward.
        baseline: Prompts, may be none.
    """

    name: str
    encoder: Mapping[str, Any]
    reward: Mapping[str, Any]
    baseline: tuple[str, ...]


@dataclass(frozen=True)
class DatasetAuditSettings:
    """What the command is asked.

    Attributes:
        dataset: Path as given.
        rows: Every reward.
        goal: Prompts; empty for each episode's own task.
        mismatched: Prompts that are no episode's own; empty for those of the other episodes.
        paraphrases: Other wordings of the one task.
        options: The command's own settings, checked.
    """

    dataset: str
    rows: tuple[Row, ...]
    goal: tuple[str, ...]
    mismatched: tuple[str, ...]
    paraphrases: tuple[str, ...]
    options: Mapping[str, Any]


def settle_dataset_audit(arguments: Arguments) -> DatasetAuditSettings:
    """Make every choice that a command line leaves open.

    Raises:
        VlmRewardError: A setting is unknown, out of range or contradicts another.
    """
    combinations = spread(arguments)
    for key in combinations[0].chosen:
        if not any(key == head or key.startswith(f"{head}.") for head in VARIED):
            raise ConfigError(f"an audit of a dataset can't vary {key}: it compares {', '.join(VARIED)}; run two")
    given = {key.split(".")[0] for key in arguments.keys()}  # noqa: SIM118  a method, not a mapping
    for other in ("env", "experiment", "frames", "run"):
        if other in given:
            raise ConfigError(f"both dataset and {other} are given: an audit looks at one of them, run two")
    pages = [compose("audit", own) for own in _fitting(combinations)]
    options = dict(pages[0])
    for name, low in (("episodes", 1), ("every", 1), ("seed", 0), ("replicates", 0)):
        options[name] = whole(name, options[name], low)
    check_cache_dtype(options["cache_dtype"])
    names = [
        ", ".join(describe_choice(k, v) for k, v in c.chosen.items()) or str(page["reward"].get("name"))
        for c, page in zip(combinations, pages, strict=True)
    ]
    rows = tuple(
        Row(name, page["encoder"], page["reward"], as_prompts(page["baseline"]))
        for name, page in zip(names_of(names), pages, strict=True)
    )
    goal, mismatched, paraphrases = (as_prompts(options[key]) for key in ("goal", "mismatched", "paraphrase"))
    return DatasetAuditSettings(str(options["dataset"]), rows, goal, mismatched, paraphrases, options)


def _fitting(combinations: Sequence[Combination]) -> Iterator[Arguments]:
    """Yield each command line, without settings that its reward has not where another one's has them."""
    bare = [
        replace(c.arguments, overrides=tuple(o for o in c.arguments.overrides if "." not in o.split("=")[0]))
        for c in combinations
    ]
    known = [set(compose("audit", replace(one, literals={}))["reward"]) for one in bare]
    anywhere = set().union(*known)

    def fits(key: str, own: set[str]) -> bool:
        head, _, rest = key.partition(".")
        name = rest.partition(".")[0]
        return head != "reward" or not rest or name in own or name not in anywhere

    for combination, own in zip(combinations, known, strict=True):
        arguments = combination.arguments
        yield replace(
            arguments,
            overrides=tuple(o for o in arguments.overrides if fits(o.split("=")[0], own)),
            literals={key: value for key, value in arguments.literals.items() if fits(key, own)},
        )


def audit_dataset(arguments: Arguments) -> int:
    """Run the command on a dataset and return the exit code.

    Raises:
        VlmRewardError: A setting is wrong, the dataset can't be read, ...
    """
    settings = settle_dataset_audit(arguments)
    options = settings.options
    if "cfg" in arguments.flags:
        print(yaml.safe_dump(_plain(settings), sort_keys=False, allow_unicode=True), end="")
        return 0
    from vlmreward.atomic import check_writable
    from vlmreward.audit.progress_report import table_lines, write_progress_report
    from vlmreward.audit.progress_table import measure
    from vlmreward.cli.audit_parts import open_encoders
    from vlmreward.cli.build import set_threads
    from vlmreward.cli.dataset_films import draw_episodes, find_truth
    from vlmreward.cli.results import describe_cache
    from vlmreward.cli.run_folder import describe_machine, slug
    from vlmreward.data import open_dataset

    dataset = open_dataset(settings.dataset)
    folder = Path(options["out"] or Path("audits") / slug(dataset.root.name))
    check_writable(folder / "audit.json")
    set_threads(options["threads"])
    encoders = open_encoders([row.encoder for row in settings.rows], options)
    began = time.perf_counter()
    drawn = draw_episodes(dataset, options["episodes"], options["seed"])
    films, readings, judges = read_dataset(settings, dataset, drawn, encoders)
    read = time.perf_counter()
    table = measure(films, readings, options["replicates"], options["seed"])
    success = Counter(film.success for film in films)
    truth = find_truth(options["truth"], dataset)
    about = {
        "command": "audit",
        "title": f"progress in {dataset.root.name}",
        "subject": str(dataset.root),
        "instructions": list(dict.fromkeys(film.instruction for film in films)),
        "films": {
            "episodes": len(films),
            "of": len(dataset.episodes),
            "numbers": [film.number for film in films],
            "frames": sum(len(film.step) for film in films),
            "successes": success[True],
            "failures": success[False],
            "unknown": success[None],
        },
        "truth": None if truth is None else truth.name,
        "settings": _plain(settings),
        "encoders": [{"id": e.id, "licence": e.licence} for e in encoders.values()],
        "judges": judges,
        "cache": describe_cache(options, encoders.values()),
        "seed": options["seed"],
        "seconds": {"read": round(read - began, 2), "metrics": round(time.perf_counter() - read, 2)},
        **describe_machine(),
    }
    json_path, html_path = write_progress_report(folder, about, films, readings, table)
    print(f"{len(films)} of {len(dataset.episodes)} episodes, {success[False]} of them failures")
    for line in table_lines(table):
        print(line)
    print(f"result: {json_path}\npage:   {html_path}")
    return 0


MakeModel = Callable[[str], "RewardModel"]


def read_dataset(
    settings: DatasetAuditSettings, dataset: EpisodeDataset, drawn: Sequence[Episode], encoders: Mapping[str, Encoder]
) -> tuple[list[Film], dict[str, list[Reading]], dict[str, Any]]:
    """Show every episode to every reward, an episode at a time.

    Returns:
        The films, without their pictures; readings by row, those of the baselines last; and by row what a judge that it
        asks has cost.

    Raises:
        VlmRewardError: A prompt or a setting is wrong, or no episode can be decoded.
    """
    from vlmreward.agents.progress import Progress
    from vlmreward.audit.progress_readings import baselines, read_film
    from vlmreward.cli.audit_parts import UNRELATED, key_of
    from vlmreward.cli.dataset_films import find_truth, load_film
    from vlmreward.cli.embedded_dataset import LEAST_FRAMES
    from vlmreward.cli.results import describe_judge
    from vlmreward.labelling.scoring import goals_of
    from vlmreward.rewards import for_other_goals

    options = settings.options
    camera = choose_camera(options["camera"], dataset.cameras)
    goals = dict(zip((e.index for e in drawn), goals_of(drawn, " / ".join(settings.goal) or None), strict=True))
    texts = list(dict.fromkeys(goals.values()))
    if settings.paraphrases and len(texts) > 1:
        raise ConfigError(
            f'paraphrase says one task in other words, and these episodes have {len(texts)}: give goal="..."'
        )
    others = settings.mismatched or (texts if len(texts) > 1 else UNRELATED)
    makers = [_maker(row, encoders[key_of(row.encoder)], settings.goal) for row in settings.rows]
    for make in makers:  # before any picture: a bad prompt is told in a second
        for text in (*texts, *settings.paraphrases):
            make(text)
    truth = find_truth(options["truth"], dataset)
    films: list[Film] = []
    readings: dict[str, list[Reading]] = {row.name: [] for row in settings.rows}
    longest = max(episode.frames for episode in drawn) - 1
    with Progress("reading", len(drawn), unit="episodes") as progress:
        for episode in drawn:
            film = load_film(dataset, episode, camera, goals[episode.index], encoders, options["every"], truth)
            if film is not None:
                more = [text for text in others if text != film.instruction]
                for row, make in zip(settings.rows, makers, strict=True):
                    one_goal = for_other_goals(row.reward) is not row.reward  # a head, which knows no other
                    asked = [] if one_goal else more
                    reworded = () if one_goal else settings.paraphrases
                    readings[row.name].append(read_film(film, make, key_of(row.encoder), asked, reworded))
                for name, reading in baselines(film, longest, options["seed"], more, settings.paraphrases).items():
                    readings.setdefault(name, []).append(reading)
                films.append(replace(film, frames=film.frames[:0], embeddings={}))
            progress.advance(1)
    if not films:
        raise DatasetError(f"no episode of {dataset.root} has {LEAST_FRAMES} frames that can be decoded and encoded")
    judges = {row.name: describe_judge(make(texts[0])) for row, make in zip(settings.rows, makers, strict=True)}
    return films, readings, {name: told["judge"] for name, told in judges.items() if told}


def _maker(row: Row, encoder: Encoder, goal: Sequence[str]) -> MakeModel:
    """Return what builds a row's model for an instruction, once."""
    from vlmreward.audit.progress_readings import check_reads_films
    from vlmreward.rewards import make_reward_from_config
    from vlmreward.rewards.shaped import ClipDeltaReward, PotentialReward

    config = {**row.reward, "gamma": 1.0} if "gamma" in row.reward and row.reward["gamma"] is None else row.reward

    @cache
    def make(text: str) -> RewardModel:
        prompts: dict[str, Any] = {"goal": list(goal) if text == " / ".join(goal) else [text]}
        if row.baseline:
            prompts["baseline"] = list(row.baseline)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # other instructions may well be outside of the encoder's domain
            model, _ = make_reward_from_config(config, encoder, **prompts)
        if isinstance(model, ClipDeltaReward | PotentialReward):  # differences of a progress, which is what is audited
            model = model.of
        check_reads_films(model, str(config.get("name")))
        return model

    make_model: MakeModel = make
    return make_model


def _plain(settings: DatasetAuditSettings) -> dict[str, Any]:
    own = (
        "dataset",
        "camera",
        "episodes",
        "every",
        "truth",
        "seed",
        "replicates",
        "device",
        "threads",
        "cache",
        "cache_dtype",
    )
    return {
        **{key: settings.options[key] for key in own},
        "goal": list(settings.goal),
        "mismatched": list(settings.mismatched),
        "paraphrase": list(settings.paraphrases),
        "rows": [
            {
                "name": row.name,
                "encoder": dict(row.encoder),
                "reward": dict(row.reward),
                "baseline": list(row.baseline),
            }
            for row in settings.rows
        ],
    }
