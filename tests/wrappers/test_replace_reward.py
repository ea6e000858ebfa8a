from typing import Any

import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from vlmreward.errors import ConfigError, RenderingError
from vlmreward.rewards.transform import RewardTransform
from vlmreward.testing.fakes import BrightnessReward, LinearReward, PixelEnv, ProjectionEncoder
from vlmreward.wrappers.replace_reward import ReplaceReward


def make(model=None, transform=None, encoder=None, **env):
    model = model or LinearReward()
    return ReplaceReward(PixelEnv(**env), encoder or ProjectionEncoder(), model, transform or RewardTransform())


def test_reward_is_that_of_the_frame_the_action_led_to():
    env, reference = make(length=4), PixelEnv(length=4)
    encoder, model = ProjectionEncoder(), LinearReward()
    env.reset(seed=0)
    reference.reset(seed=0)
    truncated = False
    for _ in range(4):
        assert not truncated
        _, reward, _, truncated, info = env.step(2)
        _, env_reward, *_ = reference.step(2)
        want = float(encoder.encode_images(reference.render()[None])[0] @ model.direction)
        assert isinstance(reward, float)
        assert reward == pytest.approx(want, abs=1e-6)
        assert info["vlm_reward"] == pytest.approx(want, abs=1e-6)
        assert info["env_reward"] == env_reward
        assert info["success"] is False  # what the environment says stays
    assert truncated


def test_scale_and_environment_reward():
    env = make(transform=RewardTransform(scale=3, combine="add", env_weight=2))
    env.reset(seed=0)
    _, reward, *_, info = env.step(2)
    assert reward == pytest.approx(3 * info["vlm_reward"] + 2 * info["env_reward"], abs=1e-5)


def test_running_statistics_take_each_reward_before_it_is_applied():
    env = make(transform=RewardTransform(normalise="running"))
    env.reset(seed=0)
    raws = []
    for _ in range(5):
        _, reward, *_, info = env.step(2)
        raws.append(info["vlm_reward"])
        want = (raws[-1] - np.mean(raws)) / max(np.std(raws), 1e-3) if len(raws) > 1 else 0.0
        assert reward == pytest.approx(want, abs=1e-4)


def test_black_frame_ends_the_run_and_no_number_is_made_up():
    transform = RewardTransform(normalise="running")
    env = make(black_steps=[2], transform=transform)
    env.reset(seed=0)
    env.step(1)
    with pytest.raises(RenderingError, match=r"could not be scored \(constant frame\).*list agents"):
        env.step(1)
    assert transform.stats.count == 1


def test_first_frame_is_looked_at_only_if_the_model_needs_it():
    for model, renders in ((LinearReward(), 2), (LinearReward(context="pair"), 3)):
        env = make(model)
        env.reset(seed=0)
        env.step(1)
        env.step(1)
        assert env.get_wrapper_attr("renders") == renders


def test_model_is_told_which_frame_of_which_episode_it_sees():
    seen = []

    class Recorder(LinearReward):
        def compute_reward(self, batch: Any):
            seen.append((int(batch.episode[0]), int(batch.step[0]), bool(batch.truncated[0])))
            return super().compute_reward(batch)

    env = make(Recorder(), length=2)
    for _ in range(2):
        env.reset(seed=0)
        env.step(1)
        env.step(1)
    assert seen == [(0, 1, False), (0, 2, True), (1, 1, False), (1, 2, True)]


def test_pairs_do_not_reach_over_a_reset():
    env = make(LinearReward(context="pair"), length=2)
    env.reset(seed=0)
    env.step(2)
    env.step(2)
    env.reset(seed=0)
    first = env.step(2)[1]
    other = make(LinearReward(context="pair"), length=2)
    other.reset(seed=0)
    assert first == pytest.approx(other.step(2)[1], abs=1e-6)


def test_pixels_without_an_encoder():
    env = ReplaceReward(PixelEnv(), None, BrightnessReward(), RewardTransform())
    env.reset(seed=0)
    reward = env.step(1)[1]
    picture: Any = env.render()
    assert reward == pytest.approx(picture[..., 0].mean() / 255, abs=1e-6)


def test_gymnasium_accepts_it():
    check_env(make(), skip_render_check=True)


def test_what_cannot_work_is_refused():
    with pytest.raises(ConfigError, match="needs frames of later steps"):
        make(LinearReward(context="episode"))
    with pytest.raises(RenderingError, match="render_mode None"):
        make(render_mode=None)
