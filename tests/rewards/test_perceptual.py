"""The reward from demonstrations: where they come from, what it says of frames, what it refuses."""

from typing import Any

import numpy as np
import pytest

from vlmreward.audit.progress_metrics import spearman
from vlmreward.errors import ConfigError, DatasetError, FramesError
from vlmreward.rewards.perceptual import PerceptualReward
from vlmreward.testing.fakes import ProjectionEncoder
from vlmreward.testing.films import make_film, write_films
from vlmreward.types import FrameBatch

ENCODER = ProjectionEncoder()


def score(model, frames):
    count = len(frames)
    return model.compute_reward(FrameBatch(np.zeros(count, np.int64), np.arange(count), frames=frames))


@pytest.mark.parametrize("count", [1, 3, 10])
def test_few_demos_rank_the_progress_of_other_episodes(tmp_path, count):
    model = PerceptualReward(ENCODER, demos=write_films(tmp_path, range(count)))
    assert len(model.splits) == count
    correlations = []
    for seed in range(100, 110):
        frames, places = make_film(seed)
        correlations.append(spearman(score(model, frames).reward, places))
    assert np.mean(correlations) > 0.8
    back, places = make_film(100, action=0)
    ahead = score(model, make_film(100)[0]).reward
    assert ahead[-1] > 0.9
    assert score(model, back).reward[-1] < 0.1


def test_the_reward_is_the_sum_of_its_stages_and_needs_no_words(tmp_path):
    demos = write_films(tmp_path, (0, 1))
    model = PerceptualReward(ENCODER, demos=demos, stages=3)
    scored = score(model, make_film(7)[0])
    assert scored.reward == pytest.approx((scored.parts["stage_2"] + 2 * scored.parts["stage_3"]) / 3, abs=1e-6)
    assert np.array_equal(scored.parts["progress"], scored.reward)
    assert scored.success is None
    worded = PerceptualReward(ENCODER, goal="a dot", baseline="a line", demos=demos, stages=3)
    assert np.array_equal(score(worded, make_film(7)[0]).reward, scored.reward)


def test_order_of_demos_does_not_matter(tmp_path):
    demos = write_films(tmp_path, range(4))
    one, two = (PerceptualReward(ENCODER, demos=demos, episodes=e) for e in ([0, 1, 3], [3, 0, 1, 0]))
    frames = make_film(9)[0]
    assert score(one, frames).reward == pytest.approx(score(two, frames).reward, abs=1e-6)
    other = PerceptualReward(ENCODER, demos=demos, episodes=[2])
    assert not np.allclose(score(one, frames).reward, score(other, frames).reward, atol=1e-3)


def test_recorded_failures_are_no_demos_and_ten_are_enough(tmp_path):
    model = PerceptualReward(ENCODER, demos=write_films(tmp_path / "a", range(13), success=[False, *[True] * 12]))
    named = PerceptualReward(ENCODER, demos=str(tmp_path / "a"), episodes=list(range(1, 11)))
    assert np.array_equal(score(model, make_film(0)[0]).reward, score(named, make_film(0)[0]).reward)
    demos = write_films(tmp_path / "b", (0, 1), success=[False, False])
    with pytest.raises(ConfigError, match=r"all episodes of .* are recorded as failures"):
        PerceptualReward(ENCODER, demos=demos)
    assert len(PerceptualReward(ENCODER, demos=demos, episodes=[1]).splits) == 1


def test_long_demos_are_thinned(tmp_path, monkeypatch):
    frames = make_film(0, length=40)[0]
    demos = write_films(tmp_path, films=[frames])
    monkeypatch.setattr("vlmreward.rewards.perceptual.MOST_FRAMES", 21)
    thinned = PerceptualReward(ENCODER, demos=demos)
    same = PerceptualReward(ENCODER, demos=write_films(tmp_path / "b", films=[frames[::2]]))
    assert thinned.splits[0][-1] == 21
    assert np.array_equal(score(thinned, frames).reward, score(same, frames).reward)


def test_rows_are_valid_only_with_a_finite_unit_embedding(tmp_path):
    model = PerceptualReward(ENCODER, demos=write_films(tmp_path, [0]))
    x = ENCODER.encode_images(make_film(5)[0])[:4]
    x[1], x[2] = np.nan, 3 * x[2]
    scored = model.compute_reward(FrameBatch(np.zeros(4, np.int64), np.arange(4), embeddings=x))
    assert scored.valid.tolist() == [True, False, False, True]
    assert np.isnan(scored.reward[1:3]).all()
    assert scored.reasons == {1: "embedding is not finite", 2: "embedding has norm 3 instead of 1"}
    with pytest.raises(FramesError, match="neither embeddings nor frames"):
        model.compute_reward(FrameBatch(np.zeros(1, np.int64), np.zeros(1, np.int64)))


def test_what_shows_nothing_is_refused_in_one_line(tmp_path):
    good = make_film(0)[0]
    constant = write_films(tmp_path / "constant", films=[good, np.repeat(good[:1], 12, axis=0)])
    short = write_films(tmp_path / "short", films=[good[:7]])
    fine = write_films(tmp_path / "fine", films=[good, good])
    refused: list[tuple[dict[str, Any], type[Exception], str]] = [
        ({}, ConfigError, r"reward\.demos must be a dataset of demonstrations, got null"),
        ({"demos": str(tmp_path / "none")}, DatasetError, "does not exist"),
        ({"demos": constant}, ConfigError, "episode 1 of .* shows no change"),
        ({"demos": short}, ConfigError, "episode 0 of .* has 7 frames, too few for 4 stages of 2"),
        ({"demos": fine, "camera": "wrist"}, ConfigError, "camera must be one of"),
        ({"demos": fine, "episodes": [2]}, ConfigError, r"episodes must be a list of numbers in \[0, 1\], got \[2\]"),
        ({"demos": fine, "episodes": []}, ConfigError, "episodes must be a list"),
        ({"demos": fine, "stages": 1}, ConfigError, "stages must be a number >= 2, got 1"),
        ({"demos": fine, "features": True}, ConfigError, "features must be a number >= 1, got True"),
    ]
    for settings, error, message in refused:
        with pytest.raises(error, match=message) as caught:
            PerceptualReward(ENCODER, **settings)
        assert "\n" not in str(caught.value)
