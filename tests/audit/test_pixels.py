import numpy as np
import pytest

from vlmreward.audit import pixels
from vlmreward.audit.pixels import (
    brightness,
    distance,
    nearness_to_last,
    nearness_to_success,
    pixel_change,
    thumbnails,
)
from vlmreward.errors import ConfigError, FramesError


def test_thumbnail_is_the_mean_over_cells():
    frames = np.random.default_rng(0).integers(0, 256, (3, 64, 96, 3), dtype=np.uint8)
    expected = frames.reshape(3, 32, 2, 32, 3, 3).mean(axis=(2, 4))
    got = thumbnails(frames)
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, expected.reshape(3, -1), atol=1e-4)


def test_thumbnail_of_a_size_that_is_no_multiple_covers_every_pixel_once():
    frames = np.random.default_rng(1).integers(0, 256, (2, 7, 5, 3), dtype=np.uint8)
    got = thumbnails(frames, side=3).reshape(2, 3, 3, 3)
    # 7 rows are cut at 0, 2, 4 and 5 columns at 0, 1, 3
    np.testing.assert_allclose(got[:, 0, 0], frames[:, 0:2, 0:1].mean(axis=(1, 2)), atol=1e-4)
    np.testing.assert_allclose(got[:, 2, 1], frames[:, 4:7, 1:3].mean(axis=(1, 2)), atol=1e-4)
    np.testing.assert_array_equal(thumbnails(frames, side=50), frames.reshape(2, -1))


def test_frames_are_read_a_few_at_a_time_without_a_trace(monkeypatch):
    frames = np.random.default_rng(2).integers(0, 256, (7, 9, 9, 3), dtype=np.uint8)
    whole = thumbnails(frames, side=4)
    monkeypatch.setattr(pixels, "FRAMES_AT_A_TIME", 3)
    np.testing.assert_array_equal(thumbnails(frames, side=4), whole)


def test_white_frames_do_not_wrap():
    frames = np.stack([np.full((64, 64, 3), v, dtype=np.uint8) for v in (255, 0)])
    thumbs = thumbnails(frames)
    assert brightness(thumbs).tolist() == [255, 0]
    assert distance(thumbs, thumbs[0]).tolist() == [0, 255]
    assert pixel_change(thumbs, np.zeros(2, int), np.arange(2)).tolist() == [0, 255]


def flat(*values):
    """Thumbnails of one colour each."""
    return np.repeat(np.array(values, np.float32)[:, None], 12, axis=1)


def test_distances_follow_rollouts_and_time_whatever_the_order_of_rows():
    thumbs = flat(10, 40, 20, 30, 5)
    group, step = np.array([0, 1, 0, 1, 0]), np.array([2, 0, 0, 1, 1])
    assert pixel_change(thumbs, group, step).tolist() == [10, 0, 0, 10, 15]  # from 20 and from 40
    assert nearness_to_last(thumbs, group, step).tolist() == [0, -10, -10, 0, -5]  # to 10 and to 30


def test_a_picture_that_stands_alone_has_no_first_and_no_last_one():
    thumbs, group, step = flat(10, 40, 20), np.array([4, 7, 4]), np.array([0, 0, 1])
    np.testing.assert_array_equal(pixel_change(thumbs, group, step), [0, np.nan, 10])
    np.testing.assert_array_equal(nearness_to_last(thumbs, group, step), [-10, np.nan, 0])


def test_mean_success_frame_leaves_the_own_rollout_out():
    thumbs = flat(0, 10, 20, 40, 100)
    group = np.array([0, 0, 1, 1, 2])
    success = np.array([False, True, True, True, False])
    # without rollout 0: 20 and 40; without rollout 1: 10; rollout 2: all three
    expected = [-30, -20, -10, -30, -(100 - 70 / 3)]
    np.testing.assert_allclose(nearness_to_success(thumbs, success, group), expected, atol=1e-4)
    alone = nearness_to_success(thumbs, group == 0, group)
    assert np.isnan(alone).tolist() == [True, True, False, False, False]
    assert np.isnan(nearness_to_success(thumbs, np.zeros(5, bool), group)).all()


def test_bad_frames_and_sides_are_refused():
    with pytest.raises(FramesError, match="frames must be uint8"):
        thumbnails(np.zeros((2, 4, 4, 3)))  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="side must be >= 1, got 0"):
        thumbnails(np.zeros((2, 4, 4, 3), np.uint8), side=0)
