import json
from typing import Any

# pyright: reportAttributeAccessIssue=false, reportOptionalMemberAccess=false
# frames and lost frames come through one iterator, and formats may lack a writer: a test knows which it is
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from vlmreward.data.dataset import EpisodeDataset, Undecodable
from vlmreward.data.lerobot import FORMAT
from vlmreward.errors import DatasetError

LENGTHS = (7, 12, 5)
STARTS = (0, 7, 19)


def means(items):
    return [float(x.mean()) for x in items]


@pytest.mark.parametrize("version", ["v30", "v21"])
def test_episodes_are_told_without_decoding(version, request, monkeypatch):
    root = request.getfixturevalue(f"build_{version}")()
    monkeypatch.setattr("vlmreward.data.video._decode", None)
    dataset = FORMAT.open(root)
    assert isinstance(dataset, EpisodeDataset)
    assert dataset.format == "lerobot"
    assert dataset.cameras == ("front",)
    assert dataset.fps == 10
    assert [(e.index, e.name, e.rows, e.frames) for e in dataset.episodes] == [
        (i, f"episode_{i}", n, n) for i, n in enumerate(LENGTHS)
    ]
    assert [e.instruction for e in dataset.episodes] == ["push the cube", "lift it", "läuft 蓝"]
    assert [e.success for e in dataset.episodes] == [None] * 3
    assert dataset.features["action"] == "float32 (2,)"
    assert dataset.features["observation.images.front"] == "video (32, 48, 3)"


@pytest.mark.parametrize("version", ["v30", "v21"])
def test_pictures_are_those_of_the_episode(version, request, greys):
    dataset = FORMAT.open(request.getfixturevalue(f"build_{version}")())
    for episode, start in zip(dataset.episodes, STARTS, strict=True):
        for camera in ("front", "observation.images.front"):
            frames: list[Any] = list(dataset.frames(episode, camera))
            assert means(frames) == pytest.approx(greys(start, start + episode.rows), abs=3)
            assert frames[0].shape == (32, 48, 3)


@pytest.mark.parametrize("one_group", [False, True])
def test_pictures_in_data_files_are_exact(build_v30, greys, one_group):
    dataset = FORMAT.open(build_v30(images=True, video=False, one_group=one_group))
    assert dataset.cameras == ("observation.image",)
    for episode, start in zip(dataset.episodes, STARTS, strict=True):
        frames: list[Any] = list(dataset.frames(episode, "observation.image"))
        assert means(frames) == greys(start, start + episode.rows)
        assert frames[0].dtype == np.uint8
    assert dataset.problems() == []


@pytest.mark.parametrize("version", ["v30", "v21"])
def test_frames_from_any_one_on_are_the_end_of_all(version, request, known):
    assert known.check_starts(FORMAT.open(request.getfixturevalue(f"build_{version}")())) == 0


@pytest.mark.parametrize("one_group", [False, True])
def test_pictures_in_data_files_from_any_one_on_are_the_end_of_all(build_v30, known, one_group):
    root = build_v30(images=True, video=False, one_group=one_group)
    assert known.check_starts(FORMAT.open(root)) == 0
    path = root / "data/chunk-000/file-000.parquet"
    table = pq.read_table(path)
    places = table["frame_index"].to_pylist()
    places[8:11] = [4, 3, 2]  # two of three are out of order; 1 and 3 are nowhere
    column = table.column_names.index("frame_index")
    for group_rows in (3, len(table)):
        pq.write_table(table.set_column(column, "frame_index", pa.array(places)), path, row_group_size=group_rows)
        assert known.check_starts(FORMAT.open(root)) == 3


@pytest.mark.parametrize("version", ["v30", "v21"])
def test_transitions_are_the_rows(version, request):
    dataset = FORMAT.open(request.getfixturevalue(f"build_{version}")())
    episode = dataset.episodes[1]
    found = dataset.transitions(episode)
    index = np.arange(7, 19)
    assert found.observation.shape == (13, 2)
    np.testing.assert_array_equal(found.observation[:-1, 0], index + 0.25)
    np.testing.assert_array_equal(found.observation[-1], found.observation[-2])
    np.testing.assert_array_equal(found.action[:, 1], -(index + 0.5))
    np.testing.assert_array_equal(found.reward, index * 0.125)
    assert found.terminated.tolist() == [False] * 11 + [True]
    assert not found.truncated.any()
    for values in (found.observation, found.action, found.reward):
        assert values is not None
        assert values.dtype == np.float32


def test_an_end_that_is_not_recorded_is_truncated(build_v30):
    root = build_v30()
    info = json.loads((root / "meta/info.json").read_text())
    del info["features"]["next.done"]
    del info["features"]["next.reward"]
    (root / "meta/info.json").write_text(json.dumps(info))
    dataset = FORMAT.open(root)
    found = dataset.transitions(dataset.episodes[0])
    assert found.reward is None
    assert not found.terminated.any()
    assert found.truncated.tolist() == [False] * 6 + [True]


