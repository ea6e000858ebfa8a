import errno
import io
import tracemalloc

import numpy as np
import pytest

from vlmreward.errors import FramesError, StorageError
from vlmreward.video.spool import FrameSpool


def picture(value, size=8):
    return np.full((size, size, 3), value, np.uint8)


def test_episodes_come_back_as_they_were_also_after_the_block():
    with FrameSpool() as spool:
        for values, size in (((1, 2, 3), 8), ((4,), 5), ((5, 6), 8)):
            spool.start()
            for value in values:
                spool.add(picture(value, size)[:, ::-1])  # not contiguous
            assert len(spool.episode(len(spool) - 1)) == len(values)  # reading in between does no harm
        episodes = [spool.episode(number) for number in range(len(spool))]
    assert [episode.shape for episode in episodes] == [(3, 8, 8, 3), (1, 5, 5, 3), (2, 8, 8, 3)]
    assert [episode[:, 0, 0, 0].tolist() for episode in episodes] == [[1, 2, 3], [4], [5, 6]]


def test_memory_does_not_grow_with_episodes():
    tracemalloc.start()
    with FrameSpool() as spool:
        for _ in range(40):
            spool.start()
            for value in range(10):
                spool.add(picture(value, 128))  # 20 MB in all
        shown = [spool.episode(number) for number in range(40)]
        assert shown[39][9].max() == 9
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2e6


def test_nothing_lies_in_the_temporary_directory(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with FrameSpool() as spool:
        spool.start()
        spool.add(picture(1))
        assert list(tmp_path.iterdir()) == []


def test_picture_of_another_size_is_refused():
    with FrameSpool() as spool:
        spool.start()
        spool.add(picture(1))
        with pytest.raises(FramesError, match=r"must be \(8, 8, 3\), got \(9, 9, 3\)"):
            spool.add(picture(1, 9))


def test_full_disk_is_one_line(monkeypatch):
    class Full(io.BytesIO):
        def write(self, data):
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("tempfile.TemporaryFile", lambda **options: Full())
    with FrameSpool() as spool:
        spool.start()
        with pytest.raises(StorageError, match="set TMPDIR to a folder with room"):
            spool.add(picture(1))
