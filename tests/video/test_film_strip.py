import numpy as np
import pytest
from PIL import Image

from vlmreward.errors import ConfigError, FramesError, StorageError
from vlmreward.video.film_strip import GAP, choose_frames, film_strip, write_png
from vlmreward.video.overlay import MARKS


def grey(count, size=32):
    """Frame number i is grey of level i."""
    return np.broadcast_to(np.arange(count, dtype=np.uint8)[:, None, None, None], (count, size, size, 3)).copy()


@pytest.mark.parametrize(
    ("total", "count", "expected"),
    [(101, 5, [0, 25, 50, 75, 100]), (3, 8, [0, 1, 2]), (1, 2, [0]), (10, 2, [0, 9])],
)
def test_frames_are_spread_from_the_first_to_the_last(total, count, expected):
    assert choose_frames(total, count) == expected


def test_pictures_stand_in_order_at_their_places():
    strip = film_strip(grey(200), np.zeros(200), count=4, columns=2, width=32)
    assert strip.shape[1] == 2 * (32 + GAP) + GAP
    row = strip.shape[0] // 2
    shown = [tuple(strip[y + 5, GAP + x * (32 + GAP) + 5]) for y in (0, row) for x in (0, 1)]
    assert shown == [(i,) * 3 for i in (0, 66, 133, 199)]


def test_reward_and_success_are_written_below_each_picture():
    rewards = np.full(9, np.nan)
    blank = film_strip(grey(9), rewards, [None] * 9, count=3, width=64)
    rewards[4] = 0.5
    one = film_strip(grey(9), rewards, [None, None, None, None, True, *[None] * 4], count=3, width=64)
    changed = np.argwhere((blank != one).any(axis=-1))
    assert changed[:, 0].min() >= 64  # below the pictures
    assert changed[:, 1].min() > GAP + 64
    assert changed[:, 1].max() < 2 * (64 + GAP) + GAP
    assert (one == MARKS[True]).all(axis=-1).any()
    assert not (blank == MARKS[True]).all(axis=-1).any()


def test_goal_makes_the_strip_higher():
    plain, titled = (film_strip(grey(9), np.zeros(9), goal=goal) for goal in ("", "größer, 70 %"))
    assert titled.shape[0] > plain.shape[0]
    assert titled.shape[1] == plain.shape[1]


def test_png_holds_the_strip(tmp_path):
    strip = film_strip(grey(9), np.zeros(9))
    write_png(tmp_path / "a" / "strip.png", strip)
    with Image.open(tmp_path / "a" / "strip.png") as picture:
        assert np.array_equal(np.asarray(picture), strip)


def test_wrong_input_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="one value for each of 9 frames"):
        film_strip(grey(9), np.zeros(8))
    with pytest.raises(ConfigError, match="one value"):
        film_strip(grey(9), np.zeros(9), [True])
    with pytest.raises(ConfigError, match="at least 2"):
        film_strip(grey(9), np.zeros(9), count=1)
    with pytest.raises(ConfigError, match="columns"):
        film_strip(grey(9), np.zeros(9), columns=0)
    with pytest.raises(FramesError, match="uint8"):
        film_strip(grey(9).astype(float), np.zeros(9))
    with pytest.raises(ConfigError, match=r"\.png"):
        write_png(tmp_path / "strip.jpg", film_strip(grey(9), np.zeros(9)))


def test_unwritable_place_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="not a folder"):
        write_png(tmp_path / "file" / "strip.png", film_strip(grey(9), np.zeros(9)))
