from __future__ import annotations

import errno
import itertools
import json
import multiprocessing
import os
import random
import resource
import signal
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vlmreward.encoders import embedding_store, store_folder
from vlmreward.encoders.embedding_store import EmbeddingStore, are_unit
from vlmreward.encoders.frame_hash import KEY_BYTES
from vlmreward.encoders.store_folder import META, StoreFolder, StoreMeta
from vlmreward.errors import ConfigError, StorageError

KILL = -signal.SIGKILL
WRONG_TYPES = '{"encoder": 3, "precision": null, "dim": 48, "dtype": "float16", "version": 1}'


def unit(rows):
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def segment_sizes(store):
    """Return (frames by the file of rows, frames by the file of keys) of each segment."""
    return [
        (r.stat().st_size / store.meta.row_bytes, r.with_suffix(".keys").stat().st_size / KEY_BYTES)
        for r in sorted(store.path.glob("*.rows"))
    ]


def keys_on_disk(store):
    return [
        key.tobytes()
        for path in sorted(store.path.glob("*.keys"))
        for key in np.fromfile(path, np.uint64).reshape(-1, 2)
    ]


@pytest.fixture
def small_segments(monkeypatch, numbered):
    """Segments of 100 numbered frames."""
    monkeypatch.setattr(embedding_store, "SEGMENT_BYTES", 100 * numbered.META.row_bytes)


def test_what_is_added_is_found_now_and_when_the_store_is_opened_again(tmp_path, numbered):
    store = EmbeddingStore(tmp_path, numbered.META)
    assert len(store) == 0
    for start in range(0, 500, 70):
        numbered.fill(store, range(start, min(start + 70, 500)))
    for opened in (store, EmbeddingStore(tmp_path, numbered.META)):
        assert len(opened) == 500
        order = np.random.default_rng(0).permutation(500)
        numbered.check(opened, np.arange(500))
        numbered.check(opened, order)
        numbered.check(opened, np.repeat([3, 3, 499, 0], 50))
        numbered.check(opened, np.array([5, 7, 5]))  # as many as from the first to the last, and no run
        assert (opened.find(numbered.keys_of(np.arange(500, 900))) == -1).all()
    assert segment_sizes(store) == [(500, 500)]


def test_segments_follow_each_other(tmp_path, numbered, small_segments):
    store = EmbeddingStore(tmp_path, numbered.META)
    for start in range(0, 460, 60):
        numbered.fill(store, range(start, min(start + 60, 460)))
    assert segment_sizes(store) == [(120, 120), (120, 120), (120, 120), (100, 100)]
    numbered.fill(store, [460])
    assert segment_sizes(store)[-1] == (1, 1)
    for opened in (store, EmbeddingStore(tmp_path, numbered.META)):
        numbered.check(opened, np.random.default_rng(0).permutation(461))


def test_full_segment_is_on_the_disk_before_the_next_begins(tmp_path, numbered, small_segments, monkeypatch):
    synced = []
    fsync = os.fsync

    def note(descriptor):
        synced.append((os.readlink(f"/proc/self/fd/{descriptor}"), len(list(tmp_path.rglob("*.rows")))))
        fsync(descriptor)

    store = EmbeddingStore(tmp_path, numbered.META)
    monkeypatch.setattr(store_folder.os, "fsync", note)
    numbered.fill(store, range(99))
    numbered.fill(store, range(99, 110))
    assert synced == []  # it takes longer than encoding a few frames
    numbered.fill(store, [110])
    first = numbered.files(store, "rows")[0]
    assert synced == [(str(path), 1) for path in (first, first.with_suffix(".keys"), store.path)]


