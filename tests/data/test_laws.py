"""What holds for every format: what is written is read, labels come and go, a kill destroys nothing."""

from __future__ import annotations

import importlib.util
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pyarrow.parquet as pq
import pytest

from vlmreward.data import find_format, list_formats, open_dataset
from vlmreward.data.dataset import EpisodeDataset, EpisodeWriter, Format, Undecodable
from vlmreward.data.filler import FILLERS
from vlmreward.data.label_validity import read_validity
from vlmreward.errors import ConfigError, DatasetError, UnknownColumnError, VlmRewardError

LOSSY_PSNR = {"lerobot": 28.0}
"""Formats whose writer keeps pictures as video, and how near they come, in dB."""

OWN_FILLER = {"lerobot": "hold", "robomimic": "hold", "minari": "hold", "folder": "empty"}
"""What stands in an invalid row where nobody says."""

NAME = "reward_vlm"

# Writes labels in a process of its own and dies at the given call of the given function.
KILLED = """
import os, signal, sys
from pathlib import Path
from importlib.util import module_from_spec, spec_from_file_location
from vlmreward.data import find_format
spec = spec_from_file_location("known", sys.argv[1])
known = module_from_spec(spec)
spec.loader.exec_module(known)
kind, root, place, count = sys.argv[2], Path(sys.argv[3]), sys.argv[4], int(sys.argv[5])
dataset = find_format(kind).open(root)
labels = known.KnownLabels(list(dataset.episodes))
left = count
def dying(real):
    def call(*args, **kwargs):
        global left
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        left -= 1
        return real(*args, **kwargs)
    return call
writer = find_format(kind).label(dataset, "reward_vlm")
if place == "label":
    known.KnownLabels.episode = dying(known.KnownLabels.episode)
else:
    setattr(os, place, dying(getattr(os, place)))
writer.write(labels)
"""


@pytest.fixture(params=list_formats())
def form(request: pytest.FixtureRequest) -> Format:
    if importlib.util.find_spec(f"vlmreward.data.{request.param}") is None:
        pytest.skip(f"the module of format {request.param} isn't there yet")
    return find_format(request.param)


@pytest.fixture
def root(form: Format, known: Any, tmp_path: Path) -> Path:
    """A dataset of three episodes and two cameras."""
    return write(form, known, tmp_path / "set-v0")


def write(form: Format, known: Any, root: Path) -> Path:
    writer = create(form, root)
    for i in range(len(known.LENGTHS)):
        writer.add(known.record(i))
    writer.finish()
    return root


def create(form: Format, root: Path) -> EpisodeWriter:
    assert form.create is not None
    return form.create(root, fps=10.0, env_id="Push-v0")


def contents(root: Path, without: str = "\0") -> dict[str, Any]:
    """Everything in a dataset, in a form that can be compared, besides what has a word in its name."""
    found: dict[str, Any] = {}

    def visit(name: str, node: Any) -> None:
        if without in name:
            return
        about = {k: str(v) for k, v in node.attrs.items() if k != "vlmreward_pictures" or without == "\0"}
        found[f"{path.name}/{name}"] = (about, node[()].tobytes() if isinstance(node, h5py.Dataset) else None)

    for path in sorted(p for p in [root, *root.rglob("*")] if p.is_file()):
        if without in path.name:
            continue
        if path.suffix == ".hdf5":
            with h5py.File(path) as file:
                visit("/", file)
                file.visititems(visit)
        elif path.suffix == ".parquet":
            table = pq.read_table(path)
            found |= {f"{path.name}/{n}": table[n].to_pylist() for n in table.column_names if without not in n}
        elif path.suffix == ".json" and without != "\0":
            continue  # describes the columns
        else:
            found[path.name] = path.read_bytes()
    return found


