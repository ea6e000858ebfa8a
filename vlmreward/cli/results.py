"""What results say about the run they come from, as JSON and in words."""

from __future__ import annotations

from typing import Any

from vlmreward.cli.build import Scoring
from vlmreward.cli.run_folder import describe_machine
from vlmreward.cli.settings import TrainSettings


def describe_run(settings: TrainSettings, scoring: Scoring | None, note: str = "") -> dict[str, Any]:
    """Return the head of a result: what was asked, with which parts, on which machine."""
    config = settings.to_config()
    encoder = scoring.encoder if scoring else None
    cache = scoring.cache if scoring else None
    return {
        "env": config["env"],
        "goal": config["goal"],
        "baseline": config["baseline"],
        "encoder": {
            **config["encoder"],
            # as it was decided for this machine, where the setting says auto; an encoder may have none
            "precision": getattr(encoder, "precision", None),
            "devices": getattr(encoder, "devices", None),
            "id": encoder.id if encoder else None,
            "licence": encoder.licence if encoder else None,
        },
        # frames that were asked for, and how many of them had to be encoded
        "cache": {"folder": config["cache"], "dtype": config["cache_dtype"], **cache.stats()} if cache else None,
        "reward": config["reward"],
        "uses_env_reward": config["reward"].get("combine") in ("add", "env"),
        "agent": config["agent"],
        "seed": settings.seed,
        "notes": [note] if note else [],
        **describe_machine(),
    }


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
