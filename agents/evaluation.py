"""Measure a policy on episodes of its own: true success, environment return, VLM return, each with an interval.

Episode ``i`` starts from ``seed + i`` whatever the number of environments side by side. True success is the
environment's statement at the last step of an episode; it is None where the environment makes none. Nothing is
learned here: normalisers are frozen, and the VLM return is the sum of the model's own rewards, before any scaling.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import gymnasium as gym
import numpy as np

from vlmreward.agents.policies import Policy
from vlmreward.errors import ConfigError
from vlmreward.types import Frames
from vlmreward.wrappers.capture_frames import capture_frame
from vlmreward.wrappers.scoring import ROW_DTYPE, FrameScorer, gather, stack_frames

MOST_STEPS = 20_000  # of an episode without a time limit
Z95 = 1.959963984540054  # half-width of a 95 % interval in standard deviations


@dataclass
class Episode:
    """One episode, complete or running.

    Attributes:
        seed: Seed of its reset.
        env_rewards: The environment's own reward of each step.
        success: The environment's statement at each step: True, False or None.
        vlm_rewards: The model's reward of each step, NaN where it could not be scored.
    """

    seed: int
    env_rewards: list[float] = field(default_factory=list)
    success: list[bool | None] = field(default_factory=list)
    vlm_rewards: list[float] = field(default_factory=list)

    @property
    def length(self) -> int:
        """Return the number of steps."""
        return len(self.env_rewards)

    @property
    def vlm_return(self) -> float | None:
        """Return the sum of the model's rewards; None if any step has none."""
        if not self.vlm_rewards or any(math.isnan(r) for r in self.vlm_rewards):
            return None
        return float(np.sum(self.vlm_rewards))


def run_episodes(
    envs: Sequence[gym.Env],
    policy: Policy,
    episodes: int,
    seed: int,
    scorer: FrameScorer | None = None,
    encode_batch: int = 256,
    on_episode: Callable[[Episode], None] | None = None,
) -> list[Episode]:
    """Run episodes to their end.

    Args:
        envs: Environments that run side by side, ``render_mode="rgb_array"`` if there is a scorer.
        policy: Chooses the actions; built for ``len(envs)`` environments.
        episodes: How many.
        seed: Episode i starts from ``seed + i``.
        scorer: Scores the frames, built for ``len(envs)`` environments; None leaves the VLM reward out.
        encode_batch: Frames per encoder call.
        on_episode: Called with each episode that has ended (its VLM rewards may come later).

    Returns:
        The episodes in the order of their seeds.

    Raises:
        ConfigError: An episode does not end.
    """
    runner = _Runner(envs, scorer, encode_batch)
    done: list[Episode] = [Episode(seed + number) for number in range(episodes)]
    waiting = list(range(episodes))
    running: dict[int, int] = {}  # slot -> number of its episode
    obs: list[Any] = [None] * len(envs)
    for slot in range(min(len(envs), episodes)):
        running[slot] = waiting.pop(0)
        obs[slot] = runner.reset(slot, running[slot], done[running[slot]])
        policy.start(slot, done[running[slot]].seed)
    for slot in range(episodes, len(envs)):
        obs[slot] = obs[0]  # never stepped; the policy wants one observation per environment
        policy.start(slot, seed)
    while running:
        actions = policy.act(_stack(obs))
        for slot, number in list(running.items()):
            obs[slot], ended = runner.step(slot, number, done[number], actions[slot])
            if not ended:
                _check_length(envs[slot], done[number].length)
                continue
            if on_episode is not None:
                on_episode(done[number])
            if waiting:
                running[slot] = waiting.pop(0)
                obs[slot] = runner.reset(slot, running[slot], done[running[slot]])
                policy.start(slot, done[running[slot]].seed)
            else:
                del running[slot]
    for number, step, reward in runner.finish():
        rewards = done[number].vlm_rewards
        rewards.extend([math.nan] * (done[number].length - len(rewards)))
        rewards[step - 1] = reward
    return done


def _check_length(env: gym.Env, length: int) -> None:
    """Refuse to wait for the end of an episode that may never come."""
    if length == MOST_STEPS and (env.spec is None or env.spec.max_episode_steps is None):
        raise ConfigError(
            f"an episode has not ended after {MOST_STEPS:,} steps, and the environment has no time limit: "
            "give one with env.kwargs.max_episode_steps=<steps>"
        )