def test_what_is_written_is_read(form: Format, root: Path, known: Any) -> None:
    dataset = open_dataset(root)
    assert isinstance(dataset, EpisodeDataset)
    assert (dataset.format, dataset.root, dataset.fps) == (form.name, root, 10.0)
    assert set(dataset.cameras) == {"front", "wrist"}
    assert [e.rows for e in dataset.episodes] == list(known.LENGTHS)
    assert [e.index for e in dataset.episodes] == [0, 1, 2]
    assert [e.instruction for e in dataset.episodes] == list(known.TASKS)
    assert [e.success for e in dataset.episodes] == [False, True, False]
    assert dataset.features
    assert dataset.problems() == []


def test_frames_are_those_that_were_recorded(form: Format, root: Path, known: Any) -> None:
    dataset = form.open(root)
    for episode in dataset.episodes:
        for camera, size in (("front", (32, 48)), ("wrist", (64, 64))):
            frames = list(dataset.frames(episode, camera))
            assert len(frames) == episode.frames
            assert episode.frames in (episode.rows, episode.rows + 1)
            for step, frame in enumerate(frames):
                assert not isinstance(frame, Undecodable), frame
                due = known.picture(episode.index, step, size)
                assert (frame.dtype, frame.shape) == (np.uint8, due.shape)
                if form.name not in LOSSY_PSNR:
                    np.testing.assert_array_equal(frame, due)
                    continue
                error = np.mean((frame.astype(float) - due) ** 2)
                assert 10 * np.log10(255**2 / error) > LOSSY_PSNR[form.name], (episode.index, step)
                others = [known.picture(episode.index, s, size) for s in (step - 1, step + 1)]
                assert error < min(np.mean((frame.astype(float) - other) ** 2) for other in others)


def test_transitions_are_those_that_were_recorded(form: Format, root: Path, known: Any) -> None:
    dataset = form.open(root)
    for episode in dataset.episodes:
        read, due = dataset.transitions(episode), known.record(episode.index)
        np.testing.assert_array_equal(read.action, due.action)
        np.testing.assert_array_equal(read.observation[:-1], due.observation[:-1])
        if episode.frames > episode.rows:
            np.testing.assert_array_equal(read.observation[-1], due.observation[-1])
        assert read.reward is not None
        np.testing.assert_array_equal(read.reward, due.reward)
        assert read.terminated.tolist() == [False] * (episode.rows - 1) + [due.terminated]
        assert read.truncated.tolist() == [False] * (episode.rows - 1) + [due.truncated]
        assert (read.observation.dtype, read.action.dtype, read.reward.dtype) == (np.float32,) * 3


def test_frames_come_as_they_are_asked_for_and_again(form: Format, root: Path) -> None:
    dataset = form.open(root)
    first = iter(dataset.frames(dataset.episodes[0], "front"))
    second = iter(dataset.frames(dataset.episodes[2], "front"))
    for _ in range(3):
        a, b = next(first), next(second)
        assert not isinstance(a, Undecodable)
        assert not isinstance(b, Undecodable)
        assert not np.array_equal(a, b)
    again = next(iter(dataset.frames(dataset.episodes[0], "front")))
    assert not isinstance(again, Undecodable)
    again[:] = 0  # it is the caller's


def test_unknown_camera_and_column_are_refused(form: Format, root: Path) -> None:
    dataset = form.open(root)
    with pytest.raises(DatasetError, match="side"):
        list(dataset.frames(dataset.episodes[0], "side"))
    with pytest.raises(DatasetError, match="side"):
        dataset.fingerprint("side")
    with pytest.raises(DatasetError):
        dataset.column(dataset.episodes[0], "reward_other")


