"""Names and sizes of what stands on the table, and how a state is laid out; all lengths in metres.

Seen from the front camera x points right, y away and z up; the top of the table is z = 0.
"""

from __future__ import annotations

CUBES = ("red", "blue", "green", "yellow")  # roles; other splits draw them in other colours
TARGETS = ("green", "white")
CUBE_HALF = 0.025
TARGET_HALF = 0.045
BIN_HALF = 0.06  # half of the bin's inner width
BIN_HEIGHT = 0.04
BIN_WALL = 0.004  # half thickness

DRAWER_TRAVEL = 0.10
CABINET_X = -0.255
CABINET_FRONT = 0.10  # y of the front of the closed drawer
HANDLE_REACH = 0.035  # how far the handle stands out of the front
HANDLE_Z = 0.045

WORKSPACE = ((-0.31, 0.31), (-0.24, 0.17), (0.022, 0.24))  # of the point between the finger pads
FINGER_OPEN = 0.042  # of one finger's inner face from the middle
FINGER_CLOSED = 0.001
FINGER_HALF = (0.006, 0.013, 0.03)
FINGER_LIFT = 0.012  # centre of a finger above the point that is moved, which lies between the pads
PALM_Z = 0.055  # of the palm above that point
WRIST_Z = 0.11  # of the joint between arm and gripper above it

# The state: joint positions (three slides of the gripper, two fingers, the drawer, seven numbers for each cube), the
# command of the gripper (0 closed, 1 open), x and y of each target, x and y of the bin.
GRIPPER, FINGERS, DRAWER = slice(0, 3), slice(3, 5), 5
CUBES_START, CUBE_SIZE = 6, 7
NQ = CUBES_START + CUBE_SIZE * len(CUBES)
GRIP = NQ
TARGETS_START = NQ + 1
BIN = slice(TARGETS_START + 2 * len(TARGETS), TARGETS_START + 2 * len(TARGETS) + 2)
STATE_SIZE = BIN.stop


def cube_slice(cube: int) -> slice:
    """Return where the place (x, y, z) of a cube stands in the state."""
    start = CUBES_START + CUBE_SIZE * cube
    return slice(start, start + 3)


def target_slice(target: int) -> slice:
    """Return where the place (x, y) of a target stands in the state."""
    start = TARGETS_START + 2 * target
    return slice(start, start + 2)
