import numpy as np
import pytest

from vlmreward.audit.sample import make_sample
from vlmreward.errors import ConfigError, NonFiniteError


def test_rows_come_in_order_of_group_and_step_with_everything_that_belongs_to_them():
    sample = make_sample(
        [5.0, 6.0, 7.0, 8.0],
        success=np.array([True, False, False, True]),
        progress=[0.5, 0.6, 0.7, 0.8],
        cues={"brightness": [50, 60, 70, 80]},
        group=[30, 10, 30, 10],
        step=[1, 1, 0, 0],
    )
    assert sample.scores[:, 0].tolist() == [8, 6, 7, 5]
    assert sample.success is not None
    assert sample.success.tolist() == [True, False, False, True]
    assert sample.labels["progress"].tolist() == [0.8, 0.6, 0.7, 0.5]
    assert sample.labels["brightness"].tolist() == [80, 60, 70, 50]
    assert sample.group.tolist() == [0, 0, 1, 1]
    assert sample.groups == 2
    assert sample.facts() == {"success", "progress", "brightness", "rollouts"}


def test_input_arrays_stay_as_they_were():
    scores, valid = np.arange(6.0).reshape(3, 2), np.array([True, False, True])
    sample = make_sample(scores, valid=valid)
    assert scores.tolist() == [[0, 1], [2, 3], [4, 5]]
    assert np.isnan(sample.scores[1]).all()


def test_split_parts_sweeps_by_the_frames_that_they_scored():
    nan = np.nan
    scores = np.array([[1, 10, nan, nan], [2, nan, 20, nan], [3, 30, nan, nan]])
    sample = make_sample(scores, group=[7, 7, 9], progress=[0.1, 0.2, 0.3], width=[1, 2, 3, 4])
    parts = {tuple(columns.tolist()): (rows, part) for rows, columns, part in sample.split()}
    assert parts.keys() == {(0,), (1,), (2,)}  # the last sweep scored nothing
    rows, part = parts[1,]
    assert rows.tolist() == [True, False, True]
    assert part.scores[:, 0].tolist() == [10, 30]
    assert part.labels["progress"].tolist() == [0.1, 0.3]
    assert part.group.tolist() == [0, 1]
    assert part.width is not None
    assert part.width.tolist() == [2]
    assert parts[2,][1].groups == 2  # groups keep their numbers, so that draws fit every part
    assert sample.frames.tolist() == [3, 2, 1, 0]


def test_mask_of_each_sweep_and_mask_of_all():
    scores = np.ones((3, 2))
    assert make_sample(scores, valid=np.array([True, False, True])).frames.tolist() == [2, 2]
    mask = np.array([[True, False], [True, True], [False, False]])
    assert make_sample(scores, valid=mask).frames.tolist() == [2, 1]


def test_label_may_be_missing_where_no_sweep_scored():
    sample = make_sample([1.0, np.nan, 3.0], progress=[0.1, np.nan, 0.3])
    assert [part.labels["progress"].tolist() for _, _, part in sample.split()] == [[0.1, 0.3]]


@pytest.mark.parametrize(
    ("scores", "known", "error", "message"),
    [
        (np.ones((2, 2, 2)), {}, ConfigError, r"scores must have shape \(N,\) or \(N, S\)"),
        (np.ones((2, 0)), {}, ConfigError, "scores must have shape"),
        ([1.0, np.inf], {}, NonFiniteError, "1 of 2 scores are infinite: mark such rows invalid"),
        ([1.0, np.nan], {"valid": np.array([True, True])}, NonFiniteError, "1 of 2 scores marked valid"),
        ([1.0, 2.0], {"valid": np.array([1, 0])}, ConfigError, "valid must be bool"),
        ([1.0, 2.0], {"valid": np.ones((2, 3), bool)}, ConfigError, "valid must be bool"),
        ([1.0, 2.0], {"success": np.array([1, 0])}, ConfigError, r"success must be bool of shape \(2,\), got int"),
        ([1.0, 2.0], {"success": np.array([True])}, ConfigError, "success must be bool"),
        ([1.0, 2.0], {"progress": [1.0]}, ConfigError, r"progress must have shape \(2,\), got \(1,\)"),
        ([1.0, 2.0], {"progress": [1.0, np.nan]}, NonFiniteError, "progress is not finite for 1 of 2 scored frames"),
        ([1.0, 2.0], {"cues": {"success": [1, 2]}}, ConfigError, "a cue may not be named 'success'"),
        ([1.0, 2.0], {"cues": {"red": [1, np.inf]}}, NonFiniteError, "red is not finite"),
        ([1.0, 2.0], {"cues": {"red": [np.nan]}}, ConfigError, r"red must have shape \(2,\), got \(1,\)"),
        ([1.0, 2.0], {"group": [0.5, 1.5]}, ConfigError, "group must be integers"),
        ([1.0, 2.0], {"step": [0]}, ConfigError, "step must be integers"),
        ([1.0, 2.0], {"width": 0.0}, ConfigError, "width must be one number or 1, each > 0"),
        ([1.0, 2.0], {"noise": [1e-3, 1e-3]}, ConfigError, "noise must be one number or 1"),
        ([1.0, 2.0], {"margin": -0.1}, ConfigError, "margin must be a finite number >= 0, got -0.1"),
    ],
)
def test_bad_input_is_refused_in_one_line(scores, known, error, message):
    with pytest.raises(error, match=message) as caught:
        make_sample(scores, **known)
    assert "\n" not in str(caught.value)