class _Runner:
    """Steps environments and scores their frames in batches."""

    def __init__(self, envs: Sequence[gym.Env], scorer: FrameScorer | None, encode_batch: int) -> None:
        self._envs, self._scorer, self._batch = envs, scorer, encode_batch
        self._frames: list[Frames] = []
        self._rows: list[tuple] = []
        self._scored: list[tuple[int, int, float]] = []

    def reset(self, slot: int, number: int, episode: Episode) -> Any:
        obs, _ = self._envs[slot].reset(seed=episode.seed)
        if self._scorer is not None and self._scorer.needs_reset_frames:
            self._capture(slot, number, 0, 0.0, (False, False))
        return obs

    def step(self, slot: int, number: int, episode: Episode, action: Any) -> tuple[Any, bool]:
        obs, reward, terminated, truncated, info = self._envs[slot].step(action)
        success = info.get("success")
        episode.env_rewards.append(float(reward))
        episode.success.append(None if success is None else bool(success))
        if self._scorer is not None:
            self._capture(slot, number, episode.length, float(reward), (bool(terminated), bool(truncated)))
        return obs, bool(terminated or truncated)

    def finish(self) -> list[tuple[int, int, float]]:
        """Score what is left; return (episode number, step, reward) of every transition."""
        self._flush()
        return self._scored

    def _capture(self, slot: int, number: int, step: int, env_reward: float, ends: tuple[bool, bool]) -> None:
        frame, reason = capture_frame(self._envs[slot], self._frames[0].shape if self._frames else None)
        self._rows.append((0, slot, len(self._frames), number, step, env_reward, *ends, step == 0, reason))
        if frame is not None:
            self._frames.append(frame)
        if len(self._rows) >= self._batch:
            self._flush()

    def _flush(self) -> None:
        if self._scorer is None or not self._rows:
            return
        rows = np.array(self._rows, dtype=ROW_DTYPE)
        store = stack_frames(self._frames)
        result = self._scorer.score(rows, gather(rows, store))
        for row, raw, valid in zip(result.rows, result.raw, result.valid, strict=True):
            self._scored.append((int(row["episode"]), int(row["step"]), float(raw) if valid else math.nan))
        self._frames, self._rows = [], []


def summarise(episodes: Sequence[Episode]) -> dict[str, Any]:
    """Return the numbers of an evaluation as JSON.

    ``success`` is None where the environment states none; an episode whose frames could not all be scored is left
    out of ``vlm_return`` and counted in ``episodes_unscored``.
    """
    finals = [episode.success[-1] for episode in episodes]
    known = [bool(success) for success in finals if success is not None]
    returns = [episode.vlm_return for episode in episodes if episode.vlm_return is not None]
    scored_at_all = any(episode.vlm_rewards for episode in episodes)
    return {
        "episodes": len(episodes),
        "success": proportion(sum(known), len(known)) if known else None,
        "env_return": mean_interval([sum(episode.env_rewards) for episode in episodes]),
        "vlm_return": mean_interval(returns) if returns else None,
        "episodes_unscored": len(episodes) - len(returns) if scored_at_all else None,
        "length_mean": float(np.mean([episode.length for episode in episodes])),
    }


def proportion(count: int, total: int) -> dict[str, float]:
    """Return a rate with its 95 % Wilson interval.

    Args:
        count: Successes.
        total: Trials, > 0.
    """
    rate, z2 = count / total, Z95**2
    centre = (rate + z2 / (2 * total)) / (1 + z2 / total)
    half = Z95 / (1 + z2 / total) * math.sqrt(rate * (1 - rate) / total + z2 / (4 * total**2))
    low, high = max(0.0, centre - half), min(1.0, centre + half)
    return {"rate": rate, "low": 0.0 if count == 0 else low, "high": 1.0 if count == total else high, "n": total}


def mean_interval(values: Sequence[float]) -> dict[str, float]:
    """Return a mean with its 95 % interval (normal approximation) and the standard deviation of the values."""
    array = np.asarray(values, dtype=np.float64)
    mean = float(array.mean())
    std = float(array.std(ddof=1)) if len(array) > 1 else 0.0
    half = Z95 * std / math.sqrt(len(array))
    return {"mean": mean, "low": mean - half, "high": mean + half, "std": std, "n": len(array)}


def _stack(obs: Sequence[Any]) -> Any:
    if isinstance(obs[0], dict):
        return {key: np.stack([np.asarray(one[key]) for one in obs]) for key in obs[0]}
    return np.stack([np.asarray(one) for one in obs])
