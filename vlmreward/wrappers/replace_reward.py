"""Score every step at once, for algorithms that have their own buffer or none.

Slower than the scoring buffers (one encoder call per step), equal in result. A gym step must return a number, and a
frame that could not be scored has none: it ends the run with an error, where the scoring buffers leave its row out.
"""

from __future__ import annotations

from typing import Any, NoReturn

import gymnasium as gym
import numpy as np

from vlmreward.errors import ConfigError, RenderingError
from vlmreward.types import Encoder, RewardModel
from vlmreward.wrappers.capture_frames import ENV_REWARD_KEY, capture_frame, check_pixels
from vlmreward.wrappers.scoring import ROW_DTYPE, FrameScorer, ScoredRows, Transform, gather, stack_frames

VLM_REWARD_KEY = "vlm_reward"
"""Key in ``info`` of the raw reward of the model, a float."""


def check_per_step(reward_model: RewardModel) -> None:
    """Refuse a model that can't score a step when it happens.

    Raises:
        ConfigError: It needs later frames.
    """
    if reward_model.context == "episode" or not reward_model.causal:
        raise ConfigError(
            f"{type(reward_model).__name__} needs frames of later steps, and here each step is scored at once: "
            "use the scoring buffers, or a causal reward model"
        )


def refuse_step(reason: str) -> NoReturn:
    """End a run whose step has no reward.

    Args:
        reason: Why the frame could not be scored.

    Raises:
        RenderingError: Always.
    """
    raise RenderingError(
        f"a frame could not be scored ({reason}), and an algorithm without a scoring buffer can't leave its step out: "
        "look at what the environment renders, or use an agent that is scored in batches (vlmreward list agents)"
    )


class ReplaceReward(gym.Wrapper):
    """Replaces the reward of one plain Gymnasium environment.

    ``info`` gains ``env_reward`` and ``vlm_reward`` (raw), both floats.

    Args:
        env: Environment with ``render_mode="rgb_array"``.
        encoder: Frozen encoder; None for a model that looks at pixels alone.
        reward_model: Turns embeddings (or frames) into raw rewards.
        transform: From raw rewards to the step's reward.
        instruction: Handed to the reward model with every frame.

    Raises:
        RenderingError: The environment has no pixels.
        ConfigError: The model can't score a step when it happens.
    """

    def __init__(
        self,
        env: gym.Env,
        encoder: Encoder | None,
        reward_model: RewardModel,
        transform: Transform,
        instruction: str = "",
    ) -> None:
        super().__init__(env)
        check_pixels(env)
        check_per_step(reward_model)
        self.transform = transform
        self._scorer = FrameScorer(encoder, reward_model, 1, instruction, transform.parts)
        self._row = np.zeros(1, ROW_DTYPE)
        self._row["episode"] = -1

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Reset the environment; its first frame is looked at if the model needs it."""
        obs, info = self.env.reset(seed=seed, options=options)
        row = self._row
        row["episode"] += 1
        row["reset"], row["step"], row["env_reward"], row["terminated"], row["truncated"] = True, 0, 0, False, False
        if self._scorer.needs_reset_frames:
            self._score()
        return obs, info

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Step the environment and score the frame that the action led to.

        Raises:
            RenderingError: The frame could not be scored.
        """
        obs, env_reward, terminated, truncated, info = self.env.step(action)
        row = self._row
        row["step"] += 1
        row["reset"], row["env_reward"] = False, env_reward
        row["terminated"], row["truncated"] = terminated, truncated
        scored = self._score()
        if not scored.valid[0]:
            refuse_step(scored.reasons[0])
        self.transform.update(scored.raw, scored.valid, row["env_reward"], scored.parts)
        reward = self.transform.apply(scored.raw, row["env_reward"], scored.parts)
        extra = {ENV_REWARD_KEY: float(env_reward), VLM_REWARD_KEY: float(scored.raw[0])}
        return obs, float(reward[0]), terminated, truncated, {**info, **extra}

    def _score(self) -> ScoredRows:
        frame, self._row["reason"] = capture_frame(self.env)
        store = stack_frames([] if frame is None else [frame])
        return self._scorer.score(self._row, gather(self._row, store))
