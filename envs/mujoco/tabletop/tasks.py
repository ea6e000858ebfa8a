"""The tasks, each with a goal on the true state and the sentences that ask for it."""

from __future__ import annotations

from collections.abc import Sequence

from vlmreward.envs.mujoco.tabletop.constants import CUBES, TARGETS
from vlmreward.envs.mujoco.tabletop.goals import Goal
from vlmreward.envs.task import Task

GOALS: dict[str, Goal] = {
    "push": Goal("push", "red", "green"),
    "lift": Goal("lift", "blue"),
    "bin": Goal("bin", "red"),
    "open_drawer": Goal("open"),
    "close_drawer": Goal("close"),
    "stack": Goal("stack", "red", "blue"),
    "touch": Goal("touch", "yellow"),
}
# the first one is the task's goal, the others are paraphrases; {cube} and {onto} are the colours that are drawn
INSTRUCTIONS: dict[str, tuple[str, ...]] = {
    "push": (
        "push the {cube} cube onto the {onto} target",
        "slide the {cube} block to the {onto} square",
        "move the {cube} cube on top of the {onto} target by pushing it",
        "shove the {cube} box onto the {onto} area",
        "the {cube} cube should be on the {onto} target",
        "get the {cube} block to the {onto} goal",
    ),
    "lift": (
        "lift the {cube} cube",
        "pick up the {cube} block",
        "raise the {cube} cube into the air",
        "grab the {cube} box and hold it up",
        "take the {cube} cube off the table",
        "hold the {cube} block above the table",
    ),
    "bin": (
        "put the {cube} cube in the bin",
        "drop the {cube} block into the bin",
        "place the {cube} cube inside the container",
        "throw the {cube} box into the basket",
        "the {cube} cube belongs in the bin",
        "pick up the {cube} block and put it in the tray",
    ),
    "open_drawer": (
        "open the drawer",
        "pull the drawer open",
        "pull out the drawer of the cabinet",
        "slide the drawer out",
        "grab the handle and open the drawer",
        "the drawer should be open",
    ),
    "close_drawer": (
        "close the drawer",
        "push the drawer shut",
        "push the drawer into the cabinet",
        "slide the drawer in",
        "shut the drawer of the cabinet",
        "the drawer should be closed",
    ),
    "stack": (
        "stack the {cube} cube on the {onto} cube",
        "put the {cube} block on top of the {onto} block",
        "place the {cube} cube onto the {onto} cube",
        "build a tower with the {cube} box on the {onto} box",
        "set the {cube} block down on the {onto} one",
        "the {cube} cube should stand on the {onto} cube",
    ),
    "touch": (
        "touch the {cube} cube",
        "reach for the {cube} block",
        "move the gripper to the {cube} cube",
        "tap the {cube} box with the gripper",
        "go to the {cube} cube and touch it",
        "bring the fingers to the {cube} block",
    ),
}
BASELINE = "a robot arm above a table with coloured cubes"
HOLD_SECONDS = 0.5

_SUCCESS = {
    "push": "The middle of the red cube is within 3 cm of the middle of the green target; it lies on the table and is "
    "not held.",
    "lift": "The gripper holds the blue cube, at least 8 cm above where it lay.",
    "bin": "The red cube is between the walls of the bin, its middle below 4.5 cm, and is not held.",
    "open_drawer": "The drawer is open by at least 8 cm of 10.",
    "close_drawer": "The drawer is open by at most 8 mm.",
    "stack": "The middle of the red cube is within 22 mm (sideways) and 10 mm (in height) of where it stands on the "
    "blue cube, and it is not held.",
    "touch": "A finger is within 4 mm of the yellow cube.",
}


def fill(template: str, goal: Goal, cubes: Sequence[str] = CUBES, targets: Sequence[str] = TARGETS) -> str:
    """Return an instruction with the colours that are drawn.

    Args:
        template: With ``{cube}`` and ``{onto}``.
        goal: Whose roles.
        cubes: The drawn colour of each cube, in the order of ``CUBES``.
        targets: The drawn colour of each target, in the order of ``TARGETS``.
    """
    colours: dict[str, str] = dict(zip(CUBES, cubes, strict=True))
    below: dict[str, str] = dict(zip(TARGETS, targets, strict=True)) if goal.kind == "push" else colours
    return template.format(cube=colours.get(goal.cube, ""), onto=below.get(goal.onto, ""))


def instructions(task: str, cubes: Sequence[str] = CUBES, targets: Sequence[str] = TARGETS) -> tuple[str, ...]:
    """Return the sentences that ask for a task: its goal first, then the paraphrases."""
    return tuple(fill(template, GOALS[task], cubes, targets) for template in INSTRUCTIONS[task])


TASKS: dict[str, Task] = {
    name: Task(name, instructions(name)[0], BASELINE, HOLD_SECONDS, _SUCCESS[name]) for name in GOALS
}
