"""Datasets that we write and label, loaded by the real LeRobot; and one that it writes, read and labelled by us.

LeRobot needs another Python and another torch, so it lives in an environment of its own (5 GB), made on first use:

    python tests/compat/test_lerobot_roundtrip.py
    VLMREWARD_LEROBOT_ENV=/some/folder pytest tests/compat/test_lerobot_roundtrip.py

Where it can't be had, the test is skipped and says why. Run on 2026-11-28 with lerobot 0.6.1, Python 3.12.1, torch
2.11.0, datasets 4.8.5, av 15.1.0, pyarrow 26.0.1.
"""

# pyright: reportAttributeAccessIssue=false, reportOptionalSubscript=false, reportOptionalCall=false
# frames and lost frames come through one iterator, and formats may lack a writer: a test knows which it is
import hashlib
import json
import math
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vlmreward.data.dataset import Recording
from vlmreward.data.labels import EpisodeLabels, Provenance
from vlmreward.data.lerobot import FORMAT, create_lerobot
from vlmreward.labelling.work_folder import LabelRecord

PACKAGE = "lerobot[dataset]==0.6.1"
WITH_LEROBOT = Path(__file__).with_name("with_lerobot.py")
DEFAULT_ENV = Path("~/.cache/vlmreward/lerobot-0.6.1").expanduser()
ROWS = (9, 4, 13)


class NotToBeHad(Exception):
    """Raised when there can be no environment with LeRobot here."""


def find_environment():
    """Return the Python of an environment with LeRobot; makes it when missing."""
    folder = Path(os.environ.get("VLMREWARD_LEROBOT_ENV", DEFAULT_ENV))
    python = folder / "bin/python"
    if python.exists() and _run(python, "-c", "import lerobot, datasets, av", check=False).returncode == 0:
        return python
    pyenv = sorted(Path("~/.pyenv/versions").expanduser().glob("3.12.*/bin/python3.12"))
    base = shutil.which("python3.12") if not pyenv else str(pyenv[-1])
    if base is None:
        raise NotToBeHad("there is no Python 3.12, which lerobot 0.6 needs")
    if shutil.disk_usage(Path.home()).free < 8 << 30:
        raise NotToBeHad("less than 8 GB are free on the disk")
    folder.parent.mkdir(parents=True, exist_ok=True)
    for command in ([base, "-m", "venv", folder], [python, "-m", "pip", "install", "-q", PACKAGE]):
        done = _run(*command, check=False)
        if done.returncode:
            raise NotToBeHad(f"can't install {PACKAGE}: {(done.stderr.strip().splitlines() or ['?'])[-1]}")
    return python


def _run(*command, check=True):
    # Without our own folders on the path: LeRobot must find its packages, not ours.
    env = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "VIRTUAL_ENV")} | {"HF_HUB_OFFLINE": "1"}
    return subprocess.run([str(c) for c in command], capture_output=True, text=True, check=check, env=env, timeout=1800)


def with_lerobot(python, *arguments):
    """Return what ``with_lerobot.py`` saw."""
    done = _run(python, WITH_LEROBOT, *arguments, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.strip().splitlines()[-1])


class OurLabels:
    """Reward of row t of an episode: 100 times its number, plus t; every fourth row and the last are invalid.

    Progress of frame f of F is f / F, of row t that of frame t + 1; every fourth frame but the first is lost.
    """

    provenance = Provenance("ab" * 8, "mini-1 fp32", "MIT", {}, "a goal", "front", "0.1.0")

    def __init__(self, rows):
        self.rows = rows

    def episode(self, index):
        t = np.arange(self.rows[index])
        valid = (t % 4 != 3) & (t != t[-1])
        reward = np.where(valid, 100 * index + t, np.nan).astype(np.float32)
        return EpisodeLabels(reward, valid, None, np.where(valid, (t + 1) / len(t), np.nan).astype(np.float32))

    def frames(self, index):
        f = np.arange(self.rows[index])
        valid = (f % 4 != 0) | (f == 0)
        none = np.full(len(f), np.nan, np.float32)
        return LabelRecord(none, valid, none, np.where(valid, f / len(f), np.nan).astype(np.float32))

    def __iter__(self):
        return (self.episode(i) for i in range(len(self.rows)))


def label(root):
    """Label a dataset in place and beside it."""
    for name in ("reward_vlm", "sarm_progress"):
        dataset = FORMAT.open(root)
        FORMAT.label(dataset, name).write(OurLabels([e.rows for e in dataset.episodes]))


def videos(root):
    """Return the hash of every video."""
    return {p.relative_to(root): hashlib.sha256(p.read_bytes()).hexdigest() for p in root.rglob("*.mp4")}


