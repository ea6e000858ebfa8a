"""Stable-Baselines3's own algorithms on the scoring path, end to end."""

import time
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch as th
from stable_baselines3 import A2C, DQN, PPO, SAC
from stable_baselines3.common.vec_env import VecNormalize

from vlmreward.errors import RenderingError
from vlmreward.rewards.transform import RewardTransform
from vlmreward.testing.fakes import LinearReward, PixelEnv, ProjectionEncoder
from vlmreward.types import RewardBatch
from vlmreward.wrappers import (
    ScoredNStepReplayBuffer,
    Scorer,
    VecCaptureFrames,
    VecReplaceReward,
    choose_replay_buffer,
    choose_rollout_buffer,
)

pytestmark = pytest.mark.filterwarnings("ignore:.*n_steps \\* n_envs.*")


@pytest.fixture(autouse=True)
def _logs(tmp_path, monkeypatch):
    """Stable-Baselines3 makes a folder for each run."""
    monkeypatch.setenv("SB3_LOGDIR", str(tmp_path))


def small(algorithm, **settings):
    """An algorithm with a small network; Stable-Baselines3 writes to the policy_kwargs it is given."""
    return lambda *args, **kwargs: algorithm(
        *args, **settings, **kwargs, policy_kwargs={"net_arch": [16]}, device="cpu"
    )


ON_POLICY = {
    "PPO": small(PPO, n_steps=16, batch_size=16, n_epochs=2),
    "A2C": small(A2C, n_steps=8),
}
OFF_POLICY = {
    "DQN": small(DQN, train_freq=1, learning_starts=20, batch_size=16, buffer_size=200),
    "SAC": small(SAC, train_freq=1, learning_starts=20, batch_size=16, buffer_size=200),
}


def make_venv(subprocess=False, n_envs=2, model=None, **env):
    transform = RewardTransform(scale=2.0, normalise="running")
    scorer = Scorer(ProjectionEncoder(), model or LinearReward(), transform, encode_batch=16)
    make = partial(PixelEnv, goal=0.9, **env)
    return VecCaptureFrames([make] * n_envs, scorer=scorer, subprocess=subprocess, start_method="fork")


def learn(name, steps=200, wrap=lambda venv: venv, seed=0, **kwargs):
    kwargs.setdefault("continuous", name == "SAC")
    dict_obs = kwargs.get("dict_obs", False)
    capture = make_venv(**kwargs)
    venv = wrap(capture)
    policy = "MultiInputPolicy" if dict_obs else "MlpPolicy"
    buffer: dict[str, Any] = {"scorer": capture.scorer}
    if name in ON_POLICY:
        cls = choose_rollout_buffer(venv.observation_space)
        model = ON_POLICY[name](policy, venv, seed=seed, rollout_buffer_class=cls, rollout_buffer_kwargs=buffer)
    else:
        cls = choose_replay_buffer(venv.observation_space)
        buffer["score_every"] = 8
        model = OFF_POLICY[name](policy, venv, seed=seed, replay_buffer_class=cls, replay_buffer_kwargs=buffer)
    model.learn(steps)
    venv.close()
    return model, capture.scorer


def parameters(model):
    return {name: value.clone() for name, value in model.policy.state_dict().items()}


def assert_same_policy(one, other):
    for name, value in parameters(one).items():
        assert th.equal(value, parameters(other)[name]), name


@pytest.mark.parametrize("name", [*ON_POLICY, *OFF_POLICY])
def test_learns_and_same_seed_gives_the_same_parameters_in_this_process_and_in_others(name):
    first, scorer = learn(name)
    assert scorer.stats()["invalid"] == 0
    assert scorer.transform.state_dict()["count"] > 100
    for value in parameters(first).values():
        assert th.isfinite(value).all()
    other_seed, _ = learn(name, seed=1)
    assert any(not th.equal(v, parameters(other_seed)[k]) for k, v in parameters(first).items())
    assert_same_policy(first, learn(name)[0])
    assert_same_policy(first, learn(name, subprocess=True)[0])


@pytest.mark.parametrize("name", ["PPO", "DQN"])
def test_a_slow_encoder_changes_nothing(name):
    """Whatever the thread's timing is, the same rows are learned from at the same time."""

    class Slow(LinearReward):
        def compute_reward(self, batch: object) -> RewardBatch:
            time.sleep(0.004)
            return super().compute_reward(batch)  # type: ignore[arg-type]

    assert_same_policy(learn(name)[0], learn(name, model=Slow())[0])


