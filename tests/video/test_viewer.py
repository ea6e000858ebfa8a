import base64
import html
import json
import os
import re
import subprocess

import imageio_ffmpeg
import numpy as np
import pytest

from vlmreward.errors import ConfigError, FramesError, StorageError
from vlmreward.video import viewer
from vlmreward.video.viewer import KEYFRAME_EVERY, Curve, ShownEpisode, write_viewer

EVIL = "</script><b>\"'&amp;<!--"


def flat(level, height=48, width=64):
    return np.full((height, width, 3), level, np.uint8)


def ramp(count):
    return np.linspace(0, 1, count, dtype=np.float32)


def episode(pictures, curves=(), title="e", task=""):
    return ShownEpisode(title, task, iter(pictures), curves)


def read_page(path, tmp_path):
    """Return of each episode its facts and its film's pictures."""
    page = path.read_text(encoding="utf-8")
    facts = [json.loads(text) for text in re.findall(r'class="facts">(.*?)</script>', page, re.DOTALL)]
    films = re.findall(r'data-film="data:video/mp4;base64,([^"]*)"', page)
    assert len(facts) == len(films)
    found = []
    for number, film in enumerate(films):
        file = tmp_path / f"{number}.mp4"
        file.write_bytes(base64.b64decode(film, validate=True))
        reader = imageio_ffmpeg.read_frames(str(file))
        width, height = next(reader)["size"]
        found.append((facts[number], [np.frombuffer(raw, np.uint8).reshape(height, width, 3) for raw in reader]))
    return found


def key_frames(path):
    """Return for each stored picture whether it can be decoded alone, in the order of the file."""
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-i", path, "-vf", "showinfo", "-f", "null", "-"]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stderr
    return [kind == "1" for kind in re.findall(r"iskey:(\d)", said)]


def test_each_picture_is_in_its_place_and_a_lost_one_is_grey(tmp_path):
    levels = [10 * i for i in range(25)]
    pictures = [f"lost {i}" if i in (0, 1, 9) else flat(level) for i, level in enumerate(levels)]
    size = write_viewer(tmp_path / "new" / "page.html", "t", [episode(pictures)], 10)
    assert size == (tmp_path / "new" / "page.html").stat().st_size
    ((facts, film),) = read_page(tmp_path / "new" / "page.html", tmp_path)
    assert facts["frames"] == len(film) == 25
    assert facts["lost"] == {"0": "lost 0", "1": "lost 1", "9": "lost 9"}
    for i, level in enumerate(levels):
        assert abs(int(film[i].mean()) - (128 if i in (0, 1, 9) else level)) <= 3, i
    keys = key_frames(tmp_path / "0.mp4")
    assert len(keys) == 25
    assert all(any(keys[i : i + KEYFRAME_EVERY]) for i in range(25 - KEYFRAME_EVERY))


def test_an_episode_of_which_nothing_can_be_decoded_is_grey_throughout(tmp_path):
    write_viewer(tmp_path / "p.html", "t", [episode(["gone"] * 4)], 10)
    ((facts, film),) = read_page(tmp_path / "p.html", tmp_path)
    assert len(film) == 4 == len(facts["lost"])
    assert all(abs(int(picture.mean()) - 128) <= 2 for picture in film)


@pytest.mark.parametrize(
    ("shape", "size", "film"),
    [
        ((480, 640), 320, (240, 320)),
        ((640, 480), 320, (320, 240)),
        ((48, 65), 320, (48, 66)),
        ((2000, 10), 100, (100, 2)),
    ],
)
def test_large_pictures_are_shrunk_and_small_ones_are_not_enlarged(tmp_path, shape, size, film):
    write_viewer(tmp_path / "p.html", "t", [episode([flat(90, *shape)] * 2)], 10, size)
    ((_, pictures),) = read_page(tmp_path / "p.html", tmp_path)
    assert pictures[0].shape[:2] == film


def test_a_picture_of_another_size_is_fitted_with_bars(tmp_path):
    write_viewer(tmp_path / "p.html", "t", [episode([flat(250, 48, 48), flat(250, 24, 48)])], 10)
    ((_, film),) = read_page(tmp_path / "p.html", tmp_path)
    rows = film[1].mean(axis=(1, 2))
    assert np.abs(rows[:10] - 128).max() < 12  # bar above
    assert rows[18:30].min() > 235
    assert np.abs(rows[-10:] - 128).max() < 12  # and below


