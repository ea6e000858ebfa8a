"""What the name of a column of labels means."""

from __future__ import annotations

import numpy as np
import pytest

from vlmreward.data.dataset import Episode, Transitions
from vlmreward.data.label_names import label_names, name_labels, validity_names
from vlmreward.data.label_validity import read_validity
from vlmreward.errors import ConfigError, DatasetError
from vlmreward.testing.datasets import ArrayDataset, ArrayEpisode

YES, NO = np.ones(3, np.float32), np.zeros(3, np.float32)


def dataset_with(**columns: np.ndarray) -> ArrayDataset:
    """Return a dataset of one episode of three rows."""
    zeros = np.zeros((4, 1), np.float32)
    ends = np.zeros(3, bool)
    return ArrayDataset([ArrayEpisode(Transitions(zeros, zeros[1:], None, ends, ends), columns)])


@pytest.mark.parametrize("given", ["vlm", "reward_vlm", "rewards_vlm"])
def test_name_leads_to_what_was_written_under_it(given: str) -> None:
    names = name_labels(given)
    assert names.all == ("rewards_vlm", "rewards_vlm_valid", "success_vlm", "progress_vlm")
    for ending, written in zip(("", "_valid", "_success", "_progress"), names.all, strict=True):
        assert written in label_names(given + ending)


@pytest.mark.parametrize("given", ["reward", "rewards"])
def test_labels_in_place_of_the_recorded_rewards_are_found_too(given: str) -> None:
    names = name_labels(given)
    assert names.all == ("rewards", "rewards_valid", "success_rewards", "progress_rewards")
    for ending, written in zip(("", "_valid", "_success", "_progress"), names.all, strict=True):
        assert written in label_names(given + ending)


@pytest.mark.parametrize(
    "name",
    ["progress_vlm", "reward_vlm_progress", "vlm_success", "reward_success_vlm", "vlm_valid", "valid", "a/b", ""],
)
def test_name_that_would_be_taken_for_a_part_of_other_labels_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="can't be that of labels: use letters, digits and '_'"):
        name_labels(name)


def test_validity_is_the_own_one_first_and_then_that_of_the_set() -> None:
    assert [*validity_names("reward_vlm")] == ["reward_vlm_valid"]
    assert [*validity_names("reward_vlm_progress")] == ["reward_vlm_progress_valid", "reward_vlm_valid"]
    assert [*validity_names("success_vlm")] == ["success_vlm_valid", "vlm_valid"]
    both = dataset_with(a_progress=YES, a_progress_valid=NO, a_valid=YES)
    assert read_validity(both, both.episodes[0], "a_progress") is not None
    np.testing.assert_array_equal(read_validity(both, both.episodes[0], "a_progress"), NO > 0)
    of_the_set = dataset_with(a_progress=YES, a_valid=np.array([1, 0, 1], np.float32))
    np.testing.assert_array_equal(read_validity(of_the_set, of_the_set.episodes[0], "a_progress"), [True, False, True])
    none = dataset_with(a_progress=YES, b_valid=YES)
    assert read_validity(none, none.episodes[0], "a_progress") is None


def test_validity_that_can_not_be_read_is_no_validity_that_is_missing() -> None:
    class Damaged(ArrayDataset):
        def column(self, episode: Episode, name: str) -> np.ndarray:
            if name == "a_valid":
                raise DatasetError("the file is cut off")
            return super().column(episode, name)

    damaged = Damaged(dataset_with(a=YES, a_valid=YES).arrays)
    with pytest.raises(DatasetError, match="cut off"):
        read_validity(damaged, damaged.episodes[0], "a_progress")
