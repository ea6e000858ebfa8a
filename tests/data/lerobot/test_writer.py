import json

# pyright: reportAttributeAccessIssue=false, reportOptionalCall=false
# frames and lost frames come through one iterator, and formats may lack a writer: a test knows which it is
import numpy as np
import pyarrow.parquet as pq
import pytest

from vlmreward.data.dataset import Recording
from vlmreward.data.lerobot import FORMAT, create_lerobot
from vlmreward.data.video import probe
from vlmreward.errors import ConfigError, DatasetError

FPS = 12.5


def pictures(episode, rows, size=(32, 64)):
    """T + 1 pictures whose grey tells episode and place."""
    return (np.full((*size, 3), 20 + 60 * episode + 4 * t, np.uint8) for t in range(rows + 1))


def means(items):
    return [float(x.mean()) for x in items]


def recording(episode, rows, **parts):
    rng = np.random.default_rng(episode)
    given = {
        "frames": {"front": pictures(episode, rows), "wrist": pictures(episode, rows, (16, 16))},
        "observation": rng.normal(size=(rows + 1, 3)).astype(np.float32),
        "action": rng.normal(size=(rows, 2)).astype(np.float32),
        "reward": np.arange(rows, dtype=np.float32),
        "terminated": episode != 1,
        "truncated": episode == 1,
        "instruction": ("push it", "lift it", "push it")[episode % 3],
        "success": episode != 1,
        "infos": {"seed": episode},
    }
    return Recording(**(given | parts))


ROWS = (9, 4, 13)


@pytest.fixture
def written(tmp_path):
    writer = create_lerobot(tmp_path / "new", fps=FPS, env_id="vlmreward/Push-v0", robot="arm")
    for episode, rows in enumerate(ROWS):
        writer.add(recording(episode, rows))
    assert not FORMAT.recognises(tmp_path / "new")
    writer.finish()
    return tmp_path / "new"


def test_what_was_written_is_read_again(written):
    dataset = FORMAT.open(written)
    assert dataset.problems() == []
    assert dataset.cameras == ("front", "wrist")
    assert dataset.fps == FPS
    for e, (episode, rows) in enumerate(zip(dataset.episodes, ROWS, strict=True)):
        given = recording(e, rows)
        assert (episode.rows, episode.frames) == (rows, rows)
        assert episode.instruction == given.instruction
        assert episode.success == given.success
        for camera in dataset.cameras:
            found = means(dataset.frames(episode, camera))
            assert found == pytest.approx([20 + 60 * e + 4 * t for t in range(rows)], abs=2)
        seen = dataset.transitions(episode)
        np.testing.assert_array_equal(seen.observation[:-1], given.observation[:-1])
        np.testing.assert_array_equal(seen.action, given.action)
        np.testing.assert_array_equal(seen.reward, given.reward)
        assert (seen.terminated[-1], seen.truncated[-1]) == (given.terminated, given.truncated)
        assert not seen.terminated[:-1].any()
        assert not seen.truncated[:-1].any()


def test_both_ends_at_once_are_kept_apart(tmp_path):
    writer = create_lerobot(tmp_path / "new", fps=10)
    writer.add(recording(0, 4, terminated=True, truncated=True))
    writer.finish()
    dataset = FORMAT.open(tmp_path / "new")
    seen = dataset.transitions(dataset.episodes[0])
    assert (seen.terminated[-1], seen.truncated[-1]) == (True, True)


