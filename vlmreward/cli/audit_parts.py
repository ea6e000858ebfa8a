"""What ``audit`` and the gate of ``train`` share: the frames of an environment, and a reward beside mismatched ones."""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import gymnasium as gym

from vlmreward.audit.audit import NOISE, STORED_NOISE, Variant
from vlmreward.audit.gallery import check_scores_frames
from vlmreward.audit.survey import Acts, Block, survey_episodes, survey_states
from vlmreward.cli.environments import find_tasks
from vlmreward.cli.settings import EnvSettings
from vlmreward.rewards import for_other_goals, make_reward_from_config
from vlmreward.types import Encoder, RewardModel, Surveyable

UNRELATED = ("a photo of a cat", "a bowl of fruit on a table", "a busy street at night")
"""Prompts that no robot's scene shows, where an environment has no other goals to compare with."""

EPISODES = 20
"""Episodes over which the frames of a policy are spread."""

EPISODE_SEED = 40_000
"""Above the seeds of training, selection and evaluation."""


def other_goals(env: EnvSettings | None, given: Iterable[str]) -> tuple[str, ...]:
    """Return prompts of goals that are not this one: the environment's other tasks, or unrelated ones.

    Args:
        env: The environment, or None.
        given: Prompts that are goals or baselines; what is told from itself tells nothing.
    """
    tasks = find_tasks(env.id) if env is not None else {}
    named, taken = env.task if env is not None else None, set(given)
    return tuple(t.goal for name, t in tasks.items() if name != named and t.goal not in taken) or UNRELATED


def key_of(config: Mapping[str, Any]) -> str:
    """Return a text that is equal for equal configs."""
    return json.dumps(dict(config), sort_keys=True)


def open_encoders(configs: Iterable[Mapping[str, Any]], options: Mapping[str, Any]) -> dict[str, Encoder]:
    """Load each different encoder once, with its store where embeddings are kept; by :func:`key_of` of its config.

    Args:
        configs: Of the encoders.
        options: ``device``, ``cache`` and ``cache_dtype``.

    Raises:
        VlmRewardError: Weights are missing, or the store can't be written.
    """
    from vlmreward.encoders import make_encoder_from_config
    from vlmreward.encoders.cached import open_cached

    encoders: dict[str, Encoder] = {}
    for config in configs:
        if (key := key_of(config)) not in encoders:
            encoders[key] = make_encoder_from_config(config, device=options["device"])
            if options["cache"] is not None:
                encoders[key] = open_cached(encoders[key], options["cache"], options["cache_dtype"])
    return encoders


def build_variant(
    name: str,
    chosen: Mapping[str, Any],
    encoder: Encoder,
    reward: Mapping[str, Any],
    goal: Sequence[str],
    baseline: Sequence[str],
    mismatched: Sequence[str],
    encoder_name: str = "encoder",
    known: dict[str, RewardModel] | None = None,
) -> Variant:
    """Build a reward model, and beside it the same with the prompts of other goals.

    Args:
        name: Of the variant.
        chosen: Its varied settings.
        encoder: Its encoder.
        reward: Config of the reward. Of one that pays differences between two frames, the reward inside is built.
        goal: Prompts.
        baseline: Prompts, may be none.
        mismatched: Prompts of other goals.
        encoder_name: Of the encoder in the gallery.
        known: Models with mismatched prompts that were built before; new ones are added.

    Raises:
        ConfigError: A setting is wrong, or the reward looks at more than single frames.
        PromptError: A prompt is empty or too long.
    """
    config, note = reward, ""
    if "gamma" in config and config["gamma"] is None:  # an agent's, on which nothing here depends
        config = {**config, "gamma": 1.0}

    def build(prompts: Sequence[str], config: Mapping[str, Any]) -> RewardModel:
        given: dict[str, Any] = {"goal": list(prompts)}
        if baseline:
            given["baseline"] = list(baseline)
        return make_reward_from_config(config, encoder, **given)[0]

    model = build(goal, config)
    if model.context == "pair" and "parts" not in config and isinstance(config.get("of"), Mapping):
        note = f"{config['name']} pays differences of rewards, and the {config['of']['name']} in it is what was audited"
        config = config["of"]
        model = build(goal, config)
    check_scores_frames(model, str(config["name"]))
    shared = {} if known is None else known
    others = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # other goals may well be outside of the encoder's domain
        for prompt in mismatched:
            # a reward of several goals gets as many others
            more = [p for p in (*mismatched, *UNRELATED) if p != prompt][: len(goal) - 1] if "parts" in config else []
            key = json.dumps([encoder_name, dict(config), list(baseline), prompt, more], sort_keys=True)
            others[prompt] = shared[key] if key in shared else build([prompt, *more], for_other_goals(config))
            shared[key] = others[prompt]
    noise = NOISE.get(getattr(encoder, "precision", "fp32"), STORED_NOISE)
    return Variant(name, dict(chosen), encoder_name, model, others, noise, note)


def survey_env(
    env: gym.Env, settings: EnvSettings, policies: Mapping[str, Acts], count: int, seed: int, episodes: int = EPISODES
) -> Iterator[Block]:
    """Yield frames of an environment: states all over, if it can be put into them, and episodes of policies.

    Args:
        env: Built from the settings.
        settings: Say the task, and after how many actions an episode ends.
        policies: By name, built for one environment each.
        count: Frames, in equal shares.
        seed: Of states and episodes.
        episodes: Over which the frames of each policy are spread.
    """
    settable = isinstance(env.unwrapped, Surveyable)
    first = count // (1 + len(policies)) if settable else 0
    if first:
        yield from survey_states(env, settings.task, first, seed)
    rest = count - first
    for number, (name, policy) in enumerate(policies.items()):
        share = rest // len(policies) + (number < rest % len(policies))
        stride = max(1, math.ceil((settings.time_limit or 1000) / math.ceil(share / episodes)))
        yield from survey_episodes(env, settings.task, policy, name, share, EPISODE_SEED + seed, stride, first)
        first += share
