"""``frame_gate=`` in ``train`` and ``evaluate``, with an encoder that needs no weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from vlmreward.cli.settings import TrainSettings

PPO = ("env=cartpole", "encoder=fake", "agent=ppo", "n_envs=2", "agent.n_steps=25", "agent.batch_size=50")
DQN = ("env=cartpole", "encoder=fake", "agent=dqn", "n_envs=2", "agent.learning_starts=50", "agent.buffer_size=150")
STEP_BY_STEP = ("env=cartpole", "encoder=fake", "agent=recurrent_ppo", "n_envs=2", "agent.n_steps=25")
SHORT = ("total_timesteps=200", "eval.episodes=1")
RANDOM = ("env=cartpole", "encoder=fake", "policy=random", "episodes=2", "seed=5")


def read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text())


def lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("settings", [PPO, DQN, STEP_BY_STEP], ids=["rollouts", "replay", "step by step"])
def test_run_accounts_for_every_frame(cli: Any, tmp_path: Path, settings: tuple[str, ...]) -> None:
    outcome = cli("train", *settings, *SHORT, "frame_gate=40", "run_dir=run")
    assert outcome.code == 0, outcome.err
    result = read(tmp_path / "run" / "result.json")
    gate = result["frame_gate"]
    assert gate["threshold"] == 40
    assert gate["seen"] == gate["encoded"] + gate["skipped"] == result["frames"]["scored"] == 200
    assert gate["encoded"] > 10
    assert gate["sampled"] in (gate["skipped"] // 16, gate["skipped"] // 16 + 1)
    assert gate["reward_difference"]["max"] >= gate["reward_difference"]["mean"] >= 0
    logged = lines(tmp_path / "run")
    for name in ("seen", "encoded", "skipped"):
        assert sum(line.get(f"gate/{name}", 0) for line in logged) == gate[name]
    assert all(n["gate/seen"] == n["gate/encoded"] + n["gate/skipped"] for n in logged if "gate/seen" in n)
    counts = f"{gate['encoded']} handed to the encoder or its cache, {gate['skipped']} skipped"
    assert f"frame gate 40: 200 frames seen, {counts}; rewards differ by" in outcome.out


@pytest.mark.parametrize("settings", [PPO, DQN], ids=["rollouts", "replay"])
def test_threshold_0_changes_no_number(cli: Any, tmp_path: Path, settings: tuple[str, ...]) -> None:
    for name, more in (("plain", ()), ("gated", ("frame_gate=0",))):
        assert cli("train", *settings, *SHORT, *more, f"run_dir={name}").code == 0
    others = ("time/", "gate/", "rollout/encode_batch_mean")
    plain, gated = (
        [{k: v for k, v in line.items() if not k.startswith(others)} for line in lines(tmp_path / name)]
        for name in ("plain", "gated")
    )
    assert gated == plain
    plain, gated = (read(tmp_path / name / "result.json") for name in ("plain", "gated"))
    assert gated["evaluation"] == plain["evaluation"]
    assert plain["frame_gate"] is None
    assert gated["frame_gate"]["seen"] == 200


def test_run_that_goes_on_keeps_its_gate_and_its_counts(cli: Any, tmp_path: Path, refused: Any) -> None:
    assert cli("train", *PPO, *SHORT, "frame_gate=40", "run_dir=run").code == 0
    refused(cli("train", "resume=run", "frame_gate=0"), "train", "frame_gate can't change when a run is resumed")
    assert cli("train", "resume=run", "total_timesteps=250").code == 0
    gate = read(tmp_path / "run" / "result.json")["frame_gate"]
    assert gate["seen"] == gate["encoded"] + gate["skipped"] == 250
    file = tmp_path / "run" / "config.yaml"
    config = yaml.safe_load(file.read_text())
    assert config.pop("frame_gate") == 40
    assert TrainSettings.from_config(config).frame_gate is None  # a run from before there was one


def test_evaluation_is_gated_only_when_it_is_told_to(cli: Any, tmp_path: Path) -> None:
    assert cli("train", *PPO, *SHORT, "frame_gate=40", "run_dir=run").code == 0
    before = set((tmp_path / "run").iterdir())
    assert cli("evaluate", "run=run", "episodes=1").code == 0
    (plain,) = set((tmp_path / "run").iterdir()) - before
    assert read(plain)["frame_gate"] is None
    outcome = cli("evaluate", "run=run", "episodes=1", "frame_gate=40")
    (gated,) = set((tmp_path / "run").iterdir()) - before - {plain}  # it does not take the plain one's place
    gate = read(gated)["frame_gate"]
    assert gate["seen"] == gate["encoded"] + gate["skipped"] == read(plain)["evaluation"]["length_mean"]
    assert "frame gate 40: " in outcome.out
    assert "__gated-40__" in gated.name
    assert cli("evaluate", "run=run", "episodes=1", "frame_gate=2.5").code == 0
    assert gated.with_name(gated.name.replace("gated-40", "gated-2-5")).is_file()
    assert read(gated)["frame_gate"] == gate
    assert cli("record", "run=run", "episodes=1", "formats=png", "size=0").code == 0


def test_gate_moves_returns_by_no_more_than_it_says(cli: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vlmreward.wrappers.frame_gate.SAMPLE", 1)
    found = []
    for more in ((), ("frame_gate=60",)):
        assert cli("evaluate", *RANDOM, *more, "out=x.json").code == 0
        found.append(read(tmp_path / "x.json"))
    gate, length = found[1]["frame_gate"], found[0]["evaluation"]["length_mean"]
    assert gate["sampled"] == gate["skipped"] > 20
    plain, gated = (f["evaluation"]["vlm_return"]["mean"] for f in found)
    most = gate["reward_difference"]["mean"] * gate["skipped"] / (gate["seen"] / length)  # an episode
    assert 0 < abs(gated - plain) <= most + 1e-4


@pytest.mark.parametrize("command", [("train", *PPO, "run_dir=run"), ("evaluate", *RANDOM)])
@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (("frame_gate=-1",), "frame_gate must be a number of levels from 0 to 255, or null, got -1"),
        (("frame_gate=low",), "frame_gate must be a number of levels from 0 to 255, or null, got 'low'"),
        (("frame_gate=4", "reward=clip_delta"), "and ClipDeltaReward compares frames with earlier ones: leave it out"),
    ],
)
def test_wrong_setting_is_one_line(
    cli: Any, refused: Any, tmp_path: Path, command: tuple[str, ...], settings: tuple[str, ...], words: str
) -> None:
    refused(cli(*command, *settings), command[0], words)
    assert list(tmp_path.iterdir()) == []


def test_gate_of_an_evaluation_without_scores_is_one_line(cli: Any, refused: Any) -> None:
    words = "frame_gate skips frames that are scored, and score=false scores none: leave one of them out"
    refused(cli("evaluate", *RANDOM, "frame_gate=2", "score=false"), "evaluate", words)