def test_layout_is_that_of_lerobot(written):
    names = sorted(p.relative_to(written).as_posix() for p in written.rglob("*") if p.is_file())
    assert names == [
        "data/chunk-000/file-000.parquet",
        "meta/episodes/chunk-000/file-000.parquet",
        "meta/info.json",
        "meta/stats.json",
        "meta/tasks.parquet",
        "videos/observation.images.front/chunk-000/file-000.mp4",
        "videos/observation.images.wrist/chunk-000/file-000.mp4",
    ]
    info = json.loads((written / "meta/info.json").read_text())
    assert info["codebase_version"] == "v3.0"
    assert (info["total_episodes"], info["total_frames"], info["total_tasks"]) == (3, 26, 2)
    assert info["splits"] == {"train": "0:3"}
    assert info["features"]["next.reward"] == {"dtype": "float32", "shape": [1], "names": None}
    assert info["features"]["observation.images.front"]["info"]["video.codec"] == "h264"
    rows = pq.ParquetFile(written / names[0])
    assert [rows.metadata.row_group(i).num_rows for i in range(3)] == list(ROWS)
    assert str(rows.schema_arrow.field("action").type) == "fixed_size_list<element: float>[2]"
    table = rows.read()
    assert table["index"].to_pylist() == list(range(26))
    assert table["task_index"].to_pylist() == [0] * 9 + [1] * 4 + [0] * 13
    np.testing.assert_allclose(table["timestamp"].to_numpy()[9:13], np.arange(4) / FPS, rtol=1e-6)
    listed = pq.read_table(written / "meta/episodes/chunk-000/file-000.parquet").to_pylist()
    assert [e["dataset_to_index"] for e in listed] == [9, 13, 26]
    assert listed[1]["videos/observation.images.front/from_timestamp"] == pytest.approx(9 / FPS)
    assert json.loads(listed[2]["infos"]) == {"env_id": "vlmreward/Push-v0", "seed": 2}


def test_tasks_are_a_pandas_table_whose_index_is_the_text(written):
    schema = pq.read_schema(written / "meta/tasks.parquet")
    assert json.loads(schema.metadata[b"pandas"])["index_columns"] == ["task"]
    table = pq.read_table(written / "meta/tasks.parquet")
    assert table.to_pydict() == {"task_index": [0, 1], "task": ["push it", "lift it"]}


def test_statistics_are_those_of_the_rows_and_pictures(written):
    stats = json.loads((written / "meta/stats.json").read_text())
    actions = np.concatenate([recording(e, n).action for e, n in enumerate(ROWS)]).astype(float)
    assert stats["action"]["mean"] == pytest.approx(actions.mean(axis=0))
    assert stats["action"]["std"] == pytest.approx(actions.std(axis=0))
    assert stats["action"]["min"] == pytest.approx(actions.min(axis=0))
    assert stats["action"]["count"] == [26]
    greys = np.array([20 + 60 * e + 4 * t for e, n in enumerate(ROWS) for t in range(n)]) / 255
    assert np.shape(stats["observation.images.front"]["mean"]) == (3, 1, 1)
    assert stats["observation.images.front"]["mean"][0][0] == pytest.approx([greys.mean()])
    assert stats["observation.images.front"]["std"][2][0] == pytest.approx([greys.std()])


def test_files_begin_anew_when_large(tmp_path, monkeypatch):
    monkeypatch.setattr("vlmreward.data.lerobot.writer.DATA_MB", 0)
    monkeypatch.setattr("vlmreward.data.lerobot.video_file.VIDEO_MB", 0)
    monkeypatch.setattr("vlmreward.data.lerobot.writer.CHUNKS_SIZE", 2)
    monkeypatch.setattr("vlmreward.data.lerobot.video_file.CHUNKS_SIZE", 2)
    writer = create_lerobot(tmp_path / "new", fps=10)
    for episode in range(3):
        writer.add(recording(episode, 5))
    writer.finish()
    assert (tmp_path / "new/data/chunk-001/file-000.parquet").is_file()
    assert (tmp_path / "new/videos/observation.images.wrist/chunk-001/file-000.mp4").is_file()
    dataset = FORMAT.open(tmp_path / "new")
    assert dataset.problems() == []
    found = means(next(iter(dataset.frames(e, "front"))) for e in dataset.episodes)
    assert found == pytest.approx([20, 80, 140], abs=2)


