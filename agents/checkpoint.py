"""Checkpoints that survive ``kill -9``: a folder appears under its name only when all of it is on disk.

``checkpoints/`` of a run folder holds

- ``step_<n>/``: one checkpoint each, ``manifest.json`` (sizes and BLAKE2 sums of all files) and its state;
- ``replay/``: rows of the replay buffer in chunks that several checkpoints share (`checkpoint_replay.py`);
- ``latest``: the name of the newest checkpoint; ``best``: the name of the best one, if there is one.

Order of a commit: write into a hidden folder, sync it, rename it, replace ``latest``, then delete what no kept
checkpoint refers to. A kill between any two of these leaves the previous checkpoint or the new one.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from vlmreward.agents.checkpoint_tree import read_tree, write_tree
from vlmreward.errors import CheckpointError, StorageError

FORMAT = 1
MANIFEST = "manifest.json"
REPLAY = "replay"


@dataclass(frozen=True)
class StoredFile:
    """A file's name relative to ``checkpoints/`` with what it must look like."""

    name: str
    size: int
    digest: str


class CheckpointStore:
    """The checkpoints of one run.

    Args:
        folder: ``<run folder>/checkpoints``; made when the first checkpoint is written.
        keep: How many of the newest checkpoints stay.
    """

    def __init__(self, folder: Path, keep: int = 2) -> None:
        self.folder = folder
        self.keep = keep

    def save(
        self, step: int, state: Any, meta: Mapping[str, Any], shared: Iterable[StoredFile] = (), best: bool = False
    ) -> Path:
        """Write one checkpoint and make it the newest (or, with ``best``, the best).

        Args:
            step: Environment steps so far; the checkpoint's name.
            state: Nested state, see ``write_tree``.
            meta: JSON: what a reader wants to know without loading the state.
            shared: Files outside the checkpoint's folder that it needs, e.g. chunks of the replay buffer.
            best: Write ``best_<n>`` and point ``best`` at it instead.

        Returns:
            The checkpoint's folder.

        Raises:
            StorageError: It can't be written; the previous checkpoint is untouched.
        """
        name = f"{'best' if best else 'step'}_{step:012d}"
        final = self.folder / name
        if (final / MANIFEST).is_file():
            return final  # nothing was learned since, e.g. a resumed run that was stopped at once
        temporary = self.folder / f".{name}.{os.getpid()}"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            shutil.rmtree(temporary, ignore_errors=True)
            temporary.mkdir()
            own = [describe_file(temporary / file, file) for file in write_tree(state, temporary)]
            manifest = {
                "format": FORMAT,
                "step": step,
                "meta": dict(meta),
                "files": [vars(file) for file in own],
                "shared": [vars(file) for file in shared],
            }
            (temporary / MANIFEST).write_text(json.dumps(manifest), encoding="utf-8")
            for file in (*(f.name for f in own), MANIFEST):
                sync(temporary / file)
            sync(temporary)
            temporary.rename(final)
            sync(self.folder)
            replace_text(self.folder / ("best" if best else "latest"), name)
        except (OSError, RuntimeError, SafetensorError) as e:
            shutil.rmtree(temporary, ignore_errors=True)
            # safetensors reports a full disk as its own error
            if not isinstance(e, OSError) and "os error" not in str(e).lower():
                raise
            raise StorageError(
                f"checkpoint {name} can't be written to {self.folder} ({_reason(e)}): free some space, "
                "the previous checkpoint is intact"
            ) from e
        self.prune()
        return final

    def names(self) -> list[str]:
        """Return the names of the complete checkpoints, oldest first; best ones are not among them."""
        return sorted(path.parent.name for path in self.folder.glob(f"step_*/{MANIFEST}"))

    def find(self, which: str = "last") -> Path:
        """Return a checkpoint's folder.

        Args:
            which: ``last``, ``best``, a step number, or a folder's name.

        Raises:
            CheckpointError: There is no such checkpoint.
        """
        names = self.names()
        if which == "best":
            pointer = self.folder / "best"
            if not pointer.is_file():
                raise CheckpointError(
                    f"{self.folder.parent} has no best checkpoint: train with eval.every=<steps>, or ask for last"
                )
            return self.folder / pointer.read_text(encoding="utf-8").strip()
        if not names:
            raise CheckpointError(f"{self.folder.parent} has no checkpoint: give a run folder of vlmreward train")
        if which == "last":
            pointer = self.folder / "latest"
            named = pointer.read_text(encoding="utf-8").strip() if pointer.is_file() else ""
            # a kill between the rename and the pointer's replacement leaves a newer folder: it is complete, take it
            return self.folder / max(names[-1], named if named in names else "")
        wanted = f"step_{int(which):012d}" if which.isdigit() else which
        if wanted not in names:
            steps = ", ".join(str(int(name.removeprefix("step_"))) for name in names)
            raise CheckpointError(f"{self.folder.parent} has no checkpoint {which!r}: it has last, best and {steps}")
        return self.folder / wanted

    def load(self, path: Path, with_shared: bool = True) -> tuple[Any, dict[str, Any], list[StoredFile]]:
        """Check a checkpoint against its manifest and read it.

        Args:
            path: The checkpoint's folder.
            with_shared: Check the shared files too; an evaluation does not need them.

        Returns:
            The state, ``meta``, and the shared files.

        Raises:
            CheckpointError: A file is missing or damaged.
        """
        manifest = self._manifest(path)
        shared = [StoredFile(**file) for file in manifest["shared"]]
        for file in [StoredFile(**f) for f in manifest["files"]]:
            self._verify(path, path / file.name, file)
        for file in shared if with_shared else []:
            self._verify(path, self.folder / file.name, file)
        return read_tree(path), manifest["meta"], shared

    def prune(self) -> None:
        """Delete checkpoints beyond ``keep``, and every file that no kept checkpoint refers to."""
        names = self.names()
        for name in names[: -self.keep]:
            self._remove(self.folder / name)
        try:
            manifests = [self._manifest(self.folder / name) for name in names[-self.keep :]]
        except CheckpointError:
            return  # an older one is damaged: nobody knows what it needs, so nothing is deleted
        wanted = {file["name"] for manifest in manifests for file in manifest["shared"]}
        for chunk in (self.folder / REPLAY).glob("*"):
            if f"{REPLAY}/{chunk.name}" not in wanted:
                chunk.unlink()
        best = {manifest["meta"].get("best", "") for manifest in manifests}
        pointer = self.folder / "best"
        if pointer.is_file():
            best.add(pointer.read_text(encoding="utf-8").strip())
        for path in self.folder.glob("best_*"):
            if path.name not in best:
                self._remove(path)

    def forget_after(self, best: str) -> None:
        """Point ``best`` back at what a resumed checkpoint knew: ``best``, or nothing if it is empty."""
        pointer = self.folder / "best"
        if best and (self.folder / best / MANIFEST).is_file():
            replace_text(pointer, best)
        else:
            pointer.unlink(missing_ok=True)
        for path in self.folder.glob("best_*"):
            if path.name != best:
                self._remove(path)
        for path in self.folder.glob(".*"):  # halves that a kill left
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)

    def _remove(self, path: Path) -> None:
        """Delete a checkpoint; it loses its name first, so that no half of it is ever taken for a whole."""
        hidden = path.with_name(f".{path.name}.{os.getpid()}.old")
        path.rename(hidden)
        shutil.rmtree(hidden)

    def _manifest(self, path: Path) -> dict[str, Any]:
        try:
            manifest = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
            if manifest["format"] != FORMAT:
                raise CheckpointError(
                    f"checkpoint {path} has format {manifest['format']}, this version reads {FORMAT}: "
                    "use the version of vlmreward that wrote it"
                )
            _ = manifest["meta"], manifest["files"], manifest["shared"]
        except (OSError, ValueError, KeyError, TypeError) as e:
            raise CheckpointError(f"checkpoint {path} is damaged ({MANIFEST}): {self._advice(path)}") from e
        return manifest

    def _verify(self, checkpoint: Path, file: Path, expected: StoredFile) -> None:
        if not file.is_file():
            harm = "is missing"
        elif file.stat().st_size != expected.size or _digest(file) != expected.digest:
            harm = "has changed"
        else:
            return
        raise CheckpointError(
            f"checkpoint {checkpoint} is damaged ({expected.name} {harm}): {self._advice(checkpoint)}"
        )

    def _advice(self, path: Path) -> str:
        if path.name.startswith("best_"):
            return "take the last one instead (checkpoint=last)"
        older = [name for name in self.names() if name < path.name]
        if older:
            return f"delete that folder to go on from {older[-1]}"
        return "there is no older one, train again"


def describe_file(path: Path, name: str) -> StoredFile:
    """Return the size and BLAKE2 sum of a file."""
    return StoredFile(name, path.stat().st_size, _digest(path))


def sync(path: Path) -> None:
    """Ask the system to put a file or folder on disk now."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def replace_text(path: Path, text: str) -> None:
    """Replace a text file in one step: a reader sees the old text or the new one."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.new")
    temporary.write_text(text, encoding="utf-8")
    sync(temporary)
    temporary.replace(path)
    sync(path.parent)


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()


def _reason(error: BaseException) -> str:
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return " ".join(str(text).split()).lower()
