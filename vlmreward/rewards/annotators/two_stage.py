"""Ask any vision-language model for a preference in two stages (RL-VLM-F, arXiv 2402.03681).

First two pictures and three questions, answered in prose; then, without the pictures, what that prose says: 0, 1 or -1.
The wording is that of the paper. What differs: a reply that is none of the three is invalid, with its text kept, and
both orders are asked (``BothOrders``).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from vlmreward.rewards.annotators.answers import Answer, Choice
from vlmreward.types import FrameBatch, Frames

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
_NUMBER = re.compile(r"-?\d+(?:\.\d+)?")
KEPT = 200
"""Characters of a reply that a reason keeps."""


@dataclass(frozen=True)
class Failure:
    """Why a question has no reply."""

    reason: str


Part = str | Frames
"""A text, or a picture, uint8, shape (H, W, 3)."""
Ask = Callable[[Sequence[Sequence[Part]]], Sequence[str | Failure]]
"""Puts questions, each a sequence of texts and pictures, to a model, and returns a reply or a failure for each."""


def first_stage(first: Frames, second: Frames, goal: str) -> list[Part]:
    """Return the question about two pictures, uint8, shape (H, W, 3) each."""
    return [FIRST_STAGE[0], first, FIRST_STAGE[1], second, FIRST_STAGE[2].format(goal=goal)]


def second_stage(text: str, goal: str) -> list[Part]:
    """Return the question about what was said."""
    return [SECOND_STAGE.format(goal=goal, text=text.strip())]


def read_choice(reply: str) -> Answer:
    """Return what the reply to the second question says: its last line with text, which must hold one number."""
    lines = [line for line in reply.splitlines() if line.strip()]
    numbers = _NUMBER.findall(lines[-1]) if lines else []
    if len(numbers) == 1 and numbers[0] in MEANING:
        return Answer(MEANING[numbers[0]])
    return Answer("invalid", f"the reply is not 0, 1 or -1: {reply[:KEPT]!r}")


class TwoStageComparer:
    """Compares pairs by asking a model twice.

    Args:
        ask: See ``Ask``; called once for the first stage of all pairs and once for the second.
    """

    calls_per_pair = 2
    privileged = False

    def __init__(self, ask: Ask) -> None:
        self._ask = ask
        self.calls = 0

    def compare(self, first: FrameBatch, second: FrameBatch) -> list[Answer]:
        """Return an answer for each pair; the second question is not put where the first has no reply."""
        assert first.frames is not None
        assert second.frames is not None
        goals = [first.instruction] * len(first) if isinstance(first.instruction, str) else list(first.instruction)
        said = self._put(
            [first_stage(a, b, goal) for a, b, goal in zip(first.frames, second.frames, goals, strict=True)]
        )
        heard = [row for row, text in enumerate(said) if isinstance(text, str) and text.strip()]
        replies = self._put([second_stage(str(said[row]), goals[row]) for row in heard])
        answers = [
            Answer("invalid", text.reason if isinstance(text, Failure) else "the first reply is empty") for text in said
        ]
        for row, reply in zip(heard, replies, strict=True):
            answers[row] = Answer("invalid", reply.reason) if isinstance(reply, Failure) else read_choice(reply)
        return answers

    def _put(self, questions: list[list[Part]]) -> Sequence[str | Failure]:
        if not questions:
            return []
        self.calls += len(questions)
        replies = self._ask(questions)
        if len(replies) != len(questions):
            raise ValueError(f"{len(questions)} questions were put and {len(replies)} replies came")
        return replies
