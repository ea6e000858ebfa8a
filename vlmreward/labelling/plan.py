"""The fixed order of work: a dataset's frames in shards and batches that depend on nothing but the dataset.

A batch is a pure function of dataset and batch size and never crosses a shard, so a restart, another engine or another
number of threads encodes the same batches and gets the same bits.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate

import numpy as np

from vlmreward.data.dataset import Episode, EpisodeDataset

SHARD_FRAMES = 2048
"""Frames of a shard: what a crash costs at most for each thread that decodes, and a few megabytes of embeddings."""


@dataclass(frozen=True)
class Span:
    """Some frames of one episode: ``start`` to ``stop``, of the episode's own numbers."""

    episode: int
    start: int
    stop: int


@dataclass(frozen=True)
class Shard:
    """A part of the work that is done or not done.

    Attributes:
        number: Its place in the dataset, from 0.
        spans: Its frames, in order; in all at most ``SHARD_FRAMES``.
    """

    number: int
    spans: tuple[Span, ...]

    def __len__(self) -> int:
        """Return the number of frames."""
        return sum(span.stop - span.start for span in self.spans)


@dataclass(frozen=True)
class Plan:
    """All frames of a dataset, cut into shards.

    Attributes:
        shards: In the dataset's order; each but the last is full.
        frames: Number of frames of each episode.
    """

    shards: tuple[Shard, ...]
    frames: tuple[int, ...]

    @cached_property
    def starts(self) -> tuple[int, ...]:
        """Number of the first frame of each episode among all frames; behind them the number of frames."""
        return tuple(accumulate(self.frames, initial=0))

    @property
    def total(self) -> int:
        """Number of frames."""
        return self.starts[-1]

    @property
    def lengths_key(self) -> str:
        """16 hexadecimal digits that change when the episodes' numbers of frames do."""
        return hashlib.blake2b(str(self.frames).encode(), digest_size=8).hexdigest()

    def where(self, episode: int) -> Iterator[tuple[int, slice, slice]]:
        """Yield where an episode's frames are: a shard, the rows in it, and the episode's frames those are."""
        first, last = self.starts[episode : episode + 2]
        for number in range(first // SHARD_FRAMES, -(-last // SHARD_FRAMES)):
            low, high = max(first, number * SHARD_FRAMES), min(last, (number + 1) * SHARD_FRAMES)
            base = number * SHARD_FRAMES
            yield number, slice(low - base, high - base), slice(low - first, high - first)

    def sample(self, frames: int, episodes: int, seed: int) -> list[int]:
        """Return shards whose whole episodes say what the rest will be like.

        Episodes are drawn, each with the shards that it lies in, until there is enough; short episodes that lie in
        these shards as well count, too.

        Args:
            frames: Enough frames.
            episodes: Enough whole episodes.
            seed: Of the draw.

        Returns:
            Their numbers, ascending.
        """
        chosen: set[int] = set()
        inside = np.zeros(len(self.frames), np.int64)
        taken = whole = 0
        for drawn in np.random.default_rng(seed).permutation(len(self.frames)).tolist():
            for number in {number for number, _, _ in self.where(drawn)} - chosen:
                chosen.add(number)
                taken += len(self.shards[number])
                for span in self.shards[number].spans:
                    inside[span.episode] += span.stop - span.start
                    whole += bool(inside[span.episode] == self.frames[span.episode])
            if taken >= frames and whole >= episodes:
                break
        return sorted(chosen)

    def whole_episodes(self, shards: Sequence[int]) -> list[int]:
        """Return the episodes all of whose frames are in some shards."""
        inside = np.zeros(len(self.frames), np.int64)
        for number in shards:
            for span in self.shards[number].spans:
                inside[span.episode] += span.stop - span.start
        return np.flatnonzero(inside == np.array(self.frames)).tolist()


def make_plan(episodes: Sequence[Episode]) -> Plan:
    """Cut a dataset's frames into shards.

    Args:
        episodes: In the dataset's order.
    """
    shards: list[Shard] = []
    spans: list[Span] = []
    room = SHARD_FRAMES
    for episode in episodes:
        start = 0
        while start < episode.frames:
            stop = min(episode.frames, start + room)
            spans.append(Span(episode.index, start, stop))
            room -= stop - start
            start = stop
            if room == 0:
                shards.append(Shard(len(shards), tuple(spans)))
                spans, room = [], SHARD_FRAMES
    if spans:
        shards.append(Shard(len(shards), tuple(spans)))
    return Plan(tuple(shards), tuple(episode.frames for episode in episodes))


def layout_key(dataset: EpisodeDataset, camera: str) -> str:
    """Return 16 hexadecimal digits that change when a camera's pictures or their places in the plan change."""
    text = f"{dataset.fingerprint(camera)} {SHARD_FRAMES} {[e.frames for e in dataset.episodes]}"
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()
