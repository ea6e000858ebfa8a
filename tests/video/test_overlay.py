import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw

from vlmreward.errors import ConfigError, FramesError, VlmRewardError
from vlmreward.video.overlay import (
    BACKGROUND,
    CURSOR,
    CURVE,
    MARKS,
    Overlay,
    OverlaySettings,
    annotate,
    draw_mark,
    load_font,
    missing_letters,
    wrap_text,
)


def pixels(picture, colour):
    """Rows and columns of the pixels that have exactly this colour."""
    return np.argwhere((picture == np.array(colour, np.uint8)).all(axis=-1))


def noise(count, height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, height, width, 3), dtype=np.uint8)


def test_picture_above_the_band_is_untouched_whatever_is_drawn():
    frames = noise(5, 200, 400)
    rewards, success = [np.nan, 0, 1, -5, 1e9], [None, True, False, True, None]
    for drawn, frame in zip(annotate(frames, rewards, success, "g" * 400, 0.1), frames, strict=True):
        assert np.array_equal(drawn[:200], frame)
        assert drawn.shape[0] > 200
        assert drawn.shape[1] == 400


def test_small_picture_is_enlarged_by_a_whole_factor_without_blending():
    frame = noise(1, 96, 96)
    (drawn,) = annotate(frame, [0.5], [None], "up", 0.1)
    assert drawn.shape[1] == 384  # 96 * 4, the first multiple that is at least 320
    assert np.array_equal(drawn[2 : 96 * 4 : 4, 1:384:4], frame[0])


def test_curve_points_agree_with_numbers_worked_out_by_hand():
    overlay = Overlay((100, 401), "up", [2.0, 4.0, 3.0, np.nan, 2.5], [None] * 5, 0.1)
    left, top, right, bottom = overlay.plot
    assert overlay.curve_point(0) == (left, bottom)  # lowest reward, first picture
    assert overlay.curve_point(1) == (left + round((right - left) / 4), top)  # highest reward, a quarter of the way
    assert overlay.curve_point(2) == (left + round((right - left) / 2), bottom - round((bottom - top) / 2))
    assert overlay.curve_point(4) == (right, bottom - round((bottom - top) / 4))


def test_cursor_is_drawn_at_the_point_and_the_future_of_the_curve_is_not():
    rewards = [0.0, 1.0, 0.0, np.nan, 1.0, 0.5, np.nan]
    overlay = Overlay((100, 400), "", rewards, [None] * 7, 0.1)
    drawn = overlay.draw(2, np.zeros((100, 400, 3), np.uint8))
    x, y = overlay.curve_point(2)
    assert tuple(drawn[y, x]) == CURSOR
    left, top, right, bottom = overlay.plot
    curve = pixels(drawn[top : bottom + 1, left : right + 1], CURVE)
    assert curve[:, 1].max() + left <= x + 3
    assert curve[:, 1].min() + left <= left + 1
    assert tuple(drawn[top + 1, overlay.curve_point(1)[0]]) == CURVE  # the peak it has passed


def test_curve_has_a_gap_where_a_frame_has_no_reward():
    rewards = np.zeros(41)
    rewards[10:30] = np.nan
    overlay = Overlay((100, 800), "", rewards, [None] * 41, 0.1)
    drawn = overlay.draw(40, np.zeros((100, 800, 3), np.uint8))
    left, top, _, bottom = overlay.plot
    columns = set(pixels(drawn[top - 2 : bottom + 3], CURVE)[:, 1])
    gap = range(overlay.curve_point(9)[0] + 3, overlay.curve_point(30)[0] - 2)
    assert len(gap) > 100
    assert not columns & set(gap)
    assert set(range(left, overlay.curve_point(9)[0])) <= columns


def test_constant_reward_runs_through_the_middle():
    overlay = Overlay((100, 400), "", [7.0] * 3, [None] * 3, 0.1)
    _, top, _, bottom = overlay.plot
    assert {overlay.curve_point(i)[1] for i in range(3)} == {bottom - round((bottom - top) / 2)}


@pytest.mark.parametrize("state", [True, False, None])
def test_success_mark_shows_the_state_and_no_other(state):
    overlay = Overlay((100, 400), "up", [np.nan], [state], 0.1)
    band = overlay.draw(0, np.zeros((100, 400, 3), np.uint8))[100:]
    own_corner = band[:, -30:]
    for other in (True, False):
        assert bool(len(pixels(own_corner, MARKS[other]))) == (other is state)
    if state is None:  # the dash is a bar: wide and thin
        dash = pixels(own_corner[: overlay.plot[1] - 104], MARKS[None])
        assert np.ptp(dash[:, 1]) > 3 * np.ptp(dash[:, 0])


