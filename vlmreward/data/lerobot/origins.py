"""What data files with pictures in them were before labels were written in, so that known pictures stay known.

It stays when the last labels are taken away again: the data files were written anew, and without it their pictures
would pass for others. They would be decoded again, and the runs that labelled them be refused as another dataset's.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from vlmreward.data.lerobot.layout import read_json
from vlmreward.data.paths import inside
from vlmreward.errors import DatasetError

ORIGINS = "meta/vlmreward_origins.json"

Stamp = list[int] | None
"""Size in bytes and time of change in nanoseconds of a file; None where there is none."""


@dataclass(frozen=True)
class Origin:
    """One data file that was rewritten.

    Attributes:
        now: Its stamp after the last rewriting; another one means that someone else changed it since.
        origin: Its stamp before the first.
    """

    now: Stamp
    origin: Stamp


def stamp(path: Path) -> Stamp:
    """Return size and time of change of a file."""
    try:
        found = path.stat()
    except OSError:
        return None
    return [found.st_size, found.st_mtime_ns]


def read_origins(root: Path) -> dict[str, Origin]:
    """Return what data files were before they were rewritten, by name.

    Raises:
        DatasetError: The file that says so is damaged.
    """
    if not inside(root, ORIGINS).is_file():
        return {}
    found = {}
    for name, entry in read_json(root, ORIGINS).items():
        if not isinstance(entry, dict) or not {"now", "origin"} <= entry.keys():
            raise DatasetError(f"{ORIGINS}: the entry of {name!r} is damaged: remove the file")
        found[name] = Origin(entry["now"], entry["origin"])
    return found


def to_json(origins: Mapping[str, Origin]) -> dict[str, object]:
    """Return what ``read_origins`` reads."""
    return {name: {"now": o.now, "origin": o.origin} for name, o in sorted(origins.items())}
