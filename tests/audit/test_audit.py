"""The engine on frames whose best reward is known: what wins, what fails, and that controls tell."""

import numpy as np
import pytest

from vlmreward.audit.audit import SCORE, Variant, audit_view
from vlmreward.audit.gallery import build_gallery, check_scores_frames
from vlmreward.audit.report import render_page, strips, to_json
from vlmreward.audit.survey import Block
from vlmreward.audit.verdict import judge
from vlmreward.errors import ConfigError
from vlmreward.testing.fakes import BrightnessReward, LinearReward, ProjectionEncoder
from vlmreward.types import Context, RewardBatch

N = 240


class Column:
    """An encoder whose embedding holds the picture's first pixel as an angle."""

    id, image_size, dim, licence = "column", 8, 2, "MIT"

    def encode_images(self, frames):
        angle = frames[:, 0, 0, 0].astype(np.float32) / 255
        return np.stack([np.cos(angle), np.sin(angle)], axis=1)

    def encode_texts(self, texts):
        raise AssertionError


class Rises:
    """Rises with the angle, falls with it, or draws at random."""

    context: Context = "frame"
    causal, range, needs = True, (-1.0, 1.0), ("embeddings",)

    def __init__(self, sign):
        self.sign = sign

    def compute_reward(self, batch):
        reward = self.sign * batch.embeddings[:, 1]
        if self.sign == 0:
            reward = np.random.default_rng(5).random(len(batch)).astype(np.float32)
        return RewardBatch(reward.astype(np.float32), np.ones(len(batch), bool))


