import json

import numpy as np
import pyarrow.parquet as pq
import pytest

from vlmreward.data.labels import EpisodeLabels
from vlmreward.data.lerobot import FORMAT
from vlmreward.errors import ConfigError, DatasetError, NonFiniteError, StorageError

NEW = ["reward_vlm", "reward_vlm_valid", "reward_vlm_success", "reward_vlm_progress"]
DATA = ("data/chunk-000/file-000.parquet", "data/chunk-000/file-001.parquet")


def write(root, labels, name="reward_vlm", **settings):
    dataset = FORMAT.open(root)
    FORMAT.label(dataset, name, **settings).write(labels(dataset.episodes))


def assert_same(one, other):
    assert one.keys() == other.keys()
    for name, value in one.items():
        if isinstance(value, tuple):
            assert value[0].equals(other[name][0], check_metadata=True), name
            assert value[1:] == other[name][1:], name
        else:
            assert value == other[name], name


@pytest.mark.parametrize("version", ["v30", "v21"])
def test_rewards_stand_in_the_rows_of_their_index(version, request, labels):
    root = request.getfixturevalue(f"build_{version}")()
    write(root, labels)
    dataset = FORMAT.open(root)
    assert dataset.problems() == []
    start = 0
    for episode in dataset.episodes:
        rows = np.arange(episode.rows)
        valid = (rows != episode.rows - 1) & (rows % 5 != 3)
        held = np.where(valid, rows, rows - 1)
        np.testing.assert_array_equal(dataset.column(episode, "reward_vlm_valid"), valid)
        found = dataset.column(episode, "reward_vlm")
        np.testing.assert_array_equal(found[valid], (start + rows)[valid])
        np.testing.assert_array_equal(found[3], start + 2)
        assert np.isfinite(found).all()
        progress = dataset.column(episode, "reward_vlm_progress")
        np.testing.assert_allclose(progress[valid], ((held + 1) / episode.rows)[valid], rtol=1e-6)
        np.testing.assert_array_equal(dataset.column(episode, "reward_vlm_success"), np.full(episode.rows, 0.25))
        start += episode.rows


def test_rows_in_any_order_and_row_groups_across_episodes_are_joined(build_v30, labels):
    root = build_v30(one_group=True)
    path = root / DATA[0]
    table = pq.read_table(path)
    pq.write_table(table.take(np.random.default_rng(1).permutation(table.num_rows)), path, row_group_size=4)
    write(root, labels)
    found = pq.read_table(path)
    valid = found["reward_vlm_valid"].to_numpy()
    np.testing.assert_array_equal(found["reward_vlm"].to_numpy()[valid], found["index"].to_numpy()[valid])
    assert pq.ParquetFile(path).metadata.num_row_groups == 5


@pytest.mark.parametrize("images", [False, True])
def test_everything_else_stays_as_it_was(build_v30, labels, content, images):
    root = build_v30(images=images)
    before = content(root)
    write(root, labels)
    after = content(root)
    assert set(after) - set(before) == ({"meta/vlmreward_origins.json"} if images else set())
    for name in DATA:
        (old, old_told, old_groups), (new, told, groups) = before[name], after[name]
        assert new.column_names == old.column_names + NEW
        assert new.select(old.column_names).replace_schema_metadata(None).equals(old.replace_schema_metadata(None))
        assert groups == old_groups
        assert told[b"other"] == b"kept"
        hf, old_hf = json.loads(told[b"huggingface"]), json.loads(old_told[b"huggingface"])
        features = hf["info"]["features"]
        assert {k: v for k, v in features.items() if k not in NEW} == old_hf["info"]["features"]
        assert [features[n]["dtype"] for n in NEW] == ["float32", "bool", "float32", "float32"]
        assert hf["fingerprint"] == "abc"
    video = "videos/observation.images.front/chunk-000/file-000.mp4"
    assert after[video] == before[video]
    listed = "meta/episodes/chunk-000/file-000.parquet"
    assert after[listed][0].select(before[listed][0].column_names).equals(before[listed][0])


def test_compression_of_each_file_is_kept(build_v30, labels):
    root = build_v30()

    def codecs():
        return [pq.ParquetFile(root / n).metadata.row_group(0).column(0).compression for n in DATA]

    before = codecs()
    assert before == ["SNAPPY", "ZSTD"]
    write(root, labels)
    assert codecs() == before


