"""What does a frame gate save, and what does it do to the reward?

    python benchmarks/frame_gating.py                      # three environments, about a minute on one core
    python benchmarks/frame_gating.py --envs cartpole --frames 256 --rounds 1

Random actions in several environments side by side, drawn as training draws them and scored by the reward of the
environment's own task with ``mini``. The same frames go, in the same batches, through a scorer without a gate and
through one for each threshold, by turns in every round; the time is processor time of hashing, comparing, encoding and
scoring, on one thread, as a median over the rounds with the smallest and the largest. A run without a gate encodes
equal frames of a batch once already, so beside the share that the gate skips stands the share of frames that it saves
against such a run, its own sample taken off. Rewards are compared over all skipped frames, in standard deviations of
all rewards: a difference is small or large beside that. Beside it stands what the gate itself says from its sample.
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
        apart = np.abs(rewards[way] - plain)  # 0 of frames that were encoded
        mean = float(apart.sum()) / max(report["skipped"], 1)
        ratios = [p / g for p, g in zip(seconds[None], seconds[way], strict=True)]
        middle, low, high = (round(value, 2) for value in (statistics.median(ratios), min(ratios), max(ratios)))
        table.append(
            {
                "threshold": way,
                "skipped": round(report["skipped"] / report["seen"], 4),
                "saved": round((pictures[None] - pictures[way]) / len(rows), 4),
                "times_as_fast": {"median": middle, "min": low, "max": high},
                "mean_deviations": round(mean / spread, 3),
                "max_deviations": round(float(apart.max()) / spread, 3),
                "correlation": round(float(np.corrcoef(rewards[way], plain)[0, 1]), 4),
                "sampled": report["sampled"],
                "sample": report["reward_difference"],
            }
        )
    return {
        "env": settings.env.id,
        "goal": list(settings.goal),
        "encoder": scoring.encoder.id,
        "precision": getattr(scoring.encoder, "precision", None),
        "runtime": getattr(scoring.encoder, "runtime", None),
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
    parser.add_argument("--frames", type=int, default=1024, help="frames of each environment (default 1,024)")
    parser.add_argument("--rounds", type=int, default=5)
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
        shown = [
            {**row, "times_as_fast": "{median} ({min} to {max})".format(**row["times_as_fast"])}
            for row in found["thresholds"]
        ]
        columns = [name for name in shown[0] if name != "sample"]
        table = Table(*columns)
        for row in shown:
            table.add_row(*(str(row[name]) for name in columns))
        console.print(table)
    # what threshold 0 must not change; low precision gives a frame other last bits in other company
    same = all(found["thresholds"][0]["max_deviations"] < 0.1 for found in results)
    engines = {"openvino"} & {found["runtime"] for found in results}
    packages = ("vlmreward", "numpy", "torch", *engines, "gymnasium", "mujoco")
    result = {
        "command": " ".join(["python benchmarks/frame_gating.py", *sys.argv[1:]]),
        "versions": {p: version(p) for p in packages} | {"python": platform.python_version()},
        "machine": {"architecture": platform.machine(), "cpus": os.cpu_count(), "load_average_at_start": load},
        "threads": 1,
        "n_envs": N_ENVS,
        "batch": BATCH,
        "rounds": args.rounds,
        "environments": results,
    }
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    return 0 if same else 1


if __name__ == "__main__":
    sys.exit(main())
