import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vlmreward.errors import ConfigError, FramesError, PromptError
from vlmreward.rewards.clip import ClipReward
from vlmreward.types import FrameBatch

ALPHAS = [0.0, 0.1, 0.25, 0.5, 0.75, 0.9, 1.0]


def unit_rows(rng, n, dim, dtype=np.float32):
    rows = rng.normal(size=(n, dim))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(dtype)


def dense_reward(x, goals, baselines, alpha):
    """VLM-RM with its D x D projection, in float64; x (N, D), goals (G, D), baselines (B, D), all unit rows."""
    x, goals, baselines = (np.asarray(a, dtype=np.float64) for a in (x, goals, baselines))
    g, b = goals.mean(0), baselines.mean(0)
    d = g - b
    projection = alpha * np.outer(d, d) / (d @ d) + (1 - alpha) * np.eye(len(d))
    return 1 - 0.5 * (((x - g) @ projection) ** 2).sum(1)


def definition_1(x, g, b, alpha):
    """The paper's words: regularise x towards its projection on the line through b and g, then measure to g."""
    x, g, b = (np.asarray(a, dtype=np.float64) for a in (x, g, b))
    on_line = b + ((x - b) @ (g - b))[:, None] / ((g - b) @ (g - b)) * (g - b)
    return 1 - 0.5 * ((alpha * on_line + (1 - alpha) * x - g) ** 2).sum(1)


def batch(embeddings=None, **fields):
    n = len(embeddings) if embeddings is not None else len(fields["frames"])
    return FrameBatch(episode=np.zeros(n, np.int64), step=np.arange(n), embeddings=embeddings, **fields)


@pytest.fixture(scope="module")
def with_texts(fake_encoder):
    """Return a function from goal and baseline vectors to a reward on prompts that have these embeddings."""

    def build(goals, baselines, alpha):
        goals, baselines = np.atleast_2d(goals), np.atleast_2d(baselines)
        texts = {f"goal {i}": v for i, v in enumerate(goals)} | {f"baseline {i}": v for i, v in enumerate(baselines)}
        encoder = fake_encoder(goals.shape[1], texts)
        return ClipReward(
            encoder, [t for t in texts if t[0] == "g"], [t for t in texts if t[0] == "b"] or None, alpha=alpha
        )

    return build


cases = st.fixed_dictionaries(
    {
        "seed": st.integers(0, 2**32 - 1),
        "dim": st.integers(2, 96),
        "n_goals": st.integers(1, 4),
        "n_baselines": st.integers(1, 4),
        "alpha": st.sampled_from(ALPHAS) | st.floats(0, 1),
        "n": st.integers(1, 12),
    }
)


@given(case=cases)
def test_rank_one_form_equals_dense_projection(with_texts, case):
    rng = np.random.default_rng(case["seed"])
    goals, baselines, x = (unit_rows(rng, case[k], case["dim"]) for k in ("n_goals", "n_baselines", "n"))
    reward = with_texts(goals, baselines, case["alpha"]).score_embeddings(x)
    assert reward.dtype == np.float32
    np.testing.assert_allclose(reward, dense_reward(x, goals, baselines, case["alpha"]), rtol=0, atol=1e-5)


@given(seed=st.integers(0, 2**32 - 1), alpha=st.sampled_from(ALPHAS))
def test_near_goal_and_baseline_still_equal_dense_projection(with_texts, seed, alpha):
    # prompts of one scene are close together, and their difference is what everything hangs on
    rng = np.random.default_rng(seed)
    centre = unit_rows(rng, 1, 512)
    goals, baselines, x = (
        (v / np.linalg.norm(v, axis=1, keepdims=True)).astype(np.float32)
        for v in (centre + 1e-3 * rng.normal(size=(n, 512)) for n in (2, 3, 6))
    )
    reward = with_texts(goals, baselines, alpha).score_embeddings(x)
    np.testing.assert_allclose(reward, dense_reward(x, goals, baselines, alpha), rtol=0, atol=1e-5)


