"""Pairs of frames to train a progress critic on: labelled by nothing but the order of time and recorded outcomes.

The label of a pair is VLAC's (arXiv 2509.15937): how much of what was left at the earlier frame the later one has done,
``D / (T - i)``. With its tricks: groups of four, (i, i+1) and (i, j) both ways round; pairs of one and the same or of
nearly the same frame, 0; an instruction that is not the episode's own, 0, done or not; frames of the last 5 % done,
of the first 80 % not done, and nothing said of those between. Any frame before the pair may pass for the episode's
first, and the pairs that lead back are rewound video (ReWiND, CoRL 2025). What differs: progress is that of
``critic_episodes``, which knows when a demonstration has arrived and has a guess for failures; and the later frame's
own progress is a label beside the pair's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from vlmreward.agents.fit.critic_episodes import DONE_FROM, CriticEpisode, progress_of_failures
from vlmreward.errors import DatasetError
from vlmreward.rewards.accumulation import remaining_delta
from vlmreward.rewards.stages import reference_frames
from vlmreward.types import FloatArray

STILL = 0.02
"""Frames nearer to each other than this share of the way from first to last show no change."""


@dataclass(frozen=True)
class PairSettings:
    """How pairs are drawn.

    Attributes:
        mismatched: Share of groups with an instruction that is not the episode's own.
        failures: Share of groups from episodes recorded as failures, where there are any.
        late_start: Share of groups whose first frame is not the episode's.
        same: Share of groups of one and the same frame.
        ends: Share of groups whose later frame is among the episode's last, for the head that says "done".
        shown: Share of batches that come with a reference trajectory.
        reference_frames: Its length, K.
        worth: What a failure's frame is held to be worth of what a demonstration was that looked as much like the
            instruction.
    """

    mismatched: float = 0.1
    failures: float = 0.6
    late_start: float = 0.2
    same: float = 0.05
    ends: float = 0.1
    shown: float = 0.5
    reference_frames: int = 9
    worth: float = 0.8


@dataclass(frozen=True)
class PairBatch:
    """Pairs of frames; B rows. Labels are NaN where nothing is said.

    Attributes:
        text: Embedding of the instruction, float32, shape (B, D).
        initial: First frame, shape (B, D).
        earlier: Shape (B, D).
        later: Shape (B, D).
        delta: Label of the step, in [-1, 1], float32, shape (B,).
        done: Label of the later frame, 0 or 1, float32, shape (B,).
        progress: Label of the later frame, in [0, 1], float32, shape (B,).
        reference: Shape (B, K, D), or None.
        percent: Progress of each reference frame in [0, 1], shape (B, K), or None.
    """

    text: FloatArray
    initial: FloatArray
    earlier: FloatArray
    later: FloatArray
    delta: FloatArray
    done: FloatArray
    progress: FloatArray
    reference: FloatArray | None
    percent: FloatArray | None


class PairSampler:
    """Draws batches of pairs.

    Args:
        episodes: What to draw from; at least one must show how the task is done.
        texts: Embedding of every instruction among them, and of sentences that have nothing to do with any, by text.
        settings: See PairSettings.
        rng: Source of all draws.

    Raises:
        DatasetError: No episode shows how a task is done.
    """

    def __init__(
        self,
        episodes: Sequence[CriticEpisode],
        texts: dict[str, FloatArray],
        settings: PairSettings,
        rng: np.random.Generator,
    ) -> None:
        self._texts, self._settings, self._rng = texts, settings, rng
        self._shown: dict[str, list[CriticEpisode]] = {}
        self._failed: dict[str, list[CriticEpisode]] = {}
        for episode in episodes:
            kind = self._shown if episode.shows_how else self._failed
            kind.setdefault(episode.instruction, []).append(episode)
        if not self._shown:
            raise DatasetError(
                f"all {len(episodes)} episodes are recorded as failures: a critic learns from episodes that end with "
                "their task done, give some"
            )
        self._progress = {id(e): e.progress for shown in self._shown.values() for e in shown}
        for text, failed in self._failed.items():
            guesses = progress_of_failures(failed, self._shown.get(text, ()), texts[text], settings.worth)
            self._progress.update(zip(map(id, failed), guesses, strict=True))
        self._others = {text: self._unlike(text) for text in {**self._shown, **self._failed}}

    def _unlike(self, text: str) -> list[str]:
        """Return instructions that mean something else: the half that is least like this one."""
        others = sorted((t for t in self._texts if t != text), key=lambda t: float(self._texts[t] @ self._texts[text]))
        return others[: max(1, len(others) // 2)]

    def draw(self, groups: int) -> PairBatch:
        """Return a batch of ``groups`` groups of four pairs."""
        with_reference = self._rng.random() < self._settings.shown
        rows = [self._group(with_reference) for _ in range(groups)]
        columns = {name: np.concatenate([row[name] for row in rows]).astype(np.float32) for name in rows[0]}
        return PairBatch(
            text=columns["text"],
            initial=columns["initial"],
            earlier=columns["earlier"],
            later=columns["later"],
            delta=columns["delta"],
            done=columns["done"],
            progress=columns["progress"],
            reference=columns.get("reference"),
            percent=columns.get("percent"),
        )

    def _group(self, with_reference: bool) -> dict[str, np.ndarray]:
        s, rng = self._settings, self._rng
        failed = bool(self._failed) and rng.random() < s.failures
        pool = self._failed if failed else self._shown
        text = list(pool)[rng.integers(len(pool))]
        episode = pool[text][rng.integers(len(pool[text]))]
        mismatched = rng.random() < s.mismatched
        asked = self._others[text][rng.integers(len(self._others[text]))] if mismatched else text
        pairs = self._pairs(episode)
        first = int(rng.integers(int(pairs.min()) + 1)) if rng.random() < s.late_start else 0
        frames = episode.embeddings
        earlier, later = frames[pairs[:, 0]], frames[pairs[:, 1]]
        if mismatched:
            delta, done, progress = np.zeros((3, 4))
        else:
            known = self._progress[id(episode)]
            progress, done = known[pairs[:, 1]], episode.done[pairs[:, 1]]
            delta = remaining_delta(known[pairs[:, 0]], progress)
            whole = np.linalg.norm(frames[-1] - frames[0])
            delta = np.where(np.linalg.norm(later - earlier, axis=1) < STILL * whole, 0.0, delta)
        group = {
            "text": np.tile(self._texts[asked], (4, 1)),
            "initial": np.tile(frames[first], (4, 1)),
            "earlier": earlier,
            "later": later,
            "delta": delta,
            "done": done,
            "progress": progress,
        }
        if with_reference:
            reference, percent = self._reference(asked)
            group |= {"reference": np.tile(reference, (4, 1, 1)), "percent": np.tile(percent, (4, 1))}
        return group

    def _pairs(self, episode: CriticEpisode) -> np.ndarray:
        """Return four pairs of frame numbers, shape (4, 2): two near ones and two far ones, each both ways round."""
        s, rng = self._settings, self._rng
        frames = len(episode.embeddings)
        i = int(rng.integers(frames - 1))
        if rng.random() < s.ends:
            j = int(rng.integers(int(np.argmax(episode.progress > DONE_FROM)), frames))
        else:
            j = i if rng.random() < s.same else int(rng.integers(frames))
        return np.array([(i, i + 1), (i + 1, i), (i, j), (j, i)])

    def _reference(self, text: str) -> tuple[FloatArray, np.ndarray]:
        """Return frames of the way of a demonstration and their percent; frames of zeros where a task has none."""
        count = self._settings.reference_frames
        percent = np.linspace(0, 1, count)
        if text not in self._shown:
            dim = len(self._texts[text])
            return np.zeros((count, dim), np.float32), percent
        episode = self._shown[text][self._rng.integers(len(self._shown[text]))]
        return reference_frames(episode.way, count), percent
