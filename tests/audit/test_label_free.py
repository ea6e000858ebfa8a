import numpy as np
import pytest
from scipy.stats import spearmanr

from vlmreward.audit.bootstrap import draw_counts, estimate, select_metrics
from vlmreward.audit.label_free import between_share, constant_share, range_in_noise, usable_range
from vlmreward.audit.sample import make_sample


def test_usable_range_is_the_span_by_the_width_and_by_the_noise(value):
    scores = np.stack([np.linspace(0, 1, 101), np.full(101, 0.3), np.linspace(0, 1, 101)], axis=1)
    got = value(usable_range, scores, width=[2.0, 2.0, np.nan])
    np.testing.assert_allclose(got, [0.45, 0, np.nan], atol=1e-12)  # a constant uses nothing: that is known
    np.testing.assert_allclose(value(range_in_noise, scores, noise=1e-3), [900, 0, 900], atol=1e-9)


def test_few_strange_frames_do_not_widen_the_usable_range(value):
    scores = np.linspace(0, 1, 1000)
    scores[:10] = 1e6
    assert value(usable_range, scores, width=1.0) < 1


def test_constant_share_counts_rollouts_that_move_by_no_more_than_the_noise(value, replicates):
    group = np.repeat([0, 1, 2, 3], [3, 3, 3, 1])
    scores = np.array([1, 1, 1, 1, 1.05, 1, 1, 2, 1, 9.0])  # the last rollout has one frame: it can't tell
    assert value(constant_share, scores, group=group) == pytest.approx(1 / 3)
    assert value(constant_share, scores, group=group, noise=0.1) == pytest.approx(2 / 3)
    assert replicates(constant_share, [[2, 0, 1, 5]], scores, group=group)[0, 0] == pytest.approx(2 / 3)
    assert np.isnan(value(constant_share, scores, group=np.arange(10)))


def test_between_share_tells_scenes_from_progress(value):
    rng = np.random.default_rng(0)
    group = np.repeat(np.arange(50), 20)
    noise, scene = rng.normal(size=1000), rng.normal(size=50)[group]
    of_noise, of_scene, of_both = value(between_share, np.stack([noise, scene, noise + scene], axis=1), group=group)
    assert abs(of_noise) < 0.03  # the uncorrected share would be 49 / 999 and, with 2 frames each, near 1/2
    assert of_scene == pytest.approx(1)
    assert of_both == pytest.approx(0.5, abs=0.12)
    assert np.isnan(value(between_share, np.ones(1000), group=group))
    assert np.isnan(value(between_share, noise, group=np.arange(1000)))


def test_between_share_by_hand(value, replicates):
    # rollouts (0, 2) and (4, 6): SS_total 20 of 4 frames, SS_within 2 + 2
    scores, group = np.array([0, 2, 4, 6.0]), np.array([0, 0, 1, 1])
    assert value(between_share, scores, group=group) == pytest.approx(1 - (4 / 2) / (20 / 3))
    # the first one twice: total 0 0 2 2 4 6 about 14/6, within 2 + 2 + 2, three rollouts
    total = np.var([0, 0, 2, 2, 4, 6]) * 6
    got = replicates(between_share, [[2, 1]], scores, group=group)
    assert got[0, 0] == pytest.approx(1 - (6 / 3) / (total / 5))


def test_cue_is_correlated_by_rank_without_any_label():
    rng = np.random.default_rng(1)
    brightness = rng.random(60)
    scores = np.stack([np.exp(5 * brightness), rng.normal(size=60)], axis=1)
    sample = make_sample(scores, cues={"brightness": brightness})
    metrics = select_metrics(sample)
    assert [metric.name for metric in metrics] == ["spearman_brightness"]
    got = estimate(sample, metrics, draw_counts(sample.groups, 200))["spearman_brightness"]
    assert got.value[0] == pytest.approx(1)
    assert got.value[1] == pytest.approx(spearmanr(scores[:, 1], brightness)[0])
    low, high = got.interval()
    assert low[0] == pytest.approx(1)
    assert low[1] < got.value[1] < high[1]


def test_cue_that_some_frames_lack_is_correlated_over_the_others():
    rng = np.random.default_rng(2)
    group = np.repeat(np.arange(30), 2)
    cue = np.where(group < 10, np.nan, rng.random(60))
    scores = np.stack([cue + rng.random(60), rng.random(60)], axis=1)
    scores[group < 10, 0] = 9  # were these frames counted, the correlation would be another
    scores[50, 1] = np.nan
    sample = make_sample(scores, cues={"change": cue, "brightness": rng.random(60)}, group=group)
    got = estimate(sample, select_metrics(sample, ["spearman_change"]), draw_counts(30, 200))["spearman_change"]
    both = np.isfinite(cue), np.isfinite(cue) & (np.arange(60) != 50)
    for i, rows in enumerate(both):
        assert got.value[i] == pytest.approx(spearmanr(scores[rows, i], cue[rows])[0])
    assert np.isfinite(got.replicates).all()
    nobody = make_sample(scores, cues={"change": np.full(60, np.nan)}, group=group)
    assert np.isnan(
        estimate(nobody, select_metrics(nobody, ["spearman_change"]), draw_counts(30, 5))["spearman_change"].value
    ).all()
