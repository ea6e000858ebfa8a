import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vlmreward.audit import pairs
from vlmreward.audit.pairs import agreement, draw_pairs, make_ladder, tally_places


def brute(scores, label, margin, weights=None):
    """(C - D) / pairs over all pairs of frames, each pair as often as its frames stand together."""
    w = np.ones(len(label)) if weights is None else weights
    further = (label[None, :] < label[:, None] - margin) * w[:, None] * w
    signs = np.sign(scores[:, None, :] - scores[None, :, :])
    total = further.sum()
    return np.einsum("ij,ijs->s", further, signs) / total if total else np.full(scores.shape[1], np.nan)


def of_sample(scores, label, margin):
    """The agreement of the sample itself, shape (S,)."""
    n = len(label)
    return agreement(scores, make_ladder(label, margin), np.arange(n), np.ones((1, n), dtype=np.int64))[0]


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    n=st.integers(1, 40),
    top=st.sampled_from([1, 2, 5, 1000]),
    margin=st.sampled_from([0.0, 0.2, 0.5]),
)
def test_counting_equals_looking_at_every_pair(seed, n, top, margin):
    rng = np.random.default_rng(seed)
    scores, label = rng.integers(0, top, (n, 3)).astype(float), rng.integers(0, 8, n) / 8
    ladder = make_ladder(label, margin)
    further = (label[None, :] < label[:, None] - margin)[:, :, None]
    signs = np.sign(scores[:, None, :] - scores[None, :, :]) * further
    assert ladder.pairs == further.sum()
    tallies = tally_places(scores, ladder)
    np.testing.assert_array_equal(tallies, (signs.sum(axis=1) + signs.sum(axis=0))[ladder.order])
    np.testing.assert_array_equal(
        ladder.reach + ladder.followers, (further.sum(axis=(1, 2)) + further.sum(axis=(0, 2)))[ladder.order]
    )


def test_counting_is_cut_into_blocks_of_sweeps_without_a_trace(monkeypatch):
    rng = np.random.default_rng(0)
    scores, ladder = rng.normal(size=(50, 7)), make_ladder(rng.random(50), 0.1)
    whole = tally_places(scores, ladder)
    monkeypatch.setattr(pairs, "COUNTS_AT_A_TIME", 120)
    np.testing.assert_array_equal(tally_places(scores, ladder), whole)


def test_all_pairs_are_drawn_once_where_they_are_few():
    label = np.array([0.3, 0.1, 0.2, 0.2])
    high, low = draw_pairs(make_ladder(label, 0.0), 100)
    assert sorted(zip(high.tolist(), low.tolist(), strict=True)) == [(0, 1), (0, 2), (0, 3), (2, 1), (3, 1)]


def test_drawn_pairs_are_pairs_and_spread_evenly():
    rng = np.random.default_rng(1)
    label = rng.random(60)
    ladder = make_ladder(label, 0.3)
    high, low = draw_pairs(ladder, ladder.pairs - 1)
    assert (label[high] - label[low] > 0.3).all()
    high, low = draw_pairs(ladder, 500)
    assert len(high) == 500
    counts = np.bincount(high, minlength=60)[ladder.order]
    expected = 500 * ladder.reach / ladder.pairs
    # chi-squared over the frames that can be the further one: mean 1 per degree of freedom
    kept = expected > 0
    assert ((counts - expected)[kept] ** 2 / expected[kept]).sum() < 2 * kept.sum()


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), margin=st.sampled_from([0.0, 0.3]))
def test_replicates_of_few_frames_are_exact(seed, margin):
    rng = np.random.default_rng(seed)
    n, groups = 30, 9
    scores, label = rng.integers(0, 6, (n, 3)).astype(float), rng.random(n).round(1)
    group, counts = rng.integers(0, groups, n), rng.integers(0, 4, (5, groups))
    got = agreement(scores, make_ladder(label, margin), group, counts)
    for b, count in enumerate(counts):
        np.testing.assert_allclose(got[b], brute(scores, label, margin, count[group]), atol=1e-12)


def test_replicates_from_drawn_pairs_are_near_and_centred_on_the_exact_value(monkeypatch):
    monkeypatch.setattr(pairs, "MOST_PAIRS", 20_000)
    rng = np.random.default_rng(2)
    n = 400
    label = rng.random(n)
    scores = label[:, None] * [0.0, 1.0, 5.0] + rng.normal(size=(n, 3))
    counts = np.vstack([np.ones(n, dtype=np.int64), rng.multinomial(n, np.full(n, 1 / n), size=40)])
    ladder = make_ladder(label, 0.0)
    assert ladder.pairs > 3 * 20_000
    got = agreement(scores, ladder, np.arange(n), counts)
    exact = np.stack([brute(scores, label, 0.0, count) for count in counts])
    assert np.abs(got - exact).max() < 4.5 / np.sqrt(20_000)
    np.testing.assert_allclose(got[0], exact[0], atol=1e-12)
    # what the draw adds to the spread is small beside the spread itself
    np.testing.assert_allclose((got - got[0])[1:].std(axis=0), (exact - exact[0])[1:].std(axis=0), rtol=0.1)


def test_perfect_order_stays_perfect_when_pairs_are_drawn():
    n = 1500
    assert n * (n - 1) / 2 > pairs.MOST_PAIRS
    label = np.arange(n, dtype=float)
    counts = np.random.default_rng(3).multinomial(n, np.full(n, 1 / n), size=5)
    got = agreement(np.stack([label, -label], axis=1), make_ladder(label, 0.0), np.arange(n), counts)
    assert (got == [1, -1]).all()


def test_no_pair_is_undefined():
    ladder = make_ladder(np.zeros(4), 0.0)
    got = agreement(np.arange(4.0)[:, None], ladder, np.arange(4), np.ones((2, 4), dtype=np.int64))
    assert np.isnan(got).all()


@pytest.mark.parametrize("n", [3000])
def test_agreement_of_many_frames_equals_scipy(n):
    from scipy.stats import kendalltau

    rng = np.random.default_rng(4)
    label = rng.random(n)
    scores = label + rng.normal(size=n)
    assert of_sample(scores[:, None], label, 0.0)[0] == pytest.approx(
        np.asarray(kendalltau(scores, label)).item(0), abs=1e-12
    )
