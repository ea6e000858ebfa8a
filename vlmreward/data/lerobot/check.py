"""Looks for what is wrong with a LeRobot dataset: files missing or cut short, counts and times that disagree."""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vlmreward.data.dataset import Problem
from vlmreward.data.lerobot.episodes import Located
from vlmreward.data.lerobot.journal import JOURNAL
from vlmreward.data.lerobot.layout import KEYS, Feature, Info
from vlmreward.data.lerobot.parquet import opened, reading
from vlmreward.data.paths import inside
from vlmreward.data.video import find_end, probe
from vlmreward.errors import DatasetError
from vlmreward.optional import require_package

_SCALARS = (*KEYS, "timestamp")


def find_problems(root: Path, info: Info, located: Sequence[Located]) -> list[Problem]:
    """Return everything that is wrong with a dataset, in the order of its files.

    Reads the columns of places and times of every data file, and the heads and last pictures of every video.

    Args:
        root: The dataset's folder.
        info: Its ``info.json``.
        located: Its episodes.
    """
    found: list[Problem] = []
    if inside(root, JOURNAL).exists():
        found.append(Problem(JOURNAL, "writing labels was interrupted: write them again, or undo"))
    rows = sum(loc.episode.rows for loc in located)
    for key, promised, there in (
        ("total_episodes", info.total_episodes, len(located)),
        ("total_frames", info.total_frames, rows),
    ):
        if promised is not None and promised != there:
            found.append(Problem("meta/info.json", f"{key} is {promised}, the list of episodes gives {there}"))
    found += _ranges(located)
    found += _each(root, _by_file(located), lambda name, group: _data_file(root, name, group, info))
    for key in (name for name, feature in info.features.items() if feature.dtype == "video"):
        videos: dict[str, list[Located]] = defaultdict(list)
        for loc in located:
            videos[loc.videos[key].name].append(loc)
        found += _each(root, videos, lambda name, group, key=key: _video(root, name, key, group, info))
    return found


def _by_file(located: Sequence[Located]) -> dict[str, list[Located]]:
    files: dict[str, list[Located]] = defaultdict(list)
    for loc in located:
        files[loc.data].append(loc)
    return files


def _each(root: Path, files: dict[str, list[Located]], look: Any) -> Iterator[Problem]:
    for name, group in files.items():
        try:
            for what in look(name, group):
                yield what if isinstance(what, Problem) else Problem(name, what)
        except DatasetError as e:
            yield Problem(name, str(e))


def _ranges(located: Sequence[Located]) -> Iterator[Problem]:
    due = 0
    for loc in located:
        if loc.start != due:
            what = f"its rows start at index {loc.start}, those before it end at {due}"
            yield Problem(f"episode {loc.recorded}", what)
        due = loc.start + loc.episode.rows


def _data_file(root: Path, name: str, group: Sequence[Located], info: Info) -> Iterator[str | Problem]:
    with opened(root, name) as file, reading(name):
        schema = file.schema_arrow
        for key, feature in info.features.items():
            if feature.dtype == "video":
                continue
            if key not in schema.names:
                yield f"it has no column {key!r}, which meta/info.json lists"
            elif (what := _type_wrong(schema.field(key).type, feature)) is not None:
                yield f"column {key!r} {what}"
        missing = [c for c in _SCALARS if c not in schema.names]
        if missing:
            return
        known = {loc.recorded: loc for loc in group}
        counts: dict[int, int] = defaultdict(int)
        last = -1
        for number in range(file.metadata.num_row_groups):
            table = file.read_row_group(number, columns=list(_SCALARS))
            empty = [c for c in _SCALARS if table[c].null_count]
            if empty:
                yield f"row group {number} has empty values in {empty[0]!r}"
                continue
            index, episodes, frames, times = (table[c].to_numpy() for c in _SCALARS)
            if not all(np.issubdtype(a.dtype, np.number) for a in (index, episodes, frames, times)):
                continue  # a wrong type was told above
            steps = np.diff(index, prepend=last)
            if (steps <= 0).any():
                row = int(np.flatnonzero(steps <= 0)[0])
                yield f"index {index[row]} comes again or out of order: it must be unique and increasing"
            last = int(index.max(initial=last))
            for recorded in np.unique(episodes):
                mine = episodes == recorded
                before = counts[int(recorded)]
                counts[int(recorded)] += int(mine.sum())
                if int(recorded) not in known:
                    yield f"it holds rows of episode {recorded}, which is not listed there"
                else:
                    yield from _rows(known[int(recorded)], before, index[mine], frames[mine], times[mine], info.fps)
    for loc in group:
        if counts[loc.recorded] != loc.episode.rows:
            held = counts[loc.recorded]
            yield Problem(f"episode {loc.recorded}", f"length is {loc.episode.rows}, {name} holds {held} rows of it")