def test_labels_are_read_back_and_the_rest_is_unchanged(form: Format, root: Path, known: Any) -> None:
    dataset = form.open(root)
    before = contents(root, without="vlm")
    labels = known.KnownLabels(list(dataset.episodes))
    writer = form.label(dataset, NAME)
    assert sum(change.rows for change in writer.plan()) >= sum(known.LENGTHS)
    assert contents(root, without="vlm") == before
    writer.write(labels)
    assert contents(root, without="vlm") == before
    for opened in (dataset, form.open(root)):  # the reader that was open before finds them, too
        for episode, due in zip(opened.episodes, labels, strict=True):
            valid = due.valid
            np.testing.assert_array_equal(opened.column(episode, NAME)[valid], due.reward[valid])
            np.testing.assert_array_equal(opened.column(episode, f"{NAME}_valid") != 0, valid)
            np.testing.assert_array_equal(opened.column(episode, f"{NAME}_progress")[valid], due.progress[valid])
            np.testing.assert_array_equal(opened.column(episode, f"{NAME}_success")[valid], due.success[valid])
    assert form.open(root).problems() == []


def test_every_part_of_a_set_of_labels_has_the_validity_of_its_set(form: Format, root: Path, known: Any) -> None:
    dataset = form.open(root)
    labels = known.KnownLabels(list(dataset.episodes))
    form.label(dataset, NAME).write(labels)
    in_file = {
        "lerobot": [],
        "robomimic": ["rewards_vlm", "progress_vlm", "success_vlm"],
        "minari": ["rewards_vlm", "progress_vlm", "success_vlm"],
        "folder": ["vlm", "progress_vlm", "success_vlm"],
    }[form.name]
    for episode, due in zip(dataset.episodes, labels, strict=True):
        assert not due.valid.all()
        for name in (NAME, f"{NAME}_progress", f"{NAME}_success", *in_file):
            found = read_validity(dataset, episode, name)
            assert found is not None, name
            np.testing.assert_array_equal(found, due.valid)
        recorded = "next.reward" if form.name == "lerobot" else "rewards"
        assert dataset.column(episode, recorded).shape == (episode.rows,)
        assert read_validity(dataset, episode, recorded) is None
        with pytest.raises(UnknownColumnError):
            dataset.column(episode, "reward_other_progress")


def test_labels_are_no_part_of_the_fingerprint(form: Format, root: Path, known: Any) -> None:
    dataset = form.open(root)
    before = [dataset.fingerprint(camera) for camera in dataset.cameras]
    assert len(set(before)) == 2
    assert all(len(f) == 32 and int(f, 16) >= 0 for f in before)
    for i, name in enumerate((NAME, "reward_other")):
        form.label(form.open(root), name).write(known.KnownLabels(list(dataset.episodes), shift=float(i)))
        assert [form.open(root).fingerprint(camera) for camera in dataset.cameras] == before
    for name in (NAME, "reward_other"):
        form.label(form.open(root), name, overwrite=True).undo()
        assert [form.open(root).fingerprint(camera) for camera in dataset.cameras] == before


def test_other_pictures_have_another_fingerprint(form: Format, known: Any, tmp_path: Path) -> None:
    prints = []
    for number, episodes in enumerate([(0, 1), (0, 2), (0, 1, 2), (0, 2, 1)]):
        writer = create(form, tmp_path / str(number))
        for i in episodes:
            writer.add(known.record(i))
        writer.finish()
        prints.append(form.open(tmp_path / str(number)).fingerprint("front"))
    assert len(set(prints)) == 4


def test_file_of_pictures_that_was_changed_has_another_fingerprint(form: Format, root: Path, known: Any) -> None:
    dataset = form.open(root)
    before = dataset.fingerprint("front")
    form.label(dataset, NAME).write(known.KnownLabels(list(dataset.episodes)))
    for path in [root, *root.rglob("*")]:
        if path.suffix in (".hdf5", ".mp4", ".npz"):
            os.utime(path)
    assert form.open(root).fingerprint("front") != before


