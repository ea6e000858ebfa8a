"""``vlmreward fit-reward``: learn a reward from answers about recorded frames, without an agent."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from vlmreward.cli.arguments import parse_arguments
from vlmreward.cli.compose import compose, refuse_words
from vlmreward.cli.goals import as_prompts
from vlmreward.cli.label_settings import choose_camera
from vlmreward.cli.values import whole
from vlmreward.errors import ConfigError, DatasetError

if TYPE_CHECKING:
    from vlmreward.data.dataset import EpisodeDataset
    from vlmreward.types import FloatArray, Frames


def main(argv: Sequence[str]) -> int:
    """Run the command and return the exit code.

    Raises:
        VlmRewardError: A setting is wrong, the dataset can't be read, no answers came, ...
    """
    arguments = parse_arguments(argv)
    refuse_words("fit-reward", arguments)
    options = compose("fit_reward", arguments)
    for key in ("dataset", "goal", "out"):
        if options[key] is None:
            raise ConfigError(f"{key} is not given: write {key}=...")
    options["encode_batch"] = whole("encode_batch", options["encode_batch"], 1)
    options["seed"] = whole("seed", options["seed"], 0)
    if "cfg" in arguments.flags:
        print(yaml.safe_dump(options, sort_keys=False, allow_unicode=True), end="")
        return 0
    return fit_reward(options)


def fit_reward(options: Mapping[str, Any]) -> int:
    """Read frames, ask about them, fit and write the head.

    Raises:
        VlmRewardError: As for :func:`main`.
    """
    import numpy as np

    from vlmreward.agents.online.learner import LEAST, OnlineLearner
    from vlmreward.agents.progress import Progress
    from vlmreward.atomic import check_writable
    from vlmreward.cli.build import set_threads
    from vlmreward.cli.results import describe_judge
    from vlmreward.cli.run_folder import describe_machine, write_json
    from vlmreward.data import open_dataset
    from vlmreward.encoders import make_encoder_from_config
    from vlmreward.rewards import make_reward_from_config
    from vlmreward.rewards.head import HEAD_FILE
    from vlmreward.rewards.learned import LearnedReward

    out, goal = Path(options["out"]), as_prompts(options["goal"])
    check_writable(out / HEAD_FILE)
    set_threads(options["threads"])
    dataset = open_dataset(options["dataset"])
    camera = choose_camera(options["camera"], dataset.cameras)
    encoder = make_encoder_from_config(options["encoder"], device=options["device"])
    prompts: dict[str, Any] = {"goal": list(goal)}
    if options["baseline"] is not None:
        prompts["baseline"] = list(as_prompts(options["baseline"]))
    model, _ = make_reward_from_config(options["reward"], encoder, **prompts)
    if not (isinstance(model, LearnedReward) and model.learns):
        raise ConfigError(
            "fit-reward makes the head of reward=preference or reward=distilled: write one, without a path"
        )
    began = time.perf_counter()
    learner = OnlineLearner(model, None, options["seed"])
    frames, env_reward = sample_frames(dataset, camera, model.schedule.pool, options["seed"], learner.privileged)
    size = options["encode_batch"]
    embeddings = np.concatenate([encoder.encode_images(frames[i : i + size]) for i in range(0, len(frames), size)])
    encoded = time.perf_counter()
    try:
        with Progress("asking", model.schedule.budget, unit="calls") as progress:
            learner.learn_from(frames, embeddings, env_reward, progress.update)
    finally:
        learner.close()
    report = learner.report()
    if model.head is None:
        raise DatasetError(
            f"{report['examples']} answers can be learned from and {LEAST} are needed, got {report['answers']}"
            + "".join(f", most often: {why}" for why in list(report["reasons"])[:1])
            + ": raise reward.learning.budget, or look at what the annotator says"
        )
    learner.save_head(out / HEAD_FILE)
    write_json(
        out / "result.json",
        {
            "command": "fit-reward",
            "dataset": str(options["dataset"]),
            "goal": list(goal),
            "encoder": encoder.id,
            "licence": encoder.licence,
            "reward": options["reward"],
            "frames": len(frames),
            "learned_reward": report,
            **describe_judge(learner.annotator),
            "seed": options["seed"],
            "seconds": {"encode": round(encoded - began, 2), "learn": round(time.perf_counter() - encoded, 2)},
            **describe_machine(),
        },
    )
    answers = ", ".join(f"{count} {choice}" for choice, count in sorted(report["answers"].items()))
    print(f"{report['calls']} calls about {len(frames)} frames: {answers}; {report['examples']} answers learned from")
    print(f"head: {out / HEAD_FILE}\nresult: {out / 'result.json'}")
    return 0


def sample_frames(
    dataset: EpisodeDataset, camera: str, count: int, seed: int, with_reward: bool
) -> tuple[Frames, FloatArray]:
    """Return frames drawn from all episodes, but for the first of each, and the recorded reward that led to each.

    Args:
        dataset: Opened.
        camera: Whose pictures.
        count: The most frames that are drawn, N.
        seed: Of the draw.
        with_reward: Read the recorded rewards too.

    Returns:
        uint8, shape (N, H, W, 3), and float32, shape (N,), NaN where no reward is recorded or read.

    Raises:
        DatasetError: No frame can be decoded, or pictures have several sizes.
    """
    import numpy as np

    from vlmreward.data.dataset import Undecodable

    every = [(e.index, frame) for e in dataset.episodes for frame in range(1, e.frames)]
    drawn = np.random.default_rng([seed, 13]).permutation(len(every))[:count]
    wanted: dict[int, set[int]] = {}
    for episode, frame in (every[i] for i in drawn):
        wanted.setdefault(episode, set()).add(frame)
    pictures: list[Frames] = []
    rewards: list[float] = []
    for index in sorted(wanted):
        episode = dataset.episodes[index]
        reward = dataset.transitions(episode).reward if with_reward else None
        for number, picture in enumerate(dataset.frames(episode, camera)):
            if number in wanted[index] and not isinstance(picture, Undecodable):
                pictures.append(picture)
                known = reward is not None and number - 1 < len(reward)
                rewards.append(float(reward[number - 1]) if reward is not None and known else float("nan"))
    if len({picture.shape for picture in pictures}) != 1:
        sizes = sorted({picture.shape[:2] for picture in pictures})
        raise DatasetError(f"frames that are compared must have one size, got {sizes or 'none that can be decoded'}")
    return np.stack(pictures), np.array(rewards, np.float32)
