"""Our renderer: what is on the picture, and several renderers in one process. Run twice: as it is, and under OSMesa."""

import gc
import os
import subprocess
import sys
import threading

import numpy as np
import pytest

from vlmreward.envs.mujoco.gl import CHECKED, import_mujoco, loaded_backend
from vlmreward.envs.mujoco.renderer import QUALITIES, Camera, Quality, Renderer, check_not_constant
from vlmreward.errors import ConfigError, RenderingError

mujoco = import_mujoco()

# red above, green to the left of the camera (which looks along -x from +x), grey behind
XML = """
<mujoco>
  <asset>
    <texture name="t" type="2d" builtin="flat" rgb1="0 0 1" width="8" height="8"/>
    <material name="m" texture="t"/>
  </asset>
  <worldbody>
    <light pos="5 0 5" dir="-1 0 -1"/>
    <geom name="red" size=".3" pos="0 0 1" rgba="1 0 0 1"/>
    <geom name="green" size=".3" pos="0 -1 0" rgba="0 1 0 1"/>
    <geom name="wall" type="box" size=".1 3 3" pos="-3 0 0" rgba=".5 .5 .5 1"/>
    <geom name="card" type="box" size=".01 .2 .2" pos="0 0 -1" material="m"/>
  </worldbody>
</mujoco>
"""
CAMERA = Camera(distance=5, lookat=(0, 0, 0), azimuth=180, elevation=0)


@pytest.fixture
def model():
    return mujoco.MjModel.from_xml_string(XML)


@pytest.fixture
def data(model):
    data = mujoco.MjData(model)
    mujoco.mj_forward(model, data)
    return data


def _centre(frame, channel):
    """Return row and column of the middle of the pixels that are clearly of one colour."""
    other = np.delete(frame.astype(int), channel, axis=2).max(2)
    return np.argwhere(frame[..., channel] > other + 60).mean(0)


def test_up_is_up_and_the_scale_is_right(model, data):
    with Renderer(model, 120, 80) as renderer:
        frame = renderer.render(data, CAMERA)
    assert frame.shape == (80, 120, 3)
    assert frame.dtype == np.uint8
    # pinhole camera: vertical field of view 45 degrees, the balls 5 m away
    metre = 40 / (5 * np.tan(np.radians(22.5)))
    np.testing.assert_allclose(_centre(frame, 0), (39.5 - metre, 59.5), atol=1.5)
    np.testing.assert_allclose(_centre(frame, 1), (39.5, 59.5 - metre), atol=1.5)


def test_closing_one_renderer_leaves_the_others_whole(model, data):
    a, b, c = (Renderer(model, 64, 64) for _ in range(3))
    before = b.render(data, CAMERA)
    a.render(data, CAMERA)
    a.close()
    np.testing.assert_array_equal(b.render(data, CAMERA), before)
    c.close()  # never drew
    np.testing.assert_array_equal(b.render(data, CAMERA), before)
    b.close()


def test_forgetting_one_renderer_leaves_the_others_whole(model, data):
    a, b = Renderer(model, 64, 64), Renderer(model, 64, 64)
    before = b.render(data, CAMERA)
    a.render(data, CAMERA)
    del a
    gc.collect()
    np.testing.assert_array_equal(b.render(data, CAMERA), before)
    with Renderer(model, 64, 64) as later:
        np.testing.assert_array_equal(later.render(data, CAMERA), before)
    b.close()


def test_sizes_qualities_and_models_do_not_mix(model, data):
    other = mujoco.MjModel.from_xml_string(XML.replace('rgba="1 0 0 1"', 'rgba="1 1 0 1"'))
    other_data = mujoco.MjData(other)
    mujoco.mj_forward(other, other_data)
    with Renderer(model, 64, 48) as small, Renderer(model, 200, 160, "fine") as big, Renderer(other, 64, 48) as third:
        first = (small.render(data, CAMERA), big.render(data, CAMERA), third.render(other_data, CAMERA))
        again = (small.render(data, CAMERA), big.render(data, CAMERA), third.render(other_data, CAMERA))
    assert [f.shape for f in first] == [(48, 64, 3), (160, 200, 3), (48, 64, 3)]
    for one, two in zip(first, again, strict=True):
        np.testing.assert_array_equal(one, two)
    assert (first[0] != first[2]).any()


def test_each_picture_is_its_own_array(model, data):
    with Renderer(model, 64, 64) as renderer:
        first = renderer.render(data, CAMERA)
        kept = first.copy()
        renderer.render(data, Camera(3, (0, 0, 0), 90, -30))
    np.testing.assert_array_equal(first, kept)


def test_closing_twice_is_harmless_and_drawing_then_is_an_error(model, data):
    renderer = Renderer(model, 64, 64)
    renderer.close()
    renderer.close()
    with pytest.raises(RenderingError, match="closed"):
        renderer.render(data, CAMERA)
    with pytest.raises(RenderingError, match="closed"):
        renderer.upload_textures()


