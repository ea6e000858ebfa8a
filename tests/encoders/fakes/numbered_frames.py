"""Frames for an embedding store; all about a frame follows from its number, in any process."""

from __future__ import annotations

import itertools
import os
import signal

import numpy as np

from vlmreward.encoders.embedding_store import EmbeddingStore
from vlmreward.encoders.frame_hash import hash_frames
from vlmreward.encoders.store_folder import StoreMeta

DIM = 48
META = StoreMeta("numbered/1", "fp32", DIM, "float16")


def frames_of(numbers):
    """Return pictures that differ, uint8, shape (N, 2, 4, 3)."""
    frames = np.zeros((len(numbers), 2, 4, 3), np.uint8)
    frames.reshape(-1, 24)[:, :8] = np.asarray(numbers, np.int64)[:, None].view(np.uint8)
    return frames


def keys_of(numbers):
    return hash_frames(frames_of(numbers))


def rows_of(numbers, writer=0):
    """Return unit vectors, float32, shape (N, DIM), another one for each number and writer."""
    waves = np.random.default_rng(writer).uniform(1, 2, (2, DIM))
    rows = np.sin(np.asarray(numbers)[:, None] * waves[0] + waves[1])
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def stored(rows):
    """Return what float16 makes of unit vectors, worked out in float64."""
    rounded = rows.astype(np.float16).astype(np.float64)
    return rounded / np.linalg.norm(rounded, axis=1, keepdims=True)


def fill(store, numbers, writer=0):
    numbers = np.asarray(numbers)
    store.add(keys_of(numbers), rows_of(numbers, writer))


def known(store, numbers):
    """Return those of the frames that a store knows."""
    return np.asarray(numbers)[store.find(keys_of(numbers)) >= 0]


def check(store, numbers, writer=0):
    """Check that a store knows frames, and every row of them."""
    places = store.find(keys_of(numbers))
    assert (places >= 0).all()
    rows = store.read(places)
    assert rows.dtype == np.float32
    np.testing.assert_allclose(rows, stored(rows_of(numbers, writer)), atol=2e-7, rtol=0)


def files(store, suffix):
    return sorted(store.path.glob(f"*.{suffix}"))


def die_in_write(call, share):
    """Kill this process when that share of a write's bytes is written."""
    calls, write = itertools.count(), os.pwrite

    def pwrite(descriptor, content, offset):
        if next(calls) == call:
            write(descriptor, content[: int(share * len(content))], offset)
            os.kill(os.getpid(), signal.SIGKILL)
        return write(descriptor, content, offset)

    os.pwrite = pwrite


def add_numbers(cache, first, end, batch, writer=0, die=None, report=None):
    """Add the frames of a range to a store, a batch at a time.

    Args:
        cache: The folder of all stores.
        first: First number.
        end: Behind the last number.
        batch: Frames at a time.
        writer: Whose embeddings they get.
        die: Arguments of ``die_in_write``.
        report: Descriptor to which the end of each batch is written when it was added, a line each.
    """
    store = EmbeddingStore(cache, META)
    if die:
        die_in_write(*die)
    for start in range(first, end, batch):
        numbers = np.arange(start, min(start + batch, end))
        store.add(keys_of(numbers), rows_of(numbers, writer))
        if report is not None:
            os.write(report, b"%d\n" % (numbers[-1] + 1))
