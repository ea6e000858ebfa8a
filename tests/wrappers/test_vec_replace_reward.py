from functools import partial

import numpy as np
import pytest
from stable_baselines3.common.vec_env import DummyVecEnv, VecMonitor, VecNormalize

from vlmreward.errors import ConfigError, RenderingError
from vlmreward.rewards.transform import RewardTransform
from vlmreward.testing.fakes import LinearReward, PixelEnv, ProjectionEncoder
from vlmreward.wrappers.scorer import Scorer
from vlmreward.wrappers.vec_capture_frames import VecCaptureFrames
from vlmreward.wrappers.vec_replace_reward import VecReplaceReward


def make(model=None, transform=None, n_envs=3, **env):
    scorer = Scorer(ProjectionEncoder(), model or LinearReward(), transform or RewardTransform())
    return VecReplaceReward(VecCaptureFrames([partial(PixelEnv, **env)] * n_envs, scorer=scorer))


def test_rewards_at_every_step_with_one_call_of_the_encoder():
    venv = make(transform=RewardTransform(scale=3, combine="add", env_weight=2), length=4)
    venv.seed(0)
    venv.reset()
    for _ in range(6):
        _, rewards, _, infos = venv.step(np.array([0, 1, 2]))
        assert rewards.dtype == np.float32
        for reward, info in zip(rewards, infos, strict=True):
            assert reward == pytest.approx(3 * info["vlm_reward"] + 2 * info["env_reward"], abs=1e-5)
    assert venv.scorer.encoder.batches == [3] * 6


def test_frame_that_can_not_be_scored_ends_the_run():
    venv = make(black_steps=[1])
    venv.reset()
    with pytest.raises(RenderingError, match=r"could not be scored \(constant frame\).*list agents"):
        venv.step(np.ones(3, int))


def test_monitor_outside_sees_the_scored_rewards():
    venv = VecMonitor(make(length=3))
    venv.seed(0)
    venv.reset()
    total, infos = np.zeros(3), []
    for _ in range(3):
        _, rewards, _, infos = venv.step(np.ones(3, int))
        total += rewards
    np.testing.assert_allclose([info["episode"]["r"] for info in infos], total, atol=1e-5)


def test_what_cannot_work_is_refused():
    with pytest.raises(ConfigError, match="needs a VecCaptureFrames inside, got DummyVecEnv"):
        VecReplaceReward(DummyVecEnv([PixelEnv]))
    with pytest.raises(ConfigError, match="needs frames of later steps"):
        make(LinearReward(context="episode"))
    with pytest.raises(ConfigError, match="put the VecNormalize around it"):
        VecReplaceReward(VecNormalize(make().venv, norm_reward=False))
