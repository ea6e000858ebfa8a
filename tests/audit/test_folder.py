"""Labelled pictures of one's own: what is read, and one line for everything that is wrong."""

import struct
import zlib
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
        (["file,label", "0.png,1"], r"neither a column success nor progress, got \['file', 'label'\]: add one$"),
        (["file,success", "0.png,1", "1.png,1"], "all 2 rows of .* have success 1: an audit needs both kinds"),
        (["file,progress", "0.png,2", "1.png,2.0"], "all 2 rows of .* have the same progress"),
        (["file,success", "0.png,1", "1.png,maybe"], "line 3 of .*: success must be 0 or 1, got 'maybe'"),
        (["file,progress", "0.png,1", "1.png,nan"], "line 3 of .*: progress must be a number .*, got 'nan'"),
        (["file,progress", "0.png,1", "1.png,-1e308"], "line 3 of .*: progress must be a number below 1e.30 in size"),
        (["file,progress,step", "0.png,1,x", "1.png,2,1"], "line 2 of .*: step must be a whole number .*, got 'x'"),
        (
            ["file,progress,step", f"0.png,1,{2**63}", "1.png,2,1"],
            "line 2 of .*: step must be a whole number of 64 bits",
        ),
        (["file,success", "", "0.png,1", "", "9.png,0"], r"line 5 of .* names '9\.png', which is not there"),
        (["file,success", "0.png,1", "1\0.png,0"], r"line 3 of .* names '1\\x00\.png', which is no path of a file"),
        (["file,success", "0.png,1", f"{'x' * 300},0"], "line 3 of .* names 'xx.*', which is no path of a file"),
        (
            ["file,success,episode,step", "0.png,1,a,3", "1.png,0,b,3", "", "2.png,0,a,3"],
            "lines 2 and 5 of .* are both step 3 of episode 'a'",
        ),
        (["file,success", "0.png,1", "9.png,0"], r"line 3 of .* names '9\.png', which is not there"),
        (["file,success", "0.png,1", "../x.png,0"], r"line 3 of .* names a file outside its folder, '\.\./x\.png'"),
        (["file,success", "0.png,1,7", "1.png,0"], "line 2 of .* has another number of values"),
        (["file,success", "0.png,1", "labels.csv,0"], "can't be read as a picture"),
    ],
)
def test_what_is_wrong_is_told_in_one_line(tmp_path, lines, message):
    with pytest.raises(ConfigError, match=message) as caught:
        list(read_folder(write(tmp_path / "frames", lines)))
    assert "\n" not in str(caught.value)


def test_spaces_around_names_and_values_do_not_matter(tmp_path):
    (block,) = read_folder(write(tmp_path, ["file , success, episode", " 0.png, 0 ,a", "1.png ,1, a"]))
    assert block.frames[:, 0, 0, 0].tolist() == [0, 40]
    assert block.success is not None
    assert block.success.tolist() == [False, True]
    assert block.step.tolist() == [0, 1]


def test_a_picture_that_claims_to_be_huge_is_not_read(tmp_path):
    path = write(tmp_path, GOOD)
    chunks = (
        (b"IHDR", struct.pack(">IIBBBBB", 60000, 60000, 8, 2, 0, 0, 0)),
        (b"IDAT", zlib.compress(b"")),
        (b"IEND", b""),
    )
    (tmp_path / "1.png").write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + b"".join(struct.pack(">I", len(d)) + k + d + struct.pack(">I", zlib.crc32(k + d)) for k, d in chunks)
    )
    with pytest.raises(ConfigError, match=r"1\.png can't be read as a picture: Image size \(3600000000 pixels\)"):
        list(read_folder(path))


def test_labels_that_can_not_be_read_are_told_in_one_line(tmp_path, monkeypatch):
    (tmp_path / "labels.csv").mkdir()
    with pytest.raises(ConfigError, match=r"can't be read \(Is a directory\): give a CSV file"):
        list(read_folder(tmp_path))
    path = write(tmp_path / "frames", GOOD)
    path.write_bytes("file,success\nMünze.png,1\n".encode("latin-1"))
    with pytest.raises(ConfigError, match="is not a CSV file in UTF-8"):
        list(read_folder(path))

    def refuse(*args, **kwargs):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(ConfigError, match=r"labels\.csv can't be read \(Permission denied\)"):
        list(read_folder(path))


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