def blocks(labels=True):
    rng = np.random.default_rng(0)
    value = rng.integers(0, 256, N)
    frames = rng.integers(0, 256, (N, 8, 8, 3)).astype(np.uint8)
    frames[:, 0, 0, 0] = value
    success, progress = value > 220, value / 255
    for half in (slice(0, N // 2), slice(N // 2, N)):
        known = (success[half], progress[half]) if labels else (None, None)
        yield Block(frames[half], "states", np.arange(N)[half], np.zeros(N, np.int64)[half], *known)


def variants(*signs, mismatched=()):
    models = {str(i): Rises(s) for i, s in enumerate(mismatched)}
    return [Variant(f"sign {s}", {"sign": s}, "column", Rises(s), models) for s in signs]


@pytest.fixture(scope="module")
def view():
    return audit_view(
        build_gallery(blocks(), {"column": Column()}), variants(0, 1, -1, mismatched=(-1, 0)), replicates=100
    )


def test_right_wrong_and_random_rewards_are_told_apart(view):
    score = view.table.columns[SCORE].value
    assert view.table.sweeps[:3] == ("sign 0", "sign 1", "sign -1")
    assert view.best == 1
    assert score[1] == pytest.approx(1.0)
    assert score[2] == pytest.approx(-1.0)
    assert abs(score[0]) < 0.25
    assert judge(view, 1).beats_chance is True
    assert judge(view, 0).beats_chance is False
    assert judge(view, 2).beats_chance is False


def test_the_score_is_the_weaker_of_its_two_parts(view):
    auroc, spearman = (view.table.columns[n].value for n in ("auroc", "spearman_progress"))
    np.testing.assert_allclose(view.table.columns[SCORE].value, np.minimum(2 * auroc - 1, spearman))


def test_other_goals_prompts_lose_where_the_own_one_wins(view):
    margin = view.table.columns["prompt_margin"]
    assert margin.low[1] > 0
    assert margin.high[2] < 0.1
    assert np.isnan(margin.value[3:]).all()  # a baseline has no prompt
    assert any("other goals' prompts do as well" in w for w in judge(view, 2).warnings)


def test_baselines_stand_beside_every_score(view):
    names = view.table.sweeps[3:]
    assert names == (
        "baseline: time index",
        "baseline: constant",
        "baseline: random",
        "baseline: pixels: near the last frame",
        "baseline: pixels: near success",
    )
    assert view.table.columns["auroc"].value[4] == 0.5


def test_strips_show_the_ends_and_the_confident_mistakes(view):
    found = {s["title"]: s["frames"] for s in strips(view, 0)}
    assert list(found) == [
        "highest rewards",
        "lowest rewards",
        "highest rewards without success",
        "lowest rewards with success",
    ]
    best = [float(f["reward"]) for f in found["highest rewards"]]
    assert best == sorted(best, reverse=True)
    assert best[0] == pytest.approx(float(np.nanmax(view.scores[:, 0])), abs=1e-4)
    assert all("no success" in f["caption"] for f in found["highest rewards without success"])


def test_without_labels_nothing_is_claimed():
    view = audit_view(build_gallery(blocks(labels=False), {"column": Column()}), variants(1), replicates=50)
    assert SCORE not in view.table.columns
    assert judge(view).beats_chance is None
    assert "no labels" in judge(view).figure
    assert to_json(view)["success_frames"] is None


def test_labels_of_one_kind_fall_back_to_progress():
    gallery = build_gallery(blocks(), {"column": Column()})
    assert gallery.success is not None
    object.__setattr__(gallery, "success", np.zeros(len(gallery), bool))
    view = audit_view(gallery, variants(1, -1), replicates=50)
    assert "auroc" not in view.table.columns
    assert judge(view, 0).beats_chance is True
    assert judge(view, 1).beats_chance is False


def test_same_seed_same_figures(view):
    again = audit_view(
        build_gallery(blocks(), {"column": Column()}), variants(0, 1, -1, mismatched=(-1, 0)), replicates=100
    )
    assert to_json(again) == to_json(view)


def test_an_encoder_that_maps_everything_to_one_vector_is_refused():
    class Constant(Column):
        def encode_images(self, frames):
            return np.tile(np.array([[1.0, 0.0]], np.float32), (len(frames), 1))

    with pytest.raises(ConfigError, match="encoder column maps all 240 frames to one vector"):
        build_gallery(blocks(), {"column": Constant()})


def test_every_frame_is_encoded_once():
    encoder = ProjectionEncoder()
    build_gallery(blocks(), {"column": encoder})
    assert encoder.batches == [N // 2, N // 2]


def test_rewards_that_look_at_more_than_single_frames_are_refused():
    with pytest.raises(ConfigError, match="reward x needs context 'pair'"):
        check_scores_frames(LinearReward(context="pair"), "x")
    with pytest.raises(ConfigError, match="reward x needs frames"):
        check_scores_frames(BrightnessReward(), "x")


class Fixed:
    """Pays given rewards, whatever it sees."""

    context: Context = "frame"
    causal, range, needs = True, (-np.inf, np.inf), ("embeddings",)

    def __init__(self, rewards):
        self.rewards = np.asarray(rewards, np.float32)

    def compute_reward(self, batch):
        return RewardBatch(self.rewards, np.ones(len(batch), bool))


def fixed(*rewards):
    return [Variant(f"{i}", {}, "column", Fixed(r), {}) for i, r in enumerate(rewards)]


def test_the_best_of_many_useless_rewards_does_not_beat_chance():
    """By its own interval, the best of 60 draws of noise does so more often than not."""
    gallery, alone, among = build_gallery(blocks(), {"column": Column()}), 0, 0
    for trial in range(20):
        noise = np.random.default_rng(trial).standard_normal((60, N))
        view = audit_view(gallery, fixed(*noise), replicates=200, seed=trial)
        best = int(np.argmax(view.table.columns["auroc"].value[:60]))
        alone += view.table.columns["auroc"].low[best] > 0.5
        among += judge(view, best).beats_chance is True
    assert alone > 10
    assert among <= 3


def test_a_good_reward_among_useless_ones_beats_chance():
    gallery = build_gallery(blocks(), {"column": Column()})
    assert gallery.progress is not None
    view = audit_view(
        gallery, fixed(*np.random.default_rng(0).standard_normal((60, N)), gallery.progress), replicates=200
    )
    assert view.best == 60
    assert judge(view, 60).beats_chance is True


def test_too_few_successes_are_no_verdict():
    gallery = build_gallery(blocks(), {"column": Column()})
    few = np.zeros(N, bool)
    few[:2] = True
    object.__setattr__(gallery, "success", few)
    verdict = judge(audit_view(gallery, fixed(few.astype(float)), replicates=100))
    assert verdict.beats_chance is None
    assert "too few labels of a kind" in verdict.figure
    assert "nan" not in verdict.figure


def test_high_at_the_goal_and_falling_on_the_way_is_warned_of():
    gallery = build_gallery(blocks(), {"column": Column()})
    assert gallery.success is not None
    assert gallery.progress is not None
    falls = np.where(gallery.success, 2.0, -gallery.progress)
    verdict = judge(audit_view(gallery, fixed(falls), replicates=100))
    assert verdict.beats_chance is True
    assert any("may not rise towards the goal" in w for w in verdict.warnings)


def test_noise_is_that_of_the_reward_not_of_the_cosine():
    """A head that stretches a cosine tenfold stretches its noise too: the span over the noise stays what it was."""
    view = audit_view(build_gallery(blocks(), {"column": Column()}), variants(1, 10, 0.1), replicates=0)
    span = view.table.columns["range_in_noise"].value[:3]
    np.testing.assert_allclose(span, span[0], rtol=1e-3)
    # the reward is the sine of the angle a in [0, 1]: noise of 1e-4 in both coordinates moves it by 1e-4 cos a
    angle = np.linspace(0, 1, 1001)
    noise = 1e-4 * np.sqrt((np.cos(angle) ** 2 * 1).mean())
    assert span[0] == pytest.approx((np.sin(0.95) - np.sin(0.05)) / noise, rel=0.15)


def test_frames_are_paired_with_the_first_of_their_episode():
    gallery = build_gallery(blocks(), {"column": Column()})
    with pytest.raises(ConfigError, match="give columns episode, step"):
        gallery.initial_rows()
    episode, step = np.arange(N), np.zeros(N, np.int64)
    episode[10:14], step[10:14] = 500, [3, 0, 2, 1]
    object.__setattr__(gallery, "episode", episode)
    object.__setattr__(gallery, "step", step)
    assert gallery.initial_rows().tolist() == [11] * N


def test_a_page_escapes_what_users_write(view):
    about = {
        "title": "<script>alert(1)</script>", "baseline": [], "subject": "x & y", "versions": {"vlmreward": "0"},
    }  # fmt: skip
    page = render_page(about, [view], [])
    assert "<script>alert" not in page
    assert "&lt;script&gt;alert(1)" in page
    assert "http://" not in page
    assert "https://" not in page
