"""Broken and hostile datasets: each is refused in one line, or opens and says what is wrong; nothing is written."""

# pyright: reportAttributeAccessIssue=false, reportOptionalSubscript=false
# frames and lost frames come through one iterator, and formats may lack a writer: a test knows which it is
import json
import os
import re
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from vlmreward.data.dataset import Undecodable
from vlmreward.data.lerobot import FORMAT
from vlmreward.errors import DatasetError, VlmRewardError

VIDEO = "videos/observation.images.front/chunk-000/file-000.mp4"
DATA = "data/chunk-000/file-000.parquet"
LAST = "data/chunk-000/file-001.parquet"
EPISODES = "meta/episodes/chunk-000/file-000.parquet"
INFO = "meta/info.json"
STATS = "meta/stats.json"
SPAN = "videos/observation.images.front"


def info(**parts):
    def change(root):
        found = json.loads((root / INFO).read_text())
        (root / INFO).write_text(json.dumps({k: v for k, v in (found | parts).items() if v != "gone"}))

    return change


def text(name, content):
    return lambda root: (root / name).write_bytes(content)


def cut(name, share):
    def change(root):
        content = (root / name).read_bytes()
        (root / name).write_bytes(content[: int(len(content) * share)])

    return change


def gone(name):
    return lambda root: (root / name).unlink()


def column(name, key, values=None, row=None, kind=None):
    """Replace a column of a parquet file, or one value of it; None takes the column away."""

    def change(root):
        table = pq.read_table(root / name)
        place = table.column_names.index(key)
        if values is None and row is None:
            table = table.remove_column(place)
        else:
            old = table[key].to_pylist()
            number, value = row or (None, None)
            new = values(old) if values else [value if i == number else v for i, v in enumerate(old)]
            table = table.set_column(place, key, pa.array(new, kind or table.schema.field(key).type))
        pq.write_table(table, root / name)

    return change


def link_out(name):
    def change(root):
        outside = root.parent / "outside"
        outside.mkdir()
        (root / name).rename(outside / "file")
        (root / name).symlink_to(outside / "file")

    return change


def link_folder_out(root):
    outside = root.parent / "outside"
    (root / "videos").rename(outside)
    (root / "videos").symlink_to(outside)


def bad_task(root):
    table = pq.read_table(root / EPISODES)
    lists = pa.array([[b"fine"], [b"caf\xe9"], [b"fine"]], pa.list_(pa.binary()))
    text_lists = pa.ListArray.from_arrays(lists.offsets, lists.values.view(pa.string()))
    pq.write_table(table.set_column(table.column_names.index("tasks"), "tasks", text_lists), root / EPISODES)


def lengths(values):
    return column(EPISODES, "length", values=lambda old: values)


def garbage(name):
    return text(name, b"PAR1" + bytes(range(256)) * 4 + b"PAR1")


def fifo(root):
    (root / VIDEO).unlink()
    os.mkfifo(root / VIDEO)


def folder_in_place(name):
    def change(root):
        (root / name).unlink()
        (root / name).mkdir()

    return change


