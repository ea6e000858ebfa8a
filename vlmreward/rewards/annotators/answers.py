"""What is asked about frames, and what can be answered."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

from vlmreward.types import FrameBatch

Choice = Literal["first", "second", "unsure", "invalid"]


@dataclass(frozen=True)
class Answer:
    """Which frame of a pair comes nearer to the goal.

    Attributes:
        choice: ``unsure`` if it could not be told, ``invalid`` if there is no answer; neither is ever trained on.
        reason: Why it is unsure or invalid, or what was said.
    """

    choice: Choice
    reason: str = ""

    def swapped(self) -> Answer:
        """Return the same answer about the pair the other way round."""
        other: dict[Choice, Choice] = {"first": "second", "second": "first"}
        return Answer(other.get(self.choice, self.choice), self.reason)


@dataclass(frozen=True)
class Rating:
    """How well a frame shows the goal.

    Attributes:
        value: In [0, 1]; None where there is no answer, which is never trained on.
        reason: Why there is none, or what was said.
    """

    value: float | None
    reason: str = ""


@runtime_checkable
class Comparer(Protocol):
    """Compares the frames of pairs.

    Attributes:
        calls: Questions that were put so far, in whatever its budget is counted in.
        calls_per_pair: The most that one pair takes.
        privileged: Whether it reads more than the frames and the instruction.
    """

    calls_per_pair: int
    privileged: bool

    @property
    def calls(self) -> int:
        """See above; a property here, so that one who asks another can count what that one does."""
        ...

    def compare(self, first: FrameBatch, second: FrameBatch) -> Sequence[Answer]:
        """Answer for each of N pairs which frame comes nearer to what ``instruction`` says.

        Args:
            first: N rows with ``frames`` and, where they are known, ``embeddings``.
            second: The same.
        """
        ...


@runtime_checkable
class Rater(Protocol):
    """Rates single frames.

    Attributes:
        calls: Questions that were put so far.
        calls_per_frame: The most that one frame takes.
        privileged: Whether it reads more than the frames and the instruction.
    """

    calls_per_frame: int
    privileged: bool

    @property
    def calls(self) -> int:
        """See above; a property here, so that one who asks another can count what that one does."""
        ...

    def rate(self, batch: FrameBatch) -> Sequence[Rating]:
        """Rate each of N frames for how well it shows what ``instruction`` says.

        Args:
            batch: N rows with ``frames`` and, where they are known, ``embeddings``.
        """
        ...


class BothOrders:
    """Asks about every pair in both orders, and is unsure where the answers disagree.

    A judge that favours a place, whatever stands there, says nothing this way instead of something wrong. RL-VLM-F asks
    one order alone.

    Args:
        of: Who is asked.
    """

    def __init__(self, of: Comparer) -> None:
        self.of = of
        self.calls_per_pair = 2 * of.calls_per_pair
        self.privileged = of.privileged

    @property
    def calls(self) -> int:
        """Questions that were put so far."""
        return self.of.calls

    def compare(self, first: FrameBatch, second: FrameBatch) -> list[Answer]:
        """Return an answer for each pair; invalid where either order has none."""
        there = self.of.compare(first, second)
        back = [answer.swapped() for answer in self.of.compare(second, first)]
        return [_agree(a, b) for a, b in zip(there, back, strict=True)]


def _agree(one: Answer, other: Answer) -> Answer:
    for answer in (one, other):
        if answer.choice == "invalid":
            return answer
    if one.choice == other.choice:
        return one
    return Answer("unsure", f"{one.choice} in one order, {other.choice} in the other")
