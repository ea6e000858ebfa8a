"""Write pictures as MP4 (h264) and GIF through the ffmpeg that the package imageio-ffmpeg ships.

Pictures are piped one by one, so a long film needs no more memory than a short one, and every file
appears whole or not at all.
"""

from __future__ import annotations

import errno
import signal
import subprocess
import tempfile
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import IO, Self

import numpy as np
import numpy.typing as npt

from vlmreward.atomic import atomic_path, commit, open_temporary, storage_error
from vlmreward.errors import ConfigError, DependencyNotInstalled, FramesError

# Without a tag, players guess the colour matrix from the size of the picture, and guess differently.
_H264 = (
    *("-vf", "scale=out_color_matrix=bt709:out_range=tv,format=yuv420p"),
    *("-colorspace", "bt709", "-color_primaries", "bt709", "-color_trc", "bt709"),
    *("-c:v", "libx264", "-preset", "medium", "-movflags", "+faststart"),
)
_LOSSLESS = ("-c:v", "libx264rgb", "-preset", "ultrafast", "-qp", "0", "-f", "matroska")
_PALETTE = "palettegen=max_colors={colours}"
_USE_PALETTE = "paletteuse=dither=bayer:bayer_scale=5:diff_mode=rectangle"


def find_ffmpeg() -> str:
    """Return the path of an ffmpeg program.

    Raises:
        DependencyNotInstalled: There is none for this platform.
    """
    import imageio_ffmpeg

    try:
        return str(imageio_ffmpeg.get_ffmpeg_exe())
    except RuntimeError as e:
        raise DependencyNotInstalled(
            "no ffmpeg for this platform in the package imageio-ffmpeg: "
            "install ffmpeg, or set IMAGEIO_FFMPEG_EXE to its path"
        ) from e


