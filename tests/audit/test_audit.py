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
    return audit_view(build_gallery(blocks(), [Column()]), variants(0, 1, -1, mismatched=(-1, 0)), replicates=100)


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
    view = audit_view(build_gallery(blocks(labels=False), [Column()]), variants(1), replicates=50)
    assert SCORE not in view.table.columns
    assert judge(view).beats_chance is None
    assert "no labels" in judge(view).figure
    assert to_json(view)["success_frames"] is None


def test_labels_of_one_kind_fall_back_to_progress():
    gallery = build_gallery(blocks(), [Column()])
    assert gallery.success is not None
    object.__setattr__(gallery, "success", np.zeros(len(gallery), bool))
    view = audit_view(gallery, variants(1, -1), replicates=50)
    assert "auroc" not in view.table.columns
    assert judge(view, 0).beats_chance is True
    assert judge(view, 1).beats_chance is False


def test_same_seed_same_figures(view):
    again = audit_view(build_gallery(blocks(), [Column()]), variants(0, 1, -1, mismatched=(-1, 0)), replicates=100)
    assert to_json(again) == to_json(view)


def test_an_encoder_that_maps_everything_to_one_vector_is_refused():
    class Constant(Column):
        def encode_images(self, frames):
            return np.tile(np.array([[1.0, 0.0]], np.float32), (len(frames), 1))

    with pytest.raises(ConfigError, match="encoder column maps all 240 frames to one vector"):
        build_gallery(blocks(), [Constant()])


def test_every_frame_is_encoded_once():
    encoder = ProjectionEncoder()
    build_gallery(blocks(), [encoder])
    assert encoder.batches == [N // 2, N // 2]


def test_rewards_that_look_at_more_than_single_frames_are_refused():
    with pytest.raises(ConfigError, match="reward x needs context 'pair'"):
        check_scores_frames(LinearReward(context="pair"), "x")
    with pytest.raises(ConfigError, match="reward x needs frames"):
        check_scores_frames(BrightnessReward(), "x")


def test_a_page_escapes_what_users_write(view):
    about = {
        "goal": ["<script>alert(1)</script>"], "baseline": [], "subject": "x & y", "versions": {"vlmreward": "0"},
    }  # fmt: skip
    page = render_page(about, [view], [])
    assert "<script>alert" not in page
    assert "&lt;script&gt;alert(1)" in page
    assert "http://" not in page
    assert "https://" not in page
