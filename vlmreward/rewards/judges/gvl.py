"""Progress of shuffled frames as reward (GVL)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from vlmreward.encoders.frame_hash import hash_frames
from vlmreward.errors import ConfigError
from vlmreward.rewards.demos import read_reference
from vlmreward.rewards.judges.judged import (
    JudgedReward,
    batch_of,
    check_count,
    episodes_of,
    evenly,
    frames_of,
    no_answer,
    not_understood,
)
from vlmreward.rewards.judges.questions import Answer, Picture, Question, VisionLanguageModel
from vlmreward.rewards.prompted import Prompts
from vlmreward.types import Context, FrameBatch, Frames, RewardBatch

BEGIN = (
    "You see frames of a robot whose task is: {task}\n"
    "Say for each frame what percentage of the task is completed, from 0 to 100; 100 is the completed task.\n"
    "The frames are in random order, so judge each by what it shows.\n"
)
EXAMPLE = "An example of another episode, its frames in random order too:\n"
INITIAL = "The scene at the beginning, where the task is completed by 0%:\n"
ASKS = (
    "\nNow give the percentages of the {count} frames above, Frame 1 to Frame {count}, of the task: {task}\n"
    "Answer with one line for each frame and nothing else, of the form\nFrame 1: 0%"
)

TOKENS_PER_LINE = 24
"""Room for an answer: some models write a remark to each frame."""

_FRAME = re.compile(r"^[\s*_#>|-]*frame\s*#?(\d{1,4})\b", re.IGNORECASE | re.MULTILINE)
_PERCENT = re.compile(r"(?<![\w.,-])(-?\d{1,4}(?:\.\d+)?)\s*%")


class GvlReward(JudgedReward):
    """Reward progress that a model sees in an episode's frames when they are shuffled (GVL, arXiv 2411.04549).

    Shown in order, models call every video a steady success. So the first frame is shown as 0 %, evenly spaced ones
    follow in random order, and the percentages are put back into the order of time. What differs: answers have one line
    a frame; a frame whose percentage is missing, doubled or outside of [0, 100] has none; an answer with a number that
    no frame has is refused as a whole, for it may count from 0; frames between two that were shown get the line between
    their percentages.

    Args:
        judge: Who is asked; one question an episode.
        goal: What is to be done.
        baseline: Not used.
        pictures: Most frames that are shown of an episode, the first among them.
        reference: Dataset with episodes that show how it is done, for few-shot examples; None: zero-shot.
        reference_episodes: Their numbers; progress in them is taken to be time.
        reference_camera: Their camera; None: the only one.
        seed: Of the shuffling, with the episode's frames: the same episode is always shuffled in the same way.

    Raises:
        ConfigError: A setting is wrong.
        DatasetError: The reference can't be read.
        PromptError: The goal is wrong.
    """

    context: Context = "episode"
    causal = False

    def __init__(
        self,
        judge: VisionLanguageModel,
        goal: Prompts,
        baseline: Prompts | None = None,
        pictures: int = 30,
        reference: str | Path | None = None,
        reference_episodes: Sequence[int] = (0,),
        reference_camera: str | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__(judge, goal)
        check_count("pictures", pictures, 2)
        check_count("seed", seed, 0)
        if isinstance(reference_episodes, str) or not isinstance(reference_episodes, Sequence):
            raise ConfigError(f"reference_episodes must be a list of numbers, got {reference_episodes!r}")
        self.pictures, self.reference, self.seed = pictures, reference, seed
        self.reference_episodes, self.reference_camera = list(reference_episodes), reference_camera
        self._examples: list[str | Picture] = []
        for number in self.reference_episodes if reference is not None else ():
            frames = read_reference(reference, number, reference_camera, pictures)  # type: ignore[arg-type]
            self._examples += [EXAMPLE, *self._show_example(frames)]

    def compute_reward(self, batch: FrameBatch) -> RewardBatch:
        """Score every row.

        Args:
            batch: N rows of whole episodes with ``frames``.

        Raises:
            FramesError: The batch has no frames.
        """
        frames = frames_of(batch)
        rewards, reasons = np.full(len(batch), np.nan), dict[int, str]()
        rewards[[rows[0] for rows in episodes_of(batch)]] = 0.0
        asked = [rows for rows in episodes_of(batch) if len(rows) > 1]
        chosen = [evenly(rows, self.pictures) for rows in asked]
        orders = [self._shuffle(frames[rows[1:]]) for rows in chosen]
        questions = [self._ask(frames[rows[0]], frames[rows[1:][o]]) for rows, o in zip(chosen, orders, strict=True)]
        for rows, known, order, answer in zip(asked, chosen, orders, self.judge.ask(questions), strict=True):
            percents, why = read_percents(answer, len(order))
            for place, percent in zip(known[1:][order].tolist(), percents, strict=True):
                rewards[place] = np.nan if percent is None else percent / 100
            rewards[rows] = np.interp(batch.step[rows], batch.step[known], rewards[known])  # NaN beside a NaN
            reasons |= dict.fromkeys(rows[np.isnan(rewards[rows])].tolist(), why)
        return batch_of(rewards.tolist(), reasons, progress=rewards.astype(np.float32))

    def _shuffle(self, frames: Frames) -> np.ndarray:
        content = np.bitwise_xor.reduce(hash_frames(frames), axis=0).tolist()
        return np.random.default_rng([self.seed, len(frames), *content]).permutation(len(frames))

    def _show_example(self, frames: Frames) -> list[str | Picture]:
        order = np.random.default_rng([self.seed, len(frames)]).permutation(np.arange(1, len(frames)))
        parts: list[str | Picture] = [INITIAL, frames[0]]
        for number, place in enumerate(order.tolist(), 1):
            percent = round(100 * place / (len(frames) - 1))
            parts += [f"\nFrame {number}: ", frames[place], f" {percent}%"]
        return [*parts, "\n"]

    def _ask(self, first: Picture, shuffled: Frames) -> Question:
        parts: list[str | Picture] = [BEGIN.format(task=self.task), *self._examples, INITIAL, first]
        for number, frame in enumerate(shuffled, 1):
            parts += [f"\nFrame {number}: ", frame]
        parts.append(ASKS.format(count=len(shuffled), task=self.task))
        room = TOKENS_PER_LINE * (1 + len(shuffled))
        return Question(tuple(parts), "percents", about=len(shuffled), max_tokens=room)


def read_percents(answer: Answer, count: int) -> tuple[list[float | None], str]:
    """Read the percentages of frames 1 to ``count``.

    Args:
        answer: Of the model.
        count: Number of frames.

    Returns:
        A number in [0, 100] for each frame or None; and why one is missing.
    """
    if answer.text is None:
        return [None] * count, no_answer(answer)
    why = not_understood(answer.text, f"a percentage for each of the frames 1 to {count}")
    found: dict[int, set[float]] = {}
    marks = list(_FRAME.finditer(answer.text))
    ends = [*(mark.start() for mark in marks[1:]), len(answer.text)]
    for mark, end in zip(marks, ends[: len(marks)], strict=True):
        told = answer.text[mark.end() : end]
        found.setdefault(int(mark[1]), set()).update(map(float, _PERCENT.findall(told)))
    if not found.keys() <= set(range(1, count + 1)):
        return [None] * count, why
    ours = [found.get(number, set()) for number in range(1, count + 1)]
    return [values.copy().pop() if len(values) == 1 and 0 <= min(values) <= 100 else None for values in ours], why
