"""What ``meta/info.json`` of a LeRobot dataset says, and the files it names: never one outside of the dataset."""

from __future__ import annotations

import json
import re
import string
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vlmreward.data.paths import inside, one_line, shown
from vlmreward.errors import DatasetError

VERSIONS = ("v3.0", "v2.1")
INFO = "meta/info.json"
KEYS = ("index", "episode_index", "frame_index")
"""The columns that tell whose a row is: place in the dataset, episode, place in the episode."""
SHORT = "observation.images."
"""Cameras are known by what stands behind this, as users write it."""

_NUMBER = re.compile(r"(0?\d{1,2})?d?")  # "03d": a width of millions would be a file name of megabytes
_MAX_JSON = 256 << 20


@dataclass(frozen=True)
class Feature:
    """One feature of ``info.json``.

    Attributes:
        dtype: ``"float32"``, ``"int64"``, ``"bool"``, ``"string"``, ``"image"``, ``"video"``, ...
        shape: Its shape in one row.
    """

    dtype: str
    shape: tuple[int, ...]

    @property
    def is_camera(self) -> bool:
        """Whether it is pictures."""
        return self.dtype in ("image", "video")


@dataclass(frozen=True)
class Info:
    """What ``meta/info.json`` says.

    Attributes:
        version: ``codebase_version``.
        fps: Rows a second.
        chunks_size: Files in a chunk's folder.
        total_episodes: As promised; None where it isn't said.
        total_frames: As promised; None where it isn't said.
        data_path: Template of data files.
        video_path: Template of videos; "" where there are none.
        features: By name.
    """

    version: str
    fps: float
    chunks_size: int
    total_episodes: int | None
    total_frames: int | None
    data_path: str
    video_path: str
    features: Mapping[str, Feature]


def read_info(root: Path) -> Info:
    """Read and check ``meta/info.json``.

    Raises:
        DatasetError: It is missing, no JSON, of another version, or lacks what reading needs.
    """
    found = read_json(root, INFO)
    version = found.get("codebase_version")
    if version not in VERSIONS:
        raise DatasetError(
            f"{INFO}: LeRobot version {shown(version)} can't be read: convert it with lerobot to {VERSIONS[0]}"
        )
    fps = found.get("fps")
    if not isinstance(fps, (int, float)) or isinstance(fps, bool) or not 0 < fps <= 1e6:
        raise DatasetError(f"{INFO}: fps must be a number above 0, got {shown(fps)}")
    features = found.get("features")
    if not isinstance(features, dict) or not features:
        raise DatasetError(f"{INFO}: features must be an object with an entry for each feature, got {shown(features)}")
    known = {name: _feature(name, entry) for name, entry in features.items()}
    has_videos = any(f.dtype == "video" for f in known.values())
    data_path, video_path = found.get("data_path"), found.get("video_path")
    if not isinstance(data_path, str):
        raise DatasetError(f"{INFO}: data_path must be a template of file names, got {shown(data_path)}")
    if has_videos and not isinstance(video_path, str):
        raise DatasetError(f"{INFO}: video_path must be a template of file names, got {shown(video_path)}")
    numbers = {key: found.get(key) for key in ("chunks_size", "total_episodes", "total_frames")}
    for key, value in numbers.items():
        if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < 0):
            raise DatasetError(f"{INFO}: {key} must be a whole number, got {shown(value)}")
    info = Info(
        version=version,
        fps=float(fps),
        chunks_size=numbers["chunks_size"] or 1000,
        total_episodes=numbers["total_episodes"],
        total_frames=numbers["total_frames"],
        data_path=data_path,
        video_path=video_path if isinstance(video_path, str) else "",
        features=known,
    )
    fields = _template_fields(version)
    fill_template(info.data_path, dict.fromkeys(fields, 0), "data_path")
    if has_videos:
        fill_template(info.video_path, {**dict.fromkeys(fields, 0), "video_key": "x"}, "video_path")
    return info


def read_json(root: Path, name: str) -> dict[str, Any]:
    """Read a JSON object of a dataset.

    Raises:
        DatasetError: The file is missing, too large, leaves the root, or is no JSON object.
    """
    path = inside(root, name)
    try:
        size = path.stat().st_size
        if size > _MAX_JSON:
            raise DatasetError(f"{name} is {size} bytes long, more than {_MAX_JSON}: is it damaged?")
        found = json.loads(path.read_bytes().decode("utf-8"))
    except (OSError, ValueError, RecursionError) as e:
        if isinstance(e, DatasetError):
            raise
        raise DatasetError(f"{name} can't be read as JSON: {one_line(e)}") from e
    if not isinstance(found, dict):
        raise DatasetError(f"{name} must be a JSON object, got {shown(found)}")
    return found


def fill_template(template: str, values: Mapping[str, int | str], whose: str) -> str:
    """Fill a template of file names, as ``str.format`` does with plain names and widths, and nothing else it can do.

    Raises:
        DatasetError: The template is none, or has a field that isn't known or reaches into a value.
    """
    try:
        pieces = list(string.Formatter().parse(template))
    except ValueError as e:
        raise DatasetError(f"{INFO}: {whose} is no template: {one_line(e)}, got {shown(template)}") from e
    filled = []
    for text, field, spec, conversion in pieces:
        filled.append(text)
        if field is None:
            continue
        value = values.get(field)
        wanted = _NUMBER if isinstance(value, int) else re.compile("")
        if value is None or conversion or not wanted.fullmatch(spec or ""):
            raise DatasetError(
                f"{INFO}: {whose} {shown(template)} has a field {{{field}}} that isn't known: use {', '.join(values)}"
            )
        filled.append(format(value, spec or ""))
    return "".join(filled)


def short_name(key: str) -> str:
    """Return the name of a camera as users write it: ``"front"`` for ``"observation.images.front"``."""
    return key.removeprefix(SHORT) or key


def _template_fields(version: str) -> tuple[str, ...]:
    return ("chunk_index", "file_index") if version == "v3.0" else ("episode_chunk", "episode_index")


def _feature(name: str, entry: Any) -> Feature:
    shape = entry.get("shape") if isinstance(entry, dict) else None
    dtype = entry.get("dtype") if isinstance(entry, dict) else None
    sound = isinstance(shape, list) and all(isinstance(n, int) and not isinstance(n, bool) and n >= 0 for n in shape)
    if not isinstance(dtype, str) or not isinstance(shape, list) or not sound:
        raise DatasetError(f"{INFO}: feature {shown(name)} must have a dtype and a shape, got {shown(entry)}")
    return Feature(dtype, tuple(shape))
