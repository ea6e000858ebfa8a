import numpy as np

from vlmreward.audit.baselines import constant, random, time_index
from vlmreward.audit.bootstrap import draw_counts, estimate, select_metrics
from vlmreward.audit.sample import make_sample


def test_baselines_are_measured_like_any_sweep():
    group, step = np.repeat(np.arange(40), 25), np.tile(np.arange(25), 40)
    success = (step >= 20) & (group % 2 == 0)
    scores = np.stack([time_index(step), constant(1000), random(1000)], axis=1)
    sample = make_sample(scores, success=success, group=group, step=step)
    found = estimate(sample, select_metrics(sample), draw_counts(40, 300))
    auroc, voc, gap = (found[name] for name in ("auroc", "voc", "voc_gap"))
    # above all 20 early frames of each rollout, tied with as many late ones of failures as it has itself
    assert auroc.value[0] == (800 + 0.5 * 100) / 900
    assert auroc.value[1] == 0.5
    assert voc.value[0] == 1
    assert np.isnan(voc.value[1])
    for metric, chance in ((auroc, 0.5), (voc, 0.0), (gap, 0.0)):
        low, high = metric.interval()
        assert low[2] < chance < high[2]
    assert gap.value[0] == 0


def test_random_scores_repeat_with_their_seed():
    np.testing.assert_array_equal(random(5, seed=1), random(5, seed=1))
    assert (random(5, seed=1) != random(5, seed=2)).any()