def test_a_picture_of_nothing_is_refused(model, data):
    with Renderer(model, 64, 64) as renderer, pytest.raises(RenderingError, match="constant colour"):
        renderer.render(data, Camera(5, (100, 0, 0), 0, 0))


@pytest.mark.parametrize("shape", [(1, 1), (5, 7), (64, 64)])
def test_constant_frames_are_refused_whatever_the_colour(shape):
    for colour in ((0, 0, 0), (255, 255, 255), (10, 200, 30)):
        with pytest.raises(RenderingError):
            check_not_constant(np.full((*shape, 3), colour, np.uint8))


def test_one_other_pixel_anywhere_is_enough():
    for row in range(4):
        for column in range(5):
            for channel in range(3):
                frame = np.full((4, 5, 3), 9, np.uint8)
                frame[row, column, channel] = 10
                check_not_constant(frame)


def test_the_presets_differ_and_leave_the_model_alone(model, data):
    quality, size = model.vis.quality, model.vis.global_
    before = (quality.offsamples, quality.shadowsize, quality.numslices, quality.numstacks, quality.numquads)
    size_before = (size.offwidth, size.offheight)
    pictures = {}
    for name in QUALITIES:
        with Renderer(model, 96, 96, name) as renderer:
            pictures[name] = renderer.render(data, CAMERA)
    assert (pictures["fast"] != pictures["fine"]).any()
    # antialiasing: more different colours
    assert len(np.unique(pictures["fine"].reshape(-1, 3), axis=0)) > len(
        np.unique(pictures["fast"].reshape(-1, 3), axis=0)
    )
    assert before == (quality.offsamples, quality.shadowsize, quality.numslices, quality.numstacks, quality.numquads)
    assert size_before == (size.offwidth, size.offheight)


def test_changed_textures_are_seen_after_upload(model, data):
    with Renderer(model, 64, 64) as renderer:
        blue = renderer.render(data, CAMERA)
        model.tex_data[:] = np.tile(np.array([255, 255, 0], np.uint8), len(model.tex_data) // 3)
        np.testing.assert_array_equal(renderer.render(data, CAMERA), blue)
        renderer.upload_textures()
        yellow = renderer.render(data, CAMERA)
    row = 32 + round(32 / (5 * np.tan(np.radians(22.5))))  # the card, 1 m below the middle
    assert blue[row, 32, 2] > blue[row, 32, 0] + 40
    assert yellow[row, 32, 0] > yellow[row, 32, 2] + 40


def test_another_thread_can_draw(model, data):
    with Renderer(model, 64, 64) as renderer:
        here = renderer.render(data, CAMERA)
        there = []
        thread = threading.Thread(target=lambda: there.append(renderer.render(data, CAMERA)))
        thread.start()
        thread.join()
        np.testing.assert_array_equal(there[0], here)
        np.testing.assert_array_equal(renderer.render(data, CAMERA), here)


def test_gymnasiums_own_renderer_survives_ours(model, data):
    if loaded_backend() == "osmesa":
        pytest.skip("OSMesa can't give back the context that was current")
    import gymnasium as gym

    theirs = gym.make("InvertedPendulum-v5", render_mode="rgb_array", width=64, height=64)
    theirs.reset(seed=0)
    before = theirs.render()
    with Renderer(model, 64, 64) as renderer:
        renderer.render(data, CAMERA)
        np.testing.assert_array_equal(theirs.render(), before)
    np.testing.assert_array_equal(theirs.render(), before)
    theirs.close()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda m: Renderer(m, 0, 64), "at least 1 pixel, got 0 x 64"),
        (lambda m: Renderer(m, 64, 64, "fasst"), "did you mean 'fast'"),
        (lambda m: Quality("q", -1, 0, True, 8, 6, 1), "offsamples must be at least 0, got -1"),
        (lambda m: Quality("q", 0, 0, True, 2, 6, 1), "slices must be at least 3, got 2"),
        (lambda m: Camera(0, (0, 0, 0), 0, 0), "distance of a camera must be positive, got 0"),
        (lambda m: Camera(1, (0, 0, 0), 0, 91), "elevation of a camera must be within"),
    ],
)
def test_wrong_settings_are_named(model, make, message):
    with pytest.raises(ConfigError, match=message):
        make(model)


@pytest.mark.usefixtures("osmesa")
@pytest.mark.skipif(sys.platform != "linux", reason="OSMesa is the fallback on Linux")
@pytest.mark.skipif(os.environ.get("MUJOCO_GL") == "osmesa", reason="this is the run under OSMesa")
def test_all_of_this_under_osmesa():
    env = {k: v for k, v in os.environ.items() if k not in (CHECKED, "PYOPENGL_PLATFORM")} | {"MUJOCO_GL": "osmesa"}
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", __file__]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=250)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "passed" in done.stdout
