"""Datasets that the real Minari writes are read by ours, and the other way round."""

# pyright: reportAttributeAccessIssue=false, reportIndexIssue=false, reportArgumentType=false
# pyright: reportOptionalMemberAccess=false, reportCallIssue=false, reportOptionalSubscript=false, reportOperatorIssue=false
# of what lies in an HDF5 file h5py can say no narrower type
from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import gymnasium as gym
import h5py
import numpy as np
import pytest
from PIL import Image

from vlmreward.data import open_dataset
from vlmreward.data.dataset import Undecodable
from vlmreward.data.minari import FORMAT
from vlmreward.errors import DatasetError

minari = pytest.importorskip("minari", reason="opens what ours writes: pip install minari")

ROWS = (4, 9)


def smooth(step: int, size: int = 40) -> np.ndarray:
    y, x = np.mgrid[0:size, 0:size]
    return np.stack([2 * x + 10 * step, 2 * y + 20, x + y], axis=-1).astype(np.uint8)


def build(root: Path, space: gym.Space, observe: Any, infos: Any = None, **options: Any) -> Path:
    """Write two episodes with Minari itself."""
    from minari.data_collector import EpisodeBuffer
    from minari.dataset.minari_storage import MinariStorage

    root.mkdir()
    action = gym.spaces.Box(-1, 1, (2,), np.float32)
    storage = MinariStorage.new(root / "data", space, action, data_format="hdf5", **options)
    for number, rows in enumerate(ROWS):
        storage.update_episodes(
            [
                EpisodeBuffer(
                    id=number,
                    observations=observe(rows),
                    actions=np.full((rows, 2), number, np.float32),
                    rewards=np.arange(rows, dtype=float),
                    terminations=np.arange(rows) == (rows - 1 if number else -1),
                    truncations=np.arange(rows) == (rows - 1 if not number else -1),
                    infos=infos(number, rows) if infos else None,
                )
            ]
        )
    storage.update_metadata({"dataset_id": "test/x-v0", "minari_version": "0.5.4"})
    return root


def box(size: int = 40) -> gym.spaces.Box:
    return gym.spaces.Box(0, 255, (size, size, 3), np.uint8)


def pictures(rows: int) -> np.ndarray:
    return np.stack([smooth(t) for t in range(rows + 1)])


@pytest.mark.parametrize("jpeg", [True, False])
def test_picture_observations_of_minari(tmp_path: Path, jpeg: bool) -> None:
    root = build(tmp_path / "x", box(), pictures, jpeg_encoding=jpeg)
    dataset = open_dataset(root)
    assert (dataset.format, dataset.cameras) == ("minari", ("observations",))
    assert [(e.rows, e.frames) for e in dataset.episodes] == [(4, 5), (9, 10)]
    expected = minari.MinariDataset(root / "data")
    for episode, theirs in zip(dataset.episodes, expected, strict=True):
        frames = np.stack([f for f in dataset.frames(episode, "observations") if not isinstance(f, Undecodable)])
        np.testing.assert_array_equal(frames, theirs.observations)
        read = dataset.transitions(episode)
        np.testing.assert_array_equal(read.action, theirs.actions)
        np.testing.assert_array_equal(read.terminated, theirs.terminations)
        np.testing.assert_array_equal(read.truncated, theirs.truncations)
    assert dataset.problems() == []


def test_jpegs_of_different_lengths(tmp_path: Path) -> None:
    def observe(rows: int) -> np.ndarray:
        noise = np.random.default_rng(0).integers(0, 256, (rows + 1, 40, 40, 3)).astype(np.uint8)
        noise[::2] //= 64
        return noise

    root = build(tmp_path / "x", box(), observe)
    with h5py.File(root / "data/main_data.hdf5") as file:
        assert h5py.check_vlen_dtype(file["episode_0/observations"].dtype) == np.uint8
    dataset = FORMAT.open(root)
    theirs = minari.MinariDataset(root / "data")[1].observations
    frames = np.stack(
        [f for f in dataset.frames(dataset.episodes[1], "observations") if not isinstance(f, Undecodable)]
    )
    np.testing.assert_array_equal(frames, theirs)


