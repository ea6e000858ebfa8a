"""Broken and hostile datasets of the formats in HDF5 files and folders.

Each is refused in one line, or opened: then a problem names what is wrong, frames that can't be had are undecodable,
and whatever is asked of it ends in a result or in one line. Nothing on the disk changes.
"""

from __future__ import annotations

import json
import os
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from PIL import Image

from vlmreward.data import find_format
from vlmreward.data.dataset import EpisodeDataset, Undecodable
from vlmreward.errors import StorageError, VlmRewardError

Break = Callable[[Path], None]
CASES: list[Any] = []
DEMO = "data/demo_1"
FRONT = f"{DEMO}/obs/front"
SECRET = b"\xff\xd8\xffoutside"


def case(kind: str) -> Callable[[Break], Break]:
    def add(function: Break) -> Break:
        CASES.append(pytest.param(kind, function, id=f"{kind}-{function.__name__.strip('_')}"))
        return function

    return add


def in_file(name: str) -> Callable[[Callable[[Any], None]], Break]:
    """Make a change of an open HDF5 file into one of a dataset."""

    def wrap(change: Callable[[Any], None]) -> Break:
        def function(root: Path) -> None:
            with h5py.File(root / name, "r+") as file:
                change(file)

        function.__name__ = change.__name__
        return function

    return wrap


robomimic = in_file("demo.hdf5")
minari = in_file("data/main_data.hdf5")


def line(root: Path, **changes: Any) -> None:
    """Change the second line of a folder's list."""
    path = root / "episodes.jsonl"
    lines = [json.loads(text) for text in path.read_text().splitlines()]
    lines[1] = {k: v for k, v in {**lines[1], **changes}.items() if v is not Ellipsis}
    path.write_text("\n".join(json.dumps(entry) for entry in lines))


# robomimic


