from __future__ import annotations

import pytest

from vlmreward.cli.goals import settle_goal
from vlmreward.envs.task import Task
from vlmreward.errors import ConfigError

TASKS = {
    "up": Task("up", "pole Upright on the cart", "pole and cart", 2.0, "it is up"),
    "left": Task("left", "cart on the left", "cart and track", 2.0, "it is left"),
}


def test_nothing_given_takes_the_default_task() -> None:
    goal = settle_goal(TASKS, None, None, None, "up")
    assert (goal.goal, goal.baseline, goal.task, goal.note) == (
        ("pole Upright on the cart",),
        ("pole and cart",),
        "up",
        "",
    )


def test_named_task_brings_its_words() -> None:
    goal = settle_goal(TASKS, None, None, "left", "up")
    assert (goal.goal, goal.baseline, goal.task) == (("cart on the left",), ("cart and track",), "left")


@pytest.mark.parametrize("said", ["cart on the left", "  CART  on the\tLeft "])
def test_goal_of_a_task_finds_its_success_whatever_case_and_spaces(said: str) -> None:
    goal = settle_goal(TASKS, said, None, None, "up")
    assert (goal.goal, goal.task, goal.note) == ((said,), "left", "")


def test_one_of_several_prompts_is_enough() -> None:
    assert settle_goal(TASKS, ["stick up", "pole upright on the cart"], None, None, "left").task == "up"


def test_own_goal_has_no_success_and_says_so() -> None:
    goal = settle_goal(TASKS, "dance", None, None, "up")
    assert goal.task is None
    assert goal.baseline == ("pole and cart",)  # the scene is the same
    assert "reported as null" in goal.note
    assert "env.task=up|left" in goal.note


def test_own_goal_with_a_named_task_counts_its_success() -> None:
    goal = settle_goal(TASKS, "keep the stick up", "a stick", "up", None)
    assert (goal.goal, goal.baseline, goal.task, goal.note) == (("keep the stick up",), ("a stick",), "up", "")


def test_named_task_wins_over_the_goal_of_another() -> None:
    assert settle_goal(TASKS, "cart on the left", None, "up", None).task == "up"


def test_unknown_task_suggests_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"unknown env.task 'lfet': did you mean 'left'"):
        settle_goal(TASKS, None, None, "lfet", None)
    with pytest.raises(ConfigError, match="this environment has none"):
        settle_goal({}, "x", None, "up", None)


def test_environment_without_tasks_needs_a_goal() -> None:
    with pytest.raises(ConfigError, match="goal is not given"):
        settle_goal({}, None, None, None, None)
    goal = settle_goal({}, "swing up", None, None, None)
    assert (goal.goal, goal.baseline, goal.task) == (("swing up",), (), None)
    assert "env.task" not in goal.note
