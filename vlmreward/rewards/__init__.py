"""Reward models, by name; a model's module is imported when its name is first used.

A model is built from what its constructor takes: ``encoder`` and the prompts; ``judge``, a vision-language model that
is asked about pictures, and the prompts; or ``of``, another model whose rewards it shapes; or ``parts``, several models
whose rewards it combines. Inner models are described as the outer one is, by
``name`` and settings, and share its prompts.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

from vlmreward.errors import ConfigError
from vlmreward.registry import Registry
from vlmreward.rewards.judges import make_judge
from vlmreward.rewards.transform import TRANSFORM_KEYS, RewardTransform
from vlmreward.types import Encoder, RewardModel

_REWARDS = Registry("reward")


def register_reward(name: str, target: str) -> None:
    """Add a reward model: a callable that takes ``encoder``, ``judge``, ``of`` or ``parts``, and its own settings.

    Args:
        name: The name users write.
        target: ``"package.module:Class"``.

    Raises:
        ValueError: The name is taken, or the target has no colon.
    """
    _REWARDS.register(name, target)


def list_rewards() -> list[str]:
    """Return the name of every reward model, sorted."""
    return _REWARDS.names()


def make_reward(name: str, encoder: Encoder, /, **kwargs: Any) -> RewardModel:
    """Build a reward model.

    Args:
        name: One of :func:`list_rewards`.
        encoder: Frozen encoder of frames and prompts.
        **kwargs: The model's own settings: ``goal``, ``baseline``, ``alpha``, ... A model that takes ``judge`` gets the
            one that a mapping with ``name`` and settings describes. A model that takes ``of`` or
            ``parts`` gets its inner models from ``of``, a mapping with ``name`` and settings (``clip`` if it is not
            given): one model, or one for each goal; and from ``parts``, more such mappings by name, each with a
            ``goal`` of its own.

    Returns:
        The reward model, its prompts encoded.

    Raises:
        UnknownNameError: The name is not registered.
        ConfigError: A setting is unknown, missing or out of range.
        PromptError: A prompt is empty, too long, or leaves no direction to reward.
    """
    takes = inspect.signature(_REWARDS.get(name)).parameters
    if "of" in takes:
        prompts, of, own = _split(kwargs)
        return _REWARDS.make(name, {"of": _make_inner("of", of, encoder, prompts)}, **own)
    if "parts" in takes:
        prompts, of, own = _split(kwargs)
        return _REWARDS.make(name, {"parts": _make_parts(of, own.pop("parts", None) or {}, encoder, prompts)}, **own)
    if "judge" in takes:
        judge = make_judge(kwargs.pop("judge", None))
        return _REWARDS.make(name, {"judge": judge}, **kwargs)
    return _REWARDS.make(name, {"encoder": encoder}, **kwargs)


def make_reward_from_config(
    config: Mapping[str, Any], encoder: Encoder, /, **prompts: Any
) -> tuple[RewardModel, RewardTransform]:
    """Build what a file of ``configs/reward`` describes.

    Args:
        config: ``name``, the model's own settings, and the settings of :class:`RewardTransform`. A model that can't do
            with any transform builds its own from them, in a method ``make_transform``.
        encoder: Frozen encoder of frames and prompts.
        **prompts: ``goal`` and ``baseline``, which stand outside the reward's group.

    Returns:
        The reward model and the transform of its rewards.

    Raises:
        UnknownNameError: The name is not registered.
        ConfigError: A setting is unknown, missing or out of range, or ``name`` is missing.
        PromptError: A prompt is empty, too long, or leaves no direction to reward.
    """
    own = {k: v for k, v in config.items() if k not in TRANSFORM_KEYS and k != "name"}
    model = make_reward(_REWARDS.name_in(config), encoder, **prompts, **own)
    make_transform = getattr(model, "make_transform", RewardTransform)
    return model, make_transform(**{k: config[k] for k in TRANSFORM_KEYS if k in config})


def for_other_goals(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the config of the reward that goals beside its own are scored with, as a control.

    A head that was fitted for one goal says nothing of others; the model that speaks until there is a head does.
    """
    return (config.get("of") or {"name": "clip"}) if "annotator" in config and config.get("path") else config


