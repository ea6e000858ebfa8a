"""Rewards by VLAC's weights, asked in the form that they were trained on (arXiv 2509.15937)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal, get_args

import numpy as np

from vlmreward.errors import ConfigError
from vlmreward.rewards.accumulation import Rule, accumulate_strided
from vlmreward.rewards.demos import read_reference
from vlmreward.rewards.judges.judged import (
    Estimate,
    JudgedReward,
    Rows,
    batch_of,
    check_count,
    episodes_of,
    frames_of,
    no_answer,
    not_understood,
    only_number,
)
from vlmreward.rewards.judges.pictures import resize
from vlmreward.rewards.judges.probabilities import expected
from vlmreward.rewards.judges.questions import Answer, Picture, Question, VisionLanguageModel
from vlmreward.rewards.prompted import Prompts
from vlmreward.rewards.settings import check_choice
from vlmreward.types import Context, FrameBatch, Frames, RewardBatch

Asks = Literal["pair", "done"]

SIZE = 448
"""Side of the pictures that the weights were trained on, pixels; the aspect ratio is lost."""

MOST_REFERENCE_FRAMES = 11

PAIR = (
    "Compare two images and evaluate whether the second image is closer to achieving task objectives compared to the "
    "first image. + score means the second image is closer, - score means the first image is closer\n"
    "Response the relative progressing of target task follow <score>. The target task is: <task> {task} </task> <score>"
)
BEGINNING = "\nThis image is the trajectory beginning of the following two images\n"
DONE = "\nThe 1 means yes, the 0 means no. Check if the robot has completed its task: <task> {task} </task> <done>"

PERCENTS = tuple(range(-100, 101))


class VlacReward(JudgedReward):
    """Reward progress that VLAC's weights see from frame to frame, or whether they call a task done.

    - ``pair``: how much closer a frame is to the goal than that ``stride`` frames before, in percent, added up from 0
      at the first frame by a rule of ``accumulation``; with a reference, after VLAC's one-shot prompt.
    - ``done``: whether a frame shows the task done. One frame, no memory.

    What differs from VLAC's code: each pair is also shown in the other order and the two answers are averaged
    (``both_ways``; part ``residual``, ``|c(a, b) + c(b, a)|``, says how little they agree); ``estimate=expected`` is
    the mean over all whole percentages by their probability as whole answers, where VLAC goes digit by digit; an answer
    that is no percentage makes the row invalid.

    Args:
        judge: Who is asked; another model than VLAC may not know these forms.
        goal: What is to be done.
        baseline: Not used.
        asks: See above.
        stride: Frames between the two of a pair.
        rule: Of the accumulation.
        both_ways: Ask for each pair in both orders.
        estimate: ``text``, what was written; ``expected``, for a judge that tells log-probabilities (of a pair: of
            whole answers).
        reference: Dataset with an episode that shows how it is done; None: none.
        reference_episode: Its number.
        reference_camera: Its camera; None: the only one.
        reference_frames: How many frames of it are shown, 2 to 11.

    Raises:
        ConfigError: A setting is wrong.
        DatasetError: The reference can't be read.
        PromptError: The goal is wrong.
    """

    def __init__(
        self,
        judge: VisionLanguageModel,
        goal: Prompts,
        baseline: Prompts | None = None,
        asks: Asks = "pair",
        stride: int = 1,
        rule: Rule = "bounded",
        both_ways: bool = True,
        estimate: Estimate = "text",
        reference: str | Path | None = None,
        reference_episode: int = 0,
        reference_camera: str | None = None,
        reference_frames: int = 9,
    ) -> None:
        super().__init__(judge, goal)
        check_choice("asks", asks, get_args(Asks))
        check_choice("rule", rule, get_args(Rule))
        check_choice("estimate", estimate, get_args(Estimate))
        check_count("stride", stride, 1)
        check_count("reference_frames", reference_frames, 2)
        if reference_frames > MOST_REFERENCE_FRAMES:
            raise ConfigError(f"reference_frames must be at most {MOST_REFERENCE_FRAMES}, got {reference_frames}")
        if not isinstance(both_ways, bool):
            raise ConfigError(f"both_ways must be true or false, got {both_ways!r}")
        self.context: Context = "prefix" if asks == "pair" else "frame"
        self.rule: Rule = rule
        self.asks, self.stride, self.both_ways, self.estimate = asks, stride, both_ways, estimate
        self.reference, self.reference_episode = reference, reference_episode
        self.reference_camera, self.reference_frames = reference_camera, reference_frames
        self._example: list[str | Picture] = []
        if reference is not None:
            frames = read_reference(reference, reference_episode, reference_camera, reference_frames)
            self._example = show_trajectory([resize(frame, SIZE) for frame in frames], self.task)

    def compute_reward(self, batch: FrameBatch) -> RewardBatch:
        """Score every row.

        Args:
            batch: N rows with ``frames``; for pairs all rows of each episode so far.

        Raises:
            FramesError: The batch has no frames.
        """
        frames = frames_of(batch)
        small = np.stack([resize(frame, SIZE) for frame in frames])
        return self._done(small) if self.asks == "done" else self._progress(small, episodes_of(batch))

    def _done(self, frames: Frames) -> RewardBatch:
        words = ("1", "0") if self.estimate == "expected" else ()
        text = DONE.format(task=self.task)
        questions = [Question((frame, text), "yes_no", continuations=words, max_tokens=8) for frame in frames]
        rewards, reasons = np.full(len(frames), np.nan), dict[int, str]()
        for row, answer in enumerate(self.judge.ask(questions)):
            done = self._number(answer, (1, 0), "0 or 1")
            if isinstance(done, str):
                reasons[row] = done
            else:
                rewards[row] = done
        return batch_of(rewards.tolist(), reasons, success=rewards.astype(np.float32))

    def _progress(self, frames: Frames, episodes: Sequence[Rows]) -> RewardBatch:
        pairs: list[tuple[int, int, int]] = []  # the episode's first row, the earlier, the later
        for rows in episodes:
            before = rows[np.maximum(np.arange(len(rows)) - self.stride, 0)]
            pairs += [(int(rows[0]), int(a), int(b)) for a, b in zip(before[1:], rows[1:], strict=True)]
        ways = [pairs, [(first, later, earlier) for first, earlier, later in pairs]][: 1 + self.both_ways]
        questions = [self._ask(*(frames[row] for row in rows)) for pair in zip(*ways, strict=True) for rows in pair]
        answers = self.judge.ask(questions)
        delta, residual = np.zeros(len(frames)), np.zeros(len(frames), np.float32)
        reasons: dict[int, str] = {}
        for place, (_, _, later) in enumerate(pairs):
            told = [
                self._number(answer, PERCENTS, "a percentage from -100 to 100")
                for answer in answers[place * len(ways) : (place + 1) * len(ways)]
            ]
            numbers = [number for number in told if not isinstance(number, str)]
            if len(numbers) < len(told):
                delta[later] = residual[later] = np.nan
                reasons[later] = next(number for number in told if isinstance(number, str))
            elif self.both_ways:
                delta[later] = (numbers[0] - numbers[1]) / 200
                residual[later] = abs(numbers[0] + numbers[1]) / 100
            else:
                delta[later] = numbers[0] / 100
        progress = np.empty(len(frames))
        for rows in episodes:
            progress[rows] = accumulate_strided(delta[rows], self.stride, self.rule)
            for row in rows[np.isnan(progress[rows])].tolist():
                reasons.setdefault(row, "a step of the episode so far is not known")
        parts = {"progress": progress.astype(np.float32), "delta": delta.astype(np.float32)}
        if self.both_ways:
            parts["residual"] = residual
        return batch_of(progress.tolist(), reasons, **parts)

    def _ask(self, first: Picture, earlier: Picture, later: Picture) -> Question:
        begin: list[str | Picture] = [*self._example, "0% ", first, BEGINNING] if self._example else []
        parts = (*begin, "Image-1: ", earlier, "\nImage-2: ", later, "\n" + PAIR.format(task=self.task))
        continuations = tuple(map(str, PERCENTS)) if self.estimate == "expected" else ()
        return Question(parts, "delta", about=2, continuations=continuations, whole=True, max_tokens=16)

    def _number(self, answer: Answer, allowed: Sequence[int], what: str) -> float | str:
        """Return the number that an answer gives, or why it gives none."""
        if self.estimate == "expected":
            if answer.logprobs is None:
                return no_answer(answer)
            return expected([float(number) for number in allowed], answer.logprobs, what)
        if answer.text is None:
            return no_answer(answer)
        number = only_number(answer.text)
        if (
            number is None
            or not min(allowed) <= number <= max(allowed)
            or (len(allowed) == 2 and number not in allowed)
        ):
            return not_understood(answer.text, what)
        return number


def show_trajectory(frames: Sequence[Picture], task: str) -> list[str | Picture]:
    """Return VLAC's one-shot example: frames with the percentage of the time.

    Args:
        frames: In time order, at least 2.
        task: In words.
    """
    parts: list[str | Picture] = [f"<trajectory> <task> {task} </task>:"]
    for number, frame in enumerate(frames):
        parts += [f" {int(100 * number / (len(frames) - 1))}% ", frame, "\n"]
    return [*parts, "</trajectory>"]
