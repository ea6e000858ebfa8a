from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch

from vlmreward.agents.metrics import JsonLinesWriter, make_logger


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_lines_hold_plain_numbers_and_no_placeholder(tmp_path: Path) -> None:
    logger, writer = make_logger(tmp_path)
    logger.record("rollout/vlm_return", np.float32(1.5))
    logger.record("rollout/success_rate", None)
    logger.record("rollout/ep_rew_mean", 0.0)
    logger.record("train/loss", torch.tensor(2.0))
    logger.dump(step=7)
    logger.close()
    assert lines(tmp_path / "metrics.jsonl") == [
        {"step": 7, "rollout/vlm_return": 1.5, "rollout/success_rate": None, "train/loss": 2.0}
    ]
    assert writer.lines == 1
    assert list((tmp_path / "tensorboard").glob("events*"))


def test_resumed_log_drops_what_came_after_the_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    first = JsonLinesWriter(path)
    for step in range(5):
        first.write({"x": step}, {}, step)
    first.close()
    with path.open("a") as file:
        file.write('{"step": 5, "x"')  # a line that a kill cut off
    second = JsonLinesWriter(path, lines=3)
    second.write({"x": 99}, {}, 3)
    second.close()
    assert [line["x"] for line in lines(path)] == [0, 1, 2, 99]
    assert second.lines == 4