def _split(settings: Mapping[str, Any]) -> tuple[dict[str, Any], Mapping[str, Any], dict[str, Any]]:
    """Split settings into prompts, the inner model's, and the rest."""
    prompts = {key: settings[key] for key in ("goal", "baseline") if key in settings}
    own = {key: value for key, value in settings.items() if key not in prompts and key != "of"}
    return prompts, settings.get("of") or {"name": "clip"}, own


def _make_inner(at: str, config: Any, encoder: Encoder, prompts: Mapping[str, Any]) -> RewardModel:
    """Build a model that stands inside another one, at ``reward.<at>``."""
    if not isinstance(config, Mapping):
        raise ConfigError(f"reward.{at} must hold name: <reward> and its settings, got {config!r}")
    twice = sorted(set(config) & set(prompts))
    if twice:
        raise ConfigError(f"reward.{at}.{twice[0]} is given outside already: leave it out and write {twice[0]}=...")
    name = _REWARDS.name_in(config)
    model = make_reward(name, encoder, **prompts, **{key: value for key, value in config.items() if key != "name"})
    if hasattr(model, "make_transform"):
        raise ConfigError(
            f"reward {name!r} decides how its rewards are transformed and can't stand inside another one, got it as "
            f"reward.{at}: make it the outermost"
        )
    if getattr(model, "learns", False):
        raise ConfigError(
            f"reward {name!r} learns beside training and can't stand inside another one, got it as reward.{at}: give "
            f"reward.{at}.path=<head.safetensors of a run>, or make it the outermost"
        )
    return model


def _make_parts(of: Any, more: Any, encoder: Encoder, prompts: Mapping[str, Any]) -> dict[str, RewardModel]:
    """Build a model like ``of`` for each goal, named after it, and those of ``more``."""
    goal = prompts.get("goal", ())
    goals = [goal] if isinstance(goal, str) or not isinstance(goal, Sequence) else list(goal)
    parts = {str(one): _make_inner("of", of, encoder, {**prompts, "goal": one}) for one in goals}
    if not isinstance(more, Mapping):
        raise ConfigError(f"reward.parts must hold <part>: {{name: <reward>, goal: <prompt>}}, got {more!r}")
    scene = {key: value for key, value in prompts.items() if key == "baseline"}
    for name, config in more.items():
        described = {**scene, **config} if isinstance(config, Mapping) else config
        parts[str(name)] = _make_inner(f"parts.{name}", described, encoder, {})
    if len(parts) < len(goals) + len(more):
        raise ConfigError(
            f"two parts of the reward have one name, got goals {goals} and parts {list(more)}: reword one"
        )
    return parts


register_reward("clip", "vlmreward.rewards.clip:ClipReward")
register_reward("contrastive", "vlmreward.rewards.contrastive:ContrastiveReward")
register_reward("par", "vlmreward.rewards.shaped:ParReward")
register_reward("clip_delta", "vlmreward.rewards.shaped:ClipDeltaReward")
register_reward("potential", "vlmreward.rewards.shaped:PotentialReward")
register_reward("soft_and", "vlmreward.rewards.composite:SoftAndReward")
register_reward("product", "vlmreward.rewards.composite:ProductReward")
register_reward("constrained", "vlmreward.rewards.composite:ConstrainedReward")
register_reward("critic", "vlmreward.rewards.critic_reward:CriticReward")
register_reward("perceptual", "vlmreward.rewards.perceptual:PerceptualReward")
register_reward("success", "vlmreward.rewards.shaped:SuccessReward")
register_reward("yes_no", "vlmreward.rewards.judges.yes_no:YesNoReward")
register_reward("gvl", "vlmreward.rewards.judges.gvl:GvlReward")
register_reward("vlac", "vlmreward.rewards.judges.vlac:VlacReward")
register_reward("rubric", "vlmreward.rewards.judges.rubric:RubricReward")
register_reward("preference", "vlmreward.rewards.learned:PreferenceReward")
register_reward("distilled", "vlmreward.rewards.learned:DistilledReward")
