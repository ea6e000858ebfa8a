"""The reward of a fitted head, and its file; weights set by hand stand in for fitted ones."""

import json
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from vlmreward.errors import CheckpointError, ConfigError, FramesError, WeightsError
from vlmreward.rewards import make_reward as make_any_reward
from vlmreward.rewards.head import Head, HeadMeta
from vlmreward.rewards.head_net import EmbeddingHead, HeadSettings, make_net
from vlmreward.testing.fakes import ProjectionEncoder
from vlmreward.types import FrameBatch

ENCODER = ProjectionEncoder()
DIM = ENCODER.dim


def make_reward(*args, **settings) -> Any:
    """The contract of a reward knows nothing of heads; these have them."""
    return make_any_reward(*args, **settings)


def make_head(reward="preference", version=1, seed=0, **more):
    output = "tanh" if reward == "preference" else "sigmoid"
    net = make_net(HeadSettings(DIM, **{"width": 4, "output": output, **more}))
    net.draw_weights(torch.Generator().manual_seed(seed))
    return Head(net, HeadMeta(reward, ENCODER.id, "MIT", ("stand up",), version, {"calls": 7}))


def frames(count, seed=0):
    x = np.random.default_rng(seed).standard_normal((count, DIM)).astype(np.float32)
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def batch(embeddings=None, **more):
    count = np.arange(len(embeddings if embeddings is not None else next(iter(more.values()))))
    return FrameBatch(np.zeros_like(count), count, embeddings=embeddings, **more)


def test_an_ensemble_by_hand():
    """Two members of one hidden unit on two numbers; both squash what they say before the mean is taken."""
    net = EmbeddingHead(HeadSettings(dim=2, members=2, width=1))
    with torch.no_grad():
        net.mean.copy_(torch.tensor([0.5, 0.0]))
        net.scale.copy_(torch.tensor([2.0, 1.0]))
        net.hidden.copy_(torch.tensor([[[1.0], [0.0]], [[0.0], [-1.0]]]))
        net.out.copy_(torch.tensor([[[1.0]], [[3.0]]]))
        net.out_bias.copy_(torch.tensor([[[0.25]], [[0.0]]]))
    head = Head(net, HeadMeta("preference", "e", "MIT", ("g",), 1))
    x = np.array([[1.0, -0.5], [0.25, 0.5]], np.float32)
    # member 0: relu(2 (x0 - 0.5)) + 0.25; member 1: 3 relu(-x1)
    want = np.tanh([[1.25, 0.25], [1.5, 0.0]])
    np.testing.assert_allclose(head.members(x), want, atol=1e-6)
    np.testing.assert_allclose(head.score(x), want.mean(axis=0), atol=1e-6)


@pytest.mark.parametrize("name", ["preference", "distilled"])
def test_a_head_comes_back_from_its_file_and_scores(tmp_path, name):
    head = make_head(name, version=3)
    head.save(tmp_path / "head.safetensors")
    again = Head.load(tmp_path / "head.safetensors")
    assert again.meta == head.meta
    assert again.net.settings == head.net.settings
    model = make_reward(name, ENCODER, goal="stand up", path=tmp_path / "head.safetensors")
    x = frames(9)
    scored = model.compute_reward(batch(x))
    np.testing.assert_array_equal(scored.reward, head.score(x))
    assert scored.parts["version"].tolist() == [3.0] * 9
    assert model.range == ((-1.0, 1.0) if name == "preference" else (0.0, 1.0))
    assert scored.success is None
    assert not model.learns
    pictures = np.random.default_rng(0).integers(0, 255, (4, 8, 8, 3)).astype(np.uint8)
    np.testing.assert_array_equal(
        model.compute_reward(batch(frames=pictures)).reward, head.score(ENCODER.encode_images(pictures))
    )


def test_stored_embeddings_are_scored_like_new_ones():
    head, x = make_head(), frames(50)
    np.testing.assert_array_equal(head.score(x), head.score(x.astype(np.float16)))


