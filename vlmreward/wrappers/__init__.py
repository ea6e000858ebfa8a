"""Capture frames, score them in batches, and hand the rewards to an algorithm: wrappers and scoring buffers.

Names are imported from their modules when they are first used, so that a worker process that only captures frames
loads neither torch nor Stable-Baselines3 through this package.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vlmreward.wrappers.action_repeat import ActionRepeat
    from vlmreward.wrappers.capture_frames import CaptureFrames
    from vlmreward.wrappers.checks import check_context, check_supported, check_vec_env
    from vlmreward.wrappers.replace_reward import ReplaceReward
    from vlmreward.wrappers.replay_buffer import (
        ScoredDictReplayBuffer,
        ScoredNStepReplayBuffer,
        ScoredReplayBuffer,
        choose_replay_buffer,
    )
    from vlmreward.wrappers.rollout_buffer import (
        ScoredDictRolloutBuffer,
        ScoredRolloutBuffer,
        choose_rollout_buffer,
    )
    from vlmreward.wrappers.scorer import Scorer
    from vlmreward.wrappers.vec_capture_frames import VecCaptureFrames
    from vlmreward.wrappers.vec_replace_reward import VecReplaceReward

_MODULES = {
    "ActionRepeat": "action_repeat",
    "CaptureFrames": "capture_frames",
    "ReplaceReward": "replace_reward",
    "ScoredDictReplayBuffer": "replay_buffer",
    "ScoredDictRolloutBuffer": "rollout_buffer",
    "ScoredNStepReplayBuffer": "replay_buffer",
    "ScoredReplayBuffer": "replay_buffer",
    "ScoredRolloutBuffer": "rollout_buffer",
    "Scorer": "scorer",
    "VecCaptureFrames": "vec_capture_frames",
    "VecReplaceReward": "vec_replace_reward",
    "check_context": "checks",
    "check_supported": "checks",
    "check_vec_env": "checks",
    "choose_replay_buffer": "replay_buffer",
    "choose_rollout_buffer": "rollout_buffer",
}

__all__ = [
    "ActionRepeat",
    "CaptureFrames",
    "ReplaceReward",
    "ScoredDictReplayBuffer",
    "ScoredDictRolloutBuffer",
    "ScoredNStepReplayBuffer",
    "ScoredReplayBuffer",
    "ScoredRolloutBuffer",
    "Scorer",
    "VecCaptureFrames",
    "VecReplaceReward",
    "check_context",
    "check_supported",
    "check_vec_env",
    "choose_replay_buffer",
    "choose_rollout_buffer",
]


def __getattr__(name: str) -> Any:
    """Import a public name."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
