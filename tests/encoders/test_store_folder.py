from __future__ import annotations

import errno
import multiprocessing
import os
import re
import time
from dataclasses import replace

import pytest

from vlmreward.encoders.frame_hash import KEY_BYTES
from vlmreward.encoders.store_folder import LOCK, META, StoreFolder, StoreMeta
from vlmreward.errors import StorageError

META_OF_X = StoreMeta("x", "bf16", 3, "float16")
ROW = META_OF_X.row_bytes


def write(folder, name, frames, start=0):
    folder.append(name, start, bytes(ROW * frames), bytes(KEY_BYTES * frames))


def wait_for(path):
    deadline = time.monotonic() + 30
    while not path.exists():
        assert time.monotonic() < deadline, f"{path.name} does not come"
        time.sleep(0.01)


def in_a_process(work):
    process = multiprocessing.get_context("fork").Process(target=work)
    process.start()
    return process


@pytest.fixture
def folder(tmp_path):
    folder = StoreFolder(tmp_path / "cache" / "store")
    with folder.locked():
        folder.write_meta(META_OF_X)
    return folder


def test_description_is_read_as_it_was_written(folder, tmp_path):
    assert folder.read_meta() == META_OF_X
    assert StoreFolder(tmp_path / "nothing").read_meta() is None
    assert {path.name for path in folder.path.iterdir()} == {META, LOCK}


@pytest.mark.parametrize("encoder", ["a/b", "../up", ".", "ViT-B-32__bf16", "größer", "a%2Fb"])
def test_folder_is_one_name_whatever_the_id(encoder):
    meta = replace(META_OF_X, encoder=encoder)
    assert meta.name.endswith("__bf16__float16")
    assert "/" not in meta.name
    assert meta.name.isascii()
    assert ROW == 6
    assert replace(meta, dtype="float32").row_bytes == 12


def test_names_of_segments_sort_by_age_and_never_come_again(folder):
    names = []
    for _ in range(12):
        names.append(folder.new_name())
        write(folder, names[-1], 1)
    assert [segment.name for segment in folder.segments()] == names
    assert len(set(names)) == 12
    for name in names:
        folder.remove(name)
    assert folder.segments() == []
    assert folder.new_name() not in names


def test_only_segments_are_segments(folder):
    write(folder, folder.new_name(), 2)
    for name in ("notes.keys", "00000001.keys", "00000001-0123456z.keys", "00000001-01234567.rows"):
        (folder.path / name).write_bytes(b"x" * 99)
    (segment,) = folder.segments()
    assert (segment.rows_size, segment.keys_size, segment.size) == (2 * ROW, 2 * KEY_BYTES, 2 * ROW + 2 * KEY_BYTES)
    assert abs(segment.written - time.time()) < 60


def test_keys_without_rows_are_cut_off_before_new_rows_come(folder):
    """Else a process that is killed between rows and keys would leave old keys with new rows."""
    name = folder.new_name()
    write(folder, name, 10)
    os.truncate(folder.rows_path(name), 4 * ROW)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "pwrite", lambda *args: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            write(folder, name, 6, start=4)
    assert folder.keys_path(name).stat().st_size == 4 * KEY_BYTES


def test_rows_without_keys_are_cut_off_before_new_rows_come(folder):
    """Else a power cut could leave a killed writer's old rows with new keys."""
    name = folder.new_name()
    write(folder, name, 4)
    with folder.rows_path(name).open("ab") as file:
        file.write(b"x" * (3 * ROW + 1))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "pwrite", lambda *args: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            write(folder, name, 6, start=4)
    assert folder.rows_path(name).stat().st_size == 4 * ROW


def test_trimming_cuts_off_what_nobody_reads(folder):
    whole, torn, rowless = names = ["00000000-00000000", "00000001-00000000", "00000002-00000000"]
    for name in names:
        write(folder, name, 5)
    with folder.rows_path(torn).open("ab") as rows, folder.keys_path(torn).open("ab") as keys:
        rows.write(bytes(3 * ROW + 1))
        keys.write(b"abc")
    folder.rows_path(rowless).unlink()
    before = folder.keys_path(whole).stat().st_mtime_ns
    with folder.locked():
        folder.trim(ROW)
    assert [(s.rows_size, s.keys_size) for s in folder.segments()] == [(5 * ROW, 5 * KEY_BYTES)] * 2 + [(0, 0)]
    assert folder.keys_path(whole).stat().st_mtime_ns == before


