"""A state as one vector, and its place in MuJoCo's data."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

from vlmreward.envs.mujoco.tabletop.constants import (
    BIN,
    CUBE_HALF,
    CUBE_SIZE,
    CUBES_START,
    FINGER_CLOSED,
    FINGER_OPEN,
    FINGERS,
    GRIP,
    GRIPPER,
    NQ,
    STATE_SIZE,
    TARGETS,
    target_slice,
)
from vlmreward.envs.mujoco.tabletop.model import load_model
from vlmreward.errors import ConfigError

State = npt.NDArray[np.float64]


def empty_state() -> State:
    """Return a state with everything at the origin: gripper open, drawer closed, cubes upright."""
    state = np.zeros(STATE_SIZE)
    state[FINGERS], state[GRIP] = FINGER_OPEN, 1.0
    for start in range(CUBES_START, NQ, CUBE_SIZE):
        state[start + 2], state[start + 3] = CUBE_HALF, 1.0
    return state


def check_state(state: npt.ArrayLike) -> State:
    """Return a state as float64.

    Raises:
        ConfigError: It is not ``STATE_SIZE`` finite numbers.
    """
    array = np.asarray(state, np.float64)
    if array.shape != (STATE_SIZE,) or not np.isfinite(array).all():
        raise ConfigError(f"a state of the tabletop is {STATE_SIZE} finite numbers, got shape {array.shape}")
    return array


def write_state(data: Any, state: State) -> None:
    """Put a state into an ``mujoco.MjData``, the controls holding it; velocities are left as they are."""
    data.qpos[:] = state[:NQ]
    data.ctrl[:3] = state[GRIPPER]
    data.ctrl[3:] = FINGER_OPEN if state[GRIP] > 0.5 else FINGER_CLOSED
    mocap = _mocap()
    for number in range(len(TARGETS)):
        data.mocap_pos[mocap[number], :2] = state[target_slice(number)]
        data.mocap_pos[mocap[number], 2] = 0.0015
    data.mocap_pos[mocap[-1], :2] = state[BIN]


def read_state(data: Any) -> State:
    """Return the state that an ``mujoco.MjData`` is in."""
    state = np.empty(STATE_SIZE)
    state[:NQ] = data.qpos
    state[GRIP] = 1.0 if data.ctrl[3] > FINGER_OPEN / 2 else 0.0
    mocap = _mocap()
    for number in range(len(TARGETS)):
        state[target_slice(number)] = data.mocap_pos[mocap[number], :2]
    state[BIN] = data.mocap_pos[mocap[-1], :2]
    return state


@cache
def _mocap() -> tuple[int, ...]:
    """Return the numbers of the bodies without physics: the targets, then the bin."""
    model = load_model()
    return tuple(int(model.body(name).mocapid[0]) for name in (*(f"{t}_target" for t in TARGETS), "bin"))
