from functools import partial
from typing import Any

import numpy as np
import pytest
from gymnasium import spaces
from stable_baselines3.common.vec_env import DummyVecEnv

from vlmreward.errors import RenderingError
from vlmreward.testing.fakes import PixelEnv
from vlmreward.wrappers.env_worker import pack_error, unpack_error
from vlmreward.wrappers.process_vec_env import ProcessVecEnv, stack_obs


@pytest.mark.parametrize("dict_obs", [False, True])
def test_steps_as_the_plain_vector_environment_does(dict_obs):
    make = partial(PixelEnv, length=4, goal=0.6, dict_obs=dict_obs)
    venv, plain = ProcessVecEnv([make] * 2, "fork"), DummyVecEnv([make] * 2)
    for each in (venv, plain):
        each.seed(5)
    np.testing.assert_equal(venv.reset(), plain.reset())
    for step in range(12):
        actions = np.random.default_rng(step).integers(0, 3, 2)
        obs, rewards, dones, infos = venv.step(actions)
        plain_obs, _, plain_dones, plain_infos = plain.step(actions)
        np.testing.assert_equal(obs, plain_obs)
        np.testing.assert_equal(infos, plain_infos)
        assert dones.tolist() == plain_dones.tolist()
        assert rewards.tolist() == [0, 0]
    venv.close()


def test_attributes_methods_and_seeds():
    venv = ProcessVecEnv([PixelEnv, partial(PixelEnv, length=9)], "fork")
    assert venv.num_envs == 2
    assert venv.observation_space == PixelEnv().observation_space
    assert venv.action_space == PixelEnv().action_space
    assert venv.render_mode == "rgb_array"
    assert venv.get_attr("length") == [7, 9]
    assert venv.get_attr("length", indices=1) == [9]
    venv.set_attr("length", 3, indices=[0])
    assert venv.get_attr("length") == [3, 9]
    assert venv.has_attr("length")
    assert not venv.has_attr("breadth")
    assert venv.env_is_wrapped(DummyVecEnv) == [False, False]  # type: ignore[arg-type]
    assert [image.shape for image in venv.get_images() if image is not None] == [(16, 16, 3)] * 2
    venv.seed(3)
    first: Any = venv.reset()
    second: Any = venv.reset()
    assert not np.array_equal(second, first)  # a seed is used once
    venv.seed(3)
    third: Any = venv.reset()
    np.testing.assert_array_equal(third, first)
    venv.close()
    venv.close()


def test_errors_as_text():
    error = unpack_error(pack_error(RenderingError("no\n picture")), 3)
    assert type(error) is RenderingError
    assert str(error) == "no picture"
    for text in (pack_error(ValueError("bad: value")), "VlmNothing: x", "errors"):
        error = unpack_error(text, 3)
        assert type(error) is RuntimeError
        assert str(error) == f"environment 3 failed: {text}"


def test_tuple_observations_are_stacked():
    space = spaces.Tuple((spaces.Discrete(3), spaces.Box(0, 1, (2,))))
    numbers, vectors = stack_obs([(1, np.zeros(2)), (2, np.ones(2))], space)
    np.testing.assert_array_equal(numbers, [1, 2])
    np.testing.assert_array_equal(vectors, [[0, 0], [1, 1]])
