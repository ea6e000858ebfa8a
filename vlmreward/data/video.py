"""Pictures of a span of time of a video file, each in its place, decoded as they are asked for (PyAV)."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt

from vlmreward.data.dataset import Frame, Undecodable
from vlmreward.errors import DatasetError
from vlmreward.optional import require_package

# A playlist or script that poses as a video could open other files or addresses; these containers hold their own data.
_CONTAINERS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,mpeg,mpegvideo,h264,hevc,ivf,flv,ogg,gif,asf"
_OPEN_OPTIONS = {"protocol_whitelist": "file", "format_whitelist": _CONTAINERS}
_BEHIND = 1 << 62  # place of a picture behind a span


@dataclass(frozen=True)
class VideoInfo:
    """What the head of a video file says of its pictures.

    Attributes:
        width: In pixels, as stored.
        height: In pixels, as stored.
        fps: Average pictures a second; None where the file doesn't say.
        frames: Number of pictures; counted, without decoding, where the head doesn't say.
        start_s: Time of the first picture, in seconds.
        duration_s: From the first picture to the end of the last one, in seconds; None where unknown.
        codec: Name of the codec, e.g. ``"h264"``.
        pix_fmt: Pixel format, e.g. ``"yuv420p"``.
    """

    width: int
    height: int
    fps: float | None
    frames: int
    start_s: float
    duration_s: float | None
    codec: str
    pix_fmt: str


def probe(path: Path) -> VideoInfo:
    """Read the head of a video file; decodes nothing.

    Raises:
        DatasetError: The file is missing, no video, or its head is damaged.
        DependencyNotInstalled: PyAV is missing.
    """
    av = require_package("av", "data")
    with _open(av, path) as container:
        stream = container.streams.video[0]
        context = stream.codec_context
        rate = stream.average_rate or stream.guessed_rate
        times = [] if stream.frames else _picture_times(av, container, stream)
        start = (stream.start_time or 0) if stream.frames else (times[0] if times else 0)
        duration: float | None = None
        if stream.duration is not None:
            duration = float(stream.duration * stream.time_base)
        elif container.duration is not None:
            duration = container.duration / av.time_base
        return VideoInfo(
            width=int(context.width),
            height=int(context.height),
            fps=float(rate) if rate else None,
            frames=int(stream.frames or len(times)),
            start_s=float(start * stream.time_base),
            duration_s=duration,
            codec=str(context.name),
            pix_fmt=str(context.pix_fmt or ""),
        )


def decode_span(
    path: Path, start_s: float, end_s: float, count: int, fps: float | None, first: int = 0
) -> Iterator[Frame | Undecodable]:
    """Decode the pictures of a span of a video from number ``first`` on, in time order, each in its place.

    Picture i is the one shown at ``start_s + i / fps``, give or take half a period: times of a video are rounded, so
    equality would miss pictures. A picture that is missing, damaged or built on a damaged one is
    :class:`~vlmreward.data.dataset.Undecodable`, and the others keep their places. Holds a few pictures at a time, and
    decodes none before the key picture that the first one is built on.

    Args:
        path: The video file.
        start_s: Time of picture 0 in the file, in seconds.
        end_s: Where the span ends: later pictures, and the one at this time, belong to others.
        count: Number of pictures of the span.
        fps: Pictures a second of the span; None takes the pictures of the span in order, whatever their times (for
            videos with a variable rate), which reads the file once more.
        first: Number of the first picture to give, 0 to ``count``.

    Yields:
        Exactly ``count - first`` items: RGB, uint8, shape (H, W, 3), or why there is none.

    Raises:
        DependencyNotInstalled: PyAV is missing.
    """
    av = require_package("av", "data")
    if not (math.isfinite(start_s) and math.isfinite(end_s)) or (fps is not None and not 0 < fps < math.inf):
        reason = f"no span of time to decode: from {start_s} s to {end_s} s at {fps} pictures a second"
        yield from (Undecodable(reason) for _ in range(first, count))
        return
    converter = av.video.reformatter.VideoReformatter()  # one for all pictures: half of the time went into making it
    due, reason = first, ""
    try:
        grid = _Grid(start_s, end_s, fps) if fps is not None else _Order(path, start_s, end_s)
        for time, picture in _decode(av, path, grid.earliest(first)):
            found = grid.place(time)
            lost = picture.reason if isinstance(picture, Undecodable) else ""
            if found is not None and found >= due:  # neither before the first one, nor a second one for a place
                reason = lost or reason
                if found >= count:
                    break
                for missing in range(due, found):
                    yield Undecodable(reason or _nothing_at(path, start_s, missing, fps))
                yield picture if lost else _to_rgb(converter, picture)
                due = found + 1
                if due == count:
                    return
            reason = lost
    except DatasetError as e:
        reason = str(e)
    for missing in range(due, count):
        yield Undecodable(reason or _nothing_at(path, start_s, missing, fps))


def find_end(path: Path) -> float:
    """Decode the last pictures of a video and return the time of the last one, in seconds.

    Raises:
        DatasetError: The file is no video, or it ends before what its head promises.
        DependencyNotInstalled: PyAV is missing.
    """
    av = require_package("av", "data")
    info = probe(path)
    promised = info.start_s + (info.duration_s or 0.0)
    near_end = promised - 1.5 / info.fps if info.fps else promised
    last: float | None = None
    for time, item in _decode(av, path, near_end):
        if isinstance(item, Undecodable) and time >= near_end:
            raise DatasetError(f"{path.name}: {item.reason} near its end")
        last = time
    if last is None or (info.duration_s is not None and last < near_end - 1e-3):
        shown = "no picture" if last is None else f"a last picture at {last:.3f} s"
        raise DatasetError(f"{path.name} is truncated: its head promises {promised:.3f} s of video, it holds {shown}")
    return last


def _open(av: ModuleType, path: Path) -> Any:
    if not path.is_file():  # a named pipe would block for ever
        what = "no file" if path.exists() else "missing"
        raise DatasetError(f"video {path.name} is {what}: give a video file")
    try:
        container = av.open(str(path.absolute()), options=_OPEN_OPTIONS, metadata_errors="replace")
    except (av.error.FFmpegError, OSError, ValueError) as e:
        raise DatasetError(f"can't open video {path.name}: {_short(e)}; is it whole?") from e
    if not container.streams.video:
        container.close()
        raise DatasetError(f"{path.name} holds no video: {len(container.streams)} streams, none with pictures")
    return container


def _picture_times(av: ModuleType, container: Any, stream: Any) -> list[int]:
    """Return the time of every picture of a stream, in its units, sorted; reads all, decodes nothing."""
    times = []
    try:
        for packet in container.demux(stream):
            if packet.pts is not None and packet.size:
                times.append(int(packet.pts))
    except (av.error.FFmpegError, OSError):
        pass  # the file ends here: whoever asks for more pictures than were counted is told so when decoding
    return sorted(times)


@functools.lru_cache(maxsize=16)
def _times_in_order(path: Path, size: int, changed_ns: int) -> tuple[npt.NDArray[np.float64], float]:
    """Return the time of every picture of a file, sorted, and its unit, in seconds; kept while the file is the same."""
    av = require_package("av", "data")
    with _open(av, path) as container:
        stream = container.streams.video[0]
        base = float(stream.time_base)
        return np.array(_picture_times(av, container, stream), np.float64) * base, base


class _Grid:
    """Places of a span with a steady rate."""

    def __init__(self, start_s: float, end_s: float, fps: float) -> None:
        self._start_s, self._end_s, self._fps = start_s, end_s, fps

    def earliest(self, place: int) -> float:
        """Return a time in seconds before which no picture of the place or a later one is shown."""
        return self._start_s + (place - 0.5) / self._fps

    def place(self, time: float) -> int | None:
        """Return the place of a picture from its time; None before the span, a huge number behind it."""
        half = 0.5 / self._fps
        if time >= self._end_s - half:
            return _BEHIND
        return None if time < self._start_s - half else round((time - self._start_s) * self._fps)


class _Order:
    """Places of a span whose pictures count in order, whatever their times; methods as those of ``_Grid``."""

    def __init__(self, path: Path, start_s: float, end_s: float) -> None:
        about = path.stat() if path.is_file() else None  # one that is missing is told of when it is opened
        self._times, base = _times_in_order(path, about.st_size if about else 0, about.st_mtime_ns if about else 0)
        self._half = base / 2
        self._first, self._end_s = int(np.searchsorted(self._times, start_s - self._half)), end_s

    def earliest(self, place: int) -> float:
        return float(self._times[min(self._first + place, len(self._times) - 1)]) if len(self._times) else 0.0

    def place(self, time: float) -> int | None:
        if time >= self._end_s + self._half:
            return _BEHIND
        found = int(np.searchsorted(self._times, time - self._half)) - self._first
        return None if found < 0 else found


def _open_at(av: ModuleType, path: Path, start_s: float) -> tuple[Any, Any, Iterator[Any]]:
    """Open a video at the key picture at or before a time; returns container, stream and packets.

    A container may go to a key picture that is stored before and shown after the time, or to none at all. It is then
    sent back further, and in the end read from its beginning. Where pictures that are stored after the key one are
    shown before it (an open group of pictures), later ones may lean on what these leave behind: it is begun a group
    earlier.
    """
    back_s, is_earlier = 0.0, False
    while True:
        container = _open(av, path)
        stream = container.streams.video[0]
        base: Fraction = stream.time_base
        goal = math.floor((start_s - back_s) / base + 1e-6)
        packets = container.demux(stream)
        if goal <= (stream.start_time or 0):
            return container, stream, packets
        try:
            container.seek(goal, backward=True, stream=stream)
            head = list(itertools.islice(packets, 2))
        except OverflowError as e:
            container.close()
            raise DatasetError(f"can't go to {start_s:.3f} s: {_short(e)}") from e
        except (av.error.FFmpegError, OSError):
            head = []  # nothing can be read there: what comes before tells why
        if not _is_key_before(head, start_s, base):
            back_s = max(2 * back_s, 1.0)
        elif is_earlier or not _is_open(head):
            return container, stream, itertools.chain(head, packets)
        else:
            start_s, back_s, is_earlier = float((_shown(head[0]) - 1) * base), 0.0, True
        container.close()


def _shown(packet: Any) -> int:
    """Return when a packet's picture is shown, in units of the stream; a huge number where it doesn't say."""
    return next((int(time) for time in (packet.pts, packet.dts) if time is not None), _BEHIND)


def _is_key_before(head: Sequence[Any], time_s: float, base: Fraction) -> bool:
    return bool(head) and head[0].is_keyframe and float(_shown(head[0]) * base) <= time_s + float(base) / 2


def _is_open(head: Sequence[Any]) -> bool:
    return len(head) > 1 and _shown(head[1]) < _shown(head[0])


def _decode(av: ModuleType, path: Path, start_s: float) -> Iterator[tuple[float, Any]]:
    """Decode from the key picture at or before a time; yields time in seconds and picture, or why there is none.

    After a fault, nothing counts up to the next key picture: a decoder hides the fault by inventing what it lacks.
    """
    container, stream, packets = _open_at(av, path, start_s)
    with container:
        base: Fraction = stream.time_base
        stream.codec_context.options = {"err_detect": "explode"}
        size = (stream.codec_context.height, stream.codec_context.width)
        fault = ""
        while True:
            try:
                packet = next(packets, None)
            except (av.error.FFmpegError, OSError) as e:
                raise DatasetError(f"the video can't be read on: {_short(e)}") from e
            if packet is None:
                return
            try:
                pictures = packet.decode()
            except (av.error.FFmpegError, OSError, ValueError) as e:
                fault = f"damaged picture: {_short(e)}"
                if packet.pts is not None:
                    yield float(packet.pts * base), Undecodable(fault)
                continue
            for picture in pictures:
                if picture.pts is None:
                    continue
                time = float(picture.pts * base)
                if picture.is_corrupt:
                    fault = "damaged picture"
                elif picture.key_frame:
                    fault = ""
                if fault:
                    yield time, Undecodable(fault)
                elif (picture.height, picture.width) != size:
                    yield time, Undecodable(f"size {picture.width}x{picture.height}, not {size[1]}x{size[0]} as before")
                else:
                    yield time, picture


def _to_rgb(converter: Any, picture: Any) -> Frame:
    rgb: Frame = converter.reformat(picture, format="rgb24").to_ndarray()
    turns = int(picture.rotation) // 90 if picture.rotation else 0  # phones store pictures lying on their side
    return np.ascontiguousarray(np.rot90(rgb, turns)) if turns else rgb


def _nothing_at(path: Path, start_s: float, place: int, fps: float | None) -> str:
    when = f" at {start_s + place / fps:.3f} s" if fps else ""
    return f"{path.name} has no picture {place} of the span{when}"


def _short(error: Exception) -> str:
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return " ".join(str(text).split()).lower()
