"""For every reader, frames from any one on are the end of all of them, also where some are lost."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from PIL import Image

from vlmreward.data import find_format, list_formats, open_dataset
from vlmreward.data.dataset import EpisodeDataset, Transitions
from vlmreward.testing.datasets import ArrayDataset, ArrayEpisode

COUNT = 14


def pictures() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (COUNT, 16, 16, 3), np.uint8)


def write(kind: str, known: Any, root: Path) -> Path:
    create = find_format(kind).create
    assert create is not None
    writer = create(root, fps=10.0, env_id="Push-v0")
    for i in range(len(known.LENGTHS)):
        writer.add(known.record(i))
    writer.finish()
    return root


@pytest.mark.parametrize("kind", list_formats())
def test_of_what_our_writers_write(kind: str, known: Any, tmp_path: Path) -> None:
    assert known.check_starts(open_dataset(write(kind, known, tmp_path / "set"))) == 0


def listed(root: Path, video: str) -> EpisodeDataset:
    (root / "episodes.jsonl").write_text(json.dumps({"video": video}) + "\n")
    return open_dataset(root)


def save_folder(root: Path) -> str:
    (root / "a").mkdir()
    for number, picture in enumerate(pictures()):
        Image.fromarray(picture).save(root / f"a/{number}.png")
    return "a"


def save_npy(root: Path) -> str:
    np.save(root / "a.npy", pictures())
    return "a.npy"


def save_npz(root: Path) -> str:
    np.savez(root / "a.npz", other=np.zeros(3), frames=pictures())
    return "a.npz:frames"


def save_compressed(root: Path) -> str:
    np.savez_compressed(root / "a.npz", frames=pictures() // 64, other=np.zeros(3))
    return "a.npz:frames"


SAVES = [save_folder, save_npy, save_npz, save_compressed]


@pytest.mark.parametrize("save", SAVES)
def test_of_folders_and_arrays(save: Callable[[Path], str], known: Any, tmp_path: Path) -> None:
    dataset = listed(tmp_path, save(tmp_path))
    assert dataset.episodes[0].frames == COUNT
    assert known.check_starts(dataset) == 0


def test_of_damaged_folders(known: Any, tmp_path: Path) -> None:
    dataset = listed(tmp_path, save_folder(tmp_path))
    (tmp_path / "a/3.png").unlink()
    (tmp_path / "a/9.png").write_bytes(b"\x89PNG")
    assert known.check_starts(dataset) == 2


def test_of_an_array_that_ends_within_a_picture(known: Any, tmp_path: Path) -> None:
    dataset = listed(tmp_path, save_npy(tmp_path))
    path = tmp_path / "a.npy"
    path.write_bytes(path.read_bytes()[: -int(4.5 * 16 * 16 * 3)])
    assert known.check_starts(dataset) == 5


@pytest.mark.parametrize("save", [save_npz, save_compressed])
def test_of_an_archive_of_which_only_the_check_sum_is_wrong(
    save: Callable[[Path], str], known: Any, tmp_path: Path
) -> None:
    """It is noticed when the last bytes are read, some pictures before the last one."""
    dataset = listed(tmp_path, save(tmp_path))
    content = bytearray((tmp_path / "a.npz").read_bytes())
    entry = content.index(b"PK\x01\x02")
    while not content[entry + 46 :].startswith(b"frames"):
        entry = content.index(b"PK\x01\x02", entry + 1)
    content[entry + 16] ^= 1
    (tmp_path / "a.npz").write_bytes(content)
    assert 0 < known.check_starts(dataset) < COUNT


@pytest.mark.parametrize("chunk", [1, 4])
def test_of_hdf5_with_chunks_and_damage(chunk: int, known: Any, tmp_path: Path) -> None:
    path = tmp_path / "d.hdf5"
    with h5py.File(path, "w") as file:
        demo = file.create_group("data/demo_0")
        demo.attrs["num_samples"] = COUNT
        demo["actions"] = np.zeros((COUNT, 2))
        options: Any = {"chunks": (chunk, 16, 16, 3), "compression": "gzip"}
        node = demo.create_dataset("obs/front_image", data=pictures(), **options)
        demo.create_dataset("obs/wrist_image", data=pictures(), **options)
        place = node.id.get_chunk_info(4 // chunk)
    content = bytearray(path.read_bytes())
    content[place.byte_offset : place.byte_offset + 20] = bytes(20)
    path.write_bytes(content)
    assert known.check_starts(open_dataset(path)) == chunk


def test_of_a_camera_that_an_episode_lacks(known: Any, tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", pictures())
    lines = [{"video": {"front": "a.npy", "side": "a.npy"}}, {"video": {"front": "a.npy"}}]
    (tmp_path / "episodes.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert known.check_starts(open_dataset(tmp_path)) == COUNT


def test_of_arrays_in_memory(known: Any) -> None:
    zeros = np.zeros((COUNT, 1), np.float32)
    flags = np.zeros(COUNT - 1, bool)
    one = ArrayEpisode(Transitions(zeros, zeros[1:], None, flags, flags), frames=pictures())
    assert known.check_starts(ArrayDataset([one])) == 0