def test_codec_can_be_chosen(tmp_path):
    writer = create_lerobot(tmp_path / "new", fps=10, codec="libsvtav1", codec_options={"crf": "30", "preset": "12"})
    writer.add(recording(0, 5, frames={"front": pictures(0, 5, (64, 64))}))
    writer.finish()
    path = tmp_path / "new/videos/observation.images.front/chunk-000/file-000.mp4"
    assert "av1" in probe(path).codec
    info = json.loads((tmp_path / "new/meta/info.json").read_text())
    assert info["features"]["observation.images.front"]["info"]["video.codec"] == "av1"
    dataset = FORMAT.open(tmp_path / "new")
    found = means(dataset.frames(dataset.episodes[0], "front"))
    assert found == pytest.approx([20, 24, 28, 32, 36], abs=3)


def test_without_cameras_rewards_or_observation(tmp_path):
    writer = create_lerobot(tmp_path / "new", fps=10)
    writer.add(recording(0, 5, frames={}, reward=None, observation=np.zeros((6, 0)), success=None))
    writer.finish()
    dataset = FORMAT.open(tmp_path / "new")
    assert dataset.cameras == ()
    assert dataset.problems() == []
    assert dataset.episodes[0].success is None
    seen = dataset.transitions(dataset.episodes[0])
    assert seen.observation.shape == (6, 0)
    assert seen.reward is None


@pytest.mark.parametrize(
    ("parts", "match"),
    [
        ({"action": np.zeros((5, 3), np.float32)}, "action=3.*the first one.*action=2"),
        ({"observation": np.zeros((5, 3), np.float32)}, "observations"),
        ({"observation": np.zeros((6, 4), np.float32)}, "observation=4.*the first one.*observation=3"),
        ({"reward": None}, "has_reward=False"),
        ({"reward": np.full(5, np.nan, np.float32)}, "not finite"),
        ({"success": None}, "next.success"),
        ({"frames": {"front": pictures(0, 5)}}, "cameras="),
        ({"frames": {"front": pictures(0, 5, (48, 64)), "wrist": pictures(0, 5, (16, 16))}}, "pictures of"),
        ({"frames": {"front": pictures(0, 3), "wrist": pictures(0, 5, (16, 16))}}, "needs 6 pictures"),
        ({"frames": {"front": [np.zeros((32, 64, 3))] * 6, "wrist": pictures(0, 5, (16, 16))}}, "uint8"),
    ],
)
def test_episodes_unlike_the_first_are_refused(tmp_path, parts, match):
    writer = create_lerobot(tmp_path / "new", fps=10)
    writer.add(recording(0, 5))
    with pytest.raises(ConfigError, match=match):
        writer.add(recording(1, 5, **parts))


def test_odd_sizes_are_refused(tmp_path):
    writer = create_lerobot(tmp_path / "new", fps=10)
    with pytest.raises(ConfigError, match="even sizes"):
        writer.add(recording(0, 5, frames={"front": pictures(0, 5, (33, 64))}))


def test_a_dataset_whose_episode_failed_half_way_is_never_finished(tmp_path):
    writer = create_lerobot(tmp_path / "new", fps=10)
    writer.add(recording(0, 5))
    with pytest.raises(ConfigError):
        writer.add(recording(1, 5, frames={"front": pictures(0, 5), "wrist": pictures(0, 3, (16, 16))}))
    with pytest.raises(ConfigError, match="failed"):
        writer.add(recording(1, 5))
    with pytest.raises(ConfigError, match="failed"):
        writer.finish()
    assert not FORMAT.recognises(tmp_path / "new")


def test_folders_that_hold_something_are_refused(tmp_path):
    (tmp_path / "old").mkdir()
    (tmp_path / "old/file").touch()
    with pytest.raises(DatasetError, match="not empty"):
        create_lerobot(tmp_path / "old", fps=10)
    with pytest.raises(ConfigError, match="holds no episode"):
        create_lerobot(tmp_path / "empty", fps=10).finish()
    with pytest.raises(ConfigError, match="fps"):
        create_lerobot(tmp_path / "other", fps=0)
    with pytest.raises(ConfigError, match="codec"):
        create_lerobot(tmp_path / "other", fps=10, codec="none such")
