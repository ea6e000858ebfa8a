import numpy as np
import pytest
from scipy.stats import spearmanr

from vlmreward.audit.rollouts import ROLLOUT, spearman_within, voc, voc_gap, voc_undefined


def rollouts(rng, sizes):
    group = np.repeat(np.arange(len(sizes)), sizes)
    return group, np.concatenate([np.arange(size) for size in sizes])


def test_voc_is_the_mean_spearman_of_score_and_time_whatever_the_order_of_rows(replicates):
    rng = np.random.default_rng(0)
    group, step = rollouts(rng, [5, 9, 2, 20])
    scores = rng.normal(size=(len(group), 3)).round(1)
    each = np.array([[spearmanr(s[group == g], step[group == g])[0] for s in scores.T] for g in range(4)])
    order = rng.permutation(len(group))
    counts = [[1, 1, 1, 1], [2, 0, 0, 1]]
    got = replicates(voc, counts, scores[order], group=group[order], step=step[order])
    assert not np.isnan(each).any()
    np.testing.assert_allclose(got, [each.mean(axis=0), (2 * each[0] + each[3]) / 3], atol=1e-12)


def test_constant_score_has_no_voc_and_is_counted(value):
    """A literal argsort would give it a perfect one."""
    group, step = rollouts(None, [4, 4, 1])
    rising = np.array([0, 1, 2, 3, 5, 5, 5, 5, 7.0])
    known = {"group": group, "step": step}
    assert value(voc, rising, **known) == 1  # the first rollout alone
    assert value(voc_undefined, rising, **known) == pytest.approx(2 / 3)
    assert np.isnan(value(voc, np.ones(9), **known))
    assert value(voc_undefined, np.ones(9), **known) == 1


def test_time_index_is_perfect_and_does_not_tell_failure_from_success(value):
    rng = np.random.default_rng(1)
    group, step = rollouts(rng, [10] * 8)
    success = (group < 4) & (step == 9)
    known = {"group": group, "step": step, "success": success}
    assert value(voc, step.astype(float), **known) == 1
    assert value(voc_gap, step.astype(float), **known) == 0
    knows = np.where(group < 4, step, -step).astype(float)
    assert value(voc_gap, knows, **known) == 2


def test_spearman_within_is_the_mean_over_rollouts_and_leaves_constant_ones_out(value, replicates):
    rng = np.random.default_rng(2)
    group, step = rollouts(rng, [6, 9, 5])
    scores, progress = rng.normal(size=(len(group), 2)), rng.normal(size=len(group))
    progress[group == 2] = 0.5  # nothing happens in it
    each = np.array([[spearmanr(s[group == g], progress[group == g])[0] for s in scores.T] for g in range(2)])
    known = {"group": group, "step": step, "progress": progress}
    got = replicates(spearman_within, [[1, 1, 1], [1, 2, 0]], scores, "progress", **known)
    np.testing.assert_allclose(got, [each.mean(axis=0), (each[0] + 2 * each[1]) / 3], atol=1e-12)
    assert np.isnan(value(spearman_within, np.ones(len(group)), "progress", **known))


def test_levels_of_rollouts_do_not_count_within_them(value):
    """A score that tells rollouts apart, and nothing within them, has a high Spearman over all frames."""
    group, step = rollouts(None, [10] * 5)
    progress = group + step / 100
    known = {"group": group, "step": step, "progress": progress}
    assert value(spearman_within, group - step / 100, "progress", **known) == -1
    assert value(spearman_within, -10 * group + step, "progress", **known) == 1


def test_gap_needs_both_kinds_of_rollouts(value, replicates):
    group, step = rollouts(None, [3, 3])
    scores = np.array([1, 2, 3, 3, 2, 1.0])
    assert np.isnan(value(voc_gap, scores, group=group, step=step, success=np.zeros(6, bool)))
    reached = (group == 0) & (step == 2)
    assert replicates(voc_gap, [[1, 1], [2, 0]], scores, group=group, success=reached)[0, 0] == 2
    assert np.isnan(replicates(voc_gap, [[1, 1], [2, 0]], scores, group=group, success=reached)[1, 0])


def test_success_before_the_end_is_not_success_of_the_rollout(value):
    group, step = rollouts(None, [3, 3])
    success = np.array([False, True, False, False, False, True])
    scores = np.array([3, 2, 1, 1, 2, 3.0])
    assert value(voc_gap, scores, group=group, step=step, success=success) == 2


def test_names_are_their_own():
    assert len({metric.name for metric in ROLLOUT}) == len(ROLLOUT)
