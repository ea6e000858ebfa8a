"""Frames of an audit: what is drawn, and that labels are those of the pictures."""

import gymnasium as gym
import numpy as np
import pytest

import vlmreward.envs  # noqa: F401
from vlmreward.agents.policies import RandomPolicy
from vlmreward.audit.survey import BLOCK, survey_episodes, survey_states
from vlmreward.testing.fakes import PixelEnv


@pytest.fixture
def cartpole():
    env = gym.make("vlmreward/CartPole-v0", task="upright")
    yield env
    env.close()


def joined(blocks, name):
    return np.concatenate([getattr(b, name) for b in blocks])


def test_states_come_in_blocks_with_the_labels_of_their_pictures(cartpole):
    blocks = list(survey_states(cartpole, "upright", BLOCK + 10, seed=3, first_episode=5))
    assert [len(b.episode) for b in blocks] == [BLOCK, 10]
    assert joined(blocks, "episode").tolist() == list(range(5, BLOCK + 15))
    states = cartpole.unwrapped.sample_states(np.random.default_rng(3), BLOCK + 10, "upright")
    degrees = np.abs(np.degrees(states[:, 2]))
    np.testing.assert_array_equal(joined(blocks, "success"), (degrees < 12) & (np.abs(states[:, 0]) < 2.4))
    np.testing.assert_allclose(joined(blocks, "progress"), np.cos(states[:, 2]))
    cartpole.unwrapped.set_state(states[7])
    np.testing.assert_array_equal(blocks[0].frames[7], cartpole.render())


def test_states_are_the_same_under_another_look(cartpole):
    other = gym.make("vlmreward/CartPole-v0", task="upright", width=32, quality="fine")
    first, second = (list(survey_states(e, "upright", 20, seed=1)) for e in (cartpole, other))
    np.testing.assert_array_equal(first[0].progress, second[0].progress)
    assert second[0].frames.shape[2] == 32


def test_episodes_are_sampled_at_the_stride_and_repeat_with_the_seed(cartpole):
    def survey():
        policy = RandomPolicy(cartpole.action_space, 1)
        return list(survey_episodes(cartpole, "upright", policy, "random", 12, seed=4, stride=50, first_episode=2))

    blocks = survey()
    assert joined(blocks, "step").tolist() == [0, 50, 100, 150, 200] * 2 + [0, 50]
    assert joined(blocks, "episode").tolist() == [2] * 5 + [3] * 5 + [4] * 2
    for a, b in zip(blocks, survey(), strict=True):
        np.testing.assert_array_equal(a.frames, b.frames)


def test_an_environment_that_can_not_be_judged_says_itself_whether_there_is_success():
    drawn = []

    class Watched(PixelEnv):
        def render(self):
            drawn.append(self.position >= 0.6)
            return super().render()

    env = Watched(goal=0.6, length=50)
    (block,) = survey_episodes(env, "anything", RandomPolicy(env.action_space, 1), "random", 200, seed=0)
    assert len(block.episode) == 200
    assert block.step.min() == 1  # its reset says nothing of success
    assert block.success is not None
    np.testing.assert_array_equal(block.success, drawn)
    assert 0 < block.success.sum() < 200
    assert block.progress is None


def test_strides_begin_at_the_first_frame_with_a_label():
    env = PixelEnv(length=7)
    (block,) = survey_episodes(env, None, RandomPolicy(env.action_space, 1), "random", 6, seed=0, stride=3)
    assert block.step.tolist() == [1, 4, 7, 1, 4, 7]
    (block,) = survey_episodes(env, None, RandomPolicy(env.action_space, 1), "random", 3, seed=0, stride=60)
    assert block.step.tolist() == [1, 1, 1]


@pytest.mark.parametrize(("at_reset", "at_step", "labelled"), [(False, True, True), (None, None, False)])
def test_the_reset_is_taken_where_it_is_labelled_or_nothing_is(at_reset, at_step, labelled):
    class Says(PixelEnv):
        def reset(self, **kwargs):
            return super().reset(**kwargs)[0], {"success": at_reset}

        def step(self, action):
            return *super().step(action)[:4], {"success": at_step}

    env = Says(length=7)
    (block,) = survey_episodes(env, None, RandomPolicy(env.action_space, 1), "random", 8, seed=0)
    assert block.step.tolist() == list(range(8))
    assert (block.success is not None) == labelled


def test_pictures_of_one_colour_are_left_out_and_counted():
    env = PixelEnv(black_steps=(0, 3), length=7)
    blocks = list(survey_episodes(env, None, RandomPolicy(env.action_space, 1), "random", 6, seed=0))
    assert joined(blocks, "step").tolist() == [1, 2, 4, 5, 6, 7]
    assert sum(b.refused for b in blocks) == 1  # of step 3; the reset's has no label


def test_a_policy_that_shows_nothing_ends():
    env = PixelEnv(black_steps=range(100))
    assert list(survey_episodes(env, None, RandomPolicy(env.action_space, 1), "random", 5, seed=0)) == []
