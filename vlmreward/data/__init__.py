"""Recorded episodes: formats by name, imported when a dataset is first opened.

Adding a format is one module with a :class:`vlmreward.data.dataset.Format` and one ``register_format`` line here.
"""

from __future__ import annotations

from pathlib import Path

from vlmreward.data.dataset import EpisodeDataset, Format
from vlmreward.errors import DatasetError
from vlmreward.registry import Registry

_FORMATS = Registry("dataset format", "dataset.")


def register_format(name: str, target: str) -> None:
    """Add a format.

    Args:
        name: The name users write.
        target: ``"package.module:FORMAT"``, a :class:`~vlmreward.data.dataset.Format`.

    Raises:
        ValueError: The name is taken, or the target has no colon.
    """
    _FORMATS.register(name, target)


def list_formats() -> list[str]:
    """Return the name of every format, sorted."""
    return _FORMATS.names()


def find_format(name: str) -> Format:
    """Return a format by name.

    Raises:
        UnknownNameError: The name is not registered.
    """
    return _FORMATS.get(name)


def open_dataset(path: str | Path) -> EpisodeDataset:
    """Open a dataset of any format for reading.

    Args:
        path: The dataset's folder or file; its format is told by what it holds.

    Raises:
        DatasetError: Nothing is there, no format knows it, or it is damaged.
        DependencyNotInstalled: A package that reads this format is missing.
    """
    root = Path(path).expanduser()
    if not root.exists():
        raise DatasetError(f"dataset {str(path)!r} does not exist: give the folder or file of recorded episodes")
    for name in list_formats():
        known = find_format(name)
        if known.recognises(root):
            return known.open(root)
    known_ones = "; ".join(f"{name}: {find_format(name).marks}" for name in list_formats())
    raise DatasetError(f"{str(path)!r} is of no known dataset format: looked for {known_ones}")


register_format("lerobot", "vlmreward.data.lerobot:FORMAT")
register_format("robomimic", "vlmreward.data.robomimic:FORMAT")
register_format("minari", "vlmreward.data.minari:FORMAT")
register_format("folder", "vlmreward.data.folder:FORMAT")