class VideoWriter:
    """Writes one film, picture by picture; use it in a ``with`` block.

    The film appears at ``path`` when the block ends well; after an exception nothing is left. Sides that
    are odd are made even by repeating the last row or column, as h264 with 4:2:0 colour needs.

    Args:
        path: The file to write, ``.mp4``.
        fps: Pictures per second of the film.
        crf: Quality of h264, 0 (lossless) to 51 (worst).
        keyframe_every: None: where ffmpeg likes. A number: at least every so many pictures, and no picture is stored
            before one that it is shown after, so that a player that steps has little to decode.

    Raises:
        ConfigError: ``path`` does not end in .mp4, or ``fps``, ``crf`` or ``keyframe_every`` is out of range.
        StorageError: The disk is full, or the folder can't be written.
        FramesError: A picture has another size than the first, or there was none.

    Example:
        >>> with VideoWriter(Path("film.mp4"), fps=50) as writer:  # doctest: +SKIP
        ...     for frame in frames:
        ...         writer.add(frame)
    """

    def __init__(self, path: Path, fps: float, crf: int = 20, keyframe_every: int | None = None) -> None:
        if path.suffix.lower() != ".mp4":
            raise ConfigError(f"a film is written as .mp4, got {path.name}: use write_gif for a GIF")
        check_fps(fps)
        if not 0 <= crf <= 51:
            raise ConfigError(f"crf must be between 0 and 51, got {crf}")
        if keyframe_every is not None and keyframe_every < 1:
            raise ConfigError(f"keyframe_every must be at least 1, got {keyframe_every}")
        self.path = path
        self.frames = 0
        self._fps = fps
        stepping = () if keyframe_every is None else ("-g", str(keyframe_every), "-bf", "0")
        self._output = (*_H264, "-crf", str(crf), *stepping)
        self._temporary: Path | None = None
        self._pipe: _Pipe | None = None

    def __enter__(self) -> Self:
        """Make the file's folder, so that an unwritable one is told before anything is rendered."""
        self._temporary = open_temporary(self.path)
        return self

    def add(self, frame: npt.NDArray[np.uint8]) -> None:
        """Add one picture, RGB, uint8, shape (H, W, 3)."""
        assert self._temporary is not None, "add() belongs into the with block"
        if frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[2] != 3 or 0 in frame.shape:
            raise FramesError(f"a picture must be uint8 of shape (H, W, 3), got {frame.dtype} {frame.shape}")
        if self._pipe is None:
            self._pipe = _Pipe(self.path, self._temporary, frame.shape[:2], self._fps, self._output)
        self._pipe.add(frame)
        self.frames += 1

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Finish the film, or remove what there is of it after an exception."""
        assert self._temporary is not None
        try:
            if error is None:
                if self._pipe is None:
                    raise FramesError(f"no picture was added to {self.path}: add at least one")
                self._pipe.finish()
                commit(self._temporary, self.path)
        finally:
            if self._pipe is not None:
                self._pipe.abort()  # does nothing to one that has finished
            self._temporary.unlink(missing_ok=True)


class _Pipe:
    """An ffmpeg that takes raw pictures on its standard input."""

    def __init__(self, path: Path, target: Path, shape: tuple[int, ...], fps: float, output: tuple[str, ...]) -> None:
        self._path, self._shape = path, shape
        height, width = (side + side % 2 for side in shape)
        source = ("-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{width}x{height}", "-r", f"{fps:g}", "-i", "-")
        self._log: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 (an unread pipe would block ffmpeg)
        self._process = subprocess.Popen(
            [find_ffmpeg(), *_QUIET, *source, *output, str(target)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=self._log,
        )

    def add(self, frame: npt.NDArray[np.uint8]) -> None:
        if frame.shape[:2] != self._shape:
            raise FramesError(f"all pictures of a film must be {self._shape}, got {frame.shape[:2]}")
        height, width = self._shape
        if height % 2 or width % 2:
            frame = np.pad(frame, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(np.ascontiguousarray(frame).data)
        except BrokenPipeError:
            self.finish()  # ffmpeg has stopped: its last words say why
            raise

    def finish(self) -> None:
        try:
            self._process.communicate()
            self._log.seek(0)
            _check_ffmpeg(self._path, self._process.returncode, self._log.read().decode(errors="replace"))
        finally:
            self._log.close()

    def abort(self) -> None:
        if self._process.poll() is None:
            self._process.kill()
        self._process.communicate()
        self._log.close()


_QUIET = ("-hide_banner", "-nostdin", "-loglevel", "error", "-y")


def _check_ffmpeg(path: Path, code: int, words: str) -> None:
    if code == 0:
        return
    # ffmpeg gives the operating system's error in words and, in its newer versions, as its exit code.
    for number, said in (
        (errno.ENOSPC, "No space left"),
        (errno.EFBIG, "File too large"),
        (errno.EDQUOT, "uota exceeded"),
    ):
        if said in words or code == 256 - number or (number == errno.EFBIG and code == -signal.SIGXFSZ):
            raise storage_error(path, number)
    last = " ".join(words.split())[-300:] or "no message"
    raise RuntimeError(f"ffmpeg stopped with code {code} while writing {path}: {last}")


def check_fps(fps: float) -> None:
    """Refuse pictures per second that no player shows.

    Args:
        fps: Pictures per second.

    Raises:
        ConfigError: Out of [0.1, 240].
    """
    if not 0.1 <= fps <= 240:
        raise ConfigError(f"fps must be between 0.1 and 240, got {fps}")


def write_mp4(path: Path, frames: Iterable[npt.NDArray[np.uint8]], fps: float, crf: int = 20) -> int:
    """Write pictures, each RGB, uint8, shape (H, W, 3), as an MP4 and return how many there were.

    Raises:
        ConfigError, StorageError, FramesError: As :class:`VideoWriter`.
    """
    with VideoWriter(path, fps, crf) as writer:
        for frame in frames:
            writer.add(frame)
        return writer.frames


def write_gif(
    path: Path,
    frames: Iterable[npt.NDArray[np.uint8]],
    fps: float,
    max_bytes: int = 4_000_000,
    max_width: int = 480,
    max_fps: float = 25,
) -> int:
    """Write pictures as an endless GIF of the same duration that is no larger than a limit.

    Pictures are scaled down to ``max_width`` and some left out above ``max_fps`` (browsers slow GIFs
    of more than 50 pictures a second down). While the file is too large, its width, its colours and its
    pictures per second are lowered.

    Args:
        path: The file to write, ``.gif``.
        frames: RGB, uint8, each of shape (H, W, 3).
        fps: Pictures per second of ``frames``.
        max_bytes: Largest size of the file, bytes.
        max_width: Largest width, pixels.
        max_fps: Most pictures per second.

    Returns:
        The size of the file, bytes.

    Raises:
        ConfigError: A setting is out of range, or no form of the film is small enough.
        FramesError: There is no picture, or one has another size than the first.
        StorageError: The disk is full, or the folder can't be written.
    """
    if path.suffix.lower() != ".gif":
        raise ConfigError(f"a GIF's name must end in .gif, got {path.name}")
    check_fps(fps)
    if max_bytes < 1 or max_width < 16 or max_fps <= 0:
        raise ConfigError(
            f"max_bytes {max_bytes}, max_width {max_width} and max_fps {max_fps} must be above 0, 15 and 0"
        )
    pipe: _Pipe | None = None
    with atomic_path(path) as temporary, tempfile.TemporaryDirectory(prefix="vlmreward-gif-") as folder:
        film, palette = Path(folder) / "film.mkv", Path(folder) / "palette.png"
        width = 0
        try:
            for frame in frames:
                if pipe is None:
                    width = min(max_width, frame.shape[1])
                    pipe = _Pipe(film, film, frame.shape[:2], fps, _LOSSLESS)
                pipe.add(frame)
            if pipe is None:
                raise FramesError(f"no picture for {path}: give at least one")
            pipe.finish()
        finally:
            if pipe is not None:
                pipe.abort()
        rate, colours, size = min(fps, max_fps), 256, 0
        for _ in range(8):
            _encode_gif(path, film, palette, temporary, width, rate, colours)
            size = temporary.stat().st_size
            if size <= max_bytes:
                return size
            # First a little of each; the width by the square root, as bytes go with the area.
            width = max(64, int(width * max(0.5, (max_bytes / size) ** 0.5) * 0.97))
            colours = max(32, colours // 2)
            rate = max(min(rate, 5.0), rate * 0.8)
        raise ConfigError(
            f"{path.name} can't be made smaller than {size} bytes: raise max_bytes ({max_bytes}) or record less"
        )


def _encode_gif(path: Path, film: Path, palette: Path, target: Path, width: int, fps: float, colours: int) -> None:
    small = f"fps={fps:g},scale={width}:-1:flags=lanczos"
    ffmpeg = find_ffmpeg()
    make = [ffmpeg, *_QUIET, "-i", str(film), "-vf", f"{small},{_PALETTE.format(colours=colours)}", str(palette)]
    graph = f"[0:v]{small}[x];[x][1:v]{_USE_PALETTE}"
    use = [ffmpeg, *_QUIET, "-i", str(film), "-i", str(palette), "-lavfi", graph, "-loop", "0", str(target)]
    for command in (make, use):
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True)
        _check_ffmpeg(path, done.returncode, done.stderr.decode(errors="replace"))
