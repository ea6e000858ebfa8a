"""The figures of the gate against hand numbers and SciPy, and that it refuses."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import spearmanr

from vlmreward.encoders.int8_gate import Agreement, centred_cosine, judge, spearman, split_frames
from vlmreward.errors import ConfigError


@given(st.lists(st.tuples(st.integers(-5, 5), st.integers(-5, 5)), min_size=2, max_size=40))
def test_rank_correlation_is_scipys_ties_included(pairs):
    a, b = np.array(pairs, np.float32).T
    if np.ptp(a) == 0 or np.ptp(b) == 0:
        assert np.isnan(spearman(a, b))
    else:
        expected: Any = spearmanr(a, b)
        assert spearman(a, b) == pytest.approx(expected.statistic, abs=1e-12)


def test_rank_correlation_of_what_is_not_finite_is_none():
    assert np.isnan(spearman(np.array([1.0, 2, 3]), np.array([1.0, np.nan, 3])))
    assert np.isnan(spearman(np.array([1.0]), np.array([1.0])))


def test_centred_cosine_by_hand():
    a = np.array([[11.0, 0], [9, 0], [10, 1], [10, -1]])  # about (10, 0): right, left, up, down
    turned = np.array([[0.0, 6], [0, 4], [-1, 5], [1, 5]])  # about (0, 5): each turned by 90 degrees
    assert centred_cosine(a, a + 3) == pytest.approx(1)
    assert centred_cosine(a, turned) == pytest.approx(0)
    b = a.copy()
    b[:2] = turned[:2] + np.array([10, -5])
    assert centred_cosine(a, b) == pytest.approx(0.5)  # two of four are turned
    a[0, 0] = np.nan
    assert np.isnan(centred_cosine(a, b))


@pytest.mark.parametrize(
    ("cosine", "rank", "fine"),
    [
        (0.99, 0.995, True),
        (0.9899, 1.0, False),
        (1.0, 0.9949, False),
        (float("nan"), 1.0, False),
        (1.0, float("nan"), False),
    ],
)
def test_both_figures_must_pass_and_are_named(cosine, rank, fine):
    agreement = Agreement(100, cosine, rank)
    if fine:
        agreement.check()
        return
    with pytest.raises(ConfigError) as refused:
        agreement.check()
    for words in (f"{cosine:.4f} (at least 0.99)", f"{rank:.4f} (at least 0.995)", "100 held-out", "precision=auto"):
        assert words in str(refused.value)


def test_judge_asks_for_the_reward_of_both():
    rng = np.random.default_rng(0)
    reference = rng.normal(size=(100, 8)).astype(np.float32)
    close = reference + rng.normal(scale=0.01, size=reference.shape).astype(np.float32)
    agreement = judge(reference, close, lambda x: x[1:, 0])
    assert agreement.frames == 100
    assert agreement.centred_cosine > 0.999
    expected: Any = spearmanr(reference[1:, 0], close[1:, 0])
    assert agreement.spearman == pytest.approx(expected.statistic)


def test_a_reward_that_only_the_quantised_tower_lacks_counts_against_it():
    reference = np.random.default_rng(0).normal(size=(100, 8)).astype(np.float32)

    def score(lost):
        return lambda x: np.where((np.arange(100) == lost) & (x is not reference), np.nan, x[:, 0])

    assert np.isnan(judge(reference, reference.copy(), score(5)).spearman)
    both = judge(reference, reference.copy(), lambda x: np.where(np.arange(100) == 5, np.nan, x[:, 0]))
    assert both.spearman == pytest.approx(1)


def pictures(n, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (n, 4, 4, 3), dtype=np.uint8)


@pytest.mark.parametrize("numbers", [np.repeat(np.arange(24), 8), np.arange(192), np.repeat([5, 2, 9, 7], 48)])
def test_no_episode_and_no_frame_is_on_both_sides(numbers):
    frames = pictures(192)
    frames[10::20] = frames[0]  # the same picture in many episodes
    calibration, held_out = split_frames(frames, numbers)
    assert not set(numbers[calibration]) & set(numbers[held_out])
    assert not {frames[i].tobytes() for i in calibration} & {frames[i].tobytes() for i in held_out}
    left_out = set(range(192)) - set(calibration) - set(held_out)
    assert all((frames[i] == frames[0]).all() for i in left_out)
    assert len(left_out) > 0


@pytest.mark.parametrize(
    ("frames", "episode"),
    [
        (pictures(300), np.zeros(300, np.int64)),  # one episode: nothing is left to judge by
        (pictures(80), np.arange(80)),
        (np.repeat(pictures(1), 300, axis=0), np.arange(300)),
    ],
)
def test_too_few_frames_are_refused(frames, episode):
    with pytest.raises(ConfigError, match="needs 16 frames to calibrate on and 64 different ones of other episodes"):
        split_frames(frames, episode)