def test_labels_of_the_same_name_are_replaced_only_on_request(form: Format, root: Path, known: Any) -> None:
    dataset = form.open(root)
    form.label(dataset, NAME).write(known.KnownLabels(list(dataset.episodes)))
    before = known.hashes(root)
    again = known.KnownLabels(list(dataset.episodes), shift=5.0)
    for refused in (lambda w: w.is_written(again.provenance.run), lambda w: w.write(again)):
        with pytest.raises(DatasetError, match=r"already.*overwrite"):
            refused(form.label(form.open(root), NAME))
    assert known.hashes(root) == before
    form.label(form.open(root), NAME, overwrite=True).write(again)
    due = again.episode(1)
    column = form.open(root).column(dataset.episodes[1], NAME)
    np.testing.assert_array_equal(column[due.valid], due.reward[due.valid])


@pytest.mark.parametrize("overwrite", [False, True])
def test_labels_of_the_very_same_run_are_left_as_they_are(
    form: Format, root: Path, known: Any, overwrite: bool
) -> None:
    dataset = form.open(root)
    labels = known.KnownLabels(list(dataset.episodes))
    assert not form.label(dataset, NAME).is_written(labels.provenance.run)
    form.label(dataset, NAME).write(labels)
    before = {path: (path.stat().st_mtime_ns, path.stat().st_ino) for path in [root, *root.rglob("*")]}
    again = form.label(form.open(root), NAME, overwrite=overwrite)
    assert again.is_written(labels.provenance.run)
    again.write(labels)
    assert {path: (path.stat().st_mtime_ns, path.stat().st_ino) for path in [root, *root.rglob("*")]} == before
    other = form.label(form.open(root), NAME, filler="decrease", overwrite=True)
    assert not other.is_written(labels.provenance.run)  # another filler is another content
    other.write(labels)
    assert form.label(form.open(root), NAME, filler="decrease").is_written(labels.provenance.run)


@pytest.mark.parametrize("filler", [*FILLERS, "zero"])
def test_filler_is_followed_or_refused(form: Format, root: Path, known: Any, filler: str) -> None:
    before = known.hashes(root)
    meant = OWN_FILLER[form.name] if filler == "auto" else filler
    if meant not in ("hold", "decrease", OWN_FILLER[form.name]):
        with pytest.raises(ConfigError, match="filler"):
            form.label(form.open(root), NAME, filler=filler)
        assert known.hashes(root) == before
        return
    dataset = form.open(root)
    labels = known.KnownLabels(list(dataset.episodes))
    form.label(dataset, NAME, filler=filler).write(labels)
    episode, due = dataset.episodes[2], labels.episode(2).reward
    assert np.flatnonzero(np.isnan(due)).tolist() == [1, 11]  # in the middle, and the last one
    below = {"hold": 0.0, "decrease": 1e-3, "empty": np.nan}[meant]
    due[[1, 11]] = due[0] - below, due[10] + 0 * below  # the last row tells of no failure: it holds
    np.testing.assert_allclose(dataset.column(episode, NAME), due, atol=1e-6)


def test_no_filler_leaves_the_range_of_progress(form: Format, root: Path, known: Any) -> None:
    """By hand: row 0 of the last episode has a progress of 0, and row 1 after it is invalid."""
    dataset = form.open(root)
    form.label(dataset, NAME, filler="decrease").write(known.KnownLabels(list(dataset.episodes)))
    found = dataset.column(dataset.episodes[2], f"{NAME}_progress")
    assert found[:2].tolist() == [0, 0]
    assert found.max() <= 1


def test_undo_restores_everything(form: Format, root: Path, known: Any) -> None:
    before = contents(root)
    dataset = form.open(root)
    writer = form.label(dataset, NAME)
    with pytest.raises(DatasetError):
        writer.undo()
    writer.write(known.KnownLabels(list(dataset.episodes)))
    assert contents(root) != before
    changes = form.label(form.open(root), NAME, overwrite=True).undo()
    assert sum(change.rows for change in changes) >= sum(known.LENGTHS)
    assert contents(root) == before
    with pytest.raises(DatasetError):
        form.open(root).column(dataset.episodes[0], NAME)


