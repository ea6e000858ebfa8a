"""``label`` over every format: again, and on datasets of which a part can't be read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from vlmreward.data import find_format, list_formats, open_dataset
from vlmreward.data.dataset import Recording

EPISODES = 4
LABEL = ("label", "dataset=set", "encoder=fake", "force=true")


def write(kind: str, episodes: int = EPISODES) -> Path:
    create = find_format(kind).create
    assert create is not None
    writer = create(Path("set"), fps=10.0, env_id="Noise-v0")
    for number in range(episodes):
        frames = np.random.default_rng(number).integers(0, 256, (8, 32, 32, 3), np.uint8)
        seen = np.zeros((8, 2), np.float32)
        writer.add(Recording({"front": frames}, seen, seen[1:], seen[1:, 0], False, True, "open it"))
    writer.finish()
    return Path("set")


def stamps(root: Path) -> dict[str, tuple[int, int]]:
    return {str(p): (p.stat().st_mtime_ns, p.stat().st_ino) for p in [root, *root.rglob("*")]}


def lose_an_episode(kind: str) -> None:
    """Damage a dataset so that its second episode can't be read; in LeRobot's, half of the film is missing."""
    if kind == "folder":
        (Path("set") / "episodes/000001.npz").unlink()
    elif kind == "lerobot":
        (film,) = Path("set").rglob("*.mp4")
        film.write_bytes(film.read_bytes()[: film.stat().st_size // 2])
    else:
        path, group = {"robomimic": ("demo.hdf5", "data/demo_1"), "minari": ("data/main_data.hdf5", "episode_1")}[kind]
        with h5py.File(Path("set") / path, "r+") as file:
            for name in ("actions", "rewards"):
                del file[f"{group}/{name}"]


def test_every_format_has_a_case() -> None:
    assert {"folder", "lerobot", "minari", "robomimic"} == set(list_formats())


@pytest.mark.parametrize("kind", list_formats())
def test_same_run_again_changes_nothing_and_says_so(cli: Any, refused: Any, kind: str) -> None:
    root = write(kind)
    assert cli(*LABEL).code == 0
    before = stamps(root)
    outcome = cli(*LABEL)
    assert (outcome.code, outcome.err) == (0, "")
    (line,) = outcome.out.splitlines()
    assert "reward_vlm is there already, from this very run" in line
    assert stamps(root) == before
    refused(cli(*LABEL, "goal=close it"), "label", "is there already, from run", "overwrite=true")
    assert stamps(root) == before
    assert cli(*LABEL, "goal=close it", "overwrite=true").code == 0
    assert stamps(root) != before


@pytest.mark.parametrize("kind", list_formats())
def test_what_can_not_be_read_is_told_and_refused_above_max_invalid(cli: Any, kind: str) -> None:
    root = write(kind)
    lose_an_episode(kind)
    before = stamps(root)
    outcome = cli(*LABEL)
    assert outcome.code == 2
    assert "problem: " in outcome.out
    assert "max_invalid=0.01" in outcome.err
    assert stamps(root) == before
    if kind != "lerobot":  # there, pictures are lost, and no episode
        assert f"1 of {EPISODES} episodes can't be read and get no labels" in outcome.out
        assert f"1 of {EPISODES} episodes can't be read (max_invalid=0.01), and nothing was written" in outcome.err
        assert not list(Path("runs").rglob("labels-*/*.npz")), "it was refused before the work"


@pytest.mark.parametrize("kind", list_formats())
def test_what_can_be_read_is_labelled_where_the_user_allows_it(cli: Any, kind: str) -> None:
    write(kind)
    lose_an_episode(kind)
    outcome = cli(*LABEL, "max_invalid=1")
    if kind == "lerobot":  # half a film may have lost its table of contents, and all pictures with it
        assert "frames have no label" in outcome.out
        return
    assert outcome.code == 0, outcome.err
    dataset = open_dataset("set")
    assert [episode.name for episode in dataset.episodes] != [str(i) for i in range(EPISODES)]
    assert len(dataset.episodes) == EPISODES - 1
    for episode in dataset.episodes:
        assert dataset.column(episode, "reward_vlm_valid").all()
    (result,) = Path("runs").rglob("result.json")
    assert json.loads(result.read_text())["episodes_left_out"] == 1
    assert "3 (7 rows each), 1 more can't be read" in cli("inspect", "dataset=set").out.replace("7 to 7", "7")


def test_only_a_handful_of_problems_is_told(cli: Any) -> None:
    write("folder", episodes=9)
    for number in range(8):
        (Path("set") / f"episodes/{number:06d}.npz").unlink()
    lines = cli("label", "dataset=set", "--dry-run").out.splitlines()
    assert sum(line.startswith("problem: ") for line in lines) == 5
    assert lines[5:7] == [
        "and 3 more: vlmreward inspect dataset=set",
        "8 of 9 episodes can't be read and get no labels",
    ]


def test_episode_without_rows_is_told_and_counts_as_nothing(cli: Any) -> None:
    write("robomimic")
    with h5py.File("set/demo.hdf5", "r+") as file:
        del file["data/demo_1/actions"]
        file["data/demo_1/actions"] = np.zeros((0, 2), np.float32)
    outcome = cli(*LABEL)
    assert outcome.code == 0, outcome.err
    assert "problem: demo_1: it has no rows" in outcome.out
    assert "can't be read" not in outcome.out
