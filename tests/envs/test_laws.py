"""Laws that hold for every environment of the registry; a new one is tested by being registered."""

import gymnasium as gym
import numpy as np
import pytest

import vlmreward.envs  # noqa: F401
from vlmreward.envs.mujoco.gl import ensure_gl
from vlmreward.envs.task import HoldCounter, Task, find_task
from vlmreward.errors import UnknownNameError
from vlmreward.types import Surveyable

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
    assert set(IDS) >= {
        "vlmreward/CartPole-v0",
        "vlmreward/MountainCar-v0",
        "vlmreward/Humanoid-v0",
        "vlmreward/Tabletop-v0",
    }


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


def test_states_can_be_set_and_judged(env):
    """What an audit stands on: a state that was set is the state that is drawn and judged, whatever was before it."""
    bare = env.unwrapped
    assert isinstance(env.unwrapped, Surveyable)
    env.reset(seed=0)
    for name in bare.TASKS:
        states = bare.sample_states(np.random.default_rng(1), 6, name)
        assert states.shape[0] == 6
        np.testing.assert_array_equal(states, bare.sample_states(np.random.default_rng(1), 6, name))
        seen = []
        for state in [*states, *states[::-1]]:
            bare.set_state(state)
            success, progress = bare.judge(name)
            assert np.isfinite(progress)
            seen.append((bool(success), float(progress), env.render().copy()))
        for a, b in zip(seen[:6], seen[:5:-1], strict=True):
            assert a[:2] == b[:2]
            np.testing.assert_array_equal(a[2], b[2])


def test_progress_is_higher_where_a_task_is_done(env):
    bare = env.unwrapped
    env.reset(seed=0)
    for name in bare.TASKS:
        judged = []
        for state in bare.sample_states(np.random.default_rng(2), 250, name):
            bare.set_state(state)
            judged.append(bare.judge(name))
        success, progress = np.array([j[0] for j in judged], bool), np.array([j[1] for j in judged])
        assert success.any(), f"none of 250 states of {name} shows it done"
        assert not success.all()
        assert np.median(progress[success]) > np.quantile(progress[~success], 0.9), name


def test_sweeps_stay_within_what_can_be_set(env):
    bare = env.unwrapped
    env.reset(seed=0)
    for name in bare.TASKS:
        for sweep in bare.sweeps(name):
            assert 1 <= len(sweep.axes) <= 2
            pictures = []
            for end in ("low", "high"):
                bare.set_state(sweep.state_at(*(getattr(axis, end) for axis in sweep.axes)))
                pictures.append(env.render().copy())
                assert np.isfinite(bare.judge(name)[1])
            middle = [(axis.low + axis.high) / 2 for axis in sweep.axes]
            bare.set_state(sweep.state_at(*middle))
            assert not np.array_equal(env.render(), pictures[0])