@pytest.mark.parametrize(("place", "count"), [("label", 0), ("label", 2), ("fsync", 0), ("replace", 0), ("fsync", 1)])
def test_kill_leaves_the_original_or_what_can_be_finished(
    form: Format, root: Path, known: Any, tmp_path: Path, place: str, count: int
) -> None:
    before = contents(root, without="vlm")
    script = [sys.executable, "-c", KILLED, str(Path(__file__).with_name("conftest.py"))]
    done = subprocess.run(
        [*script, form.name, str(root), place, str(count)], check=False, capture_output=True, text=True
    )
    assert done.returncode in (-signal.SIGKILL, 0), done.stderr
    assert done.returncode != 0 or place == "fsync"
    dataset = form.open(root)
    labels = known.KnownLabels(list(dataset.episodes))
    form.label(dataset, NAME, overwrite=True).write(labels)
    dataset = form.open(root)
    for episode, due in zip(dataset.episodes, labels, strict=True):
        np.testing.assert_array_equal(dataset.column(episode, NAME)[due.valid], due.reward[due.valid])
    assert contents(root, without="vlm") == before
    undisturbed = write(form, known, tmp_path / "other-v0")
    other = form.open(undisturbed)
    form.label(other, NAME).write(labels)
    for a, b in zip(dataset.episodes, other.episodes, strict=True):
        np.testing.assert_array_equal(dataset.column(a, NAME), other.column(b, NAME))


def test_new_dataset_is_none_before_it_is_finished(form: Format, known: Any, tmp_path: Path) -> None:
    writer = create(form, tmp_path / "new")
    writer.add(known.record(0))
    with pytest.raises(DatasetError):
        form.open(tmp_path / "new")
    with pytest.raises(DatasetError):
        open_dataset(tmp_path / "new")
    writer.finish()
    assert len(open_dataset(tmp_path / "new").episodes) == 1


def test_place_that_holds_something_is_refused(form: Format, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(DatasetError, match="empty"):
        create(form, tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["notes.txt"]


@pytest.mark.parametrize("wrong", ["action", "frames", "size", "rows", "cameras"])
def test_recording_that_does_not_fit_is_refused(form: Format, known: Any, tmp_path: Path, wrong: str) -> None:
    writer = create(form, tmp_path / "new")
    writer.add(known.record(0))
    bad = known.record(1)
    if wrong == "action":
        bad.action = np.zeros((3, 7), np.float32)
    elif wrong == "frames":
        bad.frames = {name: list(frames)[:-1] for name, frames in bad.frames.items()}
    elif wrong == "size":
        bad.frames = {name: [frame[:-2] for frame in frames] for name, frames in bad.frames.items()}
    elif wrong == "rows":
        bad.action, bad.observation = bad.action[:0], bad.observation[:1]
    else:
        bad.frames = {"front": bad.frames["front"]}
    with pytest.raises(ConfigError):
        writer.add(bad)


def test_labels_that_do_not_fit_change_nothing(form: Format, root: Path, known: Any) -> None:
    before = known.hashes(root)
    dataset = form.open(root)
    labels = known.KnownLabels(list(dataset.episodes))
    nan = labels.episode(2)
    nan.reward[0] = np.nan  # valid, it says
    labels.episode = lambda index: nan if index == 2 else known.KnownLabels.episode(labels, index)
    with pytest.raises(VlmRewardError, match=r"finite|NaN|nan"):
        form.label(dataset, NAME).write(labels)
    form.open(root)
    dataset = form.open(root)
    if known.hashes(root) != before:  # begun, and rolled back by the next call
        form.label(dataset, NAME)
    assert known.hashes(root) == before


def test_moved_dataset_is_the_same(form: Format, root: Path, tmp_path: Path) -> None:
    dataset = form.open(root)
    before = dataset.fingerprint("front")
    moved = shutil.move(root, tmp_path / "elsewhere")
    assert form.open(Path(moved)).fingerprint("front") == before
