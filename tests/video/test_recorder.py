import errno
import os
import resource
import subprocess
import sys
from contextlib import contextmanager

import imageio_ffmpeg
import numpy as np
import pytest
from PIL import Image, ImageSequence

from vlmreward import atomic
from vlmreward.atomic import atomic_path, write_bytes
from vlmreward.errors import ConfigError, DependencyNotInstalled, FramesError, StorageError
from vlmreward.video import recorder
from vlmreward.video.recorder import VideoWriter, write_gif, write_mp4

COLOURS = [(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255), (0, 0, 0), (200, 120, 40), (128, 128, 128)]


def flat(colour, height=64, width=96):
    return np.full((height, width, 3), colour, np.uint8)


def noise(count, height=64, width=64):
    return np.random.default_rng(0).integers(0, 256, (count, height, width, 3), dtype=np.uint8)


def decode(path):
    reader = imageio_ffmpeg.read_frames(str(path))
    meta = next(reader)
    width, height = meta["size"]
    return meta, np.stack([np.frombuffer(raw, np.uint8).reshape(height, width, 3) for raw in reader])


@contextmanager
def file_size_limit(limit):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_mp4_read_back_has_the_frames_size_rate_and_colours(tmp_path):
    path = tmp_path / "new" / "film.mp4"
    count = write_mp4(path, [flat(c) for c in COLOURS for _ in range(3)], fps=25)
    meta, frames = decode(path)
    assert count == 21
    assert frames.shape == (21, 64, 96, 3)
    assert meta["fps"] == 25
    assert meta["codec"] == "h264"
    assert "yuv420p" in meta["pix_fmt"]
    assert "bt709" in meta["pix_fmt"]
    for number, frame in enumerate(frames):
        assert np.abs(frame.astype(int) - COLOURS[number // 3]).max() <= 6


def test_odd_sides_are_made_even_by_repeating_the_edge(tmp_path):
    path = tmp_path / "film.mp4"
    frame = np.zeros((33, 35, 3), np.uint8)
    frame[:, -1] = 250
    write_mp4(path, [frame] * 2, fps=10, crf=1)
    _, frames = decode(path)
    assert frames.shape[1:3] == (34, 36)
    assert frames[0, :, 34:].mean() > 240
    assert frames[0, :, :33].mean() < 10


def test_order_of_the_pictures_is_kept(tmp_path):
    path = tmp_path / "film.mp4"
    write_mp4(path, (flat((v, v, v)) for v in range(0, 250, 10)), fps=50)
    _, frames = decode(path)
    assert np.abs(frames.mean(axis=(1, 2, 3)) - np.arange(0, 250, 10)).max() < 3


def test_gif_loops_for_ever_and_lasts_as_long_as_the_film(tmp_path):
    path = tmp_path / "film.gif"
    size = write_gif(path, [flat(c) for c in COLOURS for _ in range(10)], fps=50)
    assert size == path.stat().st_size
    with Image.open(path) as gif:
        assert gif.info["loop"] == 0
        assert gif.size == (96, 64)
        milliseconds, shown = 0, []
        for picture in ImageSequence.Iterator(gif):
            milliseconds += picture.info["duration"]
            shown.append(np.asarray(picture.convert("RGB")).astype(int))
    assert milliseconds == pytest.approx(70 / 50 * 1000, abs=45)
    for number, colour in enumerate(COLOURS):  # five pictures a colour at 25 a second
        middle = shown[min(len(shown) - 1, round((number + 0.5) * len(shown) / len(COLOURS)))]
        assert np.abs(middle - colour).max() <= 8


def test_gif_is_made_smaller_until_it_fits(tmp_path):
    frames = noise(6, 120, 180)
    free = write_gif(tmp_path / "free.gif", frames, fps=10)
    limit = free // 6
    assert write_gif(tmp_path / "tight.gif", frames, fps=10, max_bytes=limit) <= limit
    with Image.open(tmp_path / "tight.gif") as gif:
        assert gif.size[0] < 180
        assert gif.size[0] / gif.size[1] == pytest.approx(1.5, abs=0.05)


def test_gif_that_can_not_fit_is_an_error_and_leaves_nothing(tmp_path):
    with pytest.raises(ConfigError, match="raise max_bytes"):
        write_gif(tmp_path / "film.gif", noise(4), fps=10, max_bytes=100)
    assert list(tmp_path.iterdir()) == []


def test_gif_is_no_wider_than_asked(tmp_path):
    write_gif(tmp_path / "film.gif", [flat((9, 9, 9), 100, 400)] * 3, fps=10, max_width=200)
    with Image.open(tmp_path / "film.gif") as gif:
        assert gif.size == (200, 50)


@pytest.mark.parametrize("write", [write_mp4, write_gif])
def test_file_size_limit_gives_one_line_and_leaves_the_old_file(tmp_path, write):
    path = tmp_path / f"film.{'mp4' if write is write_mp4 else 'gif'}"
    path.write_bytes(b"old")
    with file_size_limit(20_000), pytest.raises(StorageError, match="larger than the limit") as caught:
        write(path, noise(40, 128, 128), fps=10)
    assert "\n" not in str(caught.value)
    assert [p.name for p in tmp_path.iterdir()] == [path.name]
    assert path.read_bytes() == b"old"


def test_full_disk_under_ffmpeg_gives_one_line_and_leaves_nothing(tmp_path, monkeypatch):
    def full(path):
        temporary = path.with_name(".temporary.mp4")
        temporary.symlink_to("/dev/full")
        return temporary

    monkeypatch.setattr(recorder, "open_temporary", full)
    with pytest.raises(StorageError, match="no room left on the disk") as caught:
        write_mp4(tmp_path / "film.mp4", noise(60, 256, 256), fps=10, crf=0)
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("failing", ["fsync", "replace"])
def test_full_disk_at_the_end_leaves_the_old_file(tmp_path, monkeypatch, failing):
    path = tmp_path / "film.mp4"
    path.write_bytes(b"old")

    def refuse(*args):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(atomic.os, failing, refuse)
    with pytest.raises(StorageError, match="no room left"):
        write_mp4(path, [flat((1, 2, 3))], fps=10)
    assert path.read_bytes() == b"old"
    assert len(list(tmp_path.iterdir())) == 1


def test_file_is_flushed_before_it_gets_its_name(tmp_path, monkeypatch):
    calls = []
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr(atomic.os, "fsync", lambda d: (calls.append("fsync"), fsync(d)))
    monkeypatch.setattr(atomic.os, "replace", lambda a, b: (calls.append("replace"), replace(a, b)))
    write_bytes(tmp_path / "x", b"content")
    assert calls == ["fsync", "replace", "fsync"]
    assert (tmp_path / "x").read_bytes() == b"content"


def test_exception_while_frames_are_made_leaves_nothing(tmp_path):
    def frames():
        yield flat((1, 2, 3))
        raise KeyError("broken environment")

    for write, name in ((write_mp4, "a.mp4"), (write_gif, "a.gif")):
        with pytest.raises(KeyError, match="broken environment"):
            write(tmp_path / name, frames(), fps=10)
    assert list(tmp_path.iterdir()) == []


def test_film_appears_only_when_it_is_whole(tmp_path):
    path = tmp_path / "film.mp4"
    with VideoWriter(path, fps=10) as writer:
        for _ in range(3):
            writer.add(flat((5, 5, 5)))
            assert not path.exists()
    assert path.is_file()
    assert writer.frames == 3


@pytest.mark.parametrize("write", [write_mp4, write_gif])
def test_no_picture_and_pictures_of_two_sizes_are_refused(tmp_path, write):
    path = tmp_path / f"film.{'mp4' if write is write_mp4 else 'gif'}"
    with pytest.raises(FramesError, match="at least one"):
        write(path, [], fps=10)
    with pytest.raises(FramesError, match="all pictures"):
        write(path, [flat((0, 0, 0)), flat((0, 0, 0), 32, 32)], fps=10)
    assert list(tmp_path.iterdir()) == []


def test_wrong_settings_are_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"\.mp4"):
        VideoWriter(tmp_path / "film.avi", fps=10)
    with pytest.raises(ConfigError, match=r"\.gif"):
        write_gif(tmp_path / "film.mp4", [], fps=10)
    for fps in (0, -1, 1000, float("nan")):
        with pytest.raises(ConfigError, match="fps"):
            VideoWriter(tmp_path / "film.mp4", fps=fps)
    with pytest.raises(ConfigError, match="crf"):
        VideoWriter(tmp_path / "film.mp4", fps=1, crf=99)
    with pytest.raises(FramesError, match="uint8"):
        write_mp4(tmp_path / "film.mp4", [np.zeros((8, 8, 3))], fps=1)  # type: ignore


def test_folder_that_is_a_file_is_told_before_anything_is_written(tmp_path):
    (tmp_path / "videos").write_text("not a folder")
    with pytest.raises(StorageError, match="not a folder"), VideoWriter(tmp_path / "videos" / "film.mp4", fps=10):
        pytest.fail("the block must not start")


def test_other_errors_pass_unchanged(tmp_path):
    with pytest.raises(OSError, match="weird") as caught, atomic_path(tmp_path / "x"):
        raise OSError(errno.EIO, "weird")
    assert not isinstance(caught.value, StorageError)
    assert list(tmp_path.iterdir()) == []


def test_missing_ffmpeg_is_told_in_one_line(tmp_path, monkeypatch):
    def missing():
        raise RuntimeError("No ffmpeg exe could be found.\nInstall ffmpeg")

    monkeypatch.setattr(imageio_ffmpeg, "get_ffmpeg_exe", missing)
    with pytest.raises(DependencyNotInstalled, match="IMAGEIO_FFMPEG_EXE") as caught:
        write_mp4(tmp_path / "film.mp4", [flat((0, 0, 0))], fps=10)
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_ffmpeg_that_fails_for_another_reason_says_why(tmp_path, monkeypatch):
    monkeypatch.setattr(recorder, "_H264", ("-c:v", "no_such_codec"))
    with pytest.raises(RuntimeError, match="no_such_codec"):
        write_mp4(tmp_path / "film.mp4", [flat((0, 0, 0))] * 50, fps=10)
    assert list(tmp_path.iterdir()) == []


def test_memory_does_not_grow_with_the_length_of_the_film(tmp_path):
    """Ten times the pictures, 180 MB of them, must not cost 30 MB more."""
    code = (
        "import sys, numpy as np; from pathlib import Path; from vlmreward.video.recorder import write_mp4\n"
        "f = np.zeros((200, 300, 3), np.uint8)\n"
        "write_mp4(Path(sys.argv[1]), (f + np.uint8(i % 200) for i in range(int(sys.argv[2]))), fps=50)\n"
        # getrusage's begins with the peak of the process that started this one
        "print(Path('/proc/self/status').read_text().split('VmHWM:')[1].split()[0])"
    )

    def peak(count):
        command = [sys.executable, "-c", code, str(tmp_path / "film.mp4"), str(count)]
        return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)

    assert peak(1000) - peak(100) < 30_000  # KiB