def test_known_frame_keeps_its_first_embedding(tmp_path, numbered):
    store = EmbeddingStore(tmp_path, numbered.META)
    numbered.fill(store, range(10), writer=1)
    numbered.fill(store, range(20), writer=2)
    numbered.check(store, np.arange(10), writer=1)
    numbered.check(store, np.arange(10, 20), writer=2)
    numbered.fill(store, [30, 31, 30, 30])  # equal frames in one call are stored once
    assert segment_sizes(store) == [(22, 22)]
    numbered.check(store, np.array([30, 31]))


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 700), st.integers(0, 2**32), st.floats(-3, 3))
def test_float16_moves_a_unit_vector_by_less_than_its_bound(tmp_path_factory, dim, seed, power):
    """Half a unit in the last place of each component: 2**-11 of it, or 2**-25 where float16 is at its smallest."""
    rng = np.random.default_rng(seed)
    raw = rng.standard_normal((20, dim)) * np.exp(power * rng.standard_normal((20, dim)))  # some long-tailed
    rows = unit(np.concatenate([raw, np.eye(dim)[:1], np.full((1, dim), 1 + 2.0**-11)]))
    keys = np.arange(2 * len(rows), dtype=np.uint64).reshape(-1, 2)
    store = EmbeddingStore(tmp_path_factory.mktemp("bound"), StoreMeta("x", None, dim, "float16"))
    store.add(keys, rows)
    read = store.read(store.find(keys))
    np.testing.assert_allclose(np.linalg.norm(read.astype(np.float64), axis=1), 1, atol=1e-6)
    error = np.linalg.norm(read.astype(np.float64) - rows, axis=1)
    assert (error <= 2**-11 + dim**0.5 * 2**-25 + 2e-7).all()


def test_float32_keeps_every_bit(tmp_path):
    rows = unit(np.random.default_rng(0).standard_normal((50, 33)))
    keys = np.arange(100, dtype=np.uint64).reshape(-1, 2)
    meta = StoreMeta("x", None, 33, "float32")
    EmbeddingStore(tmp_path, meta).add(keys, rows)
    store = EmbeddingStore(tmp_path, meta)
    assert store.read(store.find(keys)).tobytes() == rows.tobytes()
    products, _ = store.project(keys, np.eye(33, dtype=np.float32))
    assert products.tobytes() == rows.tobytes()


def test_rows_that_are_no_unit_vectors_are_not_stored(tmp_path, numbered):
    rows = numbered.rows_of(range(8))
    rows[1, 3] = np.nan
    rows[2] = 0
    rows[3] *= 1.02
    rows[4, 0] = np.inf
    rows[5] *= 1e6  # beyond float16
    rows[6] *= 1.005
    store = EmbeddingStore(tmp_path, numbered.META)
    keys = numbered.keys_of(range(8))
    store.add(keys, rows)
    assert (store.find(keys) >= 0).tolist() == [True, False, False, False, False, False, True, True]
    numbered.check(store, np.array([0, 7]))
    numbered.fill(store, range(8))
    numbered.check(store, np.arange(8)[[1, 2, 3, 4, 5]])
    # whatever was taken is taken for whole when the store is opened again
    assert len(EmbeddingStore(tmp_path, numbered.META)) == 8
    with pytest.raises(ValueError, match=r"embeddings must be \(8, 48\), got \(8, 47\)"):
        store.add(keys, rows[:, 1:])


def test_unit_vectors_are_told_in_blocks(monkeypatch):
    rows = unit(np.random.default_rng(0).standard_normal((1000, 5)))
    bad = np.random.default_rng(1).choice(1000, 100, replace=False)
    rows[bad] *= np.where(np.arange(100) % 2, 0.98, np.nan)[:, None].astype(np.float32)
    monkeypatch.setattr(embedding_store, "_BLOCK", 64)
    for dtype in (np.float32, np.float16, np.float64):
        assert np.flatnonzero(~are_unit(rows.astype(dtype))).tolist() == sorted(bad.tolist())
    assert are_unit(rows[:0]).tolist() == []


