from fractions import Fraction
from itertools import islice
from typing import Any

# pyright: reportAttributeAccessIssue=false, reportOptionalOperand=false, reportArgumentType=false
# frames and lost frames come through one iterator, and formats may lack a writer: a test knows which it is
import av
import numpy as np
import pytest

from vlmreward.data.dataset import Undecodable
from vlmreward.data.video import decode_span, find_end, probe
from vlmreward.errors import DatasetError

FPS = 10


def write(path, count, gop=12, options=None, fps=FPS, times=None, codec="libx264", of_codec=None):
    """A video whose picture i has the grey 10 + 4 i and noise below, so that each picture takes some bytes."""
    noise = np.random.default_rng(0).integers(0, 255, (24, 64, 3), np.uint8)
    with av.open(str(path), "w", options=options or {}) as container:
        stream: Any = container.add_stream(codec, rate=fps, options=of_codec)
        stream.width = stream.height = 64
        stream.pix_fmt = "yuv420p"
        stream.codec_context.gop_size = gop
        if times is not None:
            stream.codec_context.time_base = Fraction(1, 1000)
        for i in range(count):
            pixels = np.full((64, 64, 3), 10 + 4 * i, np.uint8)
            pixels[40:] = np.roll(noise, i, axis=1)
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            if times is not None:
                frame.pts = int(times[i] * 1000)
                frame.time_base = stream.codec_context.time_base
            for packet in stream.encode(frame):
                container.mux(packet)
        for packet in stream.encode():
            container.mux(packet)
    return path


def numbers(items):
    """Which picture each item shows; None where it is undecodable."""
    return [None if isinstance(x, Undecodable) else round((float(x[:32].mean()) - 10) / 4) for x in items]


def reason(item):
    """Why there is no picture."""
    return item.reason


@pytest.fixture
def video(tmp_path):
    return write(tmp_path / "v.mp4", 50)


@pytest.mark.parametrize(("start", "count"), [(0, 50), (0, 1), (13, 20), (49, 1), (24, 26)])
def test_span_gives_each_picture_in_its_place(video, start, count):
    items: list[Any] = list(decode_span(video, start / FPS, (start + count) / FPS, count, FPS))
    assert numbers(items) == list(range(start, start + count))
    assert items[0].dtype == np.uint8
    assert items[0].shape == (64, 64, 3)


BACKWARD = {"x264-params": "bframes=3:b-adapt=0:scenecut=0"}
"""Pictures that lean on later ones, which are stored before them."""


@pytest.mark.parametrize(
    ("name", "codec", "of_codec"),
    [
        ("v.mp4", "libx264", {}),
        ("v.mp4", "libx264", BACKWARD),
        ("v.mp4", "libx264", {"x264-params": "open-gop=1:bframes=3:b-adapt=0:scenecut=0:b-pyramid=normal"}),
        ("v.mkv", "libx264", BACKWARD),
        ("v.ts", "libx264", BACKWARD),
        ("v.flv", "libx264", BACKWARD),
        ("v.mp4", "libx265", {"x265-params": "open-gop=1:bframes=3:log-level=none"}),
        ("v.webm", "libvpx-vp9", {"deadline": "realtime", "auto-alt-ref": "1", "lag-in-frames": "10"}),
    ],
)
def test_pictures_from_any_one_on_are_the_end_of_all(tmp_path, name, codec, of_codec):
    path = write(tmp_path / name, 40, codec=codec, of_codec=of_codec)
    begin = probe(path).start_s
    for fps in (FPS, None):
        whole = list(decode_span(path, begin + 0.3, begin + 3.8, 35, fps))
        assert numbers(whole) == list(range(3, 38))
        for first in range(36):
            items = list(islice(decode_span(path, begin + 0.3, begin + 3.8, 35, fps, first), 3))
            np.testing.assert_array_equal(items, whole[first : first + 3])
        assert numbers(decode_span(path, begin + 0.3, begin + 3.8, 35, fps, 17)) == list(range(20, 38))


