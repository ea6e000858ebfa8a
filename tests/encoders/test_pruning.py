from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from vlmreward.encoders import embedding_store
from vlmreward.encoders.embedding_store import EmbeddingStore
from vlmreward.encoders.pruning import choose, list_stores, prune
from vlmreward.encoders.store_folder import META

DAY = 86400.0


@pytest.fixture(autouse=True)
def small_segments(monkeypatch, numbered):
    """Segments of 10 numbered frames."""
    monkeypatch.setattr(embedding_store, "SEGMENT_BYTES", 10 * numbered.META.row_bytes)


def fill(cache, numbered, frames, encoder="a", newest=1.0):
    """Store frames, 10 to a segment; the newest segment is so many days old, each one before it a day older."""
    store = EmbeddingStore(cache, replace(numbered.META, encoder=encoder))
    for start in range(0, frames, 10):
        numbers = np.arange(start, min(start + 10, frames))
        store.add(numbered.keys_of(numbers), numbered.rows_of(numbers))
    keys = sorted(store.path.glob("*.keys"))
    for age, path in enumerate(reversed(keys)):
        written = 1e9 - (newest + age) * DAY
        os.utime(path, (written, written))
    return store


def known(store, numbered, count):
    return np.flatnonzero(store.find(numbered.keys_of(np.arange(count))) >= 0).tolist()


def remove(cache, **limits):
    stores = list_stores(cache)
    chosen = choose(stores, **limits)
    return [name for store in stores for name in prune(store, chosen.get(store.folder.path, ()))]


def test_report_says_what_is_there(tmp_path, numbered):
    open_store = fill(tmp_path, numbered, 25)
    fill(tmp_path, numbered, 7, encoder="b/c")
    (tmp_path / "runs").mkdir()
    (tmp_path / "file").touch()
    a, b = list_stores(tmp_path)
    assert (a.encoder, a.frames, len(a.segments), a.in_use) == ("a", 25, 3, True)
    assert (b.encoder, b.frames, len(b.segments), b.in_use) == ("b/c", 7, 1, False)
    assert a.size == 25 * (numbered.META.row_bytes + 16)
    assert a.written == 1e9 - DAY
    del open_store
    assert not list_stores(tmp_path)[0].in_use
    empty = EmbeddingStore(tmp_path, replace(numbered.META, encoder="d"))
    report = list_stores(tmp_path)[2]
    assert (report.frames, report.size, report.written, report.in_use) == (0, 0, None, True)
    assert empty.path == report.folder.path


def test_report_of_a_damaged_store_names_its_folder_and_size(tmp_path, numbered):
    fill(tmp_path, numbered, 5)
    path = next(tmp_path.iterdir())
    (path / META).write_text("{")
    (report,) = list_stores(tmp_path)
    assert (report.meta, report.frames, report.encoder) == (None, None, "a__fp32__float16")
    assert report.size > 0
    prune(report, {segment.name for segment in report.segments})
    assert not path.exists()


def test_unknown_store_is_chosen_by_no_limit_and_a_linked_one_is_none(tmp_path, numbered):
    fill(tmp_path / "cache", numbered, 5)
    (path,) = (tmp_path / "cache").iterdir()
    (path / META).write_text('{"version": 2}')
    fill(tmp_path / "other", numbered, 5, encoder="b")
    (tmp_path / "cache" / "link").symlink_to(next((tmp_path / "other").iterdir()))
    (tmp_path / "cache" / "c").mkdir()
    (tmp_path / "cache" / "c" / META).symlink_to(path / META)
    (report,) = stores = list_stores(tmp_path / "cache")
    assert (report.meta, report.encoder) == (None, "a__fp32__float16")
    assert choose(stores, written_before=1e12, max_size=0) == {}


def test_age_is_that_of_what_was_added_last(tmp_path, numbered):
    fill(tmp_path, numbered, 45)  # 5 segments, 5 to 1 days old
    assert remove(tmp_path, written_before=1e9 - 3.5 * DAY) == []
    store = EmbeddingStore(tmp_path, replace(numbered.META, encoder="a"))
    assert known(store, numbered, 50) == list(range(20, 45))
    rows = store.read(store.find(numbered.keys_of(np.arange(20, 45))))
    np.testing.assert_allclose(rows, numbered.stored(numbered.rows_of(np.arange(20, 45))), atol=2e-7)


