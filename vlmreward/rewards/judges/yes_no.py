"""How likely a model is to say that a task is done, as reward."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Literal, get_args

import numpy as np

from vlmreward.rewards.judges.judged import JudgedReward, View, batch_of, check_view, no_answer, shown
from vlmreward.rewards.judges.pictures import read_picture
from vlmreward.rewards.judges.probabilities import NEGLIGIBLE, share_of_first
from vlmreward.rewards.judges.questions import LogProb, Picture, Question, VisionLanguageModel
from vlmreward.rewards.prompted import Prompts
from vlmreward.rewards.settings import check_choice
from vlmreward.types import Context, FrameBatch, RewardBatch

Value = Literal["probability", "log_probability"]

WORDS = ("True", "False")

LEAST = -50.0
"""Log-probabilities are cut off here, so that the range is finite: nothing happens once in 1e21 times."""

ASKS = "{what} {task} Decide whether the above statement is True or not. The answer is:"
FRAME = "The above picture shows the end of a robot manipulation trajectory that completes the following task:"
PREFIX = "The above video shows a robot manipulation trajectory that completes the following task:"
AGAINST = "The first picture above shows the following task completed, and the {later} after it the same:"


class YesNoReward(JudgedReward):
    """Reward by the probability that the model answers True to the statement that the task is done.

    - ``probability``: ``P(True) / (P(True) + P(False))``, the form of RewardDance (arXiv 2509.08826).
    - ``log_probability``: ``log P(True)``, TOPReward (arXiv 2602.19313) with its prompt. What differs: the prompt is
      the user's turn of the model's chat template; nothing is normalised within an episode, where a failed one would
      reach as high as any; no frame is interpolated; and values end at ``LEAST``.

    Either against a picture of the goal (``reference_picture``), which is then shown first. ``success`` is the
    probability. A server tells the likeliest tokens only: where the bounds that follow from them are wider than
    ``NEGLIGIBLE``, the row is invalid.

    Args:
        judge: Who is asked; it has to tell log-probabilities.
        goal: What is to be done.
        baseline: Not used.
        view: A row's frame (``frame``), or the video so far (``prefix``).
        pictures: Most frames of a video.
        value: See above.
        reference_picture: File of a picture that shows the goal; None: none is shown.

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
        value: Value = "probability",
        reference_picture: str | Path | None = None,
    ) -> None:
        super().__init__(judge, goal)
        self.context: Context = check_view(view, pictures)
        check_choice("value", value, get_args(Value))
        self.view: View = view
        self.pictures, self.value, self.reference_picture = pictures, value, reference_picture
        self._goal_picture: list[Picture] = []
        what = FRAME if view == "frame" else PREFIX
        if reference_picture is not None:
            self._goal_picture = [read_picture("reference_picture", reference_picture)]
            what = AGAINST.format(later="picture shows" if view == "frame" else "video shows")
        self._text = ASKS.format(what=what, task=self.task)
        self.range = (0.0, 1.0) if value == "probability" else (LEAST, 0.0)

    def compute_reward(self, batch: FrameBatch) -> RewardBatch:
        """Score every row.

        Args:
            batch: N rows with ``frames``; with ``view=prefix`` all rows of each episode so far.

        Raises:
            FramesError: The batch has no frames.
        """
        questions = [
            Question(
                (*self._goal_picture, *pictures, self._text), "yes_no", len(pictures), continuations=WORDS, max_tokens=1
            )
            for pictures in shown(batch, self.view, self.pictures)
        ]
        rewards, reasons = np.full(len(batch), np.nan), dict[int, str]()
        success = np.full(len(batch), np.nan, np.float32)
        for row, answer in enumerate(self.judge.ask(questions)):
            if answer.logprobs is None:
                reasons[row] = no_answer(answer)
                continue
            low, high = share_of_first(answer.logprobs)
            if high - low <= NEGLIGIBLE:  # not where they are NaN
                success[row] = (low + high) / 2
            if self.value == "probability":
                rewards[row] = success[row]
            else:
                rewards[row] = _log(answer.logprobs[0])
            if math.isnan(rewards[row]):
                reasons[row] = f"the server does not list {' and '.join(WORDS)} among its likely answers"
        return batch_of(rewards.tolist(), reasons, success=success)


def _log(logprob: LogProb) -> float:
    """Return a log-probability, or NaN where it is too vague."""
    vague = not logprob.exact and math.exp(logprob.high) - math.exp(logprob.low) > NEGLIGIBLE * math.exp(logprob.high)
    return math.nan if vague else max(logprob.high, LEAST)
