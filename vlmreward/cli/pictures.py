"""Take the pictures of a video beside the frames that are scored."""

from __future__ import annotations

import math
from typing import Any

import gymnasium as gym
import numpy as np

from vlmreward.agents.evaluation import Episode
from vlmreward.cli.environments import EnvFactory
from vlmreward.cli.settings import EnvSettings
from vlmreward.errors import RenderingError
from vlmreward.types import Frames
from vlmreward.video.episodes import EpisodeClip
from vlmreward.video.recorder import check_fps
from vlmreward.video.spool import FrameSpool
from vlmreward.wrappers.capture_frames import render_frame


class TakePictures(gym.Wrapper):
    """Steps an environment, and keeps a fine picture of every ``stride``-th step.

    Rewards come from the frames at training quality: what the agent was trained on. The pictures come from a twin that
    gets the same seeds and actions.

    Args:
        env: The environment whose frames are scored.
        twin: The same environment drawing fine pictures; None takes the scored frames themselves.
        stride: Steps per picture.
        spool: Where the pictures are kept.
    """

    def __init__(self, env: gym.Env, twin: gym.Env | None, stride: int, spool: FrameSpool) -> None:
        super().__init__(env)
        self.spool = spool
        self._twin, self._stride, self._steps = twin, stride, 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Start an episode in both."""
        obs, info = self.env.reset(seed=seed, options=options)
        if self._twin is not None:
            self._check(obs, self._twin.reset(seed=seed, options=options)[0])
        self.spool.start()
        self._steps = 0
        self._take()
        return obs, info

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """Step both."""
        obs, reward, terminated, truncated, info = self.env.step(action)
        if self._twin is not None:
            self._check(obs, self._twin.step(action)[0])
        self._steps += 1
        if self._steps % self._stride == 0:
            self._take()
        return obs, reward, terminated, truncated, info

    def close(self) -> None:
        """Close both."""
        self.env.close()
        if self._twin is not None:
            self._twin.close()

    def _take(self) -> None:
        self.spool.add(render_frame(self._twin if self._twin is not None else self.env))

    def _check(self, obs: Any, twin_obs: Any) -> None:
        same = (
            obs.keys() == twin_obs.keys() and all(np.array_equal(obs[k], twin_obs[k]) for k in obs)
            if isinstance(obs, dict)
            else np.array_equal(obs, twin_obs)
        )
        if not same:
            raise RenderingError(
                f"{self.env} does not repeat itself with the same seed and actions, so its fine pictures would show "
                "another episode: record with size=0, which takes the scored frames"
            )


def fine_twin(settings: EnvSettings, size: int) -> EnvFactory | None:
    """Return what draws an environment at fine quality; None if it has no such setting.

    Args:
        settings: The environment at training quality.
        size: Longer side of the picture in pixels; 0 for the scored frames themselves.
    """
    if size == 0 or "quality" not in settings.kwargs:
        return None
    width, height = int(settings.kwargs.get("width", size)), int(settings.kwargs.get("height", size))
    longer = max(width, height)
    return settings.factory(quality="fine", width=round(size * width / longer), height=round(size * height / longer))


def picture_stride(env: gym.Env, fps: float) -> tuple[int, float]:
    """Return steps per picture and pictures per second, so that a film runs in real time at no more than ``fps``.

    Raises:
        ConfigError: No film can be so slow; an action may be held for too long.
    """
    own = float(env.metadata.get("render_fps") or 30)
    stride = max(1, math.ceil(own / fps))
    check_fps(own / stride)
    return stride, own / stride


def make_clip(pictures: Frames, episode: Episode, stride: int) -> EpisodeClip:
    """Return an episode's pictures, shape (T, H, W, 3), with the reward and true success of the steps they show."""
    steps = np.arange(len(pictures)) * stride
    first: bool | None = None if episode.success[0] is None else False
    rewards = np.array([math.nan, *episode.vlm_rewards], dtype=np.float32)
    return EpisodeClip(pictures, rewards[steps], [[first, *episode.success][step] for step in steps])
