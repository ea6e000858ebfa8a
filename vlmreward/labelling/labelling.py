"""One labelling run: from a dataset's pictures to labels of every frame, resumable, each picture encoded once ever."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Protocol

import numpy as np

from vlmreward.data.dataset import Undecodable
from vlmreward.encoders.embedding_store import EmbeddingStore
from vlmreward.encoders.frame_hash import Keys, distinct
from vlmreward.labelling.plan import Plan, Shard, Span
from vlmreward.labelling.scoring import LabelScorer, Piece
from vlmreward.labelling.shard_frames import NO_KEY, Decode, ShardFrames
from vlmreward.labelling.work_folder import FrameRecord, LabelRecord, WorkFolder
from vlmreward.types import BoolArray, FloatArray, Frames

Advance = Callable[[int], None]
"""Told how many more frames are done."""


class Engine(Protocol):
    """Decodes and encodes shards, wherever."""

    def run(self, shards: Sequence[Shard], advance: Advance) -> Iterator[ShardFrames]:
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

    def add(self, labels: LabelRecord) -> None:
        """Count the frames of a shard."""
        self.frames += len(labels.valid)
        for row in np.flatnonzero(~labels.valid).tolist():
            self.invalid += 1
            self.reasons[labels.reasons[row]] = self.reasons.get(labels.reasons[row], 0) + 1


class Labeller:
    """Labels shards that are not labelled yet.

    The embeddings used are those of the store: a frame that occurs twice has one, the first that was met, in this run
    and in any later one. A shard counts as done when its labels are written; its embeddings and keys are written
    before.

    Args:
        plan: The shards.
        folder: Their journal.
        store: Embeddings of the encoder.
        engine: Decodes and encodes.
        decode: For models that look at pictures, which are not kept and so decoded again; None: there are none.
    """

    def __init__(
        self, plan: Plan, folder: WorkFolder, store: EmbeddingStore, engine: Engine, decode: Decode | None = None
    ) -> None:
        self._plan, self._folder, self._store, self._engine, self._decode = plan, folder, store, engine, decode
        self._recent = -1, FrameRecord(np.empty((0, 2), np.uint64), {})

    def encode(self, shards: Sequence[int], advance: Advance, counts: Counts) -> None:
        """Make the frames of some shards known, without labelling them.

        Args:
            shards: Their numbers, ascending.
            advance: Told of frames.
            counts: ``decoded`` is added to.

        Raises:
            VlmRewardError: What readers, encoder and disk raise.
        """
        for _ in self._encode(shards, advance, counts):
            pass

    def run(self, scorer: LabelScorer, advance: Advance, counts: Counts) -> None:
        """Label every shard that is not labelled yet.

        Args:
            scorer: Makes labels of embeddings.
            advance: Told of frames.
            counts: Added to.

        Raises:
            VlmRewardError: What readers, encoder and disk raise.
        """
        missing = []
        for shard in self._plan.shards:
            labels = self._folder.read_labels(shard.number)
            if labels is None:
                missing.append(shard.number)
            else:
                counts.add(labels)
                advance(len(shard))
        if scorer.model.context == "episode":  # which may end in a later shard
            self.encode(missing, advance, counts)
            advance = _nobody
        for number, record in self._encode(missing, advance, counts):
            labels = self._score(self._plan.shards[number], record, scorer)
            self._folder.write_labels(number, labels)
            counts.add(labels)

    def score_episode(self, index: int, scorer: LabelScorer) -> LabelRecord:
        """Score the frames of an episode whose shards are known, for any goal; writes nothing.

        Args:
            index: Of the episode.
            scorer: Its goals decide.
        """
        embeddings = self.embeddings(index, 0, self._plan.frames[index])
        lost = np.flatnonzero(~np.isfinite(embeddings).all(axis=1)).tolist()
        frames = self._pictures(index, 0, len(embeddings)) if scorer.looks else None
        piece = Piece(Span(index, 0, len(embeddings)), 0, embeddings, embeddings[0], frames)
        return scorer.score([piece], dict.fromkeys(lost, "no embedding"))

    def embeddings(self, episode: int, start: int, stop: int) -> FloatArray:
        """Return embeddings of frames of an episode whose shards are known, float32, shape (N, D); NaN where lost."""
        parts = []
        for number, rows, frames in self._plan.where(episode):
            low, high = max(start, frames.start), min(stop, frames.stop)
            if low < high:
                shift = rows.start - frames.start
                parts.append(self._read(self._record(number).keys[low + shift : high + shift]))
        return np.concatenate(parts)

    def _encode(self, shards: Sequence[int], advance: Advance, counts: Counts) -> Iterator[tuple[int, FrameRecord]]:
        """Yield the frames of each shard, in order; those that are known need no picture."""
        known = {number for number in shards if self._is_known(number)}
        encoded = self._engine.run([self._plan.shards[n] for n in shards if n not in known], advance)
        for number in shards:
            if number in known:
                record = self._record(number)
                advance(len(record.keys))
            else:
                record = self._keep(next(encoded))
                counts.decoded += len(record.keys)
            yield number, record

    def _is_known(self, shard: int) -> bool:
        record = self._folder.read_frames(shard)
        return record is not None and bool((self._store.find(record.keys[has_key(record.keys)]) >= 0).all())

    def _keep(self, frames: ShardFrames) -> FrameRecord:
        """Store a shard's new embeddings, then its keys."""
        there = np.flatnonzero(has_key(frames.keys))
        first = there[distinct(frames.keys[there])[0]] if len(there) else there
        new = first[self._store.find(frames.keys[first]) < 0]
        if len(new):
            self._store.add(frames.keys[new], frames.embeddings[new])
        lost = there[self._store.find(frames.keys[there]) < 0]
        # the store takes no embedding that isn't a finite unit vector
        reasons = {**frames.reasons, **dict.fromkeys(lost.tolist(), "the encoder gave no finite unit vector")}
        frames.keys[lost] = NO_KEY
        record = FrameRecord(frames.keys, reasons)
        self._folder.write_frames(frames.number, record)
        return record

    def _score(self, shard: Shard, record: FrameRecord, scorer: LabelScorer) -> LabelRecord:
        pieces = []
        for span in shard.spans:
            begin, end = scorer.sees(span, self._plan.frames[span.episode])
            seen = self.embeddings(span.episode, begin, end)
            first = seen[0] if begin == 0 else self.embeddings(span.episode, 0, 1)[0]
            frames = self._pictures(span.episode, begin, end) if scorer.looks else None
            pieces.append(Piece(span, begin, seen, first, frames))
        return scorer.score(pieces, record.reasons)

    def _pictures(self, episode: int, start: int, stop: int) -> Frames:
        """Decode frames of an episode, uint8, shape (N, H, W, 3); black where one can't be."""
        assert self._decode is not None, "a model that looks at pictures needs a way to decode them"
        read = list(islice(self._decode(episode, start), stop - start))
        shape = next((picture.shape for picture in read if not isinstance(picture, Undecodable)), (1, 1, 3))
        frames = np.zeros((len(read), *shape), np.uint8)
        for row, picture in enumerate(read):
            if not isinstance(picture, Undecodable):
                frames[row] = picture
        return frames

    def _record(self, shard: int) -> FrameRecord:
        if shard != self._recent[0]:  # most spans of a shard are scored one after the other
            record = self._folder.read_frames(shard)
            assert record is not None, "frames are read before they are known"
            self._recent = shard, record
        return self._recent[1]

    def _read(self, keys: Keys) -> FloatArray:
        out = np.full((len(keys), self._store.meta.dim), np.nan, np.float32)
        there = np.flatnonzero(has_key(keys))
        out[there] = self._store.read(self._store.find(keys[there]))
        return out


def _nobody(count: int) -> None:
    """Hear that frames are done."""


def has_key(keys: Keys) -> BoolArray:
    """Return which rows have a frame, bool, shape (N,)."""
    return (keys != NO_KEY).any(axis=1)
