"""Which rows of a column hold a label: one rule for every format."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vlmreward.data.label_names import validity_names
from vlmreward.errors import UnknownColumnError
from vlmreward.types import BoolArray

if TYPE_CHECKING:
    from vlmreward.data.dataset import Episode, EpisodeDataset


def read_validity(dataset: EpisodeDataset, episode: Episode, column: str) -> BoolArray | None:
    """Return which rows of a column hold a label, bool, shape (T,); None where nothing says so.

    The column's own ``<column>_valid`` decides, or else the validity of the set of labels that it is a part of.

    Args:
        dataset: Opened for reading.
        episode: Whose rows.
        column: Its name as :meth:`~vlmreward.data.dataset.EpisodeDataset.column` takes it, e.g. ``"reward_vlm"`` or
            ``"progress_vlm"``.

    Raises:
        DatasetError: The validity is there and can't be read.
    """
    for name in validity_names(column):
        try:
            return dataset.column(episode, name) > 0.5
        except UnknownColumnError:
            continue
    return None
