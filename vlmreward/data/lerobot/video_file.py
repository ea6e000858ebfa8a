"""Video files of a LeRobot dataset that is being written: several episodes in each, one after another."""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from vlmreward.atomic import storage_errors
from vlmreward.data.dataset import Frame
from vlmreward.data.lerobot.layout import fill_template
from vlmreward.optional import require_package

VIDEO_PATH = "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4"
CHUNKS_SIZE = 1000
VIDEO_MB = 200


class VideoFile:
    """The video of one camera that episodes are being added to.

    Args:
        root: The dataset's folder.
        key: The camera's feature.
        fps: Pictures a second.
        codec: As PyAV names it.
        options: Of the codec.

    Attributes:
        file: Number of the file, from 0, over all chunks.
        frames: Pictures in it.
    """

    def __init__(self, root: Path, key: str, fps: float, codec: str, options: Mapping[str, str]) -> None:
        self._root, self._key, self._codec, self._options = root, key, codec, dict(options)
        self._rate = Fraction(fps).limit_denominator(100_000)
        self._container: Any = None
        self._stream: Any = None
        self.file = -1
        self.frames = 0

    @property
    def place(self) -> dict[str, int | str]:
        """Chunk and number of the file."""
        return {"chunk_index": self.file // CHUNKS_SIZE, "file_index": self.file % CHUNKS_SIZE}

    @property
    def path(self) -> Path:
        """The file."""
        return self._root / fill_template(VIDEO_PATH, {**self.place, "video_key": self._key}, "video_path")

    def begin(self, width: int, height: int) -> None:
        """Make ready for an episode: a new file, where there is none or the last one is large enough."""
        # a short episode may wait in the encoder, and there is no file yet
        if self._container is not None and (not self.path.exists() or self.path.stat().st_size < VIDEO_MB << 20):
            return
        self.close()
        av = require_package("av", "data")
        self.file += 1
        self.frames = 0
        with storage_errors(self.path, making=True):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._container = av.open(str(self.path), "w", format="mp4")
        stream = self._container.add_stream(self._codec, rate=self._rate, options=self._options)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.codec_context.gop_size = 2  # any picture is at most one away from where decoding can start
        stream.codec_context.thread_count = 1  # the same bytes on every machine
        self._stream = stream

    def add(self, frame: Frame) -> None:
        """Encode a picture, uint8, shape (H, W, 3)."""
        av = require_package("av", "data")
        picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")
        picture.pts = self.frames
        picture.time_base = 1 / self._rate
        for packet in self._stream.encode(picture):
            self._container.mux(packet)
        self.frames += 1

    def close(self) -> None:
        """Write what is still being encoded; without this the file can't be read."""
        if self._container is None:
            return
        for packet in self._stream.encode():
            self._container.mux(packet)
        self._container.close()
        self._container = None