def test_rows_are_put_in_the_order_of_frame_index(build_v30):
    root = build_v30()
    path = root / "data/chunk-000/file-000.parquet"
    table = pq.read_table(path)
    order = np.random.default_rng(0).permutation(table.num_rows)
    pq.write_table(table.take(pa.array(order)), path)
    dataset = FORMAT.open(root)
    np.testing.assert_array_equal(dataset.column(dataset.episodes[1], "next.reward"), np.arange(7, 19) * 0.125)
    assert any("out of order" in p.what for p in dataset.problems())


def test_success_is_that_of_the_last_row(build_v30):
    dataset = FORMAT.open(build_v30(success=[True, False, True]))
    assert [e.success for e in dataset.episodes] == [True, False, True]


def test_column_reads_numbers_and_refuses_others(build_v30):
    dataset = FORMAT.open(build_v30())
    np.testing.assert_array_equal(dataset.column(dataset.episodes[2], "next.reward"), np.arange(19, 24) * 0.125)
    assert dataset.column(dataset.episodes[2], "next.done").tolist() == [0, 0, 0, 0, 1]
    with pytest.raises(DatasetError, match="no column 'reward_x'"):
        dataset.column(dataset.episodes[0], "reward_x")
    with pytest.raises(DatasetError, match="not one"):
        dataset.column(dataset.episodes[0], "action")


def test_unknown_camera_names_those_there_are(build_v30):
    dataset = FORMAT.open(build_v30())
    with pytest.raises(DatasetError, match=r"no camera 'wrist'.*front"):
        dataset.frames(dataset.episodes[0], "wrist")


def test_sound_datasets_have_no_problems(build_v30, build_v21):
    assert FORMAT.open(build_v30()).problems() == []
    assert FORMAT.open(build_v21()).problems() == []


def test_fingerprint_changes_with_pictures_and_layout_alone(build_v30, write_video, tmp_path):
    root = build_v30()
    first = FORMAT.open(root).fingerprint("front")
    assert len(first) == 32
    assert int(first, 16) >= 0
    assert FORMAT.open(root).fingerprint("front") == first
    (root / "meta/stats.json").write_text("{}")
    assert FORMAT.open(root).fingerprint("front") == first
    video = root / "videos/observation.images.front/chunk-000/file-000.mp4"
    write_video(video, range(1, 25))
    assert FORMAT.open(root).fingerprint("front") != first
    other = FORMAT.open(build_v30(tmp_path / "other", lengths=(12, 7, 5))).fingerprint("front")
    assert other != first


def test_an_episode_is_read_as_it_is_asked_for(build_v30, monkeypatch):
    from vlmreward.data.lerobot import images

    dataset = FORMAT.open(build_v30(images=True, video=False))
    decoded = []
    decode = images._decode
    monkeypatch.setattr(images, "_decode", lambda root, value: decoded.append(1) or decode(root, value))
    items = dataset.frames(dataset.episodes[1], "observation.image")
    next(items)
    next(items)
    assert len(decoded) == 2


def test_damaged_picture_in_a_row_keeps_its_place(build_v30, greys):
    root = build_v30(images=True, video=False)
    path = root / "data/chunk-000/file-001.parquet"
    table = pq.read_table(path)
    stored = table["observation.image"].to_pylist()
    stored[1] = {"bytes": b"no picture", "path": None}
    stored[3] = None
    column = pa.array(stored, table.schema.field("observation.image").type)
    place = table.column_names.index("observation.image")
    pq.write_table(table.set_column(place, "observation.image", column), path)
    dataset = FORMAT.open(root)
    items = list(dataset.frames(dataset.episodes[2], "observation.image"))
    assert [isinstance(x, Undecodable) for x in items] == [False, True, False, True, False]
    assert means([items[0], items[2], items[4]]) == [greys(19, 24)[i] for i in (0, 2, 4)]


@pytest.mark.parametrize("version", ["v2.0", "v3.1", "v1.6", None, 3])
def test_another_version_is_named(build_v30, version):
    root = build_v30()
    info = json.loads((root / "meta/info.json").read_text())
    (root / "meta/info.json").write_text(json.dumps(info | {"codebase_version": version}))
    with pytest.raises(DatasetError, match=f"LeRobot version {version!r} can't be read"):
        FORMAT.open(root)


def test_recognises_never_fails(tmp_path):
    assert not FORMAT.recognises(tmp_path / ("x" * 5000))
    assert not FORMAT.recognises(tmp_path)


def test_reading_imports_neither_torch_nor_lerobot(build_v30):
    import subprocess
    import sys

    code = (
        "import sys\n"
        "from vlmreward.data.lerobot import FORMAT\n"
        "from pathlib import Path\n"
        f"d = FORMAT.open(Path({str(build_v30())!r}))\n"
        "n = len(list(d.frames(d.episodes[0], 'front')))\n"
        "print(n, sorted({'torch', 'lerobot', 'pandas', 'datasets'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "7 []"
