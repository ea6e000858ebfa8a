"""What does a frame gate save, and what does it do to the reward?

    python benchmarks/frame_gating.py                      # three environments, about 10 minutes on one core
    python benchmarks/frame_gating.py --envs cartpole --frames 256 --rounds 1

Random actions in several environments side by side, drawn as training draws them and scored by the reward of the
environment's own task with ``mini``. The same frames go, in the same batches, through a scorer without a gate and
through one for each threshold, by turns in every round; the time is processor time of hashing, comparing, encoding and
scoring, on one thread. Rewards are compared over all skipped frames; beside that stands what the gate itself says from
its sample. "In deviations" is the mean difference over the standard deviation of all rewards: a difference is small or
large beside that.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import platform
import statistics
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch loads

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from vlmreward.cli.arguments import parse_arguments
from vlmreward.cli.build import Scoring, build_scoring
from vlmreward.cli.compose import compose
from vlmreward.cli.environments import settle_rendering
from vlmreward.cli.settings import TrainSettings, resolve
from vlmreward.types import FloatArray, Frames
from vlmreward.wrappers.capture_frames import capture_frame
from vlmreward.wrappers.frame_gate import FrameGate, difference
from vlmreward.wrappers.scoring import ROW_DTYPE, FrameScorer, gather

ENVS = ("cartpole", "mountaincar", "humanoid")
THRESHOLDS = (0.0, 1.0, 2.0, 4.0, 8.0, 16.0)
N_ENVS, BATCH = 4, 64


def collect(settings: TrainSettings, count: int) -> tuple[np.ndarray, Frames]:
    """Return ``count`` transitions of random actions, as rows in the order of capture, and their frames."""
    settle_rendering(settings.env.id)
    envs = [settings.env.factory()() for _ in range(N_ENVS)]
    episode, step = list(range(N_ENVS)), [0] * N_ENVS
    rows: list[tuple] = []
    frames: list[Frames] = []
    for number, env in enumerate(envs):
        env.action_space.seed(number)
        env.reset(seed=number)
    while len(rows) < count:
        for number, env in enumerate(envs):
            _, _, terminated, truncated, _ = env.step(env.action_space.sample())
            step[number] += 1
            frame, reason = capture_frame(env)
            assert frame is not None
            place = (len(rows), number, len(frames), episode[number], step[number])
            rows.append((*place, 0.0, terminated, truncated, False, reason))
            frames.append(frame)
            if terminated or truncated:
                env.reset()
                episode[number], step[number] = episode[number] + N_ENVS, 0
    for env in envs:
        env.close()
    return np.array(rows, ROW_DTYPE), np.stack(frames)


def score(scoring: Scoring, rows: np.ndarray, frames: Frames, gate: FrameGate | None) -> tuple[FloatArray, float, int]:
    """Return the rewards, the processor time, and the number of frames that were encoded."""
    scorer = FrameScorer(scoring.encoder, scoring.model, N_ENVS, gate=gate)
    start, raw, pictures = time.process_time(), [], 0
    for begin in range(0, len(rows), BATCH):
        part = rows[begin : begin + BATCH]
        scored = scorer.score(part, gather(part, frames))
        raw.append(scored.raw)
        pictures += scored.pictures
    return np.concatenate(raw), time.process_time() - start, pictures


def compare_ms(frames: Frames) -> float:
    """Return the processor time of comparing two frames, milliseconds."""
    start = time.process_time()
    for one, other in itertools.pairwise(frames):
        difference(one, other)
    return 1e3 * (time.process_time() - start) / (len(frames) - 1)


def measure(name: str, count: int, rounds: int) -> dict[str, Any]:
    """Return the numbers of one environment."""
    settings, _ = resolve(compose("train", parse_arguments([f"env={name}", "device=cpu"])))
    rows, frames = collect(settings, count)
    scoring = build_scoring(settings)
    score(scoring, rows[:BATCH], frames, None)  # warms up
    ways: tuple[float | None, ...] = (None, *THRESHOLDS)
    seconds: dict[float | None, list[float]] = {way: [] for way in ways}
    rewards, pictures, gates = {}, {}, {}
    for _ in range(rounds):
        for way in ways:
            gates[way] = None if way is None else FrameGate(way)
            rewards[way], taken, pictures[way] = score(scoring, rows, frames, gates[way])
            seconds[way].append(taken)
    plain, spread = rewards[None].astype(np.float64), float(rewards[None].std())
    table = []
    for way in THRESHOLDS:
        report = gates[way].report()
        apart = np.abs(rewards[way] - plain)
        own = max(report["skipped"], 1)
        table.append(
            {
                "threshold": way,
                "skipped": round(report["skipped"] / report["seen"], 4),
                "encoded": pictures[way],
                "times_as_fast": round(
                    statistics.median(p / g for p, g in zip(seconds[None], seconds[way], strict=True)), 2
                ),
                "max_difference": float(f"{apart.max():.3g}"),
                "mean_difference_of_skipped": float(f"{apart.sum() / own:.3g}"),
                "in_deviations": round(float(apart.sum() / own / spread), 3),
                "correlation": round(float(np.corrcoef(rewards[way], plain)[0, 1]), 4),
                "sampled": report["sampled"],
                "sample": report["reward_difference"],
            }
        )
    return {
        "env": settings.env.id,
        "goal": list(settings.goal),
        "encoder": scoring.encoder.id,
        "frames": len(rows),
        "side": frames.shape[1:3],
        "reward_deviation": float(f"{spread:.3g}"),
        "encoded_without_gate": pictures[None],
        "ms_to_compare": round(compare_ms(frames), 4),
        "ms_a_frame_without_gate": round(1e3 * statistics.median(seconds[None]) / len(rows), 3),
        "thresholds": table,
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--envs", nargs="+", choices=ENVS, default=list(ENVS))
    parser.add_argument("--frames", type=int, default=2048, help="frames of each environment (default 2,048)")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "frame_gating.json")
    args = parser.parse_args()
    torch.set_num_threads(1)
    load = round(os.getloadavg()[0], 1)
    console = Console(width=140)
    results = []
    for name in args.envs:
        results.append(measure(name, args.frames, args.rounds))
        found = results[-1]
        console.print(f"{name}: {found['frames']:,} frames, rewards deviate by {found['reward_deviation']}")
        shown = [{k: v for k, v in row.items() if k != "sample"} for row in found["thresholds"]]
        table = Table(*shown[0])
        for row in shown:
            table.add_row(*map(str, row.values()))
        console.print(table)
    # what threshold 0 must not change; low precision gives a frame other last bits in other company
    same = all(found["thresholds"][0]["max_difference"] < 1e-2 for found in results)
    packages = ("vlmreward", "numpy", "torch", "gymnasium", "mujoco")
    result = {
        "command": " ".join(["python benchmarks/frame_gating.py", *sys.argv[1:]]),
        "versions": {p: version(p) for p in packages} | {"python": platform.python_version()},
        "machine": {"architecture": platform.machine(), "cpus": os.cpu_count(), "load_average_at_start": load},
        "threads": 1,
        "n_envs": N_ENVS,
        "batch": BATCH,
        "environments": results,
    }
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    return 0 if same else 1


if __name__ == "__main__":
    sys.exit(main())