@pytest.mark.parametrize("alpha", ALPHAS)
def test_reward_equals_definition_1_of_the_paper(with_texts, alpha):
    rng = np.random.default_rng(1)
    g, b, x = (unit_rows(rng, n, 33) for n in (1, 1, 40))
    reward = with_texts(g, b, alpha).score_embeddings(x)
    np.testing.assert_allclose(reward, definition_1(x, g[0], b[0], alpha), rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("x", "alpha", "expected"),
    [
        ([1, 0], 0.0, 1.0),
        ([1, 0], 0.5, 1.0),
        ([1, 0], 1.0, 1.0),  # the goal itself, whatever alpha
        ([0, 1], 0.0, 0.0),
        ([0, 1], 0.5, 0.0),
        ([0, 1], 1.0, 0.0),  # the baseline: |x - g|^2 = u^2 = 2
        ([-1, 0], 0.0, -1.0),
        ([-1, 0], 0.5, -0.25),  # u^2 = 2, |x - g|^2 = 4, k = 1/4: 1 - (3/4 * 2 + 1/4 * 4) / 2
        ([-1, 0], 1.0, 0.0),
        ([0, -1], 1.0, 1.0),  # off the line, level with the goal
    ],
)
def test_hand_numbers_in_two_dimensions(with_texts, x, alpha, expected):
    reward = with_texts([1, 0], [0, 1], alpha).score_embeddings(np.array([x], np.float32))
    assert reward[0] == pytest.approx(expected, abs=1e-6)


def test_alpha_1_costs_overshoot_as_much_as_shortfall(with_texts):
    h = np.sqrt(3) / 2
    reward = with_texts([0.5, h], [-0.5, h], 1.0)  # direction (1, 0), goal at 1/2 along it
    short, at_goal, past = reward.score_embeddings(np.array([[0, 1], [0.5, h], [1, 0]], np.float32))
    assert at_goal == pytest.approx(1, abs=1e-6)
    assert short == pytest.approx(7 / 8, abs=1e-6)
    assert past == pytest.approx(7 / 8, abs=1e-6)


def test_alpha_0_with_one_prompt_is_the_cosine(fake_encoder):
    encoder = fake_encoder(dim=64)
    x = unit_rows(np.random.default_rng(2), 50, 64)
    cosine = x.astype(np.float64) @ encoder.encode_texts(["stand"])[0].astype(np.float64)
    np.testing.assert_allclose(ClipReward(encoder, "stand").score_embeddings(x), cosine, rtol=0, atol=1e-6)


def test_mean_of_prompts_is_not_made_a_unit_vector(with_texts):
    # g = (1/2, 1/2): x . g + (1 - |g|^2) / 2 = 1/2 + 1/4; a re-normalised mean would give 0.707
    reward = with_texts([[1, 0], [0, 1]], np.empty((0, 2)), 0.0)
    assert reward.score_embeddings(np.array([[1, 0]], np.float32))[0] == pytest.approx(0.75, abs=1e-6)


def test_embeddings_of_texts_are_made_unit_vectors(with_texts):
    x = unit_rows(np.random.default_rng(3), 5, 2)
    short = with_texts([0.5, 0], [0, 3], 0.5).score_embeddings(x)
    np.testing.assert_allclose(short, with_texts([1, 0], [0, 1], 0.5).score_embeddings(x), rtol=0, atol=1e-6)


@given(seed=st.integers(0, 2**32 - 1), alpha=st.floats(0, 1), n_goals=st.integers(1, 3))
def test_rewards_stay_in_declared_range(with_texts, seed, alpha, n_goals):
    rng = np.random.default_rng(seed)
    goals, baseline = unit_rows(rng, n_goals, 3), unit_rows(rng, 1, 3)
    model = with_texts(goals, baseline, alpha)
    mean = goals.mean(0) / np.linalg.norm(goals.mean(0))
    x = np.concatenate([unit_rows(rng, 200, 3), goals, baseline, -baseline, mean[None], -mean[None]])
    reward = model.score_embeddings(x)
    assert reward.min() >= model.range[0] - 1e-5
    assert reward.max() <= model.range[1] + 1e-5


def test_declared_range_is_reached_at_both_ends_of_alpha(with_texts):
    assert with_texts([1, 0], [0, 1], 0.0).range == pytest.approx((-1, 1))
    low, high = with_texts([1, 0], [0, 1], 1.0).range  # furthest along d = (1, -1): x = (-1, 1) / sqrt 2
    x = np.array([[-1, 1]], np.float32) / np.sqrt(2).astype(np.float32)
    assert low == pytest.approx(float(with_texts([1, 0], [0, 1], 1.0).score_embeddings(x)[0]), abs=1e-6)
    assert high == 1


