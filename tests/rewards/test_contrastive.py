import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vlmreward.errors import ConfigError, PromptError
from vlmreward.rewards.contrastive import ContrastiveReward
from vlmreward.types import FrameBatch


def unit_rows(rng, n, dim):
    rows = rng.normal(size=(n, dim))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


@pytest.fixture(scope="module")
def with_texts(fake_encoder):
    """Return a function from positive and negative vectors to a reward on prompts that have these embeddings."""

    def build(positive, negative, **settings):
        positive, negative = np.atleast_2d(positive), np.atleast_2d(negative)
        texts = {f"p{i}": v for i, v in enumerate(positive)} | {f"n{i}": v for i, v in enumerate(negative)}
        encoder = fake_encoder(positive.shape[1], texts)
        return ContrastiveReward(
            encoder, [t for t in texts if t[0] == "p"], [t for t in texts if t[0] == "n"], **settings
        )

    return build


def naive_softmax(x, positive, negative, scale):
    """The probability as it is written down, in float64, no care taken for large exponents."""
    x, positive, negative = (np.asarray(a, dtype=np.float64) for a in (x, positive, negative))
    result = []
    for row in x:
        up = sum(np.exp(scale * (row @ t)) for t in positive)
        down = sum(np.exp(scale * (row @ t)) for t in negative)
        result.append(up / (up + down))
    return np.array(result)


@given(
    seed=st.integers(0, 2**32 - 1),
    dim=st.integers(2, 64),
    counts=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    scale=st.floats(0.01, 100),
)
def test_softmax_equals_the_naive_form(with_texts, seed, dim, counts, scale):
    rng = np.random.default_rng(seed)
    positive, negative, x = (unit_rows(rng, n, dim) for n in (*counts, 9))
    reward = with_texts(positive, negative, mode="softmax", logit_scale=scale).score_embeddings(x)
    assert reward.dtype == np.float32
    np.testing.assert_allclose(reward, naive_softmax(x, positive, negative, scale), rtol=0, atol=1e-5)


@given(seed=st.integers(0, 2**32 - 1), weights=st.tuples(st.floats(0.1, 3), st.floats(0, 3)))
def test_difference_equals_weighted_mean_cosines(with_texts, seed, weights):
    rng = np.random.default_rng(seed)
    positive, negative, x = (unit_rows(rng, n, 24) for n in (3, 2, 9))
    model = with_texts(positive, negative, positive_weight=weights[0], negative_weight=weights[1])
    wide = x.astype(np.float64)
    expected = weights[0] * (wide @ positive.T).mean(1) - weights[1] * (wide @ negative.T).mean(1)
    reward = model.score_embeddings(x)
    np.testing.assert_allclose(reward, expected, rtol=0, atol=1e-5)
    assert model.range[0] - 1e-5 <= reward.min()
    assert reward.max() <= model.range[1] + 1e-5


def test_difference_with_unit_weights_is_the_published_code_with_its_sign_turned(with_texts):
    rng = np.random.default_rng(0)
    positive, negative, x = (unit_rows(rng, n, 24) for n in (1, 1, 20))
    z = x @ negative[0] - x @ positive[0]
    np.testing.assert_allclose(with_texts(positive, negative).score_embeddings(x), -z, rtol=0, atol=1e-6)


def test_hand_numbers_in_two_dimensions(with_texts):
    x = np.array([[1, 0], [0, 1], [0.6, 0.8]], np.float32)
    difference = with_texts([1, 0], [0, 1], positive_weight=2.0, negative_weight=0.5)
    np.testing.assert_allclose(difference.score_embeddings(x), [2, -0.5, 0.8], atol=1e-6)
    softmax = with_texts([1, 0], [0, 1], mode="softmax", logit_scale=np.log(3) / 0.2)
    # logits differ by 0.6 - 0.8 = -0.2 times the scale, that is by -ln 3
    assert softmax.score_embeddings(x)[2] == pytest.approx(1 / (1 + 3), abs=1e-6)
    two = with_texts([1, 0], [[0, 1], [0, -1]], mode="softmax", logit_scale=1.0)
    assert two.score_embeddings(x)[0] == pytest.approx(np.e / (np.e + 1 + 1), abs=1e-6)


