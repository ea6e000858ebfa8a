"""Take rows out of a scored replay buffer and put them back, so that a large buffer can be saved bit by bit."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from vlmreward.errors import CheckpointError
from vlmreward.wrappers.score_table import UNSCORED

if TYPE_CHECKING:
    from vlmreward.wrappers.replay_buffer import ScoredReplayMixin

_FIELDS = (
    "observations",
    "next_observations",
    "actions",
    "rewards",
    "env_rewards",
    "status",
    "episode_starts",
    "dones",
    "timeouts",
)


def export_rows(buffer: ScoredReplayMixin, n_added: int) -> dict[str, np.ndarray]:
    """Copy the rows that were added after the first ``n_added`` vec steps and will not change any more.

    Args:
        buffer: The buffer, with everything scored that can be.
        n_added: ``first`` + number of rows of the last export; 0 for all rows.

    Returns:
        ``first``: number of vec steps before the first row, 0-d int64; larger than ``n_added`` if rows were
        overwritten since. ``buffer_size``: 0-d int64. And the stored arrays, each of shape (rows, n_envs, ...), those
        of dictionary observations as ``observations/<key>``. Rows of a running episode whose reward is not known yet,
        and all after them, are left for a later export.
    """
    first = min(max(n_added, buffer.n_added - buffer.buffer_size), buffer.n_added)
    rows = np.arange(first, buffer.n_added) % buffer.buffer_size
    unknown = np.flatnonzero((buffer.status[rows] == UNSCORED).any(axis=1))
    rows = rows[: unknown[0]] if len(unknown) else rows
    arrays = {name: values[rows] for name, values in _stored(buffer).items()}
    return {"first": np.array(first), "buffer_size": np.array(buffer.buffer_size), **arrays}


def import_rows(buffer: ScoredReplayMixin, arrays: dict[str, np.ndarray]) -> None:
    """Append exported rows. Exports are put back in the order in which they were made.

    A buffer that is empty takes an export that begins later than row 0: what came before was overwritten.

    Args:
        buffer: A buffer of the same size, spaces and number of environments.
        arrays: What :func:`export_rows` returned.

    Raises:
        CheckpointError: An array is missing or does not fit, or the rows do not follow those that are there.
    """
    stored = _stored(buffer)
    missing = sorted({"first", "buffer_size", *stored} - set(arrays))
    if missing:
        raise CheckpointError(f"saved replay rows lack {', '.join(missing)}: the file is damaged or of another buffer")
    if int(arrays["buffer_size"]) != buffer.buffer_size:
        raise CheckpointError(
            f"saved replay rows are of a buffer of {int(arrays['buffer_size'])} rows, this one has "
            f"{buffer.buffer_size}: resume with the same buffer_size and number of environments"
        )
    first, count = int(arrays["first"]), len(arrays["actions"])
    if first < 0 or (first != buffer.n_added and buffer.n_added > 0):
        raise CheckpointError(f"saved replay rows begin at {first}, expected {buffer.n_added}: is a file missing?")
    if count > buffer.buffer_size:
        raise CheckpointError(f"{count} saved replay rows do not fit a buffer of {buffer.buffer_size}")
    for name, values in stored.items():
        if arrays[name].shape != (count, *values.shape[1:]) or arrays[name].dtype != values.dtype:
            raise CheckpointError(
                f"saved replay rows {name!r} must be {values.dtype} {(count, *values.shape[1:])}, got "
                f"{arrays[name].dtype} {arrays[name].shape}: resume with the environment they were saved from"
            )
    rows = np.arange(first, first + count) % buffer.buffer_size
    for name, values in stored.items():
        values[rows] = arrays[name]
    buffer.tickets[rows] = -1
    buffer.n_added = first + count
    buffer.pos = buffer.n_added % buffer.buffer_size
    buffer.full = buffer.n_added >= buffer.buffer_size


def _stored(buffer: ScoredReplayMixin) -> dict[str, np.ndarray]:
    """Return every stored array by the name it is saved under."""
    arrays: dict[str, np.ndarray] = {"parts": buffer.parts} if buffer.parts.size else {}
    if buffer.relabelling is not None:
        arrays |= {"embeddings": buffer.relabelling.embeddings, "versions": buffer.relabelling.versions}
    for name in _FIELDS:
        values = getattr(buffer, name)
        arrays |= (
            {f"{name}/{key}": value for key, value in values.items()} if isinstance(values, dict) else {name: values}
        )
    return arrays
