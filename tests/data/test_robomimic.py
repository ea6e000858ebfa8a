"""Files as robomimic and LIBERO write them, made with h5py alone."""

# pyright: reportAttributeAccessIssue=false, reportIndexIssue=false, reportArgumentType=false
# pyright: reportOptionalMemberAccess=false, reportCallIssue=false, reportOptionalSubscript=false, reportOperatorIssue=false
# of what lies in an HDF5 file h5py can say no narrower type
from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import h5py
import numpy as np
import pytest

from vlmreward.data.dataset import Undecodable
from vlmreward.data.hdf5_rewrite import leftover, rewriting
from vlmreward.data.robomimic import FORMAT
from vlmreward.errors import ConfigError, DatasetError, StorageError

ROBOSUITE = {"env_name": "Lift", "type": 1, "env_kwargs": {"reward_shaping": False, "control_freq": 20}}
LIBERO = {"problem_name": "libero_tabletop", "language_instruction": "pick up the black bowl"}


def frames_of(demo: int, rows: int) -> np.ndarray:
    return np.random.default_rng(demo).integers(0, 256, (rows, 16, 24, 3)).astype(np.uint8)


def build(path: Path, demos: tuple[int, ...] = (0, 1, 2, 9, 10), next_obs: bool = False, **attrs: Any) -> Path:
    """Write a file whose demo i has i + 2 rows, and a last reward of 1 where i is even."""
    with h5py.File(path, "w") as file:
        data = file.create_group("data")
        data.attrs["total"] = sum(i + 2 for i in demos)
        for name, value in {"env_args": ROBOSUITE, **attrs}.items():
            data.attrs[name] = json.dumps(value)
        for i in demos:
            rows = i + 2
            demo = data.create_group(f"demo_{i}")
            demo.attrs["num_samples"] = rows
            demo["actions"] = np.full((rows, 7), i, np.float64)
            demo["rewards"] = (np.arange(rows) == (rows - 1 if i % 2 == 0 else -1)).astype(float)
            demo["dones"] = (np.arange(rows) == rows - 1).astype(np.int64)
            demo["states"] = np.zeros((rows, 4))
            seen = frames_of(i, rows + 1)
            demo["obs/agentview_rgb"] = seen[:-1]
            demo["obs/ee_pos"] = np.arange(rows * 3, dtype=np.float64).reshape(rows, 3)
            demo["obs/depth"] = np.zeros((rows, 16, 24, 1), np.float32)
            if next_obs:
                demo["next_obs/agentview_rgb"] = seen[1:]
                demo["next_obs/ee_pos"] = np.arange(rows * 3, dtype=np.float64).reshape(rows, 3) + 3
        mask = file.create_group("mask")
        mask["train"] = np.array([f"demo_{i}".encode() for i in demos[:2]])
    return path


def test_demos_come_by_number(tmp_path: Path) -> None:
    dataset = FORMAT.open(build(tmp_path / "a.hdf5"))
    assert [e.name for e in dataset.episodes] == ["demo_0", "demo_1", "demo_2", "demo_9", "demo_10"]
    assert [e.rows for e in dataset.episodes] == [2, 3, 4, 11, 12]
    assert dataset.transitions(dataset.episodes[4]).action.tolist() == [[10.0] * 7] * 12


def test_only_colour_pictures_are_cameras(tmp_path: Path) -> None:
    dataset = FORMAT.open(build(tmp_path / "a.hdf5"))
    assert dataset.cameras == ("agentview_rgb",)
    assert dataset.fps == 20.0


@pytest.mark.parametrize("next_obs", [False, True])
def test_next_obs_gives_the_picture_after_the_last_action(tmp_path: Path, next_obs: bool) -> None:
    dataset = FORMAT.open(build(tmp_path / "a.hdf5", next_obs=next_obs))
    for episode, demo in zip(dataset.episodes, (0, 1, 2, 9, 10), strict=True):
        assert episode.frames == episode.rows + next_obs
        frames = np.stack([f for f in dataset.frames(episode, "agentview_rgb") if not isinstance(f, Undecodable)])
        np.testing.assert_array_equal(frames, frames_of(demo, episode.rows + 1)[: episode.frames])


