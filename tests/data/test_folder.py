"""Folders as people make them: videos, pictures, arrays and a list."""

from __future__ import annotations

import io
import json
import os
import zipfile
from pathlib import Path
from typing import Any

import av
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from vlmreward.data import open_dataset
from vlmreward.data.dataset import Undecodable
from vlmreward.data.folder import FORMAT
from vlmreward.errors import DatasetError


def grey(step: int) -> np.ndarray:
    return np.full((32, 48, 3), 10 + 4 * step, np.uint8)


def video(path: Path, count: int, fps: int = 10) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream("libx264", rate=fps)
        stream.width, stream.height, stream.pix_fmt = 48, 32, "yuv420p"
        for step in range(count):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(grey(step), format="rgb24")))
        container.mux(stream.encode())


def listed(root: Path, *lines: dict[str, Any]) -> Path:
    root.mkdir(exist_ok=True)
    (root / "episodes.jsonl").write_text("\n".join(json.dumps(line) for line in lines) + "\n")
    return root


def levels(dataset: Any, number: int, camera: str = "video") -> list[float]:
    """The grey of every frame of an episode, as the number of its step."""
    frames = list(dataset.frames(dataset.episodes[number], camera))
    return [-1 if isinstance(f, Undecodable) else round((f.mean() - 10) / 4) for f in frames]


def test_videos(tmp_path: Path) -> None:
    video(tmp_path / "clips/a.mp4", 12)
    video(tmp_path / "clips/b.mp4", 7)
    listed(
        tmp_path,
        {"episode_id": "a", "video": "clips/a.mp4", "task": "open the drawer", "success": True},
        {"episode_id": "b", "video": "clips/b.mp4", "task": "open the drawer", "success": False},
    )
    for path in (tmp_path, tmp_path / "episodes.jsonl"):
        dataset = open_dataset(path)
        assert (dataset.format, dataset.fps, dataset.cameras) == ("folder", 10.0, ("video",))
        told = [(e.name, e.rows, e.frames, e.success) for e in dataset.episodes]
        assert told == [("a", 12, 12, True), ("b", 7, 7, False)]
        assert (levels(dataset, 0), levels(dataset, 1)) == (list(range(12)), list(range(7)))
        assert dataset.problems() == []


def test_pictures_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    for step in range(11):
        Image.fromarray(grey(step)).save(tmp_path / f"a/frame_{step}.png")
    (tmp_path / "a/notes.txt").write_text("no picture")
    dataset = FORMAT.open(listed(tmp_path, {"video": "a", "fps": 5}))
    assert levels(dataset, 0) == list(range(11))
    assert (dataset.fps, dataset.episodes[0].name, dataset.episodes[0].success) == (5.0, "0", None)


def test_arrays_and_several_cameras(tmp_path: Path) -> None:
    frames = np.stack([grey(t) for t in range(6)])
    np.savez(tmp_path / "a.npz", front=frames, side=frames[::-1], actions=np.ones((5, 2)))
    np.save(tmp_path / "wrist.npy", frames)
    cameras = {"front": "a.npz:front", "side": "a.npz:side", "wrist": "wrist.npy"}
    dataset = FORMAT.open(listed(tmp_path, {"video": cameras, "actions": "a.npz:actions"}))
    assert dataset.cameras == ("front", "side", "wrist")
    assert (dataset.episodes[0].rows, dataset.episodes[0].frames) == (5, 6)
    assert levels(dataset, 0, "front") == levels(dataset, 0, "wrist") == list(range(6))
    assert levels(dataset, 0, "side") == list(range(6))[::-1]
    assert dataset.transitions(dataset.episodes[0]).action.tolist() == [[1, 1]] * 5


def test_truncated_video_loses_its_end_and_nothing_else(tmp_path: Path) -> None:
    video(tmp_path / "a.mp4", 60)
    # the index first, as in files made to be streamed: the end of the file is that of the pictures
    with (
        av.open(str(tmp_path / "a.mp4")) as source,
        av.open(str(tmp_path / "b.mp4"), "w", options={"movflags": "faststart"}) as target,
    ):
        stream = target.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(source.streams.video[0]):
            if packet.dts is not None:
                packet.stream = stream
                target.mux(packet)
    whole = (tmp_path / "b.mp4").read_bytes()
    (tmp_path / "b.mp4").write_bytes(whole[: int(len(whole) * 0.8)])
    dataset = FORMAT.open(listed(tmp_path, {"video": "b.mp4"}))
    found = levels(dataset, 0)
    assert len(found) == 60
    assert found[0] == 0
    assert -1 in found
    assert all(level in (-1, step) for step, level in enumerate(found))
    assert dataset.problems()