def test_several_pictures_in_nested_spaces(tmp_path: Path) -> None:
    space = gym.spaces.Dict(
        {
            "cameras": gym.spaces.Dict({"front": box(), "wrist": box()}),
            "pos": gym.spaces.Box(-9, 9, (3,), np.float64),
            "mission": gym.spaces.Text(32),
        }
    )

    def observe(rows: int) -> dict[str, Any]:
        seen = pictures(rows)
        where = np.arange(3.0 * (rows + 1)).reshape(-1, 3)
        return {"cameras": {"front": seen, "wrist": seen[::-1]}, "pos": where, "mission": ["go left"] * (rows + 1)}

    dataset = FORMAT.open(build(tmp_path / "x", space, observe))
    assert dataset.cameras == ("cameras/front", "cameras/wrist")
    assert {e.instruction for e in dataset.episodes} == {"go left"}
    front, wrist = (list(dataset.frames(dataset.episodes[0], camera)) for camera in dataset.cameras)
    np.testing.assert_array_equal(front[0], wrist[-1])
    assert np.abs(np.asarray(front[2], dtype=int) - smooth(2)).mean() < 4
    np.testing.assert_array_equal(dataset.transitions(dataset.episodes[0]).observation, np.arange(15.0).reshape(5, 3))


def test_success_and_task_in_infos(tmp_path: Path) -> None:
    def infos(number: int, rows: int) -> dict[str, Any]:
        return {"success": np.arange(rows + 1) == (rows if number else 0), "instruction": ["open it"] * (rows + 1)}

    dataset = FORMAT.open(build(tmp_path / "x", box(), pictures, infos))
    assert [e.success for e in dataset.episodes] == [False, True]
    assert {e.instruction for e in dataset.episodes} == {"open it"}


def test_ours_is_opened_by_minari(tmp_path: Path, known: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    assert FORMAT.create is not None
    writer = FORMAT.create(tmp_path / "push-v3", fps=10.0, env_id="Push-v0")
    for i in range(3):
        writer.add(known.record(i))
    writer.finish()
    dataset = FORMAT.open(tmp_path / "push-v3")
    labels = known.KnownLabels(list(dataset.episodes))
    FORMAT.label(dataset, "vlm").write(labels)
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    theirs = minari.load_dataset("push-v3")
    assert (theirs.total_episodes, theirs.total_steps) == (3, sum(known.LENGTHS))
    assert set(theirs.observation_space.spaces) == {"front", "wrist", "state"}
    for number, episode in enumerate(theirs):
        due = known.record(number)
        np.testing.assert_array_equal(episode.observations["front"], np.stack(list(due.frames["front"])))
        np.testing.assert_array_equal(episode.observations["state"], due.observation)
        np.testing.assert_array_equal(episode.actions, due.action)
        np.testing.assert_array_equal(episode.rewards, due.reward)
        assert (episode.terminations[-1], episode.truncations[-1]) == (due.terminated, due.truncated)
        assert theirs.observation_space["front"].contains(episode.observations["front"][0])
    FORMAT.label(dataset, "rewards", overwrite=True).write(labels)
    for number, episode in enumerate(minari.load_dataset("push-v3")):
        valid = labels.episode(number).valid
        np.testing.assert_array_equal(episode.rewards[valid], labels.episode(number).reward[valid])


def test_damaged_jpeg_keeps_its_place(tmp_path: Path) -> None:
    root = build(tmp_path / "x", box(), pictures, jpeg_encoding=False)
    with h5py.File(root / "data/main_data.hdf5", "r+") as file:
        group = file["episode_0"]
        del group["observations"]
        encoded = []
        for t in range(5):
            out = io.BytesIO()
            Image.fromarray(smooth(t)).save(out, "JPEG")
            encoded.append(np.frombuffer(out.getvalue(), np.uint8))
        encoded[2] = encoded[2][:60]
        encoded[3] = np.zeros(9, np.uint8)
        node = group.create_dataset("observations", (5,), h5py.vlen_dtype(np.uint8))
        for t in range(5):
            node[t] = encoded[t]
    dataset = FORMAT.open(root)
    items = list(dataset.frames(dataset.episodes[0], "observations"))
    assert [isinstance(item, Undecodable) for item in items] == [False, False, True, True, False]


def test_arrow_is_refused_by_name(tmp_path: Path) -> None:
    root = build(tmp_path / "x", box(), pictures)
    path = root / "data/metadata.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"data_format": "arrow"}))
    with pytest.raises(DatasetError, match="arrow"):
        open_dataset(root)
