"""What the embedding stores of a folder hold, and how they are made smaller. Loads no torch."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from vlmreward.encoders.store_folder import META, Segment, StoreFolder, StoreMeta
from vlmreward.errors import StorageError


@dataclass(frozen=True)
class StoreReport:
    """One store.

    Attributes:
        folder: Where it is.
        meta: Whose embeddings it holds; None if that is unknown: ``store.json`` is damaged or of another version.
        segments: Its segments, oldest first.
        in_use: Whether a process has it open.
    """

    folder: StoreFolder
    meta: StoreMeta | None
    segments: tuple[Segment, ...]
    in_use: bool

    @property
    def encoder(self) -> str:
        """The encoder's id; the folder's name if that is not known."""
        return self.meta.encoder if self.meta else self.folder.path.name

    @property
    def frames(self) -> int | None:
        """Number of frames; None if it is not known how long a row is."""
        return sum(segment.frames(self.meta.row_bytes) for segment in self.segments) if self.meta else None

    @property
    def size(self) -> int:
        """Bytes of all segments."""
        return sum(segment.size for segment in self.segments)

    @property
    def written(self) -> float | None:
        """When something was added last, seconds since 1970; None if nothing is there."""
        return max((segment.written for segment in self.segments), default=None)


def list_stores(cache: Path) -> list[StoreReport]:
    """Return the stores of a folder, by name; links are none.

    Args:
        cache: The folder of all stores.
    """
    reports = []
    found = cache.glob(f"*/{META}")
    for path in sorted(meta.parent for meta in found if not (meta.is_symlink() or meta.parent.is_symlink())):
        folder = StoreFolder(path)
        try:
            meta = folder.read_meta()
        except StorageError:
            meta = None  # shown as unknown, so that it can be removed
        reports.append(StoreReport(folder, meta, tuple(folder.segments()), folder.in_use()))
    return reports


def choose(
    stores: Sequence[StoreReport], written_before: float | None = None, max_size: float | None = None
) -> dict[Path, set[str]]:
    """Choose the segments that have to go: those that are too old, then the oldest until the others are small enough.

    Those of unknown stores neither go nor count.

    Args:
        stores: What there is.
        written_before: Segments to which nothing was added since then go, seconds since 1970; None: none of them.
        max_size: Bytes that may stay, all stores together; None: any number.

    Returns:
        Folder to names of segments.
    """
    every = [(store.folder.path, segment) for store in stores if store.meta for segment in store.segments]
    size = sum(segment.size for _, segment in every)
    chosen: dict[Path, set[str]] = defaultdict(set)
    for path, segment in sorted(every, key=lambda item: (item[1].written, item[1].name)):
        too_old = written_before is not None and segment.written < written_before
        if too_old or (max_size is not None and size > max_size):
            chosen[path].add(segment.name)
            size -= segment.size
    return chosen


def prune(store: StoreReport, names: Collection[str]) -> list[str]:
    """Remove segments of a store, and what killed writers have left half written.

    Processes that have the store open read on what they know. The newest segment stays as long as there is such a
    process, for it may be writing to it. A store that is left empty is removed.

    Args:
        store: The store.
        names: The segments that should go.

    Returns:
        Those of them that had to stay.

    Raises:
        StorageError: The folder can't be written or locked.
    """
    folder = store.folder
    with folder.locked():
        segments = folder.segments()
        busy = {segments[-1].name} if segments and folder.in_use() else set()
        for segment in segments:
            if segment.name in names and segment.name not in busy:
                folder.remove(segment.name)
        if store.meta is not None:
            folder.trim(store.meta.row_bytes)
        if not folder.segments():
            folder.remove_folder()
    return sorted(busy.intersection(names))
