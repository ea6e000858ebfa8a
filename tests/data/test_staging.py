"""A new dataset is there whole or not at all; what a kill left does not stand in the way, and is removed."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from vlmreward.data import find_format, list_formats, open_dataset
from vlmreward.data.staging import is_taken
from vlmreward.errors import DatasetError, StorageError

NAMES = ("set", "a [1] set.v2")

# Writes an episode of each format and is killed within the second one.
KILLED = """
import os, signal, sys
from dataclasses import replace
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from vlmreward.data import find_format, list_formats
spec = spec_from_file_location("known", sys.argv[1])
known = module_from_spec(spec)
spec.loader.exec_module(known)

def dying(frames):
    yield next(frames)
    os.kill(os.getpid(), signal.SIGKILL)

writers = []
for kind in list_formats():
    for name in sys.argv[3:]:
        writers.append(find_format(kind).create(Path(sys.argv[2]) / kind / name, fps=10.0))
        writers[-1].add(known.record(1))
second = known.record(2)
writers[-1].add(replace(second, frames={c: dying(iter(f)) for c, f in second.frames.items()}))
"""


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for each format, in which writers of two datasets were killed."""
    root = tmp_path_factory.mktemp("killed")
    script = [sys.executable, "-c", KILLED, str(Path(__file__).with_name("conftest.py")), str(root), *NAMES]
    done = subprocess.run(script, check=False, capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    return root


@pytest.mark.parametrize("kind", list_formats())
def test_after_a_kill_the_same_writer_begins_anew(kind: str, known: Any, killed: Path) -> None:
    folder, form = killed / kind, find_format(kind)
    assert form.create is not None
    left = names(folder)
    assert len(left) == 2
    assert all(name.startswith(".") and ".tmp" in name for name in left)
    for done, name in enumerate(NAMES, 1):
        writer = form.create(folder / name, fps=10.0)
        writer.add(known.record(0))
        writer.finish()
        assert len(open_dataset(folder / name).episodes) == 1
        assert len(names(folder)) == 2  # what the other writer left is still there
        assert len([n for n in names(folder) if not n.startswith(".")]) == done
    assert names(folder) == sorted(NAMES)


@pytest.mark.parametrize("kind", list_formats())
def test_two_writers_of_one_dataset_are_refused_and_the_first_goes_on(kind: str, known: Any, tmp_path: Path) -> None:
    create = find_format(kind).create
    assert create is not None
    first = create(tmp_path / "set", fps=10.0)
    first.add(known.record(1))
    with pytest.raises(DatasetError, match=r"set.* is being written by another: wait for it, or give another place"):
        create(tmp_path / "set", fps=10.0)
    create(tmp_path / "other", fps=10.0)
    first.add(known.record(2))
    first.finish()
    assert [episode.rows for episode in open_dataset(tmp_path / "set").episodes] == [3, 12]
    assert names(tmp_path) == ["set"]
    with pytest.raises(DatasetError, match="not empty"):
        create(tmp_path / "set", fps=10.0)


@pytest.mark.parametrize("kind", list_formats())
def test_what_came_to_be_at_the_place_meanwhile_is_not_replaced(kind: str, known: Any, tmp_path: Path) -> None:
    create = find_format(kind).create
    assert create is not None
    writer = create(tmp_path / "set", fps=10.0)
    writer.add(known.record(1))
    (tmp_path / "set").mkdir()
    (tmp_path / "set/mine").touch()
    with pytest.raises(DatasetError, match="not empty"):
        writer.finish()
    del writer
    assert names(tmp_path / "set") == ["mine"]


@pytest.mark.parametrize("kind", list_formats())
def test_a_writer_that_is_given_up_leaves_nothing(kind: str, known: Any, tmp_path: Path) -> None:
    create = find_format(kind).create
    assert create is not None
    (tmp_path / "set").mkdir()
    writer = create(tmp_path / "set", fps=10.0)
    writer.add(known.record(1))
    del writer
    assert names(tmp_path) == ["set"]
    assert names(tmp_path / "set") == []


def test_links_and_names_of_others_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious/file").touch()
    (tmp_path / ".set.0123abcd.tmp").symlink_to(tmp_path / "precious")
    (tmp_path / ".set.not-ours.tmp").mkdir()
    (tmp_path / ".settee.0123abcd.tmp").mkdir()
    before = names(tmp_path)
    create = find_format("folder").create
    assert create is not None
    create(tmp_path / "set", fps=10.0)
    assert names(tmp_path) == before
    assert names(tmp_path / "precious") == ["file"]


@pytest.mark.parametrize("kind", list_formats())
def test_a_commit_that_fails_does_not_stand_in_the_way(
    kind: str, known: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    form, out = find_format(kind), tmp_path / "set"
    assert form.create is not None

    def write() -> None:
        assert form.create is not None
        writer = form.create(out, fps=10.0)
        writer.add(known.record(0))
        writer.finish()

    with monkeypatch.context() as patched:
        patched.setattr("vlmreward.data.staging.commit", lambda *_: (_ for _ in ()).throw(StorageError("disk full")))
        with pytest.raises(StorageError, match="disk full"):
            write()
    write()
    assert len(open_dataset(out).episodes) == 1


def test_a_file_anywhere_below_is_something(tmp_path: Path) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    assert not is_taken(tmp_path)
    assert not is_taken(tmp_path / "none")
    (tmp_path / "a" / "b" / "c").touch()
    assert is_taken(tmp_path)
    assert is_taken(tmp_path / "a" / "b" / "c")
