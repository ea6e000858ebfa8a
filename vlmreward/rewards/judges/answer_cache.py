"""Answers on disk, one small file each: written whole or not at all, by any number of processes."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

from vlmreward.atomic import check_writable, write_bytes
from vlmreward.rewards.judges.questions import Answer, LogProb, Usage


class AnswerCache:
    """A folder of answers by the hash of their question.

    A file that can't be understood counts as missing and is written anew. Answers without what was asked for are not
    kept: what failed once may succeed.

    Args:
        folder: Made when first written to.

    Raises:
        StorageError: The folder can't be written.
    """

    def __init__(self, folder: str | Path) -> None:
        self._folder = Path(folder)
        check_writable(self._folder / "answer.json")

    def read(self, key: str) -> Answer | None:
        """Return a known answer, or None."""
        try:
            known = json.loads(self._path(key).read_bytes())
        except (FileNotFoundError, ValueError, RecursionError):
            return None
        match known:
            case {"key": str(own), "text": str() | None as text, "logprobs": list() | None as logprobs} if own == key:
                bounds = None if logprobs is None else [_read_bounds(pair) for pair in logprobs]
                if (bounds is None and text is None) or (bounds is not None and None in bounds):
                    return None
                whole = None if bounds is None else tuple(b for b in bounds if b is not None)
                return Answer(text, whole, usage=Usage(cached=1))
        return None

    def write(self, key: str, answer: Answer) -> None:
        """Keep an answer.

        Raises:
            StorageError: The disk is full, or the folder can't be written.
        """
        if answer.reason:
            return
        kept = {"key": key, "text": answer.text, "logprobs": answer.logprobs, "tokens": answer.usage.tokens}
        write_bytes(self._path(key), json.dumps(kept).encode("ascii"))

    def _path(self, key: str) -> Path:
        return self._folder / key[:2] / f"{key}.json"


def known(answer: Answer) -> Answer:
    """Return an answer as one that costs nothing, for a question that was asked twice."""
    return replace(answer, usage=Usage(cached=1))


def _read_bounds(pair: object) -> LogProb | None:
    match pair:
        case [float() | int() as low, float() | int() as high] if low <= high and not math.isnan(high):
            return LogProb(float(low), float(high))
    return None
