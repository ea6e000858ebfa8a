"""What rewards by a judge share: which frames a row shows, and that a missing answer is never a number."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

from vlmreward.errors import ConfigError, FramesError
from vlmreward.rewards.judges.questions import Answer, Picture, VisionLanguageModel, as_line
from vlmreward.rewards.prompted import Prompts, check_prompts
from vlmreward.rewards.settings import check_choice
from vlmreward.types import Context, FrameBatch, Frames, RewardBatch

View = Literal["frame", "prefix"]
"""What a row is judged by: its own frame, or evenly spaced frames of its episode so far."""

Estimate = Literal["text", "expected"]
"""How an answer becomes a number: what the model wrote, or its expectation over all possible answers."""

Rows = npt.NDArray[np.int64]

_NUMBER = re.compile(r"\s*(?:<\w+>)?\s*([-+]?\d{1,9}(?:\.\d{1,9})?)\s*%?\s*(?:</\w+>)?\s*\.?\s*")


class JudgedReward:
    """A reward that a vision-language model gives.

    It looks at ``frames``. The prompts given to the constructor decide: ``FrameBatch.instruction`` is not read.

    Args:
        judge: Who is asked.
        goal: What is to be done; several wordings are one question, with a slash between.

    Attributes:
        judge: As given.
        goal: The goal prompts.
        task: They as one text.
        context: What one row's reward depends on.
        causal: Whether no reward depends on a later frame.
        needs: The batch fields the model reads.
        range: Smallest and largest possible reward, before scaling.
    """

    context: Context = "frame"
    causal: bool = True
    needs: tuple[str, ...] = ("frames",)
    range: tuple[float, float] = (0.0, 1.0)

    def __init__(self, judge: VisionLanguageModel, goal: Prompts) -> None:
        self.judge = judge
        self.goal = check_prompts(goal, "goal")
        self.task = " / ".join(self.goal)


def frames_of(batch: FrameBatch) -> Frames:
    """Return the frames of a batch.

    Raises:
        FramesError: It has none, or not one for each row.
    """
    if batch.frames is None or len(batch.frames) != len(batch):
        got = "none" if batch.frames is None else str(len(batch.frames))
        raise FramesError(f"a judge looks at frames, one for each of the {len(batch)} rows, got {got}: give `frames`")
    return batch.frames


def check_view(view: View, pictures: int) -> Context:
    """Check what a row is judged by, and return the context that this needs.

    Raises:
        ConfigError: It is no view, or ``pictures`` is not a whole number >= 2.
    """
    check_choice("view", view, get_args(View))
    check_count("pictures", pictures, 2)
    return "frame" if view == "frame" else "prefix"


def check_count(name: str, value: object, least: int) -> None:
    """Check that a setting is a whole number.

    Raises:
        ConfigError: It is not, or below ``least``.
    """
    if type(value) is not int or value < least:
        raise ConfigError(f"{name} must be a whole number >= {least}, got {value!r}")


def episodes_of(batch: FrameBatch) -> list[Rows]:
    """Return the rows of each episode, in time order."""
    order = np.lexsort((batch.step, batch.episode))
    borders = np.flatnonzero(np.diff(batch.episode[order])) + 1
    return [rows.astype(np.int64) for rows in np.split(order, borders) if len(rows)]


def evenly(rows: Rows, count: int) -> Rows:
    """Return at most ``count`` evenly spaced ones of some rows, the first and the last among them."""
    if len(rows) <= count:
        return rows
    return rows[np.rint(np.linspace(0, len(rows) - 1, count)).astype(np.int64)]


def shown(batch: FrameBatch, view: View, count: int) -> list[list[Picture]]:
    """Return the pictures by which each row is judged, in time order, its own frame last."""
    frames = frames_of(batch)
    if view == "frame":
        return [[frame] for frame in frames]
    pictures: list[list[Picture]] = [[] for _ in range(len(batch))]
    for rows in episodes_of(batch):
        for place, row in enumerate(rows.tolist()):
            pictures[row] = [frames[other] for other in evenly(rows[: place + 1], count).tolist()]
    return pictures


def only_number(text: str) -> float | None:
    """Return the number that a text is, with or without ``%`` and tags around it, or None."""
    found = _NUMBER.fullmatch(text)
    return float(found[1]) if found else None


def no_answer(answer: Answer) -> str:
    """Return the reason of a row whose question has no answer."""
    return f"the judge gave no answer: {answer.reason}"


def not_understood(text: str | None, wanted: str) -> str:
    """Return the reason of a row whose answer is not what was asked for, with the answer."""
    return f"the reply is not {wanted}: {as_line(text or '')}"


def batch_of(values: Sequence[float], reasons: dict[int, str], **more: npt.NDArray[np.float32]) -> RewardBatch:
    """Return rewards; a row with a reason is invalid and not a number.

    Args:
        values: Reward of each row, anything where there is a reason.
        reasons: Row number to reason.
        **more: Further fields: ``success``; and parts by their name.
    """
    reward = np.array(values, np.float32)
    reward[list(reasons)] = np.nan
    assert np.isfinite(np.delete(reward, list(reasons))).all(), "a reward without a reason is a number"
    success = more.pop("success", None)
    return RewardBatch(reward, ~np.isnan(reward), success, more, reasons)