@pytest.mark.parametrize("dtype", ["float16", "float32"])
@pytest.mark.parametrize("block", [2**18, 96])
def test_projection_is_the_product_in_any_order_with_a_mask(
    tmp_path, numbered, small_segments, monkeypatch, dtype, block
):
    monkeypatch.setattr(embedding_store, "_BLOCK", block)
    store = EmbeddingStore(tmp_path, replace(numbered.META, dtype=dtype))
    for start in range(0, 300, 50):
        numbered.fill(store, range(start, start + 50))
    rng = np.random.default_rng(0)
    directions = rng.standard_normal((numbered.DIM, 3)).astype(np.float32)
    for numbers in (np.arange(300), rng.permutation(600), rng.integers(0, 310, 500), np.array([1000]), np.arange(0)):
        products, valid = store.project(numbered.keys_of(numbers), directions)
        assert products.shape == (len(numbers), 3)
        assert (products.dtype, valid.dtype) == (np.float32, bool)
        assert valid.tolist() == (numbers < 300).tolist()
        assert np.isnan(products[~valid]).all()
        rows = numbered.rows_of(numbers)
        want = (numbered.stored(rows) if dtype == "float16" else rows.astype(np.float64)) @ directions
        np.testing.assert_allclose(products[valid], want[valid], atol=3e-6)


def test_nothing_is_read_of_nothing(tmp_path, numbered):
    store = EmbeddingStore(tmp_path, numbered.META)
    assert store.read(np.empty(0, np.int64)).shape == (0, numbered.DIM)
    numbered.fill(store, [])
    assert list(store.path.glob("*.rows")) == []


# Whose folder it is.


def test_each_encoder_precision_and_dtype_has_a_folder(tmp_path, numbered):
    metas = [
        numbered.META,
        replace(numbered.META, encoder="numbered/2"),
        replace(numbered.META, precision="bf16"),
        replace(numbered.META, precision=None),
        replace(numbered.META, runtime="openvino"),
        replace(numbered.META, dtype="float32"),
    ]
    for writer, meta in enumerate(metas):
        numbered.fill(EmbeddingStore(tmp_path, meta), range(5), writer)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "numbered%2F1__bf16__float16",
        "numbered%2F1__float16",
        "numbered%2F1__fp32__float16",
        "numbered%2F1__fp32__float32",
        "numbered%2F1__fp32__openvino__float16",
        "numbered%2F2__fp32__float16",
    ]
    for writer, meta in enumerate(metas):
        store = EmbeddingStore(tmp_path, meta)
        rows = numbered.rows_of(range(5), writer)
        np.testing.assert_allclose(store.read(store.find(numbered.keys_of(range(5)))), rows, atol=5e-4)


@pytest.mark.parametrize("change", [{"encoder": "other"}, {"dim": 49}, {"dtype": "float32"}, {"runtime": "torch"}])
def test_folder_of_something_else_is_refused(tmp_path, numbered, change):
    path = EmbeddingStore(tmp_path, numbered.META).path
    (path / META).write_text(json.dumps({**json.loads((path / META).read_text()), **change}))
    with pytest.raises(ConfigError, match=r"holds embeddings of .*, wanted .*: choose another cache=") as caught:
        EmbeddingStore(tmp_path, numbered.META)
    assert str(next(iter(change.values()))) in str(caught.value)


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "null", "{}", '{"encoder": "x"}', "\x00\xff", '{"dim": "a"}', WRONG_TYPES]
)
def test_damaged_description_is_one_line(tmp_path, numbered, text):
    path = EmbeddingStore(tmp_path, numbered.META).path
    (path / META).write_text(text)
    with pytest.raises(StorageError, match=r"store\.json is damaged: remove the folder .*numbered%2F1") as caught:
        EmbeddingStore(tmp_path, numbered.META)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("version", [2, 0, "1", None])
