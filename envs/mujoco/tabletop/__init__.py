"""The tabletop: a gripper, cubes, targets, a bin and a drawer, with tasks in words, experts and captioned states."""