def _rows(loc: Located, before: int, index: Any, frames: Any, times: Any, fps: float) -> Iterator[Problem]:
    """Look at rows of one episode; ``before`` of them were seen in earlier row groups."""
    where = f"episode {loc.recorded}"
    places = before + np.arange(len(frames))
    if (frames != places).any():
        row = int(np.flatnonzero(frames != places)[0])
        yield Problem(where, f"frame_index is {frames[row]} where {places[row]} is due")
    if (index != loc.start + frames).any():
        row = int(np.flatnonzero(index != loc.start + frames)[0])
        yield Problem(where, f"index of frame {frames[row]} is {index[row]}, not {loc.start + int(frames[row])}")
    # float32 seconds: half a period, not equality
    off = ~(np.abs(times.astype(np.float64) - frames / fps) < 0.5 / fps)
    if off.any():
        row = int(np.flatnonzero(off)[0])
        due = frames[row] / fps
        yield Problem(
            where, f"timestamp of frame {frames[row]} is {times[row]} s, not {due:.3f} s ({off.sum()} are off)"
        )


def _type_wrong(kind: Any, feature: Feature) -> str | None:
    pa = require_package("pyarrow", "data")

    if feature.dtype == "image":
        return None if pa.types.is_struct(kind) or pa.types.is_binary(kind) else f"must hold pictures, is {kind}"
    leaf = kind
    while pa.types.is_list(leaf) or pa.types.is_large_list(leaf) or pa.types.is_fixed_size_list(leaf):
        leaf = leaf.value_type
    name = {"float": "float32", "double": "float64", "halffloat": "float16", "large_string": "string"}.get(
        str(leaf), str(leaf)
    )
    if name != feature.dtype:
        return f"is {kind}, meta/info.json says {feature.dtype}"
    if pa.types.is_fixed_size_list(kind) and len(feature.shape) == 1 and kind.list_size != feature.shape[0]:
        return f"has {kind.list_size} numbers a row, meta/info.json says {feature.shape[0]}"
    return None


def _video(root: Path, name: str, key: str, group: Sequence[Located], info: Info) -> Iterator[str | Problem]:
    path = inside(root, name)
    if not path.is_file():
        yield f"the video is missing: pictures of {len(group)} episodes"
        return
    head = probe(path)
    if head.fps is not None and abs(head.fps - info.fps) > 0.01 * info.fps:
        yield f"it has {head.fps:g} pictures a second, meta/info.json says {info.fps:g}"
    ordered = sorted((loc for loc in group if _finite(loc, key)), key=lambda loc: loc.videos[key].start_s)
    spans = [(loc.videos[key], loc.recorded) for loc in ordered]
    for (first, one), (second, other) in itertools.pairwise(spans):
        if second.start_s < first.end_s - 0.5 / info.fps:
            yield Problem(f"episode {other}", f"its video starts at {second.start_s:.3f} s, within episode {one}")
    rows = sum(loc.episode.rows for loc in group)
    if head.frames != rows:
        yield f"it holds {head.frames} pictures, its episodes have {rows} rows"
    last = find_end(path)
    for span, recorded in spans:
        if last < span.end_s - 1.5 / info.fps:
            yield Problem(
                f"episode {recorded}", f"its video should go on to {span.end_s:.3f} s, {name} ends at {last:.3f} s"
            )


def _finite(loc: Located, key: str) -> bool:
    span = loc.videos[key]
    return bool(np.isfinite(span.start_s) and np.isfinite(span.end_s))
