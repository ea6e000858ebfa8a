"""A store whose files another process replaces, and what reading leaves alone."""

from __future__ import annotations

import hashlib
import os
import shutil
from dataclasses import replace

import numpy as np
import pytest

from vlmreward.encoders.embedding_store import EmbeddingStore
from vlmreward.encoders.store_folder import StoreFolder
from vlmreward.errors import ConfigError


def fill(store, numbered, numbers, writer=0):
    numbers = np.asarray(numbers)
    store.add(numbered.keys_of(numbers), numbered.rows_of(numbers, writer))


def files(store, suffix):
    return sorted(store.path.glob(f"*.{suffix}"))


def check(store, numbered, numbers, writer=0):
    """Check that a store knows frames, and every row of them."""
    places = store.find(numbered.keys_of(numbers))
    assert (places >= 0).all()
    rows = store.read(places)
    assert rows.dtype == np.float32
    np.testing.assert_allclose(rows, numbered.stored(numbered.rows_of(numbers, writer)), atol=2e-7, rtol=0)


def test_file_that_takes_the_place_of_another_is_another_segment(tmp_path, numbered):
    """A store is put back from a copy while a process has it open."""
    live = EmbeddingStore(tmp_path / "a", numbered.META)
    fill(live, numbered, range(100))
    other = EmbeddingStore(tmp_path / "b", numbered.META)
    fill(other, numbered, range(100, 250), writer=1)
    for suffix in ("rows", "keys"):
        os.replace(files(other, suffix)[0], files(live, suffix)[0])
    live.refresh()
    check(live, numbered, np.arange(100))
    check(live, numbered, np.arange(100, 250), writer=1)
    assert len(live) == 250


def test_folder_that_another_has_made_again_is_claimed_before_it_is_written_to(tmp_path, numbered):
    store = EmbeddingStore(tmp_path, numbered.META)
    fill(store, numbered, range(10))
    shutil.rmtree(store.path)
    fill(EmbeddingStore(tmp_path, numbered.META), numbered, range(5), writer=1)  # and has gone
    assert not StoreFolder(store.path).in_use()
    fill(store, numbered, range(10, 20))
    assert StoreFolder(store.path).in_use()
    check(EmbeddingStore(tmp_path, numbered.META), numbered, np.arange(10, 20))
    shutil.rmtree(store.path)
    with StoreFolder(store.path).locked():
        StoreFolder(store.path).write_meta(replace(numbered.META, dim=7))
    with pytest.raises(ConfigError, match=r"holds embeddings of .*dim=7.*choose another cache="):
        fill(store, numbered, range(20, 30))
    assert files(store, "rows") == []


def test_reading_changes_no_file(tmp_path, numbered):
    fill(EmbeddingStore(tmp_path, numbered.META), numbered, range(50))

    def sums():
        return {p.name: (hashlib.sha256(p.read_bytes()).digest(), p.stat().st_mtime_ns) for p in tmp_path.rglob("*.*")}

    before = sums()
    store = EmbeddingStore(tmp_path, numbered.META)
    store.read(store.find(numbered.keys_of(range(50))))[:] = 7
    store.project(numbered.keys_of(range(50)), np.ones((numbered.DIM, 1), np.float32))
    assert sums() == before
