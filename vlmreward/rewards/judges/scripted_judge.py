"""A judge that knows the truth: for tests, and for studies of what errors and latency of a judge do."""

from __future__ import annotations

import math
import re
import time
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from vlmreward.encoders.frame_hash import hash_frames
from vlmreward.errors import ConfigError
from vlmreward.rewards.judges.questions import Answer, LogProb, Picture, Question, Usage
from vlmreward.rewards.settings import check_number
from vlmreward.types import Frames

Truth = Callable[[Picture], float | None]
"""True progress in [0, 1] of what a picture shows, or None where it isn't known."""

SUREST = 0.99
"""Highest probability that an answer is given."""

DIFFERENCES = "Image 1 shows {:.0%} of it and Image 2 {:.0%}: nearer to the goal is {}."
_NEARER = re.compile(r": nearer to the goal is (Image 1|Image 2|neither)\.")
_VERDICT = {"Image 1": "0", "Image 2": "1", "neither": "-1"}


class TruthTable:
    """True progress of pictures, as data; a truth of a scripted judge.

    Args:
        frames: uint8, shape (N, H, W, 3); None: none yet.
        progress: In [0, 1], shape (N,).
    """

    def __init__(self, frames: Frames | None = None, progress: npt.ArrayLike = ()) -> None:
        self._known: dict[bytes, float] = {}
        if frames is not None:
            self.add(frames, progress)

    @classmethod
    def load(cls, path: str | Path) -> TruthTable:
        """Read ``frames`` and ``progress`` from an npz file.

        Raises:
            ConfigError: It can't be read, or holds something else.
        """
        try:
            with np.load(path, allow_pickle=False) as file:
                return cls(file["frames"], file["progress"])
        except (OSError, ValueError, KeyError, zipfile.BadZipFile) as e:
            raise ConfigError(f"path must be an npz file with frames and progress, got {path} ({e})") from e

    def add(self, frames: Frames, progress: npt.ArrayLike) -> None:
        """Learn the true progress of frames.

        Raises:
            ValueError: There are not as many numbers in [0, 1] as frames.
        """
        values = np.asarray(progress, np.float64)
        if values.shape != (len(frames),) or not ((values >= 0) & (values <= 1)).all():
            raise ValueError(f"{len(frames)} frames need as many numbers in [0, 1], got {values.shape}")
        keys = hash_frames(frames)
        self._known.update((key.tobytes(), value) for key, value in zip(keys, values.tolist(), strict=True))

    def __call__(self, picture: Picture) -> float | None:
        """Return the progress of a picture, or None."""
        return self._known.get(hash_frames([picture])[0].tobytes())


class ScriptedJudge:
    """Answers from the truth, wrong on a share of questions, after a while.

    Whether it errs on a question, and how, depends on the seed and on the question's content alone: neither the order
    of questions nor their company changes an answer. An error is what would be the answer if everything were the other
    way round: no for yes, a loss for a gain, the percentages of the frames in another order. What it has said itself
    (``verdict``) it understands without errors.

    Args:
        path: npz file with ``frames`` and ``progress``; None: ``truth`` is given.
        truth: True progress of a picture, or None.
        error_rate: Share of wrong answers, in [0, 1].
        latency: Seconds that a call takes, however many questions it has.
        done_at: Progress from which on something is done.
        seed: Of the errors.

    Raises:
        ConfigError: A setting is out of range, or there is no truth.
    """

    licence = "MIT"
    privileged = True

    def __init__(
        self,
        path: str | Path | None = None,
        truth: Truth | None = None,
        error_rate: float = 0.0,
        latency: float = 0.0,
        done_at: float = 0.95,
        seed: int = 0,
    ) -> None:
        if (path is None) == (truth is None):
            raise ConfigError("a scripted judge needs the truth: give path=<npz with frames and progress>, or truth")
        self.truth: Truth = TruthTable.load(path) if path is not None else truth  # type: ignore[assignment]
        self.error_rate = check_number("error_rate", error_rate, 0, 1)
        self.latency = check_number("latency", latency, 0)
        self.done_at = check_number("done_at", done_at, 0, 1)
        self.seed = seed
        self.id = f"scripted {path} {error_rate} {done_at} {seed}"
        self.usage = Usage()

    def ask(self, questions: Sequence[Question]) -> list[Answer]:
        """Answer questions; one about a picture whose truth is not known gets a reason."""
        if questions:
            time.sleep(self.latency)
        answers = [self._answer(question) for question in questions]
        self.usage = sum((answer.usage for answer in answers), self.usage)
        return answers

    def _answer(self, question: Question) -> Answer:
        usage = Usage(calls=1)
        if question.form == "verdict":
            said = _NEARER.findall(str(question.parts[-1]))
            if not said:
                return Answer(reason="a scripted judge understands nothing but what it has said", usage=usage)
            return Answer(_VERDICT[said[-1]], usage=usage)
        values = [self.truth(picture) for picture in question.pictures[-question.about :]]
        known = [value for value in values if value is not None]
        if len(known) < len(values) or not known:
            return Answer(reason="a scripted judge doesn't know the truth of a picture", usage=usage)
        rng = np.random.default_rng([self.seed, int(question.digest(), 16)])
        wrong = bool(rng.random() < self.error_rate)
        if question.form == "yes_no":
            done = (known[-1] >= self.done_at) != wrong
            belief = 1 - known[-1] if wrong else known[-1]
            words = question.continuations or ("1", "0")
            sure = min(max(belief, 1 - SUREST), SUREST)
            told = tuple(LogProb(p, p) for p in (math.log(sure), math.log(1 - sure)))
            return Answer(words[0] if done else words[1], told if question.continuations else None, usage=usage)
        if question.continuations:
            return Answer(reason="a scripted judge has log-probabilities of yes and no alone", usage=usage)
        if question.form == "delta":
            change = round(100 * (known[-1] - known[-2]))
            return Answer(f"{-change if wrong else change:+d}", usage=usage)
        if question.form == "differences":
            one, two = (1 - known[-2], 1 - known[-1]) if wrong else known[-2:]
            nearer = "neither" if one == two else "Image 2" if two > one else "Image 1"
            return Answer(DIFFERENCES.format(one, two, nearer), usage=usage)
        if question.form == "percents":
            order = rng.permutation(len(known)) if wrong else np.arange(len(known))
            lines = [f"Frame {k + 1}: {round(100 * known[i])}%" for k, i in enumerate(order)]
            return Answer("\n".join(lines), usage=usage)
        if question.form == "rubric":
            value = 1 - known[-1] if wrong else known[-1]
            return Answer(str(1 + round(4 * value)), usage=usage)
        return Answer(reason=f"a scripted judge has no answer of the form {question.form}", usage=usage)