@pytest.mark.parametrize("fps", [FPS, None])
def test_pictures_from_any_one_on_have_the_gaps_of_all(tmp_path, fps):
    path = write(tmp_path / "gap.mkv", 7, gop=3, times=[0.0, 0.1, 0.4, 0.5, 0.6, 0.9, 1.1])
    whole = numbers(decode_span(path, 0.0, 1.2, 12, fps))
    assert whole.count(None) == 5
    for first in range(13):
        assert numbers(decode_span(path, 0.0, 1.2, 12, fps, first)) == whole[first:]


@pytest.mark.parametrize("damage", ["cut", "key picture", "picture"])
def test_pictures_from_any_one_on_are_lost_where_those_of_all_are(tmp_path, damage):
    path = write(tmp_path / "v.mp4", 60, gop=10, options={"movflags": "faststart"})
    content = bytearray(path.read_bytes())
    if damage == "cut":
        content = content[: int(0.6 * len(content))]
    else:
        with av.open(str(path)) as container:
            packets = [p for p in container.demux(video=0) if p.size]
            hit = packets[20 if damage == "key picture" else 24]
            content[hit.pos + 4 : hit.pos + hit.size] = bytes(hit.size - 4)
    path.write_bytes(content)
    whole = numbers(decode_span(path, 0, 6, 60, FPS))
    assert 5 <= whole.count(None) < 40
    for first in range(0, 61, 3):
        assert numbers(islice(decode_span(path, 0, 6, 60, FPS, first), 12)) == whole[first : first + 12]


def test_no_picture_is_decoded_before_the_key_one_that_the_first_is_built_on(video, monkeypatch):
    from vlmreward.data import video as module

    decoded = []
    decode = module._decode

    def counted(*given):
        for time, picture in decode(*given):
            decoded.append(time)
            yield time, picture

    monkeypatch.setattr(module, "_decode", counted)
    for fps in (FPS, None):
        assert numbers(decode_span(video, 0.0, 5.0, 50, fps, 40)) == list(range(40, 50))
    assert decoded == pytest.approx([t / FPS for t in range(36, 50)] * 2)


def test_times_half_a_period_off_still_find_their_pictures(video):
    items = decode_span(video, 1.0 + 0.04, 2.0 + 0.04, 10, FPS)
    assert numbers(items) == list(range(10, 20))


def test_pictures_behind_the_span_or_the_file_are_undecodable(video):
    items = list(decode_span(video, 4.5, 4.8, 6, FPS))
    assert numbers(items) == [45, 46, 47, None, None, None]
    assert "no picture 3 of the span at 4.800 s" in reason(items[3])
    assert numbers(decode_span(video, 4.8, 6.0, 4, FPS)) == [48, 49, None, None]


@pytest.mark.parametrize(
    ("start", "end", "fps"), [(np.nan, 1.0, 10), (0.0, np.inf, 10), (0.0, 1.0, 0), (0.0, 1.0, np.nan)]
)
def test_span_without_finite_times_has_reasons_only(video, start, end, fps):
    items = list(decode_span(video, start, end, 3, fps))
    assert numbers(items) == [None] * 3
    assert "no span of time" in reason(items[0])


def test_truncated_video_keeps_what_stands_before_the_cut(tmp_path):
    whole = write(tmp_path / "whole.mp4", 60, options={"movflags": "faststart"})
    cut = tmp_path / "cut.mp4"
    cut.write_bytes(whole.read_bytes()[: int(whole.stat().st_size * 0.6)])
    found = numbers(decode_span(cut, 0, 6, 60, FPS))
    kept = [i for i, n in enumerate(found) if n is not None]
    assert 12 <= len(kept) < 50
    assert [found[i] for i in kept] == kept
    with pytest.raises(DatasetError, match=r"cut\.mp4"):
        find_end(cut)
    assert find_end(whole) == pytest.approx(5.9)