def test_features_statistics_and_provenance_are_written(build_v30, labels):
    root = build_v30()
    write(root, labels)
    info = json.loads((root / "meta/info.json").read_text())
    assert info["features"]["reward_vlm"] == {"dtype": "float32", "shape": [1], "names": None}
    assert info["features"]["reward_vlm_valid"] == {"dtype": "bool", "shape": [1], "names": None}
    stored = np.concatenate([pq.read_table(root / n)["reward_vlm"].to_numpy() for n in DATA]).astype(float)
    whole = json.loads((root / "meta/stats.json").read_text())["reward_vlm"]
    assert whole["count"] == [24]
    for name, value in (("min", stored.min()), ("max", stored.max()), ("mean", stored.mean()), ("std", stored.std())):
        assert whole[name] == pytest.approx([value])
    listed = pq.read_table(root / "meta/episodes/chunk-000/file-000.parquet").to_pylist()
    assert listed[1]["stats/reward_vlm/q50"] == pytest.approx([np.median(stored[7:19])])
    assert listed[1]["stats/reward_vlm/count"] == [12]
    told = json.loads(pq.read_schema(root / DATA[1]).metadata[b"vlmreward"])["reward_vlm"]
    assert told["columns"] == NEW
    assert (told["run"], told["encoder"], told["goal"]) == ("ab" * 8, "mini-1 fp32", "a goal")
    assert (told["reward"], told["filler"], told["camera"]) == ({"alpha": 0.5}, "hold", "front")


def test_statistics_of_v21_go_into_its_lines(build_v21, labels):
    root = build_v21()
    write(root, labels)
    lines = [json.loads(line) for line in (root / "meta/episodes_stats.jsonl").read_text().splitlines()]
    assert [line["stats"]["reward_vlm"]["count"] for line in lines] == [[7], [12], [5]]
    assert lines[0]["stats"]["action"] == {"min": [0.0, 0.0], "count": [7]}


@pytest.mark.parametrize("version", ["v30", "v21"])
def test_undo_gives_back_what_was_there(version, request, labels, content):
    root = request.getfixturevalue(f"build_{version}")()
    before = content(root)
    write(root, labels)
    changes = FORMAT.label(FORMAT.open(root), "reward_vlm", overwrite=True).undo()
    assert [c.path.name for c in changes][-1] == "info.json"
    after = content(root)
    if version == "v21":  # the same lines, written by another program
        for found in (before, after):
            del found["meta/episodes_stats.jsonl"]
    assert_same(after, before)
    with pytest.raises(DatasetError, match="nothing to undo"):
        FORMAT.label(FORMAT.open(root), "reward_vlm").undo()


def test_two_labels_live_side_by_side(build_v30, labels, content):
    root = build_v30()
    write(root, labels)
    one = content(root)
    write(root, lambda e: labels(e, offset=0.5, parts=False), name="other")
    dataset = FORMAT.open(root)
    assert dataset.column(dataset.episodes[2], "other")[0] == 19.5
    assert "other_progress" not in dataset.features
    FORMAT.label(dataset, "other", overwrite=True).undo()
    assert_same(content(root), one)


def test_overwriting_replaces_ours_only_when_asked(build_v30, labels):
    root = build_v30()
    write(root, labels)
    with pytest.raises(DatasetError, match=r"'reward_vlm' is there already, from run abab"):
        write(root, lambda e: labels(e, run="cd" * 8))
    write(root, lambda e: labels(e, run="cd" * 8, offset=100, parts=False), overwrite=True)
    dataset = FORMAT.open(root)
    assert dataset.column(dataset.episodes[0], "reward_vlm")[0] == 100
    assert [n for n in dataset.features if n.startswith("reward_vlm")] == NEW[:2]
    assert dataset.problems() == []


def test_columns_of_others_are_never_replaced(build_v30):
    root = build_v30()
    path = root / "meta/info.json"
    info = json.loads(path.read_text())
    info["features"]["human"] = {"dtype": "float32", "shape": [1], "names": None}
    info["features"]["mine_valid"] = {"dtype": "bool", "shape": [1], "names": None}
    path.write_text(json.dumps(info))
    for name in ("human", "mine"):
        with pytest.raises(DatasetError, match="there already and not ours"):
            FORMAT.label(FORMAT.open(root), name, overwrite=True)


def replace_table(change):
    def replace(path):
        pq.write_table(change(pq.read_table(path)), path)

    return replace


@pytest.mark.parametrize(
    ("damage", "match"),
    [
        (lambda path: path.unlink(), "file-001.parquet is missing"),
        (lambda path: path.write_bytes(path.read_bytes()[:-9]), "file-001.parquet can't be read"),
        (replace_table(lambda t: t.drop_columns("index")), "whole numbers as index .no such column"),
        (
            replace_table(lambda t: t.set_column(6, "episode_index", t["episode_index"].cast("double"))),
            "whole numbers as episode_index .double",
        ),
        (replace_table(lambda t: t.slice(1)), "holds 4 rows, its episodes have 5"),
    ],
)
@pytest.mark.parametrize("overwrite", [False, True])
def test_data_file_that_can_take_no_labels_is_refused_before_there_are_any(build_v30, tree, damage, match, overwrite):
    """The last file; the episodes of the first are sound."""
    root = build_v30()
    dataset = FORMAT.open(root)
    damage(root / DATA[1])
    before = tree(root)
    with pytest.raises(DatasetError, match=match):
        FORMAT.label(dataset, "reward_vlm", overwrite=overwrite)
    assert tree(root) == before


