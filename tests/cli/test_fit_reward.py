"""``fit-reward``: a head from answers about recorded frames, and what it is good for."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vlmreward.rewards.head import Head

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
    from vlmreward.data import open_dataset

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
