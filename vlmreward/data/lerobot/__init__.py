"""LeRobot datasets, read (v3.0 and v2.1), written (v3.0) and labelled without lerobot: pyarrow and PyAV suffice."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from vlmreward.data.dataset import EpisodeDataset, EpisodeWriter, Format
from vlmreward.data.labels import LabelWriter
from vlmreward.errors import ConfigError


def recognises(path: Path) -> bool:
    """Return whether a folder holds ``meta/info.json``."""
    try:
        return (path / "meta" / "info.json").is_file()
    except (OSError, ValueError):
        return False


def open_lerobot(path: Path) -> EpisodeDataset:
    """Open a dataset for reading; see :class:`vlmreward.data.lerobot.reader.LeRobotReader`."""
    from vlmreward.data.lerobot.reader import LeRobotReader

    return LeRobotReader(path)


def create_lerobot(root: Path, **settings: Any) -> EpisodeWriter:
    """Make a writer of a new dataset; see :class:`vlmreward.data.lerobot.writer.LeRobotWriter`."""
    from vlmreward.data.lerobot.writer import LeRobotWriter

    return LeRobotWriter(root, **settings)


def label_lerobot(dataset: EpisodeDataset, name: str, filler: str = "auto", overwrite: bool = False) -> LabelWriter:
    """Make a writer of labels: of columns, or of the progress file when the name is that of one.

    Args:
        dataset: Opened dataset.
        name: Name of the reward's column, or ``sarm_progress``, ``robometer_progress``, ``topreward_progress``.
        filler: For an invalid row: ``"hold"`` (``"auto"``), ``"decrease"``, or, in a progress file, ``"drop"``.
        overwrite: Replace labels of ours of that name.

    Raises:
        ConfigError: The dataset is of another format, the name is reserved, or the filler none that can be followed.
        DatasetError: Something that isn't ours has the name.
        StorageError: The dataset can't be written.
    """
    from vlmreward.data.lerobot.columns import ColumnWriter
    from vlmreward.data.lerobot.reader import LeRobotReader
    from vlmreward.data.lerobot.sidecar import SIDECARS, SidecarWriter

    if not isinstance(dataset, LeRobotReader):
        raise ConfigError(f"labels of a LeRobot dataset need one, got a dataset of format {dataset.format!r}")
    writer = SidecarWriter if name in SIDECARS else ColumnWriter
    return writer(dataset, name, filler=filler, overwrite=overwrite)


FORMAT = Format(
    name="lerobot",
    marks="meta/info.json",
    recognises=recognises,
    open=open_lerobot,
    create=create_lerobot,
    label=label_lerobot,
)
