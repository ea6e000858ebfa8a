"""Looks of the humanoid: the default one, random ones, and pictures of poses."""

import numpy as np
import pytest

from vlmreward.envs.mujoco.gl import import_mujoco
from vlmreward.envs.mujoco.humanoid.model import load_model
from vlmreward.envs.mujoco.humanoid.poses import sample_pose, start_pose
from vlmreward.envs.mujoco.humanoid.scene import VLMRM_CAMERA, Appearance, HumanoidScene, random_appearance
from vlmreward.errors import ConfigError

mujoco = import_mujoco()


@pytest.fixture(scope="module")
def scene():
    with HumanoidScene(width=96, height=96) as scene:
        yield scene


def _nobody():
    """Return a pose out of sight."""
    qpos = start_pose()
    qpos[:3] = (50, 0, 0)  # behind the camera
    return qpos


def test_default_look_is_sky_stone_and_a_white_robot(scene):
    scene.restore()
    frame = scene.render_pose(start_pose()).astype(float)
    sky, ground = frame[:10].mean((0, 1)), frame[80:90, :20].mean((0, 1))
    assert sky[2] > sky[0] + 40  # blue
    assert sky.mean() > 120
    assert 30 < ground.mean() < 80  # VLM-RM's stone has a mean of 54
    assert np.ptp(ground) < 5
    robot = frame[48:60, 46:50].mean((0, 1))  # the middle of the picture: the pelvis
    assert robot.min() > 120
    assert np.ptp(robot) < 20


def test_camera_is_vlmrms_and_sees_the_front(scene):
    camera = VLMRM_CAMERA
    assert (camera.distance, camera.lookat, camera.elevation, camera.azimuth) == (3.5, (0, 0, 1), -10, 180)
    scene.restore()
    qpos = start_pose()
    qpos[1] += 0.5  # to the robot's left, which is the picture's right for who looks at its front
    robot = np.argwhere((scene.render_pose(qpos) != scene.render_pose(_nobody())).any(2))
    # pinhole camera: 0.5 m at a distance of about 3.5 m
    assert robot[:, 1].mean() - 47.5 == pytest.approx(48 * 0.5 / (3.5 * np.tan(np.radians(22.5))), abs=2)


def test_closer_robots_are_larger(scene):
    scene.restore()
    near, far = start_pose(), start_pose()
    near[0], far[0] = 0.8, -0.8
    empty = scene.render_pose(_nobody())
    sizes = [(scene.render_pose(q) != empty).any(2).sum() for q in (near, far)]
    assert sizes[0] / sizes[1] == pytest.approx((4.3 / 2.7) ** 2, rel=0.15)  # areas go with the square of distance


def test_random_looks_repeat_with_the_seed_and_can_be_undone(scene):
    scene.restore()
    pose = sample_pose("arms_raised", np.random.default_rng(0))
    plain = scene.render_pose(pose)
    pictures = []
    for seed in (1, 1, 2):
        scene.randomise(np.random.default_rng(seed))
        pictures.append(scene.render_pose(pose))
    np.testing.assert_array_equal(pictures[0], pictures[1])
    assert (pictures[0] != pictures[2]).mean() > 0.5
    scene.restore()
    np.testing.assert_array_equal(scene.render_pose(pose), plain)


def test_random_looks_are_valid_and_varied():
    rng = np.random.default_rng(0)
    looks = [random_appearance(rng) for _ in range(200)]  # each checks itself
    assert {look.pattern for look in looks} == {"stone", "checker", "plain"}
    azimuths = np.array([look.camera.azimuth for look in looks])
    assert azimuths.std() > 10
    assert np.abs(azimuths - 180).max() <= 50
    assert np.std([look.body for look in looks], axis=0).min() > 0.1


def test_the_robot_is_in_every_random_picture(scene):
    rng = np.random.default_rng(0)
    for _ in range(15):
        scene.randomise(rng)
        without, with_robot = scene.render_pose(_nobody()), scene.render_pose(sample_pose("standing", rng))
        assert (without != with_robot).any(2).sum() > 96 * 96 * 0.015


def test_scenes_do_not_share_their_look():
    with HumanoidScene(48, 48) as one, HumanoidScene(48, 48) as two:
        before = two.render_pose(start_pose())
        one.randomise(np.random.default_rng(0))
        assert (one.render_pose(start_pose()) != before).any()
        two.close()  # a new renderer uploads the textures again
        np.testing.assert_array_equal(two.render_pose(start_pose()), before)
    assert (load_model().tex_data[: 64 * 64 * 3] != 0).any()


def test_poses_are_told_apart_at_96_pixels(scene):
    scene.restore()
    rng = np.random.default_rng(0)
    pictures = [scene.render_pose(sample_pose(t, rng)).astype(int) for t in ("kneeling", "splits", "standing")]
    for i in range(3):
        for j in range(i):
            assert (np.abs(pictures[i] - pictures[j]).max(2) > 30).sum() > 200


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"pattern": "marble"}, "pattern must be one of"),
        ({"contrast": 1.5}, "contrast must be within 0 .. 1, got 1.5"),
        ({"brightness": -0.1}, "brightness must be within"),
        ({"sun": (0, 0, 1)}, "sun must shine downwards"),
    ],
)
def test_wrong_looks_are_named(kwargs, message):
    with pytest.raises(ConfigError, match=message):
        Appearance(**kwargs)
