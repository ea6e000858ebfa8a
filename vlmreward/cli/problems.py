"""What is wrong with a dataset of recorded episodes, told before anything is done with it."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from typing import Any

from vlmreward.data.dataset import EpisodeDataset, Problem
from vlmreward.errors import DatasetError

MOST = 5
"""Problems that are told each by itself."""


def describe_problems(dataset: EpisodeDataset, problems: Sequence[Problem], path: str) -> Iterator[str]:
    """Yield problems as lines of text, at most a handful, and how many episodes are left out.

    Args:
        dataset: Whose they are.
        problems: What it tells.
        path: Of the dataset, as the user gave it.
    """
    for problem in problems[:MOST]:
        yield f"problem: {printable(problem.where)}: {printable(problem.what)}"
    if len(problems) > MOST:
        yield f"and {len(problems) - MOST} more: {_inspect(path)}"
    if left_out := count_left_out(problems):
        yield f"{left_out} of {len(dataset.episodes) + left_out} episodes can't be read and get no labels"


def refuse_left_out(dataset: EpisodeDataset, problems: Sequence[Problem], share: float, path: str) -> None:
    """Refuse to go on where too many episodes are left out.

    Args:
        dataset: Whose problems they are.
        problems: What it tells.
        share: How many may be, of all episodes.
        path: Of the dataset, as the user gave it.

    Raises:
        DatasetError: There are more.
    """
    left_out = count_left_out(problems)
    total = len(dataset.episodes) + left_out
    if left_out > share * total:
        raise DatasetError(
            f"{left_out} of {total} episodes can't be read (max_invalid={share:g}), and nothing was written: mend the "
            f"dataset or allow more; {_inspect(path)} tells what is wrong"
        )


def count_left_out(problems: Sequence[Problem]) -> int:
    """Return how many episodes are none of the dataset's because they can't be read."""
    return sum(problem.left_out for problem in problems)


def printable(value: Any) -> str:
    """Return text of others so that nothing in it moves the cursor or breaks the line."""
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in str(value))


def _inspect(path: str) -> str:
    return f"vlmreward inspect {shlex.quote(f'dataset={printable(path)}')}"
