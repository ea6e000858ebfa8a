import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from vlmreward.data.lerobot import FORMAT
from vlmreward.errors import ConfigError, DatasetError

FILE = "sarm_progress.parquet"


def write(root, labels, **settings):
    dataset = FORMAT.open(root)
    FORMAT.label(dataset, "sarm_progress", **settings).write(labels(dataset.episodes))
    return pq.read_table(root / FILE)


def rabc_deltas(table, chunk):
    """What RA-BC compares for each row: progress a chunk ahead, or in the last row of the episode, less its own."""
    rows = {r["index"]: r for r in table.to_pylist()}
    ends = {r["episode_index"]: r["index"] for r in sorted(table.to_pylist(), key=lambda r: r["index"])}
    found = {}
    for index, row in rows.items():
        ahead = rows.get(min(index + chunk, ends[row["episode_index"]]))
        found[index] = None if ahead is None else ahead["progress_sparse"] - row["progress_sparse"]
    return found


@pytest.mark.parametrize("version", ["v30", "v21"])
def test_schema_is_the_one_that_lerobot_reads(version, request, labels):
    root = request.getfixturevalue(f"build_{version}")()
    table = write(root, labels)
    kinds = [(f.name, f.type) for f in table.schema]
    assert kinds == [
        ("index", pa.int64()),
        ("episode_index", pa.int64()),
        ("frame_index", pa.int64()),
        ("progress_sparse", pa.float32()),
    ]
    assert table["index"].to_pylist() == list(range(24))
    assert table["episode_index"].to_pylist() == [0] * 7 + [1] * 12 + [2] * 5
    assert table["frame_index"].to_pylist() == [*range(7), *range(12), *range(5)]
    assert table.schema.metadata[b"vlm_name"] == b"mini-1 fp32"
    assert json.loads(table.schema.metadata[b"vlmreward"])["sarm_progress"]["run"] == "ab" * 8


@pytest.mark.parametrize("filler", ["hold", "drop", "decrease"])
def test_there_is_never_a_nan(build_v30, labels, filler):
    table = write(build_v30(), labels, filler=filler)
    assert table["progress_sparse"].null_count == 0
    assert np.isfinite(table["progress_sparse"].to_numpy()).all()


@pytest.mark.parametrize("version", ["v30", "v21"])
def test_row_has_the_progress_of_its_own_frame(version, request, labels):
    """By hand: frame f of F has f / F, frame 4 is lost; the last one of seven counts, that of five is the lost one."""
    found = write(request.getfixturevalue(f"build_{version}")(), labels)["progress_sparse"].to_numpy()
    np.testing.assert_allclose(found[:7] * 7, [0, 1, 2, 3, 3, 5, 6], rtol=1e-6)
    np.testing.assert_allclose(found[7:19] * 12, [0, 1, 2, 3, 3, 5, 6, 7, 8, 8, 10, 11], rtol=1e-6)
    np.testing.assert_allclose(found[19:] * 5, [0, 1, 2, 3, 3], rtol=1e-6)


def test_row_of_a_column_is_that_of_the_frame_before(build_v30, labels):
    root = build_v30()
    own = write(root, labels)["progress_sparse"].to_numpy()
    dataset = FORMAT.open(root)
    FORMAT.label(dataset, "reward_vlm").write(labels(dataset.episodes))
    for episode, start in zip(dataset.episodes, (0, 7, 19), strict=True):
        of_rows = dataset.column(episode, "reward_vlm_progress")[:-1]
        np.testing.assert_array_equal(of_rows, own[start + 1 : start + episode.rows])


def test_drop_leaves_out_invalid_rows_alone(build_v30, labels):
    table = write(build_v30(), labels, filler="drop")
    assert table["index"].to_pylist()[:7] == [0, 1, 2, 3, 5, 6, 7]
    assert table["frame_index"].to_pylist()[5:7] == [6, 0]
    assert table["index"].to_pylist()[-1] == 22


def test_decrease_makes_what_leads_to_an_invalid_row_a_step_back(build_v30, labels):
    root = build_v30()
    held = rabc_deltas(write(root, labels), 1)
    deltas = rabc_deltas(write(root, labels, filler="decrease", overwrite=True), 1)
    assert held[3] == 0
    assert deltas[3] < 0  # to frame 4, which is lost: weight 0
    assert deltas[5] == pytest.approx(1 / 7)  # from a frame to the next, the last one
    assert deltas[22] == 0  # to the last row, whose frame is lost: not a failure
    assert deltas[0] == pytest.approx(1 / 7)


def test_dataset_itself_is_not_touched_and_undo_removes_the_file(build_v30, labels, tree):
    root = build_v30()
    before = tree(root)
    plan = FORMAT.label(FORMAT.open(root), "sarm_progress").plan()
    assert [c.path for c in plan] == [root / FILE]
    assert plan[0].rows == 24
    assert tree(root) == before
    write(root, labels)
    assert {k: v for k, v in tree(root).items() if k != FILE} == before
    FORMAT.label(FORMAT.open(root), "sarm_progress", overwrite=True).undo()
    assert tree(root) == before
    with pytest.raises(DatasetError, match="nothing to undo"):
        FORMAT.label(FORMAT.open(root), "sarm_progress").undo()


def test_existing_files_are_replaced_only_when_ours_and_asked(build_v30, labels):
    root = build_v30()
    write(root, labels)
    with pytest.raises(DatasetError, match="there already, from run"):
        write(root, labels, filler="drop")
    write(root, labels, overwrite=True, filler="drop")
    pq.write_table(pa.table({"index": [0]}), root / FILE)
    with pytest.raises(DatasetError, match="not ours"):
        write(root, labels, overwrite=True)


def test_labels_without_progress_are_refused_and_leave_nothing(build_v30, labels, tree):
    root = build_v30()
    before = tree(root)
    with pytest.raises(ConfigError, match="no progress"):
        write(root, lambda e: labels(e, parts=False))
    assert tree(root) == before
    with pytest.raises(ConfigError, match="filler must be one of"):
        write(root, labels, filler="zero")
