"""Turn recorded episodes into the files that ``record`` leaves behind."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from vlmreward.errors import ConfigError, FramesError
from vlmreward.registry import suggest
from vlmreward.types import Frames
from vlmreward.video.film_strip import film_strip, write_png
from vlmreward.video.overlay import OverlaySettings, Success, annotate
from vlmreward.video.recorder import write_gif, write_mp4

FORMATS = ("mp4", "gif", "png")


@dataclass(frozen=True)
class EpisodeClip:
    """What one episode looked like.

    Attributes:
        frames: RGB, uint8, shape (T, H, W, 3); the picture of the reset is the first.
        rewards: Shape (T,); NaN where there is none, as for the picture of the reset.
        success: True, False or None (the environment doesn't say) for each picture, length T.
    """

    frames: Frames
    rewards: npt.ArrayLike
    success: Success


def annotate_clips(
    clips: Sequence[EpisodeClip], goal: str, fps: float, note: str = "", settings: OverlaySettings | None = None
) -> Iterator[npt.NDArray[np.uint8]]:
    """Yield the pictures of several episodes, one after the other, each with its band.

    Raises:
        FramesError: There is no clip, its frames are not uint8 (T, H, W, 3), or sizes differ.
        ConfigError: Rewards or success are not of length T.
    """
    if not clips:
        raise FramesError("no episode to show: give at least one")
    sizes = {clip.frames.shape[1:3] for clip in clips}
    if len(sizes) > 1:
        raise FramesError(f"all episodes of one film need pictures of one size, got {sorted(sizes)}")
    for number, clip in enumerate(clips, 1):
        which = f"episode {number} of {len(clips)}" if len(clips) > 1 else ""
        line = " · ".join(part for part in (which, note) if part)
        yield from annotate(clip.frames, clip.rewards, clip.success, goal, 1 / fps, line, settings)


def check_formats(formats: object) -> tuple[str, ...]:
    """Return formats of videos as a tuple.

    Args:
        formats: One of ``mp4``, ``gif``, ``png``, or several of them.

    Raises:
        ConfigError: There is none, or an unknown one.
    """
    given = [formats] if isinstance(formats, str) else formats
    if not isinstance(given, Sequence) or not given:
        raise ConfigError(f"formats must be some of {', '.join(FORMATS)}, got {formats!r}")
    for form in given:
        if form not in FORMATS:
            raise ConfigError(f"unknown video format {form!r}: {suggest(str(form), FORMATS)}")
    return tuple(dict.fromkeys(given))


def clip_paths(stem: Path, formats: Iterable[str]) -> dict[str, Path]:
    """Return the file of each format; a dot in the name of ``stem`` is part of the name."""
    return {form: stem.with_name(f"{stem.name}.{form}") for form in formats}


def write_clips(
    stem: Path,
    clips: Sequence[EpisodeClip],
    goal: str,
    fps: float,
    note: str = "",
    formats: str | Sequence[str] = ("mp4", "gif"),
    settings: OverlaySettings | None = None,
    gif_width: int = 480,
    gif_fps: float = 25,
    gif_bytes: int = 4_000_000,
) -> dict[str, Path]:
    """Write episodes as a film, an endless GIF and a film strip.

    Args:
        stem: Path of the files without their suffix; a dot in its name is part of the name.
        clips: The episodes, shown one after the other; the film strip shows the first.
        goal: The sentence that the agent was given.
        fps: Pictures per second, the environment's own for real time.
        note: One more line in small letters, for example which run this is.
        formats: Some of ``mp4``, ``gif``, ``png``.
        settings: How the band looks.
        gif_width: Largest width of the GIF, pixels.
        gif_fps: Most pictures per second of the GIF.
        gif_bytes: Largest size of the GIF, bytes.

    Returns:
        Format to the file written.

    Raises:
        ConfigError: An unknown format, or lengths that differ.
        FramesError: No frames, or frames of several sizes.
        StorageError: The disk is full, or the folder can't be written.
    """
    written: dict[str, Path] = {}
    for form, path in clip_paths(stem, check_formats(formats)).items():
        if form == "mp4":
            write_mp4(path, annotate_clips(clips, goal, fps, note, settings), fps)
        elif form == "gif":
            shown = annotate_clips(clips, goal, fps, note, settings)
            write_gif(path, shown, fps, max_bytes=gif_bytes, max_width=gif_width, max_fps=gif_fps)
        else:
            if not clips:
                raise FramesError("no episode to show: give at least one")
            first = clips[0]
            write_png(path, film_strip(first.frames, first.rewards, first.success, goal, settings=settings))
        written[form] = path
    return written
