"""One page that shows recorded episodes with what was said of each frame: a film, curves, a cursor that follows it.

The page needs no other file and no network. A film is h264 with a key frame every few pictures, embedded as a data URI;
frame i is shown by seeking to the middle of its time, (i + 0.5) / fps, which no rounding of time stamps can miss.
"""

from __future__ import annotations

import base64
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps

from vlmreward.atomic import atomic_path
from vlmreward.errors import ConfigError, FramesError
from vlmreward.video.recorder import VideoWriter, check_fps
from vlmreward.video.surprise import find_surprises

Picture = npt.NDArray[np.uint8]
Kind = Literal["reward", "success", "progress"]
KINDS: tuple[Kind, ...] = ("reward", "success", "progress")

KEYFRAME_EVERY = 8
"""Pictures from key frame to key frame: what a step back decodes at most."""
CRF = 23
GREY = 128
UNKNOWN_SIZE = (180, 240)
"""Height and width of a film none of whose pictures could be decoded."""


@dataclass(frozen=True)
class Curve:
    """What one model or one column says of an episode's frames.

    Attributes:
        source: Who says it, e.g. a goal and an encoder: curves of one source share a colour.
        kind: Which of the plots it belongs to.
        values: float32, shape (F,); NaN where there is none.
        reasons: Why there is none: frame to reason.
        about: More about the source, shown when it is pointed at.
    """

    source: str
    kind: Kind
    values: npt.NDArray[np.float32]
    reasons: Mapping[int, str] = field(default_factory=dict)
    about: str = ""


@dataclass(frozen=True)
class ShownEpisode:
    """One episode of a page.

    Attributes:
        title: What it is called.
        task: What was to be done, in words; "" if that is not known.
        pictures: In time order, RGB, uint8, shape (H, W, 3); in the place of one that can't be shown, the reason.
            They are asked for once.
        curves: Each with a value for every picture.
    """

    title: str
    task: str
    pictures: Iterable[Picture | str]
    curves: Sequence[Curve]


def write_viewer(path: Path, title: str, episodes: Sequence[ShownEpisode], fps: float, size: int = 320) -> int:
    """Write the page; one film at a time is in memory.

    Args:
        path: The file, ``.html``; it appears whole or not at all.
        title: Of the page.
        episodes: At least one.
        fps: Pictures a second, of all of them.
        size: Longest side of the films, pixels; smaller pictures stay as they are.

    Returns:
        The size of the file, bytes.

    Raises:
        ConfigError: ``fps`` or ``size`` is out of range.
        FramesError: An episode has no picture, or a curve has not one value for each.
        StorageError: The disk is full, or the folder can't be written.
    """
    import jinja2

    check_fps(fps)
    if size < 16:
        raise ConfigError(f"size must be at least 16 pixels, got {size}")
    template = (files("vlmreward.video") / "viewer.html.j2").read_text(encoding="utf-8")
    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    pieces = environment.from_string(template).generate(
        title=title,
        titles=[episode.title for episode in episodes],
        episodes=(_show(episode, fps, size) for episode in episodes),
    )
    with atomic_path(path) as temporary:
        with temporary.open("w", encoding="utf-8") as file:
            file.writelines(pieces)
        return temporary.stat().st_size


def _show(episode: ShownEpisode, fps: float, size: int) -> dict[str, Any]:
    """Return what the template shows of an episode."""
    with tempfile.TemporaryDirectory(prefix="vlmreward-view-") as folder:
        film = Path(folder) / "film.mp4"
        count, lost = _encode(film, episode.pictures, fps, size)
        encoded = base64.b64encode(film.read_bytes()).decode()
    for curve in episode.curves:
        if curve.values.shape != (count,):
            raise FramesError(
                f"{episode.title}: the {curve.kind} of {curve.source!r} must have {count} values, one for each "
                f"picture, got shape {curve.values.shape}"
            )
    facts: dict[str, Any] = {
        "fps": float(f"{fps:g}"),  # as ffmpeg is told
        "frames": count,
        "lost": lost,
        "curves": [
            {
                "source": curve.source,
                "kind": curve.kind,
                "about": curve.about,
                "values": [float(f"{value:.6g}") if np.isfinite(value) else None for value in curve.values.tolist()],
                "reasons": {frame: curve.reasons[frame] for frame in sorted(curve.reasons)},
            }
            for curve in episode.curves
        ],
        "surprises": list(_surprises(episode.curves)),
    }
    return {"title": episode.title, "task": episode.task, "facts": facts, "film": encoded}


def _surprises(curves: Sequence[Curve]) -> Iterator[dict[str, Any]]:
    for number, curve in enumerate(curves):
        if curve.kind == "reward":
            found = [
                (s.frame, float(f"{s.change:.4g}"), float(f"{s.beyond:.4g}")) for s in find_surprises(curve.values)
            ]
            yield {"curve": number, "found": found}


def _encode(path: Path, pictures: Iterable[Picture | str], fps: float, size: int) -> tuple[int, dict[int, str]]:
    """Write a film; return its length and why some of its pictures are grey."""
    count, lost = 0, dict[int, str]()
    grey: Picture | None = None
    with VideoWriter(path, fps, CRF, KEYFRAME_EVERY) as writer:
        for picture in pictures:
            if isinstance(picture, str):
                lost[count] = picture
                shown = grey
            else:
                if grey is None:  # only now is it known how large those are that were lost before
                    grey = np.full((*_shrunk(picture.shape[:2], size), 3), GREY, np.uint8)
                    _add(writer, grey, count)
                shown = _fit(picture, grey.shape[:2])
            count += 1
            if shown is not None:
                writer.add(shown)
        if grey is None:
            _add(writer, np.full((*_shrunk(UNKNOWN_SIZE, size), 3), GREY, np.uint8), count)
    return count, lost


def _add(writer: VideoWriter, picture: Picture, times: int) -> None:
    for _ in range(times):
        writer.add(picture)


def _shrunk(shape: tuple[int, ...], size: int) -> tuple[int, int]:
    """Return height and width of a film whose longest side is at most ``size``."""
    height, width = shape
    share = min(1.0, size / max(height, width))
    return max(2, round(height * share)), max(2, round(width * share))


def _fit(picture: Picture, shape: tuple[int, ...]) -> Picture:
    """Scale a picture into a film, with grey bars where its sides have another ratio."""
    if picture.shape[:2] == shape:
        return picture
    height, width = shape
    return np.asarray(ImageOps.pad(Image.fromarray(picture), (width, height), Image.Resampling.BOX, (GREY,) * 3))
