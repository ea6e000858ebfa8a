"""Labelled pictures of one's own: what is read, and one line for everything that is wrong."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vlmreward.audit.folder import read_folder
from vlmreward.errors import ConfigError


def write(folder: Path, lines: list[str], pictures: int = 3, size: tuple[int, int] = (8, 6)) -> Path:
    folder.mkdir(exist_ok=True)
    for i in range(pictures):
        Image.fromarray(np.full((size[1], size[0], 3), 40 * i, np.uint8)).save(folder / f"{i}.png")
    path = folder / "labels.csv"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


GOOD = ["file,success,progress,episode,step", "0.png,0,0.1,a,0", "1.png,1,0.9,a,1", "2.png,false,-3,b,0"]


def test_reads_pictures_and_labels_in_order(tmp_path):
    write(tmp_path, GOOD)
    (block,) = read_folder(tmp_path)
    assert block.frames.shape == (3, 6, 8, 3)
    assert block.frames[:, 0, 0, 0].tolist() == [0, 40, 80]
    np.testing.assert_array_equal(block.success, [False, True, False])
    np.testing.assert_array_equal(block.progress, [0.1, 0.9, -3.0])
    assert (block.episode.tolist(), block.step.tolist()) == ([0, 0, 1], [0, 1, 0])


def test_without_episodes_every_picture_stands_alone(tmp_path):
    (block,) = read_folder(write(tmp_path, ["file,success", "0.png,0", "1.png,1", "2.png,1"]))
    assert block.episode.tolist() == [0, 1, 2]
    assert block.step.tolist() == [0, 0, 0]
    assert block.progress is None


def test_steps_follow_the_rows_where_they_are_not_given(tmp_path):
    (block,) = read_folder(write(tmp_path, ["file,success,episode", "0.png,0,x", "1.png,1,y", "2.png,1,x"]))
    assert block.step.tolist() == [0, 0, 1]


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["file,success"], "lists no pictures"),
        (["picture,success", "0.png,1"], r"has no column 'file', got \['picture', 'success'\]"),
        (["file,label", "0.png,1"], "neither a column success nor progress"),
        (["file,success", "0.png,1", "1.png,1"], "all 2 rows of .* have success 1: an audit needs both kinds"),
        (["file,progress", "0.png,2", "1.png,2.0"], "all 2 rows of .* have the same progress"),
        (["file,success", "0.png,1", "1.png,maybe"], "line 3 of .*: success must be 0 or 1, got 'maybe'"),
        (["file,progress", "0.png,1", "1.png,nan"], "line 3 of .*: progress must be a number, got 'nan'"),
        (["file,progress,step", "0.png,1,x", "1.png,2,1"], "line 2 of .*: step must be a whole number, got 'x'"),
        (["file,success", "0.png,1", "9.png,0"], r"line 3 of .* names '9\.png', which is not there"),
        (["file,success", "0.png,1", "../x.png,0"], r"line 3 of .* names a file outside its folder, '\.\./x\.png'"),
        (["file,success", "0.png,1,7", "1.png,0"], "line 2 of .* has another number of values"),
        (["file,success", "0.png,1", "labels.csv,0"], "can't be read as a picture"),
    ],
)
def test_what_is_wrong_is_told_in_one_line(tmp_path, lines, message):
    with pytest.raises(ConfigError, match=message):
        list(read_folder(write(tmp_path / "frames", lines)))


def test_a_link_out_of_the_folder_is_not_followed(tmp_path):
    Image.fromarray(np.zeros((6, 8, 3), np.uint8)).save(tmp_path / "secret.png")
    path = write(tmp_path / "frames", ["file,success", "0.png,1", "link.png,0"])
    (tmp_path / "frames" / "link.png").symlink_to(tmp_path / "secret.png")
    with pytest.raises(ConfigError, match="outside its folder"):
        list(read_folder(path))


def test_pictures_of_two_sizes_are_refused(tmp_path):
    path = write(tmp_path, GOOD)
    Image.fromarray(np.zeros((9, 8, 3), np.uint8)).save(tmp_path / "2.png")
    with pytest.raises(ConfigError, match=r"pictures of different sizes: .*2\.png is 8 x 9, .*0\.png is 8 x 6"):
        list(read_folder(path))


def test_an_empty_folder_or_none_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="holds 0 CSV files"):
        list(read_folder(tmp_path))
    with pytest.raises(ConfigError, match="no labels at"):
        list(read_folder(tmp_path / "nowhere.csv"))
