"""Against SciPy, scikit-learn, hand numbers, and the traps that published code fell into."""

import numpy as np
import pytest
import scipy.stats
from sklearn.metrics import brier_score_loss, roc_auc_score

from vlmreward.audit import progress_metrics as pm


@pytest.fixture
def tied():
    rng = np.random.default_rng(0)
    return rng.integers(0, 6, 40).astype(float), rng.integers(0, 6, 40).astype(float)


def test_ranks_and_correlations_are_scipys(tied):
    x, y = tied
    assert pm.average_ranks(x) == pytest.approx(scipy.stats.rankdata(x))
    assert pm.spearman(x, y) == pytest.approx(scipy.stats.spearmanr(x, y)[0])


def test_rows_without_a_value_are_left_out(tied):
    x, y = tied
    x[3], y[5] = np.nan, np.nan
    kept = np.isfinite(x) & np.isfinite(y)
    assert pm.spearman(x, y) == pytest.approx(scipy.stats.spearmanr(x[kept], y[kept])[0])


def test_a_constant_predictor_has_no_order():
    """Ranks by argsort would give it 1."""
    for values in (np.full(9, 0.5), np.array([0.5]), np.full(5, np.nan), np.array([])):
        assert np.isnan(pm.voc(values))
        assert np.isnan(pm.spearman(values, np.arange(float(len(values)))))


def test_order_along_time():
    rising = np.linspace(0, 1, 9)
    assert pm.voc(rising) == 1
    assert pm.voc(rising[::-1]) == -1
    assert pm.vroc(rising[::-1]) == 1  # shown backwards, and rightly seen to fall
    assert pm.vroc(rising) == -1  # rises whatever it is shown


def test_harmonic_mean_of_both_directions():
    assert pm.voc_f1(0.8, 0.4) == pytest.approx(2 * 0.32 / 1.2)
    assert pm.voc_f1(1.0, -1.0) == 0
    assert pm.voc_f1(-0.5, -0.5) == 0
    assert np.isnan(pm.voc_f1(np.nan, 1.0))


def test_signs_and_ties():
    deltas = np.array([0.2, -0.1, 0.0, 0.3, np.nan, 0.1])
    truth = np.array([0.1, 0.1, 0.1, -0.2, 0.5, 0.001])
    assert pm.negative_rate(deltas) == pytest.approx(1 / 5)
    right, none = pm.sign_accuracy(deltas, truth, margin=0.05)
    assert right == pytest.approx(1 / 3)
    assert none == pytest.approx(1 / 4)
    assert all(np.isnan(pm.sign_accuracy(deltas, truth, margin=2)))
    assert np.isnan(pm.negative_rate(np.array([np.nan])))


def test_position_bias():
    assert pm.antisymmetry(np.array([0.5, -0.2]), np.array([-0.5, 0.2])) == 0
    assert pm.antisymmetry(np.array([0.5, -0.2, np.nan]), np.array([0.1, 0.2, 0])) == pytest.approx(0.3)


@pytest.mark.parametrize(
    ("progress", "kind"),
    [
        (np.linspace(0, 1, 10), "success"),
        ([0.9, 0.9, 0.9, 0.3, 0.3, 0.9], "partial"),  # the last third is .6, not above
        ([0.9, 0.9, 0.9, 0.3, 0.35, 0.9], "success"),
        ([0.5] * 6, "partial"),
        ([0.3] * 6, "failure"),
        ([0.0] * 11 + [1.0], "failure"),  # the last frame alone does not make a success
        ([np.nan, 0.9, np.nan], "success"),
    ],
)
def test_outcome_classes(progress, kind):
    assert pm.outcome(np.array(progress)) == kind


def test_an_episode_without_an_estimate_has_no_outcome():
    assert pm.outcome(np.full(4, np.nan)) is None


def test_probabilities_are_scikit_learns():
    rng = np.random.default_rng(1)
    p, marks = rng.random(200).round(1), rng.random(200) < 0.4
    assert pm.auroc(p, marks) == pytest.approx(roc_auc_score(marks, p))
    assert pm.brier(p, marks) == pytest.approx(brier_score_loss(marks, p))
    assert np.isnan(pm.auroc(p, np.ones(200, bool)))
    assert np.isnan(pm.brier(p[:0], marks[:0]))


def test_calibration_by_hand():
    # bins [0, .5), [.5, 1]: (.2 + .4) / 2 against 1/2; (.5 + 1.) / 2 against 1
    error = pm.calibration_error(np.array([0.2, 0.4, 0.5, 1.0]), np.array([True, False, True, True]), bins=2)
    assert error == pytest.approx(0.5 * 0.2 + 0.5 * 0.25)
    assert pm.calibration_error(np.array([0.0, 1.0]), np.array([False, True])) == 0


def test_a_model_that_does_not_read_has_no_gap():
    assert pm.confusion_gap(np.tile([0.1, 0.5, 0.9], (3, 1))) == pytest.approx(0)
    assert pm.confusion_gap(np.eye(3)) == 1
    assert pm.confusion_gap(np.array([[0.8, 0.1], [np.nan, 0.6]])) == pytest.approx(0.6)


def test_paraphrases():
    assert pm.paraphrase_spread(np.array([[0.2, 0.5], [0.4, 0.5]])) == pytest.approx(0.05)
