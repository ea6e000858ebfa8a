"""What results say about the run they come from, as JSON and in words."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict
from typing import Any

from vlmreward.cli.build import Scoring
from vlmreward.cli.run_folder import describe_machine
from vlmreward.cli.settings import TrainSettings
from vlmreward.encoders.cached import CachedEncoder
from vlmreward.types import Encoder


def describe_run(settings: TrainSettings, scoring: Scoring | None, note: str = "") -> dict[str, Any]:
    """Return the head of a result: what was asked, with which parts, on which machine."""
    config = settings.to_config()
    encoder = scoring.encoder if scoring else None
    return {
        "env": config["env"],
        "goal": config["goal"],
        "baseline": config["baseline"],
        "encoder": {
            **config["encoder"],
            # as it was decided for this machine, where the setting says auto; an encoder may have none
            "precision": getattr(encoder, "precision", None),
            "runtime": getattr(encoder, "runtime", None),
            "devices": getattr(encoder, "devices", None),
            "id": encoder.id if encoder else None,
            "licence": encoder.licence if encoder else None,
            **_agreement(scoring),
        },
        "cache": describe_cache(config, [encoder] if encoder else []),
        "reward": config["reward"],
        **(describe_judge(scoring.model) if scoring else {}),
        "uses_env_reward": config["reward"].get("combine") in ("add", "env"),
        "agent": config["agent"],
        "seed": settings.seed,
        "notes": [note] if note else [],
        **describe_machine(),
    }


def _agreement(scoring: Scoring | None) -> dict[str, Any]:
    """Return how an int8 tower agrees with fp32 on frames that it was not calibrated on."""
    if scoring is None or scoring.quantised is None:
        return {}
    return {"int8_agreement": asdict(scoring.quantised.agreement)}


def describe_judge(model: Any) -> dict[str, Any]:
    """Return which vision-language model a reward or an annotator asks, and its cost in this process; {} if none."""
    judge = getattr(model, "judge", None)
    if judge is not None:
        return {
            "judge": {"id": judge.id, "licence": judge.licence, "privileged": judge.privileged, **asdict(judge.usage)}
        }
    inner = [getattr(model, "of", None), *getattr(model, "parts", {}).values()]
    return next((told for one in inner if one is not None and (told := describe_judge(one))), {})


def describe_cache(config: Mapping[str, Any], encoders: Iterable[Encoder]) -> dict[str, Any] | None:
    """Return where embeddings were kept, how many frames were asked for, and how many of them had to be encoded.

    Args:
        config: With ``cache`` and ``cache_dtype``.
        encoders: All that scored.

    Returns:
        As JSON; None where embeddings were not kept.
    """
    cached = [encoder.stats() for encoder in encoders if isinstance(encoder, CachedEncoder)]
    if not cached:
        return None
    counts = {name: sum(stats[name] for stats in cached) for name in cached[0]}
    return {"folder": config["cache"], "dtype": config["cache_dtype"], **counts}


def format_summary(summary: dict[str, Any]) -> str:
    """Return the numbers of an evaluation as lines of text."""
    success = summary["success"]
    if success is None:
        first = "success: null (the environment states none for this goal)"
    else:
        first = (
            f"success: {success['rate']:.3f}   95 % interval {success['low']:.3f} to {success['high']:.3f}, "
            f"{success['n']} episodes"
        )
    lines = [first]
    for key, words in (("env_return", "environment return"), ("vlm_return", "VLM return")):
        value = summary[key]
        if value is not None:
            lines.append(f"{words}: {value['mean']:.4g}   95 % interval {value['low']:.4g} to {value['high']:.4g}")
    if summary["episodes_unscored"]:
        lines.append(f"{summary['episodes_unscored']} episodes have frames that could not be scored")
    return "\n".join(lines)
