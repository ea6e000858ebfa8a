"""Laws that hold for every environment of the registry; a new one is tested by being registered."""

import gymnasium as gym
import numpy as np
import pytest

import vlmreward.envs  # noqa: F401
from vlmreward.envs.mujoco.gl import ensure_gl
from vlmreward.envs.task import HoldCounter, Task, find_task
from vlmreward.errors import UnknownNameError

IDS = sorted(name for name in gym.registry if name.startswith("vlmreward/"))


@pytest.fixture(autouse=True, scope="module")
def _gl():
    ensure_gl()


@pytest.fixture(params=IDS)
def env(request):
    env = gym.make(request.param)
    yield env
    env.close()


def rollout(env, seed, steps):
    rng = np.random.default_rng(seed)
    obs, info = env.reset(seed=seed)
    out = [(obs.copy(), info["success"], env.render().copy())]
    env.action_space.seed(int(rng.integers(1000)))
    for _ in range(steps):
        obs, _, _, _, info = env.step(env.action_space.sample())
        out.append((obs.copy(), info["success"], env.render().copy()))
    return out


def test_registry_holds_the_environments_of_the_documents():
    assert set(IDS) >= {"vlmreward/CartPole-v0", "vlmreward/MountainCar-v0", "vlmreward/Humanoid-v0"}


def test_same_seed_gives_the_same_observations_and_pictures(env):
    first, second = rollout(env, 7, 15), rollout(env, 7, 15)
    for a, b in zip(first, second, strict=True):
        np.testing.assert_array_equal(a[0], b[0])
        np.testing.assert_array_equal(a[2], b[2])


def test_another_seed_gives_another_start(env):
    assert not np.array_equal(env.reset(seed=1)[0], env.reset(seed=2)[0])


def test_pictures_are_uint8_rgb_and_follow_the_state(env):
    frames = [frame for _, _, frame in rollout(env, 3, 30)]
    assert all(f.dtype == np.uint8 and f.ndim == 3 and f.shape[2] == 3 and np.ptp(f) > 0 for f in frames)
    assert not np.array_equal(frames[0], frames[-1])


def test_observations_share_no_memory(env):
    obs, _ = env.reset(seed=0)
    before = obs.copy()
    env.step(env.action_space.sample())
    np.testing.assert_array_equal(obs, before)


def test_an_episode_ends_by_truncation_alone(env):
    env.reset(seed=0)
    limit = env.spec.max_episode_steps
    flags = [env.step(env.action_space.sample())[2:4] for _ in range(limit)]
    assert flags == [(False, False)] * (limit - 1) + [(False, True)]


def test_success_is_a_python_bool_at_every_step_and_none_without_a_task(env):
    assert all(type(success) is bool for _, success, _ in rollout(env, 0, 5))
    free = gym.make(env.spec.id, task=None)
    assert all(success is None for _, success, _ in rollout(free, 0, 5))
    free.close()


def test_every_task_has_words_a_predicate_and_a_place_in_the_page(env):
    page = type(env.unwrapped).__doc__ or ""
    for name, task in env.unwrapped.TASKS.items():
        assert name == task.name
        assert task.goal.strip()
        assert task.baseline.strip()
        assert task.goal != task.baseline
        assert task.hold_seconds > 0
        assert name in page, f"{name} is not on the page of {env.spec.id}"


def test_the_page_has_gymnasiums_sections(env):
    page = type(env.unwrapped).__doc__ or ""
    for section in ("Action space", "Observation space", "Rewards", "Starting state", "Episode end", "Version history"):
        assert section.lower() in page.lower()


def test_hold_counter_by_hand():
    counter = HoldCounter(hold_seconds=0.3, dt=0.1)
    values = [True, True, False, True, True, True, True, False]
    assert [counter.update(v) for v in values] == [False, False, False, False, False, True, True, False]
    counter.update(True)
    counter.reset()
    assert [counter.update(True) for _ in range(3)] == [False, False, True]


def test_find_task_suggests_the_nearest():
    tasks = {"upright": Task("upright", "a", "b", 1.0, "c")}
    assert find_task(tasks, None) is None
    assert find_task(tasks, "upright") is tasks["upright"]
    with pytest.raises(UnknownNameError, match="did you mean 'upright'"):
        find_task(tasks, "uprihgt")
