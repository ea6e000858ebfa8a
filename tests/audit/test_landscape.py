"""Figures of landscapes whose names hold whatever a user may write."""

import io
import warnings

import numpy as np
import pytest
from PIL import Image

from vlmreward.audit.landscape import Landscape, draw_landscape
from vlmreward.types import Axis, Sweep

X = Axis("position", 0.0, 1.0)
Y = Axis("angle", 0.0, 1.0, "degrees")
BROKEN_MATHS, CHINESE = r"$\frac{$", "站起来"


def line(*names, axis=X):
    values = np.linspace(0, 1, 5)
    rewards = {name: values * (1 + i) for i, name in enumerate(names)}
    return Landscape(Sweep((axis,), lambda x: np.array([x])), (values,), rewards, values > 0.7)


def plane(name, axes=(X, Y)):
    values = np.linspace(0, 1, 5)
    return Landscape(Sweep(axes, lambda x, y: np.array([x, y])), (values, values), {name: np.eye(5)}, None)


def pixels(landscape, title="reward over position"):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        png = draw_landscape(landscape, title)
    return np.asarray(Image.open(io.BytesIO(png)).convert("L"), np.int64)


@pytest.mark.parametrize("name", [BROKEN_MATHS, "_x", CHINESE, "हिन्दी", "a\nb"])
def test_any_name_is_drawn_without_a_word(name):
    plain = pixels(line("other", "x"))
    assert (pixels(line("other", name)) != plain).any()
    assert (pixels(plane(name)) != pixels(plane("x"))).any()
    pixels(line("x"), title=name)
    odd = Axis(name, 0.0, 1.0, name)
    pixels(line("x", axis=odd))
    pixels(plane("x", (odd, odd)))


def test_dollars_are_no_mathematics():
    # as mathematics, spaces would not be drawn
    for draw in (lambda name: line("other", name), plane):
        assert (pixels(draw("$a$")) != pixels(draw("$ a $"))).any()


def test_a_legend_names_every_curve_and_a_line_alone_has_none():
    ink = [(pixels(line(*names)) < 128).sum() for names in (["wwww", "_w"], ["wwww", "_wwww"])]
    assert ink[1] > ink[0]
    assert (pixels(line("a")) == pixels(line("b"))).all()
