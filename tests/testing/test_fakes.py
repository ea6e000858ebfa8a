import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from vlmreward.testing.fakes import BrightnessReward, LinearReward, PixelEnv, ProjectionEncoder
from vlmreward.types import Encoder, FrameBatch, RewardModel


@pytest.mark.parametrize("kwargs", [{}, {"continuous": True}, {"dict_obs": True}])
def test_environment_obeys_gymnasium(kwargs):
    check_env(PixelEnv(**kwargs), skip_render_check=True)


def test_pictures_show_where_the_dot_is():
    env = PixelEnv(size=16)
    env.reset(seed=0)
    for _ in range(6):
        env.step(2)
        assert abs(env.render()[-1, :, 0].argmax() / 15 - env.position) <= 0.5 / 15 + 1e-9


def test_encoder_gives_unit_rows_that_do_not_depend_on_the_batch():
    encoder = ProjectionEncoder()
    frames = np.random.default_rng(0).integers(0, 256, (5, 4, 4, 3), dtype=np.uint8)
    together = encoder.encode_images(frames)
    np.testing.assert_allclose(np.linalg.norm(together, axis=1), 1, atol=1e-6)
    np.testing.assert_array_equal(together[3], encoder.encode_images(frames[3:4])[0])
    assert encoder.batches == [5, 1]
    assert isinstance(encoder, Encoder)


def test_rewards_are_what_their_page_says():
    x = np.eye(3, dtype=np.float32)
    model = LinearReward(3)
    batch = FrameBatch(np.zeros(3, np.int64), np.arange(3), embeddings=x, previous=x[[0, 0, 1]], initial=x[[0, 0, 0]])
    d = model.direction
    np.testing.assert_allclose(model.compute_reward(batch).reward, d)
    np.testing.assert_allclose(LinearReward(3, "pair").compute_reward(batch).reward, d - d[[0, 0, 1]])
    initial = LinearReward(3, needs=("embeddings", "initial")).compute_reward(batch).reward
    np.testing.assert_allclose(initial, d - d[0])
    np.testing.assert_allclose(LinearReward(3, "prefix").compute_reward(batch).reward, np.cumsum(d) / [1, 2, 3])
    np.testing.assert_allclose(LinearReward(3, "episode").compute_reward(batch).reward, [d.mean()] * 3, rtol=1e-6)
    assert isinstance(model, RewardModel)
    frames = np.zeros((1, 2, 2, 3), np.uint8)
    frames[0, 0, 0, 0] = 255
    bright = BrightnessReward().compute_reward(FrameBatch(np.zeros(1, np.int64), np.zeros(1, np.int64), frames=frames))
    assert bright.reward.tolist() == [0.25]