def test_values_and_reasons_arrive_and_what_is_not_there_is_null(tmp_path):
    values = np.array([0.25, np.nan, np.inf, -1e-9, 123456.789], np.float32)
    curves = [Curve("a", "reward", values, {1: "broken"}, "more"), Curve("a", "progress", ramp(5))]
    write_viewer(tmp_path / "p.html", "t", [episode([flat(0)] * 5, curves)], 29.97)
    ((facts, _),) = read_page(tmp_path / "p.html", tmp_path)
    assert facts["fps"] == 29.97
    assert facts["curves"][0] == {
        "source": "a", "kind": "reward", "about": "more", "values": [0.25, None, None, -1e-9, 123457],
        "reasons": {"1": "broken"},
    }  # fmt: skip
    assert facts["curves"][1]["values"] == [0, 0.25, 0.5, 0.75, 1]


def test_the_frame_of_a_jump_is_listed_for_rewards_alone(tmp_path):
    step = (np.arange(20) >= 12).astype(np.float32)
    curves = [Curve("a", "success", step), Curve("a", "reward", step), Curve("b", "reward", -2 * step)]
    write_viewer(tmp_path / "p.html", "t", [episode([flat(0)] * 20, curves)], 10)
    ((facts, _),) = read_page(tmp_path / "p.html", tmp_path)
    assert facts["surprises"] == [{"curve": 1, "found": [[12, 1, 1]]}, {"curve": 2, "found": [[12, -2, -2]]}]


def test_text_of_datasets_stays_text(tmp_path):
    curves = [Curve(EVIL, "reward", ramp(3), {0: EVIL}, EVIL)]
    write_viewer(tmp_path / "p.html", EVIL, [episode([EVIL, flat(0), flat(9)], curves, EVIL, EVIL)], 10)
    page = (tmp_path / "p.html").read_text(encoding="utf-8")
    assert EVIL not in page
    assert page.count("<script") == page.count("</script>") == 2
    assert "<b>" not in page
    assert page.count(str(html.escape(EVIL)).replace("&quot;", "&#34;").replace("&#x27;", "&#39;")) == 4
    ((facts, _),) = read_page(tmp_path / "p.html", tmp_path)
    assert facts["curves"][0]["source"] == facts["lost"]["0"] == EVIL


@pytest.mark.parametrize(
    ("pictures", "values", "options", "error", "words"),
    [
        ([flat(0)] * 3, ramp(4), {}, FramesError, r"reward of 'a' must have 3 values.*\(4,\)"),
        ([], ramp(0), {}, FramesError, "no picture"),
        ([flat(0)[..., 0]], ramp(1), {}, FramesError, "uint8 of shape"),
        ([flat(0)], ramp(1), {"fps": 0}, ConfigError, "fps must be between"),
        ([flat(0)], ramp(1), {"size": 8}, ConfigError, "size must be at least 16"),
    ],
)
def test_wrong_input_is_refused_and_a_page_that_was_there_stays(tmp_path, pictures, values, options, error, words):
    (tmp_path / "p.html").write_text("old")
    with pytest.raises(error, match=words):
        write_viewer(
            tmp_path / "p.html", "t", [episode(pictures, [Curve("a", "reward", values)])], **{"fps": 10, **options}
        )
    assert [path.name for path in tmp_path.iterdir()] == ["p.html"]
    assert (tmp_path / "p.html").read_text() == "old"


def test_a_failure_in_the_second_episode_leaves_nothing(tmp_path):
    def breaks():
        yield flat(0)
        raise FramesError("the disk of the dataset is gone")

    with pytest.raises(FramesError, match="gone"):
        write_viewer(tmp_path / "p.html", "t", [episode([flat(0)]), episode(breaks())], 10)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_refuses_is_told_in_one_line(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(StorageError, match="no permission"):
        write_viewer(tmp_path / "p.html", "t", [episode([flat(0)])], 10)


def test_what_is_done_is_on_the_disk_before_the_next_film_is_made(tmp_path, monkeypatch):
    """So that a page of many episodes needs no more memory than one of one."""
    real, sizes = viewer._show, []

    def show(*given):
        sizes.append(sum(path.stat().st_size for path in tmp_path.iterdir()))
        return real(*given)

    monkeypatch.setattr(viewer, "_show", show)
    noise = np.random.default_rng(0).integers(0, 256, (30, 64, 64, 3), dtype=np.uint8)
    write_viewer(tmp_path / "p.html", "t", [episode(noise) for _ in range(3)], 10)
    ((_, film), *_) = read_page(tmp_path / "p.html", tmp_path)
    least = len(film) * 64 * 64 / 4  # noise can't be made small
    assert np.diff(sizes).min() > least
