"""Progress towards a goal as reward, by a fitted critic."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

from vlmreward.errors import ConfigError, FramesError
from vlmreward.rewards.accumulation import Rule, accumulate_strided, fuse
from vlmreward.rewards.critic import Critic, Judgement, Reference, direct
from vlmreward.rewards.demos import read_reference
from vlmreward.rewards.embeddings import check_embeddings, read_embeddings, unit_rows
from vlmreward.rewards.prompted import Prompts, check_prompts, encode_prompts
from vlmreward.rewards.settings import check_choice
from vlmreward.rewards.stages import arrival, reference_frames
from vlmreward.types import Context, Encoder, FloatArray, FrameBatch, RewardBatch

Estimate = Literal["direct", "accumulated", "anchored", "fused"]
REFERENCE_LOOK = 64
"""Frames of a reference that are looked at to find where it arrives."""
Embeddings = npt.NDArray[np.floating]


class CriticReward:
    """Reward a frame for the progress that it shows, in [0, 1]; ``success`` is the probability that the task is done.

    - ``direct``: what is said of the frame's own progress and of the probability that the task is done in it
      (``critic.direct``), from 0 to 1 over what the episodes of that instruction spanned that the critic was fitted
      on, or for others from the first to the last frame of the reference. Needs no other frame but the first.
    - ``accumulated``: steps over ``stride`` frames added up by a rule of ``accumulation`` from 0 at the first frame.
    - ``anchored``: the step from the first frame to this one. One comparison a frame, no drift, and less fine.
    - ``fused``: ``anchored`` and ``direct`` as far as they agree, and steps from frame to frame
      (``accumulation.fuse``, Robo-Dopamine; there the second of the two is the distance to a goal frame).

    Progress pays for staying where it is high. As a potential, which is what ``configs/reward/critic.yaml``
    makes of it, it leaves the best policies what they are.

    Args:
        encoder: Whose embeddings the critic reads.
        goal: What is to be done; several wordings are averaged.
        baseline: Not used: what is seen whatever the agent does is no progress.
        path: A file of ``vlmreward fit-critic``.
        estimate: See above.
        rule: Of ``accumulated``.
        stride: Frames between the two of a step of ``accumulated``; None: the critic's own. ``fused`` goes from frame
            to frame.
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
        estimate: Estimate = "direct",
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
        if estimate == "fused":
            self.stride, self.rule = 1, "bounded"
        steps = estimate in ("accumulated", "fused")
        self.context: Context = "prefix" if steps else "frame"
        self.needs: tuple[str, ...] = ("embeddings",) if steps else ("embeddings", "initial")
        text = encode_prompts(encoder, check_prompts(goal, "goal")).mean(axis=0)
        self._text = (text / np.linalg.norm(text)).astype(np.float32)
        self._reference = None
        if reference is not None:
            count = self.critic.meta.reference_frames
            frames = read_reference(reference, reference_episode, reference_camera, max(count, REFERENCE_LOOK))
            shown = encoder.encode_images(frames)
            way = reference_frames(shown[: arrival(shown) + 1], count)
            self._reference = Reference(way, np.linspace(0, 1, count, dtype=np.float32))
        self._span = self._find_span(goal)

    def _find_span(self, goal: Prompts) -> tuple[float, float]:
        """Return what counts as 0 and as 1."""
        spans, prompts = self.critic.meta.spans, check_prompts(goal, "goal")
        if len(prompts) == 1 and prompts[0] in spans:
            return spans[prompts[0]]
        if self._reference is None:
            return 0.0, 1.0
        way = self._reference.embeddings
        first = np.tile(way[0], (len(way), 1))
        along = direct(self._compare(first, first, way, both_ways=False))
        return (float(along[0]), float(along[-1])) if along[-1] > along[0] else (0.0, 1.0)

    def compute_reward(self, batch: FrameBatch) -> RewardBatch:
        """Score every row.

        Args:
            batch: N rows with ``embeddings`` or ``frames``; for ``accumulated`` and ``fused`` all rows of each episode
                so far, for the others with ``initial``.

        Returns:
            Progress of N rows, with ``parts`` ``progress`` and, for ``accumulated`` and ``fused``, ``delta``: the step
            to the row, in [-1, 1], 0 for an episode's first, and ``residual``: how little the critic agrees with itself
            on that step.

        Raises:
            FramesError: The batch lacks what is needed.
        """
        embeddings = unit_rows(read_embeddings(batch, self.encoder.dim, self.encoder))
        if self.context == "prefix":
            progress, seen = self._along_episodes(embeddings, batch.episode, batch.step)
        else:
            if batch.initial is None:
                raise FramesError("the batch lacks the initial frames: give their embeddings, as `needs` declares")
            check_embeddings(batch.initial, self.encoder.dim, self.encoder)
            initial = unit_rows(batch.initial)
            seen = self._compare(initial, initial, embeddings, both_ways=False)
            progress = direct(seen, self._span) if self.estimate == "direct" else np.clip(seen.delta, 0.0, 1.0)
        valid = np.isfinite(progress)
        why = dict.fromkeys(np.flatnonzero(~valid).tolist(), "a frame of the episode so far has no finite embedding")
        parts = {"progress": progress}
        if self.context == "prefix":
            parts |= {"delta": seen.delta, "residual": seen.residual}
        return RewardBatch(progress, valid, seen.done, parts, why)

    def _along_episodes(
        self, embeddings: Embeddings, episode: npt.NDArray[np.int64], step: npt.NDArray[np.int64]
    ) -> tuple[FloatArray, Judgement]:
        """Return progress of every row, and what is said of the step to it; rows of an episode are all there."""
        order = np.lexsort((step, episode))
        begins = np.flatnonzero(np.diff(episode[order], prepend=episode[order[:1]] - 1))
        ends = np.append(begins[1:], len(order))
        earlier = np.empty(len(order), np.int64)
        initial = np.empty(len(order), np.int64)
        for begin, end in zip(begins, ends, strict=True):
            place = np.arange(end - begin)
            earlier[order[begin:end]] = order[begin + np.maximum(place - self.stride, 0)]
            initial[order[begin:end]] = order[begin]
        first = embeddings[initial]
        seen = self._compare(first, embeddings[earlier], embeddings)
        whole = self._compare(first, first, embeddings, both_ways=False) if self.estimate == "fused" else None
        progress = np.empty(len(order), np.float32)
        for begin, end in zip(begins, ends, strict=True):
            rows = order[begin:end]
            if not np.isfinite(embeddings[rows[0]]).all():
                progress[rows] = np.nan
            elif whole is None:
                progress[rows] = accumulate_strided(seen.delta[rows], self.stride, self.rule)
            else:
                progress[rows] = fuse(whole.delta[rows], direct(whole, self._span)[rows], seen.delta[rows[1:]])[0]
        return progress, seen

    def _compare(
        self, initial: Embeddings, earlier: Embeddings, later: Embeddings, both_ways: bool = True
    ) -> Judgement:
        return self.critic.compare(self._text, initial, earlier, later, self._reference, both_ways)
