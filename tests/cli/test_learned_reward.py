"""``train reward=preference`` and what can be done with what it has learned."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import numpy as np

from vlmreward.agents.checkpoint import CheckpointStore
from vlmreward.rewards.head import Head

SMALL = (
    *("env=cartpole", "encoder=fake", "n_envs=2", "agent=dqn", "agent.learning_starts=50", "agent.buffer_size=400"),
    *("eval.episodes=1", "audit=off", "reward.annotator.name=scripted", "reward.annotator.errors=0.1"),
    *("reward.learning.every=60", "reward.learning.batch=20", "reward.learning.keep_every=1"),
    *("reward.learning.fit_steps=20", "reward.learning.wait=true", "env.kwargs.width=32", "env.kwargs.height=32"),
)
PREFERENCE = (*SMALL, "reward=preference", "reward.learning.budget=200")


def result(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "result.json").read_text())


def test_trained_evaluated_and_used_for_labels(cli: Any, tmp_path: Path) -> None:
    outcome = cli("train", *PREFERENCE, "total_timesteps=320", "run_dir=run")
    assert outcome.code == 0, outcome.err
    report, said = (result(tmp_path / "run")[key] for key in ("learned_reward", "evaluation"))
    said = said["vlm_return"]
    assert report["privileged"]
    assert report["calls"] == report["budget"] == 200
    assert report["questions"] == sum(report["answers"].values()) == 100
    assert report["dropped"] == 0
    last = json.loads((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()[-1])
    assert (last["head/calls"], last["head/version"]) == (200, report["version"])
    head = Head.load("run/head.safetensors")
    assert head.version == report["version"] == 5
    assert head.meta.made == {"annotator": "scripted", "examples": report["examples"], "calls": 200, "privileged": True}

    evaluated = cli("evaluate", "run=run", "episodes=1", "seed=20000", "out=e.json")
    assert evaluated.code == 0, evaluated.err
    assert json.loads(Path("e.json").read_text())["evaluation"]["vlm_return"] == said

    made = cli("collect", "env=cartpole", "env.kwargs.width=32", "env.kwargs.height=32", "episodes=2", "out=c")
    assert made.code == 0, made.err
    goal = ("goal=pole vertically upright on top of the cart", "encoder=fake", "dataset=c", "force=true")
    refused = cli("label", *goal, "reward=preference")
    assert refused.code == 2
    assert "this reward learns beside training and has no head yet" in refused.err
    labelled = cli("label", *goal, "reward=preference", "reward.path=run/head.safetensors")
    assert labelled.code == 0, labelled.err


def test_a_killed_run_goes_on_with_its_head_its_answers_and_its_budget(cli: Any, spawn: Any, tmp_path: Path) -> None:
    ways = (*SMALL, "reward=distilled", "reward.learning.budget=300", "reward.learning.wait=false")
    store = CheckpointStore(tmp_path / "run" / "checkpoints")
    process = spawn("train", *ways, "total_timesteps=100000", "checkpoint_every=60", "run_dir=run", cwd=tmp_path)
    end = time.monotonic() + 120
    state: Any = None
    while state is None or state["reward"]["head"] is None:
        assert time.monotonic() < end
        assert process.poll() is None, process.communicate()
        time.sleep(0.2)
        if store.names():
            state = store.load(store.find())[0]
    process.kill()
    process.communicate()
    state, meta, _ = store.load(store.find())
    before = state["reward"]
    assert before["calls"] > 0
    outcome = cli("train", "resume=run", f"total_timesteps={meta['num_timesteps'] + 200}")
    assert outcome.code == 0, outcome.err
    report = result(tmp_path / "run")["learned_reward"]
    assert before["calls"] <= report["calls"] <= 300
    assert report["examples"] >= len(before["target"])
    assert report["version"] >= before["head"]["meta"]["version"]
    arrays = store.load(store.find())[0]
    assert np.array_equal(arrays["reward"]["x"][: len(before["x"])], before["x"])


def test_what_cannot_work_is_refused_in_one_line(cli: Any, refused: Any) -> None:
    few = ("env=cartpole", "encoder=fake", "total_timesteps=100", "audit=off")
    refused(cli("train", *few, "reward=preference", "reward.annotator.name=scriptd"), "train", "'scripted'")
    wrong = ("reward=preference", "reward.learning.sampling=best")
    refused(
        cli("train", *few, *wrong), "train", "learning.sampling must be one of uniform, disagreement, entropy, k_center"
    )
    refused(cli("train", *few, "reward=preference", "reward.path=no.safetensors"), "train", "no head at")
    refused(cli("train", *few, "reward=distilled", "reward.annotator.name=terminal"), "train", "no terminal")
    refused(cli("train", *few, "reward=preference", "agent=ars"), "train", "ars gets its rewards step by step")
