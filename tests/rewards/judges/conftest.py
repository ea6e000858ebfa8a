"""Servers, questions, and a judge that says what it is told."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vlmreward.rewards.judges.questions import Answer, LogProb, Question, Usage
from vlmreward.testing.chat_server import ChatServer


@pytest.fixture
def server() -> Iterator[ChatServer]:
    made = ChatServer()
    yield made
    made.close()


@pytest.fixture
def other_server() -> Iterator[ChatServer]:
    made = ChatServer()
    yield made
    made.close()


@pytest.fixture
def make_question() -> Callable[..., Question]:
    """Return a function that makes the question number k: a picture and a text that no other one has."""

    def make(k: int = 0, **more: Any) -> Question:
        picture = np.random.default_rng(k).integers(0, 256, (6, 8, 3)).astype(np.uint8)
        return Question((f"question {k}: ", picture, " is it done?"), **more)

    return make


class FixedJudge:
    """Gives the answers it was told, in order: texts, log-probabilities or, for an exception, its reason."""

    id, licence, privileged = "fixed", "MIT", False

    def __init__(self, *answers: Any) -> None:
        self.answers, self.questions, self.asks = list(answers), list[Question](), 0
        self.usage = Usage()

    def ask(self, questions: Any) -> list[Answer]:
        self.asks += 1
        self.questions += questions
        return [self._answer(self.answers.pop(0)) for _ in questions]

    def _answer(self, told: Any) -> Answer:
        if isinstance(told, Exception):
            return Answer(reason=str(told))
        if isinstance(told, str):
            return Answer(told)
        return Answer(None, tuple(LogProb(*x) if isinstance(x, tuple) else LogProb(x, x) for x in told))


@pytest.fixture
def fixed_judge() -> Callable[..., FixedJudge]:
    return FixedJudge


@pytest.fixture
def write_dataset() -> Callable[..., None]:
    """Return a function that writes a dataset of one episode."""

    def write(path: Path, frames: np.ndarray) -> None:
        path.mkdir()
        np.save(path / "frames.npy", frames)
        (path / "episodes.jsonl").write_text('{"video": "frames.npy", "task": "stack"}\n')

    return write
