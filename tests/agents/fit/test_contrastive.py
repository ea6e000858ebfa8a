import numpy as np
import pytest
import torch

from vlmreward.agents.fit.contrastive import CaptionSampler, FitSettings, slope_loss, soft_cross_entropy
from vlmreward.agents.fit.pictures import Domain, make_pictures
from vlmreward.data.captions import cartpole
from vlmreward.data.captions.concept import is_held_out
from vlmreward.envs.classic.pictures import sample_cartpole, sample_mountaincar
from vlmreward.errors import ConfigError

DOMAINS = [
    Domain("cartpole", sample_cartpole, cartpole.CONCEPTS, cartpole.HELD_OUT_REGIONS),
]


def test_soft_cross_entropy_by_hand():
    logits = torch.tensor([[1.0, 0.0]])
    distance = torch.tensor([[0.0, 0.1]])
    target = np.array([1.0, np.exp(-1.0)]) / (1.0 + np.exp(-1.0))
    shares = np.exp([1.0, 0.0]) / np.exp([1.0, 0.0]).sum()
    expected = -(target * np.log(shares)).sum()
    assert float(soft_cross_entropy(logits, distance, 0.1)) == pytest.approx(expected, rel=1e-6)


def test_slope_loss_is_one_minus_pearson_over_the_own_environment():
    rng = np.random.default_rng(0)
    similarity, distance = rng.normal(size=(1, 40)), rng.uniform(size=(1, 40))
    inside = np.zeros((1, 40), bool)
    inside[0, :30] = True
    expected = 1 - np.corrcoef(similarity[0, :30], -distance[0, :30])[0, 1]
    got = slope_loss(torch.tensor(similarity), torch.tensor(distance), torch.tensor(inside))
    assert float(got) == pytest.approx(expected, abs=1e-3)


def test_rows_without_any_spread_of_distance_do_not_count():
    similarity = torch.tensor([[0.1, 0.9], [0.5, 0.2]])
    distance = torch.tensor([[0.0, 0.0], [0.0, 1.0]])
    both = slope_loss(similarity, distance, torch.ones(2, 2, dtype=torch.bool))
    alone = slope_loss(similarity[1:], distance[1:], torch.ones(1, 2, dtype=torch.bool))
    assert float(both) == pytest.approx(float(alone))


def test_captions_leave_out_held_out_phrasings_and_compositions():
    pictures = make_pictures(DOMAINS, {"cartpole": 20}, 16, seed=0, plain_share=0.5)
    sampler = CaptionSampler(pictures, FitSettings(), np.random.default_rng(0), cartpole.HELD_OUT_COMPOSITIONS)
    texts, concepts = sampler.draw(3000)
    assert not any(is_held_out(t) for t in texts)
    parts = {pictures.concepts[i].parts for i in concepts}
    assert not parts & set(cartpole.HELD_OUT_COMPOSITIONS)
    assert len(parts) > 20


def test_pictures_know_their_distances_and_held_out_states():
    domains = [*DOMAINS, Domain("mountaincar", sample_mountaincar, (), (("position", 0.0, 0.2),))]
    pictures = make_pictures(domains, {"cartpole": 60, "mountaincar": 30}, 16, seed=3, plain_share=0.5)
    assert pictures.frames.shape == (90, 16, 16, 3)
    upright = [c.name for c in pictures.concepts].index("upright")
    angles = np.array([f["angle_deg"] for f in pictures.facts[:60]])
    expected = np.clip((np.abs(angles) - 4) / 176, 0, 1)
    np.testing.assert_allclose(pictures.distance[upright, :60], expected, atol=1e-3)
    assert (pictures.distance[upright, 60:] == 1.25).all()
    positions = np.array([f["position"] for f in pictures.facts[60:]])
    np.testing.assert_array_equal(pictures.held_out[60:], (positions >= 0.0) & (positions <= 0.2))
    again = make_pictures(domains, {"cartpole": 60, "mountaincar": 30}, 16, seed=3, plain_share=0.5)
    np.testing.assert_array_equal(pictures.frames, again.frames)


def test_settings_out_of_range_are_refused():
    with pytest.raises(ConfigError, match="steps must be at least 1, got 0"):
        FitSettings(steps=0)
