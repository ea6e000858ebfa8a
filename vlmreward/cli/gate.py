"""A short audit before training: is the reward that is about to be learned from any good?"""

from __future__ import annotations

import shlex
import sys
from typing import Any

import gymnasium as gym

from vlmreward.agents.policies import RandomPolicy
from vlmreward.audit.audit import audit_view
from vlmreward.audit.gallery import build_gallery
from vlmreward.audit.verdict import judge
from vlmreward.cli.audit_parts import build_variant, other_goals, survey_env
from vlmreward.cli.build import Scoring
from vlmreward.cli.settings import TrainSettings
from vlmreward.errors import ConfigError
from vlmreward.registry import suggest

MODES = ("warn", "require", "off")

FRAMES = 300
"""Frames of the audit; with ``warn`` at most a hundredth of the run's own, and none below ``LEAST``."""

LEAST = 100

REPLICATES = 200


def check_mode(mode: Any) -> str:
    """Return the setting ``audit`` of ``train``; YAML reads a bare ``off`` as false.

    Raises:
        ConfigError: There is no such mode.
    """
    text = "off" if mode is False else str(mode)
    if text not in MODES:
        raise ConfigError(f"unknown audit={text!r}: {suggest(text, MODES)}")
    return text


def audit_before_training(settings: TrainSettings, scoring: Scoring, env: gym.Env, mode: str) -> dict[str, Any] | None:
    """Audit a run's reward on a few hundred frames, tell the user, and refuse to go on where that is asked.

    Args:
        settings: The run's.
        scoring: Its encoder and reward.
        env: One of its environments; it is stepped and reset.
        mode: One of ``MODES``.

    Returns:
        What the result should say: ``figure``, ``beats_chance``, ``frames`` and ``warnings``; None where nothing was
        audited.

    Raises:
        ConfigError: With ``require``: the reward does not beat chance, or can't be audited.
    """
    frames = FRAMES if mode == "require" else min(FRAMES, settings.total_timesteps // 100)
    if mode == "off" or frames < LEAST:
        return None
    if settings.reward.get("combine") == "env":
        return None  # nothing is learned from the text
    command = f"vlmreward audit env={settings.env.name} goal={shlex.quote(settings.goal[0])}"
    others = other_goals(settings.env, settings.goal)
    try:
        variant = build_variant(
            "reward", {}, scoring.encoder, settings.reward, settings.goal, settings.baseline, others
        )
    except ConfigError as e:
        if mode == "require":
            raise ConfigError(f"audit=require, but {e}; use audit=off") from e
        return None  # a reward that looks at more than single frames
    policies = {"random": RandomPolicy(env.action_space, 1)}
    gallery = build_gallery(survey_env(env, settings.env, policies, frames, settings.seed), [scoring.encoder])
    verdict = judge(audit_view(gallery, [variant], replicates=REPLICATES, seed=settings.seed))
    if mode == "require" and not verdict.beats_chance:
        why = "does not beat chance" if verdict.beats_chance is False else "can't be judged"
        raise ConfigError(
            f"audit=require: the reward {why} ({verdict.figure}; {len(gallery)} frames): change goal, encoder or "
            f"alpha, look closer with {command}, or use audit=warn"
        )
    print(f"audit of {len(gallery)} frames: {verdict.figure}", file=sys.stderr)
    if verdict.beats_chance is False:
        print(
            f"warning: this reward does not beat chance, so an agent may learn nothing of the goal: see {command}",
            file=sys.stderr,
        )
    for warning in verdict.warnings:
        print(f"warning: {warning}", file=sys.stderr)
    return {
        "mode": mode,
        "frames": len(gallery),
        "figure": verdict.figure,
        "beats_chance": verdict.beats_chance,
        "warnings": list(verdict.warnings),
    }
