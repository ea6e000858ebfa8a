from __future__ import annotations

import json
import math
import subprocess
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from vlmreward.agents.evaluation import Episode
from vlmreward.cli.pictures import TakePictures, fine_twin, make_clip, picture_stride
from vlmreward.cli.settings import EnvSettings
from vlmreward.errors import ConfigError, RenderingError
from vlmreward.video.recorder import find_ffmpeg
from vlmreward.video.spool import FrameSpool

RANDOM = ("env=cartpole", "encoder=fake", "policy=random", "episodes=1")


def count_pictures(path: Path) -> tuple[int, tuple[int, int]]:
    """Decode a film; return how many pictures it has and their size."""
    done = subprocess.run(
        [find_ffmpeg(), "-i", str(path), "-f", "null", "-"], capture_output=True, text=True, check=True
    )
    import re

    frames = re.findall(r"frame=\s*(\d+)", done.stderr)[-1]
    width, height = re.search(r"Video:.*? (\d{2,5})x(\d{2,5})", done.stderr).groups()  # type: ignore[union-attr]
    return int(frames), (int(width), int(height))


@pytest.mark.parametrize("repeat", [1, 2])
def test_film_and_gif_are_named_after_the_run(cli: Any, tmp_path: Path, repeat: int) -> None:
    outcome = cli("record", *RANDOM, "size=200", f"env.action_repeat={repeat}")
    assert outcome.code == 0, outcome.err
    assert sorted(p.name for p in (tmp_path / "videos").iterdir()) == [
        "cartpole__clip__random__seed0.gif",
        "cartpole__clip__random__seed0.mp4",
    ]
    pictures, (width, _) = count_pictures(tmp_path / "videos" / "cartpole__clip__random__seed0.mp4")
    assert pictures == 101  # 200 steps of 0.02 s at every second one (every action that is held for two), and the reset
    assert width >= 200
    assert "episode 1: success no" in outcome.out


def test_rewards_are_those_of_the_frames_at_training_quality(cli: Any, tmp_path: Path) -> None:
    """The film's VLM return equals the evaluation's on the same seed, though its pictures are larger."""
    outcome = cli("record", *RANDOM, "seed=5", "size=300", "formats=[mp4]")
    assert cli("evaluate", *RANDOM, "seed=5", "out=x.json").code == 0
    value = json.loads((tmp_path / "x.json").read_text())["evaluation"]["vlm_return"]["mean"]
    assert f"VLM return {value:.4g}" in outcome.out


def test_one_format_needs_no_brackets(cli: Any, tmp_path: Path) -> None:
    assert cli("record", *RANDOM, "size=0", "formats=png").code == 0
    assert [p.name for p in (tmp_path / "videos").iterdir()] == ["cartpole__clip__random__seed0.png"]


def test_clips_of_different_goals_stand_beside_each_other(cli: Any, tmp_path: Path) -> None:
    short = ("n_envs=2", "agent.n_steps=50", "agent.batch_size=50", "total_timesteps=100", "eval.episodes=1")
    assert cli("train", "env=cartpole", "encoder=fake", "agent=ppo", *short, "run_dir=run").code == 0
    for asked in (
        (),
        ("env.task=upright",),
        ("env.task=left",),
        ("goal=cart at the right end of the track",),
        ("goal=It's a [dance], 100 %",),
        ("goal=倒立",),
        ("goal=a dance", "env.task=left"),
        ("env.kwargs.start=upright",),
        ("checkpoint=100", "deterministic=false"),
        ("baseline=a cart",),
        ("policy=zero", "deterministic=false"),  # nothing is sampled
    ):
        outcome = cli("record", "run=run", "episodes=1", "size=0", "formats=png", *asked)
        assert outcome.code == 0, outcome.err
    assert {p.name for p in (tmp_path / "videos").iterdir()} == {
        "cartpole__clip__ppo__seed0.png",
        "cartpole__clip__ppo__seed0__asked-left.png",
        "cartpole__clip__ppo__seed0__asked-right.png",
        "cartpole__clip__ppo__seed0__asked-it-s-a-dance-100.png",
        "cartpole__clip__ppo__seed0__asked-倒立.png",
        "cartpole__clip__ppo__seed0__asked-left__a-dance.png",
        "cartpole__clip__ppo__seed0__start-upright.png",
        "cartpole__clip__ppo__seed0__checkpoint-100__sampled.png",
        "cartpole__clip__ppo__seed0__baseline-a-cart.png",
        "cartpole__clip__zero__seed0.png",
    }


