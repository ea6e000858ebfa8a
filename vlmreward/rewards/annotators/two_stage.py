"""Ask any vision-language model for a preference in two stages (RL-VLM-F, arXiv 2402.03681).

First two pictures and three questions, answered in prose; then, without the pictures, what that prose says: 0, 1 or -1.
The wording is that of the paper. What differs: any judge can be asked; a reply that is none of the three is invalid,
with its text kept, and both orders are asked (``BothOrders``).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from vlmreward.errors import ConfigError
from vlmreward.rewards.annotators.answers import Answer, Choice
from vlmreward.rewards.judges import make_judge
from vlmreward.rewards.judges.questions import Picture, Question, VisionLanguageModel
from vlmreward.types import FrameBatch

FIRST_STAGE = (
    "Consider the following two images:\nImage 1:",
    "Image 2:",
    "1. What is shown in Image 1?\n2. What is shown in Image 2?\n3. The goal is {goal}. Is there any difference "
    "between Image 1 and Image 2 in terms of achieving the goal?",
)
SECOND_STAGE = (
    "Based on the text below to the questions:\n1. What is shown in Image 1?\n2. What is shown in Image 2?\n"
    "3. The goal is {goal}. Is there any difference between Image 1 and Image 2 in terms of achieving the goal?\n"
    "{text}\n\nIs the goal better achieved in Image 1 or Image 2? Reply a single line of 0 if the goal is better "
    "achieved in Image 1, or 1 if it is better achieved in Image 2. Reply -1 if the text is unsure or there is no "
    "difference."
)
MEANING: dict[str, Choice] = {"0": "first", "1": "second", "-1": "unsure"}
# alone, or after "answer": the 1 in "Image 1" would mean the other image
_CHOICE = re.compile(
    r"[\s*_`\"'(]*(?:(?:the )?(?:final )?(?:answer|reply|choice)(?: is)?[\s*_:=]*)?(-1|0|1)[\s*_`\"').]*", re.IGNORECASE
)
KEPT = 200
"""Characters of a reply that a reason keeps."""


PROSE_TOKENS = 512
"""Longest answer to the first question."""
CHOICE_TOKENS = 32
"""Longest answer to the second, which is one number, as some models repeat what they were asked."""


def first_stage(first: Picture, second: Picture, goal: str) -> Question:
    """Return the question about two pictures."""
    parts = (FIRST_STAGE[0], first, FIRST_STAGE[1], second, FIRST_STAGE[2].format(goal=goal))
    return Question(parts, "differences", about=2, max_tokens=PROSE_TOKENS)


def second_stage(text: str, goal: str) -> Question:
    """Return the question about what was said."""
    return Question((SECOND_STAGE.format(goal=goal, text=text.strip()),), "verdict", max_tokens=CHOICE_TOKENS)


def read_choice(reply: str) -> Answer:
    """Return what the reply to the second question says: its last line with text, which must be one of the numbers."""
    found = _CHOICE.fullmatch(reply.strip().rpartition("\n")[2])
    if found:
        return Answer(MEANING[found[1]])
    return Answer("invalid", f"the reply is not 0, 1 or -1: {reply[:KEPT]!r}")


class TwoStageComparer:
    """Compares pairs by asking a judge twice.

    Args:
        judge: Who is asked: once for the first stage of all pairs, and once for the second.

    Attributes:
        judge: As given.
    """

    calls_per_pair = 2

    def __init__(self, judge: VisionLanguageModel) -> None:
        self.judge, self.privileged = judge, judge.privileged
        self.calls = 0

    def compare(self, first: FrameBatch, second: FrameBatch) -> list[Answer]:
        """Return an answer for each pair; the second question is not put where the first has no reply."""
        assert first.frames is not None
        assert second.frames is not None
        goals = [first.instruction] * len(first) if isinstance(first.instruction, str) else list(first.instruction)
        said = self._put(
            [first_stage(a, b, goal) for a, b, goal in zip(first.frames, second.frames, goals, strict=True)]
        )
        heard = [row for row, (text, _) in enumerate(said) if text.strip()]
        answers = [Answer("invalid", reason or "the first reply is empty") for _, reason in said]
        replies = self._put([second_stage(said[row][0], goals[row]) for row in heard])
        for row, (reply, reason) in zip(heard, replies, strict=True):
            answers[row] = Answer("invalid", reason) if reason else read_choice(reply)
        return answers

    def _put(self, questions: list[Question]) -> list[tuple[str, str]]:
        """Return a text for each question, "" where there is none, and why not."""
        self.calls += len(questions)
        replies = self.judge.ask(questions) if questions else []
        if len(replies) != len(questions):
            raise ValueError(f"{len(questions)} questions were put and {len(replies)} replies came")
        return [(reply.text or "", "" if reply.text is not None else reply.reason) for reply in replies]


def make_two_stage(judge: Any = None) -> TwoStageComparer:
    """Asks a vision-language model twice, ``judge``, as RL-VLM-F does: first for differences, then for a choice.

    Args:
        judge: Its config; ``http`` where it has no name.

    Raises:
        ConfigError: A setting is wrong.
        WeightsError: A local model can't be read.
    """
    if judge is not None and not isinstance(judge, Mapping):
        raise ConfigError(f"reward.annotator.judge must hold name: <judge> and its settings, got {judge!r}")
    return TwoStageComparer(make_judge({"name": "http", **(judge or {})}, "reward.annotator.judge."))