def test_rows_do_not_depend_on_their_neighbours_to_the_last_bit(with_texts):
    rng = np.random.default_rng(4)
    goals, baselines, x = (unit_rows(rng, n, 512) for n in (2, 3, 65))
    model = with_texts(goals, baselines, 0.4)
    together = model.score_embeddings(x)
    np.testing.assert_array_equal(together, np.concatenate([model.score_embeddings(row[None]) for row in x]))
    order = rng.permutation(len(x))
    np.testing.assert_array_equal(together[order], model.score_embeddings(x[order]))
    np.testing.assert_array_equal(together, model.score_embeddings(np.asfortranarray(x)))


def test_float16_embeddings_are_scored_as_unit_vectors_in_float32(with_texts):
    rng = np.random.default_rng(5)
    goals, baselines, x = (unit_rows(rng, n, 512) for n in (1, 1, 100))
    model = with_texts(goals, baselines, 0.5)
    stored = x.astype(np.float16)
    wide = stored.astype(np.float64)
    expected = dense_reward(wide / np.linalg.norm(wide, axis=1, keepdims=True), goals, baselines, 0.5)
    reward = model.score_embeddings(stored)
    np.testing.assert_allclose(reward, expected, rtol=0, atol=1e-5)
    np.testing.assert_allclose(reward, model.score_embeddings(x), rtol=0, atol=1e-4)


@pytest.mark.parametrize("drift", [0.995, 1.005])
def test_drift_of_the_norm_does_not_move_the_reward(with_texts, drift):
    rng = np.random.default_rng(5)
    goals, baselines, x = (unit_rows(rng, n, 32) for n in (1, 1, 20))
    model = with_texts(goals, baselines, 0.5)
    np.testing.assert_allclose(model.score_embeddings(drift * x), model.score_embeddings(x), rtol=0, atol=1e-6)


def test_bad_rows_are_invalid_with_a_reason_and_leave_the_others_alone(with_texts):
    rng = np.random.default_rng(6)
    goals, baselines, x = (unit_rows(rng, n, 8) for n in (1, 1, 6))
    model = with_texts(goals, baselines, 0.5)
    good = model.compute_reward(batch(x))
    assert good.valid.all()
    assert not good.reasons
    broken = x.copy()
    broken[1, 3], broken[2, 0], broken[3], broken[4] = np.nan, -np.inf, 0, 2 * x[4]
    scored = model.compute_reward(batch(broken))
    assert scored.valid.tolist() == [True, False, False, False, False, True]
    assert np.isnan(scored.reward[1:5]).all()
    np.testing.assert_array_equal(scored.reward[[0, 5]], good.reward[[0, 5]])
    assert set(scored.reasons) == {1, 2, 3, 4}
    assert scored.reasons[1] == scored.reasons[2] == "embedding is not finite"
    assert scored.reasons[3] == "embedding has norm 0 instead of 1"
    assert scored.reasons[4] == "embedding has norm 2 instead of 1"


def test_frames_are_encoded_when_there_are_no_embeddings(fake_encoder):
    encoder = fake_encoder()
    model = ClipReward(encoder, "a", "b", alpha=0.5)
    frames = np.random.default_rng(7).integers(0, 256, (4, 5, 6, 3), dtype=np.uint8)
    from_frames = model.compute_reward(batch(frames=frames))
    assert encoder.image_calls == 1
    embeddings = encoder.encode_images(frames)
    np.testing.assert_array_equal(from_frames.reward, model.compute_reward(batch(embeddings)).reward)
    assert encoder.image_calls == 2


def test_texts_are_encoded_once_at_construction(fake_encoder):
    encoder = fake_encoder()
    model = ClipReward(encoder, ["a", "b"], ["c"], alpha=0.5)
    for _ in range(3):
        model.score_embeddings(unit_rows(np.random.default_rng(8), 2, 16))
    assert encoder.text_calls == 1


def test_no_square_matrix_is_ever_built(with_texts):
    dim = 20_000  # float32 D x D would take 1.6 GB
    rng = np.random.default_rng(9)
    goals, baselines, x = (unit_rows(rng, n, dim) for n in (2, 2, 4))
    tracemalloc.start()
    try:
        reward = with_texts(goals, baselines, 0.5).score_embeddings(x)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert np.isfinite(reward).all()
    assert peak < 8e6


