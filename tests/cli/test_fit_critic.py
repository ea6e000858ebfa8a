"""``fit-critic``: from recorded episodes to a critic that labels and guides; what is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from vlmreward.cli import main

COLLECT = ("collect", "env=cartpole", "env.kwargs.width=32", "env.kwargs.height=32", "episodes=6", "seed=3")
FIT = ("fit-critic", "dataset=c", "encoder=fake", "steps=10", "groups=4", "width=8", "layers=1", "held_out=0.34")


@pytest.fixture(scope="module")
def recorded(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("recorded") / "c"
    assert main([*COLLECT, "policy=[random,zero]", "success=false", f"out={path}"]) == 0
    return path


@pytest.fixture
def dataset(cli, recorded: Path) -> None:  # in the test's own folder, which cli goes to
    shutil.copytree(recorded, "c")


def test_a_critic_is_fitted_labels_and_guides(cli, dataset):
    outcome = cli(*FIT)
    assert outcome.code == 0, outcome.err
    about = json.loads(Path("runs/critic/result.json").read_text())
    assert (about["episodes"], about["frames"], about["failures"]) == (6, 600, 0)
    assert about["held_out"]["episodes"] == 2
    assert about["stride"] == 5  # a twentieth of 100 frames
    assert f"order of values              {about['held_out']['voc']:.2f} forwards" in outcome.out
    critic = "path=runs/critic/critic.safetensors"
    labelled = cli("label", "dataset=c", "encoder=fake", "reward=critic_progress", f"reward.{critic}", "force=true")
    assert labelled.code == 0, labelled.err
    assert "600 frames labelled" in labelled.out
    trained = cli(
        *("train", "env=cartpole", "encoder=fake", "agent=dqn", "reward=critic", f"reward.of.{critic}"),
        *(
            "total_timesteps=150",
            "eval.episodes=1",
            "audit=off",
            "run_dir=r",
            "env.kwargs.width=32",
            "env.kwargs.height=32",
        ),
    )
    assert trained.code == 0, trained.err


def test_same_seed_gives_the_same_critic(cli, dataset):
    found = []
    for out, seed in (("a", 0), ("b", 0), ("d", 1)):
        assert cli(*FIT, f"out={out}", f"seed={seed}").code == 0
        found.append(Path(out, "critic.safetensors").read_bytes())
    assert found[0] == found[1] != found[2]


def test_several_datasets_and_own_rollouts(cli, dataset):
    assert cli(*COLLECT, "policy=[random]", "seed=9", "goal=cart at the left end of the track", "out=d").code == 0
    outcome = cli(*FIT, "dataset=d", "rollouts=d", "push_back=0.5")
    assert outcome.code == 0, outcome.err
    about = json.loads(Path("runs/critic/result.json").read_text())
    assert about["datasets"] == ["c", "d"]
    assert about["episodes"] == 12


def test_nothing_held_out_is_said(cli, dataset):
    outcome = cli(*FIT, "held_out=0")
    assert outcome.code == 0
    assert "no episode was held out" in outcome.out
    assert json.loads(Path("runs/critic/result.json").read_text())["held_out"] == {}


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ((), ("dataset is not given",)),
        (("dataset=nothing", "encoder=fake"), ("'nothing' does not exist",)),
        (("dataset=c", "steps=0"), ("steps must be a whole number >= 1, got 0",)),
        (("dataset=c", "held_out=1.5"), ("held_out must be a share in [0, 1], got 1.5",)),
        (("dataset=c", "push_back=1"), ("give them as rollouts=",)),
        (("dataset=c", "stride=0"), ("stride",)),
        (("dataset=c", "out=null"), ("out must be a folder",)),
        (("dataset=c", "encoder.precision=int8"), ("int8",)),
    ],
)
def test_refuses(cli, refused, dataset, more, words):
    refused(cli("fit-critic", *more), "fit-critic", *words)
    assert not Path("runs/critic/critic.safetensors").exists()


def test_what_is_no_critic_is_refused(cli, refused, dataset, monkeypatch):
    assert cli(*FIT).code == 0
    monkeypatch.setattr("vlmreward.rewards.critic.KIND", "something else")
    label = ("label", "dataset=c", "encoder=fake", "reward=critic_progress")
    outcome = cli(*label, "reward.path=runs/critic/critic.safetensors")
    refused(outcome, "label", "no progress critic")


def test_failures_alone_are_refused(cli, refused):
    assert cli(*COLLECT, "policy=[random]", "out=c").code == 0  # random actions never hold the pole upright
    refused(cli(*FIT), "fit-critic", "are recorded as failures")