def test_observation_after_the_last_action(tmp_path: Path) -> None:
    with_next = FORMAT.open(build(tmp_path / "a.hdf5", next_obs=True))
    without = FORMAT.open(build(tmp_path / "b.hdf5"))
    # depth (16 * 24 zeros) and ee_pos, in the order of their names
    last = [
        with_next.transitions(with_next.episodes[0]).observation,
        without.transitions(without.episodes[0]).observation,
    ]
    assert [o.shape for o in last] == [(3, 387), (3, 387)]
    assert last[0][:, -3:].tolist() == [[0, 1, 2], [3, 4, 5], [3 + 3, 4 + 3, 5 + 3]]
    assert last[1][:, -3:].tolist() == [[0, 1, 2], [3, 4, 5], [3, 4, 5]]


@pytest.mark.parametrize(
    ("attrs", "task", "success"),
    [
        ({}, "", [True, False]),
        ({"env_args": {"env_kwargs": {"reward_shaping": True}}}, "", [None, None]),
        ({"env_args": {}}, "", [None, None]),
        ({"env_args": {"lang": "lift the cube"}}, "lift the cube", [None, None]),
        ({"env_args": {}, "problem_info": LIBERO}, "pick up the black bowl", [True, False]),
        ({"problem_info": {"language_instruction": list("open it")}}, "open it", [True, False]),
    ],
)
def test_task_and_success_where_the_file_says_so(
    tmp_path: Path, attrs: dict[str, Any], task: str, success: list[bool | None]
) -> None:
    dataset = FORMAT.open(build(tmp_path / "a.hdf5", **attrs))
    assert {e.instruction for e in dataset.episodes} == {task}
    assert [e.success for e in dataset.episodes[:2]] == success


def test_demo_of_its_own_task(tmp_path: Path) -> None:
    path = build(tmp_path / "a.hdf5", problem_info=LIBERO)
    with h5py.File(path, "r+") as file:
        file["data/demo_1"].attrs["ep_meta"] = json.dumps({"lang": "close the drawer"})
    assert FORMAT.open(path).episodes[1].instruction == "close the drawer"
    assert FORMAT.open(path).episodes[0].instruction == "pick up the black bowl"


def test_end_is_true_only_for_a_success_that_is_done(tmp_path: Path) -> None:
    dataset = FORMAT.open(build(tmp_path / "a.hdf5"))
    ends = [dataset.transitions(e) for e in dataset.episodes[:2]]
    assert [bool(t.terminated[-1]) for t in ends] == [True, False]
    assert [bool(t.truncated[-1]) for t in ends] == [False, True]
    assert not any(t.terminated[:-1].any() or t.truncated[:-1].any() for t in ends)


def test_labels_stand_where_robomimic_looks(tmp_path: Path, known: Any) -> None:
    path = build(tmp_path / "a.hdf5")
    dataset = FORMAT.open(path)
    labels = known.KnownLabels(list(dataset.episodes))
    FORMAT.label(dataset, "vlm").write(labels)
    with h5py.File(path) as file:
        for episode, due in zip(dataset.episodes, labels, strict=True):
            demo = file[f"data/{episode.name}"]
            assert (demo["rewards_vlm"].dtype, demo["rewards_vlm"].shape) == (np.float32, (episode.rows,))
            assert np.isfinite(demo["rewards_vlm"][:]).all()
            np.testing.assert_array_equal(demo["rewards_vlm_valid"][:], due.valid)
            about = json.loads(demo["rewards_vlm"].attrs["vlmreward"])
            assert (about["encoder"], about["run"], about["camera"]) == ("mini-2-abc", "0123456789abcdef", "front")
        counts = json.loads(file["data/demo_10/rewards_vlm_valid"].attrs["vlmreward"])
        assert (counts["invalid"], counts["reasons"]) == (2, {"no successor": 2})
        assert file["mask/train"][:].tolist() == [b"demo_0", b"demo_1"]


def test_recorded_rewards_are_kept_when_labels_take_their_place(tmp_path: Path, known: Any) -> None:
    path = build(tmp_path / "a.hdf5")
    dataset = FORMAT.open(path)
    recorded = [dataset.column(e, "rewards") for e in dataset.episodes]
    labels = known.KnownLabels(list(dataset.episodes))
    with pytest.raises(DatasetError, match="rewards_recorded"):
        FORMAT.label(dataset, "rewards")
    for shift in (0.0, 3.0):  # the second time it is our labels that are replaced
        labels = known.KnownLabels(list(dataset.episodes), shift=shift)
        FORMAT.label(dataset, "rewards", overwrite=True).write(labels)
        for episode, due, old in zip(dataset.episodes, labels, recorded, strict=True):
            np.testing.assert_array_equal(dataset.column(episode, "rewards")[due.valid], due.reward[due.valid])
            np.testing.assert_array_equal(dataset.column(episode, "rewards_recorded"), old)
    FORMAT.label(dataset, "rewards", overwrite=True).undo()
    for episode, old in zip(dataset.episodes, recorded, strict=True):
        np.testing.assert_array_equal(dataset.column(episode, "rewards"), old)
        with pytest.raises(DatasetError):
            dataset.column(episode, "rewards_recorded")