def test_damage_costs_pictures_up_to_the_next_key_picture_and_no_more(tmp_path):
    whole = write(tmp_path / "whole.mp4", 60, gop=10, options={"movflags": "faststart"})
    with av.open(str(whole)) as container:
        hit: Any = next(
            p for p in container.demux(video=0) if p.is_keyframe and p.pts and float(p.pts * p.time_base) >= 2.0
        )
        at, size, first = hit.pos, hit.size, round(float(hit.pts * hit.time_base) * FPS)
    damaged = bytearray(whole.read_bytes())
    damaged[at + 4 : at + size] = bytes(size - 4)
    path = tmp_path / "damaged.mp4"
    path.write_bytes(damaged)
    items = list(decode_span(path, 0, 6, 60, FPS))
    found = numbers(items)
    wrong = [i for i, n in enumerate(found) if n is None]
    assert first in wrong
    assert 10 <= len(wrong) <= 14
    assert all(n in (None, i) for i, n in enumerate(found))
    assert "damaged picture" in reason(items[first])


def test_variable_rate_is_taken_in_order(tmp_path):
    times = [0.0, 0.1, 0.15, 0.5, 0.9, 0.95, 2.0]
    path = write(tmp_path / "vfr.mkv", len(times), times=times)
    info = probe(path)
    assert info.frames == len(times)
    assert numbers(decode_span(path, info.start_s, 10.0, 8, None)) == [0, 1, 2, 3, 4, 5, 6, None]
    assert numbers(decode_span(path, 0.12, 0.92, 3, None)) == [2, 3, 4]


def test_gap_on_a_regular_grid_keeps_the_places_behind_it(tmp_path):
    path = write(tmp_path / "gap.mkv", 5, times=[0.0, 0.1, 0.4, 0.5, 0.6])
    assert numbers(decode_span(path, 0.0, 0.7, 7, FPS)) == [0, 1, None, None, 2, 3, 4]


def test_decoding_is_lazy(video, monkeypatch):
    decoded = []
    from vlmreward.data import video as module

    to_rgb = module._to_rgb
    monkeypatch.setattr(module, "_to_rgb", lambda c, p: decoded.append(p.pts) or to_rgb(c, p))
    next(decode_span(video, 0.0, 5.0, 50, FPS))
    assert len(decoded) == 1


def test_probe_tells_what_the_head_says(video):
    info = probe(video)
    assert (info.width, info.height, info.frames, info.codec, info.pix_fmt) == (64, 64, 50, "h264", "yuv420p")
    assert info.fps == pytest.approx(FPS)
    assert info.duration_s == pytest.approx(5.0)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"not a video at all",
        b"#EXTM3U\n#EXTINF:1\n{other}\n",
        b"ffconcat version 1.0\nfile other.mp4\n",
        b"\x00\x00\x00\x18ftypisom" + bytes(500),
    ],
)
def test_what_is_no_video_is_refused_in_one_line_and_opens_nothing_else(tmp_path, content):
    other = write(tmp_path / "other.mp4", 5)
    path = tmp_path / "posing.mp4"
    path.write_bytes(content.replace(b"{other}", str(other).encode()))
    items = list(decode_span(path, 0.0, 0.5, 5, FPS))
    assert numbers(items) == [None] * 5
    assert "posing.mp4" in reason(items[0])
    assert "\n" not in reason(items[0])
    with pytest.raises(DatasetError, match=r"posing\.mp4"):
        probe(path)


def test_folder_and_missing_file_are_refused(tmp_path):
    for path in (tmp_path, tmp_path / "nowhere.mp4"):
        with pytest.raises(DatasetError, match="give a video file"):
            probe(path)
        assert numbers(decode_span(path, 0.0, 0.1, 1, FPS)) == [None]