REFUSED = {
    "info is missing": (gone(INFO), "info.json can't be read"),
    "info is a list": (text(INFO, b"[1, 2]"), "must be a JSON object"),
    "info is no JSON": (text(INFO, b"{"), "can't be read as JSON"),
    "info is not UTF-8": (text(INFO, b'{"fps": "\xff\xfe"}'), "can't be read as JSON"),
    "info is nested without end": (text(INFO, b"[" * 200_000), "can't be read as JSON"),
    "info is empty": (text(INFO, b""), "can't be read as JSON"),
    "info has no features": (info(features="gone"), "features must be an object"),
    "a feature has no shape": (info(features={"action": {"dtype": "float32"}}), "must have a dtype and a shape"),
    "a feature is a list": (info(features={"action": [1]}), "must have a dtype and a shape"),
    "a shape is negative": (info(features={"action": {"dtype": "float32", "shape": [-1]}}), "a dtype and a shape"),
    "fps is missing": (info(fps="gone"), "fps must be a number above 0"),
    "fps is zero": (info(fps=0), "fps must be a number above 0"),
    "fps is text": (info(fps="30"), "fps must be a number above 0"),
    "fps is NaN": (text(INFO, b'{"codebase_version": "v3.0", "fps": NaN}'), "fps must be a number above 0"),
    "fps is huge": (info(fps=1e300), "fps must be a number above 0"),
    "chunks_size is negative": (info(chunks_size=-1), "chunks_size must be a whole number"),
    "version is missing": (info(codebase_version="gone"), "version None can't be read"),
    "version is another": (info(codebase_version="v4.0"), "version 'v4.0' can't be read"),
    "version is a list": (info(codebase_version=["v3.0"]), "can't be read"),
    "template has an unknown field": (info(data_path="data/{secret}.parquet"), "field {secret} that isn't known"),
    "template reaches into a value": (info(video_path="{video_key.__class__}"), "isn't known"),
    "template indexes a value": (info(video_path="{video_key[0]}"), "isn't known"),
    "template calls repr": (info(video_path="{video_key!r}"), "isn't known"),
    "template is a million wide": (info(data_path="{chunk_index:099999999d}"), "isn't known"),
    "template nests": (info(data_path="{chunk_index:{file_index}}"), "isn't known"),
    "template is open": (info(data_path="data/{chunk_index"), "is no template"),
    "template is a number": (info(data_path=3), "data_path must be a template"),
    "video template is missing": (info(video_path=None), "video_path must be a template"),
    "list of episodes is missing": (gone(EPISODES), "list of episodes is missing"),
    "list of episodes is garbage": (garbage(EPISODES), "can't be read"),
    "list of episodes is cut": (cut(EPISODES, 0.7), "can't be read"),
    "list lacks lengths": (column(EPISODES, "length"), "no column 'length'"),
    "list lacks a video": (column(EPISODES, f"{SPAN}/from_timestamp"), "no column"),
    "length is negative": (lengths([7, -12, 5]), "length must be a whole number of at least 0, got -12"),
    "length is huge": (lengths([7, 1 << 60, 5]), "claims 1152921504606846976 rows"),
    "length is empty": (lengths([7, None, 5]), "length must be a whole number"),
    "length is text": (column(EPISODES, "length", values=lambda v: ["a"] * 3, kind=pa.string()), "whole number"),
    "length is a fraction": (column(EPISODES, "length", values=lambda v: [7, 1.5, 5], kind=pa.float64()), "whole"),
    "all lengths are zero": (lengths([0, 0, 0]), "no episodes with rows"),
    "episode comes twice": (column(EPISODES, "episode_index", row=(1, 0)), "listed twice"),
    "file number is negative": (column(EPISODES, "data/file_index", row=(0, -1)), "must be a whole number"),
    "tasks are numbers": (column(EPISODES, "tasks", values=lambda v: [1, 2, 3], kind=pa.int64()), "lists of strings"),
    "info is a link out": (link_out(INFO), "leads out of the dataset"),
    "list of episodes is a link out": (link_out(EPISODES), "leads out of the dataset"),
}