def test_other_version_is_one_line_whatever_its_fields(tmp_path, numbered, version):
    path = EmbeddingStore(tmp_path, numbered.META).path
    (path / META).write_text(json.dumps({"version": version, "codec": "zip"}))
    with pytest.raises(StorageError, match=rf"is of version {version!r}, not 1: choose another cache="):
        EmbeddingStore(tmp_path, numbered.META)


@pytest.mark.parametrize(("dim", "dtype"), [(4, "float64"), (0, "float16"), ("4", "float16")])
def test_form_that_there_is_not_is_refused(dim, dtype):
    with pytest.raises(ConfigError, match="float64" if dtype == "float64" else "dim must be"):
        StoreMeta("x", None, dim, dtype)  # pyright: ignore[reportArgumentType]


def test_place_that_takes_no_folder_is_one_line(tmp_path, numbered):
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match=r"can't write embeddings to .*file.*: not a directory; .* another folder"):
        EmbeddingStore(tmp_path / "file", numbered.META)
    with pytest.raises(StorageError, match="can't write embeddings to"):
        EmbeddingStore(tmp_path / ("n" * 300), numbered.META)


# Kills and damage.


class Writer:
    """A process of its own that adds numbered frames."""

    def __init__(self, numbered, cache, *numbers, **options):
        self._read, write = os.pipe()
        arguments = {**options, "report": write}
        self.process = multiprocessing.get_context("fork").Process(
            target=numbered.add_numbers, args=(cache, *numbers), kwargs=arguments
        )
        self.process.start()
        os.close(write)

    def join(self):
        """Wait for its end; return its exit code and the number behind the last frame it said it had added."""
        self.process.join(60)
        with open(self._read, encoding="ascii") as file:
            lines = file.read().splitlines()
        return self.process.exitcode, int(lines[-1]) if lines else None


