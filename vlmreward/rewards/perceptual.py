"""Reward from a few demonstrations and no words, by the stages found in them.

After Sermanet, Xu and Levine, "Unsupervised Perceptual Rewards for Imitation Learning" (arXiv 1612.06699). What differs
is told in ``stages``; features are a frozen encoder's embeddings instead of layers of an Inception network.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from vlmreward.data.dataset import Episode, EpisodeDataset
from vlmreward.errors import ConfigError
from vlmreward.rewards.demos import open_demos, read_demo
from vlmreward.rewards.embeddings import read_embeddings, unit_rows, why_unscorable
from vlmreward.rewards.prompted import Prompts
from vlmreward.rewards.stages import combine_stages, find_marks, split_demos
from vlmreward.types import Context, Encoder, FloatArray, FrameBatch, RewardBatch

MOST_DEMOS = 10
MOST_FRAMES = 512
"""Frames of a demonstration that are looked at: of a longer one, evenly spaced ones."""

LEAST_CHANGE = 1e-6
"""Mean squared distance of unit embeddings to their mean that is a change; rounding to float16 makes about 1e-7."""


class PerceptualReward:
    """Reward a frame for the stages of the task that it shows reached.

    With ``s_k`` how likely stage k of K is reached, by the features that tell it best from what comes before:
    ``r = sum_{k=2..K} 2^(k-1) s_k / sum_{k=2..K} 2^(k-1)``. Staying in the last stage is paid; as the potential of
    ``reward=potential`` it leaves the best policies what they are.

    Args:
        encoder: Whose embeddings are the features.
        goal: Not used: the demonstrations show what is to be done.
        baseline: Not used.
        demos: Dataset with one demonstration or more.
        camera: Whose pictures; None: the only camera's.
        episodes: Numbers of the demonstrations; None: the first ten that are not recorded as failures.
        stages: Number of stages, K, >= 2.
        features: Features that tell a stage, >= 1.

    Attributes:
        splits: First frames of the stages and the number of frames of each demonstration, int64, shape (K + 1,) each;
            of those that are looked at.

    Raises:
        ConfigError: A setting is wrong, a demonstration is too short or shows no change.
        DatasetError: The dataset can't be read.
    """

    context: Context = "frame"
    causal = True
    range = (0.0, 1.0)
    needs: tuple[str, ...] = ("embeddings",)

    def __init__(
        self,
        encoder: Encoder,
        goal: Prompts | None = None,
        baseline: Prompts | None = None,
        demos: str | Path | None = None,
        camera: str | None = None,
        episodes: Sequence[int] | None = None,
        stages: int = 4,
        features: int = 32,
    ) -> None:
        if demos is None:
            raise ConfigError("reward.demos must be a dataset of demonstrations, got null: give its folder or file")
        for name, value, low in (("stages", stages, 2), ("features", features, 1)):
            if type(value) is not int or value < low:
                raise ConfigError(f"{name} must be a number >= {low}, got {value!r}")
        self.encoder = encoder
        self.demos, self.camera, self.episodes, self.stages, self.features = demos, camera, episodes, stages, features
        dataset, camera = open_demos(demos, camera, "camera")
        shown = [self._encode(dataset, episode, camera) for episode in _choose(dataset, episodes)]
        shortest = max(2, min(map(len, shown)) // (4 * stages))  # a quarter of an even share: no flicker is a stage
        self.splits = split_demos(shown, stages, shortest)
        self._marks = find_marks(shown, self.splits, features)

    def compute_reward(self, batch: FrameBatch) -> RewardBatch:
        """Score every row.

        Args:
            batch: N rows with ``embeddings`` (N, D) or ``frames`` (N, H, W, 3).

        Returns:
            Rewards of N rows, with ``parts`` ``progress``, the same, and ``stage_<k>``, how likely stages 2 to K are
            reached. A row whose embedding is not a finite unit vector is invalid, with a reason.

        Raises:
            FramesError: The batch has neither embeddings nor frames, or they do not fit.
        """
        embeddings = read_embeddings(batch, self.encoder.dim, self.encoder)
        x = unit_rows(embeddings)
        reached = np.stack([mark.reached(x) for mark in self._marks])
        reward = combine_stages(reached).astype(np.float32)
        valid = np.isfinite(x[:, 0])
        stages = {f"stage_{k}": each.astype(np.float32) for k, each in enumerate(reached, 2)}
        reasons = {int(row): why_unscorable(embeddings[row]) for row in np.flatnonzero(~valid)}
        return RewardBatch(reward, valid, parts={"progress": reward, **stages}, reasons=reasons)

    def _encode(self, dataset: EpisodeDataset, episode: Episode, camera: str) -> FloatArray:
        """Return unit embeddings of a demonstration's frames, shape (T, D)."""
        where = f"episode {episode.index} of {self.demos}"
        if episode.frames < 2 * self.stages:
            raise ConfigError(
                f"{where} has {episode.frames} frames, too few for {self.stages} stages of 2: leave it out or set fewer"
            )
        frames = read_demo(dataset, episode, camera, min(episode.frames, MOST_FRAMES))
        x = unit_rows(self.encoder.encode_images(frames))
        if not np.isfinite(x).all():
            raise ConfigError(f"{where} has frames without a finite unit embedding: leave it out")
        if x.var(axis=0).sum() < LEAST_CHANGE:
            raise ConfigError(f"{where} shows no change, so there are no stages in it: give another demonstration")
        return x.astype(np.float32)


def _choose(dataset: EpisodeDataset, numbers: Sequence[int] | None) -> list[Episode]:
    if numbers is None:
        chosen = [episode for episode in dataset.episodes if episode.success is not False][:MOST_DEMOS]
        if not chosen:
            raise ConfigError(
                f"all episodes of {dataset.root} are recorded as failures: name demonstrations in episodes"
            )
        return chosen
    last = len(dataset.episodes) - 1
    if isinstance(numbers, str) or not numbers or any(type(n) is not int or not 0 <= n <= last for n in numbers):
        raise ConfigError(f"episodes must be a list of numbers in [0, {last}], got {numbers!r}")
    return [dataset.episodes[number] for number in dict.fromkeys(numbers)]
