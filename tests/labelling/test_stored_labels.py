"""Rows of episodes from shards of frames."""

from __future__ import annotations

import numpy as np
import pytest

from vlmreward.data.dataset import Episode
from vlmreward.data.labels import Provenance
from vlmreward.labelling import plan
from vlmreward.labelling.plan import make_plan
from vlmreward.labelling.stored_labels import NO_SUCCESSOR, StoredLabels
from vlmreward.labelling.work_folder import LabelRecord, WorkFolder

PROVENANCE = Provenance("run", "encoder", "MIT", {}, "goal", "front", "0")
EPISODES = [Episode(0, "a", 5, 5), Episode(1, "b", 6, 7), Episode(2, "c", 3, 3)]


@pytest.fixture
def labels(tmp_path, monkeypatch):
    """Frame f of all has reward f, in shards of 4; frame 7 (the third of b) is invalid."""
    monkeypatch.setattr(plan, "SHARD_FRAMES", 4)
    folder, laid_out = WorkFolder(tmp_path, "layout", "run"), make_plan(EPISODES)
    for shard in laid_out.shards:
        reward = np.arange(4 * shard.number, 4 * shard.number + len(shard), dtype=np.float32)
        valid = reward != 7
        nan = np.full(len(reward), np.nan, np.float32)
        reasons = {} if valid.all() else {3: "broken"}
        folder.write_labels(shard.number, LabelRecord(np.where(valid, reward, nan), valid, nan, nan, reasons))
    return StoredLabels(folder, laid_out, EPISODES, PROVENANCE)


def test_row_t_has_frame_t_plus_1(labels):
    a, b, c = labels
    np.testing.assert_array_equal(a.reward, [1, 2, 3, 4, np.nan])
    assert a.valid.tolist() == [True] * 4 + [False]
    assert a.reasons == {4: NO_SUCCESSOR}
    np.testing.assert_array_equal(b.reward, [6, np.nan, 8, 9, 10, 11])  # seven frames: every row has a successor
    assert b.valid.tolist() == [True, False, True, True, True, True]
    assert b.reasons == {1: "broken"}
    np.testing.assert_array_equal(c.reward, [13, 14, np.nan])
    assert c.success is None


def test_progress_is_the_place_of_the_reward_in_the_dataset(labels):
    rewards = np.array([r for r in range(15) if r != 7])
    low, high = np.quantile(rewards, (0.01, 0.99))
    for episode in labels:
        known = episode.valid
        expected = np.clip((episode.reward[known] - low) / (high - low), 0, 1)
        np.testing.assert_allclose(episode.progress[known], expected, rtol=1e-6)
        assert np.isnan(episode.progress[~known]).all()


def test_frames_have_the_labels_of_their_rows_and_the_first_frame_its_own(labels):
    for episode in EPISODES:
        rows, frames = labels.episode(episode.index), labels.frames(episode.index)
        count = episode.frames - 1
        for name in ("reward", "progress"):
            np.testing.assert_array_equal(getattr(rows, name)[:count], getattr(frames, name)[1:])
        first = sum(e.frames for e in EPISODES[: episode.index])
        assert frames.reward[0] == first
        assert np.isfinite(frames.progress[0])
