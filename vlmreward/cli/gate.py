"""A short audit before training: is the reward that is about to be learned from any good?"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable, Sequence
from typing import Any

import gymnasium as gym

from vlmreward.agents.policies import RandomPolicy
from vlmreward.audit.audit import audit_view
from vlmreward.audit.gallery import build_gallery
from vlmreward.audit.verdict import judge
from vlmreward.cli.audit_parts import build_variant, other_goals, survey_env
from vlmreward.cli.build import Scoring
from vlmreward.cli.settings import TrainSettings
from vlmreward.errors import ConfigError, PromptError
from vlmreward.registry import suggest

MODES = ("warn", "require", "off")

FRAMES = 300
"""Frames of the audit; with ``warn`` at most one for ``STEPS_A_FRAME`` of the run, and none below ``LEAST``."""

STEPS_A_FRAME = 100
LEAST = 100

EPISODES = 5
"""Episodes of random actions: few, since every step costs what it costs in the user's environment."""

REPLICATES = 200

_AUDITED = ("env", "goal", "baseline", "reward", "encoder", "experiment", "cache")
"""Settings of ``train`` that make its reward what it is."""


def check_mode(mode: Any) -> str:
    """Return the setting ``audit`` of ``train``; YAML reads a bare ``off`` as false.

    Raises:
        ConfigError: There is no such mode.
    """
    text = "off" if mode is False else str(mode)
    if text not in MODES:
        raise ConfigError(f"unknown audit={text!r}: {suggest(text, MODES)}")
    return text


def count_frames(settings: TrainSettings, mode: str) -> int:
    """Return how many frames a run's reward should be looked at on; 0: not at all."""
    if mode == "off" or settings.reward.get("combine") == "env":  # nothing is learned from the text
        return 0
    frames = FRAMES if mode == "require" else min(FRAMES, settings.total_timesteps // STEPS_A_FRAME)
    return frames if frames >= LEAST else 0


def name_audit(argv: Sequence[str], goal: str) -> str:
    """Return the command that audits the reward of a ``train`` command.

    Args:
        argv: The arguments of ``train``.
        goal: The first prompt, for a command that took it from elsewhere.
    """
    kept = [a for a in argv if a.lstrip("+~").partition("=")[0].partition(".")[0] in _AUDITED]
    if not any(a.startswith("goal=") for a in kept):
        kept.append(f"goal={goal}")
    return shlex.join(["vlmreward", "audit", *kept])


def audit_before_training(
    settings: TrainSettings, scoring: Scoring, make_env: Callable[[], gym.Env], mode: str, command: str
) -> dict[str, Any] | None:
    """Audit a run's reward on a few hundred frames, tell the user, and refuse to go on where that is asked.

    Args:
        settings: The run's.
        scoring: Its encoder and reward.
        make_env: Makes one of its environments, which is stepped and reset; not called where nothing is audited.
        mode: One of ``MODES``.
        command: What to run for a closer look.

    Returns:
        What the result should say: ``figure``, ``beats_chance``, ``frames`` and ``warnings``; or ``skipped``, why there
        was no audit; None where none was asked for.

    Raises:
        ConfigError: With ``require``: the reward does not beat chance, or can't be audited.
    """
    frames = count_frames(settings, mode)
    if not frames:
        return None
    others = other_goals(settings.env, (*settings.goal, *settings.baseline))
    try:
        variant = build_variant(
            "reward", {}, scoring.encoder, settings.reward, settings.goal, settings.baseline, others
        )
    except (ConfigError, PromptError) as e:  # not the run's own settings, which were checked: the audit's
        if mode == "require":
            raise ConfigError(f"audit=require, but {e}; use audit=off") from e
        print(f"the reward was not audited: {e}", file=sys.stderr)
        return {"mode": mode, "frames": 0, "skipped": str(e)}
    env = make_env()
    policies = {"random": RandomPolicy(env.action_space, 1)}
    blocks = survey_env(env, settings.env, policies, frames, settings.seed, EPISODES)
    gallery = build_gallery(blocks, {variant.encoder: scoring.encoder})
    frames = len(gallery)  # fewer where pictures of one colour were left out
    verdict = judge(audit_view(gallery, [variant], replicates=REPLICATES, seed=settings.seed))
    if mode == "require" and not verdict.beats_chance:
        why = "does not beat chance" if verdict.beats_chance is False else "can't be judged"
        raise ConfigError(
            f"audit=require: the reward {why} ({verdict.figure}; {frames} frames): change goal, encoder or "
            f"alpha, look closer with {command}, or use audit=warn"
        )
    print(f"audit of {frames} frames: {verdict.figure}", file=sys.stderr)
    if verdict.beats_chance is False:
        print(
            f"warning: this reward does not beat chance, so an agent may learn nothing of the goal: see {command}",
            file=sys.stderr,
        )
    for warning in verdict.warnings:
        print(f"warning: {warning}", file=sys.stderr)
    return {
        "mode": mode,
        "frames": frames,
        "figure": verdict.figure,
        "beats_chance": verdict.beats_chance,
        "warnings": list(verdict.warnings),
    }