def test_size_is_brought_down_from_the_oldest_on_over_all_stores(tmp_path, numbered):
    fill(tmp_path, numbered, 30)  # 3, 2 and 1 days old
    fill(tmp_path, numbered, 40, encoder="b", newest=1.5)  # 4.5, 3.5, 2.5 and 1.5
    one = 10 * (numbered.META.row_bytes + 16)
    assert remove(tmp_path, max_size=7 * one) == []
    assert [store.frames for store in list_stores(tmp_path)] == [30, 40]
    remove(tmp_path, max_size=7 * one - 1)
    assert [store.frames for store in list_stores(tmp_path)] == [30, 30]
    remove(tmp_path, max_size=3.5 * one)
    assert [store.frames for store in list_stores(tmp_path)] == [20, 10]
    remove(tmp_path, max_size=0)
    assert list(tmp_path.iterdir()) == []


def test_both_limits_hold(tmp_path, numbered):
    fill(tmp_path, numbered, 50)
    one = 10 * (numbered.META.row_bytes + 16)
    remove(tmp_path, written_before=1e9 - 4.5 * DAY, max_size=2 * one)
    assert list_stores(tmp_path)[0].frames == 20


def test_store_in_use_keeps_its_newest_segment_and_goes_on(tmp_path, numbered):
    store = fill(tmp_path, numbered, 35)
    (kept,) = remove(tmp_path, max_size=0)
    (report,) = list_stores(tmp_path)
    assert [segment.name for segment in report.segments] == [kept]
    assert known(store, numbered, 50) == list(range(35))  # mapped, though the files are gone
    rows = store.read(store.find(numbered.keys_of(np.arange(35))))
    np.testing.assert_allclose(rows, numbered.stored(numbered.rows_of(np.arange(35))), atol=2e-7)
    numbers = np.arange(30, 50)
    store.add(numbered.keys_of(numbers), numbered.rows_of(numbers))
    assert known(store, numbered, 60) == list(range(50))
    again = EmbeddingStore(tmp_path, replace(numbered.META, encoder="a"))
    assert known(again, numbered, 60) == list(range(30, 50))
    del store, again
    remove(tmp_path, max_size=0)
    assert list(tmp_path.iterdir()) == []


def test_empty_store_is_removed_and_begun_again_by_who_has_it_open(tmp_path, numbered):
    store = fill(tmp_path, numbered, 0)
    prune(list_stores(tmp_path)[0], set())
    assert list(tmp_path.iterdir()) == []
    store.add(numbered.keys_of(np.arange(5)), numbered.rows_of(np.arange(5)))
    (report,) = list_stores(tmp_path)
    assert (report.frames, report.in_use) == (5, True)


def test_segment_that_vanishes_while_it_is_looked_at_is_skipped(tmp_path, numbered, monkeypatch):
    """Another process prunes between the listing and the opening of the files."""
    store = EmbeddingStore(tmp_path, replace(numbered.META, encoder="a"))
    fill(tmp_path, numbered, 20)
    segments = store._files.segments()
    store._files.rows_path(segments[0].name).unlink()
    monkeypatch.setattr(store._files, "segments", lambda: segments)
    store.refresh()
    assert known(store, numbered, 20) == list(range(10, 20))


def test_pruning_nothing_still_cuts_off_what_a_kill_has_left(tmp_path, numbered):
    fill(tmp_path, numbered, 5)
    (rows,) = tmp_path.rglob("*.rows")
    with rows.open("ab") as file:
        file.write(bytes(1000))
    prune(list_stores(tmp_path)[0], set())
    assert rows.stat().st_size == 5 * numbered.META.row_bytes
    store = EmbeddingStore(tmp_path, replace(numbered.META, encoder="a"))
    assert known(store, numbered, 9) == list(range(5))


def test_pruning_loads_no_torch():
    code = "import sys, vlmreward.encoders.pruning; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "False\n"
