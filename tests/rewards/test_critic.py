"""The critic's file, and what its reward makes of episodes; random weights stand in for fitted ones."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from vlmreward.errors import ConfigError, FramesError, WeightsError
from vlmreward.rewards import make_reward
from vlmreward.rewards.accumulation import accumulate, fuse
from vlmreward.rewards.critic import Critic, CriticMeta, Reference, direct
from vlmreward.rewards.critic_net import CriticNet, NetSettings
from vlmreward.rewards.critic_reward import CriticReward
from vlmreward.rewards.stages import arrival
from vlmreward.testing.fakes import ProjectionEncoder
from vlmreward.types import FrameBatch

ENCODER = ProjectionEncoder()
DIM = ENCODER.dim


META = CriticMeta(
    ENCODER.id,
    "MIT",
    stride=1,
    temperature=2.0,
    bias=0.5,
    reference_frames=3,
    made={"by": "hand"},
    spans={"a known goal": (0.25, 0.75)},
)


@pytest.fixture
def saved(tmp_path):
    torch.manual_seed(0)
    critic = Critic(CriticNet(NetSettings(DIM, width=16, layers=1)), META)
    critic.save(tmp_path / "critic.safetensors")
    return tmp_path / "critic.safetensors", critic


def frames(count, seed=0):
    x = np.random.default_rng(seed).standard_normal((count, DIM)).astype(np.float32)
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def batch(embeddings, episode=None, step=None, **more):
    count = len(embeddings)
    episode = np.zeros(count, np.int64) if episode is None else episode
    return FrameBatch(episode, np.arange(count) if step is None else step, embeddings=embeddings, **more)


def test_a_critic_comes_back_from_its_file(saved):
    path, critic = saved
    again = Critic.load(path)
    assert again.meta == critic.meta
    x = frames(8)
    text = frames(1, 1)[0]
    one, two = critic.compare(text, x[:4], x[:4], x[4:]), again.compare(text, x[:4], x[:4], x[4:])
    assert np.array_equal(one.delta, two.delta)
    assert np.array_equal(one.done, two.done)


def test_both_ways_by_hand(saved):
    _, critic = saved
    text, x = frames(1, 1)[0], frames(9)
    first, a, b = (torch.from_numpy(part) for part in np.split(x, 3))
    words = torch.from_numpy(text).expand(3, -1)
    with torch.no_grad():
        (there, progress, logit), back = critic.net(words, first, a, b), critic.net(words, first, b, a).delta
    seen = critic.compare(text, *np.split(x, 3))
    assert seen.delta == pytest.approx(((there - back) / 2).numpy(), abs=1e-6)
    assert seen.residual == pytest.approx((there + back).abs().numpy(), abs=1e-6)
    assert seen.done == pytest.approx(1 / (1 + np.exp(-(logit.numpy() / 2 + 0.5))), abs=1e-6)
    assert seen.progress == pytest.approx(progress.numpy(), abs=1e-6)
    one_way = critic.compare(text, *np.split(x, 3), both_ways=False)
    assert one_way.delta == pytest.approx(there.numpy(), abs=1e-6)
    assert np.isnan(one_way.residual).all()


def test_what_is_no_critic_is_refused(tmp_path):
    with pytest.raises(WeightsError, match="no critic at"):
        Critic.load(tmp_path / "none")
    (tmp_path / "torn").write_bytes(b"nonsense")
    with pytest.raises(WeightsError, match="can't be read"):
        Critic.load(tmp_path / "torn")
    save_file({"x": torch.zeros(1)}, tmp_path / "other")
    with pytest.raises(WeightsError, match="no progress critic"):
        Critic.load(tmp_path / "other")
    about = json.dumps({"net": {"dim": DIM}, "meta": {}})
    save_file({"x": torch.zeros(1)}, tmp_path / "bent", {"vlmreward progress critic": about})
    with pytest.raises(WeightsError, match="can't be read"):
        Critic.load(tmp_path / "bent")


def test_accumulated_progress_by_hand(saved):
    path, critic = saved
    model = CriticReward(ENCODER, "a goal", path=path, estimate="accumulated")
    x = frames(7)
    scored = model.compute_reward(batch(x))
    text = ENCODER.encode_texts(["a goal"])[0]
    first = np.tile(x[0], (6, 1))
    steps = critic.compare(text, first, x[:-1], x[1:])
    assert scored.reward == pytest.approx(accumulate(steps.delta), abs=1e-6)
    assert scored.reward[0] == 0
    assert scored.valid.all()
    assert scored.success is not None
    assert scored.success[1:] == pytest.approx(steps.done, abs=1e-6)
    assert scored.parts["delta"] == pytest.approx([0, *steps.delta], abs=1e-6)
    assert scored.parts["residual"][1:] == pytest.approx(steps.residual, abs=1e-6)
    assert np.array_equal(scored.parts["progress"], scored.reward)


def test_longer_steps_make_chains_of_their_own(saved):
    path, critic = saved
    x = frames(8)
    text = ENCODER.encode_texts(["a goal"])[0]
    scored = CriticReward(
        ENCODER, "a goal", path=path, estimate="accumulated", stride=3, rule="inverse"
    ).compute_reward(batch(x))
    for phase in (1, 2, 3):
        chain = [0, *range(phase, 8, 3)]
        steps = critic.compare(text, np.tile(x[0], (len(chain) - 1, 1)), x[chain[:-1]], x[chain[1:]])
        assert scored.parts["delta"][chain[1:]] == pytest.approx(steps.delta, abs=1e-6)
        assert scored.reward[chain] == pytest.approx(accumulate(steps.delta, "inverse"), abs=1e-6)


@pytest.mark.parametrize("estimate", ["accumulated", "fused"])
def test_episodes_and_the_order_of_rows_do_not_mix(saved, estimate):
    path, _ = saved
    model = CriticReward(ENCODER, "a goal", path=path, estimate=estimate)
    x, y = frames(5), frames(4, seed=2)
    alone = np.concatenate([model.compute_reward(batch(x)).reward, model.compute_reward(batch(y)).reward])
    order = np.random.default_rng(0).permutation(9)
    mixed = batch(np.concatenate([x, y])[order], np.repeat([7, 3], [5, 4])[order], np.r_[0:5, 0:4][order])
    assert model.compute_reward(mixed).reward == pytest.approx(alone[order], abs=1e-6)


@pytest.mark.parametrize("estimate", ["accumulated", "fused"])
def test_later_frames_change_nothing(saved, estimate):
    path, _ = saved
    model = CriticReward(ENCODER, "a goal", path=path, estimate=estimate, stride=2)
    x = frames(9)
    assert (model.context, model.causal) == ("prefix", True)
    early = model.compute_reward(batch(x[:5])).reward
    assert model.compute_reward(batch(x)).reward[:5] == pytest.approx(early, abs=1e-6)


def test_anchored_progress_is_the_step_from_the_first_frame(saved):
    path, critic = saved
    model = CriticReward(ENCODER, "a goal", path=path, estimate="anchored")
    assert (model.context, model.needs) == ("frame", ("embeddings", "initial"))
    x = frames(6)
    first = np.tile(x[0], (6, 1))
    scored = model.compute_reward(batch(x, initial=first))
    seen = critic.compare(ENCODER.encode_texts(["a goal"])[0], first, first, x, both_ways=False)
    assert scored.reward == pytest.approx(np.clip(seen.delta, 0, 1), abs=1e-6)
    assert set(scored.parts) == {"progress"}  # a step from the first frame is none of those that add up
    with pytest.raises(FramesError, match="initial"):
        model.compute_reward(batch(x))


def test_direct_progress_looks_at_the_frame_itself(saved):
    path, critic = saved
    model = CriticReward(ENCODER, "a goal", path=path)
    assert (model.context, model.needs) == ("frame", ("embeddings", "initial"))
    x = frames(6)
    first = np.tile(x[0], (6, 1))
    scored = model.compute_reward(batch(x, initial=first))
    seen = critic.compare(ENCODER.encode_texts(["a goal"])[0], first, first, x, both_ways=False)
    value = (2 * seen.progress + seen.done) / 3
    assert scored.reward == pytest.approx(value, abs=1e-6)
    assert scored.success == pytest.approx(seen.done, abs=1e-6)
    known = make_reward("critic", ENCODER, goal=["a known goal"], path=path)  # a list, as commands give it
    known = known.compute_reward(batch(x, initial=first))
    text = ENCODER.encode_texts(["a known goal"])[0]
    seen = critic.compare(text, first, first, x, both_ways=False)
    value = (2 * seen.progress + seen.done) / 3
    assert known.reward == pytest.approx(np.clip((value - 0.25) / 0.5, 0, 1), abs=1e-6)


def test_fused_progress_is_the_fusion_of_the_other_three(saved):
    path, critic = saved
    x = frames(6)
    first, text = np.tile(x[0], (6, 1)), ENCODER.encode_texts(["a goal"])[0]
    model = CriticReward(ENCODER, "a goal", path=path, estimate="fused", stride=3)  # steps are from frame to frame
    scored = model.compute_reward(batch(x))
    forward, own = (
        CriticReward(ENCODER, "a goal", path=path, estimate=e).compute_reward(batch(x, initial=first)).reward
        for e in ("anchored", "direct")
    )
    steps = critic.compare(text, first[1:], x[:-1], x[1:])
    assert scored.reward == pytest.approx(fuse(forward, own, steps.delta)[0], abs=1e-6)
    assert scored.parts["delta"] == pytest.approx([0, *steps.delta], abs=1e-6)
    assert scored.parts["residual"][1:] == pytest.approx(steps.residual, abs=1e-6)


def test_a_lost_frame_has_no_number(saved):
    path, _ = saved
    x = frames(5)
    x[2] = np.nan
    scored = CriticReward(ENCODER, "a goal", path=path, estimate="accumulated").compute_reward(batch(x))
    assert scored.valid.tolist() == [True, True, False, False, False]
    assert np.isnan(scored.reward[2:]).all()
    assert set(scored.reasons) == {2, 3, 4}


def test_what_is_no_embedding_of_the_encoder_is_not_scored(saved):
    path, _ = saved
    model = CriticReward(ENCODER, "a goal", path=path)
    x = frames(3)
    odd = x.copy()
    odd[1] = 0
    scored = model.compute_reward(batch(odd, initial=np.tile(x[0], (3, 1))))
    assert scored.valid.tolist() == [True, False, True]
    with pytest.raises(FramesError):
        model.compute_reward(batch(x[:, :-1], initial=x))
    with pytest.raises(FramesError):
        model.compute_reward(batch(x, initial=x[:, :-1]))


def test_wrong_settings_are_one_line(saved, tmp_path):
    path, _ = saved
    for settings, message in (
        ({}, "reward.path must be the file of a critic"),
        ({"path": path, "estimate": "guessed"}, "estimate"),
        ({"path": path, "rule": "none"}, "rule"),
        ({"path": path, "stride": 0}, "stride must be"),
        ({"path": path, "stride": True}, "stride must be"),
        ({"path": path, "reference": tmp_path / "none"}, "none"),
    ):
        with pytest.raises(Exception, match=message) as caught:
            make_reward("critic", ENCODER, goal="a goal", **settings)
        assert caught.type.__module__ == "vlmreward.errors"
        assert "\n" not in str(caught.value)
    with pytest.raises(ConfigError, match="fitted on embeddings of projection-24-0"):
        CriticReward(ProjectionEncoder(seed=1), "a goal", path=path)


def test_a_reference_is_read_from_a_dataset(saved, tmp_path):
    path, critic = saved
    pictures = np.random.default_rng(3).integers(0, 255, (11, 8, 8, 3), np.uint8)
    pictures = pictures[[0, 1, 2, 3, 4, 5, 5, 5, 5, 5, 5]]  # arrives in the middle
    np.savez(tmp_path / "demo.npz", frames=pictures)
    (tmp_path / "episodes.jsonl").write_text('{"episode_id": "a", "video": "demo.npz:frames"}\n')
    x = frames(4)
    first = np.tile(x[0], (4, 1))
    scored = CriticReward(ENCODER, "a goal", path=path, reference=tmp_path).compute_reward(batch(x, initial=first))
    look = ENCODER.encode_images(pictures[np.rint(np.linspace(0, 10, 64)).astype(int)])
    end = arrival(look)
    assert end < 63
    shown = Reference(look[np.rint(np.linspace(0, end, 3)).astype(int)], np.linspace(0, 1, 3, dtype=np.float32))
    seen = critic.compare(ENCODER.encode_texts(["a goal"])[0], first, first, x, shown, both_ways=False)
    start = np.tile(shown.embeddings[0], (3, 1))
    along = direct(critic.compare(ENCODER.encode_texts(["a goal"])[0], start, start, shown.embeddings, shown, False))
    span = (along[0], along[-1]) if along[-1] > along[0] else (0, 1)
    value = (2 * seen.progress + seen.done) / 3
    assert scored.reward == pytest.approx(np.clip((value - span[0]) / (span[1] - span[0]), 0, 1), abs=1e-5)
    plain = CriticReward(ENCODER, "a goal", path=path).compute_reward(batch(x, initial=first))
    assert not np.allclose(scored.reward, plain.reward)