def test_until_there_is_a_head_the_other_model_speaks():
    model = make_reward("preference", ENCODER, goal="stand up")
    x = frames(5)
    scored = model.compute_reward(batch(x))
    np.testing.assert_array_equal(
        scored.reward, make_reward("clip", ENCODER, goal="stand up").compute_reward(batch(x)).reward
    )
    assert scored.parts["version"].tolist() == [0.0] * 5
    assert model.learns
    model.use(make_head())
    assert model.compute_reward(batch(x)).parts["version"].tolist() == [1.0] * 5
    assert model.version == 1


def test_making_and_loading_heads_leaves_torchs_generator_alone(tmp_path):
    torch.manual_seed(5)
    want = torch.rand(3)
    torch.manual_seed(5)
    make_head().save(tmp_path / "head.safetensors")
    Head.load(tmp_path / "head.safetensors")
    make_net(HeadSettings(DIM, input="frames")).draw_weights(torch.Generator().manual_seed(0))
    assert torch.equal(torch.rand(3), want)


def test_a_head_on_pictures_scores_pictures_and_no_embeddings(tmp_path):
    head = make_head(input="frames")
    head.save(tmp_path / "head.safetensors")
    model = make_reward("preference", ENCODER, goal="stand up", path=tmp_path / "head.safetensors")
    assert model.needs == ("frames",)
    pictures = np.random.default_rng(0).integers(0, 255, (6, 40, 48, 3)).astype(np.uint8)
    reward = model.compute_reward(batch(frames=pictures)).reward
    assert np.ptp(reward) > 0
    alone = np.concatenate([head.score(pictures[i : i + 1]) for i in range(6)])
    np.testing.assert_allclose(reward, alone, atol=1e-6)
    with pytest.raises(FramesError, match="neither embeddings nor frames"):
        model.compute_reward(batch(frames(3)))


@pytest.mark.parametrize(
    ("goal", "reward", "words"),
    [("sit down", "preference", "made for goal"), ("stand up", "distilled", "made for reward preference")],
)
def test_a_head_for_something_else_is_refused(tmp_path, goal, reward, words):
    make_head().save(tmp_path / "head.safetensors")
    with pytest.raises(ConfigError, match=words):
        make_reward(reward, ENCODER, goal=goal, path=tmp_path / "head.safetensors")


def test_files_that_are_no_heads_are_refused(tmp_path):
    with pytest.raises(WeightsError, match="no head at"):
        Head.load(tmp_path / "none.safetensors")
    (tmp_path / "text.safetensors").write_text("hello")
    with pytest.raises(WeightsError, match="can't be read"):
        Head.load(tmp_path / "text.safetensors")
    save_file({"a": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(WeightsError, match="is no head of a reward"):
        Head.load(tmp_path / "other.safetensors")
    save_file({"a": torch.zeros(1)}, tmp_path / "list.safetensors", {"vlmreward head": "[]"})
    with pytest.raises(WeightsError, match="can't be read"):
        Head.load(tmp_path / "list.safetensors")
    about = {"vlmreward head": json.dumps({"meta": make_head().state_dict()["meta"], "net": {"dim": 3}})}
    save_file({"a": torch.zeros(1)}, tmp_path / "half.safetensors", about)
    with pytest.raises(WeightsError, match="can't be read"):
        Head.load(tmp_path / "half.safetensors")
    with pytest.raises(CheckpointError, match="the head is damaged"):
        Head.from_state({"net": {}})


def test_wrong_settings_are_refused():
    def make(name="preference", **settings):
        return make_reward(name, ENCODER, goal="stand up", **settings)

    with pytest.raises(ConfigError, match=r"learning\.budget must be a whole number >= 1, got 0"):
        make(learning={"budget": 0})
    with pytest.raises(ConfigError, match=r"unknown setting 'reward\.learning\.bugdet': did you mean 'budget'"):
        make(learning={"bugdet": 3})
    with pytest.raises(ConfigError, match="sampling must be one of uniform, disagreement, entropy, k_center"):
        make(learning={"sampling": "random"})
    with pytest.raises(ConfigError, match="must score embeddings of single frames"):
        make(of={"name": "clip_delta"})
    with pytest.raises(ConfigError, match="can't stand inside another one"):
        make("par", of={"name": "preference"})
    with pytest.raises(ConfigError, match="needs an annotator that rates frames, got 'page'"):
        make("distilled", annotator={"name": "page", "timeout": 1.0}).make_rater()
