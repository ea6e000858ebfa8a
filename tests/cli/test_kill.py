"""``kill -9`` at random moments: the run folder stays whole and the run goes on."""

from __future__ import annotations

import json
import random
import time
from pathlib import Path
from typing import Any

import pytest

from vlmreward.agents.checkpoint import CheckpointStore

RUN = (
    *("env=cartpole", "encoder=fake", "n_envs=1", "agent=dqn", "agent.learning_starts=20", "agent.buffer_size=300"),
    # a checkpoint after every 16 steps: a large part of the time goes into writing them
    *("agent.train_freq=8", "checkpoint_every=16", "total_timesteps=1000000", "run_dir=run"),
)


@pytest.mark.parametrize("seed", range(2))
def test_killed_run_is_whole_and_goes_on(cli: Any, spawn: Any, tmp_path: Path, seed: int) -> None:
    rng = random.Random(seed)
    store = CheckpointStore(tmp_path / "run" / "checkpoints")
    reached = 0
    for attempt in range(3):
        arguments = RUN if attempt == 0 else ("resume=run",)
        process = spawn("train", *arguments, cwd=tmp_path)
        end = time.monotonic() + 60
        while not store.names() or int(store.names()[-1].removeprefix("step_")) <= reached:
            assert time.monotonic() < end
            assert process.poll() is None, process.communicate()
            time.sleep(0.02)
        time.sleep(rng.uniform(0, 0.3))
        process.kill()
        process.communicate()
        _, meta, _ = store.load(store.find())  # checks every file's size and sum
        assert meta["num_timesteps"] > reached
        reached = meta["num_timesteps"]
    total = reached + 40
    outcome = cli("train", "resume=run", f"total_timesteps={total}", "eval.episodes=1")
    assert outcome.code == 0, outcome.err
    assert f"(from step {reached})" in outcome.out
    steps = [json.loads(line)["step"] for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert steps == sorted(set(steps))
    kept = {p.name for p in (store.folder / "replay").iterdir()}
    manifests = [json.loads((store.folder / n / "manifest.json").read_text()) for n in store.names()]
    assert kept == {Path(f["name"]).name for m in manifests for f in m["shared"]}
    assert not list(store.folder.glob(".*")), "halves of checkpoints are cleared away"
