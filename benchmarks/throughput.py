"""Frames scored per second of processor time: the usual way against ours, side by side in one run.

    python benchmarks/throughput.py                        # both environments, two to four minutes on two cores
    python benchmarks/throughput.py --env cartpole --rounds 3

The usual way is what a Gymnasium user writes: ``env.render()`` of the standard environment (Humanoid-v5 at 480 px,
CartPole-v1 at its own 600 x 400), open_clip's own PIL transform for each picture, and one call of the float32 model per
step. Ours is the code that ``vlmreward train`` runs: ``VecCaptureFrames`` and a ``Scorer`` with random actions, once
with as many pixels and quality "fine", once with the fast preset (pictures of the encoder's size, quality "fast",
bfloat16 where the processor has it). Every row "without" takes one ingredient away from the fast preset.

All ways use the same weights (a ViT-B-32 with seeded random ones for the humanoid, ``mini`` for the cart-pole) and
the same number of torch threads. They run interleaved: each round takes every way once, so a busy minute slows all of
them alike, and ratios are taken within a round. The unit is processor time of this process, all threads; environments
run inside it so that its clock sees them. Wall time stands beside it and depends on what else the machine does.
Several torch threads waste processor time on the usual way's single pictures; ``--threads 1`` is the comparison that
is kindest to it (``results/mini-1/throughput_one_thread.json``).

What a cheaper picture does to the reward is said by the Spearman correlation between the rewards of the fine and the
fast picture of the same states. Random weights have no opinion of a picture, so for the humanoid that of ``mini``
stands beside it.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import platform
import statistics
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

# Spinning threads would count as work, and more for many small calls than for few large ones; before torch loads.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("MUJOCO_GL", "egl")
os.environ.setdefault("SDL_VIDEODRIVER", "dummy")
os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")
sys.path.append(str(Path(__file__).parent))  # PYTHONSAFEPATH keeps a script's own folder out

import numpy as np
import torch
from rich.box import MARKDOWN
from rich.console import Console
from rich.table import Table
from scipy.stats import rankdata
from throughput_bench import Bench, make_clip_encoder
from throughput_ways import FAST, MINI, NATIVE, SAME, SETTINGS, TARGETS, USUAL

from vlmreward.encoders.clip_model import ClipEncoder
from vlmreward.encoders.device import cpu_has_bf16
from vlmreward.encoders.mini import PREPROCESS
from vlmreward.rewards import make_reward
from vlmreward.types import FrameBatch, Frames
from vlmreward.wrappers.capture_frames import is_constant

MIN_ROUNDS = 3


def rewards(encoder: ClipEncoder, frames: Frames, goal: str) -> np.ndarray:
    """Return the rewards of frames, shape (N,)."""
    n = len(frames)
    batch = FrameBatch(np.zeros(n, np.int64), np.arange(n), embeddings=encoder.encode_images(frames))
    scored = make_reward("clip", encoder, goal=goal).compute_reward(batch)
    assert scored.valid.all()
    return scored.reward


def spearman(a: np.ndarray, b: np.ndarray) -> float:
    """Return the rank correlation of two arrays, both of shape (N,)."""
    return float(np.corrcoef(rankdata(a), rankdata(b))[0, 1])


def compare_rewards(bench: Bench) -> dict[str, Any]:
    """Return how the fast preset's rewards agree with those of the full picture in fp32, on the same states."""
    setting, goal = bench.setting, bench.goal
    same, fast = setting.ways[SAME], setting.ways[FAST]
    mini_size = PREPROCESS.size
    start = {"start": "random"} if "Humanoid" in setting.env_id else {}  # poses of every kind, not only falls
    full, small, tiny = bench.pictures([same, fast, replace(fast, size=mini_size)], **start)
    fine = rewards(bench.encoders["fp32"], full, goal)
    library_goal = bench.library.text(goal)
    usual = np.array([bench.library.reward(frame, library_goal) for frame in full[:8]])
    result: dict[str, Any] = {
        "states": len(full),
        f"fine_fp32_vs_fast_{NATIVE}": spearman(fine, rewards(bench.encoders[NATIVE], small, goal)),
        "fine_vs_fast_both_fp32": spearman(fine, rewards(bench.encoders["fp32"], small, goal)),
        f"fine_fp32_vs_fine_{NATIVE}": spearman(fine, rewards(bench.encoders[NATIVE], full, goal)),
        "reward_spread": float(np.ptp(fine)),
        "max_difference_from_the_usual_way_on_the_same_pixels_fp32": float(np.abs(usual - fine[:8]).max()),
    }
    if setting.encoder != MINI:
        minis = {precision: make_clip_encoder(MINI, precision) for precision in {"fp32", NATIVE}}
        trained = rewards(minis["fp32"], full, goal)
        result[f"mini_fine_fp32_vs_fast_{NATIVE}"] = spearman(trained, rewards(minis[NATIVE], tiny, goal))
        result["mini_reward_spread"] = float(np.ptp(trained))
    return result


