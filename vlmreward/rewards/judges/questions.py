"""What is asked of a vision-language model, and what comes back: an answer, or a reason why there is none."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

Picture = npt.NDArray[np.uint8]
"""RGB, uint8, shape (H, W, 3)."""

Form = Literal["text", "yes_no", "delta", "percents", "rubric", "differences", "verdict"]
"""What the answer looks like.

- ``yes_no``: the first of two words if the picture shows it done, else the second
- ``delta``: a signed whole percentage, by which the last picture is closer to the goal than the one before
- ``percents``: a line ``Frame k: p%`` for each picture
- ``rubric``: a whole number from 1 (nothing) to 5 (done)
- ``differences``: prose about two pictures
- ``verdict``: which of two pictures such prose says is nearer to the goal: 0, 1, or -1 for neither
"""

LINE = 160
"""Longest text of a model or a server that is quoted in a reason, characters."""


@dataclass(frozen=True, eq=False)
class Question:
    """One question about pictures.

    Attributes:
        parts: Text and pictures in order.
        form: What the answer looks like. Only a scripted judge reads it: a model has to be told in the text.
        about: How many of the last pictures are judged; those before them are examples.
        continuations: Possible answers whose log-probabilities are wanted.
        whole: Count a continuation only where the answer ends with it, so that "1" is not the beginning of "15".
        max_tokens: Longest answer.
    """

    parts: tuple[str | Picture, ...]
    form: Form = "text"
    about: int = 1
    continuations: tuple[str, ...] = ()
    whole: bool = False
    max_tokens: int = 64

    @property
    def pictures(self) -> list[Picture]:
        """The pictures, in order."""
        return [part for part in self.parts if not isinstance(part, str)]

    def digest(self, salt: str = "") -> str:
        """Return a hash, hexadecimal, of everything that a model sees, and of a salt."""
        whole = hashlib.blake2b(digest_size=20)
        told = (salt, *self.continuations, str(self.whole), str(self.max_tokens))
        for part in (*told, *self.parts):
            if isinstance(part, str):
                kind, content = "text", part.encode("utf-8", "surrogatepass")
            else:
                kind, content = f"picture {part.shape}", np.ascontiguousarray(part).tobytes()
            whole.update(f"{kind} {len(content)} ".encode())
            whole.update(content)
        return whole.hexdigest()


class LogProb(NamedTuple):
    """Natural logarithm of a probability, or the bounds that are known of it.

    Attributes:
        low: Least, at most 0; -inf where nothing is known.
        high: Most.
    """

    low: float
    high: float

    @property
    def exact(self) -> bool:
        """Whether the bounds are one."""
        return self.low == self.high


@dataclass(frozen=True)
class Usage:
    """What answers have cost.

    Attributes:
        calls: Requests sent, retries included; of a local model, forward and generate calls.
        tokens: Of questions and answers: counted, or where a server doesn't tell, what was reserved for them.
        cached: Answers that were known already.
    """

    calls: int = 0
    tokens: int = 0
    cached: int = 0

    def __add__(self, other: Usage) -> Usage:
        """Return the sum."""
        return Usage(self.calls + other.calls, self.tokens + other.tokens, self.cached + other.cached)


@dataclass(frozen=True)
class Answer:
    """What came back for one question.

    Attributes:
        text: As the model wrote it, or None.
        logprobs: Of the question's continuations, in their order, or None.
        reason: Why what was asked for is missing; "" where it is there.
        usage: What it has cost.
    """

    text: str | None = None
    logprobs: tuple[LogProb, ...] | None = None
    reason: str = ""
    usage: Usage = Usage()

    def __post_init__(self) -> None:
        """Check that nothing is missing without a reason."""
        assert self.text is not None or self.logprobs is not None or self.reason


@runtime_checkable
class VisionLanguageModel(Protocol):
    """A model that answers questions about pictures.

    Attributes:
        id: Changes whenever answers may change: model, where it runs, parameters.
        licence: Of the weights, as an SPDX id where there is one.
        privileged: Whether it knows more than what it is shown.
        usage: What all answers so far have cost.
    """

    id: str
    licence: str
    privileged: bool
    usage: Usage

    def ask(self, questions: Sequence[Question]) -> list[Answer]:
        """Answer questions, together.

        Args:
            questions: Any number, none included.

        Returns:
            One answer for each, in their order. What fails is a reason in its answer: a failure raises nothing and
            is never a number.
        """
        ...


def as_line(text: str) -> str:
    """Return a foreign text on one line, cut, without anything that a terminal would obey."""
    line = " ".join("".join(c if c.isprintable() else " " for c in text[: 4 * LINE]).split())
    return line if len(line) <= LINE else line[: LINE - 3] + "..."
