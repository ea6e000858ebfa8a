"""A grade from 1 to 5 as reward."""

from __future__ import annotations

import re
from typing import get_args

import numpy as np

from vlmreward.rewards.judges.judged import (
    Estimate,
    JudgedReward,
    View,
    batch_of,
    check_view,
    no_answer,
    not_understood,
    shown,
)
from vlmreward.rewards.judges.probabilities import expected
from vlmreward.rewards.judges.questions import Answer, Question, VisionLanguageModel
from vlmreward.rewards.prompted import Prompts
from vlmreward.rewards.settings import check_choice
from vlmreward.types import Context, FrameBatch, RewardBatch

GRADES = ("1", "2", "3", "4", "5")

ASKS = (
    "{what} shows a robot whose task is: {task}\n"
    "How far has it come?\n"
    "1: nothing of the task is done\n"
    "2: little is done, most is missing\n"
    "3: about half is done\n"
    "4: almost all is done, a small part is missing\n"
    "5: the task is done completely\n"
    "Answer with one of the numbers 1, 2, 3, 4 or 5 and nothing else."
)

_GRADE = re.compile(
    r"[\s*_`\"'(]*(?:(?:final )?(?:grade|score|rating|answer)(?: is)?[\s*_:=]*)?([1-5])(?: ?/ ?5)?[\s*_`\"').]*",
    re.IGNORECASE,
)


class RubricReward(JudgedReward):
    """Reward a grade s from 1 to 5 as ``s/4 - 1/4`` (RoboReward, arXiv 2601.00675, with a wording of our own).

    Args:
        judge: Who is asked.
        goal: What is to be done.
        baseline: Not used.
        view: A row's frame (``frame``), or the video so far (``prefix``).
        pictures: Most frames of a video.
        estimate: ``text``, the grade that was written; ``expected``, the mean of the grades by their probability,
            for a judge that tells log-probabilities.

    Raises:
        ConfigError: A setting is wrong.
        PromptError: The goal is.
    """

    def __init__(
        self,
        judge: VisionLanguageModel,
        goal: Prompts,
        baseline: Prompts | None = None,
        view: View = "frame",
        pictures: int = 8,
        estimate: Estimate = "text",
    ) -> None:
        super().__init__(judge, goal)
        self.context: Context = check_view(view, pictures)
        check_choice("estimate", estimate, get_args(Estimate))
        self.view: View = view
        self.pictures, self.estimate = pictures, estimate
        self._text = ASKS.format(what="The picture" if view == "frame" else "The video", task=self.task)

    def compute_reward(self, batch: FrameBatch) -> RewardBatch:
        """Score every row.

        Args:
            batch: N rows with ``frames``; with ``view=prefix`` all rows of each episode so far.

        Raises:
            FramesError: The batch has no frames.
        """
        wanted = GRADES if self.estimate == "expected" else ()
        questions = [
            Question((*pictures, self._text), "rubric", len(pictures), continuations=wanted, max_tokens=8)
            for pictures in shown(batch, self.view, self.pictures)
        ]
        rewards, reasons = np.full(len(batch), np.nan), dict[int, str]()
        for row, answer in enumerate(self.judge.ask(questions)):
            grade = self._grade(answer)
            if isinstance(grade, str):
                reasons[row] = grade
            else:
                rewards[row] = (grade - 1) / 4
        return batch_of(rewards.tolist(), reasons)

    def _grade(self, answer: Answer) -> float | str:
        """Return a grade, or why there is none."""
        if self.estimate == "expected":
            if answer.logprobs is None:
                return no_answer(answer)
            return expected([float(grade) for grade in GRADES], answer.logprobs, "a grade")
        if answer.text is None:
            return no_answer(answer)
        last = answer.text.strip().rpartition("\n")[2]  # a model may think aloud first
        found = _GRADE.fullmatch(last)
        return float(found[1]) if found else not_understood(answer.text, "one grade from 1 to 5")
