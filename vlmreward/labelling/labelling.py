"""One labelling run: from a dataset's pictures to labels of every row, resumable, each picture encoded once ever."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from vlmreward.encoders.embedding_store import EmbeddingStore
from vlmreward.encoders.frame_hash import Keys, distinct
from vlmreward.labelling.plan import Plan, Shard
from vlmreward.labelling.scoring import LabelScorer
from vlmreward.labelling.shard_frames import NO_KEY, ShardFrames
from vlmreward.labelling.work_folder import FrameRecord, WorkFolder
from vlmreward.types import BoolArray, FloatArray


class Engine(Protocol):
    """Decodes and encodes shards, wherever."""

    def run(self, shards: Sequence[Shard], advance: Callable[[int], None]) -> Iterator[ShardFrames]:
        """Yield every shard, in order."""
        ...


@dataclass
class Counts:
    """What a run has done.

    Attributes:
        frames: Of the shards that were asked for.
        decoded: Frames that were decoded; the others' contents were known from an earlier run.
        invalid: Frames without a label.
        reasons: Why, and how many.
    """

    frames: int = 0
    decoded: int = 0
    invalid: int = 0
    reasons: dict[str, int] = field(default_factory=dict)

    def add(self, count: int, why: Sequence[str]) -> None:
        """Count the frames of a shard, and the reasons of the invalid ones among them."""
        self.frames += count
        self.invalid += len(why)
        for reason in why:
            self.reasons[reason] = self.reasons.get(reason, 0) + 1


def known_frames(store: EmbeddingStore, keys: Keys) -> BoolArray:
    """Return which frames have an embedding in a store, bool, shape (N,)."""
    return store.find(keys) >= 0


class Labeller:
    """Labels shards that are not labelled yet.

    The embeddings used are those of the store: a frame that occurs twice has one, the first in the dataset's order, in
    this run and in any later one. A shard counts as done when its labels are written; its embeddings and keys are
    written before.

    Args:
        plan: The shards.
        folder: Their journal.
        store: Embeddings of the encoder.
        engine: Decodes and encodes.
        scorer: Makes labels of embeddings.
    """

    def __init__(
        self, plan: Plan, folder: WorkFolder, store: EmbeddingStore, engine: Engine, scorer: LabelScorer
    ) -> None:
        self._plan, self._folder, self._store, self._engine, self._scorer = plan, folder, store, engine, scorer

    def run(self, shards: Sequence[int], advance: Callable[[int], None], counts: Counts) -> None:
        """Label shards.

        Args:
            shards: Their numbers, ascending.
            advance: Told how many frames are done.
            counts: Added to.

        Raises:
            VlmRewardError: What readers, encoder and disk raise.
        """
        missing = []
        for number in shards:
            labels = self._folder.read_labels(number)
            if labels is None:
                missing.append(number)
            else:
                counts.add(len(labels.valid), _why(labels.valid, labels.reasons))
                advance(len(labels.valid))
        # frames that are known need no picture
        known = {number for number in missing if self._is_known(number)}
        encode = [self._plan.shards[number] for number in missing if number not in known]
        encoded = self._engine.run(encode, advance)
        for number in missing:
            if number in known:
                record = self._folder.read_frames(number)
                assert record is not None
                advance(len(record.keys))
            else:
                record = self._keep(next(encoded))
                counts.decoded += len(record.keys)
            self._label(self._plan.shards[number], record, counts)

    def embeddings(self, shard: int) -> FloatArray:
        """Return the stored embeddings of a shard whose frames are known, float32, shape (N, D); NaN without a frame."""
        record = self._folder.read_frames(shard)
        assert record is not None, "embeddings are read before they are made"
        return self._embeddings(record)

    def _is_known(self, shard: int) -> bool:
        record = self._folder.read_frames(shard)
        if record is None:
            return False
        return bool(known_frames(self._store, record.keys[_has_key(record.keys)]).all())

    def _keep(self, frames: ShardFrames) -> FrameRecord:
        """Store a shard's new embeddings, then its keys."""
        there = np.flatnonzero(_has_key(frames.keys))
        first = there[distinct(frames.keys[there])[0]] if len(there) else there
        new = first[~known_frames(self._store, frames.keys[first])]
        if len(new):
            self._store.add(frames.keys[new], frames.embeddings[new])
        reasons = dict(frames.reasons)
        lost = there[~known_frames(self._store, frames.keys[there])]
        for row in lost.tolist():  # the store takes no embedding that isn't a unit vector
            reasons[row] = "the encoder's embedding is not a finite unit vector"
        frames.keys[lost] = NO_KEY
        record = FrameRecord(frames.keys, reasons)
        self._folder.write_frames(frames.number, record)
        return record

    def _label(self, shard: Shard, record: FrameRecord, counts: Counts) -> None:
        embeddings = self._embeddings(record)
        head = shard.spans[0]
        initial: dict[int, FloatArray] = {}
        previous = None
        if head.start > 0:
            if "previous" in self._scorer.model.needs:
                previous = self._frame(head.episode, head.start - 1)
            if self._scorer.asks_initial:
                initial[head.episode] = self._frame(head.episode, 0)
        labels = self._scorer.score(shard, embeddings, initial, previous, record.reasons)
        self._folder.write_labels(shard.number, labels)
        counts.add(len(labels.valid), _why(labels.valid, labels.reasons))

    def _embeddings(self, record: FrameRecord) -> FloatArray:
        out = np.full((len(record.keys), self._store.meta.dim), np.nan, np.float32)
        there = np.flatnonzero(_has_key(record.keys))
        out[there] = self._store.read(self._store.find(record.keys[there]))
        return out

    def _frame(self, episode: int, frame: int) -> FloatArray:
        """Return the embedding of one frame of an earlier shard, NaN if it has none."""
        for number, rows, frames in self._plan.where(episode):
            if frames.start <= frame < frames.stop:
                row = rows.start + frame - frames.start
                record = self._folder.read_frames(number)
                if record is None:
                    raise AssertionError(f"shard {number} is read before it is done")
                return self._embeddings(FrameRecord(record.keys[row : row + 1]))[0]
        raise AssertionError(f"episode {episode} has no frame {frame}")


def _has_key(keys: Keys) -> BoolArray:
    return (keys != NO_KEY).any(axis=1)


def _why(valid: BoolArray, reasons: dict[int, str] | None) -> list[str]:
    given = reasons or {}
    return [given.get(row, "unknown") for row in np.flatnonzero(~valid).tolist()]
