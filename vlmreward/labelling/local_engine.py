"""Decode in threads, encode in the caller's; memory stays the same however long the dataset is."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from vlmreward.encoders.frame_hash import Keys
from vlmreward.labelling.plan import Shard
from vlmreward.labelling.shard_frames import Batch, Decode, ShardDecoder, ShardFrames, empty_shard, hash_batch
from vlmreward.types import BoolArray, Encoder

QUEUED_BATCHES = 4
"""Decoded batches that wait for the encoder, of all threads together."""


@dataclass(frozen=True)
class _Done:
    """Says that a shard's last batch has come."""

    shard: int
    reasons: dict[int, str]


class LocalEngine:
    """Decodes and encodes shards on this machine.

    Args:
        decode: Gives an episode's frames; called in several threads, also for one episode.
        encoder: Encodes a batch of frames.
        known: Tells by their keys which frames need no encoding, bool, shape (N,).
        batch_size: Largest number of frames of a batch.
        threads: That decode.
    """

    def __init__(
        self, decode: Decode, encoder: Encoder, known: Callable[[Keys], BoolArray], batch_size: int, threads: int
    ) -> None:
        self._decode, self._encoder, self._known = decode, encoder, known
        self._batch_size, self._threads = batch_size, threads

    def run(self, shards: Sequence[Shard], advance: Callable[[int], None]) -> Iterator[ShardFrames]:
        """Yield every shard, in order; a thread is never more than a few shards ahead of what was taken.

        Rows whose batch needed no encoding have NaN embeddings, and are known.

        Args:
            shards: What is to be done.
            advance: Told how many frames have come.

        Raises:
            BaseException: What a reader or the encoder raised.
        """
        ready: queue.Queue[Batch | _Done | BaseException] = queue.Queue(QUEUED_BATCHES)
        stop = threading.Event()
        ahead = threading.Semaphore(2 * self._threads)  # shards begun and not yet yielded
        turn = iter(shards)
        lock = threading.Lock()

        def put(item: Batch | _Done | BaseException) -> None:
            while not stop.is_set():
                try:
                    ready.put(item, timeout=0.1)
                    return
                except queue.Full:
                    continue

        def work() -> None:
            decoder = ShardDecoder(self._decode, self._batch_size)
            try:
                while not stop.is_set():
                    if not ahead.acquire(timeout=0.1):
                        continue
                    with lock:
                        shard = next(turn, None)
                    if shard is None:
                        return
                    reasons: dict[int, str] = {}
                    for batch in decoder.batches(shard, reasons):
                        put(batch)
                        if stop.is_set():
                            return
                    put(_Done(shard.number, reasons))
            except BaseException as e:  # handed on: the caller's thread raises it
                put(e)

        threads = [threading.Thread(target=work, name=f"decode-{i}", daemon=True) for i in range(self._threads)]
        for thread in threads:
            thread.start()
        sizes = {shard.number: shard for shard in shards}
        open_ones: dict[int, ShardFrames] = {}

        def opened(number: int) -> ShardFrames:
            if number not in open_ones:
                open_ones[number] = empty_shard(sizes[number], self._encoder.dim)
            return open_ones[number]

        finished: set[int] = set()
        order = iter(shards)
        expected = next(order, None)
        try:
            while expected is not None:
                item = ready.get()
                if isinstance(item, BaseException):
                    raise item
                if isinstance(item, Batch):
                    self._encode(item, opened(item.shard))
                    advance(len(item.rows))
                    continue
                opened(item.shard).reasons.update(item.reasons)
                advance(len(item.reasons))
                finished.add(item.shard)
                while expected is not None and expected.number in finished:
                    finished.remove(expected.number)
                    yield open_ones.pop(expected.number)
                    ahead.release()
                    expected = next(order, None)
        finally:
            stop.set()
            for thread in threads:
                thread.join()

    def _encode(self, batch: Batch, into: ShardFrames) -> None:
        keys = hash_batch(batch)
        into.keys[batch.rows] = keys
        if not self._known(keys).all():
            into.embeddings[batch.rows] = np.asarray(self._encoder.encode_images(batch.frames), np.float32)
