from statistics import NormalDist

import numpy as np
import pytest

from vlmreward.audit.bootstrap import (
    MOST_UNDEFINED,
    Estimate,
    draw_counts,
    estimate,
    prompt_correlation,
    prompt_margin,
    select_metrics,
)
from vlmreward.audit.sample import make_sample
from vlmreward.errors import ConfigError


def measure(names, scores, counts=None, **known):
    sample = make_sample(scores, **known)
    return estimate(
        sample, select_metrics(sample, names), draw_counts(sample.groups, 200) if counts is None else counts
    )


def test_draws_are_of_all_groups_and_repeat_with_their_seed():
    counts = draw_counts(30, 4000, seed=1)
    assert counts.shape == (4000, 30)
    assert (counts.sum(axis=1) == 30).all()
    np.testing.assert_array_equal(counts, draw_counts(30, 4000, seed=1))
    assert (counts != draw_counts(30, 4000, seed=2)).any()
    np.testing.assert_allclose(counts.mean(axis=0), 1, atol=0.08)
    np.testing.assert_allclose(counts.var(axis=0), 1 - 1 / 30, atol=0.12)  # a multinomial count
    assert draw_counts(0, 5).shape == (5, 0)
    assert draw_counts(5, 0).shape == (0, 5)
    with pytest.raises(ConfigError, match="replicates must be >= 0, got -1"):
        draw_counts(5, -1)


def test_frames_of_a_rollout_are_drawn_together():
    """One frame of each of two rollouts, copied 50 times: the copies tell nothing new."""
    group = np.repeat(np.arange(40), 50)
    rng = np.random.default_rng(0)
    progress = rng.random(40)[group]
    scores = progress + rng.normal(size=40)[group]
    one = measure(["pearson_progress"], scores[::50], progress=progress[::50])["pearson_progress"]
    many = measure(["pearson_progress"], scores, progress=progress, group=group)["pearson_progress"]
    np.testing.assert_allclose(many.replicates, one.replicates, atol=1e-9)
    fooled = measure(["pearson_progress"], scores, progress=progress)["pearson_progress"]
    widths = [high - low for low, high in (found.interval() for found in (many, fooled))]
    assert widths[0] > 4 * widths[1]  # about the root of 50


def test_intervals_cover_the_true_auroc():
    """300 samples of two normal heaps one deviation apart, whose AUROC is Phi(1 / sqrt 2)."""
    truth = NormalDist().cdf(1 / np.sqrt(2))
    rng = np.random.default_rng(1)
    counts, covered = draw_counts(100, 300), 0
    success = np.arange(100) < 40
    scores = rng.normal(size=(100, 300)) + success[:, None]  # sweeps stand for samples
    low, high = measure(["auroc"], scores, counts, success=success)["auroc"].interval()
    covered = ((low <= truth) & (truth <= high)).mean()
    assert (
        0.90 <= covered <= 0.985
    )  # 0.95 +- 3 standard errors of a share of 300, and a little short as percentiles are


def test_intervals_over_rollouts_cover_where_intervals_over_frames_do_not():
    rho, groups, each, trials = 0.5, 60, 10, 300
    rng = np.random.default_rng(2)
    covered = {True: 0, False: 0}
    group = np.repeat(np.arange(groups), each)
    for _ in range(trials):
        # score and label of a rollout move together by 90 %, so that its 10 frames are worth little more than one
        parts = [np.sqrt(share) * rng.normal(size=(2, n)) for share, n in ((0.9, groups), (0.1, groups * each))]
        x, z = parts[0][:, group] + parts[1]
        y = rho * x + np.sqrt(1 - rho**2) * z
        for grouped in covered:
            known = {"group": group} if grouped else {}
            found = measure(["pearson_progress"], x, progress=y, **known)["pearson_progress"]
            low, high = found.interval()
            covered[grouped] += int(low[0] <= rho <= high[0])
    assert 0.88 <= covered[True] / trials <= 0.985
    assert covered[False] / trials < 0.7


def test_sweeps_that_scored_other_frames_are_measured_on_their_own():
    rng = np.random.default_rng(3)
    n = 60
    progress, group = rng.random(n), np.repeat(np.arange(12), 5)
    scores = progress[:, None] + rng.normal(size=(n, 4))
    scores[rng.random(n) < 0.3, 1] = np.nan
    scores[:10, 2] = np.nan  # two whole rollouts
    scores[:, 3] = np.nan
    known = {"success": progress > 0.6, "progress": progress, "group": group}
    sample = make_sample(scores, **known)
    counts = draw_counts(12, 50)
    together = estimate(sample, select_metrics(sample), counts)
    assert len(together) > 10
    for s in range(3):
        kept = np.isfinite(scores[:, s])
        part = {name: values[kept] for name, values in known.items()}
        there = np.unique(group[kept])
        alone = measure(list(together), scores[kept, s], counts[:, there], **part)
        for name, found in together.items():
            np.testing.assert_allclose(found.value[s], alone[name].value[0], atol=1e-12, err_msg=name)
            np.testing.assert_allclose(found.replicates[:, s], alone[name].replicates[:, 0], atol=1e-9, err_msg=name)
    assert all(np.isnan(found.value[3]) and np.isnan(found.replicates[:, 3]).all() for found in together.values())


