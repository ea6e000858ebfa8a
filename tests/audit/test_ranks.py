import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import rankdata

from vlmreward.audit import ranks
from vlmreward.audit.ranks import QUANTILES, centred_ranks, rank_statistics


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), top=st.sampled_from([1, 3, 1000]))
def test_centred_ranks_are_average_ranks_about_their_mean(seed, top):
    x = np.random.default_rng(seed).integers(0, top, (3, 17)).astype(float)
    np.testing.assert_array_equal(centred_ranks(x), 2 * rankdata(x, axis=1) - 18)


def statistics(scores, success, labels, counts):
    counts = np.asarray(counts, dtype=np.int32)
    return rank_statistics(scores, success, labels, lambda b: counts[b], len(counts))


# many values: few are mended; few values: all are
@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), top=st.sampled_from([2, 4, 10_000]))
def test_statistics_are_those_of_repeated_frames(seed, top):
    rng = np.random.default_rng(seed)
    n, sweeps = 30, 4
    scores = rng.integers(0, top, (n, sweeps)).astype(float)
    label, success = rng.integers(0, 5, n).astype(float), rng.random(n) < 0.4
    counts = rng.integers(0, 4, (3, n))
    got = statistics(scores, success, {"label": label}, counts)
    for b, count in enumerate(counts):
        rows = np.repeat(np.arange(n), count)
        x, y = scores[rows], label[rows]
        places, label_places = (2 * rankdata(v, axis=0) - len(rows) - 1 for v in (x, y))
        assert got.success_places is not None
        np.testing.assert_allclose(got.success_places[b], places[success[rows]].sum(axis=0), atol=1e-9)
        np.testing.assert_allclose(got.label_products["label"][b], label_places @ places, atol=1e-9)
        np.testing.assert_allclose(got.label_squares["label"][b], label_places @ label_places, atol=1e-9)
        np.testing.assert_allclose(got.squares[b], (places**2).sum(axis=0), atol=1e-9)
        np.testing.assert_allclose(got.ties[b], [(np.unique(c, return_counts=True)[1] ** 2).sum() for c in x.T])
        assert got.label_ties["label"][b] == (np.unique(y, return_counts=True)[1] ** 2).sum()
        np.testing.assert_allclose(got.quantiles[:, b], np.quantile(x, QUANTILES, axis=0), atol=1e-9)


def test_sweeps_are_cut_into_blocks_without_a_trace(monkeypatch):
    rng = np.random.default_rng(0)
    scores, success, label = rng.normal(size=(20, 7)).round(1), rng.random(20) < 0.5, rng.random(20)
    counts = rng.integers(0, 3, (4, 20))
    whole = statistics(scores, success, {"label": label}, counts)
    monkeypatch.setattr(ranks, "BLOCK", 45)  # two sweeps at a time, the last one alone
    cut = statistics(scores, success, {"label": label}, counts)
    for name in ("success_places", "average_precision", "squares", "ties", "quantiles"):
        np.testing.assert_array_equal(getattr(cut, name), getattr(whole, name))
    np.testing.assert_array_equal(cut.label_products["label"], whole.label_products["label"])


def test_empty_replicate_has_no_quantile_and_no_precision():
    got = statistics(np.ones((3, 2)), np.array([True, False, False]), {}, [[0, 0, 0], [0, 2, 1]])
    assert np.isnan(got.quantiles[:, 0]).all()
    assert got.average_precision is not None
    assert np.isnan(got.average_precision).all()  # no success frame in the second one either
    assert got.quantiles[:, 1].tolist() == [[1, 1], [1, 1]]


def test_without_success_labels_there_are_no_statistics_of_success():
    got = statistics(np.ones((3, 1)), None, {}, [[1, 1, 1]])
    assert got.success_places is None
    assert got.average_precision is None


@pytest.mark.parametrize("n", [50_000])
def test_sums_of_many_frames_do_not_overflow(n):
    """n^2 is beyond int32 from 46,341 frames on."""
    success = np.arange(n) >= n // 2
    got = statistics(np.arange(n, dtype=float)[:, None], success, {}, np.ones((1, n)))
    assert got.success_places is not None
    # the upper half has all of the lower half below it, and itself on both sides
    assert got.success_places[0, 0] == (n // 2) ** 2
    assert got.squares[0, 0] == (float(n) ** 3 - n) / 3
