import errno

import pytest

from vlmreward.atomic import check_writable, storage_error, write_bytes
from vlmreward.errors import StorageError


def test_file_that_can_be_written_leaves_nothing_behind(tmp_path):
    check_writable(tmp_path / "a" / "b" / "c.json")
    (tmp_path / "old.json").write_text("old")
    check_writable(tmp_path / "old.json")
    assert [path.name for path in tmp_path.rglob("*")] == ["old.json"]
    assert (tmp_path / "old.json").read_text() == "old"


def test_place_that_takes_no_file_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    for path, words in (
        (tmp_path, "it is a folder; choose another path"),
        (tmp_path / "file" / "x", "a part of the path is a file, not a folder"),
        (tmp_path / "file" / "x" / "y", "a part of the path is a file, not a folder"),
        (tmp_path / ("n" * 300) / "x", "the name is too long"),
    ):
        for write in (check_writable, lambda path: write_bytes(path, b"")):
            with pytest.raises(StorageError, match=words):
                write(path)
    assert [path.name for path in tmp_path.rglob("*")] == ["file"]


def test_advice_fits_the_reason(tmp_path):
    assert str(storage_error(tmp_path, errno.ENOSPC)).endswith("free some room or choose another folder")
    assert str(storage_error(tmp_path, errno.EROFS)).endswith("read-only; choose another path")