@pytest.mark.parametrize("name", ["next.reward", "action", "observation.x", "index", "a/b", "", "task", "x" * 200, "é"])
def test_reserved_and_impossible_names_are_refused(build_v30, name):
    with pytest.raises(ConfigError, match="reserved"):
        FORMAT.label(FORMAT.open(build_v30()), name)


def test_decrease_goes_below_the_last_valid_value_except_in_the_last_row(build_v30, labels):
    root = build_v30()
    write(root, labels, filler="decrease")
    dataset = FORMAT.open(root)
    np.testing.assert_allclose(dataset.column(dataset.episodes[0], "reward_vlm"), [0, 1, 2, 1.999, 4, 5, 5], rtol=1e-6)


def test_plan_changes_nothing_and_names_what_write_changes(build_v30, labels, tree):
    root = build_v30()
    before = tree(root)
    writer = FORMAT.label(FORMAT.open(root), "reward_vlm")
    plan = writer.plan()
    assert tree(root) == before
    writer.write(labels(FORMAT.open(root).episodes))
    changed = {name for name, value in tree(root).items() if before.get(name) != value}
    assert {c.path.relative_to(root).as_posix() for c in plan} == changed
    assert [c.rows for c in plan][:2] == [19, 5]


def test_fingerprint_survives_labels_in_the_files_of_its_pictures(build_v30, labels, tmp_path):
    for images in (False, True):
        root = build_v30(tmp_path / f"set{images}", images=images, video=not images)
        camera = FORMAT.open(root).cameras[0]
        first = FORMAT.open(root).fingerprint(camera)
        write(root, labels)
        assert FORMAT.open(root).fingerprint(camera) == first
        write(root, labels, name="second")
        assert FORMAT.open(root).fingerprint(camera) == first
        FORMAT.label(FORMAT.open(root), "reward_vlm", overwrite=True).undo()
        assert FORMAT.open(root).fingerprint(camera) == first
    pq.write_table(pq.read_table(root / DATA[0]), root / DATA[0])  # by somebody else: they may be other pictures
    assert FORMAT.open(root).fingerprint(camera) != first


def test_pictures_stay_known_when_the_last_labels_are_gone_and_undo_says_by_what(build_v30, labels):
    root = build_v30(images=True, video=False)
    camera = FORMAT.open(root).cameras[0]
    first = FORMAT.open(root).fingerprint(camera)
    write(root, labels)
    changes = FORMAT.label(FORMAT.open(root), "reward_vlm", overwrite=True).undo()
    told = {c.path.name: c.what for c in changes}
    assert "kept so that these stay known" in told["vlmreward_origins.json"]
    assert (root / "meta/vlmreward_origins.json").is_file()
    assert FORMAT.open(root).fingerprint(camera) == first


def change(labels_of, index, **parts):
    def make(episodes):
        found = labels_of(episodes)
        old = found.episode(index)
        found._labels[index] = EpisodeLabels(**(vars(old) | parts))
        return found

    return make


@pytest.mark.parametrize(
    ("parts", "error", "match"),
    [
        ({"reward": np.zeros(11, np.float32)}, ConfigError, "episode 1 has 12 rows"),
        ({"valid": np.ones(13, bool)}, ConfigError, "episode 1 has 12 rows"),
        ({"valid": np.ones(12, bool)}, NonFiniteError, "reward of a valid row of episode 1"),
        ({"progress": None}, ConfigError, "don't agree on having progress"),
    ],
)
def test_labels_that_do_not_fit_leave_everything_as_it_was(build_v30, labels, tree, parts, error, match):
    root = build_v30()
    before = tree(root)
    with pytest.raises(error, match=match):
        write(root, change(labels, 1, **parts))
    assert tree(root) == before


def test_a_full_disk_is_told_before_anything_is_written(build_v30, labels, tree, monkeypatch):
    root = build_v30()
    before = tree(root)
    usage = type("Usage", (), {"free": 1000})
    monkeypatch.setattr("vlmreward.data.lerobot.columns.shutil.disk_usage", lambda path: usage)
    with pytest.raises(StorageError, match="1000: make room"):
        write(root, labels)
    assert tree(root) == before


def test_two_writers_do_not_meet(build_v30, labels):
    from vlmreward.data.lerobot.journal import locked

    root = build_v30()
    with locked(root), pytest.raises(DatasetError, match="another process"):
        write(root, labels)
    write(root, labels)
