"""Files that a dataset names: never one outside of it."""

from __future__ import annotations

from pathlib import Path, PurePosixPath

from vlmreward.errors import DatasetError


def inside(root: Path, name: str) -> Path:
    """Return the file of a name that a dataset gives, links resolved.

    Args:
        root: The dataset's folder.
        name: Path relative to it, with ``/``.

    Raises:
        DatasetError: It leads out of the dataset, or no file can have that name.
    """
    relative = PurePosixPath(name)
    if "\0" in name or relative.is_absolute() or ".." in relative.parts:
        raise DatasetError(
            f"path {shown(name)} leads out of the dataset: give one relative to its folder, without '..'"
        )
    try:
        found = (root / relative).resolve()
        home = root.resolve()
        found.exists()  # a name that is too long is no fault before somebody looks for it
    except (OSError, RuntimeError, ValueError) as e:  # links in a circle, a name of thousands of letters, surrogates
        raise DatasetError(f"path {shown(name)} can't be a file: {one_line(e)}") from e
    if not found.is_relative_to(home):
        raise DatasetError(f"{shown(name)} is a link that leads out of the dataset: put the file in its place")
    return found


def shown(value: object) -> str:
    """Return a value for an error line, cut where it is long."""
    text = ascii(value) if isinstance(value, str) and not value.isprintable() else repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


def one_line(error: BaseException) -> str:
    """Return what an error says, on one line."""
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return " ".join(str(text).split())[:200]