@pytest.mark.parametrize("alpha", [-0.1, 1.1, float("nan"), float("inf"), "half", True])
def test_alpha_outside_unit_interval_is_rejected(fake_encoder, alpha):
    with pytest.raises(ConfigError, match=r"alpha must be a finite number in \[0, 1\], got"):
        ClipReward(fake_encoder(), "a", "b", alpha=alpha)


@pytest.mark.parametrize("prompts", ["", "  ", [], ["a", ""], [3], None, {"a": 1}])
def test_blank_goal_is_rejected(fake_encoder, prompts):
    with pytest.raises(PromptError, match="goal must"):
        ClipReward(fake_encoder(), prompts)


@pytest.mark.parametrize("alpha", [0.0, 0.5])
@pytest.mark.parametrize("prompts", ["", [], ["a", " "]])
def test_blank_baseline_is_rejected(fake_encoder, prompts, alpha):
    with pytest.raises(PromptError, match="baseline must"):
        ClipReward(fake_encoder(), "goal", prompts, alpha=alpha)


def test_missing_baseline_is_rejected_only_where_it_is_used(fake_encoder):
    with pytest.raises(PromptError, match=r"alpha=0.5 needs a baseline prompt"):
        ClipReward(fake_encoder(), "goal", alpha=0.5)
    x = unit_rows(np.random.default_rng(10), 3, 16)
    without = ClipReward(fake_encoder(), "goal").score_embeddings(x)
    np.testing.assert_array_equal(without, ClipReward(fake_encoder(), "goal", "scene").score_embeddings(x))


def test_equal_goal_and_baseline_are_rejected_where_the_baseline_is_used(fake_encoder):
    with pytest.raises(PromptError, match="have the same embedding"):
        ClipReward(fake_encoder(), "a", "a", alpha=0.5)
    with pytest.raises(PromptError, match="have the same embedding"):
        ClipReward(fake_encoder(), ["a", "b"], ["b", "a"], alpha=1.0)
    ClipReward(fake_encoder(), "a", "a", alpha=0.0)


def test_goal_and_baseline_apart_by_rounding_noise_are_rejected(fake_encoder):
    encoder = fake_encoder(2, {"a": [1, 0], "b": [1, 1e-6]})
    with pytest.raises(PromptError, match="have the same embedding"):
        ClipReward(encoder, "a", "b", alpha=0.5)


@pytest.mark.parametrize("vector", [[0, 0], [np.nan, 1], [np.inf, 0]])
def test_unusable_text_embedding_is_rejected(fake_encoder, vector):
    encoder = fake_encoder(2, {"bad": vector})
    with pytest.raises(PromptError, match="prompt 'bad' has no usable embedding"):
        ClipReward(encoder, ["bad", "good"])
    with pytest.raises(PromptError, match="prompt 'bad' has no usable embedding"):
        ClipReward(encoder, "good", "bad", alpha=0.5)


def test_embeddings_that_do_not_fit_are_rejected(fake_encoder):
    model = ClipReward(fake_encoder(16), "a")
    wrongs: list[np.ndarray] = [np.zeros((2, 15), np.float32), np.zeros(16, np.float32), np.zeros((2, 16), np.int64)]
    for wrong in wrongs:
        with pytest.raises(FramesError, match=r"embeddings must be float of shape \(N, 16\)"):
            model.score_embeddings(wrong)
    rows = FrameBatch(episode=np.zeros(3, np.int64), step=np.arange(3), embeddings=np.zeros((2, 16), np.float32))
    with pytest.raises(FramesError, match="3 rows but 2 pictures"):
        model.compute_reward(rows)
    with pytest.raises(FramesError, match="neither embeddings nor frames"):
        model.compute_reward(FrameBatch(episode=np.zeros(3, np.int64), step=np.arange(3)))


def test_no_rows_give_no_rewards(fake_encoder):
    scored = ClipReward(fake_encoder(), "a", "b", alpha=0.5).compute_reward(batch(np.empty((0, 16), np.float32)))
    assert scored.reward.shape == scored.valid.shape == (0,)
