"""``fit-reward``: a head from answers about recorded frames, and what it is good for."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vlmreward.data import open_dataset
from vlmreward.data.dataset import Episode, EpisodeDataset, Undecodable
from vlmreward.rewards.head import Head
from vlmreward.testing.chat_server import ChatServer
from vlmreward.testing.films import write_films

GOAL = "goal=pole vertically upright on top of the cart"
FIT = ("fit-reward", "dataset=c", GOAL, "encoder=fake", "reward.annotator.name=scripted", "reward.learning.pool=200")


@pytest.fixture
def dataset(cli: Any) -> None:
    pictures = ("env.kwargs.width=32", "env.kwargs.height=32")
    assert cli("collect", "env=cartpole", *pictures, "episodes=4", "policy=[random,zero]", "out=c").code == 0


def test_a_head_is_fitted_and_the_same_again(cli: Any, dataset: None) -> None:
    # the recorded reward, which the scripted annotator reads, is the true closeness
    few = ("reward.learning.budget=160", "reward.annotator.errors=0.1")
    for out in ("a", "b"):
        outcome = cli(*FIT, *few, f"out={out}")
        assert outcome.code == 0, outcome.err
    assert Path("a/head.safetensors").read_bytes() == Path("b/head.safetensors").read_bytes()
    report = json.loads(Path("a/result.json").read_text())
    assert report["frames"] == 200
    assert report["learned_reward"]["calls"] == 160
    assert "160 calls about 200 frames" in outcome.out
    labelled = cli(
        "label", "dataset=c", GOAL, "encoder=fake", "reward=preference", "reward.path=a/head.safetensors", "force=true"
    )
    assert labelled.code == 0, labelled.err
    read = open_dataset("c")
    own = np.concatenate([read.column(e, "reward_vlm") for e in read.episodes])
    true = np.concatenate([np.asarray(read.transitions(e).reward) for e in read.episodes])
    assert np.corrcoef(own, true)[0, 1] > 0.5


def test_a_head_on_pictures_is_fitted(cli: Any, dataset: None) -> None:
    few = ("reward.learning.budget=40", "reward.learning.fit_steps=3", "reward.learning.input=frames")
    outcome = cli(*FIT, *few, "reward.learning.members=1", "out=a")
    assert outcome.code == 0, outcome.err
    assert Head.load("a/head.safetensors").net.settings.input == "frames"


def test_what_cannot_work_is_refused_in_one_line(cli: Any, refused: Any, dataset: None) -> None:
    refused(cli("fit-reward", "dataset=c"), "fit-reward", "goal is not given")
    refused(cli("fit-reward", GOAL), "fit-reward", "dataset is not given")
    refused(cli(*FIT, "reward=clip"), "fit-reward")
    refused(cli(*FIT, "reward.learning.budget=20"), "fit-reward", "answers can be learned from and 16 are needed")


def redness(picture: np.ndarray) -> float:
    return float(picture[:, :8, 0].mean())


def compare(handler: Any, request: Any, number: int) -> None:
    """Be a judge that prefers red, in the two stages of RL-VLM-F, and talks nonsense at times."""
    pictures = [part for part in request.parts if not isinstance(part, str)]
    if len(pictures) == 2:
        assert GOAL.removeprefix("goal=") in request.parts[-1]
        red = [redness(picture) for picture in pictures]
        handler.say(f"Their red is {red[0]:.3f} and {red[1]:.3f}. Redder is Image {1 + (red[1] > red[0])}.", tokens=7)
    elif "Redder is Image 1" in request.parts[-1]:
        handler.say("0" if number % 9 else "Image 1, I'd say", tokens=7)
    else:
        handler.say("1", tokens=7)


@pytest.fixture
def server() -> Iterator[ChatServer]:
    made = ChatServer()
    made.behave = compare
    yield made
    made.close()


def pictures_of(dataset: EpisodeDataset, episode: Episode) -> list[np.ndarray]:
    read = dataset.frames(episode, dataset.cameras[0])
    return [picture for picture in read if not isinstance(picture, Undecodable)]


def red_dataset(path: Path) -> None:
    rng = np.random.default_rng(4)
    frames = rng.integers(0, 30, (120, 16, 16, 3)).astype(np.uint8)
    frames[:, :, :8, 0] = rng.integers(0, 255, 120)[:, None, None]
    write_films(path, films=[frames[:60], frames[60:]])


def test_a_judge_behind_a_server_compares_and_its_head_orders_frames_as_it_would(cli: Any, server: ChatServer) -> None:
    red_dataset(Path("c"))
    asked = ("reward.annotator.name=two_stage", f"reward.annotator.judge.url={server.url}", "encoder=fake")
    asked = (*asked, "reward.annotator.judge.model=tiny-vlm", "reward.annotator.judge.cache=answers")
    few = ("reward.learning.budget=400", "reward.learning.pool=118")
    outcome = cli("fit-reward", "dataset=c", GOAL, *asked, *few, "out=a")
    assert outcome.code == 0, outcome.err
    result = json.loads(Path("a/result.json").read_text())
    report, judge = result["learned_reward"], result["judge"]
    assert report["privileged"] is judge["privileged"] is False
    assert report["calls"] == 400  # two stages in two orders: a hundred pairs
    assert report["questions"] == sum(report["answers"].values()) == 100
    assert report["answers"]["invalid"] > 0
    assert set(report["reasons"]) == {'the reply is not 0, 1 or -1: "Image 1, I\'d say"'}
    assert 390 < judge["calls"] == len(server.requests) <= 400  # a pair that is drawn again is known
    assert judge["tokens"] == 7 * len(server.requests)
    head = Head.load("a/head.safetensors")
    assert head.meta.made["annotator"] == "two_stage"
    label = ("reward=preference", "reward.path=a/head.safetensors", "force=true", "name=red")
    assert cli("label", "dataset=c", GOAL, "encoder=fake", *label).code == 0
    read = open_dataset("c")
    for episode in read.episodes:  # row t has the reward of frame t + 1
        red = [redness(picture) for picture in pictures_of(read, episode)[1:]]
        assert np.corrcoef(read.column(episode, "red")[: len(red)], red)[0, 1] > 0.8


def test_a_judge_that_only_talks_is_told_with_what_it_says(cli: Any, refused: Any, server: ChatServer) -> None:
    server.behave = lambda handler, request, number: handler.say("I can't help with that.")
    red_dataset(Path("c"))
    asked = ("reward.annotator.name=two_stage", f"reward.annotator.judge.url={server.url}", "encoder=fake")
    few = ("reward.annotator.judge.model=m", "reward.learning.budget=80")
    outcome = cli("fit-reward", "dataset=c", GOAL, *asked, *few, "out=a")
    refused(outcome, "fit-reward", 'most often: the reply is not 0, 1 or -1: "I can\'t help with that."')
    assert not Path("a/head.safetensors").exists()


def test_a_judge_of_another_kind_rates_and_compares(cli: Any, dataset: None) -> None:
    read = open_dataset("c")
    frames = [picture for episode in read.episodes for picture in pictures_of(read, episode)]
    np.savez("truth.npz", frames=np.stack(frames), progress=np.linspace(0, 1, len(frames)))
    few = ("reward.learning.budget=80", "reward.learning.fit_steps=3", "encoder=fake")
    scripted = ("judge.name=scripted", "judge.path=truth.npz")
    two = [f"reward.annotator.{setting}" for setting in ("name=two_stage", *scripted)]
    outcome = cli("fit-reward", "dataset=c", GOAL, *few, *two, "out=a")
    assert outcome.code == 0, outcome.err
    rubric = [f"reward.annotator.of.{setting}" for setting in ("name=rubric", *scripted)]
    outcome = cli("fit-reward", "dataset=c", GOAL, *few, "reward=distilled", *rubric, "out=b")
    assert outcome.code == 0, outcome.err
    for out, pairs in (("a", 20), ("b", 80)):
        result = json.loads(Path(out, "result.json").read_text())
        assert result["learned_reward"]["privileged"]
        assert result["learned_reward"]["questions"] == pairs
        assert result["judge"]["calls"] == 80
