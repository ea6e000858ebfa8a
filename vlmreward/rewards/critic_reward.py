"""Progress towards a goal as reward, by a fitted critic."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

from vlmreward.errors import ConfigError, FramesError
from vlmreward.rewards.accumulation import Rule, accumulate_strided
from vlmreward.rewards.critic import Critic, Judgement, Reference
from vlmreward.rewards.demos import read_reference
from vlmreward.rewards.prompted import Prompts, check_prompts, encode_prompts
from vlmreward.rewards.settings import check_choice
from vlmreward.types import Context, Encoder, FloatArray, FrameBatch, RewardBatch

Estimate = Literal["accumulated", "anchored"]
Embeddings = npt.NDArray[np.floating]


class CriticReward:
    """Reward a frame for the progress that it shows, in [0, 1]; ``success`` is the probability that the task is done.

    - ``accumulated``: steps over ``stride`` frames added up by a rule of ``accumulation`` from 0 at the first frame.
    - ``anchored``: the step from the first frame to this one. One comparison a frame, no drift, and less fine.

    Progress pays for staying where it is high. As a potential, which is what ``configs/reward/critic.yaml``
    makes of it, it leaves the best policies what they are.

    Args:
        encoder: Whose embeddings the critic reads.
        goal: What is to be done; several wordings are averaged.
        baseline: Not used: what is seen whatever the agent does is no progress.
        path: A file of ``vlmreward fit-critic``.
        estimate: See above.
        rule: Of the accumulation.
        stride: Frames between the two of a step; None: the critic's own.
        reference: Dataset with an episode that shows how it is done, for tasks the critic was not fitted on.
        reference_episode: Its number.
        reference_camera: Its camera; None: the only one.

    Raises:
        ConfigError: A setting is wrong, or the critic reads another encoder's embeddings.
        WeightsError: The critic can't be read.
        DatasetError: The reference can't.
    """

    causal = True
    range = (0.0, 1.0)

    def __init__(
        self,
        encoder: Encoder,
        goal: Prompts,
        baseline: Prompts | None = None,
        path: str | Path | None = None,
        estimate: Estimate = "accumulated",
        rule: Rule = "bounded",
        stride: int | None = None,
        reference: str | Path | None = None,
        reference_episode: int = 0,
        reference_camera: str | None = None,
    ) -> None:
        if path is None:
            raise ConfigError("reward.path must be the file of a critic, got null: make one with vlmreward fit-critic")
        self.encoder = encoder
        self.critic = Critic.load(path)
        if self.critic.meta.encoder != encoder.id:
            raise ConfigError(
                f"{path} was fitted on embeddings of {self.critic.meta.encoder}, got encoder {encoder.id}: choose that "
                "encoder, or fit a critic on this one"
            )
        check_choice("estimate", estimate, get_args(Estimate))
        check_choice("rule", rule, get_args(Rule))
        self.estimate = estimate
        self.rule: Rule = rule
        self.stride = self.critic.meta.stride if stride is None else stride
        if type(self.stride) is not int or self.stride < 1:
            raise ConfigError(f"stride must be a number of frames >= 1, got {stride!r}")
        self.context: Context = "prefix" if estimate == "accumulated" else "frame"
        self.needs: tuple[str, ...] = ("embeddings",) if estimate == "accumulated" else ("embeddings", "initial")
        text = encode_prompts(encoder, check_prompts(goal, "goal")).mean(axis=0)
        self._text = (text / np.linalg.norm(text)).astype(np.float32)
        self._reference = None
        if reference is not None:
            count = self.critic.meta.reference_frames
            frames = read_reference(reference, reference_episode, reference_camera, count)
            self._reference = Reference(encoder.encode_images(frames), np.linspace(0, 1, count, dtype=np.float32))

    def compute_reward(self, batch: FrameBatch) -> RewardBatch:
        """Score every row.

        Args:
            batch: N rows with ``embeddings`` or ``frames``; for ``accumulated`` all rows of each episode so far, for
                ``anchored`` with ``initial``.

        Returns:
            Progress of N rows, with ``parts`` ``progress`` and, for ``accumulated``, ``residual``: how little the
            critic agrees with itself on the row's step.

        Raises:
            FramesError: The batch lacks what is needed.
        """
        embeddings = batch.embeddings
        if embeddings is None:
            if batch.frames is None:
                raise FramesError("the batch has neither embeddings nor frames: give one of them")
            embeddings = self.encoder.encode_images(batch.frames)
        if self.estimate == "anchored":
            if batch.initial is None:
                raise FramesError("the batch lacks the initial frames: give their embeddings, as `needs` declares")
            seen = self._compare(batch.initial, batch.initial, embeddings, both_ways=False)
            progress = np.clip(seen.delta, 0.0, 1.0)
        else:
            progress, seen = self._accumulate(embeddings, batch.episode, batch.step)
        valid = np.isfinite(progress)
        why = dict.fromkeys(np.flatnonzero(~valid).tolist(), "a frame of the episode so far has no finite embedding")
        parts = {"progress": progress} | ({"residual": seen.residual} if self.estimate == "accumulated" else {})
        return RewardBatch(progress, valid, seen.done, parts, why)

    def _accumulate(
        self, embeddings: Embeddings, episode: npt.NDArray[np.int64], step: npt.NDArray[np.int64]
    ) -> tuple[FloatArray, Judgement]:
        order = np.lexsort((step, episode))
        begins = np.flatnonzero(np.diff(episode[order], prepend=episode[order[:1]] - 1))
        ends = np.append(begins[1:], len(order))
        earlier = np.empty(len(order), np.int64)
        initial = np.empty(len(order), np.int64)
        for begin, end in zip(begins, ends, strict=True):
            place = np.arange(end - begin)
            earlier[order[begin:end]] = order[begin + np.maximum(place - self.stride, 0)]
            initial[order[begin:end]] = order[begin]
        seen = self._compare(embeddings[initial], embeddings[earlier], embeddings)
        progress = np.empty(len(order), np.float32)
        for begin, end in zip(begins, ends, strict=True):
            rows = order[begin:end]
            if np.isfinite(embeddings[rows[0]]).all():
                progress[rows] = accumulate_strided(seen.delta[rows], self.stride, self.rule)
            else:
                progress[rows] = np.nan
        return progress, seen

    def _compare(
        self, initial: Embeddings, earlier: Embeddings, later: Embeddings, both_ways: bool = True
    ) -> Judgement:
        return self.critic.compare(self._text, initial, earlier, later, self._reference, both_ways)
