import numpy as np
import pytest

from vlmreward.data.captions import cartpole, humanoid, mountaincar, tabletop
from vlmreward.data.captions.concept import Concept, Target, is_held_out

MODULES = {"cartpole": cartpole, "mountaincar": mountaincar, "humanoid": humanoid, "tabletop": tabletop}


def test_target_distance_on_a_circle_by_hand():
    target = Target("angle_deg", 170.0, span=180.0, tolerance=0.0, period=360.0)
    distance = target.distance({"angle_deg": np.array([170.0, -170.0, -10.0])})
    np.testing.assert_allclose(distance, [0.0, 20 / 180, 1.0])


def test_tolerance_and_cap_by_hand():
    target = Target("x_m", 0.0, span=2.0, tolerance=0.5)
    np.testing.assert_allclose(target.distance({"x_m": np.array([0.4, -1.25, 9.0])}), [0.0, 0.5, 1.0])


def test_composition_is_the_mean_of_its_parts():
    concept = Concept("e", "c", (Target("a", 0.0, 1.0), Target("b", 0.0, 1.0)), ("x",))
    np.testing.assert_allclose(concept.distance({"a": np.array([1.0]), "b": np.array([0.5])}, 1), [0.75])


@pytest.mark.parametrize("name", MODULES)
def test_every_concept_speaks_and_fills_all_slots(name):
    rng = np.random.default_rng(0)
    names = [c.name for c in MODULES[name].CONCEPTS]
    assert len(set(names)) == len(names)
    for concept in MODULES[name].CONCEPTS:
        assert concept.env == name
        for _ in range(40):
            text = concept.sample(rng)
            assert "{" not in text
            assert text.strip()


def test_flat_is_the_same_on_both_sides_and_far_from_upright():
    flat = next(c for c in cartpole.CONCEPTS if c.name == "flat")
    distance = flat.distance({"angle_deg": np.array([90.0, -90.0, 0.0, 180.0])}, 4)
    np.testing.assert_allclose(distance, [0, 0, 1, 1])


def test_held_out_is_a_fixed_property_of_a_tenth_of_all_texts():
    rng = np.random.default_rng(1)
    texts = {c.sample(rng) for c in cartpole.CONCEPTS for _ in range(80)}
    held = {t for t in texts if is_held_out(t)}
    assert 0.07 < len(held) / len(texts) < 0.13
    assert held == {t for t in texts if is_held_out(t)}


def test_phrasings_are_distinct_and_end_where_there_are_no_more():
    concept = Concept("e", "c", (), ("{a} {b}",), {"a": ("x", "y"), "b": ("1", "2")})
    assert concept.phrasings(10, np.random.default_rng(0)) == ["x 1", "x 2", "y 1", "y 2"]
