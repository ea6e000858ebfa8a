import pytest
from stable_baselines3 import HerReplayBuffer
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.vec_env import DummyVecEnv, VecMonitor, VecNormalize

from vlmreward.errors import ConfigError
from vlmreward.rewards.transform import RewardTransform
from vlmreward.testing.fakes import LinearReward, PixelEnv, ProjectionEncoder
from vlmreward.wrappers.checks import check_context, check_supported, check_vec_env, find_capture
from vlmreward.wrappers.replay_buffer import ScoredReplayBuffer
from vlmreward.wrappers.scorer import Scorer
from vlmreward.wrappers.vec_capture_frames import VecCaptureFrames
from vlmreward.wrappers.vec_replace_reward import VecReplaceReward


def capture():
    return VecCaptureFrames([PixelEnv], scorer=Scorer(ProjectionEncoder(), LinearReward(), RewardTransform()))


def test_normalised_placeholders_are_refused_by_the_name_of_what_to_use():
    with pytest.raises(ConfigError, match=r"reward\.normalise=running"):
        check_vec_env(VecNormalize(capture()))
    with pytest.raises(ConfigError, match=r"reward\.normalise=running"):
        check_vec_env(VecMonitor(VecNormalize(VecMonitor(capture()))))


def test_what_is_sound_passes():
    check_vec_env(capture())
    check_vec_env(VecNormalize(capture(), norm_reward=False))
    check_vec_env(VecNormalize(VecReplaceReward(capture())))  # real rewards
    check_vec_env(VecNormalize(DummyVecEnv([PixelEnv])))  # none of our business
    check_supported(None)
    check_supported(ReplayBuffer)
    check_supported(ScoredReplayBuffer)
    check_supported("ReplayBuffer")


def test_find_capture():
    venv = capture()
    assert find_capture(VecMonitor(VecNormalize(venv, norm_reward=False))) is venv
    assert find_capture(DummyVecEnv([PixelEnv])) is None


def test_her_is_refused_by_name():
    with pytest.raises(ConfigError, match=r"HerReplayBuffer is not supported: .*ScoredReplayBuffer"):
        check_supported(HerReplayBuffer)
    for name in ("HerReplayBuffer", "stable_baselines3.HerReplayBuffer"):
        with pytest.raises(ConfigError, match=r"HerReplayBuffer is not supported: .*ScoredReplayBuffer"):
            check_supported(name)


@pytest.mark.parametrize(
    ("context", "n_steps", "length", "refused"),
    [
        ("frame", 10, None, False),
        ("prefix", 10, 7, False),
        ("episode", 14, 7, False),
        ("episode", 10, 7, True),
        ("episode", 3, 7, True),
        ("episode", 14, None, True),
    ],
)
def test_whole_episodes_in_rollouts(context, n_steps, length, refused):
    model = LinearReward(context=context)
    if refused:
        with pytest.raises(ConfigError, match=f"n_steps={n_steps}"):
            check_context(model, n_steps, length)
    else:
        check_context(model, n_steps, length)
