"""Frame gating: a frame that hardly differs from the last encoded one of its stream takes that one's embedding.

A stream is one environment's episode. A frame is compared with the last one of it that was *encoded*, not with the one
before: many small steps can't add up unseen. What is skipped is counted, and what that does to the reward is measured
on one of every :data:`SAMPLE` skipped frames, which is encoded all the same.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, fields, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from vlmreward.errors import ConfigError
from vlmreward.types import BoolArray, FloatArray, Frames, Keys

if TYPE_CHECKING:
    from vlmreward.wrappers.scoring import Gathered

BLOCK = 16
"""Side of the blocks that are compared, pixels."""

SAMPLE = 16
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
    """What a gate has decided: ``seen`` is ``encoded`` and ``skipped`` together, however jobs are cut.

    Attributes:
        seen: Frames that came.
        encoded: Those that were handed to the encoder.
        skipped: Those that took another frame's embedding.
        sampled: Skipped frames that were encoded all the same, to be scored both ways; not counted as ``encoded``.
        compared: Sampled frames that are valid both ways.
        validity_differs: Sampled frames that are valid one way and not the other.
        difference: Sum of the absolute differences of the compared ones' rewards.
        largest: The largest one.
    """

    seen: int = 0
    encoded: int = 0
    skipped: int = 0
    sampled: int = 0
    compared: int = 0
    validity_differs: int = 0
    difference: float = 0.0
    largest: float = 0.0

    def __add__(self, other: GateCounts) -> GateCounts:
        """Return the counts of two stretches of a run as one."""
        total = {field.name: getattr(self, field.name) + getattr(other, field.name) for field in fields(self)}
        return replace(GateCounts(**total), largest=max(self.largest, other.largest))

    def since(self, before: GateCounts) -> GateCounts:
        """Return what came after ``before``; the largest difference is that of both."""
        left = {field.name: getattr(self, field.name) - getattr(before, field.name) for field in fields(self)}
        return replace(GateCounts(**left), largest=self.largest)

    def report(self, threshold: float) -> dict[str, Any]:
        """Return what a result says, as JSON; the differences are null where no frame was compared."""
        counts = {name: value for name, value in asdict(self).items() if name not in ("difference", "largest")}
        moved = {"max": self.largest, "mean": self.difference / self.compared} if self.compared else None
        return {"threshold": threshold, **counts, "reward_difference": moved}


def describe_gate(report: dict[str, Any]) -> str:
    """Return a report of :meth:`GateCounts.report` as one line of text."""
    moved, sampled, differs = report["reward_difference"], report["sampled"], report["validity_differs"]
    words = f"by up to {moved['max']:.2g}, {moved['mean']:.2g} on average," if moved else "by an unknown amount"
    valid = f"; {differs:,} of {sampled:,} sampled frames are valid with one embedding and not with the other"
    return (
        f"frame gate {report['threshold']:g}: {report['seen']:,} frames seen, {report['encoded']:,} handed to the "
        f"encoder or its cache, {report['skipped']:,} skipped; rewards differ {words} in a sample of "
        f"{report['compared']:,}{valid if differs else ''}"
    )


_NOTHING = np.empty(0, np.float32)


@dataclass
class _Anchor:
    """The last encoded frame of a stream."""

    episode: int
    step: int  # of the newest frame that was compared with it
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

    One thing does: a frame whose embedding is not finite gives it to those of its job that hardly differ from it,
    which are as invalid as it is, and is then forgotten: the next job's first frame of that stream is encoded.

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
            encode: From frames and their keys to embeddings, float32, shape (N, D), and the time it took. After an
                error of it every stream begins anew.
        """
        unique, index = gathered.unique, gathered.index
        before: list[FloatArray] = []  # in the table, behind this job's pictures
        for known in self._anchors.values():
            known.place = len(unique) + len(before)
            before.append(known.embedding)
        place, anchors, sample = self._decide(rows, gathered)
        wanted = np.unique(index[np.concatenate([anchors, sample])])
        try:
            encoded, seconds = encode(unique[wanted], gathered.keys[wanted])
        except BaseException:
            self.forget()  # there are anchors without an embedding
            raise
        width = encoded.shape[1] if len(wanted) or not before else len(before[0])
        table = np.zeros((len(unique) + len(before) + 1, width), np.float32)  # the last row is for refused frames
        table[wanted] = encoded
        if before:
            table[len(unique) : -1] = before
        self._keep(table)
        seen = int((index >= 0).sum())
        self.counts += GateCounts(seen, len(anchors), seen - len(anchors), len(sample))
        return GatedEmbeddings(table[place], sample, table[index[sample]], len(wanted), seconds)

    def compare(self, given: FloatArray, own: FloatArray, valid: BoolArray, own_valid: BoolArray) -> None:
        """Take in how sampled frames are scored both ways.

        Args:
            given: Their rewards and those parts of them that are learned from, float32, shape (K, C).
            own: The same with the frames' own embeddings; of a frame the column counts in which they differ most.
            valid: Whether ``given`` is known, shape (K,).
            own_valid: The same of ``own``.
        """
        both = valid & own_valid
        apart = np.abs(own[both].astype(np.float64) - given[both]).max(axis=1)
        self.counts += GateCounts(
            compared=len(apart),
            validity_differs=int((valid != own_valid).sum()),
            difference=float(apart.sum()),
            largest=float(apart.max(initial=0.0)),
        )

    def _decide(
        self, rows: np.ndarray, gathered: Gathered
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Return each row's place in the job's table, (M,), -1 for none; rows to encode; and skipped rows to sample."""
        unique = gathered.unique
        place = np.full(len(rows), -1, np.int64)
        anchors, sample = list[int](), list[int]()
        columns = (column.tolist() for column in (gathered.index, rows["env"], rows["episode"], rows["step"]))
        for row, (picture, env, episode, step) in enumerate(zip(*columns, strict=True)):
            if picture < 0:
                continue
            anchor = self._anchors.get(env)
            if (
                anchor is None
                or anchor.episode != episode  # whatever the first frame after a reset looks like, it is encoded
                or step <= anchor.step  # an episode of that number was begun again
                or (picture != anchor.place and difference(unique[picture], anchor.frame) > self.threshold)
            ):
                anchor = self._anchors[env] = _Anchor(episode, step, unique[picture], picture, _NOTHING)
                anchors.append(row)
            elif self._is_sampled():
                sample.append(row)
            anchor.step = step
            place[row] = anchor.place
        return place, np.array(anchors, np.int64), np.array(sample, np.int64)

    def _keep(self, table: FloatArray) -> None:
        """Give the job's last anchors what they need in the next job; forget those whose embedding is not finite."""
        for env, anchor in list(self._anchors.items()):
            if anchor.embedding is not _NOTHING:
                continue
            if np.isfinite(table[anchor.place]).all():  # copies: views would keep the whole job alive
                anchor.frame, anchor.embedding = anchor.frame.copy(), table[anchor.place].copy()
            else:
                del self._anchors[env]

    def _is_sampled(self) -> bool:
        """Count a skipped frame, and choose one of every ``SAMPLE``, at a random place among them."""
        if self._gated % SAMPLE == 0:
            self._next = self._gated + int(self._rng.integers(SAMPLE))
        self._gated += 1
        return self._gated - 1 == self._next


def check_threshold(threshold: Any) -> None:
    """Check a threshold.

    Args:
        threshold: What the user gave.

    Raises:
        ConfigError: It is not a number of levels.
    """
    if not isinstance(threshold, (int, float)) or isinstance(threshold, bool) or not 0 <= threshold <= 255:
        raise ConfigError(f"frame_gate must be a number of levels from 0 to 255, or null, got {threshold!r}")