def check_labels(root, seen):
    """Compare what LeRobot's reader gave with the labels."""
    dataset = FORMAT.open(root)
    assert dataset.problems() == []
    assert len(seen["rows"]) == sum(e.rows for e in dataset.episodes)
    labels = OurLabels([e.rows for e in dataset.episodes])
    place = 0
    for episode, expected in zip(dataset.episodes, labels, strict=True):
        held_reward = held_progress = 0.0
        for t in range(episode.rows):
            row = seen["rows"][place]
            if expected.valid[t]:
                held_reward, held_progress = float(expected.reward[t]), (t + 1) / episode.rows
            assert row["reward_vlm"] == held_reward
            assert row["reward_vlm_valid"] == bool(expected.valid[t])
            assert math.isclose(row["reward_vlm_progress"], held_progress, rel_tol=1e-6)
            assert (row["episode_index"], row["frame_index"]) == (episode.index, t)
            assert row["task"] == episode.instruction
            following = min(place + 1, place - t + episode.rows - 1)
            assert seen["windows"][place] == [held_reward, seen["rows"][following]["reward_vlm"]]
            begins, ends = t, min(t + 2, episode.rows - 1)
            known = [
                f - 1 if f % 4 == 0 and f > 0 else f for f in (begins, ends)
            ]  # a lost frame repeats the one before
            assert math.isclose(seen["deltas"][place], (known[1] - known[0]) / episode.rows, abs_tol=1e-6)
            place += 1
    assert math.isclose(seen["mean"][0], np.mean([r["reward_vlm"] for r in seen["rows"]]), rel_tol=1e-6)


def check_ours(python, root):
    """Write a dataset, label it, and load it with LeRobot."""
    writer = create_lerobot(root, fps=12.5, env_id="x", robot="arm")
    rng = np.random.default_rng(0)
    recordings = []
    for e, rows in enumerate(ROWS):
        recording = Recording(
            frames={"front": [np.full((48, 64, 3), 20 + 50 * e + 4 * t, np.uint8) for t in range(rows + 1)]},
            observation=rng.normal(size=(rows + 1, 3)).astype(np.float32),
            action=rng.normal(size=(rows, 2)).astype(np.float32),
            reward=np.arange(rows, dtype=np.float32),
            terminated=e != 1,
            truncated=e == 1,
            instruction=("push", "läuft 蓝", "push")[e],
            success=e != 1,
        )
        writer.add(recording)
        recordings.append(recording)
    writer.finish()
    before = videos(root)
    label(root)
    assert videos(root) == before
    seen = with_lerobot(python, "load", root, root / "sarm_progress.parquet")
    check_labels(root, seen)
    place = 0
    for e, recording in enumerate(recordings):
        for t in range(ROWS[e]):
            row = seen["rows"][place]
            assert row["action"] == recording.action[t].tolist()
            assert row["observation.state"] == recording.observation[t].tolist()
            assert row["next.reward"] == t
            assert row["next.done"] == (t == ROWS[e] - 1)
            assert row["next.success"] == (e != 1 and t == ROWS[e] - 1)
            assert abs(row["observation.images.front"] - (20 + 50 * e + 4 * t)) < 2
            place += 1
    return seen["versions"]


def check_theirs(python, root):
    """Let LeRobot write a dataset, read it, label it, and load it with LeRobot again."""
    with_lerobot(python, "make", root)
    dataset = FORMAT.open(root)
    assert dataset.problems() == []
    assert [(e.rows, e.instruction) for e in dataset.episodes] == [(6, "task 0"), (9, "task 1")]
    place = 0
    for episode in dataset.episodes:
        front: list[Any] = list(dataset.frames(episode, "front"))
        wrist: list[Any] = list(dataset.frames(episode, "wrist"))
        seen = dataset.transitions(episode)
        for t in range(episode.rows):
            assert abs(float(front[t].mean()) - (20 + 8 * place)) < 3
            assert float(wrist[t].mean()) == 200 - 8 * place
            assert seen.observation[t].tolist() == [place] * 3
            assert seen.action[t].tolist() == [t] * 2
            place += 1
    before, prints = videos(root), [dataset.fingerprint(c) for c in dataset.cameras]
    label(root)
    assert videos(root) == before
    assert [FORMAT.open(root).fingerprint(c) for c in dataset.cameras] == prints
    check_labels(root, with_lerobot(python, "load", root, root / "sarm_progress.parquet"))


def test_datasets_go_to_lerobot_and_back(tmp_path):
    if "VLMREWARD_LEROBOT_ENV" not in os.environ:
        pytest.skip(
            "an environment of 5 GB: set VLMREWARD_LEROBOT_ENV to a folder for it, or run this file with python"
        )
    try:
        python = find_environment()
    except NotToBeHad as e:
        pytest.skip(str(e))
    check_ours(python, tmp_path / "ours")
    check_theirs(python, tmp_path / "theirs")


def main():
    """Run both checks and print the versions they were run with."""
    try:
        python = find_environment()
    except NotToBeHad as e:
        print(f"skipped: {e}")
        return 0
    with tempfile.TemporaryDirectory() as folder:
        versions = check_ours(python, Path(folder) / "ours")
        print("written and labelled by us, loaded by LeRobot: fine")
        check_theirs(python, Path(folder) / "theirs")
        print("written by LeRobot, read and labelled by us, loaded by LeRobot: fine")
    print(", ".join(f"{name} {version}" for name, version in versions.items()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
