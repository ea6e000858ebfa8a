"""Every metric against a second implementation on data that is really repeated, and against numbers by hand."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn.metrics import average_precision_score, roc_auc_score

from vlmreward.audit.metrics import (
    LABELLED,
    auprc,
    auroc,
    cohen_d,
    epic,
    gap_share,
    kendall_tau_b,
    pairwise_accuracy,
    pearson,
    span,
    spearman,
)


def brute_pairwise(x, progress, margin):
    wins = pairs = 0.0
    for i in range(len(x)):
        for j in range(len(x)):
            if progress[j] < progress[i] - margin:
                pairs += 1
                wins += 1.0 if x[i] > x[j] else 0.5 if x[i] == x[j] else 0.0
    return wins / pairs if pairs else np.nan


def brute_tau_b(x, y):
    dx, dy = (np.sign(v[:, None] - v) for v in (x, y))
    return (dx * dy).sum() / np.sqrt((dx != 0).sum() * (dy != 0).sum())


def plain_cohen_d(x, success):
    a, b = x[success], x[~success]
    pooled = ((len(a) - 1) * a.var(ddof=1) + (len(b) - 1) * b.var(ddof=1)) / (len(a) + len(b) - 2)
    return (a.mean() - b.mean()) / np.sqrt(pooled)


def correlation(test, x, y):
    """The first of what a test of scipy returns: its statistic."""
    return np.asarray(test(x, y)).item(0)


def plain_span(x):
    return np.subtract(*np.quantile(x, [0.95, 0.05]))


# metric, and the same of plain arrays by another implementation
REFERENCES = {
    "epic_success": lambda x, success, progress, m: np.sqrt((1 - correlation(stats.pearsonr, x, success)) / 2),
    "pearson_success": lambda x, success, progress, m: correlation(stats.pointbiserialr, success, x),
    "auroc": lambda x, success, progress, m: roc_auc_score(success, x),
    "auprc": lambda x, success, progress, m: average_precision_score(success, x),
    "cohen_d": lambda x, success, progress, m: plain_cohen_d(x, success),
    "gap_share": lambda x, success, progress, m: (x[success].mean() - x[~success].mean()) / plain_span(x),
    "epic_progress": lambda x, success, progress, m: np.sqrt((1 - correlation(stats.pearsonr, x, progress)) / 2),
    "pearson_progress": lambda x, success, progress, m: correlation(stats.pearsonr, x, progress),
    "spearman_progress": lambda x, success, progress, m: correlation(stats.spearmanr, x, progress),
    "pairwise_accuracy": lambda x, success, progress, m: brute_pairwise(x, progress, m),
    "kendall_tau_b": lambda x, success, progress, m: correlation(stats.kendalltau, x, progress),
}
BY_NAME = {metric.name: metric for metric in LABELLED}


def test_every_metric_has_a_reference():
    assert REFERENCES.keys() == BY_NAME.keys()


@pytest.mark.parametrize("name", REFERENCES)
@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), digits=st.sampled_from([0, 1, 6]), grouped=st.booleans())
def test_weighted_metric_equals_another_implementation_on_repeated_frames(replicates, name, seed, digits, grouped):
    rng = np.random.default_rng(seed)
    n, sweeps, margin = 40, 3, 0.15
    progress = rng.random(n).round(max(digits, 1))
    scores = (progress[:, None] * [0.0, 1.0, 3.0] + rng.normal(size=(n, sweeps))).round(digits)
    success = progress > 0.6
    group = rng.integers(0, 15, n) if grouped else np.arange(n)
    group = np.unique(group, return_inverse=True)[1]
    counts = np.vstack([np.ones(group.max() + 1, dtype=np.int64), rng.integers(0, 4, (3, group.max() + 1))])
    known = {"success": success, "progress": progress, "group": group, "margin": margin}
    got = replicates(BY_NAME[name].function, counts, scores, **known)
    assert got.shape == (4, sweeps)
    for b, count in enumerate(counts):
        rows = np.repeat(np.arange(n), count[group])
        if len({*success[rows]}) < 2 or np.ptp(progress[rows]) == 0:
            continue
        for s in range(sweeps):
            x = scores[rows, s]
            if np.ptp(x) == 0 or (name == "gap_share" and plain_span(x) == 0):
                assert np.isnan(got[b, s]) or name in {"auroc", "auprc", "pairwise_accuracy"}
                continue
            expected = REFERENCES[name](x, success[rows], progress[rows], margin)
            assert got[b, s] == pytest.approx(expected, abs=1e-9, nan_ok=True), (b, s)


def test_references_of_tau_b_agree_with_each_other():
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 5, (2, 60)).astype(float)
    assert brute_tau_b(x, y) == pytest.approx(correlation(stats.kendalltau, x, y), abs=1e-12)


def test_hand_numbers(value):
    scores = np.array([1.0, 2.0, 2.0, 3.0])
    success = np.array([False, False, True, True])
    assert value(auroc, scores, success=success) == pytest.approx(3.5 / 4)  # 4 pairs, one of them a tie
    # thresholds 3, 2, 1: precision 1, 2/3, 1/2; recall gains 1/2, 1/2, 0
    assert value(auprc, scores, success=success) == pytest.approx(1 / 2 + 1 / 3)
    # means 1.5 and 2.5, both variances 1/2
    assert value(cohen_d, scores, success=success) == pytest.approx(1 / np.sqrt(0.5))
    # quantiles at places 0.15 and 2.85 of 0..3
    assert value(span, scores, success=success) == pytest.approx(2.85 - 1.15)
    assert value(gap_share, scores, success=success) == pytest.approx(1 / 1.7)
    # deviations -1 0 0 1 and -.5 -.5 .5 .5
    assert value(pearson, scores, "success", success=success) == pytest.approx(1 / np.sqrt(2 * 1))
    assert value(epic, scores, "success", success=success) == pytest.approx(np.sqrt((1 - np.sqrt(0.5)) / 2))
    progress = np.array([0.0, 1.0, 3.0, 2.0])
    # pairs: 3 with the first right; (2, 3) tied; (2, 4) right; (3, 4) wrong
    assert value(pairwise_accuracy, scores, progress=progress) == pytest.approx((4 + 0.5) / 6)
    assert value(kendall_tau_b, scores, progress=progress) == pytest.approx((4 - 1) / np.sqrt(6 * 5))
    # a margin of 1 leaves pairs (3, 1), (4, 1), (3, 2): right, right, tied
    assert value(pairwise_accuracy, scores, progress=progress, margin=1.0) == pytest.approx(2.5 / 3)
    # ranks 1 2.5 2.5 4 and 1 2 4 3: deviations -1.5 0 0 1.5 and -1.5 -.5 1.5 .5
    assert value(spearman, scores, "progress", progress=progress) == pytest.approx((2.25 + 0.75) / np.sqrt(4.5 * 5))


def test_average_precision_does_not_depend_on_the_order_of_tied_frames(value):
    rng = np.random.default_rng(1)
    scores, success = rng.integers(0, 4, 50).astype(float), rng.random(50) < 0.3
    for _ in range(5):
        order = rng.permutation(50)
        assert value(auprc, scores[order], success=success[order]) == pytest.approx(
            value(auprc, scores, success=success), abs=1e-12
        )


def test_epic_is_the_distance_of_canonically_shaped_rewards_in_a_finite_world(value):
    """All of EPIC worked out: canonicalise R(s, a, s') over states and actions, then correlate over all transitions."""
    rng = np.random.default_rng(2)
    states, actions, g = 7, 3, 0.9
    p_state, p_action = np.full(states, 1 / states), np.full(actions, 1 / actions)

    def canonical(reward):  # (S, A, S')
        mean_from = np.einsum("sat,a,t->s", reward, p_action, p_state)  # E R(s, A, S') for each s
        return reward + g * mean_from[None, None, :] - mean_from[:, None, None] - g * (p_state @ mean_from)

    def distance(a, b):
        rho = np.corrcoef(canonical(a).ravel(), canonical(b).ravel())[0, 1]
        return np.sqrt((1 - rho) / 2)

    scores, labels = rng.normal(size=(2, states))
    of_next, of_this = (
        [np.broadcast_to(r[index], (states, actions, states)) for r in (scores, labels)]
        for index in ((None, None, slice(None)), (slice(None), None, None))
    )
    got = value(epic, scores, "progress", progress=labels)
    assert got == pytest.approx(distance(*of_next), abs=1e-12)
    assert got == pytest.approx(distance(*of_this), abs=1e-12)
    assert got == pytest.approx(distance(of_next[0], of_this[1]), abs=1e-12)


def test_constant_scores_are_chance_where_ties_count_half_and_undefined_elsewhere(value):
    rng = np.random.default_rng(3)
    progress = rng.random(30)
    known = {"success": progress > 0.7, "progress": progress}
    got = {m.name: value(m.function, np.full(30, 0.1 + 0.2), **known)[0] for m in LABELLED}
    assert got.pop("auroc") == 0.5
    assert got.pop("pairwise_accuracy") == 0.5
    assert got.pop("auprc") == pytest.approx(known["success"].mean())
    assert np.isnan(list(got.values())).all(), got


def test_constant_labels_leave_metrics_undefined(value):
    scores = np.arange(10.0)
    for success in (np.zeros(10, bool), np.ones(10, bool)):
        known = {"success": success, "progress": np.full(10, 0.3)}
        got = {m.name: value(m.function, scores, **known)[0] for m in LABELLED}
        precision = got.pop("auprc")
        assert precision == 1 if success.all() else np.isnan(precision)
        assert np.isnan(list(got.values())).all(), got


def test_replicate_without_frames_or_with_one_frame_is_undefined(replicates):
    known = {"success": np.array([True, False, True]), "progress": np.array([0.2, 0.1, 0.9])}
    for metric in LABELLED:
        got = replicates(metric.function, [[0, 0, 0], [0, 1, 0]], np.array([1.0, 2.0, 3.0]), **known)
        assert np.isnan(got).all(), metric.name


def test_replicate_of_equal_scores_is_not_taken_for_varied(replicates):
    """Its sums about the mean of the whole sample leave rounding, which must not become a correlation."""
    rng = np.random.default_rng(6)
    scores = np.stack([np.where(np.arange(60) < 30, value, rng.random(60)) for value in (0.1, 1e3 / 3, 1e-5)], axis=1)
    known = {"progress": rng.random(60), "success": np.arange(60) % 2 == 0}
    counts = rng.integers(0, 5, (20, 60)) * (np.arange(60) < 30)
    for name in ("pearson_progress", "pearson_success", "spearman_progress", "cohen_d", "kendall_tau_b", "gap_share"):
        assert np.isnan(replicates(BY_NAME[name].function, counts, scores, **known)).all(), name


RANK_METRICS = ("auroc", "auprc", "spearman_progress", "pairwise_accuracy", "kendall_tau_b")
MONOTONE = {"cube": lambda x: x**3, "exp": np.exp, "tanh": lambda x: np.tanh(x / 10), "stretch": lambda x: 5 * x - 2}


@pytest.mark.parametrize("stretch", MONOTONE)
@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_rank_metrics_do_not_see_an_increasing_map(value, stretch, seed):
    rng = np.random.default_rng(seed)
    scores, progress = rng.normal(size=(60, 2)).round(1), rng.random(60)
    known = {"success": progress > 0.5, "progress": progress}
    for name in RANK_METRICS:
        before, after = (value(BY_NAME[name].function, x, **known) for x in (scores, MONOTONE[stretch](scores)))
        np.testing.assert_allclose(after, before, atol=1e-12, err_msg=name)


@settings(max_examples=50, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    factor=st.floats(1e-3, 1e3),
    shift=st.floats(-1e3, 1e3),
    name=st.sampled_from([m.name for m in LABELLED]),
)
def test_no_metric_sees_a_positive_factor_or_a_shift(value, seed, factor, shift, name):
    rng = np.random.default_rng(seed)
    scores, progress = rng.normal(size=50), rng.random(50)
    known = {"success": progress > 0.5, "progress": progress}
    before, after = (value(BY_NAME[name].function, x, **known) for x in (scores, factor * scores + shift))
    np.testing.assert_allclose(after, before, atol=1e-6)


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_opposite_score_has_the_opposite_metric(value, seed):
    rng = np.random.default_rng(seed)
    scores, progress = rng.normal(size=50).round(1), rng.random(50)
    known = {"success": progress > 0.4, "progress": progress}
    there, back = ({m.name: value(m.function, x, **known)[0] for m in LABELLED} for x in (scores, -scores))
    for name in ("auroc", "pairwise_accuracy"):
        assert there[name] + back[name] == pytest.approx(1)
    for name in ("pearson_success", "pearson_progress", "spearman_progress", "kendall_tau_b", "cohen_d", "gap_share"):
        assert there[name] + back[name] == pytest.approx(0, abs=1e-9)
    for name in ("epic_success", "epic_progress"):
        assert there[name] ** 2 + back[name] ** 2 == pytest.approx(1)


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_correlations_are_symmetric_in_score_and_progress(value, seed):
    rng = np.random.default_rng(seed)
    x, y = rng.normal(size=(2, 40)).round(1)
    for name in ("epic_progress", "pearson_progress", "spearman_progress", "kendall_tau_b"):
        function = BY_NAME[name].function
        np.testing.assert_allclose(value(function, x, progress=y), value(function, y, progress=x), atol=1e-12)


def test_pairwise_accuracy_on_binary_progress_is_auroc(value):
    rng = np.random.default_rng(4)
    scores, success = rng.normal(size=(80, 3)).round(1), rng.random(80) < 0.3
    np.testing.assert_allclose(
        value(pairwise_accuracy, scores, progress=success.astype(float)), value(auroc, scores, success=success)
    )