def test_lock_keeps_others_out_and_ends_with_its_process(folder, tmp_path):
    def hold():
        with folder.locked():
            (tmp_path / "held").touch()
            time.sleep(60)

    holder = in_a_process(hold)
    wait_for(tmp_path / "held")
    waiter = in_a_process(lambda: folder.locked().__enter__())
    time.sleep(0.2)
    assert waiter.is_alive()
    holder.kill()
    waiter.join(30)
    assert waiter.exitcode == 0


def test_who_waits_for_a_folder_that_is_removed_makes_it_again(folder, tmp_path):
    def wait():
        wait_for(tmp_path / "locked")
        with folder.locked():
            folder.write_meta(META_OF_X)
            write(folder, folder.new_name(), 1)

    waiter = in_a_process(wait)
    with folder.locked():
        (tmp_path / "locked").touch()
        time.sleep(0.2)
        folder.remove_folder()
        assert not folder.path.exists()
    waiter.join(30)
    assert waiter.exitcode == 0
    assert folder.read_meta() == META_OF_X
    assert len(folder.segments()) == 1


def test_folder_with_a_file_of_somebody_else_stays(folder):
    (folder.path / "notes.txt").write_text("mine")
    with folder.locked():
        folder.remove_folder()
    assert [path.name for path in folder.path.iterdir()] == ["notes.txt"]


def test_use_is_seen_from_outside_until_it_ends(folder, tmp_path):
    assert not folder.in_use()
    descriptors = [folder.use(), folder.use()]
    for descriptor in descriptors:
        assert folder.in_use()
        os.close(descriptor)
    assert not folder.in_use()

    def use():
        folder.use()
        (tmp_path / "used").touch()
        time.sleep(60)

    user = in_a_process(use)
    wait_for(tmp_path / "used")
    assert folder.in_use()
    user.kill()
    user.join()
    assert not folder.in_use()
    assert not StoreFolder(tmp_path / "nothing").in_use()


@pytest.mark.parametrize("name", [LOCK, META])
@pytest.mark.parametrize("kind", ["link", "dangling link", "pipe"])
def test_what_is_no_file_is_not_opened(tmp_path, name, kind):
    folder = StoreFolder(tmp_path / "store")
    folder.path.mkdir()
    if kind == "link":
        (tmp_path / "other").write_text("of somebody else")
    os.mkfifo(folder.path / name) if kind == "pipe" else (folder.path / name).symlink_to(tmp_path / "other")
    words = "is not a file" if kind == "pipe" else "is a link"
    with pytest.raises(StorageError, match=f"{re.escape(name)} {words}"), folder.locked():
        folder.read_meta()
    assert [path.name for path in tmp_path.iterdir() if path.name == "other"] == ["other"] * (kind == "link")


def test_linked_segment_is_none(folder, tmp_path):
    name = folder.new_name()
    write(folder, name, 3)
    for path in (folder.rows_path(name), folder.keys_path(name)):
        path.rename(tmp_path / path.name)
        path.symlink_to(tmp_path / path.name)
    assert folder.segments() == []
    with pytest.raises(StorageError, match="is a link"):
        write(folder, name, 3)


def test_store_that_may_only_be_read_can_be_looked_at(folder, monkeypatch):
    write(folder, folder.new_name(), 3)
    real = os.open

    def refuse(path, flags, mode=0o777):
        if flags & (os.O_RDWR | os.O_WRONLY):
            raise OSError(errno.EROFS, os.strerror(errno.EROFS))
        return real(path, flags, mode)

    monkeypatch.setattr(os, "open", refuse)
    assert folder.read_meta() == META_OF_X
    assert len(folder.segments()) == 1
    assert not folder.in_use()
    with pytest.raises(StorageError, match=r"can't write embeddings to .*: read-only file system; check its files"):
        folder.locked().__enter__()


@pytest.mark.parametrize(
    ("function", "work"),
    [
        ("open", lambda folder, name: folder.read_meta()),
        ("scandir", lambda folder, name: folder.segments()),
        ("unlink", lambda folder, name: folder.remove(name)),
        ("unlink", lambda folder, name: folder.remove_folder()),
        ("ftruncate", lambda folder, name: folder.trim(1)),
        ("open", lambda folder, name: folder.seal(name)),
    ],
)
def test_refusal_in_any_place_is_one_line(folder, monkeypatch, function, work):
    name = folder.new_name()
    write(folder, name, 3)

    def refuse(*args, **kwargs):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(os, function, refuse)
    with pytest.raises(StorageError, match=r"can't (write|read) embeddings (to|of) .*: permission denied; check its"):
        work(folder, name)


def test_refusal_of_the_operating_system_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(
        StorageError, match=r"can't write embeddings to .*: .*; check its files and permissions, or choose"
    ) as caught:
        StoreFolder(tmp_path / "file" / "store").locked().__enter__()
    assert "\n" not in str(caught.value)
