"""``label`` with rewards that look at pictures: judges, and heads that were fitted on pictures."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vlmreward.data import open_dataset
from vlmreward.testing.chat_server import ChatServer
from vlmreward.testing.films import write_films

PROGRESS = np.concatenate([np.linspace(0, 1, 12), np.linspace(0, 0.6, 9), np.linspace(0, 1, 10)])
LENGTHS = (12, 9, 10)
LABEL = ("label", "dataset=c", "goal=fill it", "encoder=fake", "force=true")


@pytest.fixture
def films(cli: Any) -> list[np.ndarray]:  # which puts the test into a folder of its own
    frames = np.random.default_rng(0).integers(0, 200, (sum(LENGTHS), 16, 16, 3)).astype(np.uint8)
    made = np.split(frames, np.cumsum(LENGTHS)[:-1])
    write_films(Path("c"), films=made)
    np.savez("truth.npz", frames=frames, progress=PROGRESS)
    return made


def labels(name: str = "reward_vlm") -> list[np.ndarray]:
    read = open_dataset("c")
    return [read.column(episode, name) for episode in read.episodes]


@pytest.mark.parametrize("reward", ["gvl", "vlac", "yes_no"])
def test_a_judge_labels_each_row_with_the_frame_after_it(cli: Any, films: list[np.ndarray], reward: str) -> None:
    if reward == "vlac":  # it is shown pictures of another size
        from vlmreward.rewards.judges.pictures import resize
        from vlmreward.rewards.judges.vlac import SIZE

        shown = np.stack([resize(picture, SIZE) for film in films for picture in film])
        np.savez("truth.npz", frames=shown, progress=PROGRESS)
    judge = (f"reward={reward}", "reward.judge.name=scripted", "reward.judge.path=truth.npz")
    outcome = cli(*LABEL, *judge)
    assert outcome.code == 0, outcome.err
    for own, true in zip(labels(), np.split(PROGRESS, np.cumsum(LENGTHS)[:-1]), strict=True):
        if reward == "yes_no":
            true = np.clip(true, 0.01, 0.99)  # how sure a scripted judge is
        if reward == "vlac":  # steps of whole percent, each taken of what is left
            true = np.concatenate([[0], 1 - np.cumprod(1 - np.round(np.diff(true), 2))])
        assert own[: len(true) - 1] == pytest.approx(true[1:], abs=0.03)
    (path,) = Path("runs").rglob("result.json")
    result = json.loads(path.read_text())
    assert result["invalid"] == 0
    assert result["judge"]["privileged"]
    assert result["judge"]["calls"] > 0


def test_what_a_server_does_not_answer_is_no_label(cli: Any, films: list[np.ndarray]) -> None:
    server = ChatServer()
    server.behave = lambda handler, request, number: handler.say("Grade: 3" if number % 3 else "I see noise", tokens=5)
    judge = ("reward=rubric", f"reward.judge.url={server.url}", "reward.judge.model=m", "reward.judge.concurrency=1")
    judge = (*judge, "reward.judge.cache=answers", "max_invalid=1", "sample=12")
    try:
        outcome = cli(*LABEL, *judge)
        assert outcome.code == 0, outcome.err
    finally:
        server.close()
    told = np.concatenate(labels())
    assert set(np.unique(told[np.isfinite(told) & (told > 0)])) == {0.5}
    (path,) = Path("runs").rglob("result.json")
    result = json.loads(path.read_text())
    assert 0 < result["invalid"] < sum(LENGTHS)
    assert result["reasons"] == {"the reply is not one grade from 1 to 5: I see noise": result["invalid"]}


def test_a_head_on_pictures_labels(cli: Any, films: list[np.ndarray]) -> None:
    few = ("reward.learning.budget=40", "reward.learning.fit_steps=3", "reward.learning.input=frames")
    fitted = cli("fit-reward", "dataset=c", "goal=fill it", "encoder=fake", *few, "reward.learning.members=1", "out=a")
    assert fitted.code == 0, fitted.err
    outcome = cli(*LABEL, "reward=preference", "reward.path=a/head.safetensors")
    assert outcome.code == 0, outcome.err
    assert all(np.isfinite(column[:-1]).all() for column in labels())