@pytest.mark.parametrize("name", OFF_POLICY)
def test_train_freq_1_keeps_its_updates(name):
    """One update per vec step after learning_starts, as without deferred scoring."""
    model, _ = learn(name, steps=200)
    assert model.num_timesteps == 200
    # 2 environments: training begins when more than 20 steps are collected, at vec step 11 of 100
    assert model._n_updates == 90


@pytest.mark.parametrize("name", ["PPO", "DQN"])
def test_black_frames_are_left_out(name):
    model, scorer = learn(name, black_steps=[3])
    stats = scorer.stats()
    assert 0.1 < stats["invalid"] / stats["rows"] < 0.2
    assert set(stats["reasons"]) == {"constant frame"}
    for value in parameters(model).values():
        assert th.isfinite(value).all()


@pytest.mark.parametrize("name", ["PPO", "DQN"])
def test_only_black_frames_end_with_one_line(name):
    with pytest.raises(RenderingError, match="could be scored") as caught:
        learn(name, black_steps=range(100))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["PPO", "DQN"])
def test_dictionary_observations(name):
    model, _ = learn(name, steps=100, dict_obs=True)
    assert model.num_timesteps >= 100


@pytest.mark.parametrize("name", ["PPO", "SAC"])
def test_normalised_observations(name):
    """Terminal observations are normalised too; the replay buffer keeps the original ones."""
    seen = []

    class Watch(VecNormalize):
        def step_wait(self):
            obs, rewards, dones, infos = super().step_wait()
            seen.extend(info["terminal_observation"] for info in infos if "terminal_observation" in info)
            return obs, rewards, dones, infos

    model, _ = learn(name, wrap=lambda venv: Watch(venv, norm_reward=False))
    terminal = np.array(seen)
    assert len(terminal) > 10
    # Episodes end by their length: the share of the episode that is over is 1 there, far above its mean
    assert (terminal[:, 1] > 1.2).all()
    if name == "SAC":
        assert model.replay_buffer.next_observations.max() <= 1.0


def test_nstep_returns():
    venv = make_venv()
    kwargs = {"scorer": venv.scorer, "score_every": 8, "n_steps": 3, "gamma": 0.9}
    model = OFF_POLICY["DQN"](
        "MlpPolicy", venv, gamma=0.9, replay_buffer_class=ScoredNStepReplayBuffer, replay_buffer_kwargs=kwargs
    )
    model.learn(150)
    assert model._n_updates == 65
    batch = model.replay_buffer.sample(64)
    assert set(np.round(batch.discounts.unique().tolist(), 4)) <= {0.9, 0.81, 0.729}
    venv.close()


def test_per_step_rewards_for_an_algorithm_with_its_own_buffer():
    venv = VecReplaceReward(make_venv())
    model = OFF_POLICY["DQN"]("MlpPolicy", venv).learn(100)
    stored = model.replay_buffer.rewards[:50]
    assert np.unique(stored).size > 50
    venv.close()


def test_learning_again_continues():
    venv = make_venv()
    model = ON_POLICY["PPO"](
        "MlpPolicy",
        venv,
        rollout_buffer_class=choose_rollout_buffer(venv.observation_space),
        rollout_buffer_kwargs={"scorer": venv.scorer},
    )
    model.learn(64)
    model.learn(64)
    assert venv.scorer.last_ticket == 63
    venv.close()


def test_reward_drives_the_policy():
    """PPO goes where the reward is: a model that likes the right half moves the dot there."""

    class LikesRight(LinearReward):
        def __init__(self):
            super().__init__(needs=("frames",))

        def compute_reward(self, batch):
            assert batch.frames is not None
            reward = batch.frames[:, 0, :, 0].argmax(axis=1) / 15
            return RewardBatch(reward.astype(np.float32), np.ones(len(batch), bool))

    scorer = Scorer(None, LikesRight(), RewardTransform(), encode_batch=64)
    venv = VecCaptureFrames([partial(PixelEnv, length=20)] * 4, scorer=scorer)
    model = PPO(
        "MlpPolicy",
        venv,
        n_steps=64,
        batch_size=64,
        n_epochs=8,
        learning_rate=3e-3,
        seed=0,
        device="cpu",
        rollout_buffer_class=choose_rollout_buffer(venv.observation_space),
        rollout_buffer_kwargs={"scorer": scorer},
    )
    model.learn(5_000)
    obs: Any = venv.reset()
    for _ in range(15):
        obs = venv.step(model.predict(obs, deterministic=True)[0])[0]
    assert (obs[:, 0] > 0.9).all()
    venv.close()
