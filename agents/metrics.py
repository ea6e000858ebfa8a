"""Where training writes its numbers: ``metrics.jsonl`` and TensorBoard, both cut back to a checkpoint on resume."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from stable_baselines3.common.logger import KVWriter, Logger

# SB3 fills these with the placeholder reward of deferred scoring; our own keys stand in their place.
PLACEHOLDERS = frozenset({"rollout/ep_rew_mean", "rollout/ep_len_mean"})


class JsonLinesWriter(KVWriter):
    """Appends one JSON object per log step, flushed at once.

    Args:
        path: The file.
        lines: Keep so many lines of an existing file, and drop what a resumed run will write again.
    """

    def __init__(self, path: Path, lines: int = 0) -> None:
        self.path = path
        kept = path.read_bytes().splitlines(keepends=True)[:lines] if path.is_file() else []
        path.write_bytes(b"".join(kept))
        self.lines = len(kept)
        self._file = path.open("a", encoding="utf-8")

    def write(self, key_values: dict[str, Any], key_excluded: dict[str, tuple[str, ...]], step: int = 0) -> None:
        """Write one line: ``{"step": ..., "rollout/vlm_return": ..., ...}``."""
        values = {key: _number(value) for key, value in key_values.items() if key not in PLACEHOLDERS}
        self._file.write(json.dumps({"step": step, **values}) + "\n")
        self._file.flush()
        self.lines += 1

    def close(self) -> None:
        """Close the file."""
        self._file.close()


class TensorBoardWriter(KVWriter):
    """Writes scalars for TensorBoard.

    Args:
        folder: Where the event files go.
        from_step: Hide what earlier event files say of this step and later ones.
    """

    def __init__(self, folder: Path, from_step: int = 0) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(folder), purge_step=from_step or None)

    def write(self, key_values: dict[str, Any], key_excluded: dict[str, tuple[str, ...]], step: int = 0) -> None:
        """Write the numbers among the values."""
        for key, value in key_values.items():
            number = _number(value)
            if key not in PLACEHOLDERS and isinstance(number, (int, float)):
                self._writer.add_scalar(key, number, step)
        self._writer.flush()

    def close(self) -> None:
        """Close the event file."""
        self._writer.close()


def make_logger(run_dir: Path, lines: int = 0, from_step: int = 0) -> tuple[Logger, JsonLinesWriter]:
    """Return a logger that writes into a run folder, and its writer of JSON lines.

    Args:
        run_dir: The run folder.
        lines: Lines of an existing ``metrics.jsonl`` to keep.
        from_step: Step that the run goes on from.
    """
    run_dir.mkdir(parents=True, exist_ok=True)
    lines_writer = JsonLinesWriter(run_dir / "metrics.jsonl", lines)
    formats: list[KVWriter] = [lines_writer, TensorBoardWriter(run_dir / "tensorboard", from_step)]
    return Logger(folder=None, output_formats=formats), lines_writer


def _number(value: Any) -> Any:
    """Return a JSON value: NumPy and torch scalars as Python numbers."""
    return value.item() if hasattr(value, "item") else value
