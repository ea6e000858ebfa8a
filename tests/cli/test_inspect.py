from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vlmreward.data import find_format
from vlmreward.data.dataset import Recording


def write(root: Path, kind: str = "folder", tasks: tuple[str, ...] = ("open it", "open it", "close it")) -> Path:
    create = find_format(kind).create
    assert create is not None
    writer = create(root, fps=12.5)
    for i, task in enumerate(tasks):
        frames = {
            "front": np.full((4 + i, 40, 64, 3), 50 + i, np.uint8),
            "wrist": np.zeros((4 + i, 32, 32, 3), np.uint8),
        }
        seen = np.zeros((4 + i, 2), np.float32)
        writer.add(Recording(frames, seen, seen[1:], None, False, True, task, success=i == 0))
    writer.finish()
    return root


@pytest.mark.parametrize("kind", ["folder", "robomimic", "minari"])
def test_what_is_there_is_told(cli: Any, tmp_path: Path, kind: str) -> None:
    root = write(tmp_path / "set", kind)
    before = {p: hashlib.sha256(p.read_bytes()).hexdigest() for p in tmp_path.rglob("*") if p.is_file()}
    outcome = cli("inspect", f"dataset={root}")
    assert (outcome.code, outcome.err) == (0, "")
    told = {line.split()[0]: " ".join(line.split()[1:]) for line in outcome.out.splitlines() if line.split()}
    assert told["format"] == kind
    assert told["episodes"].startswith("3 (3 to 5 rows each)") or "instruction" in told["episodes"]
    assert "rows       12" in outcome.out
    assert "15 of each camera (every row is followed by a frame)" in outcome.out
    assert told["fps"] == "12.5"
    assert "front  64x40" in outcome.out
    assert "wrist  32x32" in outcome.out
    assert "1 successes, 2 failures, 0 not recorded" in outcome.out
    assert "2          open it" in outcome.out
    assert "1          close it" in outcome.out
    assert "problems: none found" in outcome.out
    assert {p: hashlib.sha256(p.read_bytes()).hexdigest() for p in tmp_path.rglob("*") if p.is_file()} == before


def test_problems_are_told_and_no_fault(cli: Any, tmp_path: Path) -> None:
    root = write(tmp_path / "set")
    (root / "episodes/000002.npz").unlink()
    outcome = cli("inspect", f"dataset={root}")
    assert outcome.code == 0
    assert "problems: 1" in outcome.out
    assert "line 3" in outcome.out
    assert "000002.npz' is missing" in outcome.out


def test_long_lists_are_cut_and_say_how_to_see_the_rest(cli: Any, tmp_path: Path) -> None:
    root = write(tmp_path / "set", tasks=tuple(f"task {i}" for i in range(5)))
    assert "3 more: most=5 shows all" in cli("inspect", f"dataset={root}", "most=2").out
    assert "more:" not in cli("inspect", f"dataset={root}", "most=5").out


def test_text_of_a_dataset_does_nothing_to_the_terminal(cli: Any, tmp_path: Path) -> None:
    root = write(tmp_path / "set", tasks=("[bold]x[/bold]\x1b[2J\n蓝",))
    out = cli("inspect", f"dataset={root}").out
    assert "[bold]x[/bold]\\x1b[2J\\n蓝" in out
    assert "\x1b" not in out


def test_path_is_taken_literally(cli: Any, tmp_path: Path) -> None:
    root = write(tmp_path / "a=b, {c} '$x'")
    assert cli("inspect", f"dataset={root}").code == 0


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ((), ("dataset is not given",)),
        (("dataset=nowhere",), ("'nowhere' does not exist",)),
        (("dataset=.",), ("is of no known dataset format", "episodes.jsonl", "meta/info.json")),
        (("datset=x",), ("unknown setting 'datset'", "did you mean 'dataset'")),
        (("dataset=",), ("dataset is empty",)),
        (("dataset=.", "most=0"), ("most must be a whole number >= 1",)),
    ],
)
def test_mistakes_are_told_in_one_line(
    cli: Any, refused: Any, settings: tuple[str, ...], words: tuple[str, ...]
) -> None:
    refused(cli("inspect", *settings), "inspect", *words)


def test_folder_without_its_key_is_understood(cli: Any, refused: Any, tmp_path: Path) -> None:
    write(tmp_path / "set")
    refused(cli("inspect", "set"), "inspect", "write dataset=set")


def test_damaged_dataset_is_told_in_one_line(cli: Any, refused: Any, tmp_path: Path) -> None:
    (tmp_path / "a.hdf5").write_bytes(b"nothing")
    refused(cli("inspect", "dataset=a.hdf5"), "inspect", "a.hdf5")


def test_help_teaches(cli: Any) -> None:
    outcome = cli("inspect", "--help")
    assert outcome.code == 0
    for word in ("dataset=", "episodes.jsonl", "robomimic", "camera", "most"):
        assert word in outcome.out