ONE = {1: 12}  # episode and how many of its pictures can't be decoded
EVERY = {0: 7, 1: 12, 2: 5}
TOLD = {
    "video is missing": (gone(VIDEO), "the video is missing", EVERY),
    "video is cut": (cut(VIDEO, 0.5), "can't open video", EVERY),
    "video is empty": (text(VIDEO, b""), "can't open video", EVERY),
    "video is text": (text(VIDEO, b"hello" * 100), "can't open video", EVERY),
    "video is a playlist of another file": (text(VIDEO, b"#EXTM3U\n#EXTINF:1\n/etc/passwd\n"), "can't open", EVERY),
    "video is a folder": (folder_in_place(VIDEO), "the video is missing", EVERY),
    "video is a named pipe": (fifo, "the video is missing", EVERY),
    "video is a link out": (link_out(VIDEO), "leads out of the dataset", EVERY),
    "videos are a link out": (link_folder_out, "leads out of the dataset", EVERY),
    "video is in a circle of links": (
        lambda root: ((root / VIDEO).unlink(), (root / VIDEO).symlink_to(root / VIDEO)),
        "can't be a file|is missing",
        EVERY,
    ),
    "video template leads up": (info(video_path="../{video_key}.mp4"), "leads out of the dataset", EVERY),
    "video template is absolute": (info(video_path="/etc/{video_key}"), "leads out of the dataset", EVERY),
    "video template has a NUL": (info(video_path="a\0{video_key}"), "leads out of the dataset", EVERY),
    "video name is thousands long": (info(video_path="x" * 5000), "can't be a file|missing", EVERY),
    "video lacks its last episode": (
        lambda root: None,  # made below: needs an encoder
        "it holds 19 pictures, its episodes have 24 rows",
        {2: 5},
    ),
    "data template leads up": (info(data_path="../../{chunk_index}"), "leads out of the dataset", {}),
    "data file is missing": (gone(DATA), "is missing", {}),
    "data file is garbage": (garbage(DATA), "can't be read", {}),
    "data file is cut": (cut(LAST, 0.6), "can't be read", {}),
    "data file is a link out": (link_out(DATA), "leads out of the dataset", {}),
    "data file is a folder": (folder_in_place(LAST), "is missing", {}),
    "timestamp is NaN": (column(DATA, "timestamp", row=(9, np.nan)), "timestamp of frame 2 is nan", {}),
    "timestamp is off": (column(DATA, "timestamp", row=(9, 7.5)), "timestamp of frame 2 is 7.5 s, not 0.200 s", {}),
    "timestamps are text": (
        column(DATA, "timestamp", values=lambda v: [str(x) for x in v], kind=pa.string()),
        "'timestamp' is string",
        {},
    ),
    "timestamps are missing": (column(DATA, "timestamp"), "no column 'timestamp'", {}),
    "action is of another type": (
        column(DATA, "action", values=lambda v: [[str(y) for y in x] for x in v], kind=pa.list_(pa.string())),
        "'action' is list<.*string>",
        {},
    ),
    "action is of another width": (
        column(DATA, "action", values=lambda v: [[*x, 0.0] for x in v], kind=pa.list_(pa.float32(), 3)),
        "has 3 numbers a row",
        {},
    ),
    "action is ragged": (
        column(DATA, "action", values=lambda v: [x[: 1 + i % 2] for i, x in enumerate(v)], kind=pa.list_(pa.float32())),
        "",
        {},
    ),
    "index comes twice": (column(DATA, "index", row=(4, 3)), "index 3 comes again", {}),
    "index is of another episode": (column(DATA, "index", row=(18, 23)), "index of frame 11 is 23, not 18", {}),
    "index is empty in a row": (column(DATA, "index", row=(4, None)), "empty values in 'index'", {}),
    "index is a fraction": (
        column(DATA, "index", values=lambda v: [x + 0.5 for x in v], kind=pa.float64()),
        "'index' is double",
        {},
    ),
    "index is huge": (column(LAST, "index", row=(4, (1 << 63) - 1)), "index of frame 4 is 9223372036854775807", {}),
    "row of an unknown episode": (column(DATA, "episode_index", row=(4, 99)), "rows of episode 99", {}),
    "row of another episode": (column(DATA, "episode_index", row=(4, 1)), "length is 7, .* holds 6 rows", {}),
    "frame_index is shuffled": (column(DATA, "frame_index", row=(0, 3)), "frame_index is 3 where 0 is due", {}),
    "columns are missing": (column(DATA, "action"), "no column 'action'", {}),
    "length is too small": (lengths([7, 11, 5]), "length is 11, .* holds 12 rows", {}),
    "length is too large": (lengths([7, 14, 5]), "length is 14", {1: 2}),
    "an episode has no rows": (lengths([7, 0, 5]), "it has no rows and is left out", {}),
    "ranges overlap": (column(EPISODES, "dataset_from_index", row=(1, 5)), "start at index 5, those before", {}),
    "range ends before it starts": (column(EPISODES, "dataset_to_index", row=(1, 2)), "are 7 to 2", {}),
    "span is NaN": (column(EPISODES, f"{SPAN}/from_timestamp", row=(1, np.nan)), "spans nan s to 1.9 s", ONE),
    "span is endless": (column(EPISODES, f"{SPAN}/to_timestamp", row=(1, np.inf)), "to inf s", ONE),
    "span is negative": (column(EPISODES, f"{SPAN}/from_timestamp", row=(1, -5.0)), "spans -5.000 s", None),
    "span is empty": (column(EPISODES, f"{SPAN}/from_timestamp", row=(1, None)), "spans nan s", ONE),
    "span is behind the video": (column(EPISODES, f"{SPAN}/from_timestamp", row=(1, 1e9)), "spans 1000000000", ONE),
    "spans overlap": (column(EPISODES, f"{SPAN}/from_timestamp", row=(1, 0.3)), "within episode 0", {}),
    "video's number is huge": (column(EPISODES, f"{SPAN}/file_index", row=(1, 1 << 50)), "video is missing", ONE),
    "task is not UTF-8": (bad_task, "its task is not UTF-8", {}),
    "several tasks": (
        column(EPISODES, "tasks", values=lambda v: [["a", "b"], ["c"], ["d"]]),
        "has 2 tasks, the first is used: 'a'",
        {},
    ),
    "more episodes promised": (info(total_episodes=5), "total_episodes is 5, the list of episodes gives 3", {}),
    "other rows promised": (info(total_frames=1), "total_frames is 1, the list of episodes gives 24", {}),
    "fps is not that of the video": (info(fps=20), "it has 10 pictures a second", None),
    "a feature has no column": (
        lambda root: info(
            features=json.loads((root / INFO).read_text())["features"] | {"x": {"dtype": "bool", "shape": [1]}}
        )(root),
        "no column 'x'",
        {},
    ),
}


