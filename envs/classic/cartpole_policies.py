"""Policies for cart-pole that need no learning: one swings the pole up and balances it, one makes it hang."""

from __future__ import annotations

import numpy as np

from vlmreward.types import FloatArray

NOTHING, LEFT, RIGHT = 0, 1, 2


def swing_up(obs: FloatArray) -> int:
    """Pump energy until the pole stands, then balance it near the middle of the track.

    Args:
        obs: Observation of ``CartPoleEnv``, shape (5,).
    """
    x, speed, cos, sin, spin = obs[0] * 2.4, obs[1] * 3.0, obs[2], obs[3], obs[4] * 6.0
    angle = float(np.arctan2(sin, cos))
    if abs(angle) < 0.6 and abs(spin) < 5.0:
        push = 40.0 * angle + 10.0 * spin + 1.0 * x + 2.5 * speed
        return NOTHING if abs(push) < 5.0 else (RIGHT if push > 0 else LEFT)
    energy = 0.5 * spin**2 + 14.7 * (cos - 1.0)  # 0 for a pole that stands still upright
    push = (energy - 1.0) * spin * cos - (3.0 * x + speed if abs(x) > 1.5 else 0.0)
    if abs(spin) < 0.1 and cos < -0.9:
        push = -x + 0.1
    return RIGHT if push > 0 else LEFT


def hang(obs: FloatArray) -> int:
    """Take energy out of the pole.

    Args:
        obs: Observation of ``CartPoleEnv``, shape (5,).
    """
    push = obs[4] * obs[2]
    return NOTHING if abs(push) < 0.02 else (RIGHT if push > 0 else LEFT)


POLICIES = {"swing_up": swing_up, "hang": hang}
"""By name."""
