import multiprocessing.connection
import os
import signal
import time
from functools import partial
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from vlmreward.errors import ConfigError, RenderingError, UnknownNameError
from vlmreward.rewards.transform import RewardTransform
from vlmreward.testing.fakes import LinearReward, PixelEnv, ProjectionEncoder
from vlmreward.wrappers.capture_frames import CaptureFrames
from vlmreward.wrappers.scorer import Scorer
from vlmreward.wrappers.vec_capture_frames import TICKET_KEY, VecCaptureFrames


def processes(venv: Any):
    return venv.venv.processes


def make_scorer(**kwargs):
    return Scorer(ProjectionEncoder(), LinearReward(), RewardTransform(), **kwargs)


def test_looks_like_the_plain_vector_environment_but_for_the_reward():
    make = partial(PixelEnv, length=4, goal=0.6)
    venv, plain = VecCaptureFrames([make] * 3, scorer=make_scorer()), DummyVecEnv([make] * 3)
    for each in (venv, plain):
        each.seed(5)
    np.testing.assert_array_equal(venv.reset(), plain.reset())
    truncated = terminated = 0
    for step in range(40):
        actions = np.random.default_rng(step).integers(0, 3, 3)
        obs, rewards, dones, infos = venv.step(actions)
        plain_obs, plain_rewards, plain_dones, plain_infos = plain.step(actions)
        np.testing.assert_array_equal(obs, plain_obs)
        np.testing.assert_array_equal(dones, plain_dones)
        assert rewards.tolist() == [0.0, 0.0, 0.0]
        assert rewards.dtype == np.float32
        for env, (info, plain_info) in enumerate(zip(infos, plain_infos, strict=True)):
            assert info.pop(TICKET_KEY) == step
            env_reward = info.pop("env_reward")
            assert isinstance(env_reward, float)
            assert env_reward == pytest.approx(plain_rewards[env])
            assert info.keys() == plain_info.keys()
            assert info["TimeLimit.truncated"] == plain_info["TimeLimit.truncated"]
            if dones[env]:
                np.testing.assert_array_equal(info["terminal_observation"], plain_info["terminal_observation"])
                truncated += info["TimeLimit.truncated"]
                terminated += not info["TimeLimit.truncated"]
    assert truncated > 0
    assert terminated > 0


def test_each_step_returns_a_reward_array_of_its_own():
    venv = VecCaptureFrames([PixelEnv], scorer=make_scorer())
    venv.reset()
    rewards = venv.step(np.array([1]))[1]
    rewards += 5  # what Stable-Baselines3 does at a time limit
    assert venv.step(np.array([1]))[1].tolist() == [0.0]


def test_terminal_frame_is_scored_not_the_frame_of_the_reset():
    """A transition's reward comes from where its action led, also in the step after which the environment resets."""
    scorer = make_scorer()
    venv = VecCaptureFrames([partial(PixelEnv, length=3)], scorer=scorer)
    venv.seed(1)
    venv.reset()
    reference = PixelEnv(length=1000)
    reference.reset(seed=1)
    encoder, model = ProjectionEncoder(), LinearReward()
    for step in range(3):
        venv.step(np.array([2]))
        reference.step(2)
        want = encoder.encode_images(reference.render()[None])[0] @ model.direction
        assert scorer.scores(step, step).raw[0, 0] == pytest.approx(want, abs=1e-6)


def test_methods_and_attributes_pass_through():
    venv = VecCaptureFrames([PixelEnv] * 2, scorer=make_scorer())
    assert venv.get_attr("length") == [7, 7]
    assert venv.env_method("get_wrapper_attr", "size") == [16, 16]
    venv.env_method("set_wrapper_attr", "length", 3, indices=1)
    assert venv.get_attr("length") == [7, 3]
    assert venv.env_is_wrapped(CaptureFrames) == [True, True]
    assert venv.render_mode == "rgb_array"
    assert len(venv.get_images()) == 2
    assert VecNormalize(venv, norm_reward=False).scorer is venv.scorer


def test_monitor_inside_reports_the_environments_own_return():
    venv = VecCaptureFrames([lambda: Monitor(PixelEnv(length=3))], scorer=make_scorer())
    venv.reset()
    own = [venv.step(np.array([2]))[3][0] for _ in range(3)]
    assert own[-1]["episode"]["r"] == pytest.approx(sum(info["env_reward"] for info in own), abs=1e-5)


def test_bad_environments_are_refused_in_one_line():
    with pytest.raises(RenderingError, match="render_mode None"):
        VecCaptureFrames([partial(PixelEnv, render_mode=None)], scorer=make_scorer())
    with pytest.raises(ConfigError, match="frames of one size"):
        VecCaptureFrames([PixelEnv, partial(PixelEnv, size=8)], scorer=make_scorer())
    with pytest.raises(ConfigError, match="at least one environment"):
        VecCaptureFrames([], scorer=make_scorer())


def test_step_that_fails_can_be_followed_by_a_reset():
    """The slots of the failed step are used again: nothing leaks out of the pool."""
    scorer = make_scorer(encode_batch=4)
    venv = VecCaptureFrames([PixelEnv, partial(PixelEnv, fail_at=3)], scorer=scorer)
    venv.reset()
    for _ in range(3):
        venv.step(np.ones(2, int))
    for _ in range(20):
        with pytest.raises(RuntimeError, match="the fake environment was told to fail"):
            venv.step(np.ones(2, int))
        venv.reset()
    scorer.flush()
    assert len(scorer._free) == 12 - int((venv.ring.assigned >= 0).sum())