def test_marks_are_told_apart_by_shape_not_only_by_colour():
    shapes = {}
    for state in (True, False, None):
        picture = Image.new("RGB", (40, 40))
        draw_mark(ImageDraw.Draw(picture), (0, 0), 40, state)
        shapes[state] = np.asarray(picture).any(axis=-1)
    tick, cross, dash = (shapes[state] for state in (True, False, None))
    assert np.ptp(np.argwhere(dash)[:, 0]) < 10  # a flat bar
    assert (cross ^ cross[::-1]).sum() < 0.5 * cross.sum()  # upside down the cross is nearly the same
    assert (tick ^ tick[::-1]).sum() > 0.8 * tick.sum()  # the tick is not
    assert np.ptp(np.argwhere(cross)[:, 0]) > 25


@pytest.mark.parametrize("letter", "ößÄéłčαЖ…“—°%")
def test_font_has_letters_of_latin_greek_and_cyrillic(letter):
    def glyph(text):
        picture = Image.new("L", (48, 48))
        ImageDraw.Draw(picture).text((4, 4), text, font=load_font(24), fill=255)
        return picture.tobytes()

    assert glyph(letter) != glyph("\uffff")  # the box that stands for a missing letter


def test_goal_in_another_language_changes_the_band():
    def band(goal):
        return next(annotate(noise(1, 64, 320), [0.0], [None], goal, 0.1))[64:]

    assert not np.array_equal(band("größer, 70 %"), band("grösser, 70 %"))


@given(st.text(max_size=80), st.integers(30, 300), st.integers(1, 4))
@settings(max_examples=60, deadline=None)
def test_wrapped_lines_fit_and_lose_nothing_unless_cut(text, width, lines):
    font = load_font(12)
    wrapped = wrap_text(text, font, width, lines)
    assert 1 <= len(wrapped) <= lines
    for line in wrapped:
        assert font.getlength(line) <= width or len(line) <= 2
    if not wrapped[-1].endswith("…"):
        assert "".join("".join(wrapped).split()) == "".join(text.split())


def test_too_long_goal_ends_in_an_ellipsis_on_the_last_line():
    assert wrap_text("word " * 100, load_font(12), 100, 2)[1].endswith("…")


def test_all_pictures_of_an_episode_have_even_sides_and_one_size():
    frames = noise(3, 333, 351)
    sizes = {drawn.shape for drawn in annotate(frames, [1, 2, 3], [None] * 3, "up", 0.02, note="seed 0")}
    ((height, width, _),) = sizes
    assert height % 2 == 0
    assert width == 352


def test_band_of_a_first_picture_without_reward_says_so():
    overlay = Overlay((64, 640), "", [np.nan, 0.25], [None] * 2, 0.5)
    first, second = (overlay.draw(i, np.zeros((64, 640, 3), np.uint8))[64:] for i in range(2))
    assert len(pixels(first, CURVE)) < len(pixels(second, CURVE))
    assert not len(pixels(first, CURSOR))
    assert len(pixels(second, CURSOR))


def test_settings_decide_the_height_of_the_curve():
    plain = Overlay((64, 640), "", [0.0, 1.0], [None] * 2, 0.5)
    high = Overlay((64, 640), "", [0.0, 1.0], [None] * 2, 0.5, settings=OverlaySettings(curve_height=200))
    assert plain.plot[3] - plain.plot[1] == 640 // 8 - 1
    assert high.plot[3] - high.plot[1] == 199
    assert tuple(high.draw(0, np.zeros((64, 640, 3), np.uint8))[-1, 0]) == BACKGROUND


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"rewards": [1.0]}, "one value"),
        ({"success": [None]}, "one value"),
        ({"rewards": [1.0] * 3, "success": [None] * 3}, "one value for each of 2 frames"),
        ({"frames": np.zeros((2, 8, 8, 3))}, "uint8"),
        ({"frames": np.zeros((0, 8, 8, 3), np.uint8)}, "N > 0"),
    ],
)
def test_wrong_input_is_refused_in_one_line(change, words):
    given_ = {"frames": noise(2, 64, 64), "rewards": [1.0, 2.0], "success": [None, None], **change}
    with pytest.raises(VlmRewardError, match=words) as caught:
        list(annotate(**given_, goal="up", seconds_per_frame=0.1))
    assert "\n" not in str(caught.value)


def test_episode_without_frames_is_refused():
    with pytest.raises(FramesError, match="at least one"):
        Overlay((64, 64), "up", [], [], 0.1)


@pytest.mark.parametrize(
    "wrong", [{"min_width": 8}, {"goal_lines": 0}, {"text_height": -1}, {"font": "no-such-font.ttf"}]
)
def test_settings_out_of_range_are_refused_by_name(wrong):
    (name,) = wrong
    with pytest.raises(ConfigError, match=name):
        OverlaySettings(**wrong)


def test_file_that_is_no_font_is_refused(tmp_path):
    path = tmp_path / "font.ttf"
    path.write_text("no font")
    with pytest.raises(ConfigError, match="can't read the font"):
        Overlay((64, 64), "up", [1.0], [None], 0.1, settings=OverlaySettings(font=str(path)))


def test_letters_that_the_font_lacks_are_named_once():
    assert missing_letters("größer, πλάτος, прямо — a  b\n") == ""
    assert missing_letters("倒立, 倒") == "倒立"
