import imageio_ffmpeg
import numpy as np
import pytest
from PIL import Image

from vlmreward.errors import ConfigError, FramesError
from vlmreward.video.episodes import EpisodeClip, annotate_clips, write_clips


def clip(count=6, size=64, level=100):
    return EpisodeClip(np.full((count, size, size, 3), level, np.uint8), [np.nan, *range(1, count)], [None] * count)


def test_every_format_is_written_beside_the_others_under_one_name(tmp_path):
    written = write_clips(
        tmp_path / "cartpole__clip__ppo__seed0.5", [clip(), clip(4)], "up", 10, formats=("mp4", "gif", "png")
    )
    assert {k: p.name for k, p in written.items()} == {
        f: f"cartpole__clip__ppo__seed0.5.{f}" for f in ("mp4", "gif", "png")
    }
    frames, _ = imageio_ffmpeg.count_frames_and_secs(str(written["mp4"]))
    assert frames == 10
    with Image.open(written["gif"]) as gif:
        assert gif.info["loop"] == 0
    with Image.open(written["png"]) as strip:
        assert strip.size[0] > 6 * 100


def test_episodes_follow_one_another_in_frames_of_one_size():
    shown = list(annotate_clips([clip(3, level=10), clip(2, level=200)], "up", 10, note="seed 0"))
    assert [int(f[0, 0, 0]) for f in shown] == [10, 10, 10, 200, 200]
    assert len({f.shape for f in shown}) == 1


def test_number_of_the_episode_is_shown_when_there_are_several():
    alone = list(annotate_clips([clip()], "up", 10, note="seed 0"))
    several = list(annotate_clips([clip(), clip()], "up", 10, note="seed 0"))
    assert not np.array_equal(alone[0], several[0])
    assert not np.array_equal(several[0], several[6])


def test_one_format_may_be_given_by_its_name_alone(tmp_path):
    assert set(write_clips(tmp_path / "a", [clip()], "up", 10, formats="png")) == {"png"}


def test_wrong_input_is_refused_and_nothing_written(tmp_path):
    with pytest.raises(ConfigError, match="unknown video format 'webm': known: gif, mp4, png"):
        write_clips(tmp_path / "a", [clip()], "up", 10, formats=("webm",))
    for form in ("mp4", "gif", "png"):
        with pytest.raises(FramesError, match="at least one"):
            write_clips(tmp_path / "a", [], "up", 10, formats=(form,))
    with pytest.raises(FramesError, match="one size"):
        write_clips(tmp_path / "a", [clip(), clip(size=32)], "up", 10)
    assert list(tmp_path.iterdir()) == []