# Processes. Each spawn start costs seconds (a worker of Stable-Baselines3 imports torch): few tests, much in each.


def test_workers_never_pickle_frames_and_ignore_ctrl_c(monkeypatch):
    size, sent = 64, []
    pipe: Any = multiprocessing.connection.Connection
    original = pipe._recv_bytes

    def counting(self, maxsize=None):
        buffer = original(self, maxsize)
        sent.append(len(buffer.getvalue()))
        return buffer

    scorer = make_scorer(encode_batch=8)
    venv = VecCaptureFrames(
        [partial(PixelEnv, size=size, length=4)] * 2, scorer=scorer, subprocess=True, start_method="fork"
    )
    monkeypatch.setattr(pipe, "_recv_bytes", counting)
    venv.reset()
    for process in processes(venv):
        os.kill(process.pid, signal.SIGINT)
    for _ in range(20):
        venv.step(np.array([0, 2]))
    assert scorer.scores(0, 19).valid.all()
    assert len(sent) >= 42
    assert max(sent) < 1000 < size * size * 3
    venv.get_images()  # the control: this does pickle frames
    assert max(sent) > size * size * 3
    venv.close()
    venv.close()


def test_interrupted_step_does_not_keep_the_processes_from_closing():
    """Ctrl-C came while the main process was reading answers: some are lost, and the workers are in mid-step."""
    make = partial(PixelEnv, step_seconds=0.3)
    venv = VecCaptureFrames([make] * 2, scorer=make_scorer(), subprocess=True, start_method="fork")
    venv.reset()
    venv.step_async(np.ones(2, int))
    inner: Any = venv.venv
    inner._pipes[0].recv()
    start = time.monotonic()
    venv.close()
    assert time.monotonic() - start < 5
    assert [process.exitcode for process in processes(venv)] == [0, 0]


class Grumpy(PixelEnv):
    def __init__(self, build=False, step=None, die=False):
        if build:
            raise UnknownNameError("unknown env 'grumpy': did you mean 'happy'?")
        super().__init__()
        self.what, self.die = step, die
        self.secret = (x for x in ())

    def grow(self):
        self.size = 16

    def step(self, action):
        if self.die:
            os._exit(7)
        if self.what == "pixels":
            self.size = 8
        elif self.what == "bug":
            raise ZeroDivisionError("division by zero")
        return super().step(action)


def test_errors_of_workers_reach_the_main_process_with_their_class(capfd):
    build = partial(VecCaptureFrames, subprocess=True, start_method="fork")
    with pytest.raises(UnknownNameError, match=r"^unknown env 'grumpy': did you mean 'happy'\?$"):
        build([PixelEnv, partial(Grumpy, build=True)], scorer=make_scorer())
    with pytest.raises(RenderingError, match="render_mode None"):
        build([partial(PixelEnv, render_mode=None)] * 2, scorer=make_scorer())
    assert "Traceback" not in capfd.readouterr().err  # the user's mistake: one line says it
    settings: Any = {"no_such_setting": 1}
    with pytest.raises(RuntimeError, match="environment 0 failed: TypeError"):
        build([lambda: PixelEnv(**settings)], scorer=make_scorer())
    assert "Traceback" in capfd.readouterr().err
    for what, error, text in (
        ("pixels", RenderingError, "must not change"),
        ("bug", RuntimeError, "environment 1 failed: ZeroDivisionError: division by zero"),
    ):
        venv = build([partial(PixelEnv, length=5), partial(Grumpy, step=what)], scorer=make_scorer(encode_batch=2))
        venv.reset()
        for _ in range(5):  # questions and answers stay in step, and no slot of the ring is lost
            with pytest.raises(error, match=text):
                venv.step(np.ones(2, int))
            assert venv.get_attr("length") == [5, 7]
            venv.env_method("grow", indices=1)
            venv.reset()
        venv.close()


def test_worker_that_dies_is_noticed():
    venv = VecCaptureFrames(
        [PixelEnv, partial(Grumpy, die=True), PixelEnv], scorer=make_scorer(), subprocess=True, start_method="fork"
    )
    venv.reset()
    with pytest.raises(RuntimeError, match=r"the process of environment 1 died \(exit code 7\)"):
        venv.step(np.ones(3, int))
    assert not any(process.is_alive() for process in processes(venv))
    with pytest.raises(RuntimeError, match="the process of environment 0 died"):
        venv.reset()
    venv.close()


def test_answer_that_cannot_travel_is_an_error_of_its_own(capfd):
    venv = VecCaptureFrames([Grumpy], scorer=make_scorer(), subprocess=True, start_method="fork")
    with pytest.raises(RuntimeError, match=r"environment 0 failed: .*pickle"):
        venv.get_attr("secret")
    assert venv.get_attr("size") == [16]
    venv.close()
    capfd.readouterr()


class Remote(gym.Wrapper):
    """An environment whose own connection breaks: no worker is dead."""

    def step(self, action):
        raise ConnectionResetError("the simulator hung up")


def test_connection_error_of_an_environment_in_this_process_is_its_own():
    venv = VecCaptureFrames([lambda: Remote(PixelEnv())], scorer=make_scorer())
    venv.reset()
    with pytest.raises(ConnectionResetError, match="the simulator hung up"):
        venv.step(np.ones(1, int))
