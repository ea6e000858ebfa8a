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


def test_file_that_takes_the_place_of_another_is_another_segment(tmp_path, numbered):
    """A store is put back from a copy while a process has it open."""
    live = EmbeddingStore(tmp_path / "a", numbered.META)
    numbered.fill(live, range(100))
    other = EmbeddingStore(tmp_path / "b", numbered.META)
    numbered.fill(other, range(100, 250), writer=1)
    for suffix in ("rows", "keys"):
        os.replace(numbered.files(other, suffix)[0], numbered.files(live, suffix)[0])
    live.refresh()
    numbered.check(live, np.arange(100))
    numbered.check(live, np.arange(100, 250), writer=1)
    assert len(live) == 250


def test_folder_that_another_has_made_again_is_claimed_before_it_is_written_to(tmp_path, numbered):
    store = EmbeddingStore(tmp_path, numbered.META)
    numbered.fill(store, range(10))
    shutil.rmtree(store.path)
    numbered.fill(EmbeddingStore(tmp_path, numbered.META), range(5), writer=1)  # and has gone
    assert not StoreFolder(store.path).in_use()
    numbered.fill(store, range(10, 20))
    assert StoreFolder(store.path).in_use()
    numbered.check(EmbeddingStore(tmp_path, numbered.META), np.arange(10, 20))
    shutil.rmtree(store.path)
    with StoreFolder(store.path).locked():
        StoreFolder(store.path).write_meta(replace(numbered.META, dim=7))
    with pytest.raises(ConfigError, match=r"holds embeddings of .*dim=7.*choose another cache="):
        numbered.fill(store, range(20, 30))
    assert numbered.files(store, "rows") == []


def test_reading_changes_no_file(tmp_path, numbered):
    numbered.fill(EmbeddingStore(tmp_path, numbered.META), range(50))

    def sums():
        return {p.name: (hashlib.sha256(p.read_bytes()).digest(), p.stat().st_mtime_ns) for p in tmp_path.rglob("*.*")}

    before = sums()
    store = EmbeddingStore(tmp_path, numbered.META)
    store.read(store.find(numbered.keys_of(range(50))))[:] = 7
    store.project(numbered.keys_of(range(50)), np.ones((numbered.DIM, 1), np.float32))
    assert sums() == before
