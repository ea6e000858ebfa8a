"""Several processes in one work folder: what one is writing, no other removes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from vlmreward.labelling.work_folder import FrameRecord, WorkFolder

RECORD = FrameRecord(np.arange(8, dtype=np.uint64).reshape(4, 2))

# Begins to work in the folder, and lives until its input ends.
WORKER = """
import sys
from pathlib import Path
from vlmreward.labelling.work_folder import WorkFolder
folder = WorkFolder(Path(sys.argv[1]), "layout", "other")
folder.begin()
print("at work", flush=True)
sys.stdin.read()
"""


def half_written(path: Path) -> Path:
    """What a process leaves that is killed between writing a shard and naming it."""
    left = path / "frames-layout" / ".000003.0123abcd.tmp.npz"
    left.parent.mkdir(parents=True, exist_ok=True)
    left.write_bytes(b"half")
    return left


def test_a_start_while_another_process_works_removes_nothing(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", WORKER, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        assert process.stdout.readline() == "at work\n"
        left = half_written(tmp_path)
        folder = WorkFolder(tmp_path, "layout", "run")
        folder.begin()
        assert left.exists()
        folder.write_frames(0, RECORD)
    finally:
        process.kill()
        process.communicate()
    again = WorkFolder(tmp_path, "layout", "run")
    again.begin()  # the first one of this process is still at work
    assert left.exists()
    del folder, again
    WorkFolder(tmp_path, "layout", "run").begin()
    assert not left.exists()
    record = WorkFolder(tmp_path, "layout", "run").read_frames(0)
    assert record is not None
    np.testing.assert_array_equal(record.keys, RECORD.keys)


def test_a_start_between_writing_and_naming_a_shard_breaks_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = (WorkFolder(tmp_path, "layout", run) for run in ("run", "other"))
    first.begin()
    replace = os.replace

    def begin_first(source: Path, target: Path) -> None:
        second.begin()
        replace(source, target)

    monkeypatch.setattr(os, "replace", begin_first)
    first.write_frames(0, RECORD)
    assert first.read_frames(0) is not None
