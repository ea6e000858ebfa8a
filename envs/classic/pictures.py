"""Pictures of random states under varied looks, with the facts that are true of them: food for captions.

Colours, lighting, camera window and proportions vary; the state is sampled over everything the environment can
reach, evenly, not as a policy would visit it.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from vlmreward.envs.classic import cartpole, mountaincar
from vlmreward.envs.classic.canvas import Colour, View


def sample_cartpole(
    rng: np.random.Generator, width: int, height: int, varied: bool
) -> tuple[np.ndarray, dict[str, float]]:
    """Draw a cart-pole picture.

    Args:
        rng: Source of the state and of the look.
        width: Pixels.
        height: Pixels.
        varied: False for the environment's own look.

    Returns:
        The picture, uint8, shape (height, width, 3), and the facts of ``cartpole.describe``.
    """
    state = cartpole.sample_state(rng)
    look = cartpole.Appearance()
    if varied:
        light = rng.uniform(150, 255)
        look = replace(
            look,
            background_top=_near(rng, (light, light, light), 40),
            background_bottom=_near(rng, (light, light, light), 40),
            track=_near(rng, (40, 40, 40), 40),
            cart=_near(rng, (40, 40, 40), 50),
            pole=_near(rng, (190, 130, 80), 60),
            axle=_near(rng, (129, 132, 203), 50),
            pole_half_width=rng.uniform(0.045, 0.09),
            cart_half_width=rng.uniform(0.2, 0.32),
            cart_half_height=rng.uniform(0.11, 0.2),
            view=_shifted(rng, cartpole.VIEW, 0.06),
        )
    canvas = cartpole.make_canvas(width, height, "fast", look)
    return _noisy(rng, cartpole.draw(canvas, state, look), varied), cartpole.describe(state)


def sample_mountaincar(
    rng: np.random.Generator, width: int, height: int, varied: bool
) -> tuple[np.ndarray, dict[str, float]]:
    """Draw a mountain-car picture; arguments and result as for ``sample_cartpole``."""
    state = mountaincar.sample_state(rng)
    look = mountaincar.Appearance()
    if varied:
        look = replace(
            look,
            sky_top=_near(rng, look.sky_top, 50),
            sky_bottom=_near(rng, look.sky_bottom, 40),
            mountain=_near(rng, look.mountain, 45),
            car=_near(rng, look.car, 40),
            wheel=_near(rng, (40, 40, 40), 30),
            flag=_near(rng, look.flag, 30),
            flagpole=_near(rng, look.flagpole, 40),
            car_half_length=rng.uniform(0.09, 0.14),
            car_half_height=rng.uniform(0.035, 0.06),
            view=_shifted(rng, mountaincar.VIEW, 0.06),
        )
    canvas = mountaincar.make_canvas(width, height, "fast", look)
    return _noisy(rng, mountaincar.draw(canvas, state, look), varied), mountaincar.describe(state)


def _near(rng: np.random.Generator, colour: tuple[float, float, float], spread: float) -> Colour:
    r, g, b = (int(np.clip(c + rng.uniform(-spread, spread), 0, 255)) for c in colour)
    return r, g, b


def _shifted(rng: np.random.Generator, view: View, share: float) -> View:
    """Move and zoom the camera window by up to a share of its size."""
    width, height = view.right - view.left, view.top - view.bottom
    zoom = rng.uniform(1.0 - share, 1.0 + 2 * share) - 1.0
    dx, dy = rng.uniform(-share, share, 2) * (width, height) * 0.5
    return View(
        view.left + dx - zoom * width / 2,
        view.right + dx + zoom * width / 2,
        view.bottom + dy - zoom * height / 2,
        view.top + dy + zoom * height / 2,
    )


def _noisy(rng: np.random.Generator, frame: np.ndarray, varied: bool) -> np.ndarray:
    """Add sensor noise and change the exposure."""
    if not varied or rng.random() < 0.5:
        return frame
    noise = rng.normal(0.0, rng.uniform(0.0, 8.0), frame.shape)
    return np.clip(frame * rng.uniform(0.85, 1.1) + noise, 0, 255).astype(np.uint8)
