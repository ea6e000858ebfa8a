"""The frames of an audit: what is kept of them, and baselines and cues whose answer is known."""

import weakref

import numpy as np
import pytest

from vlmreward.audit.bootstrap import draw_counts, estimate, select_metrics
from vlmreward.audit.gallery import Gallery, build_gallery
from vlmreward.audit.sample import make_sample
from vlmreward.audit.survey import Block
from vlmreward.errors import ConfigError, NonFiniteError
from vlmreward.testing.fakes import ProjectionEncoder

STATES, ROLLOUTS, LENGTH = 300, 30, 10


class Gives:
    """An encoder that gives the same table for whatever frames."""

    id, image_size, dim, licence = "gives", 8, 2, "MIT"

    def __init__(self, rows):
        self.rows = np.asarray(rows, np.float32)

    def encode_images(self, frames):
        return self.rows[: len(frames)]

    def encode_texts(self, texts):
        raise AssertionError


def noise(n, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (n, 8, 8, 3)).astype(np.uint8)


def block(n, source="random", first=0, success=None):
    return Block(noise(n, first), source, np.arange(first, first + n), np.zeros(n, np.int64), success, None)


def gallery_of(episode, step, success):
    n = len(episode)
    return Gallery(
        {}, episode, step, ("random",) * n, success, None, np.zeros((n, 12), np.float32), (b"",) * n, refused=0
    )


def mixture():
    """Pictures of noise: states, 6 in 10 with success, then rollouts with 1 in 10, at any time alike."""
    rng = np.random.default_rng(1)
    frames = noise(STATES + ROLLOUTS * LENGTH)
    moments = np.tile(np.arange(LENGTH), ROLLOUTS)
    yield Block(
        frames[:STATES], "states", np.arange(STATES), np.zeros(STATES, np.int64), rng.random(STATES) < 0.6, None
    )
    yield Block(
        frames[STATES:],
        "random",
        STATES + np.repeat(np.arange(ROLLOUTS), LENGTH),
        moments,
        (moments + np.repeat(np.arange(ROLLOUTS), LENGTH)) % 10 == 0,
        None,
    )


@pytest.fixture(scope="module")
def mixed():
    return build_gallery(mixture(), {"e": ProjectionEncoder()})


def measure(gallery, scores):
    sample = make_sample(scores, success=gallery.success, cues=gallery.cues, group=gallery.episode, step=gallery.step)
    return sample, estimate(sample, select_metrics(sample), draw_counts(sample.groups, 300))


def test_the_frames_of_a_block_are_let_go_before_the_next_but_one():
    seen = []

    def blocks():
        for i in range(4):
            assert [old() is None for old in seen[:-1]] == [True] * len(seen[:-1])
            made = block(16, first=16 * i)
            seen.append(weakref.ref(made.frames))
            yield made
            del made

    gallery = build_gallery(blocks(), {"e": ProjectionEncoder()})
    assert len(gallery) == 64
    assert [old() for old in seen] == [None] * 4


def test_baselines_are_at_chance_on_a_mixture_of_states_and_rollouts_of_noise(mixed):
    baselines = mixed.baselines(seed=0)
    sample, found = measure(mixed, np.column_stack(list(baselines.values())))
    low, high = found["auroc"].interval()
    assert dict(zip(baselines, sample.frames.tolist(), strict=True)) == {
        "time index": ROLLOUTS * LENGTH,
        "constant": STATES + ROLLOUTS * LENGTH,
        "random": STATES + ROLLOUTS * LENGTH,
        "pixels: near the last frame": ROLLOUTS * LENGTH,
        "pixels: near success": STATES + ROLLOUTS * LENGTH,
    }
    assert found["auroc"].value[0] == 0.5
    assert ((low <= 0.5) & (high >= 0.5)).all()


def test_pixel_change_does_not_tell_states_from_rollouts(mixed):
    is_state = np.arange(len(mixed)) < STATES
    rng = np.random.default_rng(2)
    _, found = measure(mixed, is_state + 1e-3 * rng.random(len(mixed)))  # were a state's change 0, about -0.8
    low, high = (end[0] for end in found["spearman_pixel_change"].interval())
    assert low < 0 < high


def test_where_every_picture_stands_alone_there_is_no_time(mixed):
    alone = build_gallery(list(mixture())[:1], {"e": ProjectionEncoder()})
    _, found = measure(alone, alone.baselines(seed=0)["random"])
    assert np.isnan(found["spearman_pixel_change"].value).all()
    assert np.isfinite(found["spearman_brightness"].value).all()
    assert np.isnan(alone.baselines(seed=0)["time index"]).all()
    assert np.isnan(alone.baselines(seed=0)["pixels: near the last frame"]).all()


def test_baselines_of_rollouts_have_the_figures_worked_out_by_hand():
    group, step = np.repeat(np.arange(40), 25), np.tile(np.arange(25), 40)
    success = (step >= 20) & (group % 2 == 0)
    scores = gallery_of(group, step, success).baselines(seed=0)
    names = ("time index", "constant", "random")
    sample = make_sample(np.column_stack([scores[n] for n in names]), success=success, group=group, step=step)
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
    gallery = gallery_of(np.arange(5), np.zeros(5, np.int64), None)
    first, again, other = (gallery.baselines(seed)["random"] for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


def test_an_encoder_of_one_vector_is_refused_also_if_it_is_rounded():
    jitter = np.random.default_rng(0).normal(0, 1e-5, (6, 2))
    with pytest.raises(ConfigError, match="encoder gives maps all 6 frames to one vector: no text can tell them apart"):
        build_gallery([block(6)], {"e": Gives(np.array([0.6, 0.8]) + jitter)})
    assert len(build_gallery([block(6)], {"e": Gives(np.array([0.6, 0.8]) + 100 * jitter)})) == 6


def test_an_encoder_without_a_finite_embedding_is_refused():
    with pytest.raises(NonFiniteError, match="encoder gives gives none of 6 frames a finite embedding: check its"):
        build_gallery([block(6)], {"e": Gives(np.full((6, 2), np.nan))})
    rows = np.full((6, 2), np.nan)
    rows[2] = 0.6, 0.8
    assert len(build_gallery([block(6)], {"e": Gives(rows)})) == 6  # the other five are frames that can't be scored


def test_frames_of_a_source_that_does_not_know_success_are_left_out_where_another_does():
    known = np.arange(8) % 2 == 0
    states, told, silent = block(4, "states"), block(8, "random", 4, known), block(8, "random", 12)
    gallery = build_gallery([states, told], {"e": ProjectionEncoder()})
    assert gallery.sources == ("random",) * 8
    assert gallery.episode.tolist() == list(range(4, 12))
    np.testing.assert_array_equal(gallery.success, known)
    assert [len(gallery.thumbs), len(gallery.pictures), len(gallery.embeddings["e"])] == [8, 8, 8]
    # a source that knows some of its frames only is no better than one that knows none
    gallery = build_gallery([states, told, silent], {"e": ProjectionEncoder()})
    assert len(gallery) == 20
    assert gallery.success is None
