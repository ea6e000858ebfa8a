"""Pictures and captions for mini: the generator on a handful, and what the scene draws."""

import numpy as np
import pytest

from vlmreward.agents.fit.pictures import make_pictures
from vlmreward.cli.pretrain_mini import load_domains
from vlmreward.data.captions import tabletop
from vlmreward.envs.mujoco.tabletop.constants import CUBES, TARGETS, cube_slice, target_slice
from vlmreward.envs.mujoco.tabletop.goals import Goal, holds
from vlmreward.envs.mujoco.tabletop.layouts import sample_layout
from vlmreward.envs.mujoco.tabletop.model import ARM_BASE, ARM_LENGTHS
from vlmreward.envs.mujoco.tabletop.pictures import all_goals, sample_tabletop
from vlmreward.envs.mujoco.tabletop.scene import CameraShift, Look, TabletopScene, elbow_of, random_look
from vlmreward.envs.mujoco.tabletop.tasks import GOALS, TASKS
from vlmreward.errors import ConfigError


def test_the_generator_makes_captioned_pictures():
    (domain,) = load_domains(["tabletop"])
    made = make_pictures([domain], {"tabletop": 30}, 48, seed=0, plain_share=0.5)
    assert made.frames.shape == (30, 48, 48, 3)
    assert all(np.ptp(frame) > 50 for frame in made.frames)
    assert made.plain.any()
    assert not made.plain.all()
    again = make_pictures([domain], {"tabletop": 3}, 48, seed=0, plain_share=0.5)
    np.testing.assert_array_equal(made.frames[:3], again.frames)
    names = [concept.name for concept in made.concepts]
    for goal in all_goals():  # a caption is at distance 0 exactly where its predicate holds
        zero = made.distance[names.index(goal.name)] == 0
        np.testing.assert_array_equal(zero, [holds(goal, facts) for facts in made.facts])


def test_captions_know_every_goal_and_the_things_of_the_environment():
    assert (tabletop.CUBES, tabletop.TARGETS) == (CUBES, TARGETS)
    facts = {target.fact for concept in tabletop.CONCEPTS for target in concept.targets}
    assert facts == {f"to_{goal.name}" for goal in all_goals()}


@pytest.mark.parametrize("task", list(TASKS))
def test_a_tasks_goal_is_among_the_captions_of_its_concept(task):
    concept = next(c for c in tabletop.CONCEPTS if c.name == GOALS[task].name)
    assert TASKS[task].goal in concept.phrasings(4000, np.random.default_rng(0))


def test_every_caption_names_its_colours_and_no_others():
    rng = np.random.default_rng(0)
    for concept in tabletop.CONCEPTS[1:]:
        _, *colours = concept.name.split("_")
        for text in concept.phrasings(30, rng):
            named = {word for word in text.split() if word in {*CUBES, *TARGETS}}
            assert named == set(colours), (concept.name, text)


def test_held_out_regions_hold_some_states_and_not_most():
    rng = np.random.default_rng(1)
    facts = [sample_tabletop(rng, 16, 16, False)[1] for _ in range(150)]
    held = [any(low <= f[name] <= high for name, low, high in tabletop.HELD_OUT_REGIONS) for f in facts]
    assert 0.02 < np.mean(held) < 0.4


def colour_share(frame, colour):
    """Return the share of pixels that are clearly of a colour: its channels' order and contrast."""
    pixel = frame.astype(float).reshape(-1, 3)
    return float((np.abs(pixel / np.maximum(pixel.max(axis=1, keepdims=True), 1) - colour).max(axis=1) < 0.18).mean())


@pytest.mark.parametrize(("number", "colour"), [(0, (1, 0.12, 0.12)), (1, (0.12, 0.28, 1)), (3, (1, 0.86, 0.1))])
def test_a_cube_is_drawn_where_it_is_in_its_colour(number, colour):
    state = sample_layout(np.random.default_rng(0))
    state[:3] = 0.2, 0.15, 0.22  # the arm out of the way
    gone = state.copy()
    gone[cube_slice(number)][2] = -0.3  # under the table
    with TabletopScene(96, 96) as scene:
        there, away = scene.render_state(state), scene.render_state(gone)
    assert colour_share(there, colour) > 0.003
    assert colour_share(away, colour) < 0.2 * colour_share(there, colour)


def test_right_is_right_and_away_is_up():
    state = sample_layout(np.random.default_rng(0))
    state[:3] = 0.2, 0.15, 0.22

    def middle(place):
        state[target_slice(1)] = place
        frame = scene.render_state(state).astype(int)
        rows, columns = np.nonzero(frame.min(axis=2) > 235)  # the white target
        return columns.mean(), rows.mean()

    with TabletopScene(96, 96) as scene:
        left, right, far = middle((-0.15, -0.2)), middle((0.15, -0.2)), middle((0.15, -0.1))
    assert right[0] > left[0] + 20
    assert far[1] < right[1] - 5


def test_the_drawn_arm_keeps_its_lengths():
    rng = np.random.default_rng(0)
    for wrist in rng.uniform((-0.31, -0.24, 0.13), (0.31, 0.17, 0.35), (50, 3)):
        elbow = np.array(elbow_of(tuple(wrist)))
        assert np.linalg.norm(elbow - ARM_BASE) == pytest.approx(ARM_LENGTHS[0])
        assert np.linalg.norm(elbow - wrist) == pytest.approx(ARM_LENGTHS[1], abs=1e-6)


def test_looks_are_restored_and_wrong_ones_named():
    state = sample_layout(np.random.default_rng(0))
    with TabletopScene(48, 48) as scene:
        before = scene.render_state(state)
        scene.apply(random_look(np.random.default_rng(0)))
        assert (scene.render_state(state) != before).mean() > 0.3
        scene.apply(Look())
        np.testing.assert_array_equal(scene.render_state(state), before)
        scene.apply(Look(shift=CameraShift(azimuth=20)))
        assert (scene.render_state(state) != before).mean() > 0.2
    with pytest.raises(ConfigError, match="unknown colour 'ultraviolet'"):
        Look(cubes=("ultraviolet", "blue", "green", "yellow"))
    with pytest.raises(ConfigError, match="needs 4 colours of cubes"):
        Look(cubes=("red",))


def test_facts_of_a_picture_are_its_states():
    frame, facts = sample_tabletop(np.random.default_rng(3), 32, 32, True)
    assert (frame.shape, frame.dtype) == ((32, 32, 3), np.uint8)
    assert all(0 <= facts[f"to_{goal.name}"] <= 1 for goal in all_goals())
    assert holds(Goal("close"), facts) == (facts["to_close"] == 0)