def refusal(action):
    """Run an action that may be refused, in one line; returns the line, "" where it wasn't."""
    line = ""
    try:
        action()
    except VlmRewardError as e:
        line = str(e) or "without a word"
    assert "\n" not in line
    assert line != "without a word"
    return line


@pytest.mark.parametrize("case", REFUSED)
def test_refused_in_one_line(build_v30, tree, case):
    change, match = REFUSED[case]
    root = build_v30()
    change(root)
    before = tree(root.parent)
    with pytest.raises(DatasetError) as caught:
        FORMAT.open(root)
    line = str(caught.value)
    assert "\n" not in line
    assert len(line) < 500
    assert match in line
    assert tree(root.parent) == before


@pytest.mark.parametrize("case", TOLD)
def test_opened_and_told(build_v30, labels, tree, write_video, case):
    change, match, undecodable = TOLD[case]
    root = build_v30()
    change(root)
    if case == "video lacks its last episode":
        write_video(root / VIDEO, range(19))
    before = tree(root.parent)
    dataset = FORMAT.open(root)
    lines = [f"{p.where}: {p.what}" for p in dataset.problems()]
    assert all("\n" not in line for line in lines)

    if match:
        assert any(re.search(match, line) for line in lines), lines
    lost = {}
    for episode in dataset.episodes:
        items = list(dataset.frames(episode, "front"))
        assert len(items) == episode.frames
        for item in items:
            assert isinstance(item, Undecodable) or item.shape == (32, 48, 3)
        reasons = [x.reason for x in items if isinstance(x, Undecodable)]
        assert all(r and "\n" not in r for r in reasons)
        if reasons:
            lost[episode.index] = len(reasons)
        refusal(lambda episode=episode: dataset.transitions(episode))
        refusal(lambda episode=episode: dataset.column(episode, "next.reward"))
    if undecodable is not None:
        assert lost == undecodable
    refusal(lambda: dataset.fingerprint("front"))
    assert tree(root.parent) == before
    if refusal(lambda: FORMAT.label(dataset, "reward_vlm").write(labels(dataset.episodes))):
        assert tree(root.parent) == before  # no partial write
        return
    again = FORMAT.open(root)
    for episode in again.episodes:
        assert np.isfinite(again.column(episode, "reward_vlm")).all()
    after = tree(root.parent)
    assert {n for n in after if after[n] != before.get(n)} == {f"set/{n}" for n in (DATA, LAST, EPISODES, INFO, STATS)}