def measure(bench: Bench, rounds: int, deadline: float) -> dict[str, list[tuple[float, float]]]:
    """Time every way once in each round.

    Args:
        bench: The environment.
        rounds: How many rounds at most; the first three are made whatever the time.
        deadline: ``time.perf_counter()`` that a further round must not exceed.

    Returns:
        For each way, frames per CPU second and per wall second of each round.
    """
    setting = bench.setting
    slices: dict[str, tuple[Callable[[int], int], int]] = {USUAL: (bench.run_usual, setting.usual_frames)}
    slices |= {name: (partial(bench.run_ours, name), way.frames) for name, way in setting.ways.items()}
    for run, _ in slices.values():
        run(setting.n_envs)  # builds what is built lazily
    rates: dict[str, list[tuple[float, float]]] = {name: [] for name in slices}
    took = 0.0
    for turn in range(rounds):
        start = time.perf_counter()
        if turn >= MIN_ROUNDS and start + took > deadline:
            break
        for name, (run, frames) in slices.items():
            cpu, wall = time.process_time(), time.perf_counter()
            done = run(frames)
            rates[name].append((done / (time.process_time() - cpu), done / (time.perf_counter() - wall)))
        if is_constant(bench.usual.frame):  # what gym's renderer gives when it has lost its context
            raise RuntimeError("gymnasium's picture is one constant colour")
        took = time.perf_counter() - start
    return rates


def summarise(rates: dict[str, list[tuple[float, float]]]) -> list[dict[str, Any]]:
    """Return one row per way: medians, and ratios to the usual way and to the fast preset within each round."""
    rows = []
    for name, values in rates.items():
        row: dict[str, Any] = {"way": name}
        for clock, unit in enumerate(("cpu", "wall")):
            own = [value[clock] for value in values]
            over_usual = [value / usual[clock] for value, usual in zip(own, rates[USUAL], strict=True)]
            row[f"frames_per_{unit}_second"] = round(statistics.median(own), 2)
            row[f"{unit}_ratio"] = round(statistics.median(over_usual), 2)
            row[f"{unit}_ratio_range"] = [round(min(over_usual), 2), round(max(over_usual), 2)]
            of_fast = [value / fast[clock] for value, fast in zip(own, rates[FAST], strict=True)]
            row[f"{unit}_share_of_fast_preset"] = round(statistics.median(of_fast), 3)
        rows.append(row)
    return rows


