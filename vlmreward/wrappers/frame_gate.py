"""Frame gating: a frame that hardly differs from the last encoded one of its stream takes that one's embedding.

A stream is one environment's episode. A frame is compared with the last one of it that was *encoded*, not with the one
before: many small steps can't add up unseen. What is skipped is counted, and what that does to the reward is measured
on one of every :data:`SAMPLE` skipped frames, which is encoded all the same.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from vlmreward.errors import ConfigError
from vlmreward.types import FloatArray, Frames, Keys

if TYPE_CHECKING:
    from vlmreward.wrappers.scoring import Gathered

BLOCK = 16
"""Side of the blocks that are compared, pixels; about a patch of the encoder."""

SAMPLE = 64
"""Of so many skipped frames one is encoded to measure what skipping does."""


def difference(one: Frames, other: Frames) -> float:
    """Return how far two pictures are apart: the mean absolute difference within the block where it is largest.

    The mean over the whole picture would hide a small thing that moves: a pole a few pixels wide, a hand.

    Args:
        one: uint8, shape (H, W, 3).
        other: Of the same shape.

    Returns:
        Levels, 0 to 255.
    """
    apart = np.maximum(one, other) - np.minimum(one, other)
    height, width, colours = apart.shape
    tops, lefts = np.arange(0, height, BLOCK), np.arange(0, width, BLOCK)
    bands = np.add.reduceat(apart.reshape(height, -1), tops, axis=0, dtype=np.uint32)
    sums = np.add.reduceat(bands, colours * lefts, axis=1)
    areas = np.outer(np.minimum(BLOCK, height - tops), np.minimum(BLOCK, width - lefts)) * colours
    return float((sums / areas).max())


@dataclass(frozen=True)
class GateCounts:
    """What a gate has done: ``seen`` is ``encoded`` and ``skipped`` together.

    Attributes:
        seen: Frames that came.
        encoded: Those that were handed to the encoder, equal ones of a batch once.
        skipped: Those that took another frame's embedding.
        sampled: Skipped frames whose rewards were compared; encoded for this alone, they are not counted above.
        difference: Sum of the absolute differences of those rewards.
        largest: The largest one.
    """

    seen: int = 0
    encoded: int = 0
    skipped: int = 0
    sampled: int = 0
    difference: float = 0.0
    largest: float = 0.0

    def __add__(self, other: GateCounts) -> GateCounts:
        """Return the counts of two stretches of a run as one."""
        return GateCounts(
            self.seen + other.seen,
            self.encoded + other.encoded,
            self.skipped + other.skipped,
            self.sampled + other.sampled,
            self.difference + other.difference,
            max(self.largest, other.largest),
        )

    def since(self, before: GateCounts) -> GateCounts:
        """Return what came after ``before``; the largest difference is that of both."""
        return GateCounts(
            self.seen - before.seen,
            self.encoded - before.encoded,
            self.skipped - before.skipped,
            self.sampled - before.sampled,
            self.difference - before.difference,
            self.largest,
        )

    def report(self, threshold: float) -> dict[str, Any]:
        """Return what a result says, as JSON; the differences are null where no frame was sampled."""
        counts = {name: value for name, value in asdict(self).items() if name not in ("difference", "largest")}
        moved = {"max": self.largest, "mean": self.difference / self.sampled} if self.sampled else None
        return {"threshold": threshold, **counts, "reward_difference": moved}


def describe_gate(report: dict[str, Any]) -> str:
    """Return a report of :meth:`GateCounts.report` as one line of text."""
    moved, n = report["reward_difference"], report["sampled"]
    words = f"{moved['max']:.2g} at most, {moved['mean']:.2g} on average" if moved else "an unknown amount"
    return (
        f"frame gate {report['threshold']:g}: {report['seen']:,} frames seen, {report['encoded']:,} encoded, "
        f"{report['skipped']:,} skipped; rewards differ by {words} ({n:,} of the skipped ones compared)"
    )


_NOTHING = np.empty(0, np.float32)


@dataclass
class _Anchor:
    """The last encoded frame of a stream."""

    episode: int
    frame: Frames
    place: int  # of its embedding, in the table of the present job
    embedding: FloatArray  # empty until the job is done


@dataclass(frozen=True)
class GatedEmbeddings:
    """Embeddings of a job's M rows.

    Attributes:
        embeddings: float32, shape (M, D).
        sample: Skipped rows whose rewards are to be compared, shape (K,).
        own: What their own pictures embed to, float32, shape (K, D).
        pictures: Frames that were handed to the encoder.
        seconds: Time in the encoder.
    """

    embeddings: FloatArray
    sample: npt.NDArray[np.int64]
    own: FloatArray
    pictures: int
    seconds: float


class FrameGate:
    """Decides which frames are encoded. What it decides does not depend on where one job ends and the next begins.

    A frame whose embedding is not finite gives it to those that hardly differ from it: they are as invalid as it is.

    Args:
        threshold: Largest :func:`difference` at which a frame is skipped, levels; 0 skips equal frames only.

    Attributes:
        threshold: As given.
        counts: What was done so far.

    Raises:
        ConfigError: The threshold is not in [0, 255].
    """

    def __init__(self, threshold: float) -> None:
        check_threshold(threshold)
        self.threshold = threshold
        self.counts = GateCounts()
        self._anchors: dict[int, _Anchor] = {}
        self._rng = np.random.default_rng(0)
        self._gated = self._next = 0

    def forget(self) -> None:
        """Begin with other streams."""
        self._anchors.clear()

    def report(self) -> dict[str, Any]:
        """Return what a result says, as JSON."""
        return self.counts.report(self.threshold)

    def embed(
        self, rows: np.ndarray, gathered: Gathered, encode: Callable[[Frames, Keys], tuple[FloatArray, float]]
    ) -> GatedEmbeddings:
        """Embed the frames of a job.

        Args:
            rows: ``ROW_DTYPE``, shape (M,), in the order in which the frames were captured.
            gathered: Their pictures; a frame that the guard refused is none of those that are seen.
            encode: From frames and their keys to embeddings, float32, shape (N, D), and the time it took.
        """
        unique, index = gathered.unique, gathered.index
        before: list[FloatArray] = []  # in the table, behind this job's pictures
        for known in self._anchors.values():
            known.place = len(unique) + len(before)
            before.append(known.embedding)
        place = np.full(len(rows), -1, np.int64)
        kept: set[int] = set()
        sample: list[int] = []
        columns = zip(index.tolist(), rows["env"].tolist(), rows["episode"].tolist(), strict=True)
        for row, (picture, env, episode) in enumerate(columns):
            if picture < 0:
                continue
            anchor = self._anchors.get(env)
            if (
                anchor is None
                or anchor.episode != episode  # whatever the first frame after a reset looks like, it is encoded
                or difference(unique[picture], anchor.frame) > self.threshold
            ):
                anchor = self._anchors[env] = _Anchor(episode, unique[picture], picture, _NOTHING)
                kept.add(picture)
            elif self._is_sampled():
                sample.append(row)
            place[row] = anchor.place
        chosen = np.array(sample, np.int64)
        wanted = np.array(sorted(kept.union(index[chosen].tolist())), np.int64)
        encoded, seconds = encode(unique[wanted], gathered.keys[wanted])
        width = encoded.shape[1] if len(wanted) or not before else len(before[0])
        table = np.zeros((len(unique) + len(before) + 1, width), np.float32)  # the last row is for refused frames
        table[wanted] = encoded
        if before:
            table[len(unique) : -1] = before
        for known in self._anchors.values():
            if known.embedding is _NOTHING:  # copies: views would keep the whole job alive
                known.frame, known.embedding = known.frame.copy(), table[known.place].copy()
        seen = int((index >= 0).sum())
        self.counts += GateCounts(seen, len(kept), seen - len(kept))
        return GatedEmbeddings(table[place], chosen, table[index[chosen]], len(wanted), seconds)

    def compare(self, reward: FloatArray, own: FloatArray) -> None:
        """Take in rewards of sampled frames, shape (K,): as they were given, and with the frames' own embeddings."""
        apart = np.abs(own.astype(np.float64) - reward)
        self.counts += GateCounts(
            sampled=len(apart), difference=float(apart.sum()), largest=float(apart.max(initial=0.0))
        )

    def _is_sampled(self) -> bool:
        """Count a skipped frame, and choose one of every ``SAMPLE``, at a random place among them."""
        if self._gated % SAMPLE == 0:
            self._next = self._gated + int(self._rng.integers(SAMPLE))
        self._gated += 1
        return self._gated - 1 == self._next


def check_threshold(threshold: Any, name: str = "frame_gate") -> None:
    """Check a threshold.

    Args:
        threshold: What the user gave.
        name: The setting's key, for the message.

    Raises:
        ConfigError: It is not a number of levels.
    """
    if not isinstance(threshold, (int, float)) or isinstance(threshold, bool) or not 0 <= threshold <= 255:
        raise ConfigError(f"{name} must be a number of levels from 0 to 255, or null, got {threshold!r}")