REFUSED_V21 = {
    "list of episodes is missing": (gone("meta/episodes.jsonl"), "is missing"),
    "a line is a list": (text("meta/episodes.jsonl", b"[1]\n"), "line 1 must be a JSON object"),
    "a line is no JSON": (text("meta/episodes.jsonl", b"{\n"), "can't be read as JSON lines"),
    "a length is missing": (text("meta/episodes.jsonl", b'{"episode_index": 0}\n'), "length must be a whole number"),
    "a length is negative": (text("meta/episodes.jsonl", b'{"episode_index": 0, "length": -3}\n'), "got -3"),
    "a template field is of v3.0": (info(data_path="{chunk_index}"), "isn't known"),
}


@pytest.mark.parametrize("case", REFUSED_V21)
def test_v21_refused_in_one_line(build_v21, tree, case):
    change, match = REFUSED_V21[case]
    root = build_v21()
    change(root)
    before = tree(root)
    with pytest.raises(DatasetError) as caught:
        FORMAT.open(root)
    assert match in str(caught.value)
    assert "\n" not in str(caught.value)
    assert tree(root) == before


def test_v21_task_that_is_not_utf8_is_told(build_v21):
    root = build_v21()
    path = root / "meta/episodes.jsonl"
    path.write_bytes(path.read_bytes().replace(b"lift it", b"lift \xe9t"))
    dataset = FORMAT.open(root)
    assert [e.instruction for e in dataset.episodes] == ["push the cube", "", "läuft 蓝"]
    assert ["its task is not UTF-8" in p.what for p in dataset.problems()] == [True]


def test_v21_missing_episode_files_are_told(build_v21, labels, tree):
    root = build_v21()
    (root / "data/chunk-000/episode_000001.parquet").unlink()
    (root / "videos/chunk-000/observation.images.front/episode_000002.mp4").unlink()
    dataset = FORMAT.open(root)
    told = [p.where for p in dataset.problems()]
    assert "data/chunk-000/episode_000001.parquet" in told
    assert "videos/chunk-000/observation.images.front/episode_000002.mp4" in told
    assert all(isinstance(x, Undecodable) for x in dataset.frames(dataset.episodes[2], "front"))
    before = tree(root)
    with pytest.raises(DatasetError, match="is missing"):
        FORMAT.label(dataset, "reward_vlm").write(labels(dataset.episodes))
    assert tree(root) == before


@pytest.mark.parametrize("where", ["meta/.vlmreward_journal.json", "data/chunk-000/.file-001.parquet.vlmreward-new"])
def test_folders_that_cannot_be_written_leave_everything_as_it_was(build_v30, labels, tree, where):
    """A folder stands where a file must be made: even root can't write there."""
    root = build_v30()
    (root / where).mkdir()
    (root / where / "x").touch()
    before = tree(root)
    with pytest.raises(VlmRewardError) as caught:
        FORMAT.label(FORMAT.open(root), "reward_vlm").write(labels(FORMAT.open(root).episodes))
    assert "\n" not in str(caught.value)
    assert tree(root) == before


def test_hostile_picture_paths_stay_inside(build_v30):
    root = build_v30(images=True, video=False)
    (root.parent / "secret.png").write_bytes(b"x")
    stored = [{"bytes": None, "path": p} for p in ("../secret.png", "/etc/passwd", "meta/info.json", "no.png", "a\0b")]
    column(LAST, "observation.image", values=lambda v: stored)(root)
    dataset = FORMAT.open(root)
    items: list[Any] = list(dataset.frames(dataset.episodes[2], "observation.image"))
    assert all(isinstance(x, Undecodable) for x in items)
    assert ["leads out" in x.reason for x in items] == [True, True, False, False, True]