@case("robomimic")
def cut_in_half(root: Path) -> None:
    os.truncate(root / "demo.hdf5", (root / "demo.hdf5").stat().st_size // 2)


@case("robomimic")
def empty_file(root: Path) -> None:
    os.truncate(root / "demo.hdf5", 0)


@case("robomimic")
def no_hdf5(root: Path) -> None:
    (root / "demo.hdf5").write_bytes(b"PK\x03\x04 not this")


@case("robomimic")
def bytes_of_pictures_overwritten(root: Path) -> None:
    content = bytearray((root / "demo.hdf5").read_bytes())
    with h5py.File(root / "demo.hdf5") as file:
        chunk = file["data/demo_1/obs/front"].id.get_chunk_info(1)
    content[chunk.byte_offset : chunk.byte_offset + chunk.size] = bytes(chunk.size)
    (root / "demo.hdf5").write_bytes(content)


@case("robomimic")
def everything_behind_the_head_is_noise(root: Path) -> None:
    content = bytearray((root / "demo.hdf5").read_bytes())
    noise = np.random.default_rng(0).integers(0, 256, len(content) - 2048).astype(np.uint8).tobytes()
    content[2048:] = noise
    (root / "demo.hdf5").write_bytes(content)


@case("robomimic")
@robomimic
def no_data(file: Any) -> None:
    del file["data"]


@case("robomimic")
@robomimic
def data_is_a_dataset(file: Any) -> None:
    del file["data"]
    file["data"] = np.zeros(3)


@case("robomimic")
@robomimic
def zero_length_episode(file: Any) -> None:
    del file["data/demo_1/actions"]
    file["data/demo_1/actions"] = np.zeros((0, 2))


@case("robomimic")
@robomimic
def no_actions(file: Any) -> None:
    del file["data/demo_1/actions"]


@case("robomimic")
@robomimic
def actions_are_text(file: Any) -> None:
    del file["data/demo_1/actions"]
    file["data/demo_1"].create_dataset("actions", data=["left"] * 3)


@case("robomimic")
@robomimic
def actions_are_one_number(file: Any) -> None:
    del file["data/demo_1/actions"]
    file["data/demo_1/actions"] = 3.0


@case("robomimic")
@robomimic
def pictures_are_float(file: Any) -> None:
    pictures = file["data/demo_1/obs/front"][:] / 255.0
    del file["data/demo_1/obs/front"]
    file["data/demo_1/obs/front"] = pictures


@case("robomimic")
@robomimic
def fewer_pictures_than_actions(file: Any) -> None:
    pictures = file["data/demo_1/obs/front"][:2]
    del file["data/demo_1/obs/front"]
    file["data/demo_1/obs/front"] = pictures


@case("robomimic")
@robomimic
def no_pictures(file: Any) -> None:
    del file["data/demo_1/obs/front"]


@case("robomimic")
@robomimic
def num_samples_disagrees(file: Any) -> None:
    file["data/demo_1"].attrs["num_samples"] = 99


@case("robomimic")
@robomimic
def external_link(file: Any) -> None:
    del file["data/demo_1/obs/front"]
    file["data/demo_1/obs/front"] = h5py.ExternalLink("../secret.hdf5", f"/{FRONT}")


@case("robomimic")
@robomimic
def external_link_to_a_whole_demo(file: Any) -> None:
    del file["data/demo_1"]
    file["data/demo_1"] = h5py.ExternalLink("/etc/passwd", "/data")


@case("robomimic")
@robomimic
def soft_link_through_an_external_one(file: Any) -> None:
    del file["data/demo_1/obs/front"]
    file["elsewhere"] = h5py.ExternalLink("../secret.hdf5", "/")
    file["data/demo_1/obs/front"] = h5py.SoftLink("/elsewhere/data/demo_1/obs/front")


@case("robomimic")
@robomimic
def soft_links_in_a_circle(file: Any) -> None:
    del file["data/demo_1/obs"]
    file["data/demo_1/obs"] = h5py.SoftLink(f"/{DEMO}/more")
    file["data/demo_1/more"] = h5py.SoftLink(f"/{DEMO}/obs")


@case("robomimic")
@robomimic
def group_within_itself(file: Any) -> None:
    file["data/demo_1/obs/again"] = file["data/demo_1"]
    file["data/demo_1"].attrs["num_samples"] = 0


@case("robomimic")
@robomimic
def external_storage(file: Any) -> None:
    del file["data/demo_1/obs/front"]
    shape = (3, 32, 48, 3)
    secret = (Path(file.filename).parents[1] / "secret.hdf5").as_posix()
    space = h5py.h5s.create_simple(shape)
    plist = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    plist.set_external(secret.encode(), 0, int(np.prod(shape)))
    h5py.h5d.create(file["data/demo_1/obs"].id, b"front", h5py.h5t.NATIVE_UINT8, space, plist)


@case("robomimic")
@robomimic
def virtual_dataset(file: Any) -> None:
    del file["data/demo_1/obs/front"]
    layout = h5py.VirtualLayout((3, 32, 48, 3), np.uint8)
    layout[:] = h5py.VirtualSource("../secret.hdf5", "data/demo_1/obs/front", (3, 32, 48, 3), np.uint8)
    file["data/demo_1/obs"].create_virtual_dataset("front", layout)


@case("robomimic")
@robomimic
def says_it_is_huge(file: Any) -> None:
    del file["data/demo_1/actions"]
    file["data/demo_1"].create_dataset("actions", (10**12, 2), "f8", chunks=(1024, 2))


@case("robomimic")
@robomimic
def pictures_say_they_are_huge(file: Any) -> None:
    del file["data/demo_1/obs/front"]
    file["data/demo_1/obs"].create_dataset("front", (3, 10**6, 10**6, 3), "u1", chunks=(1, 64, 64, 3))


@case("robomimic")
@robomimic
def task_is_not_utf8(file: Any) -> None:
    file["data/demo_1"].attrs["ep_meta"] = np.bytes_(b'{"lang": "\xff\xfe"}')


@case("robomimic")
@robomimic
def task_is_a_list(file: Any) -> None:
    file["data/demo_1"].attrs["ep_meta"] = "[1, 2]"


@case("robomimic")
@robomimic
def task_is_no_json(file: Any) -> None:
    file["data/demo_1"].attrs["ep_meta"] = "{" * 9000


@case("robomimic")
@robomimic
def references_for_actions(file: Any) -> None:
    del file["data/demo_1/actions"]
    node = file["data/demo_1"].create_dataset("actions", (3,), h5py.ref_dtype)
    node[0] = file["data"].ref


@case("robomimic")
def link_out_of_the_root(root: Path) -> None:
    (root / "demo.hdf5").rename(root.parent / "elsewhere.hdf5")
    (root / "demo.hdf5").symlink_to(root.parent / "elsewhere.hdf5")


@case("robomimic")
def pipe_for_a_file(root: Path) -> None:
    (root / "demo.hdf5").unlink()
    os.mkfifo(root / "demo.hdf5")


# Minari


@case("minari")
def metadata_is_a_list(root: Path) -> None:
    (root / "data/metadata.json").write_text("[]")


@case("minari")
def metadata_is_cut(root: Path) -> None:
    os.truncate(root / "data/metadata.json", 40)


@case("minari")
def metadata_is_not_utf8(root: Path) -> None:
    (root / "data/metadata.json").write_bytes(b'{"author": "\xff"}')


@case("minari")
def metadata_is_missing(root: Path) -> None:
    (root / "data/metadata.json").unlink()


@case("minari")
def main_data_is_missing(root: Path) -> None:
    (root / "data/main_data.hdf5").unlink()


@case("minari")
def main_data_is_a_folder(root: Path) -> None:
    (root / "data/main_data.hdf5").unlink()
    (root / "data/main_data.hdf5").mkdir()


@case("minari")
def main_data_is_cut(root: Path) -> None:
    os.truncate(root / "data/main_data.hdf5", 9000)


@case("minari")
def main_data_is_a_link_out(root: Path) -> None:
    (root / "data/main_data.hdf5").rename(root.parent / "elsewhere.hdf5")
    (root / "data/main_data.hdf5").symlink_to(root.parent / "elsewhere.hdf5")


@case("minari")
def counts_disagree(root: Path) -> None:
    path = root / "data/metadata.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"total_episodes": 7}))


@case("minari")
@minari
def episode_without_observations(file: Any) -> None:
    del file["episode_1/observations"]


@case("minari")
@minari
def episode_without_rows(file: Any) -> None:
    for name in ("rewards", "actions"):
        del file[f"episode_1/{name}"]
        file[f"episode_1/{name}"] = np.zeros((0, 2)[: 1 if name == "rewards" else 2])


@case("minari")
@minari
def episode_is_a_dataset(file: Any) -> None:
    del file["episode_1"]
    file["episode_1"] = np.zeros(3)


@case("minari")
@minari
def one_observation_short(file: Any) -> None:
    pictures = file["episode_1/observations/front"][:-1]
    del file["episode_1/observations/front"]
    file["episode_1/observations/front"] = pictures


@case("minari")
@minari
def observations_in_another_file(file: Any) -> None:
    del file["episode_1/observations"]
    file["episode_1/observations"] = h5py.ExternalLink("../../secret.hdf5", "/data")


@case("minari")
@minari
def instruction_is_not_utf8(file: Any) -> None:
    file["episode_1"].attrs["instruction"] = np.bytes_(b"\xff\xfe")


@case("minari")
@minari
def actions_are_objects(file: Any) -> None:
    del file["episode_1/actions"]
    file["episode_1"].create_dataset("actions", data=["a", "b", "c"])


# folder


@case("folder")
def list_is_empty(root: Path) -> None:
    (root / "episodes.jsonl").write_text("\n\n")


@case("folder")
def line_is_a_list(root: Path) -> None:
    (root / "episodes.jsonl").write_text('["video", "a.mp4"]\n')


@case("folder")
def line_is_no_json(root: Path) -> None:
    (root / "episodes.jsonl").write_text("{" * 20_000)


@case("folder")
def line_is_not_utf8(root: Path) -> None:
    (root / "episodes.jsonl").write_bytes(b'{"video": "a.mp4", "task": "\xff\xfe"}\n')


@case("folder")
def task_is_half_a_letter(root: Path) -> None:
    line(root, task="\ud800")


@case("folder")
def list_is_a_link_out(root: Path) -> None:
    (root / "episodes.jsonl").rename(root.parent / "elsewhere.jsonl")
    (root / "episodes.jsonl").symlink_to(root.parent / "elsewhere.jsonl")


@case("folder")
def duplicate_episode(root: Path) -> None:
    line(root, episode_id="000000")


@case("folder")
def wrong_types(root: Path) -> None:
    line(root, success="yes")


@case("folder")
def fps_is_nan(root: Path) -> None:
    line(root, fps=float("nan"))


@case("folder")
def mixed_fps(root: Path) -> None:
    line(root, fps=30)


@case("folder")
def video_is_not_said(root: Path) -> None:
    line(root, video=...)


@case("folder")
def video_is_missing(root: Path) -> None:
    line(root, video="gone.mp4")


@case("folder")
def video_is_above_the_root(root: Path) -> None:
    line(root, video="../secret.npz:front")


@case("folder")
def video_is_an_absolute_path(root: Path) -> None:
    line(root, video=f"{root.parent}/secret.npz:front")


@case("folder")
def video_is_a_link_out(root: Path) -> None:
    (root / "x.npz").symlink_to(root.parent / "secret.npz")
    line(root, video="x.npz:front")


@case("folder")
def video_is_a_null_byte(root: Path) -> None:
    line(root, video="a\0b.mp4")


@case("folder")
def video_has_a_name_of_thousands(root: Path) -> None:
    line(root, video="x" * 9000)


@case("folder")
def video_is_text(root: Path) -> None:
    (root / "a.mp4").write_text("not a video")
    line(root, video="a.mp4")


@case("folder")
def video_is_a_playlist(root: Path) -> None:
    (root / "a.mp4").write_text("#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd\n#EXT-X-ENDLIST\n")
    line(root, video="a.mp4")


@case("folder")
def video_is_a_pipe(root: Path) -> None:
    os.mkfifo(root / "a.mp4")
    line(root, video="a.mp4")


@case("folder")
def array_is_a_pipe(root: Path) -> None:
    os.mkfifo(root / "a.npy")
    line(root, actions="a.npy")


@case("folder")
def picture_folder_is_empty(root: Path) -> None:
    (root / "a").mkdir()
    line(root, video="a", actions=...)


@case("folder")
def picture_is_a_link_out(root: Path) -> None:
    (root / "a").mkdir()
    for i in range(4):
        Image.new("RGB", (48, 32), (i, 0, 0)).save(root / f"a/{i}.png")
    (root / "a/1.png").unlink()
    (root / "a/1.png").symlink_to(root.parent / "secret.png")
    (root / "a/3.png").write_bytes(SECRET)
    line(root, video={"front": "a", "wrist": "episodes/000001.npz:wrist"})


@case("folder")
def array_is_a_pickle(root: Path) -> None:
    evil = np.empty(3, object)
    evil[:] = [Bomb(), 1, 2]
    np.savez(root / "a.npz", front=evil)
    line(root, video="a.npz:front")


@case("folder")
def actions_are_a_pickle(root: Path) -> None:
    evil = np.empty(3, object)
    evil[:] = [Bomb(), 1, 2]
    np.save(root / "a.npy", evil)
    line(root, actions="a.npy")


@case("folder")
def array_has_no_such_key(root: Path) -> None:
    line(root, video="episodes/000001.npz:side")


@case("folder")
def array_is_float(root: Path) -> None:
    np.save(root / "a.npy", np.zeros((4, 32, 48, 3)))
    line(root, video="a.npy")


@case("folder")
def array_has_no_frames(root: Path) -> None:
    np.save(root / "a.npy", np.zeros((0, 32, 48, 3), np.uint8))
    line(root, video="a.npy", actions=...)


@case("folder")
def array_is_cut(root: Path) -> None:
    np.save(root / "a.npy", np.zeros((4, 32, 48, 3), np.uint8))
    os.truncate(root / "a.npy", 7000)
    line(root, video="a.npy")


@case("folder")
def array_says_it_is_huge(root: Path) -> None:
    with zipfile.ZipFile(root / "a.npz", "w") as archive, archive.open("front.npy", "w") as member:
        header: Any = {"descr": "|u1", "fortran_order": False, "shape": (10**9, 30_000, 30_000, 3)}
        np.lib.format.write_array_header_1_0(member, header)
    line(root, video="a.npz:front")


@case("folder")
def actions_say_they_are_huge(root: Path) -> None:
    with (root / "a.npy").open("wb") as file:
        header: Any = {"descr": "<f8", "fortran_order": False, "shape": (10**12, 7)}
        np.lib.format.write_array_header_1_0(file, header)
    line(root, actions="a.npy")


@case("folder")
def archive_is_damaged(root: Path) -> None:
    path = root / "episodes/000001.npz"
    content = bytearray(path.read_bytes())
    content[100:400] = bytes(300)
    path.write_bytes(content)


@case("folder")
def more_actions_than_pictures(root: Path) -> None:
    np.save(root / "a.npy", np.zeros((9, 2), np.float32))
    line(root, actions="a.npy")


class Bomb:
    """Unpickled, it leaves a file where the tests see it."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (open, ("exploded", "w"))


def assert_one_line(error: VlmRewardError) -> None:
    assert str(error).strip()
    assert "\n" not in str(error)
    assert "Traceback" not in str(error)


def ask_everything(dataset: EpisodeDataset, labels: Callable[[list[Any]], Any]) -> tuple[int, int]:
    """Ask a dataset everything there is to ask; returns the number of problems and of undecodable frames."""
    undecodable = 0
    for episode in dataset.episodes:
        assert episode.rows > 0
        assert episode.frames in (episode.rows, episode.rows + 1)
        for camera in dataset.cameras:
            items = list(dataset.frames(episode, camera))
            assert len(items) == episode.frames
            for item in items:
                if isinstance(item, Undecodable):
                    undecodable += 1
                    assert item.reason
                    assert "\n" not in item.reason
                else:
                    assert (item.dtype, item.shape[2]) == (np.uint8, 3)
        for ask in (lambda e=episode: dataset.transitions(e), lambda e=episode: dataset.column(e, "rewards")):
            try:
                ask()
            except VlmRewardError as e:
                assert_one_line(e)
    for camera in dataset.cameras:
        assert len(dataset.fingerprint(camera)) == 32
    problems = dataset.problems()
    assert all(p.where and p.what and "\n" not in p.where + p.what for p in problems)
    try:
        writer = find_format(dataset.format).label(dataset, "vlm")
        writer.write(labels(list(dataset.episodes)))
        writer.undo()
    except VlmRewardError as e:
        assert_one_line(e)
    return len(problems), undecodable


@pytest.mark.parametrize(("kind", "damage"), CASES)
def test_broken_dataset_is_refused_or_told(
    tmp_path: Path, known: Any, kind: str, damage: Break, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    form = find_format(kind)
    assert form.create is not None
    for name in ("secret", "set"):
        writer = form.create(tmp_path / name, fps=10.0)
        for i in (1, 1, 2):
            writer.add(known.record(i))
        writer.finish()
    if kind == "robomimic":
        (tmp_path / "secret/demo.hdf5").rename(tmp_path / "secret.hdf5")
    elif kind == "minari":
        (tmp_path / "secret/data/main_data.hdf5").rename(tmp_path / "secret.hdf5")
    else:
        (tmp_path / "secret/episodes/000001.npz").rename(tmp_path / "secret.npz")
        Image.new("RGB", (48, 32), (200, 0, 0)).save(tmp_path / "secret.png")
    damage(tmp_path / "set")
    pipes = [p for p in (tmp_path / "set").rglob("*") if p.is_fifo()]
    before = known.hashes(tmp_path)
    try:
        found = ask_everything(form.open(tmp_path / "set"), known.KnownLabels)
    except VlmRewardError as e:
        assert_one_line(e)
    else:
        assert found != (0, 0), "nothing was told of the damage"
        if kind != "folder":  # labels were written and taken away: the same content in other bytes
            changed = {"set/demo.hdf5", "set/data/main_data.hdf5"}
            before = {k: v for k, v in before.items() if k.partition("/")[2] not in changed}
    after = known.hashes(tmp_path)
    assert {k: after.get(k) for k in before} == before
    assert {Path(k).name for k in set(after) - set(before)} <= {"demo.hdf5", "main_data.hdf5"}
    assert pipes == [p for p in (tmp_path / "set").rglob("*") if p.is_fifo()]


def test_there_are_enough_cases() -> None:
    assert len(CASES) >= 40


@pytest.mark.parametrize("kind", ["robomimic", "minari", "folder"])
def test_folder_that_can_not_be_written_is_refused_before_anything_is(
    tmp_path: Path, known: Any, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    form = find_format(kind)
    assert form.create is not None
    writer = form.create(tmp_path / "set", fps=10.0)
    writer.add(known.record(1))
    writer.finish()
    dataset = form.open(tmp_path / "set")

    def refuse(*args: Any, **kwargs: Any) -> Any:
        raise PermissionError(13, "Permission denied", str(tmp_path))

    monkeypatch.setattr("tempfile.TemporaryFile", refuse)  # root may write anywhere
    with pytest.raises(StorageError, match="permission"):
        form.label(dataset, "vlm")


@pytest.mark.parametrize("kind", ["robomimic", "minari", "folder"])
def test_place_below_a_file_takes_no_dataset(tmp_path: Path, kind: str) -> None:
    (tmp_path / "file").write_text("")
    form = find_format(kind)
    assert form.create is not None
    with pytest.raises(StorageError, match="file"):
        form.create(tmp_path / "file/set", fps=10.0)