def test_declared_range_of_difference_is_reached(with_texts):
    model = with_texts([1, 0], [0, 1])
    x = np.array([[1, -1], [-1, 1]], np.float32) / np.sqrt(2).astype(np.float32)
    high, low = model.score_embeddings(x)
    assert model.range == pytest.approx((low, high), abs=1e-6)


def test_softmax_is_stable_at_any_scale(with_texts):
    x = np.array([[1, 0], [0, 1], [-1, 0]], np.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        reward = with_texts([[1, 0], [0.8, 0.6]], [0, 1], mode="softmax", logit_scale=1e6).score_embeddings(x)
    np.testing.assert_array_equal(reward, [1, 0, 0])


def test_parts_of_difference_sum_to_the_reward(with_texts):
    rng = np.random.default_rng(1)
    positive, negative, x = (unit_rows(rng, n, 24) for n in (2, 2, 20))
    model = with_texts(positive, negative, positive_weight=1.5, negative_weight=0.5)
    scored = model.compute_reward(FrameBatch(episode=np.zeros(20, np.int64), step=np.arange(20), embeddings=x))
    assert set(scored.parts) == {"positive", "negative"}
    np.testing.assert_allclose(scored.parts["positive"] + scored.parts["negative"], scored.reward, atol=1e-6)
    np.testing.assert_allclose(scored.parts["positive"], 1.5 * (x @ positive.T).mean(1), atol=1e-6)


def test_bad_rows_are_invalid(with_texts):
    x = np.array([[1, 0], [np.nan, 0], [0, 0]], np.float32)
    rows = FrameBatch(episode=np.zeros(3, np.int64), step=np.arange(3), embeddings=x)
    for mode in ("difference", "softmax"):
        scored = with_texts([1, 0], [0, 1], mode=mode).compute_reward(rows)
        assert scored.valid.tolist() == [True, False, False]
        assert np.isnan(scored.reward).tolist() == [False, True, True]
        assert set(scored.reasons) == {1, 2}


@pytest.mark.parametrize("mode", ["difference", "softmax"])
def test_missing_and_contradictory_prompts_are_rejected(fake_encoder, mode):
    with pytest.raises(PromptError, match="needs a negative prompt"):
        ContrastiveReward(fake_encoder(), "a", mode=mode)
    with pytest.raises(PromptError, match="'b' is both goal and baseline"):
        ContrastiveReward(fake_encoder(), ["a", "b"], ["b", "c"], mode=mode)
    with pytest.raises(PromptError, match="baseline must"):
        ContrastiveReward(fake_encoder(), "a", [], mode=mode)


def test_prompts_with_one_embedding_are_rejected(with_texts):
    with pytest.raises(PromptError, match="cancel out"):
        with_texts([[1, 0], [0, 1]], [[0, 1], [1, 0]])
    with pytest.raises(PromptError, match="'p1' and baseline 'n0' have the same embedding"):
        with_texts([[1, 0], [0, 1]], [[0, 1], [-1, 0]], mode="softmax")
    with pytest.raises(PromptError, match="cancel out"):
        with_texts([1, 0], [0, 1], positive_weight=0, negative_weight=0)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"mode": "ratio"}, "mode must be one of difference, softmax, got 'ratio'"),
        ({"positive_weight": -1}, "positive_weight must be a finite number >= 0, got -1"),
        ({"negative_weight": float("nan")}, "negative_weight must be a finite number >= 0, got nan"),
        ({"logit_scale": 0}, "logit_scale must be a finite number > 0, got 0"),
        ({"logit_scale": float("inf")}, "logit_scale must be a finite number > 0, got inf"),
    ],
)
def test_bad_settings_are_rejected(fake_encoder, setting, message):
    with pytest.raises(ConfigError, match=message):
        ContrastiveReward(fake_encoder(), "a", "b", **setting)