def test_clip_of_a_run_says_what_it_was_trained_on(cli: Any, tmp_path: Path) -> None:
    """Otherwise it would take the place of the clip of the environment's own goal."""
    short = ("n_envs=2", "agent.n_steps=50", "agent.batch_size=50", "total_timesteps=100", "eval.episodes=1")
    goal = "goal=cart at the left end of the track"
    assert cli("train", "env=cartpole", "encoder=fake", "agent=ppo", *short, goal, "run_dir=run").code == 0
    for asked in ((), ("env.task=upright",), ("policy=zero",)):
        assert cli("record", "run=run", "episodes=1", "size=0", "formats=png", *asked).code == 0
    assert {p.name for p in (tmp_path / "videos").iterdir()} == {
        "cartpole__clip__ppo__seed0__left.png",
        "cartpole__clip__ppo__seed0__left__asked-upright.png",
        "cartpole__clip__zero__seed0__left.png",
    }


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ("out=file", "can't write file/cartpole__clip__random__seed0.mp4: a part of the path is a file"),
        ("out=/proc", "can't write /proc/cartpole__clip__random__seed0.mp4"),
        ("out=null", "out must be a folder, got null"),
        ("font=nowhere.ttf", "font=nowhere.ttf is no file"),
        ("font=file", "can't read the font file"),
        ("size=big", "size must be a whole number >= 0, got 'big'"),
        ("fps=0", "fps must be a number >= 1, got 0"),
    ],
)
def test_what_cannot_be_written_or_read_is_told_before_the_episodes(
    cli: Any, refused: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, asked: str, words: str
) -> None:
    monkeypatch.setattr(TakePictures, "reset", lambda self, **kwargs: pytest.fail("an episode began"))
    (tmp_path / "file").write_text("")
    refused(cli("record", *RANDOM, asked), "record", words)
    assert [path.name for path in tmp_path.rglob("*")] == ["file"]


def test_letters_that_the_font_lacks_are_warned_of(cli: Any) -> None:
    outcome = cli("record", *RANDOM, "size=0", "formats=png", "goal=the pole 倒立, größer")
    assert outcome.code == 0
    (line,) = [line for line in outcome.err.splitlines() if "font" in line]
    assert line.startswith("vlmreward record: warning: the font has no letters for '倒立' of the goal")
    assert "font=<path of a .ttf or .otf file>" in line


def test_font_of_the_user_is_drawn_with(cli: Any, tmp_path: Path) -> None:
    from vlmreward.video.overlay import load_font

    font = Path(str(load_font(12).path)).with_name("DejaVuSerif.ttf")
    written = []
    for number, asked in enumerate(((), (f"font={font}",))):
        assert cli("record", *RANDOM, "size=0", "formats=png", f"out={number}", *asked).code == 0
        written.append((tmp_path / str(number) / "cartpole__clip__random__seed0.png").read_bytes())
    assert written[0] != written[1]


def test_clips_without_a_run_are_named_after_what_is_not_the_environments_own(cli: Any, tmp_path: Path) -> None:
    for task in ("upright", "left"):
        assert cli("record", *RANDOM, "size=0", "formats=png", f"env.task={task}").code == 0
    assert sorted(p.name for p in (tmp_path / "videos").iterdir()) == [
        "cartpole__clip__random__seed0.png",
        "cartpole__clip__random__seed0__left.png",
    ]


class Wanders(gym.Env):
    """Does not repeat itself."""

    metadata = {"render_fps": 10}  # noqa: RUF012
    observation_space = gym.spaces.Box(0, 1, (1,))
    action_space = gym.spaces.Discrete(2)
    render_mode = "rgb_array"

    def reset(self, **kwargs: Any) -> tuple[np.ndarray, dict]:
        return np.random.default_rng().random(1), {}


def test_environment_that_does_not_repeat_itself_is_refused() -> None:
    with FrameSpool() as spool, pytest.raises(RenderingError, match="does not repeat itself"):
        TakePictures(Wanders(), Wanders(), 1, spool).reset(seed=0)


@pytest.mark.parametrize(("own", "most", "expected"), [(50, 30, (2, 25)), (30, 30, (1, 30)), (67, 30, (3, 67 / 3))])
def test_film_runs_in_real_time(own: int, most: float, expected: tuple[int, float]) -> None:
    env = Wanders()
    env.metadata = {"render_fps": own}
    assert picture_stride(env, most) == pytest.approx(expected)


def test_film_too_slow_to_show_is_refused_before_its_episodes() -> None:
    env = Wanders()
    env.metadata = {"render_fps": 0.05}
    with pytest.raises(ConfigError, match=r"fps must be between 0.1 and 240, got 0.05"):
        picture_stride(env, 30)


def test_twin_keeps_the_shape_of_the_picture() -> None:
    settings = EnvSettings("x", "X-v0", {"quality": "fast", "width": 60, "height": 40})
    twin = fine_twin(settings, 480)
    assert twin is not None
    assert dict(twin.kwargs) == {"quality": "fine", "width": 480, "height": 320}
    assert twin.action_repeat == 1
    assert fine_twin(settings, 0) is None
    held = fine_twin(EnvSettings("x", "X-v0", {"quality": "fast"}, action_repeat=3), 480)
    assert held is not None
    assert held.action_repeat == 3
    assert fine_twin(EnvSettings("x", "X-v0", {}), 480) is None


def test_clip_pairs_pictures_with_their_steps() -> None:
    pictures = np.stack([np.full((4, 4, 3), value, np.uint8) for value in (0, 2, 4)])
    episode = Episode(0, [0.0] * 5, [False, False, True, True, True], [10.0, 20.0, 30.0, 40.0, 50.0])
    clip = make_clip(pictures, episode, stride=2)
    assert math.isnan(np.asarray(clip.rewards)[0])
    assert np.asarray(clip.rewards)[1:].tolist() == [20.0, 40.0]
    assert list(clip.success) == [False, False, True]
    unknown = make_clip(pictures, Episode(0, [0.0] * 5, [None] * 5, [1.0] * 5), stride=2)
    assert list(unknown.success) == [None, None, None]