@pytest.mark.parametrize("name", ["", "a/b", "../x", "recorded", "vlm_valid", "reward_", "ä", "x" * 200])
def test_names_that_can_not_be_are_refused(tmp_path: Path, name: str) -> None:
    dataset = FORMAT.open(build(tmp_path / "a.hdf5"))
    with pytest.raises(ConfigError, match="name"):
        FORMAT.label(dataset, name)


def test_dataset_of_others_is_never_replaced(tmp_path: Path) -> None:
    path = build(tmp_path / "a.hdf5")
    with h5py.File(path, "r+") as file:
        file["data/demo_2/rewards_dense"] = np.zeros(4)
    with pytest.raises(DatasetError, match="did not write"):
        FORMAT.label(FORMAT.open(path), "dense", overwrite=True)


def test_no_room_for_a_copy_is_told_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, known: Any
) -> None:
    path = build(tmp_path / "a.hdf5")
    before = known.hashes(path)
    dataset = FORMAT.open(path)
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=1000))
    monkeypatch.setattr("fcntl.ioctl", Mock(side_effect=OSError("not supported")))
    with pytest.raises(StorageError, match="free"):
        FORMAT.label(dataset, "vlm").write(known.KnownLabels(list(dataset.episodes)))
    assert known.hashes(tmp_path / "a.hdf5") == before
    assert [p.name for p in tmp_path.iterdir()] == ["a.hdf5"]


def test_what_a_kill_left_is_used_up(tmp_path: Path, known: Any) -> None:
    path = build(tmp_path / "a.hdf5")
    leftover(path).write_bytes(b"half a copy" * 100_000)
    dataset = FORMAT.open(path)
    FORMAT.label(dataset, "vlm").write(known.KnownLabels(list(dataset.episodes)))
    assert [p.name for p in tmp_path.iterdir()] == ["a.hdf5"]
    assert FORMAT.open(path).column(dataset.episodes[0], "vlm").shape == (2,)


def test_two_processes_do_not_write_at_once(tmp_path: Path) -> None:
    path = build(tmp_path / "a.hdf5")
    script = "import sys; from pathlib import Path; from vlmreward.data.hdf5_rewrite import rewriting\n"
    script += "with rewriting(Path(sys.argv[1])): pass"
    with rewriting(path):
        other = subprocess.run([sys.executable, "-c", script, str(path)], capture_output=True, text=True, check=False)
    assert "another process is writing labels into a.hdf5" in other.stderr
    subprocess.run([sys.executable, "-c", script, str(path)], check=True)
    assert [p.name for p in tmp_path.iterdir()] == ["a.hdf5"]


def test_links_to_other_files_are_left_alone(tmp_path: Path, known: Any) -> None:
    path = build(tmp_path / "a.hdf5")
    os.mkfifo(tmp_path / "pipe")  # whoever opens it waits for ever
    with h5py.File(path, "r+") as file:
        file["data/demo_9/other"] = h5py.ExternalLink(str(tmp_path / "pipe"), "/")
    dataset = FORMAT.open(path)
    FORMAT.label(dataset, "vlm").write(known.KnownLabels(list(dataset.episodes)))
    FORMAT.label(dataset, "vlm", overwrite=True).undo()
    with h5py.File(path) as file:
        link = file["data/demo_9"].get("other", getlink=True)
        assert (link.filename, link.path) == (str(tmp_path / "pipe"), "/")


def test_mode_of_the_file_is_kept(tmp_path: Path, known: Any) -> None:
    path = build(tmp_path / "a.hdf5")
    os.chmod(path, 0o640)
    dataset = FORMAT.open(path)
    FORMAT.label(dataset, "vlm").write(known.KnownLabels(list(dataset.episodes)))
    assert path.stat().st_mode & 0o777 == 0o640


def test_folder_of_one_file_is_opened_and_of_two_is_not(tmp_path: Path) -> None:
    build(tmp_path / "a.hdf5")
    assert len(FORMAT.open(tmp_path).episodes) == 5
    build(tmp_path / "b.hdf5")
    with pytest.raises(DatasetError, match="2 HDF5 files"):
        FORMAT.open(tmp_path)