def machine(threads: int) -> dict[str, Any]:
    """Describe what was measured on, without names of hosts, users or folders."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    packages = ("vlmreward", "torch", "open-clip-torch", "gymnasium", "mujoco", "pygame", "pillow", "numpy")
    return {
        "cpu": names[0] if names else platform.machine(),
        "logical_cpus": os.cpu_count(),
        "cpu_has_bf16": cpu_has_bf16(),
        "torch_threads": threads,
        "gl": os.environ["MUJOCO_GL"],
        "load_average_at_start": [round(load, 1) for load in os.getloadavg()[:2]],
        "versions": {name: version(name) for name in packages} | {"python": platform.python_version()},
    }


def show(console: Console, title: str, rows: list[dict[str, Any]]) -> None:
    """Print a table of ways."""
    heads = ("frames / CPU s", "x usual (range)", "of fast preset", "frames / wall s", "x usual (range)")
    table = Table(title, box=MARKDOWN)
    for head in heads:
        table.add_column(head, justify="right", no_wrap=True)
    for row in rows:
        ratios = []
        for unit in ("cpu", "wall"):
            low, high = row[f"{unit}_ratio_range"]
            ratios.append(f"{row[f'{unit}_ratio']:.2f} ({low:.2f}-{high:.2f})")
        share = f"{row['cpu_share_of_fast_preset']:.2f}"
        cpu, wall = (f"{row[f'frames_per_{unit}_second']:.1f}" for unit in ("cpu", "wall"))
        table.add_row(row["way"], cpu, ratios[0], share, wall, ratios[1])
    console.print(table)


def run(name: str, rounds: int, deadline: float) -> dict[str, Any]:
    """Return every figure of one environment."""
    bench = Bench(SETTINGS[name])
    agreement = compare_rewards(bench)
    rates = measure(bench, rounds, deadline)
    bench.close()
    rows = summarise(rates)
    ratio = next(row["cpu_ratio"] for row in rows if row["way"] == FAST)
    setting = bench.setting
    return {
        "encoder": setting.encoder,
        "encoder_id": bench.encoders[NATIVE].id,
        "goal": bench.goal,
        "usual_env": setting.usual_id,
        "our_env": setting.env_id,
        "n_envs": setting.n_envs,
        "encode_batch": setting.encode_batch,
        "rounds": len(rates[USUAL]),
        "target": TARGETS[name],
        "fast_preset_over_usual": ratio,
        "target_met": ratio >= TARGETS[name],
        "spearman": {key: round(value, 6) for key, value in agreement.items()},
        "ways": rows,
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--env", action="append", choices=tuple(SETTINGS), help="repeat for several; default: both")
    parser.add_argument(
        "--rounds", type=int, default=7, help="at most (default 7); the first three take what time they need"
    )
    parser.add_argument("--seconds", type=float, default=210, help="no further round after this many (default 210)")
    parser.add_argument("--threads", type=int, help="of torch, for every way (default: one for each core, as torch)")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "throughput.json")
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    logging.getLogger().setLevel(logging.ERROR)  # open_clip warns of random weights, which are known here
    # torch's own default, said aloud: OMP_NUM_THREADS of the shell would change it
    torch.set_num_threads(args.threads or os.cpu_count() or 1)
    console = Console(width=160)
    result: dict[str, Any] = {
        "command": " ".join(["python benchmarks/throughput.py", *sys.argv[1:]]),
        "unit": "environment frames scored per second of this process's CPU time, and of wall time",
        "machine": machine(torch.get_num_threads()),
        "environments": {},
    }
    begin, names = time.perf_counter(), args.env or list(SETTINGS)
    for number, name in enumerate(names, 1):
        # the humanoid's frames cost a hundred times as much as the cart-pole's: three quarters of the time
        share = 0.75 if number < len(names) else 1.0
        figures = run(name, args.rounds, begin + share * args.seconds)
        result["environments"][name] = figures
        show(console, f"{name}, {figures['encoder']}, {figures['rounds']} rounds", figures["ways"])
        verdict = "met" if figures["target_met"] else "NOT met"
        console.print(
            f"fast preset over the usual way: {figures['fast_preset_over_usual']:.2f} x CPU, "
            f"target {figures['target']:g} x {verdict}"
        )
        for key, value in figures["spearman"].items():
            console.print(f"  {key.replace('_', ' ')}: {value:.4g}")
        console.print()
    result["seconds"] = round(time.perf_counter() - begin, 1)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    return 0 if all(figures["target_met"] for figures in result["environments"].values()) else 1


if __name__ == "__main__":
    sys.exit(main())
