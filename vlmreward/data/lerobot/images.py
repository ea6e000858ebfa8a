"""Pictures of a LeRobot dataset that are kept in its data files, not in videos."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from vlmreward.data.dataset import Frame, Undecodable
from vlmreward.data.lerobot.episodes import Located
from vlmreward.data.lerobot.parquet import opened, reading, row_groups_of
from vlmreward.data.paths import inside
from vlmreward.data.pictures import read_picture
from vlmreward.errors import DatasetError
from vlmreward.optional import require_package

_BATCH = 16  # pictures that are held encoded at a time


def decode_images(root: Path, located: Located, key: str, start: int = 0) -> Iterator[Frame | Undecodable]:
    """Decode the pictures of an episode from its data file, each in the place that ``frame_index`` gives it.

    Args:
        root: The dataset's folder.
        located: The episode.
        key: The feature.
        start: The first frame to give.

    Yields:
        Exactly as many items as the episode has frames from there on.
    """
    count, due, reason = located.episode.frames, start, ""
    try:
        for place, value in _encoded(root, located, key, start):
            if not due <= place < count:  # a frame before the first one, or out of order
                continue
            for missing in range(due, place):
                yield Undecodable(_nothing_at(located, missing))
            due = place + 1
            yield _decode(root, value)
    except DatasetError as e:
        reason = str(e)
    for missing in range(due, count):
        yield Undecodable(reason or _nothing_at(located, missing))


def _nothing_at(located: Located, place: int) -> str:
    return f"{located.data} has no row {place} of episode {located.recorded}, or none in its place"


def _encoded(root: Path, located: Located, key: str, start: int) -> Iterator[tuple[int, Any]]:
    """Yield place and stored value of each picture of an episode, none of row groups that end before ``start``."""
    compute = require_package("pyarrow.compute", "data")
    with opened(root, located.data) as file, reading(located.data):
        missing = [c for c in (key, "episode_index", "frame_index") if c not in file.schema_arrow.names]
        if missing:
            raise DatasetError(f"{located.data} has no column {missing[0]!r}")
        groups = row_groups_of(file, located.recorded, start)
        columns = [key, "episode_index", "frame_index"]
        for batch in file.iter_batches(batch_size=_BATCH, row_groups=groups, columns=columns) if groups else ():
            ours = batch.filter(compute.equal(batch["episode_index"], located.recorded))
            yield from zip(ours["frame_index"].to_pylist(), ours[key].to_pylist(), strict=True)


def _decode(root: Path, value: Any) -> Frame | Undecodable:
    if not isinstance(value, dict) or not (value.get("bytes") or value.get("path")):
        return Undecodable(f"the row holds no picture: {'empty' if value is None else type(value).__name__}")
    data = value.get("bytes")
    try:
        source = io.BytesIO(data) if data else inside(root, str(value["path"]))
    except DatasetError as e:
        return Undecodable(f"damaged picture: {e}")
    return read_picture(source, ("PNG", "JPEG", "WEBP", "BMP", "TIFF"))
