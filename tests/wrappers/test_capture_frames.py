import gymnasium as gym
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vlmreward.errors import ConstantFrameError, FramesError, RenderingError
from vlmreward.testing.fakes import PixelEnv
from vlmreward.wrappers.capture_frames import CONSTANT_FRAME, REASONS, CaptureFrames, is_constant
from vlmreward.wrappers.frame_ring import FREE, RESET, STEP, FrameRing


@given(
    st.integers(1, 70),
    st.integers(1, 70),
    st.lists(st.integers(0, 255), min_size=3, max_size=3),
    st.one_of(st.none(), st.tuples(st.integers(0, 69), st.integers(0, 69), st.integers(0, 2))),
)
@settings(max_examples=200, deadline=None)
def test_is_constant_only_if_every_pixel_is_equal(height, width, colour, odd):
    frame = np.full((height, width, 3), colour, dtype=np.uint8)
    if odd is not None:
        row, column, channel = odd[0] % height, odd[1] % width, odd[2]
        frame[row, column, channel] ^= 1
    assert is_constant(frame) == bool((frame.reshape(-1, 3) == frame[0, 0]).all())


def captured(env, slots=8):
    """A CaptureFrames on a ring of its own, with a function that assigns slots."""
    wrapped = CaptureFrames(env)
    ring = FrameRing.create(slots, 1, wrapped.probe_frames())
    wrapped.attach_ring(ring.spec, 0)
    return wrapped, ring


def test_episode_of_t_transitions_has_t_plus_1_frames_of_its_own():
    length = 5
    env, ring = captured(PixelEnv(length=length), slots=20)
    reference = PixelEnv(length=length)
    ring.assigned[0] = [0, 1]
    env.reset(seed=3)
    reference.reset(seed=3)
    assert ring.assigned[0].tolist() == [0, FREE]
    np.testing.assert_array_equal(ring.frames[1], reference.render())
    assert ring.meta[1]["step"] == 0
    slot = 1
    for step in range(1, length + 1):
        slot += 1
        ring.assigned[0, STEP] = slot
        _, reward, _, truncated, info = env.step(2)
        _, env_reward, *_ = reference.step(2)
        assert reward == 0.0
        assert info["env_reward"] == env_reward
        np.testing.assert_array_equal(ring.frames[slot], reference.render())
        meta = ring.meta[slot]
        assert (meta["episode"], meta["step"], meta["env_reward"]) == (0, step, env_reward)
        assert bool(meta["truncated"]) == truncated == (step == length)
        assert not meta["terminated"]
    last = ring.frames[slot].copy()
    ring.assigned[0, RESET] = slot + 1
    env.reset()  # what a vector environment does by itself: another slot, the last frame is untouched
    np.testing.assert_array_equal(ring.frames[slot], last)
    assert (ring.meta[slot + 1]["episode"], ring.meta[slot + 1]["step"]) == (1, 0)


def test_termination_is_not_truncation():
    env, ring = captured(PixelEnv(goal=0.0, length=50))
    ring.assigned[0] = [0, 1]
    env.reset(seed=0)
    env.step(1)
    assert ring.meta[0]["terminated"]
    assert not ring.meta[0]["truncated"]


def test_black_frame_is_flagged():
    env, ring = captured(PixelEnv(black_steps=[1]))
    ring.assigned[0] = [0, 1]
    env.reset(seed=0)
    env.step(1)
    assert ring.meta[1]["reason"] == 0
    assert ring.meta[0]["reason"] == CONSTANT_FRAME
    assert REASONS[CONSTANT_FRAME] == "constant frame"


class RefusesBlack(PixelEnv):
    """Raises where the picture shows nothing, as the MuJoCo renderer does."""

    def render(self):
        frame = super().render()
        if frame is not None and is_constant(frame):
            raise ConstantFrameError("the picture is one constant colour")
        return frame


def test_frame_that_the_renderer_refuses_is_flagged_and_the_run_goes_on():
    env, ring = captured(RefusesBlack(black_steps=[1]))
    ring.assigned[0] = [0, 1]
    env.reset(seed=0)
    env.step(1)
    assert ring.meta[0]["reason"] == CONSTANT_FRAME
    assert not ring.frames[0].any()


def test_environment_without_pixels_is_refused():
    with pytest.raises(RenderingError, match="render_mode None"):
        CaptureFrames(PixelEnv(render_mode=None))


class BadPictures(PixelEnv):
    def __init__(self, *pictures):
        super().__init__()
        self.pictures = list(pictures)

    def render(self):
        return self.pictures.pop(0)


@pytest.mark.parametrize(
    ("picture", "error", "text"),
    [
        (None, RenderingError, "returned None"),
        ([np.zeros((4, 4, 3), np.uint8)], RenderingError, "returned list"),
        (np.zeros((4, 4, 3), np.float32), FramesError, "float32"),
        (np.zeros((4, 4, 4), np.uint8), FramesError, r"\(4, 4, 4\)"),
        (np.zeros((4, 4), np.uint8), FramesError, r"\(4, 4\)"),
        (np.zeros((0, 4, 3), np.uint8), FramesError, r"\(0, 4, 3\)"),
    ],
)
def test_wrong_pictures_are_refused_before_the_first_step(picture, error, text):
    with pytest.raises(error, match=text):
        CaptureFrames(BadPictures(picture)).probe_frames()


def test_frame_size_that_changes_is_refused():
    pictures = [np.zeros((4, 4, 3), np.uint8), np.zeros((4, 4, 3), np.uint8), np.zeros((8, 8, 3), np.uint8)]
    env, ring = captured(BadPictures(*pictures))
    ring.assigned[0] = [0, 1]
    env.reset()
    with pytest.raises(RenderingError, match="must not change"):
        env.step(1)


def test_wrapper_is_a_proper_gymnasium_wrapper():
    env = CaptureFrames(PixelEnv(dict_obs=True))
    assert isinstance(env, gym.Wrapper)
    assert env.observation_space == PixelEnv(dict_obs=True).observation_space
