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
    ("rewards", "cosine", "rank", "fine"),
    [
        (64, 0.99, 0.995, True),
        (63, 1.0, 1.0, False),
        (64, 0.9899, 1.0, False),
        (64, 1.0, 0.9949, False),
        (64, float("nan"), 1.0, False),
        (64, 1.0, float("nan"), False),
    ],
)
def test_all_figures_must_pass_and_are_named(rewards, cosine, rank, fine):
    agreement = Agreement(100, rewards, cosine, rank)
    if fine:
        agreement.check()
        return
    with pytest.raises(ConfigError) as refused:
        agreement.check("do this")
    figures = (f"{cosine:.4f} (at least 0.99)", f"{rank:.4f} (at least 0.995)", f"{rewards} rewards (at least 64)")
    for words in (*figures, "100 held-out", ": do this"):
        assert words in str(refused.value)


def test_judge_asks_for_the_reward_of_both():
    rng = np.random.default_rng(0)
    reference = rng.normal(size=(100, 8)).astype(np.float32)
    close = reference + rng.normal(scale=0.01, size=reference.shape).astype(np.float32)
    judged = np.arange(100) >= 10
    close[:10] = 5  # nobody asks for these
    agreement = judge(reference, close, judged, lambda x: np.where(np.arange(100) < 30, np.nan, x[:, 0]))
    assert (agreement.frames, agreement.rewards) == (90, 70)
    assert agreement.centred_cosine > 0.999
    expected: Any = spearmanr(reference[30:, 0], close[30:, 0])
    assert agreement.spearman == pytest.approx(expected.statistic)


def test_a_reward_that_only_the_quantised_tower_lacks_counts_against_it():
    reference = np.random.default_rng(0).normal(size=(100, 8)).astype(np.float32)

    def score(lost):
        return lambda x: np.where((np.arange(100) == lost) & (x is not reference), np.nan, x[:, 0])

    every = np.ones(100, bool)
    assert np.isnan(judge(reference, reference.copy(), every, score(5)).spearman)
    both = judge(reference, reference.copy(), every, lambda x: np.where(np.arange(100) == 5, np.nan, x[:, 0]))
    assert both.rewards == 99
    assert both.spearman == pytest.approx(1)


def pictures(n, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (n, 4, 4, 3), dtype=np.uint8)


@pytest.mark.parametrize("numbers", [np.repeat(np.arange(24), 8), np.arange(192), np.repeat([5, 2, 9, 7], 48)])
def test_no_episode_and_no_frame_is_on_both_sides(numbers):
    frames = pictures(192)
    frames[10::20] = frames[0]  # the same picture in many episodes
    frames[numbers == numbers.max()] = frames[-1]  # a whole episode of one picture
    calibration, held_out, judged = split_frames(frames, numbers)
    assert not set(numbers[calibration]) & set(numbers[held_out])
    assert sorted([*calibration, *held_out]) == list(range(192))  # no gap in any episode
    calibrated, asked = ([frames[i].tobytes() for i in rows] for rows in (calibration, held_out[judged]))
    assert not set(calibrated) & set(asked)
    assert len(set(asked)) == len(asked)
    assert {frames[i].tobytes() for i in held_out[~judged]} <= {*calibrated, *asked}
    assert not judged.all()


@pytest.mark.parametrize(
    ("frames", "episode"),
    [
        (pictures(300), np.zeros(300, np.int64)),  # one episode: nothing is left to judge by
        (pictures(80), np.arange(80)),
        (np.repeat(pictures(1), 300, axis=0), np.arange(300)),
        (np.repeat(pictures(60), 5, axis=0), np.repeat(np.arange(60), 5)),  # each picture five times
    ],
)
def test_too_few_frames_are_refused(frames, episode):
    with pytest.raises(ConfigError, match="needs 16 frames to calibrate on and 64 different ones of other episodes"):
        split_frames(frames, episode)