def test_damaged_and_missing_pictures_keep_their_places(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    for step in range(5):
        Image.fromarray(grey(step)).save(tmp_path / f"a/{step}.png")
    dataset = FORMAT.open(listed(tmp_path, {"video": "a"}))
    (tmp_path / "a/1.png").write_bytes((tmp_path / "a/1.png").read_bytes()[:40])
    (tmp_path / "a/3.png").unlink()
    assert levels(dataset, 0) == [0, -1, 2, -1, 4]


def test_looking_for_problems_decompresses_no_pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pictures = np.stack([grey(t) for t in range(40)])
    np.savez_compressed(tmp_path / "a.npz", other=np.zeros(3), frames=pictures)
    np.save(tmp_path / "b.npy", pictures)
    dataset = FORMAT.open(listed(tmp_path, {"video": {"packed": "a.npz:frames", "plain": "b.npy"}}))
    read: list[int] = []
    unpack = zipfile.ZipExtFile.read

    def count(self: zipfile.ZipExtFile, n: int = -1) -> bytes:
        found = unpack(self, n)
        read.append(len(found))
        return found

    monkeypatch.setattr(zipfile.ZipExtFile, "read", count)
    assert dataset.problems() == []
    assert 0 < sum(read) < 200  # the header, and none of 40 pictures of 4,608 bytes
    assert len(levels(dataset, 0, "packed")) == 40
    assert sum(read) > pictures.nbytes


@pytest.mark.parametrize("name", ["a.npy", "a.npz:frames"])
def test_array_of_fewer_pictures_than_it_says_is_a_problem(tmp_path: Path, name: str) -> None:
    header: Any = {"descr": "|u1", "fortran_order": False, "shape": (5, 32, 48, 3)}
    content = io.BytesIO()
    np.lib.format.write_array_header_1_0(content, header)
    content.write(np.stack([grey(t) for t in range(5)]).tobytes()[:-1])
    if name == "a.npy":
        (tmp_path / name).write_bytes(content.getvalue())
    else:
        with zipfile.ZipFile(tmp_path / "a.npz", "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("frames.npy", content.getvalue())
    dataset = FORMAT.open(listed(tmp_path, {"video": name}))
    (problem,) = dataset.problems()
    assert problem.what == f"{name} is cut short: it says that it holds 5 pictures"
    assert levels(dataset, 0) == [0, 1, 2, 3, -1]


@pytest.mark.parametrize(("key", "value"), [("vido", "x"), ("Task", "x")])
def test_unknown_key_is_a_problem(tmp_path: Path, key: str, value: str) -> None:
    np.save(tmp_path / "a.npy", np.stack([grey(0)]))
    (problem,) = FORMAT.open(listed(tmp_path, {"video": "a.npy", key: value})).problems()
    assert key in problem.what
    assert "did you mean" in problem.what


def test_mixed_fps_is_a_problem_and_none_is_reported(tmp_path: Path) -> None:
    video(tmp_path / "a.mp4", 5, fps=10)
    video(tmp_path / "b.mp4", 5, fps=20)
    dataset = FORMAT.open(listed(tmp_path, {"video": "a.mp4"}, {"video": "b.mp4"}))
    assert dataset.fps is None
    assert any("mixed fps: 10, 20" in problem.what for problem in dataset.problems())


def test_labels_have_the_documented_columns(tmp_path: Path, known: Any) -> None:
    for name, count in (("a", 4), ("b", 6)):
        np.save(tmp_path / f"{name}.npy", np.stack([grey(t) for t in range(count)]))
    dataset = FORMAT.open(listed(tmp_path, {"video": "a.npy", "task": "x"}, {"video": "b.npy", "task": "y"}))
    before = known.hashes(tmp_path)
    FORMAT.label(dataset, "reward_vlm").write(known.KnownLabels(list(dataset.episodes)))
    after = known.hashes(tmp_path)
    (path,) = set(after) - set(before)
    assert path.endswith("/labels_vlm.parquet")
    assert {k: after[k] for k in before} == before
    table = pq.read_table(tmp_path / "labels_vlm.parquet")
    columns = "index episode_index frame_index progress reward success valid reason"
    columns += " model_id prompt_hash mode causal camera"
    assert table.column_names == columns.split()
    rows = table.to_pylist()
    assert [r["index"] for r in rows] == list(range(10))
    assert [(r["episode_index"], r["frame_index"]) for r in rows][3:5] == [(0, 3), (1, 0)]
    assert (rows[3]["valid"], rows[3]["reward"], rows[3]["reason"]) == (False, None, "no successor")
    assert rows[4]["reward"] == pytest.approx(1.0)
    told = [rows[4][key] for key in ("model_id", "mode", "causal", "camera")]
    assert told == ["mini-2-abc", "clip", True, "front"]
    assert rows[0]["prompt_hash"] != rows[4]["prompt_hash"]
    assert json.loads(table.schema.metadata[b"vlmreward"])["run"] == "0123456789abcdef"


def test_file_of_others_is_never_replaced(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.stack([grey(0), grey(1)]))
    dataset = FORMAT.open(listed(tmp_path, {"video": "a.npy"}))
    pq.write_table(pa.table({"mine": [1]}), tmp_path / "labels_vlm.parquet")
    with pytest.raises(DatasetError, match="not written by vlmreward"):
        FORMAT.label(dataset, "vlm", overwrite=True)


def test_changed_picture_changes_the_fingerprint(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    for step in range(3):
        Image.fromarray(grey(step)).save(tmp_path / f"a/{step}.png")
    dataset = FORMAT.open(listed(tmp_path, {"video": "a"}))
    before = dataset.fingerprint("video")
    assert FORMAT.open(tmp_path).fingerprint("video") == before
    os.utime(tmp_path / "a/1.png", ns=(0, 1))
    assert FORMAT.open(tmp_path).fingerprint("video") != before