@pytest.mark.parametrize("n", [0, 1])
def test_sample_of_no_frame_or_one_is_undefined_throughout(n):
    known = {"success": np.ones(n, bool), "progress": np.zeros(n), "group": np.zeros(n, int), "width": 1.0}
    sample = make_sample(np.full(n, 0.5), **known)
    for name, found in estimate(sample, select_metrics(sample), draw_counts(sample.groups, 20)).items():
        defined = {"auprc": 1, "usable_range": 0, "voc_undefined": 1} if n else {}
        if name in defined:
            assert found.value == defined[name]
        else:
            assert np.isnan(found.value).all(), name
            assert np.isnan(found.interval()).all()


def test_interval_is_of_the_percentiles_and_needs_nearly_all_replicates():
    replicates = np.tile(np.arange(1000.0)[:, None], (1, 4))
    few, many = int(MOST_UNDEFINED * 1000), int(MOST_UNDEFINED * 1000) + 1
    replicates[:few, 1] = np.nan
    replicates[:many, 2] = np.nan
    found = Estimate(np.array([500.0, 500.0, 500.0, np.nan]), replicates, "higher", "")
    low, high = found.interval()
    assert low[0] == pytest.approx(0.025 * 999)
    assert high[0] == pytest.approx(0.975 * 999)
    assert low[1] == pytest.approx(50 + 0.025 * 949)
    assert np.isnan(low[2:]).all()
    assert np.isnan(high[2:]).all()
    assert np.isnan(Estimate(np.zeros(1), np.empty((0, 1)), "higher", "").interval()).all()


def test_success_in_two_rollouts_of_twenty_is_too_little_for_an_interval():
    group = np.repeat(np.arange(20), 5)
    scores = np.random.default_rng(4).normal(size=100)
    found = measure(["auroc"], scores, draw_counts(20), group=group, success=group < 2)["auroc"]
    assert np.isfinite(found.value).all()
    assert np.isnan(found.interval()).all()


def test_metrics_are_chosen_by_what_is_known():
    sample = make_sample(np.arange(4.0), success=np.arange(4) > 1)
    names = [metric.name for metric in select_metrics(sample)]
    assert "auroc" in names
    assert not {"kendall_tau_b", "voc", "usable_range"} & set(names)
    assert [m.name for m in select_metrics(sample, ["auprc", "auroc"])] == ["auroc", "auprc"]
    with pytest.raises(ConfigError, match="there is no metric 'aurok': choose from epic_success"):
        select_metrics(sample, ["aurok"])
    with pytest.raises(ConfigError, match="voc_gap needs rollouts: give it, or leave the metric out"):
        select_metrics(sample, ["voc_gap"])
    with pytest.raises(ConfigError, match=r"counts must have shape \(B, 4\), got \(3, 5\)"):
        estimate(sample, select_metrics(sample), np.ones((3, 5), dtype=np.int64))


def test_prompt_margin_is_the_lead_over_the_mean_of_the_other_prompts():
    rng = np.random.default_rng(5)
    progress = rng.random(80)
    # columns: own prompts of two ways of scoring, then two other prompts of each; the second way ignores its prompt
    blind = progress + 0.5 * rng.normal(size=80)
    scores = np.stack([progress, blind, rng.normal(size=80), blind, -progress, blind], axis=1)
    found = measure(["spearman_progress", "epic_progress"], scores, progress=progress)
    rank = found["spearman_progress"]
    margin = prompt_margin(rank, [0, 1], [[2, 4], [3, 5]])
    assert margin.value[0] == pytest.approx(1 - (rank.value[2] - 1) / 2)
    assert margin.value[1] == pytest.approx(0, abs=1e-12)
    np.testing.assert_allclose(margin.replicates[:, 1], 0, atol=1e-12)  # draw by draw, not as two intervals
    epic = prompt_margin(found["epic_progress"], [0, 1], [[2, 4], [3, 5]])
    assert epic.value[0] == pytest.approx((found["epic_progress"].value[2] + 1) / 2)  # smaller is better: turned
    undefined = Estimate(np.array([1.0, np.nan]), np.ones((3, 2)), "higher", "constant")
    assert np.isnan(prompt_margin(undefined, [0], [[1]]).value).all()
    with pytest.raises(ConfigError, match="neither better high nor low"):
        prompt_margin(Estimate(np.ones(2), np.ones((3, 2)), "neither", ""), [0], [[1]])


@pytest.mark.parametrize(("own", "others"), [([0], [1]), ([0, 1], [[1]]), ([0], [[6]]), ([-1], [[1]]), ([0], [[]])])
def test_columns_that_do_not_fit_are_refused(own, others):
    with pytest.raises(ConfigError, match=r"own must have shape \(R,\) and others \(R, K\), columns of 2 sweeps"):
        prompt_margin(Estimate(np.ones(2), np.ones((3, 2)), "higher", ""), own, others)


def test_prompt_correlation_is_that_of_the_columns_over_shared_frames():
    rng = np.random.default_rng(6)
    scores = rng.normal(size=(50, 5)) + rng.normal(size=(50, 1))
    scores[3, 0] = scores[7, 2] = scores[9, 4] = np.nan
    scores[:, 3] = 0.3
    sample = make_sample(scores)
    found = prompt_correlation(sample, [0, 1], [[2, 4], [2, 3]], draw_counts(50, 300))

    def plain(a, b):
        kept = np.isfinite(scores[:, [a, b]]).all(axis=1)
        return np.corrcoef(scores[kept, a], scores[kept, b])[0, 1]

    assert found.value[0] == pytest.approx((plain(0, 2) + plain(0, 4)) / 2)
    assert np.isnan(found.value[1])  # a constant score is correlated with nothing
    low, high = found.interval()
    assert low[0] < found.value[0] < high[0]
