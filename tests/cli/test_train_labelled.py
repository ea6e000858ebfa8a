"""From recording to a policy, in every format: ``collect``, ``label``, ``train`` by reward and by progress."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from vlmreward.data import list_formats

PICTURES = ("env.kwargs.width=32", "env.kwargs.height=32")
COLLECT = ("env=cartpole", *PICTURES, "env.kwargs.max_episode_steps=16", "policy=[random]", "episodes=3")
SMALL = ("dataset=set.hdf5", "total_timesteps=3", "agent.hidden=[8]", "agent.batch_size=8")


@pytest.mark.parametrize("kind", list_formats())
def test_what_label_writes_is_learned_from(cli: Any, kind: str) -> None:
    outcome = cli("collect", *COLLECT, f"format={kind}", "out=set.hdf5")
    assert outcome.code == 0, outcome.err
    outcome = cli("label", "dataset=set.hdf5", "encoder=fake", "force=true", "max_invalid=1")
    assert outcome.code == 0, outcome.err
    # LeRobot's rows are frames: the last one of an episode has no successor, and so no label
    lost = 3 if kind == "lerobot" else 0
    by_progress = ("agent=bc", "agent.weights=progress", "agent.lookahead=2")
    named = ["reward_vlm_progress"] if kind == "lerobot" else ["reward_vlm_progress", "progress_vlm"]
    for number, (agent, labels) in enumerate([(("agent=iql",), "reward_vlm"), *((by_progress, n) for n in named)]):
        outcome = cli("train", *agent, f"labels={labels}", *SMALL, f"run_dir=run{number}")
        assert outcome.code == 0, outcome.err
        told = json.loads(Path(f"run{number}/result.json").read_text())["dataset"]
        assert (told["labels"], told["rows_without_label"]) == (labels, lost)
        assert 0 < told["rows_learned_from"] <= told["rows"] - lost
