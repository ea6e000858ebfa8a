import numpy as np
import pytest

from vlmreward.envs.classic.canvas import Canvas, View
from vlmreward.errors import ConfigError

UNIT = View(left=0.0, right=10.0, bottom=0.0, top=10.0)


def test_box_covers_its_area():
    canvas = Canvas(UNIT, 100, 100, "fine")
    canvas.fill((255, 255, 255), (255, 255, 255))
    canvas.box((5.0, 5.0), 2.0, 1.0, (0, 0, 0))
    dark = (255.0 - canvas.to_array()[..., 0]) / 255.0
    assert dark.sum() == pytest.approx(40 * 20, rel=0.05)


def test_edges_are_antialiased():
    canvas = Canvas(UNIT, 20, 20, "fine")
    canvas.fill((255, 255, 255), (255, 255, 255))
    canvas.box((5.0, 5.0), 2.0, 2.0, (0, 0, 0), angle=0.4)
    assert len(np.unique(canvas.to_array()[..., 0])) > 5


def test_up_in_the_world_is_up_in_the_picture():
    canvas = Canvas(UNIT, 20, 20)
    canvas.fill((0, 0, 0), (0, 0, 0))
    canvas.disc((2.0, 8.0), 1.0, (255, 255, 255))
    rows, columns = np.nonzero(canvas.to_array()[..., 0])
    assert rows.mean() == pytest.approx(3.5, abs=0.6)
    assert columns.mean() == pytest.approx(3.5, abs=0.6)


def test_restore_forgets_what_was_drawn_since():
    canvas = Canvas(UNIT, 20, 20)
    canvas.fill((10, 20, 30), (200, 200, 200))
    canvas.keep_background()
    before = canvas.to_array().copy()
    canvas.disc((5.0, 5.0), 3.0, (255, 0, 0))
    canvas.restore()
    np.testing.assert_array_equal(canvas.to_array(), before)


def test_bad_sizes_and_qualities_are_refused():
    with pytest.raises(ConfigError, match="at least 1 pixel, got 0 x 5"):
        Canvas(UNIT, 0, 5)
    with pytest.raises(ConfigError, match="quality must be one of"):
        Canvas(UNIT, 5, 5, "best")