@pytest.mark.parametrize("share", [0, 0.37, 1])
@pytest.mark.parametrize("call", range(6))
def test_killed_in_any_write_loses_only_what_was_not_added(tmp_path, numbered, call, share):
    """Three batches of 40, each written by two calls: rows, then keys. A share of .37 ends inside a row and a key."""
    code, said = Writer(numbered, tmp_path, 0, 120, 40, die=(call, share)).join()
    added = 40 * (call // 2)
    assert (code, said) == (KILL, added or None)
    store = EmbeddingStore(tmp_path, numbered.META)
    there = numbered.known(store, np.arange(120))
    # keys that were written before the kill have their rows
    assert there.tolist() == list(range(added + (int(40 * share) if call % 2 else 0)))
    numbered.check(store, there)
    numbered.fill(store, range(200))
    assert segment_sizes(store) == [(200, 200)], "what was half written is cut off"
    for opened in (store, EmbeddingStore(tmp_path, numbered.META)):
        numbered.check(opened, np.arange(200))
    assert len(set(keys_on_disk(store))) == 200


def test_killed_at_random_moments_again_and_again(tmp_path, numbered):
    rng = random.Random(0)
    added, store = 0, EmbeddingStore(tmp_path, numbered.META)
    for _ in range(12):
        writer = Writer(numbered, tmp_path, added, 10**7, 500)
        time.sleep(rng.uniform(0.02, 0.3))
        writer.process.kill()
        code, said = writer.join()
        assert code == KILL
        before, added = added, said or added
        store = EmbeddingStore(tmp_path, numbered.META)
        numbered.check(store, np.arange(before, added))  # and all of them at the end
        more = numbered.known(store, np.arange(added, added + 2000))  # was added, and the writer could not say so
        numbered.check(store, more)
        assert len(store) == added + len(more)
    assert added > 1000
    numbered.check(store, np.arange(added))
    assert len(set(keys_on_disk(store))) == len(keys_on_disk(store)) == len(store)


@pytest.mark.parametrize("damage", ["rows cut", "rows cut inside one", "no rows", "rows gone", "keys cut", "no keys"])
def test_torn_files_cost_what_was_torn_off(tmp_path, numbered, damage):
    store = EmbeddingStore(tmp_path, numbered.META)
    numbered.fill(store, range(100))
    (rows,), (keys,) = numbered.files(store, "rows"), numbered.files(store, "keys")
    left = {"rows cut": 60, "rows cut inside one": 59, "keys cut": 61}.get(damage, 0)
    if damage == "rows gone":
        rows.unlink()
    elif damage.startswith("keys") or damage == "no keys":
        os.truncate(keys, KEY_BYTES * left + (7 if left else 0))
    else:
        os.truncate(rows, store.meta.row_bytes * left + (5 if damage == "rows cut inside one" else 0))
    store = EmbeddingStore(tmp_path, numbered.META)
    assert numbered.known(store, np.arange(100)).tolist() == list(range(left))
    numbered.check(store, np.arange(left))
    other = EmbeddingStore(tmp_path, numbered.META)
    numbered.fill(store, range(90, 250), writer=2)  # no key of a row that is gone may meet one of these
    other.refresh()
    for opened in (store, other, EmbeddingStore(tmp_path, numbered.META)):
        numbered.check(opened, np.arange(left))
        numbered.check(opened, np.arange(100, 250), writer=2)
        assert len(opened) == len(numbered.known(opened, np.arange(250))) == left + 160 - max(0, left - 90)
    numbered.fill(store, range(250))
    numbered.check(EmbeddingStore(tmp_path, numbered.META), np.arange(90))


@pytest.mark.parametrize("lost", [[99], range(40, 100), [0, 50], range(100)], ids=["last", "end", "some", "all"])
def test_rows_that_a_power_cut_has_made_zeros_are_unknown(tmp_path, numbered, lost):
    store = EmbeddingStore(tmp_path, numbered.META)
    numbered.fill(store, range(100))
    with numbered.files(store, "rows")[0].open("r+b") as file:
        for row in lost:
            file.seek(store.meta.row_bytes * row + (store.meta.row_bytes // 2 if row == 50 else 0))
            file.write(bytes(store.meta.row_bytes // (2 if row == 50 else 1)))  # one is zero by half
    kept = np.arange(min(lost))
    del store  # files that are mapped are left alone
    again = EmbeddingStore(tmp_path, numbered.META)
    for opened in (again, EmbeddingStore(tmp_path, numbered.META)):
        assert numbered.known(opened, np.arange(100)).tolist() == kept.tolist()
        numbered.check(opened, kept)
    numbered.fill(again, range(120))
    numbered.check(again, np.arange(120))
    numbered.check(EmbeddingStore(tmp_path, numbered.META), np.arange(120))
    assert sum(rows for rows, _ in segment_sizes(again)) == 120


def test_keys_that_a_power_cut_has_made_zeros_are_unknown(tmp_path, numbered):
    store, live = (EmbeddingStore(tmp_path, numbered.META) for _ in range(2))
    numbered.fill(store, range(100))
    with numbered.files(store, "keys")[0].open("r+b") as file:
        file.seek(40 * KEY_BYTES)
        file.write(bytes(30 * KEY_BYTES))
    live.refresh()
    assert numbered.known(live, np.arange(100)).tolist() == [*range(40), *range(70, 100)]
    assert live.find(np.zeros((1, 2), np.uint64)).tolist() == [-1]
    numbered.check(live, np.arange(70, 100))
    del store, live
    store = EmbeddingStore(tmp_path, numbered.META)
    assert numbered.known(store, np.arange(100)).tolist() == list(range(40))
    numbered.fill(store, range(100))
    numbered.check(EmbeddingStore(tmp_path, numbered.META), np.arange(100))


def test_equal_keys_in_a_file_are_one_frame_and_take_no_time(tmp_path, numbered):
    store = EmbeddingStore(tmp_path, numbered.META)
    count = 20_000
    name = store._files.new_name()
    rows = numbered.rows_of(np.arange(count) + 7).astype(np.float16)
    store._files.append(name, 0, rows.tobytes(), numbered.keys_of([7]).tobytes() * count)
    begin = time.process_time()
    store.refresh()
    assert time.process_time() - begin < 2
    assert len(store) == 1
    numbered.check(store, np.array([7]))


@pytest.mark.parametrize("call", range(3))
def test_lost_rows_stay_recognised_when_cutting_them_off_fails(tmp_path, numbered, small_segments, monkeypatch, call):
    """The disk refuses one of the two cuts, or neither; in between there is always a newest segment without frames."""
    store = EmbeddingStore(tmp_path, numbered.META)
    for start in range(0, 150, 50):
        numbered.fill(store, range(start, start + 50))
    with numbered.files(store, "rows")[1].open("r+b") as file:
        file.seek(20 * store.meta.row_bytes)
        file.write(bytes(5 * store.meta.row_bytes))
    for suffix in ("rows", "keys"):
        (store.path / f"00000002-00000000.{suffix}").touch()
    del store
    calls, cut = itertools.count(), os.ftruncate

    def ftruncate(descriptor, size):
        if next(calls) == call:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        cut(descriptor, size)

    monkeypatch.setattr(store_folder.os, "ftruncate", ftruncate)
    if call < 2:
        with pytest.raises(StorageError, match="input/output error"):
            EmbeddingStore(tmp_path, numbered.META)
    monkeypatch.undo()
    for _ in range(2):
        store = EmbeddingStore(tmp_path, numbered.META)
        assert numbered.known(store, np.arange(200)).tolist() == list(range(120))
        numbered.check(store, np.arange(120))
        del store
    store = EmbeddingStore(tmp_path, numbered.META)
    numbered.fill(store, range(200))
    for opened in (store, EmbeddingStore(tmp_path, numbered.META)):
        numbered.check(opened, np.arange(200))


def test_files_that_another_store_has_mapped_get_no_shorter(tmp_path, numbered):
    store = EmbeddingStore(tmp_path, numbered.META)
    numbered.fill(store, range(1000))  # more than a page
    with numbered.files(store, "rows")[0].open("r+b") as file:
        file.write(bytes(store.meta.row_bytes))
    EmbeddingStore(tmp_path, numbered.META)
    assert segment_sizes(store) == [(1000, 1000)]
    numbered.check(store, np.arange(1, 1000))


@contextmanager
def file_size_limit(limit):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_full_disk_is_one_line_and_loses_nothing(tmp_path, numbered):
    store = EmbeddingStore(tmp_path, numbered.META)
    numbered.fill(store, range(100))
    with (
        file_size_limit(int(120.4 * store.meta.row_bytes)),
        pytest.raises(
            StorageError, match=r"can't write embeddings to .*: file too large; check its files and permissions, or"
        ),
    ):
        numbered.fill(store, range(100, 150))
    numbered.check(store, np.arange(100))
    assert numbered.known(store, np.arange(100, 150)).tolist() == []
    numbered.fill(store, range(100, 150))  # there is room again
    for opened in (store, EmbeddingStore(tmp_path, numbered.META)):
        numbered.check(opened, np.arange(150))
    assert segment_sizes(store) == [(150, 150)]


def test_disk_that_is_full_for_the_keys_shows_no_frame_without_a_row(tmp_path, numbered, monkeypatch):
    store = EmbeddingStore(tmp_path, numbered.META)
    numbered.fill(store, range(10))
    write = os.pwrite

    def pwrite(descriptor, content, offset):
        if os.readlink(f"/proc/self/fd/{descriptor}").endswith(".keys"):
            if offset % KEY_BYTES:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return write(descriptor, content[: 5 * KEY_BYTES + 3], offset)
        return write(descriptor, content, offset)

    monkeypatch.setattr(store_folder.os, "pwrite", pwrite)
    with pytest.raises(StorageError, match="no space left on device; free some room, prune it"):
        numbered.fill(store, range(10, 30))
    monkeypatch.undo()
    for opened in (store, EmbeddingStore(tmp_path, numbered.META)):
        opened.refresh()
        assert numbered.known(opened, np.arange(40)).tolist() == list(range(15))
        numbered.check(opened, np.arange(15))
    numbered.fill(store, range(40))
    numbered.check(store, np.arange(40))


def test_write_that_takes_less_than_asked_goes_on(tmp_path, numbered, monkeypatch):
    write = os.pwrite
    monkeypatch.setattr(store_folder.os, "pwrite", lambda d, content, offset: write(d, content[:1000], offset))
    store = EmbeddingStore(tmp_path, numbered.META)
    numbered.fill(store, range(100))
    numbered.check(EmbeddingStore(tmp_path, numbered.META), np.arange(100))


# Several processes and threads.


def test_what_another_process_adds_is_seen_after_a_refresh(tmp_path, numbered):
    store = EmbeddingStore(tmp_path, numbered.META)
    numbered.fill(store, range(5))
    assert Writer(numbered, tmp_path, 3, 50, 10, writer=1).join() == (0, 50)
    assert numbered.known(store, np.arange(60)).tolist() == list(range(5))
    store.refresh()
    assert len(store) == 50
    numbered.check(store, np.arange(5))
    numbered.check(store, np.arange(5, 50), writer=1)


def test_writers_of_the_same_frames_and_a_reader_agree(tmp_path, numbered):
    """Two processes add other embeddings of the same frames; a frame keeps the first one, whoever asks and when."""
    reader = EmbeddingStore(tmp_path, numbered.META)
    writers = [Writer(numbered, tmp_path, 0, 6000, 37 + n, writer=n) for n in range(2)]
    truths = [numbered.stored(numbered.rows_of(range(6000), n)) for n in range(2)]
    numbers, seen = np.arange(6000), {}
    while len(seen) < 6000:
        assert all(writer.process.exitcode in (None, 0) for writer in writers)
        reader.refresh()
        there = numbered.known(reader, numbers)
        rows = reader.read(reader.find(numbered.keys_of(there)))
        errors = np.stack([np.abs(rows - truth[there]).max(axis=1, initial=0) for truth in truths])
        assert (errors.min(axis=0) <= 2e-7).all(), "each row is that of one of the writers"
        for number, who in zip(there.tolist(), errors.argmin(axis=0).tolist(), strict=True):
            assert seen.setdefault(number, who) == who, "and stays so"
    assert [writer.join()[0] for writer in writers] == [0, 0]
    again = EmbeddingStore(tmp_path, numbered.META)
    rows = again.read(again.find(numbered.keys_of(numbers)))
    whose = np.stack([np.abs(rows - truth).max(axis=1) for truth in truths]).argmin(axis=0)
    assert whose.tolist() == [seen[number] for number in range(6000)]
    assert len(keys_on_disk(again)) == len(set(keys_on_disk(again))) == 6000


def test_threads_may_read_and_add(tmp_path, numbered, small_segments):
    store = EmbeddingStore(tmp_path, numbered.META)
    faults = []

    def work(first):
        try:
            for start in range(first, 1200, 40):
                numbered.fill(store, range(start, start + 10))
                numbered.check(store, np.arange(start, start + 10))
                numbered.check(store, np.arange(first, start + 10, 40))
        except BaseException as e:
            faults.append(e)

    threads = [threading.Thread(target=work, args=(10 * n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert faults == []
    numbered.check(EmbeddingStore(tmp_path, numbered.META), np.arange(1200))


CHILDREN = """
import importlib.util, multiprocessing, os, sys, threading
from pathlib import Path
import numpy as np
spec = importlib.util.spec_from_file_location("numbered_frames", sys.argv[1])
numbered = importlib.util.module_from_spec(spec)
spec.loader.exec_module(numbered)
from vlmreward.encoders.embedding_store import EmbeddingStore

def add(store, first):
    for start in range(first, first + 300, 20):
        numbers = np.arange(start, start + 20)
        store.add(numbered.keys_of(numbers), numbered.rows_of(numbers))
        rows = store.read(store.find(numbered.keys_of(numbers)))
        assert np.abs(rows - numbered.stored(numbered.rows_of(numbers))).max() <= 2e-7

def add_anew(first):
    add(EmbeddingStore(Path(sys.argv[2]), numbered.META), first)

if __name__ == "__main__":
    context = multiprocessing.get_context(sys.argv[3])
    store = EmbeddingStore(Path(sys.argv[2]), numbered.META)
    add(store, 0)
    forked = sys.argv[3] == "fork"
    stop = threading.Event()
    def keep_busy():  # holds the store's lock most of the time, at the moments of forks too
        while not stop.is_set():
            store.refresh()
            store.find(numbered.keys_of(np.arange(300)))
    thread = threading.Thread(target=keep_busy)
    if forked:
        thread.start()
    children = []
    for n in range(1, 5 if forked else 3):  # one that is spawned imports everything again
        children.append(context.Process(target=add if forked else add_anew, args=(*[store] * forked, 300 * n)))
        children[-1].start()
    add(store, 300 * (len(children) + 1))
    for child in children:
        child.join(60)
    stop.set()
    if forked:
        thread.join()
    assert [child.exitcode for child in children] == [0] * len(children), [child.exitcode for child in children]
    store.refresh()
    print(len(store))
"""


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_children_share_the_store(tmp_path, numbered, method):
    """Forked ones go on with the parent's object, made busy by a thread at the moment of the fork; others open it."""
    script = tmp_path / "children.py"
    script.write_text(CHILDREN)
    arguments = [sys.executable, str(script), numbered.__spec__.origin, str(tmp_path / "cache"), method]
    done = subprocess.run(arguments, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    count = {"fork": 1800, "spawn": 1200}[method]
    assert int(done.stdout) == count
    store = EmbeddingStore(tmp_path / "cache", numbered.META)
    numbered.check(store, np.arange(count))
    assert len(keys_on_disk(store)) == len(set(keys_on_disk(store))) == count


def test_folder_that_is_removed_by_hand_is_begun_again(tmp_path, numbered):
    store = EmbeddingStore(tmp_path, numbered.META)
    numbered.fill(store, range(10))
    for path in store.path.iterdir():
        path.unlink()
    store.path.rmdir()
    numbered.check(store, np.arange(10))  # mapped, and therefore still there
    numbered.fill(store, range(5, 20))
    numbered.check(store, np.arange(20))
    assert StoreFolder(store.path).read_meta() == numbered.META
    assert StoreFolder(store.path).in_use()
    again = EmbeddingStore(tmp_path, numbered.META)
    assert numbered.known(again, np.arange(20)).tolist() == list(range(10, 20))
    numbered.check(again, np.arange(10, 20))


@pytest.mark.parametrize("lost", ["rows", "keys"])
def test_half_removed_segment_is_never_written_to_again(tmp_path, numbered, lost):
    """A kill between two unlinks; another store has mapped what the segment was, and goes on with it."""
    store = EmbeddingStore(tmp_path, numbered.META)
    numbered.fill(store, range(100))
    live = EmbeddingStore(tmp_path, numbered.META)
    (rows,) = numbered.files(store, "rows")
    rows.with_suffix(f".{lost}").unlink()
    writer = EmbeddingStore(tmp_path, numbered.META)
    numbered.fill(writer, range(200, 400), writer=1)
    assert [path.stem for path in numbered.files(store, "keys")] != [rows.stem]
    live.refresh()
    numbered.check(live, np.arange(100))
    for opened in (live, writer, EmbeddingStore(tmp_path, numbered.META)):
        numbered.check(opened, np.arange(200, 400), writer=1)
        assert len(opened) == (300 if opened is live else 200)
