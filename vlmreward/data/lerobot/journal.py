"""Files of a dataset that change together or not at all, whenever the process dies.

New contents are staged beside the files they replace. Until all of them are whole on the disk, a crash is rolled back
by removing what was staged; from then on it is finished by renaming the rest. Neither needs the labels again.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from vlmreward.atomic import storage_errors, temporary_pattern, write_bytes
from vlmreward.data.lerobot.layout import read_json
from vlmreward.data.paths import inside
from vlmreward.errors import DatasetError

JOURNAL = "meta/.vlmreward_journal.json"
_SUFFIX = ".vlmreward-new"


@contextlib.contextmanager
def locked(root: Path) -> Iterator[None]:
    """Keep every other writer of labels out of a dataset; a process that dies lets go.

    Raises:
        DatasetError: Another process is writing.
        StorageError: The folder can't be opened.
    """
    folder = inside(root, "meta")
    with storage_errors(folder, making=True):
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as e:
            raise DatasetError(f"another process is writing labels into {root}: wait for it") from e
        yield
    finally:
        os.close(descriptor)


class Transaction:
    """Replaces files of a dataset, all or none; to be used by whoever holds the lock, after :func:`recover`.

    Args:
        root: The dataset's folder.
        what: What is being done, kept in the journal for people, e.g. ``"write reward_vlm"``.
        names: The files that will be replaced or made, relative to the folder, in the order of replacing.
    """

    def __init__(self, root: Path, what: str, names: Sequence[str]) -> None:
        self._root = root
        self._what = what
        self._names = list(names)
        self._write("staging", [])

    def staged(self, name: str) -> Path:
        """Return where the new content of a file is to be written."""
        return _staged(inside(self._root, name))

    def keep(self, name: str) -> None:
        """Bring a staged file to the disk, with the rights of the one it replaces."""
        path = inside(self._root, name)
        if path.exists():
            shutil.copymode(path, _staged(path))
        _flush(_staged(path))

    def commit(self) -> None:
        """Replace the files by what was staged."""
        files = []
        for name in self._names:
            path = _staged(inside(self._root, name))
            files.append({"name": name, "size": path.stat().st_size, "hash": _hash(path)})
            _flush(path.parent)
        self._write("committing", files)
        _finish(self._root, files)

    def roll_back(self) -> None:
        """Remove what was staged: every file is as it was."""
        _roll_back(self._root, self._names)

    def _write(self, state: str, files: Sequence[dict[str, Any]]) -> None:
        content = {"version": 1, "state": state, "what": self._what, "names": self._names, "files": files}
        write_bytes(inside(self._root, JOURNAL), json.dumps(content, indent=1).encode())


def recover(root: Path) -> str | None:
    """Finish or roll back what a process left that died; to be used by whoever holds the lock.

    Returns:
        What was done, in words; None where there was nothing to do.

    Raises:
        DatasetError: The journal is damaged, or a file was changed by someone else since.
    """
    path = inside(root, JOURNAL)
    for left in path.parent.glob(temporary_pattern(path)):  # a journal that was being written itself
        left.unlink()
    if not path.exists():
        return None
    journal = read_json(root, JOURNAL)
    state, names, files = journal.get("state"), journal.get("names"), journal.get("files")
    sound = isinstance(names, list) and all(isinstance(n, str) for n in names) and isinstance(files, list)
    if not sound or state not in ("staging", "committing") or not all(isinstance(f, dict) for f in files or ()):
        raise DatasetError(f"{JOURNAL} is damaged: restore the dataset's parquet files and meta/, then remove it")
    assert isinstance(names, list)
    assert isinstance(files, list)
    if state == "staging":
        _roll_back(root, names)
        return f"rolled back: {journal.get('what')}"
    _finish(root, files)
    return f"finished: {journal.get('what')}"


def _finish(root: Path, files: Sequence[dict[str, Any]]) -> None:
    for entry in files:
        path = inside(root, str(entry.get("name")))
        staged = _staged(path)
        there = staged if staged.exists() else path
        if not there.is_file() or there.stat().st_size != entry.get("size") or _hash(there) != entry.get("hash"):
            raise DatasetError(
                f"{entry.get('name')} was changed while labels were half written: restore it from a copy"
            )
    for entry in files:
        path = inside(root, str(entry["name"]))
        staged = _staged(path)
        if staged.exists():
            with storage_errors(path):
                os.replace(staged, path)
                _flush(path.parent)
    _remove_journal(root)


def _roll_back(root: Path, names: Sequence[str]) -> None:
    for name in names:
        staged = _staged(inside(root, name))
        if not staged.is_dir():  # a folder of that name is nobody's that we know: it is why staging failed
            staged.unlink(missing_ok=True)
    _remove_journal(root)


def _remove_journal(root: Path) -> None:
    path = inside(root, JOURNAL)
    path.unlink(missing_ok=True)
    _flush(path.parent)


def _staged(path: Path) -> Path:
    return path.with_name(f".{path.name}{_SUFFIX}")


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()
